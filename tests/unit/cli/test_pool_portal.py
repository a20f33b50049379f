"""`gpuaas --site URL pool ...` against a whole portal, but for the socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from slurm_gpuaas.api.portal import Act, Document, PortalClient, checked_url
from slurm_gpuaas.cli.context import Session
from slurm_gpuaas.cli.main import main
from slurm_gpuaas.domain.errors import ExitCode, InvalidInput, Unavailable
from slurm_gpuaas.domain.people import NOWHERE
from slurm_gpuaas.portal.rights import RIGHTS
from tests.pool_world import World
from tests.pools import ORIGIN
from tests.unit.cli.conftest import Ran

Gpuaas = Callable[..., Ran]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"), settings={"limits": {"person": 100_000}})
    yield world
    world.close()


@dataclass
class Terminal:
    world: World
    tokens: Path
    capsys: pytest.CaptureFixture[str]

    def token(self, login: str) -> str:
        person = self.world.person(login)
        scopes = tuple(RIGHTS[person.office.role])
        _, secret = self.world.accounts.make_token(person, name="cli", scopes=scopes, days=30, source=NOWHERE)
        return secret

    def run(self, *args: str, site: str | None = ORIGIN) -> Ran:
        """`gpuaas --site ORIGIN pool ARGS`."""

        def connect() -> Any:
            return nullcontext(None)

        def open_portal(url: str, token: str) -> PortalClient:
            return PortalClient(url, token, transport=TestClient(self.world.app, base_url=ORIGIN)._transport)

        # What the portal logs is not what the command prints.
        with capture_logs(), pytest.raises(SystemExit) as ended:
            main(["pool", *args], session=Session(connect, site, self.tokens, open_portal))
        printed = self.capsys.readouterr()
        assert "Traceback" not in printed.err
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    def log_in(self, login: str) -> None:
        file = self.tokens.parents[1] / "token"
        file.touch(mode=0o600)
        file.write_text(self.token(login) + "\n")
        assert self.run("login", "--token-file", str(file)).code == 0


@pytest.fixture
def terminal(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(world, tmp_path / "config" / "tokens.json", capsys)


def test_a_token_is_kept_where_only_its_owner_reads_it_and_shown_nowhere(terminal: Terminal) -> None:
    file = terminal.tokens.parents[1] / "given"
    file.write_text(terminal.token("admin-snu"))
    file.chmod(0o644)
    ran = terminal.run("login", "--token-file", str(file))
    assert (ran.code, "0644" in ran.err) == (ExitCode.INVALID, True)
    file.chmod(0o600)
    ran = terminal.run("login", "--token-file", str(file))
    assert (ran.code, "tenant-admin" in ran.out) == (0, True)
    assert terminal.tokens.stat().st_mode & 0o777 == 0o600
    assert file.read_text() not in ran.out + ran.err
    terminal.tokens.chmod(0o640)
    ran = terminal.run("whoami")
    assert (ran.code, "chmod 600" in ran.err) == (ExitCode.INVALID, True)
    terminal.tokens.chmod(0o600)
    assert terminal.run("whoami").code == 0
    assert terminal.run("logout").code == 0
    ran = terminal.run("whoami")
    assert (ran.code, "pool login" in ran.err) == (ExitCode.REFUSED, True)


def test_without_a_portal_or_with_another_token_the_way_out_is_told(terminal: Terminal) -> None:
    ran = terminal.run("grants", site=None)
    assert (ran.code, "--site" in ran.err) == (ExitCode.INVALID, True)
    file = terminal.tokens.parents[1] / "wrong"
    file.touch(mode=0o600)
    file.write_text("gpuaas_" + "A" * 43)
    ran = terminal.run("login", "--token-file", str(file))
    assert (ran.code, "pool login" in ran.err) == (ExitCode.REFUSED, True)
    assert not terminal.tokens.exists()


def test_an_offer_is_looked_at_accepted_and_its_members_set(terminal: Terminal) -> None:
    terminal.log_in("admin-snu")
    (offer,) = (one for one in json.loads(terminal.run("offers", "--json").out) if one["state"] == "lapsed")
    ran = terminal.run("accept", offer["id"], "--dry-run", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["path"] == f"/offers/{offer['id']}/accept"
    ran = terminal.run("accept", offer["id"])
    assert (ran.code, "Error: " in ran.err) == (ExitCode.REFUSED, True)  # nobody answered it in time
    (grant,) = json.loads(terminal.run("grants", "--json").out)
    assert grant["organisation"] == "snu" and "use" in grant
    there = json.loads(terminal.run("members", grant["id"], "--json").out)
    ran = terminal.run("members", grant["id"], "--remove", there[0]["person"], "--dry-run")
    assert "Nothing was sent." in ran.out
    assert json.loads(terminal.run("members", grant["id"], "--json").out) == there
    assert terminal.run("members", grant["id"], "--remove", there[0]["person"]).code == 0
    assert json.loads(terminal.run("members", grant["id"], "--json").out) == there[1:]


def test_what_a_role_may_not_is_refused_with_the_portals_words(terminal: Terminal) -> None:
    terminal.log_in("researcher-kaist")
    ran = terminal.run("awards")
    assert (ran.code, "award.read" in ran.err) == (ExitCode.REFUSED, True)
    theirs, nobodys = (
        terminal.run("members", grant) for grant in (terminal.world.things["grants"][0].value, "g2027-99999")
    )
    assert (theirs.code, theirs.err) == (nobodys.code, nobodys.err) == (ExitCode.INVALID, theirs.err)
    assert terminal.run("members", "../people").code == ExitCode.INVALID


@pytest.mark.parametrize("command", ["offers", "grants", "awards"])
def test_lists_are_tables_for_people_and_documents_for_programs(terminal: Terminal, command: str) -> None:
    terminal.log_in("second")
    known = [thing.value for thing in terminal.world.things[command]]
    table, document = terminal.run(command).out, json.loads(terminal.run(command, "--json").out)
    assert sorted(one["id"] for one in document) == sorted(known)
    assert all(one in table for one in known)


def test_a_call_becomes_a_scenario_for_the_solver(terminal: Terminal) -> None:
    terminal.log_in("second")
    assert "applications" in json.loads(terminal.run("scenario", "national").out)


@pytest.mark.parametrize(
    "url",
    ["http://gpu.example.org", "ftp://x", "gpu.example.org", "https://u:p@x", "https://x/path", "https://x:y", ""],
)
def test_a_token_goes_to_no_address_that_is_not_a_portals(url: str) -> None:
    with pytest.raises(InvalidInput):
        checked_url(url)


def test_an_answer_that_was_lost_is_asked_for_again_under_the_same_name() -> None:
    keys: list[str] = []

    def lossy(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) < 3:
            raise httpx2.ReadError("cut off")
        return httpx2.Response(200, json={})

    with PortalClient(ORIGIN, "t", transport=httpx2.MockTransport(lossy)) as client:
        client.act(Act(method="POST", path="/x", body=None), Document)
    assert len(keys) == 3 and len(set(keys)) == 1


def test_a_portal_that_is_not_there_is_told() -> None:
    def away(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with PortalClient(ORIGIN, "t", transport=httpx2.MockTransport(away)) as client, pytest.raises(Unavailable):
        client.get("/me", Document)
