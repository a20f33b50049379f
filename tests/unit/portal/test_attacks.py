"""What somebody tries who wants in, wants to see more, or wants the portal to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from slurm_gpuaas.domain.audit_chain import AuditResult
from slurm_gpuaas.domain.people import NOWHERE
from slurm_gpuaas.portal import guard
from slurm_gpuaas.portal.app import make_app
from slurm_gpuaas.portal.description import gate_of, routes_of
from slurm_gpuaas.portal.guard import Guard
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.money import attachment
from slurm_gpuaas.portal.visit import SAFE, Needs
from tests.asgi import Answered
from tests.pool_world import Caller, World

FORM = "application/x-www-form-urlencoded"
HUGE = "9" * 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("attacked"), settings={"limits": {"person": 1_000_000, "address": 1_000_000}})
    yield world
    world.close()


def refused(world: World, actor: Caller) -> list[Any]:
    """What the trail has of refusals of theirs, the oldest first."""
    assert actor.actor is not None
    found = world.store.audit.newest(limit=500, actor=actor.actor.person, result=AuditResult.REFUSED)
    return [(one.action, one.subject, one.evidence, one.reason) for one in reversed(found)]


# -- What is somebody else's -------------------------------------------------------------------------------------------


def test_asking_for_what_others_own_is_written_down_once_a_minute_with_a_count(world: World) -> None:
    curious = world.caller("admin-kaist")
    theirs = next(thing.value for thing in world.things["grants"] if thing.mark.endswith("snu-q7z"))
    before = len(refused(world, curious))
    for _ in range(20):
        assert curious.ask("GET", f"/api/v1/grants/{theirs}").status == 404
    ((action, subject, evidence, reason),) = refused(world, curious)[before:]
    assert (action, subject, reason) == (Action.GRANT_READ, f"/api/v1/grants/{theirs}", "not theirs")
    assert "times" not in evidence and '"GET"' in evidence
    assert curious.ask("GET", "/api/v1/audit").status == 403  # another action is another entry
    assert [one[0] for one in refused(world, curious)[before:]] == [Action.GRANT_READ, Action.AUDIT_READ]
    world.seconds += 60
    world.wiring.refusals.turn()
    counted = refused(world, curious)[-1]
    assert counted[0] == Action.GRANT_READ and '"times":19' in counted[2].replace(" ", "")
    world.wiring.refusals.turn()
    assert len(refused(world, curious)) == before + 3


def test_what_is_counted_is_written_before_the_server_ends(world: World) -> None:
    curious = world.caller("researcher-kaist")
    for _ in range(3):
        curious.ask("GET", "/api/v1/audit")
    world.wiring.refusals.write_all()
    assert [('"times":2' in one[2].replace(" ", "")) for one in refused(world, curious)] == [False, True]


def test_a_token_shows_nothing_beyond_its_scopes_on_what_it_may_read(world: World) -> None:
    admin = world.person("admin-snu")
    member = world.person("researcher-snu").id
    shown = {}
    for scopes in ((Action.GRANT_READ,), (Action.GRANT_READ, Action.MEMBER_READ)):
        _, secret = world.accounts.make_token(admin, name="t", scopes=scopes, days=30, source=NOWHERE)
        nobody = world.caller()
        grant = next(thing.value for thing in world.things["grants"] if thing.mark.endswith("snu-q7z"))
        answer = nobody.ask("GET", f"/api/v1/grants/{grant}", Authorization=f"Bearer {secret}")
        assert answer.status == 200
        shown[scopes] = member in answer.text
    assert list(shown.values()) == [False, True]


# -- From another site -------------------------------------------------------------------------------------------------


def test_nothing_is_changed_by_what_another_site_lets_a_browser_send(world: World) -> None:
    officer = world.caller("second")
    stolen = Caller("forged", officer.asgi, officer.login, officer.actor, officer.cookie, "")
    tried = 0
    for route in routes_of(make_app(world.wiring)):
        for method in (route.methods or set()) - SAFE:
            if not isinstance(gate_of(route), Needs):
                continue
            target, tried = route.path.replace("{", "").replace("}", ""), tried + 1
            for kind, body in ((FORM, b"csrf="), ("text/plain", b"csrf="), ("application/json", b"{}")):
                assert stolen.ask(method, target, body=body, kind=kind).status == 419, (method, target, kind)
            elsewhere = officer.ask(method, target, kind=FORM, Origin="https://gpu.example.org.evil.example")
            assert elsewhere.status == 419, (method, target)
    assert tried > 80


@pytest.mark.parametrize("host", ["evil.example", "evil.example/x?", "gpu.example.org@evil.example", "a b", "[::", ""])
def test_what_a_host_header_says_is_believed_by_nobody(world: World, host: str) -> None:
    asgi, before = world.asgi, world.asgi.host
    try:
        asgi.host = host
        answer = asgi.ask("GET", "/grants/g2026-00001", headers={"Accept-Language": "en"})
        problem = asgi.ask("GET", "/api/v1/grants", headers={})
    finally:
        asgi.host = before
    assert (answer.status, answer.headers["location"]) == (303, "/sign-in?back=%2Fgrants%2Fg2026-00001")
    assert problem.status == 401 and "evil" not in problem.text


# -- What cannot be read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", f"/people/changes/{HUGE}/approve"),
        ("GET", f"/api/v1/jobs/naver/{HUGE}"),
        ("GET", f"/jobs/naver/{HUGE}"),
        ("GET", "/jobs/naver/-1"),
        ("GET", f"/api/v1/jobs/ended/naver/{HUGE}"),
        ("GET", "/api/v1/jobs/ended?cursor=" + "W" * 400),
        ("GET", f"/map/jobs/{HUGE}"),
        ("GET", "/grants/%00"),
        ("GET", "/grants/" + "x" * 5_000),
        ("GET", "/usage?month=%ff%fe&organisation=%00"),
        ("GET", "/audit?first=9999-12-31&last=0001-01-01"),
    ],
)
@pytest.mark.parametrize("who", ["second", "operator-naver", "admin-snu"])
def test_no_address_breaks_it(world: World, who: str, method: str, target: str) -> None:
    assert world.caller(who).ask(method, target, kind=FORM if method == "POST" else "").status < 500


def test_bytes_that_are_no_text_in_a_query_are_refused(world: World) -> None:
    assert raw(world, b"month=\xff\xfe").status < 500


def raw(world: World, query: bytes) -> Answered:
    """As a client sends it that does not escape."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    return handed(world, "GET", "/usage", receive, query=query)


def handed(
    world: World,
    method: str,
    path: str,
    receive: Callable[[], Awaitable[Any]],
    *,
    query: bytes = b"",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Answered:
    """What the application answers whom the server handed just that, unchecked."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "https",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query,
        "headers": [(b"host", b"gpu.example.org"), *((name.encode(), text.encode()) for name, text in headers.items())],
        "client": ("192.0.2.9", 1), "server": ("192.0.2.1", 443),
    }  # fmt: skip

    async def ask() -> None:
        await world.app(scope, receive, send)

    world.asgi.runner.run(ask())
    given = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], given, b"")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"programme":' + b"9" * 10_000 + b"}",
        b'{"programme": "national", "gpus": 1e999}',
        b'{"programme": "\\ud800"}',
        b"\xff\xfe\x00",
    ],
)
def test_no_body_breaks_it(world: World, body: bytes) -> None:
    answer = world.caller("admin-snu").ask("POST", "/api/v1/applications", body=body, kind="application/json")
    assert 400 <= answer.status < 500
    assert answer.headers["content-type"] == "application/problem+json"


def test_who_sends_byte_by_byte_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.05)

    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    headers = {"content-type": "application/json", "content-length": "999"}
    answer = handed(world, "POST", "/api/v1/sizing", receive, headers=headers)
    assert (answer.status, answer.headers["content-type"]) == (408, "application/problem+json")


def test_a_stream_lasts_longer_than_a_body_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.02)
    seen: list[Any] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen.append((await receive())["type"])

    messages = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        if len(messages) == 1:
            await asyncio.sleep(0.1)
        return messages.pop(0)

    async def send(message: Any) -> None:
        seen.append(message)

    guarded = Guard(stream, protected=True, observe=lambda *_: None, too_large=stream, too_slow=stream)
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(guarded(scope, receive, send))
    assert seen == ["http.disconnect"]


# -- What is handed out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ['a"; filename="evil.exe', "a\r\nSet-Cookie: x=1", "a;b", "가.csv"])
def test_no_name_of_a_file_says_more_than_a_name(name: str) -> None:
    given = attachment(b"", "text/csv", name).headers["content-disposition"]
    assert "\r" not in given and "\n" not in given
    assert given.startswith('attachment; filename="') and given.count('"') == 2


def test_a_name_that_is_markup_is_text_on_statements_of_all_kinds(world: World) -> None:
    officer, number = world.actor("second"), world.things["statements"][0].value
    found = world.store.register.organisations.get("snu")
    hostile = '=cmd|"/c calc"!A1 <img src=http://192.0.2.1/x>'
    world.pool.service.put_organisation(world.command, officer, found.model_copy(update={"title": hostile}))
    admin = world.caller("admin-snu")
    page = admin.ask("GET", f"/statements/{number}").text
    assert "<img src=http" not in page
    for kind in ("pdf", "csv"):
        answer = admin.ask("GET", f"/statements/{number}.{kind}")
        assert answer.status == 200, kind
    assert b"http://192.0.2.1" not in admin.ask("GET", f"/statements/{number}.pdf").body
    draft = admin.ask("GET", "/api/v1/statements/drafts").json()["items"]
    for head in draft:
        text = admin.ask("GET", f"/statements/{head['number']}.csv").text
        assert not any(cell.lstrip('"').startswith("=") for row in text.splitlines() for cell in row.split(","))
