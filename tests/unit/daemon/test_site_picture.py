"""The picture that gpuaasd makes of its cluster, and how it reaches a portal that loses, repeats and forgets."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slurm_gpuaas.api.pool_sites import (
    MAX_REQUEST_BYTES,
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
from slurm_gpuaas.daemon.gpu_activity import GpuActivity
from slurm_gpuaas.daemon.picture_push import PicturePusher
from slurm_gpuaas.daemon.shared import SharedController
from slurm_gpuaas.daemon.site_picture import NO_SHARE, Activity, Portals, Reading, Seats, picture
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Unavailable
from slurm_gpuaas.domain.fleet_map import UNKNOWN_BYTE, UNKNOWN_IDLE, CellState, Severity, Sign
from slurm_gpuaas.domain.from_portal import PortalSet
from slurm_gpuaas.domain.incidents import Drain, EventKind, EventSource, Incident, IncidentState, NodeEvent
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import ClusterName, NodeName, OrganisationName, ProjectName, ProviderName, UserName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.domain.site_frame import AtGate, SiteFrame
from slurm_gpuaas.domain.telemetry import METRICS, SLOT_S, UNKNOWN, SampleBatch
from slurm_gpuaas.portal.map.history import MapHistory
from slurm_gpuaas.portal.pictures import Pictures
from slurm_gpuaas.store.pool import PoolStore
from slurm_gpuaas.store.pool.sites import Site
from slurm_gpuaas.store.telemetry import Telemetry
from slurm_gpuaas.topology.fabric import FabricArrays
from tests.fakes import EPOCH, FakeClock, FakeController, make_job, make_node
from tests.stores import new_pool_store, new_store
from tests.unit.daemon.test_pool_site import MINI, SITE, TERMS, doc
from tests.unit.policies import policy, pool

NODES = [f"b200-0{number}" for number in range(1, 9)]
OWN = policy(pool(shares=[{"name": "own", "nodes": "b200-[01-04]"}, {"name": "government", "nodes": "b200-[05-08]"}]))
OURS = Portals(
    projects={ProjectName("vision"): OrganisationName("kaist")}, people=frozenset({UserName("bob"), UserName("eve")})
)
GOVERNMENT = "mini-government"


def running(number: int, *nodes: str, gpus: int | None = None, hours: float | None = 2, **more: Any) -> Job:
    limit = None if hours is None else timedelta(hours=hours)
    fields: dict[str, Any] = {"user": "bob", "partition": GOVERNMENT, "started": EPOCH, "time_limit": limit} | more
    return make_job(number, nodes=nodes, gpus=gpus, state=JobState.RUNNING, **fields)


def waiting(number: int, reason: str = "Resources", **more: Any) -> Job:
    return make_job(number, **{"user": "bob", "partition": GOVERNMENT, "reason": reason} | more)


def drawn(jobs: list[Job], nodes: list[Node] | None = None, seats: Seats | None = None, **more: Any) -> SiteFrame:
    fields: dict[str, Any] = {"policy": OWN, "portals": OURS} | more
    reading = Reading(cluster=MINI, at=EPOCH, nodes=nodes or [make_node(name) for name in NODES], jobs=jobs, **fields)
    found = picture(reading, seats or Seats())
    assert found is not None
    return found[1]


def states(frame: SiteFrame, place: int) -> list[CellState]:
    return [CellState(int(state)) for state in frame.unpacked().state[8 * place : 8 * place + 8]]


# -- Layout and cells --------------------------------------------------------------------------------------------------


def test_units_are_leaf_groups_in_fabric_order_and_what_the_fabric_does_not_know_comes_last() -> None:
    fabric = FabricArrays.of(
        [
            ("pod", "leaf/2", [NodeName("b200-03"), NodeName("b200-02")]),
            ("pod", "leaf/1", [NodeName("b200-01"), NodeName("b200-09")]),
        ]
    )
    nodes = [make_node(name) for name in ("b200-10", "b200-05", "b200-01", "b200-02", "b200-03")]
    found = picture(
        Reading(cluster=MINI, at=EPOCH, policy=OWN, portals=OURS, nodes=nodes, jobs=[], fabric=fabric), Seats()
    )
    assert found is not None
    assert [(unit.name, list(unit.nodes)) for unit in found[0].units] == [
        ("leaf-2", ["b200-03", "b200-02"]),
        ("leaf-1", ["b200-01"]),
        ("all", ["b200-05", "b200-10"]),
    ]
    assert found[0].units[2].shares == ("government", NO_SHARE)


def test_a_cluster_without_gpus_has_no_picture() -> None:
    nodes = [make_node("c1", gpus=0, model=None)]
    assert picture(Reading(cluster=MINI, at=EPOCH, policy=OWN, portals=OURS, nodes=nodes, jobs=[]), Seats()) is None


@pytest.mark.parametrize(
    ("node", "free", "held"),
    [
        ({}, CellState.FREE, CellState.BUSY),
        ({"flags": NodeFlag.DRAIN}, CellState.DRAINED, CellState.DRAINING),
        ({"base": NodeBase.DOWN, "flags": NodeFlag.DRAIN}, CellState.DOWN, CellState.DRAINING),
        ({"flags": NodeFlag.NOT_RESPONDING}, CellState.DOWN, CellState.DRAINING),
        ({"flags": NodeFlag.MAINTENANCE}, CellState.MAINTENANCE, CellState.DRAINING),
        ({"flags": NodeFlag.RESERVED}, CellState.RESERVED, CellState.BUSY),
        ({"flags": NodeFlag.COMPLETING}, CellState.RESERVED, CellState.BUSY),
        ({"gpus_allocated": 8}, CellState.RESERVED, CellState.BUSY),
    ],
)
def test_a_gpu_is_in_the_state_of_its_node_and_of_who_holds_it(
    node: dict[str, Any], free: CellState, held: CellState
) -> None:
    frame = drawn([running(1, "b200-01", gpus=8)], [make_node("b200-01", **node), make_node("b200-02", **node)])
    assert states(frame, 0) == [held] * 8
    assert states(frame, 1) == [free] * 8


def test_a_job_keeps_its_gpus_while_others_come_and_go() -> None:
    seats = Seats()
    first, second, third = (running(number, "b200-05", gpus=3) for number in (1, 2, 3))
    drawn([first, second], seats=seats)
    frame = drawn([second], seats=seats)
    assert np.flatnonzero(frame.unpacked().job).tolist() == [35, 36, 37]
    frame = drawn([second, third], seats=seats)
    cells, place = frame.unpacked(), {job.id: number for number, job in enumerate(frame.jobs, start=1)}
    assert np.flatnonzero(cells.job == place[2]).tolist() == [35, 36, 37]
    assert np.flatnonzero(cells.job == place[3]).tolist() == [32, 33, 34]


def test_more_jobs_than_a_node_has_gpus_for_are_not_drawn_twice() -> None:
    frame = drawn([running(1, "b200-05", gpus=6), running(2, "b200-05", gpus=6)])
    assert np.bincount(frame.unpacked().job[32:40]).tolist() == [0, 6, 2]


def test_use_is_told_of_wholly_held_and_wholly_free_nodes_and_unknown_where_gpus_are_guessed() -> None:
    load = Activity(use=[50] * 8, power=[30] * 8, heat=[60] * 8, idle=[7] * 8)
    jobs = [running(1, "b200-05"), running(2, "b200-06", gpus=4)]
    cells = drawn(jobs, activity=dict.fromkeys(map(NodeName, NODES), load)).unpacked()
    assert set(cells.use[32:40].tolist()) == {50}
    assert set(cells.use[40:48].tolist()) == {UNKNOWN_BYTE}
    assert set(cells.idle[40:48].tolist()) == {UNKNOWN_IDLE}
    assert set(cells.heat[40:48].tolist()) == {60}
    assert set(cells.use[48:56].tolist()) == {50}


# -- What leaves the site ----------------------------------------------------------------------------------------------


def test_no_name_of_a_job_leaves_the_site_that_is_not_of_the_portals_projects() -> None:
    jobs = [
        running(1, "b200-05"),
        running(2, "b200-01", account="inhouse", user="secret", partition="mini-own", name="merger"),
        waiting(3, account="inhouse", user="secret", partition="mini-own", name="merger"),
        running(4, "b200-06", user="operator", name="probe"),
    ]
    frame = drawn(jobs)
    said = frame.model_dump_json(exclude_defaults=True)
    for name in ("secret", "merger", "inhouse", "operator"):
        assert name not in said
    ours = next(job for job in frame.jobs if job.id == 1)
    assert (ours.user, ours.tenant, ours.project, ours.name) == ("bob", "kaist", "vision", "train")
    other = next(job for job in frame.jobs if job.id == 4)
    assert (other.user, other.tenant) == (None, "kaist")
    assert frame.queue[0].share == "own"


def test_a_name_that_would_break_a_terminal_or_a_page_is_made_plain() -> None:
    frame = drawn([running(1, "b200-05", name="a\x1b[2J\n" + "x" * 500)])
    assert frame.jobs[0].name.startswith("a?[2J?x")
    assert len(frame.jobs[0].name) == 100


# -- Why it waits ------------------------------------------------------------------------------------------------------


def test_a_waiting_job_says_how_much_room_there_is_and_when_there_will_be_enough() -> None:
    busy = [running(number, f"b200-0{number}", hours=number) for number in (5, 6, 7)]
    (queued,) = drawn([*busy, waiting(9, node_count=3)]).queue
    assert queued.room is not None
    assert (queued.room.whole, queued.room.nodes, queued.room.free) == (True, 3, 1)
    assert queued.room.enough_at == EPOCH + timedelta(hours=6)


def test_without_time_limits_nobody_claims_to_know_when() -> None:
    busy = [running(number, f"b200-0{number}", hours=None) for number in (5, 6, 7, 8)]
    (queued,) = drawn([*busy, waiting(9)]).queue
    assert queued.room is not None
    assert queued.room.enough_at is None


def test_a_guarantee_that_holds_a_job_back_is_told_with_when_it_fits() -> None:
    granted = policy(
        *OWN.pools, doc("Organisation", name="kaist"), doc("Project", name="vision", organisation="kaist"),
        doc("Grant", name="g", project="vision", pool="mini", share="government", gpus=16, starts="2026-01-01",
            ends="2099-12-31"),
    )  # fmt: skip
    jobs = [
        running(1, "b200-05", hours=1),
        running(2, "b200-06", hours=3),
        running(3, "b200-07", hours=1, qos="burst-mini-government"),
        waiting(7, "QOSGrpGRES", node_count=1),
        waiting(8, "QOSGrpGRES", node_count=2),
        waiting(9, "QOSGrpGRES", node_count=3),
        waiting(10, "Resources"),
    ]
    limits = {queued.id: queued.limit for queued in drawn(jobs, policy=granted).queue}
    assert [(one.limit, one.in_use) for number in (7, 8, 9) if (one := limits[number])] == [(16, 16)] * 3
    ends = [one.below_at for number in (7, 8, 9) if (one := limits[number])]
    assert ends == [EPOCH + timedelta(hours=1), EPOCH + timedelta(hours=3), None]
    assert limits[10] is None


def test_a_job_that_the_gate_gave_nodes_is_told_as_about_to_start() -> None:
    pinned = waiting(9, admin_comment="gpuaas:placed(b200-05;0;2027-01-04T09:00:00+00:00)")
    given = Job(
        **{**{name: getattr(pinned, name) for name in pinned.__slots__}, "required_nodes": (NodeName("b200-05"),)}
    )
    asking = waiting(10, "Licenses", licenses="placement:1")
    gates = {queued.id: queued.gate for queued in drawn([given, asking]).queue}
    assert gates == {9: AtGate.PLACED, 10: AtGate.DECIDING}


def test_all_that_waits_is_in_the_sums_and_the_portals_own_come_first_in_the_queue() -> None:
    jobs = [waiting(1, account="inhouse"), waiting(2, "Priority"), waiting(3, "Priority"), waiting(4, "Odd reason!")]
    frame = drawn(jobs)
    assert {one.reason: (one.gpus, len(one.minutes)) for one in frame.waiting} == {
        "Resources": (8, 1), "Priority": (16, 2), "None": (8, 1),
    }  # fmt: skip
    assert [queued.id for queued in frame.queue] == [2, 3, 4, 1]


# -- How busy ----------------------------------------------------------------------------------------------------------


def batch(node: str, minute: int, busy: list[int]) -> SampleBatch:
    """A minute of two GPUs: codes of busy by slot, 20 W, 40 degrees."""
    rows = {"busy": busy, "memory": [0] * 4, "power": [2] * 4, "temperature": [40] * 4, "processes": [1] * 4}
    values = bytes(code for metric in METRICS for code in rows[metric] for _gpu in range(2))
    first = int((EPOCH + timedelta(minutes=minute)).timestamp()) // SLOT_S * SLOT_S
    return SampleBatch(node=NodeName(node), first=first, serials=("a", "b"), values=values)


def test_idle_age_outlives_a_restart_and_grows_until_the_gpu_works_again(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path)
    node = NodeName("n1")
    for minute, busy in ((0, [200] * 4), (30, [0] * 4)):
        telemetry.add(batch(node, minute, busy), now=EPOCH + timedelta(minutes=minute))
    at = EPOCH + timedelta(minutes=30, seconds=50)
    found = GpuActivity(telemetry).now([node], at)[node]
    assert (list(found.use), list(found.power), list(found.heat)) == ([0, 0], [2, 2], [40, 40])
    assert found.idle == [30, 30]
    telemetry.add(batch(node, 31, [UNKNOWN, 200, 200, UNKNOWN]), now=at + timedelta(minutes=1))
    watch = GpuActivity(telemetry)
    assert watch.now([node], at + timedelta(minutes=2))[node].idle == [0, 0]
    assert watch.now([node], at + timedelta(hours=1)) == {}
    telemetry.close()


# -- To the portal -----------------------------------------------------------------------------------------------------


@dataclass
class Wire:
    """A portal behind a network. `fates` say what becomes of each push: `ok`, `lost`, `unanswered`."""

    site: Site
    pictures: Pictures
    fates: list[str] = field(default_factory=list)
    pushes: list[PicturePush] = field(default_factory=list)

    def documents(self, *, revision: int, wait: int) -> SiteDocuments:
        raise NotImplementedError

    def push(self, usage: UsagePush) -> UsageTaken:
        raise NotImplementedError

    def report(self, report: SiteReport) -> ReportTaken:
        raise NotImplementedError

    def days(self, days: UseDaysPush) -> UseDaysTaken:
        raise NotImplementedError

    def picture(self, picture: PicturePush) -> PictureTaken:
        fate = self.fates.pop(0) if self.fates else "ok"
        if fate == "lost":
            raise Unavailable("lost")
        self.pushes.append(PicturePush.unpacked(picture.packed()))
        taken = asyncio.run(self.pictures.take(self.site, self.pushes[-1]))
        if fate == "unanswered":
            raise Unavailable("unanswered")
        return taken


@dataclass
class World:
    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.store = new_store(self.folder / "site.db", terms=TERMS)
        self.store.replace_policy(OWN, actor="root", at=EPOCH)
        said = (doc("Organisation", name="kaist"), doc("Project", name="vision", organisation="kaist"))
        people = (Login.model_validate({"user": "bob"}),)
        today = EPOCH.astimezone(KST).date()
        self.store.portal.put(PortalSet(revision=1, documents=said, people=people, received_at=EPOCH, as_of=today))
        self.pool: PoolStore = new_pool_store(self.folder / "pool.db")
        self.pool.sites.add(SITE, cluster=MINI, provider=ProviderName("naver"))
        found = self.pool.sites.find(SITE)
        assert found is not None
        self.controller = FakeController([make_node(name) for name in NODES], clock=self.clock)
        self.shared = SharedController(self.controller, clock=self.clock)
        self.telemetry = Telemetry(self.folder / "telemetry")
        self.wire = Wire(found, self.portal())
        self.start()

    def portal(self) -> Pictures:
        """A new process over the same files."""
        return Pictures(self.pool.sites, self.clock, self.folder / "map")

    def start(self) -> None:
        self.pusher = PicturePusher(
            self.wire, cluster=MINI, shared=self.shared, store=self.store, fabric=self.no_fabric,
            activity=GpuActivity(self.telemetry),
        )  # fmt: skip

    def no_fabric(self) -> FabricArrays:
        raise Unavailable("none")

    def read(self, seconds: float = 5) -> None:
        self.clock.forward(timedelta(seconds=seconds))
        self.shared.nodes()
        self.shared.jobs()

    def attempt(self) -> None:
        try:
            self.pusher.tick()
        except Unavailable:
            return

    @property
    def shown(self) -> SiteFrame:
        frame = self.wire.pictures.live.known[MINI].frame
        assert frame is not None
        return frame

    def close(self) -> None:
        self.store.close()
        self.pool.close()
        self.telemetry.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_a_push_asks_slurm_nothing_and_the_same_reading_is_not_pushed_twice(world: World) -> None:
    world.pusher.tick()
    assert world.wire.pushes == []
    world.read()
    calls = list(world.controller.calls)
    world.pusher.tick()
    world.pusher.tick()
    assert world.controller.calls == calls
    assert len(world.wire.pushes) == 1
    assert world.shown.moment == world.clock.now()


def test_the_layout_goes_once_until_it_changes(world: World) -> None:
    for _ in range(2):
        world.read()
        world.pusher.tick()
    world.controller.node_by_name.pop(NodeName("b200-08"))
    world.read()
    world.pusher.tick()
    assert [push.layout is not None for push in world.wire.pushes] == [True, False, True]
    assert world.shown.cells == 56


@pytest.mark.parametrize("fate", ["lost", "unanswered"])
def test_a_lost_push_or_answer_costs_nothing_but_the_moment(world: World, fate: str) -> None:
    world.wire.fates = [fate]
    world.read()
    world.attempt()
    world.read()
    world.attempt()
    assert world.shown.moment == world.clock.now()
    assert world.pool.sites.find(SITE) is not None


def test_a_portal_that_lost_its_files_asks_for_the_layout_again(world: World) -> None:
    world.read()
    world.pusher.tick()
    world.wire.pictures = Pictures(world.pool.sites, world.clock)
    world.read()
    world.pusher.tick()
    assert [push.layout is not None for push in world.wire.pushes] == [True, False, True]
    assert world.shown.moment == world.clock.now()


def test_a_late_push_replaces_nothing_not_even_the_layout(world: World) -> None:
    world.read()
    world.pusher.tick()
    late = world.wire.pushes[0]
    world.controller.node_by_name.pop(NodeName("b200-08"))
    world.read()
    world.pusher.tick()
    now = world.shown
    taken = asyncio.run(world.wire.pictures.take(world.wire.site, late))
    assert taken.newest == now.moment
    assert world.shown == now


def test_a_restarted_portal_shows_a_site_that_is_away_as_it_was_and_its_past(world: World) -> None:
    for _ in range(3):
        world.read(61)
        world.pusher.tick()
    moment = world.shown.moment
    world.clock.forward(timedelta(days=7))
    world.wire.pictures = world.portal()
    assert world.shown.moment == moment
    assert world.wire.pictures.live.known[MINI].cluster.provider == "naver"
    layout = world.wire.pictures.live.layout().number
    assert MapHistory(world.folder / "map" / "past").spans(layout)[0][0] <= moment
    world.read()
    world.pusher.tick()
    assert world.shown.moment == world.clock.now()


def test_a_late_push_is_not_kept_for_the_next_start_either(world: World) -> None:
    for _ in range(2):
        world.read(61)
        world.pusher.tick()
    newest = world.shown
    world.clock.forward(timedelta(minutes=2))
    asyncio.run(world.wire.pictures.take(world.wire.site, world.wire.pushes[0]))
    world.wire.pictures = world.portal()
    assert world.shown == newest


def test_a_kept_picture_that_the_disk_damaged_does_not_stop_the_portal(world: World) -> None:
    world.read()
    world.pusher.tick()
    (world.folder / "map" / "mini.picture").write_bytes(b"\0" * 100)
    assert world.portal().live.known == {}


def test_a_site_cannot_show_another_cluster(world: World) -> None:
    world.read()
    world.pusher.tick()
    other = world.wire.pushes[0].model_copy(
        update={"frame": world.wire.pushes[0].frame.model_copy(update={"site": ClusterName("kakao")}), "layout": None}
    )
    with pytest.raises(Conflict, match="pushed under its name"):
        asyncio.run(world.wire.pictures.take(world.wire.site, other))
    assert set(world.wire.pictures.live.known) == {MINI}


def test_what_unpacks_to_more_than_a_picture_or_is_cut_off_is_refused(world: World) -> None:
    world.read()
    world.pusher.tick()
    whole = world.wire.pushes[0].packed()
    for data in (zlib.compress(b" " * (33 * 2**20)), whole[:-5], b"no zlib"):
        with pytest.raises(InvalidInput):
            PicturePush.unpacked(data)


def test_an_incident_is_told_with_its_gpu_its_steps_and_whose_jobs_it_hit(world: World) -> None:
    jobs = [running(1, "b200-05"), running(2, "b200-05", account="inhouse", user="secret", gpus=0)]
    world.controller.job_by_id.update({job.id: job for job in jobs})
    event = NodeEvent(
        event_id="e1", node=NodeName("b200-05"), kind=EventKind.XID, code=79, source=EventSource.NVML, seen_at=EPOCH,
        gpu=3,
    )  # fmt: skip
    world.store.add_event(event, received_at=EPOCH, jobs=[JobId(1), JobId(2)])
    incident = Incident(
        id="inc-1", node=NodeName("b200-05"), state=IncidentState.DRAINING, drain=Drain.NOW, rule="r",
        headline="XID 79", opened_at=EPOCH, updated_at=EPOCH, event_ids=("e1",),
    )  # fmt: skip
    world.store.put_incident(incident)
    world.read()
    world.pusher.tick()
    (told,) = world.shown.incidents
    assert (told.gpu, told.xid, told.steps[-1].state) == (3, 79, IncidentState.DRAINING)
    assert [(job.id, job.tenant, job.user) for job in told.hit] == [(1, "kaist", "bob"), (2, None, None)]
    health = world.shown.unpacked().health[32:40].tolist()
    assert health[3] == Severity.FAULT | Sign.XID
    assert set(health[:3] + health[4:]) == {Severity.DECISION}


def test_a_full_national_cluster_fits_into_a_request_many_times_over() -> None:
    nodes = [make_node(f"b200-{number:04}", gpus_allocated=8) for number in range(957)]
    jobs = [running(number + 1, node.name, user="bob", name=f"train-{number}") for number, node in enumerate(nodes)]
    queue = [waiting(2_000 + number, node_count=1 + number % 7) for number in range(500)]
    found = picture(
        Reading(cluster=MINI, at=EPOCH, policy=OWN, portals=OURS, nodes=nodes, jobs=[*jobs, *queue]), Seats()
    )
    assert found is not None
    assert len(PicturePush(layout=found[0], frame=found[1]).packed()) * 20 < MAX_REQUEST_BYTES
