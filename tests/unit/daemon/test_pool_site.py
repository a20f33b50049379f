"""A site between its store and a portal that drops, repeats and reorders: nothing is lost, nothing is doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm_gpuaas.api.people import PeopleState, PersonFinding, WantedPeople
from slurm_gpuaas.api.pool_sites import (
    Finding,
    PicturePush,
    PictureTaken,
    ReportTaken,
    SiteDocuments,
    SiteReport,
    UsagePush,
    UsageTaken,
    UseDaysPush,
    UseDaysTaken,
)
from slurm_gpuaas.daemon.pool_site import LOGINS_WITHIN_S, LOOK_S, MOST_PUSHES, PoolSite, read_set
from slurm_gpuaas.domain.errors import Conflict, Unavailable
from slurm_gpuaas.domain.from_portal import Terms
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    PartitionName,
    ProviderName,
    QosName,
    ShareName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.policy import DOCUMENT
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.pool import PoolStore
from tests.fakes import EPOCH, FakeClock
from tests.stores import new_pool_store, new_store
from tests.unit.policies import policy, pool

SITE, MINI = SiteName("mini"), ClusterName("mini")
TERMS = Terms(cluster=MINI, shares=frozenset({ShareName("government")}))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2sC7WBoqP/lzMvlMQBbKdLEM2wWQKn8JZ4C+LwJ3qX bob@laptop"
OWN = policy(pool(shares=[{"name": "own", "nodes": "b200-[01-04]"}, {"name": "government", "nodes": "b200-[05-08]"}]))


def doc(kind: str, **fields: Any) -> Any:
    return DOCUMENT.validate_python({"kind": kind, **fields})


VISION = (
    doc("Organisation", name="kaist"),
    doc("Project", name="vision", organisation="kaist"),
    doc("Member", project="vision", user="bob"),
)
BOB = Login.model_validate({"user": "bob", "keys": [KEY]})


A = TypeVar("A")


class Killed(BaseException):
    """As by kill -9: nothing catches it."""


@dataclass
class Ledger:
    records: dict[tuple[int, datetime], UsageRecord] = field(default_factory=dict)

    def put(self, site: SiteName, changes: Sequence[UsageChange]) -> None:
        self.records |= {(one.record.job_id, one.record.started): one.record for one in changes}


@dataclass
class Network:
    """The portal's own rules behind a network. `fate` says of each request: `ok`, `lost` (never arrives), `unanswered`
    (arrives, its answer does not) or `late` (arrives again after all that follow)."""

    store: PoolStore
    clock: FakeClock
    ledger: Ledger = field(default_factory=Ledger)
    fates: list[str] = field(default_factory=list)
    late: list[Callable[[], object]] = field(default_factory=list)
    reports: list[SiteReport] = field(default_factory=list)

    def documents(self, *, revision: int, wait: int) -> SiteDocuments:
        def ask() -> SiteDocuments:
            found = self.store.sites.documents(SITE)
            changed = found.revision != revision
            said = {"documents": found.documents, "people": found.people} if changed else {}
            return SiteDocuments.model_validate(
                {"revision": found.revision, "changed": changed, "now": self.clock.now(), **said}
            )

        return self._carry(ask)

    def push(self, usage: UsagePush) -> UsageTaken:
        def take() -> UsageTaken:
            changes = [row.change(MINI) for row in usage.rows]
            acknowledged = self.store.sites.take_usage(SITE, after=usage.after, changes=changes, sink=self.ledger)
            return UsageTaken(acknowledged=acknowledged)

        return self._carry(take)

    def report(self, report: SiteReport) -> ReportTaken:
        def take() -> ReportTaken:
            self.reports.append(report)
            return ReportTaken(now=self.clock.now())

        return self._carry(take)

    def picture(self, picture: PicturePush) -> PictureTaken:
        raise NotImplementedError

    def days(self, days: UseDaysPush) -> UseDaysTaken:
        return self._carry(lambda: UseDaysTaken(taken=len(days.rows)))

    def _carry(self, request: Callable[[], A]) -> A:
        match self.fates.pop(0) if self.fates else "ok":
            case "lost":
                raise Unavailable("lost")
            case "unanswered":
                request()
                raise Unavailable("unanswered")
            case "late":
                self.late.append(request)
                raise Unavailable("late")
            case _:
                return request()

    def calm(self) -> None:
        """What was under way arrives, newest first, and from now on all goes well."""
        self.fates.clear()
        while self.late:
            self.late.pop()()


@dataclass
class World:
    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    taken: int = 0
    dies_at: str = ""
    known: set[str] = field(default_factory=set)
    making: list[str] = field(default_factory=list)
    paused: int = 0
    metered: datetime | None = None

    def __post_init__(self) -> None:
        self.store = new_store(self.folder / "site.db", terms=TERMS)
        self.store.replace_policy(OWN, actor="root", at=EPOCH)
        pool_store = new_pool_store(self.folder / "pool.db")
        pool_store.sites.add(SITE, cluster=MINI, provider=ProviderName("naver"))
        self.network = Network(pool_store, self.clock)
        self.start()

    def start(self) -> None:
        """A new process over the same files."""
        self.site = PoolSite(
            self.network,
            site=SITE,
            url="https://portal.example.org",
            store=self.store,
            clock=self.clock,
            wait=1,
            report=self.report,
            took=self.took,
            metered=lambda: self.metered,
            people_file=self.folder / "people.json",
            people_state=self.folder / "state.json",
            failpoint=self.failpoint,
            knows=lambda user: user in self.known,
            pause=self.pause,
        )

    def pause(self, seconds: float) -> None:
        """`gpuaas-people` makes one login of `making` in each."""
        self.paused += 1
        if self.making:
            self.known.add(self.making.pop())

    def failpoint(self, place: str, /) -> None:
        if place == self.dies_at:
            raise Killed

    def took(self) -> None:
        self.taken += 1

    def report(self, findings: tuple[Finding, ...]) -> SiteReport:
        now, revision = self.clock.now(), self.store.portal.known()[0]
        return SiteReport(
            sent_at=now, cluster=MINI, version="1", slurm_version="", revision=revision, shares=(), incidents=(),
            findings=findings,
        )  # fmt: skip

    def say(self, *documents: Any, people: tuple[Login, ...] = ()) -> int:
        return self.network.store.sites.set_documents(SITE, documents, people, at=self.clock.now())

    def meter(self, *runs: tuple[int, int]) -> None:
        """Runs as (job, GPU-seconds so far)."""
        self.store.put_usage([run(*one) for one in runs], at=self.clock.now())

    def attempt(self, what: str) -> None:
        try:
            getattr(self.site, what)()
        except Unavailable:
            return
        except Killed:
            self.start()

    @property
    def told(self) -> set[UsageRecord]:
        return set(self.network.ledger.records.values())

    def close(self) -> None:
        self.store.close()
        self.network.store.close()


def run(job: int, seconds: int) -> UsageRecord:
    return UsageRecord(
        cluster=MINI,
        job_id=JobId(job),
        user=UserName("bob"),
        account=AccountName("vision"),
        qos=QosName("guaranteed-vision"),
        partition=PartitionName("mini-government"),
        model=GpuModel("b200"),
        gpus=8,
        started=EPOCH,
        ended=None,
        gpu_seconds=seconds,
        state="RUNNING",
        nodes="b200-05",
    )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


class TestDocuments:
    def test_a_site_that_was_away_a_week_catches_up_with_one_set(self, world: World) -> None:
        for number in range(20):
            world.say(*VISION, doc("Project", name=f"p{number}", organisation="kaist"))
        world.clock.forward(timedelta(days=7))
        world.site.pull()
        assert world.taken == 1
        assert {one.name for one in world.store.policy().projects} == {"vision", "p19"}
        world.site.pull()
        assert world.taken == 1, "nothing is newer"

    def test_while_the_portal_is_down_the_site_goes_on_and_says_how_old_its_word_is(self, world: World) -> None:
        world.say(*VISION)
        world.site.pull()
        world.network.fates = ["lost"] * 3
        world.clock.forward(timedelta(days=2))
        with pytest.raises(Unavailable):
            world.site.pull()
        world.start()
        status = world.site.status()
        assert (status.heard_at, status.revision, status.taken) == (EPOCH, EPOCH.timestamp(), 3)
        assert world.store.policy().projects

    def test_what_cannot_be_taken_costs_only_itself_and_is_reported(self, world: World) -> None:
        own_pool = doc(
            "Pool", name="evil", cluster="mini", model="b200", shares=[{"name": "government", "nodes": "b200-[1-8]"}]
        )
        documents, people, unreadable = read_set(
            [
                *(one.model_dump(mode="json") for one in (*VISION, own_pool)),
                {"kind": "Grant", "name": "g", "gpus": "all"},
                {"kind": "Rate"},
                {"kind": "\x1b[2J", "name": "\x1b]0;owned\x07"},
            ],
            [
                {"user": "bob", "keys": [KEY]},
                {"user": "eve", "keys": [f'command="sh" {KEY}']},
                {"user": "bob", "keys": []},
            ],
        )
        assert documents == VISION
        assert [(one.user, one.keys) for one in people] == [("bob", (KEY,))]
        assert [(one.kind, one.name) for one in unreadable] == [
            ("Pool", "evil"),
            ("Grant", "g"),
            ("Rate", "?"),
            ("?[2J", "?]0;owned?"),
            ("Person", "eve"),
        ]
        assert all(one.why.isprintable() for one in unreadable), "a terminal obeys nothing of it"

    def test_left_out_documents_are_in_status_and_report(self, world: World) -> None:
        world.say(*VISION, doc("Project", name="lost", organisation="nobody"))
        world.site.pull()
        world.site.push()
        (finding,) = world.network.reports[-1].findings
        assert (finding.kind, finding.name) == ("Project", "lost")
        (sentence,) = world.site.status().left_out
        assert sentence.startswith("Project lost: It names organisation nobody")

    def test_an_empty_portal_takes_nothing_away(self, world: World) -> None:
        world.say(*VISION)
        world.site.pull()
        other = new_pool_store(world.folder / "other.db")
        other.sites.add(SITE, cluster=MINI, provider=ProviderName("naver"))
        world.network.store.close()
        world.network.store = other
        with pytest.raises(Conflict, match=r"revision 0 of this site's documents, and told \d+ before"):
            world.site.pull()
        assert world.store.policy().projects

    @pytest.mark.parametrize("place", ["portal.documents-read", "portal.documents-stored"])
    def test_killed_while_it_takes_documents_it_has_them_after_the_next_start(self, world: World, place: str) -> None:
        world.say(*VISION)
        world.dies_at = place
        world.attempt("pull")
        world.dies_at = ""
        world.site.pull()
        assert world.store.portal.known()[0] == EPOCH.timestamp()
        assert len([one for one in world.store.audit.newest() if one.action == "portal.documents"]) == 1


class TestPeople:
    def test_only_members_of_what_is_in_force_get_a_login(self, world: World) -> None:
        eve = Login.model_validate({"user": "eve"})
        world.say(*VISION, people=(BOB, eve))
        world.site.pull()
        world.site.publish()
        found = WantedPeople.model_validate_json((world.folder / "people.json").read_bytes())
        assert found.people == (BOB,)

    def test_before_the_portal_was_heard_nobody_is_wanted_and_nobody_unwanted(self, world: World) -> None:
        world.site.publish()
        assert not (world.folder / "people.json").exists()

    def test_two_threads_that_publish_at_one_moment_do_so_one_after_the_other(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.say(*VISION, people=(BOB,))
        world.site.pull()
        both_inside = threading.Barrier(2)
        met: list[bool] = []

        def write(*_args: object, **_more: object) -> None:
            try:
                both_inside.wait(0.3)
            except threading.BrokenBarrierError:
                met.append(False)
            else:
                met.append(True)

        monkeypatch.setattr("slurm_gpuaas.daemon.pool_site.write_atomically", write)
        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(world.site.publish) for _ in range(2)]:
                done.result()
        assert not any(met)

    def test_logins_are_waited_for_while_they_are_being_made(self, world: World) -> None:
        world.say(*VISION, people=(BOB,))
        world.site.pull()
        world.making = ["bob"]
        world.site.logins_first()
        assert (world.known, world.paused) == ({"bob"}, 1)
        world.site.logins_first()
        assert world.paused == 1

    def test_a_login_that_does_not_come_holds_policy_up_once(self, world: World) -> None:
        world.say(*VISION, people=(BOB,))
        world.site.pull()
        world.site.logins_first()
        assert world.paused * LOOK_S == pytest.approx(LOGINS_WITHIN_S, abs=2 * LOOK_S)
        before = world.paused
        world.site.logins_first()
        assert world.paused == before

    def test_what_could_not_be_done_for_people_is_reported(self, world: World) -> None:
        finding = PersonFinding(user=UserName("bob"), why="The host has another bob.")
        state = PeopleState(at=EPOCH, done=(), findings=(finding,))
        (world.folder / "state.json").write_text(state.model_dump_json())
        world.site.push()
        (told,) = world.network.reports[-1].findings
        assert (told.kind, told.name, told.why) == ("Person", "bob", "The host has another bob.")


class TestUsage:
    def test_each_change_is_told_once(self, world: World) -> None:
        world.meter((1, 8), (2, 8))
        world.site.push()
        pushed = world.site.acknowledged
        world.site.push()
        assert world.site.acknowledged == pushed
        world.clock.forward(timedelta(minutes=1))
        world.meter((1, 80))
        world.site.push()
        assert world.told == {run(1, 80), run(2, 8)}

    def test_how_far_usage_was_told_is_said_once_it_was(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.site.push()
        world.meter(*((job, 8) for job in range(1, 4)))
        world.metered = EPOCH
        monkeypatch.setattr("slurm_gpuaas.daemon.pool_site.MOST_ROWS", 1)
        monkeypatch.setattr("slurm_gpuaas.daemon.pool_site.MOST_PUSHES", 2)
        world.site.push()
        assert len(world.told) == 2
        world.site.push()
        assert len(world.told) == 3
        assert [one.used_through for one in world.network.reports] == [None, None, EPOCH]

    def test_a_portal_that_lost_its_newest_usage_gets_it_again(self, world: World) -> None:
        world.meter((1, 8))
        world.site.push()
        other = new_pool_store(world.folder / "other.db")
        other.sites.add(SITE, cluster=MINI, provider=ProviderName("naver"))
        world.network.store.close()
        world.network.store, world.network.ledger = other, Ledger()
        world.site.push()
        assert world.told == {run(1, 8)}, "though nothing has changed here since"
        world.clock.forward(timedelta(minutes=1))
        world.meter((2, 8))
        world.site.push()
        assert world.told == {run(1, 8), run(2, 8)}

    def test_a_site_restored_from_a_backup_goes_on_above_what_it_had_told(self, world: World) -> None:
        """Its numbers are of the clock, so what it meters anew is newer than all that the portal has."""
        world.meter((1, 8))
        world.store.close()
        backup = (world.folder / "site.db").read_bytes()
        world.store = Store.open(f"sqlite:///{world.folder}/site.db", terms=TERMS)
        world.start()
        for minute in range(3):
            world.clock.forward(timedelta(minutes=1))
            world.meter((1, 80 * (minute + 1)), (2, 8))
            world.site.push()
        world.store.close()
        (world.folder / "site.db").write_bytes(backup)
        world.store = Store.open(f"sqlite:///{world.folder}/site.db", terms=TERMS)
        world.start()
        world.clock.forward(timedelta(minutes=1))
        world.meter((1, 320))
        world.site.push()
        assert world.told == {run(1, 320), run(2, 8)}

    def test_a_portal_that_acknowledges_nothing_is_not_asked_for_ever(self, world: World) -> None:
        world.meter((1, 8))
        world.network.push = lambda usage: UsageTaken(acknowledged=usage.after)  # type: ignore[method-assign]
        with pytest.raises(Conflict, match="does not acknowledge"):
            world.site.push()

    def test_a_portal_that_takes_back_what_it_acknowledged_does_not_keep_the_site_busy_for_ever(
        self, world: World
    ) -> None:
        world.meter((1, 8), (2, 8))
        answers = iter(range(10**9))

        def forgetful(usage: UsagePush) -> UsageTaken:
            return UsageTaken(acknowledged=usage.rows[0].number if next(answers) % 2 == 0 else 0)

        world.network.push = forgetful  # type: ignore[method-assign]
        world.site.push()
        assert next(answers) == MOST_PUSHES
        assert world.network.reports, "and it tells how it is all the same"

    def test_a_clock_that_steps_back_makes_no_number_smaller(self, world: World) -> None:
        world.meter((1, 8))
        world.site.push()
        world.clock.at = EPOCH - timedelta(hours=1)
        world.meter((1, 80))
        world.site.push()
        assert world.told == {run(1, 80)}


FATES = st.sampled_from(["ok", "lost", "unanswered", "late"])
PLACES = st.sampled_from(
    [
        "",
        "portal.documents-read",
        "portal.documents-stored",
        "portal.usage-read",
        "portal.usage-sent",
        "portal.usage-acknowledged",
    ]
)
STEPS = st.one_of(
    st.tuples(st.just("meter"), st.integers(1, 3), st.integers(1, 500)),
    st.tuples(st.just("say"), st.integers(0, 5), st.none()),
    st.tuples(st.just("pull"), PLACES, FATES),
    st.tuples(st.just("push"), PLACES, FATES),
    st.tuples(st.just("arrive"), st.none(), st.none()),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=25))
def test_whatever_is_lost_repeated_late_or_killed_both_sides_end_equal(steps: list[tuple[str, Any, Any]]) -> None:
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        said = 0
        for what, one, other in steps:
            world.clock.forward(timedelta(seconds=1))
            match what:
                case "meter":
                    world.meter((one, other))
                case "say":
                    said = world.say(*VISION, *(doc("Project", name=f"p{n}", organisation="kaist") for n in range(one)))
                case "arrive":
                    if world.network.late:
                        world.network.late.pop(0)()
                case _:
                    world.dies_at, world.network.fates = one, [other]
                    world.attempt(what)
                    world.dies_at = ""
        world.network.calm()
        world.site.pull()
        world.site.push()
        assert world.told == set(world.store.usage())
        assert world.store.portal.known()[0] == said
        newest = world.store.portal.newest()
        sent = world.network.store.sites.documents(SITE)
        assert [one.model_dump(mode="json") for one in (newest.documents if newest else ())] == list(sent.documents)
        world.close()


def test_times_survive_the_way(world: World) -> None:
    ended = run(1, 8).started + timedelta(seconds=1)
    whole = UsageRecord(
        **{name: getattr(run(1, 8), name) for name in UsageRecord.__slots__} | {"ended": ended, "state": "COMPLETED"}
    )
    world.store.put_usage([whole], at=EPOCH)
    world.site.push()
    assert world.told == {whole}
    assert next(iter(world.told)).started.tzinfo is not None
    assert next(iter(world.told)).started == EPOCH.astimezone(UTC)
