"""The portal's side of sites, over HTTP: who may ask what, what wakes a poll, and what is taken once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from slurm_gpuaas.api.keyfile import read_key
from slurm_gpuaas.api.pool_sites import (
    SiteReport,
    UsagePush,
    UsageRow,
    days_path,
    documents_path,
    reports_path,
    usage_path,
)
from slurm_gpuaas.api.signing import MAX_SKEW, SITES, Nonces, sign, site_key
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.idle import GrantDay
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import ClusterName, ProviderName, SiteName
from slurm_gpuaas.domain.policy import DOCUMENT
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.portal.pictures import Pictures
from slurm_gpuaas.portal.site_commands import group
from slurm_gpuaas.portal.sites import MOST_POLLS, Polls, site_routes
from slurm_gpuaas.store.backup import backup, restore
from slurm_gpuaas.store.engine import POOL
from slurm_gpuaas.store.pool import PoolStore
from tests.fakes import EPOCH, FakeClock

MASTER = bytes(range(32))
NAVER, KAKAO = SiteName("naver"), SiteName("kakao")
FIRST = int(EPOCH.timestamp())
"""Revision of a set that is the first and was said at `EPOCH`."""
KAIST: Any = DOCUMENT.validate_python({"kind": "Organisation", "name": "kaist"})
BOB = Login.model_validate({"user": "bob", "name": "Bob"})


@dataclass
class Ledger:
    records: dict[tuple[str, int, Any], UsageRecord] = field(default_factory=dict)
    puts: int = 0

    def put(self, site: SiteName, changes: Sequence[UsageChange]) -> None:
        self.puts += 1
        records = [change.record for change in changes]
        self.records |= {(one.cluster, one.job_id, one.started): one for one in records}


@dataclass
class Days:
    told: list[GrantDay] = field(default_factory=list)

    def put(self, cluster: ClusterName, days: Sequence[GrantDay]) -> int:
        self.told += days
        return len(days)


@dataclass
class Portal:
    store: PoolStore
    clock: FakeClock = field(default_factory=FakeClock)
    ledger: Ledger = field(default_factory=Ledger)
    days: Days = field(default_factory=Days)
    polls: Polls = field(default_factory=Polls)

    def __post_init__(self) -> None:
        self.store.sites.on_documents(self.polls.changed)
        self.app = FastAPI()
        self.app.include_router(
            site_routes(
                self.store.sites,
                self.ledger,
                self.days,
                Pictures(self.store.sites, self.clock),
                polls=self.polls,
                master_key=MASTER,
                clock=self.clock,
                nonces=Nonces(),
            )
        )

        @self.app.exception_handler(GpuaasError)
        def problem(request: Any, error: GpuaasError) -> Any:
            from fastapi.responses import JSONResponse

            return JSONResponse({"detail": error.message}, status_code=error.http_status)

    def headers(self, method: str, target: str, body: bytes, by: SiteName, key: bytes | None = None) -> dict[str, str]:
        key = key or site_key(MASTER, by, 1)
        signed = sign(SITES, key, method=method, target=target, sender=by, body=body, now=self.clock.now())
        return {**signed, "Content-Type": "application/json"}

    async def ask(self, method: str, target: str, body: bytes = b"", *, by: SiteName = NAVER) -> httpx2.Response:
        return await self.send(method, target, body, self.headers(method, target, body, by))

    async def send(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://portal") as client:
            return await client.request(method, target, content=body, headers=headers)

    def now(self, method: str, target: str, body: bytes = b"", *, by: SiteName = NAVER) -> httpx2.Response:
        return asyncio.run(self.ask(method, target, body, by=by))


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[Portal]:
    store = PoolStore.open(f"sqlite:///{tmp_path}/pool.db")
    for site in (NAVER, KAKAO):
        store.sites.add(site, cluster=ClusterName(f"{site}-1"), provider=ProviderName(site))
    yield Portal(store)
    store.close()


def row(number: int, job: int = 1, seconds: int = 8, **more: Any) -> UsageRow:
    fields = {
        "number": number,
        "job_id": job,
        "user": "bob",
        "account": "vision",
        "qos": "guaranteed-vision",
        "partition": "p",
        "model": "h200",
        "gpus": 8,
        "started": EPOCH,
        "ended": None,
        "gpu_seconds": seconds,
        "state": "RUNNING",
        "nodes": "h200-001",
    }
    return UsageRow.model_validate(fields | more)


def push(portal: Portal, after: int, *rows: UsageRow, by: SiteName = NAVER) -> int:
    body = UsagePush(after=after, rows=rows).model_dump_json().encode()
    answer = portal.now("POST", usage_path(by), body, by=by)
    assert answer.status_code == 200, answer.text
    acknowledged: int = answer.json()["acknowledged"]
    return acknowledged


def test_days_of_use_are_taken_for_grants_and_for_nothing_else(portal: Portal) -> None:
    def day(grant: str, **more: Any) -> dict[str, Any]:
        figures = {"allocated": 8, "busy": None, "loaded": 0, "lost": 0, "burst": 0, "peak": 1}
        return {"grant": grant, "day": "2027-01-04", "number": 3, **figures, **more}

    rows = [day("g2027-00001"), day("h2027-00001"), day("the-sites-own")]
    answer = portal.now("POST", days_path(NAVER), json.dumps({"rows": rows}).encode())
    assert (answer.status_code, answer.json()) == (200, {"taken": 1})
    assert [(one.grant, one.allocated, one.busy) for one in portal.days.told] == [("g2027-00001", 8, None)]
    for wrong in (
        day("g2027-00001", busy=-1),
        day("g2027-00001", more=1),
        day("../x"),
        day("g2027-00001", day="9999-99-99"),
    ):
        assert portal.now("POST", days_path(NAVER), json.dumps({"rows": [wrong]}).encode()).status_code == 422
    assert portal.now("POST", days_path(KAKAO), b'{"rows": []}').status_code in (401, 403)


def report(at: Any, cluster: str = "naver-1", **more: Any) -> bytes:
    fields: dict[str, Any] = {"sent_at": at, "cluster": cluster, "version": "1", "slurm_version": "26.05"}
    fields |= {"revision": 0, "shares": (), "incidents": (), "findings": ()}
    return SiteReport.model_validate(fields | more).model_dump_json().encode()


class TestDocuments:
    def test_a_site_gets_the_whole_newest_set_and_is_told_when_it_has_it(self, portal: Portal) -> None:
        assert portal.now("GET", documents_path(NAVER, revision=0, wait=0)).json()["changed"] is False
        portal.store.sites.set_documents(NAVER, [KAIST], [BOB], at=EPOCH)
        got = portal.now("GET", documents_path(NAVER, revision=0, wait=0)).json()
        assert (got["revision"], got["changed"]) == (FIRST, True)
        assert [one["name"] for one in got["documents"]] == ["kaist"]
        assert [one["user"] for one in got["people"]] == ["bob"]
        found = portal.store.sites.find(NAVER)
        assert found and found.held == 0, "it has not said yet that it has them"
        again = portal.now("GET", documents_path(NAVER, revision=FIRST, wait=0)).json()
        found = portal.store.sites.find(NAVER)
        assert found and found.held == FIRST
        assert (again["changed"], again["documents"]) == (False, [])
        other = portal.now("GET", documents_path(KAKAO, revision=0, wait=0), by=KAKAO).json()
        assert other["revision"] == 0

    def test_the_same_set_again_in_another_order_makes_no_revision(self, portal: Portal) -> None:
        seoul: Any = DOCUMENT.validate_python({"kind": "Organisation", "name": "snu"})
        sites = portal.store.sites
        assert sites.set_documents(NAVER, [KAIST, seoul], [BOB], at=EPOCH) == FIRST
        assert sites.set_documents(NAVER, [seoul, KAIST], [BOB], at=EPOCH) == FIRST
        assert sites.set_documents(NAVER, [seoul, KAIST], [], at=EPOCH) == FIRST + 1

    def test_a_poll_waits_until_documents_change_for_its_site(self, portal: Portal) -> None:
        async def scene() -> None:
            poll = asyncio.create_task(portal.ask("GET", documents_path(NAVER, revision=0, wait=50)))
            while not portal.polls._waiting[NAVER]:
                await asyncio.sleep(0)
            await asyncio.to_thread(portal.store.sites.set_documents, KAKAO, [KAIST], [], at=EPOCH)
            await asyncio.sleep(0)
            assert not poll.done()
            await asyncio.to_thread(portal.store.sites.set_documents, NAVER, [KAIST], [], at=EPOCH)
            assert (await asyncio.wait_for(poll, 10)).json()["revision"] == FIRST

        asyncio.run(scene())

    def test_what_is_rolled_back_wakes_nobody(self, portal: Portal) -> None:
        woken: list[SiteName] = []
        portal.store.sites.on_documents(woken.append)
        with pytest.raises(ZeroDivisionError), portal.store.transaction():
            portal.store.sites.set_documents(NAVER, [KAIST], [], at=EPOCH)
            raise ZeroDivisionError
        assert (woken, portal.store.sites.revision(NAVER)) == ([], 0)

    def test_no_more_than_a_few_polls_of_one_site_wait(self, portal: Portal) -> None:
        async def scene() -> None:
            target = documents_path(NAVER, revision=0, wait=50)
            polls = [asyncio.create_task(portal.ask("GET", target)) for _ in range(MOST_POLLS)]
            while len(portal.polls._waiting[NAVER]) < MOST_POLLS:
                await asyncio.sleep(0)
            assert (await portal.ask("GET", target)).status_code == 503
            for poll in polls:
                poll.cancel()

        asyncio.run(scene())

    def test_a_portal_restored_from_a_backup_outgrows_what_the_site_holds(self, portal: Portal) -> None:
        portal.store.sites.set_documents(NAVER, [KAIST], [], at=EPOCH)
        got = portal.now("GET", documents_path(NAVER, revision=FIRST + 7, wait=0)).json()
        assert (got["revision"], got["changed"], len(got["documents"])) == (FIRST + 8, True, 1)

    def test_what_a_restored_portal_says_never_has_the_revision_of_what_was_lost(
        self, portal: Portal, tmp_path: Path
    ) -> None:
        """The site holds what was said after the backup, and something else was said since, before it asked again."""
        portal.store.sites.set_documents(NAVER, [KAIST], [], at=EPOCH)
        backup(f"sqlite:///{tmp_path}/pool.db", tmp_path / "backup", POOL)
        held = portal.store.sites.set_documents(NAVER, [KAIST], [BOB], at=EPOCH + timedelta(minutes=1))
        restore(tmp_path / "backup", f"sqlite:///{tmp_path}/new.db", POOL)
        with closing(PoolStore.open(f"sqlite:///{tmp_path}/new.db")) as store:
            restored = Portal(store)
            store.sites.set_documents(NAVER, [], [], at=EPOCH + timedelta(hours=1))
            got = restored.now("GET", documents_path(NAVER, revision=held, wait=0)).json()
        assert got["revision"] > held
        assert (got["changed"], got["documents"], got["people"]) == (True, [], [])

    def test_a_site_cannot_push_the_revision_to_its_end(self, portal: Portal) -> None:
        portal.store.sites.set_documents(NAVER, [KAIST], [], at=EPOCH)
        assert portal.now("GET", documents_path(NAVER, revision=2**52, wait=0)).status_code == 422
        assert portal.store.sites.revision(NAVER) == FIRST

    def test_a_portal_that_knows_nothing_takes_nothing_away(self, portal: Portal) -> None:
        got = portal.now("GET", documents_path(NAVER, revision=7, wait=0)).json()
        assert got["revision"] == 0
        assert portal.store.sites.revision(NAVER) == 0


class TestWho:
    def test_a_site_asks_for_itself_alone(self, portal: Portal) -> None:
        assert portal.now("GET", documents_path(NAVER, revision=0, wait=0), by=KAKAO).status_code == 403
        body = UsagePush(after=0, rows=(row(1),)).model_dump_json().encode()
        assert portal.now("POST", usage_path(NAVER), body, by=KAKAO).status_code == 403
        assert portal.now("POST", reports_path(NAVER), report(EPOCH), by=KAKAO).status_code == 403
        assert not portal.ledger.records
        assert portal.store.sites.report(NAVER) is None

    def test_an_unknown_site_and_a_replaced_key_open_nothing(self, portal: Portal) -> None:
        assert (
            portal.now("GET", documents_path(SiteName("nhn"), revision=0, wait=0), by=SiteName("nhn")).status_code
            == 401
        )
        portal.store.sites.replace_key(NAVER)
        assert portal.now("GET", documents_path(NAVER, revision=0, wait=0)).status_code == 401
        target = documents_path(NAVER, revision=0, wait=0)
        headers = portal.headers("GET", target, b"", NAVER, site_key(MASTER, NAVER, 2))
        assert asyncio.run(portal.send("GET", target, b"", headers)).status_code == 200

    def test_a_replay_and_a_changed_query_are_refused(self, portal: Portal) -> None:
        target = documents_path(NAVER, revision=0, wait=0)
        headers = portal.headers("GET", target, b"", NAVER)
        sent = [asyncio.run(portal.send("GET", target, b"", headers)).status_code for _ in range(2)]
        assert sent == [200, 401]
        other = documents_path(NAVER, revision=1, wait=0)
        changed = portal.headers("GET", target, b"", NAVER)
        assert asyncio.run(portal.send("GET", other, b"", changed)).status_code == 401

    def test_a_clock_that_is_off_is_told(self, portal: Portal) -> None:
        target = documents_path(NAVER, revision=0, wait=0)
        headers = portal.headers("GET", target, b"", NAVER)
        portal.clock.forward(MAX_SKEW + timedelta(seconds=20))
        answer = asyncio.run(portal.send("GET", target, b"", headers))
        assert answer.status_code == 401
        assert "clock of site naver is 320 s off" in answer.json()["detail"]

    def test_it_is_known_when_a_site_was_last_heard(self, portal: Portal) -> None:
        portal.now("GET", documents_path(NAVER, revision=0, wait=0))
        assert [site.seen_at for site in portal.store.sites.all()] == [None, EPOCH]


class TestUsage:
    def test_the_cluster_is_the_sites_whatever_it_says(self, portal: Portal) -> None:
        push(portal, 0, row(1))
        (one,) = portal.ledger.records.values()
        assert one.cluster == "naver-1"
        body = UsagePush(after=1, rows=(row(2),)).model_dump(mode="json")
        body["rows"][0]["cluster"] = "kakao-1"
        import json

        assert portal.now("POST", usage_path(NAVER), json.dumps(body).encode()).status_code == 422

    def test_repeats_and_late_requests_change_nothing(self, portal: Portal) -> None:
        assert push(portal, 0, row(1, seconds=8), row(2, job=2)) == 2
        assert push(portal, 0, row(2, job=2), row(3, seconds=80)) == 3
        assert push(portal, 0, row(1, seconds=8), row(2, job=2)) == 3, "the first request again, late"
        assert {one.job_id: one.gpu_seconds for one in portal.ledger.records.values()} == {1: 80, 2: 8}

    def test_a_portal_that_lost_some_takes_nothing_until_the_site_went_back(self, portal: Portal) -> None:
        assert push(portal, 5, row(6)) == 0
        assert not portal.ledger.records
        assert push(portal, 0, row(4), row(6, job=2)) == 6

    def test_what_the_ledger_refuses_is_not_acknowledged(self, portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(site: SiteName, records: Sequence[UsageRecord]) -> None:
            raise InvalidInput("no")

        monkeypatch.setattr(portal.ledger, "put", refuse)
        body = UsagePush(after=0, rows=(row(1),)).model_dump_json().encode()
        assert portal.now("POST", usage_path(NAVER), body).status_code == 422
        site = portal.store.sites.find(NAVER)
        assert site
        assert site.acknowledged == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"ended": EPOCH - timedelta(seconds=1)},
            {"ended": EPOCH + timedelta(seconds=1), "gpu_seconds": 9},
            {"gpus": -1},
            {"number": 0},
            {"state": "a\nb"},
            {"user": "root;rm"},
        ],
    )
    def test_a_row_that_cannot_be_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r".+"):
            row(**{"number": 1, **wrong})

    def test_numbers_ascend(self) -> None:
        for after, numbers in ((1, (1,)), (0, (2, 1)), (0, (1, 1))):
            with pytest.raises(ValueError, match="ascend"):
                UsagePush(after=after, rows=tuple(row(number) for number in numbers))


class TestReports:
    def test_the_newest_report_stands_in_whatever_order_they_come(self, portal: Portal) -> None:
        for seconds in (10, 5):
            portal.clock.at = EPOCH + timedelta(seconds=20)
            body = report(EPOCH + timedelta(seconds=seconds))
            assert portal.now("POST", reports_path(NAVER), body).status_code == 200
        found = portal.store.sites.report(NAVER)
        assert found
        assert (found.sent_at, found.received_at) == (EPOCH + timedelta(seconds=10), EPOCH + timedelta(seconds=20))

    def test_a_daemon_of_another_cluster_with_this_key_is_noticed(self, portal: Portal) -> None:
        assert portal.now("POST", reports_path(NAVER), report(EPOCH, "kakao-1")).status_code == 409


def test_the_commands_make_a_site_and_keys_that_open_it(tmp_path: Path, portal: Portal) -> None:
    (tmp_path / "master").write_text(MASTER.hex())
    (tmp_path / "master").chmod(0o600)
    common = ["--master-key", str(tmp_path / "master"), "--store", f"sqlite:///{tmp_path}/pool.db"]

    def run(*argv: str) -> str:
        done = CliRunner().invoke(group, [*argv], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    said = run("add", "nhn", "--cluster", "nhn", "--provider", "nhn", "--out", str(tmp_path / "1"), *common)
    first = read_key(tmp_path / "1")
    assert first == site_key(MASTER, SiteName("nhn"), 1)
    assert first.hex() not in said
    run("key", "nhn", "--out", str(tmp_path / "2"), *common)
    assert read_key(tmp_path / "2") == site_key(MASTER, SiteName("nhn"), 2)
    run("login", "nhn", "Login.NHN.example.org", *common[2:])
    shown = "nhn  cluster nhn  provider nhn  login login.nhn.example.org  last heard never"
    assert shown in run("list", *common[2:])
    run("login", "nhn", *common[2:])
    assert "login -  last heard" in run("list", *common[2:])
    with pytest.raises(InvalidInput, match="host name"):
        run("login", "nhn", "login host; rm", *common[2:])
    with pytest.raises(InvalidInput, match="cannot be made"):
        run("key", "nhn", "--out", str(tmp_path / "2"), *common)
    site = portal.store.sites.find(SiteName("nhn"))
    assert site
    assert site.key_number == 2, "without its file a new key is none"


def test_a_grant_comes_out_as_it_went_in(portal: Portal) -> None:
    grant: Any = DOCUMENT.validate_python(
        {
            "kind": "Grant",
            "name": "g",
            "project": "vision",
            "pool": "p",
            "share": "government",
            "gpus": 8,
            "starts": date(2027, 1, 1),
            "ends": date(2027, 2, 1),
            "price_percent": "12.5",
            "max_time": timedelta(hours=5),
        }
    )
    portal.store.sites.set_documents(NAVER, [grant], [], at=EPOCH)
    got = portal.now("GET", documents_path(NAVER, revision=0, wait=0)).json()["documents"]
    assert [DOCUMENT.validate_python(one) for one in got] == [grant]
