"""The live map: frames in, pictures out, and what each viewer sees of them."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import Conflict, NotFound, Refused
from slurm_gpuaas.domain.fleet_map import CellState, Picture, read
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.names import NodeName, OrganisationName, PersonId, ProviderName, UserName
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.domain.site_frame import HitJob, SiteIncident, SiteJob, SiteStep, SiteWaiting
from slurm_gpuaas.portal.map import EVERYTHING, LiveMap, MapViewer, viewer_of
from slurm_gpuaas.portal.map.history import MapHistory
from tests.unit.portal_map.fleets import NOW, Stopped, cluster, frame, job

ALPHA, BETA = cluster("alpha"), cluster("beta", units=1)
UNIVERSITY = MapViewer(organisation=OrganisationName("hangang-univ"))
PROVIDER = MapViewer(provider=ProviderName("beta"), people=True)
MINE, OTHERS, THERE = job(1), job(2, "baekdu-lab", user="lee"), job(3, "baekdu-lab", user="park")
FAULT = SiteIncident(
    id="inc-1",
    node=NodeName("alpha-001"),
    gpu=1,
    xid=79,
    headline="XID 79: GPU has fallen off the bus",
    steps=(SiteStep(state=IncidentState.SUSPECT, at=NOW - timedelta(minutes=20)),),
    hit=(
        HitJob(id=1, tenant=OrganisationName("hangang-univ"), user=UserName("kim")),
        HitJob(id=2, tenant=OrganisationName("baekdu-lab")),
    ),
    gpu_hours_lost=12.5,
)


def live_map(history: MapHistory | None = None, clock: Stopped | None = None) -> LiveMap:
    """alpha: 8 GPUs of MINE, 4 of OTHERS, one that is down with a fault; beta: 8 GPUs of THERE."""
    live = LiveMap(clock or Stopped(), history=history)
    live.introduce(ALPHA)
    live.introduce(BETA)
    push(live)
    return live


def push(live: LiveMap, *, moment: datetime = NOW, alpha: dict[SiteJob, range] | None = None, use: int = 80) -> None:
    held = {MINE: range(8), OTHERS: range(8, 12)} if alpha is None else alpha
    edit: dict[str, dict[int, int]] = {"state": {63: CellState.DOWN}, "health": {8: 67, 0: 3}, "heat": {0: 60, 8: 70}}
    waiting = (SiteWaiting(reason="Priority", gpus=8, minutes=(30,)),)
    live.take(frame(ALPHA, held, moment=moment, use=use, waiting=waiting, incidents=(FAULT,), edit=edit))
    live.take(frame(BETA, {THERE: range(8)}, moment=moment, use=use))
    live.publish()


def seen(live: LiveMap, viewer: MapViewer) -> Picture:
    return read(live.whole(viewer))


def ids(picture: Picture) -> set[int]:
    return {row["id"] for row in picture.table["jobs"].values()}


def test_sites_stand_side_by_side_and_their_jobs_have_slots_of_their_own() -> None:
    picture = seen(live_map(), EVERYTHING)
    named = {
        picture.table["jobs"][str(slot)]["id"]: cells
        for slot, cells in zip(*np.unique(picture.cells.job, return_counts=True), strict=True)
        if slot
    }
    assert named == {1: 8, 2: 4, 3: 8}
    assert picture.table["sites"]["beta"]["moment"] == int(NOW.timestamp())


def test_a_tenant_sees_own_cells_and_of_others_only_that_they_are_in_use() -> None:
    picture = seen(live_map(), UNIVERSITY)
    cells = picture.cells
    assert ids(picture) == {1}
    assert cells.state[:8].tolist() == [CellState.BUSY] * 8
    assert cells.use[:8].tolist() == [80] * 8
    assert cells.state[8:12].tolist() == [CellState.TAKEN] * 4
    assert (cells.state[63], cells.state[20]) == (CellState.DOWN, CellState.FREE)
    for plane, nothing in (("use", 255), ("heat", 255), ("power", 255), ("idle", 65_535), ("job", 0), ("health", 0)):
        assert set(getattr(cells, plane)[8:].tolist()) == {nothing}, plane


def test_nothing_that_a_tenant_receives_names_another_one() -> None:
    live = live_map()
    push(live, moment=NOW + timedelta(seconds=5), use=70)
    told = json.dumps(
        [seen(live, UNIVERSITY).table, live.past(UNIVERSITY, NOW - timedelta(hours=1), NOW).model_dump_json()]
    )
    for secret in ("baekdu", "lee", "park", "train-2", "12.5"):
        assert secret not in told, secret
    assert "XID 79" in told  # it hit a job of theirs


def test_a_tenant_without_a_job_on_a_broken_node_hears_nothing_of_it() -> None:
    table = seen(live_map(), MapViewer(organisation=OrganisationName("namsan-ai"))).table
    assert (table["jobs"], table["incidents"]) == ({}, {})


def test_a_provider_sees_the_own_clusters_whole_and_of_the_others_what_is_free() -> None:
    picture = seen(live_map(), PROVIDER)
    assert ids(picture) == {3}
    assert picture.table["jobs"]["3"]["user"] == "park"
    assert picture.cells.state[:12].tolist() == [CellState.TAKEN] * 12


def test_the_government_sees_tenants_everywhere_but_no_names_of_people_or_jobs() -> None:
    picture = seen(live_map(), MapViewer(everything=True))
    assert {row["tenant"] for row in picture.table["jobs"].values()} == {"hangang-univ", "baekdu-lab"}
    assert not any("user" in row or "name" in row for row in picture.table["jobs"].values())


@pytest.mark.parametrize("viewer", [EVERYTHING, UNIVERSITY, PROVIDER, MapViewer()])
def test_waiting_jobs_are_told_in_sums_alone(viewer: MapViewer) -> None:
    table = seen(live_map(), viewer).table
    assert table["rail"]["waiting"] == [["Priority", 1, 8, 30]]
    assert all("waiting" not in site for site in table["sites"].values())


@pytest.mark.parametrize(
    ("role", "viewer"),
    [
        (PortalRole.AUDITOR, EVERYTHING),
        (PortalRole.GOVERNMENT, MapViewer(everything=True)),
        (PortalRole.PROVIDER_OPERATOR, PROVIDER),
        (PortalRole.PROVIDER_BILLING, MapViewer(provider=ProviderName("beta"))),
        (PortalRole.TENANT_ADMIN, UNIVERSITY),
        (PortalRole.RESEARCHER, UNIVERSITY),
    ],
)
def test_each_role_has_its_view(role: PortalRole, viewer: MapViewer) -> None:
    actor = Actor(
        person=PersonId("p-000001"),
        role=role,
        organisation=OrganisationName("hangang-univ") if viewer.organisation else None,
        provider=ProviderName("beta") if viewer.provider else None,
    )
    assert viewer_of(actor) == viewer


def test_somebody_without_organisation_or_provider_sees_no_job() -> None:
    assert (
        seen(live_map(), viewer_of(Actor(person=PersonId("p-000001"), role=PortalRole.RESEARCHER))).table["jobs"] == {}
    )


moves = st.lists(st.dictionaries(st.sampled_from(range(1, 7)), st.integers(0, 7), max_size=5), min_size=1, max_size=6)


@given(moves, st.sampled_from([EVERYTHING, UNIVERSITY, PROVIDER]))
@settings(max_examples=40, deadline=None)
def test_whoever_follows_the_deltas_sees_what_a_whole_picture_shows(
    moves: list[dict[int, int]], viewer: MapViewer
) -> None:
    """Jobs come, go and move; each number is the node that a job takes, the first to name it wins."""
    live = live_map()
    mine = seen(live, viewer)
    for step, nodes in enumerate(moves, start=1):
        wanted = {node: number for number, node in nodes.items()}
        held = {
            job(number, "hangang-univ" if number % 2 else "baekdu-lab"): range(node * 8, node * 8 + 8)
            for node, number in wanted.items()
            if node != 7
        }
        push(live, moment=NOW + timedelta(seconds=step), alpha=held)
        for _sequence, data in live.since(viewer, mine.sequence):
            mine = read(data, mine)
        fresh = seen(live, viewer)
        assert mine.table == fresh.table
        assert mine.cells.raw.tobytes() == fresh.cells.raw.tobytes()


def test_a_running_job_keeps_its_slot_and_a_free_one_is_used_again() -> None:
    live = live_map()
    before = {row["id"]: slot for slot, row in seen(live, EVERYTHING).table["jobs"].items()}
    push(live, moment=NOW + timedelta(seconds=5), alpha={job(9): range(16, 24), OTHERS: range(8, 12)})
    after = {row["id"]: slot for slot, row in seen(live, EVERYTHING).table["jobs"].items()}
    assert after[2] == before[2]
    assert after[9] == before[1]


def test_a_map_that_was_away_too_long_gets_a_whole_picture() -> None:
    live = live_map()
    first = seen(live, EVERYTHING).sequence
    for step in range(1, 63):
        push(live, moment=NOW + timedelta(seconds=step), use=step)
        live.whole(EVERYTHING)
    ((_sequence, data),) = live.since(EVERYTHING, first)
    assert read(data).cells.use[0] == 62
    assert live.since(EVERYTHING, read(data).sequence) == ()


def test_the_number_of_a_picture_grows_over_a_restart() -> None:
    clock = Stopped()
    first = live_map(clock=clock)
    push(first, moment=NOW + timedelta(seconds=1))
    clock.at = NOW + timedelta(seconds=30)
    assert seen(live_map(clock=clock), EVERYTHING).sequence > seen(first, EVERYTHING).sequence


def test_an_older_frame_changes_nothing() -> None:
    live = live_map()
    before = live.whole(EVERYTHING)
    push(live, moment=NOW - timedelta(seconds=5), alpha={})
    assert live.whole(EVERYTHING) == before
    assert not live.publish()


def test_a_frame_of_an_unknown_layout_or_from_the_future_is_refused() -> None:
    live = live_map()
    with pytest.raises(Conflict, match="does not know layout"):
        live.take(frame(cluster("gamma"), {}))
    with pytest.raises(Conflict, match="does not know layout"):
        live.take(frame(cluster("alpha", units=3), {}, moment=NOW + timedelta(seconds=1)))
    with pytest.raises(Refused, match="now is"):
        live.take(frame(ALPHA, {}, moment=NOW + timedelta(minutes=6)))


def test_a_cluster_that_grew_begins_anew_and_frees_its_slots() -> None:
    live = live_map()
    live.introduce(cluster("alpha", units=3))
    live.publish()
    picture = seen(live, EVERYTHING)
    assert picture.cells.count == 3 * 32 + 32
    assert set(picture.cells.state[:96].tolist()) == {CellState.UNKNOWN}
    assert ids(picture) == {3}


def test_between_an_introduction_and_its_first_frame_the_cluster_is_there_and_unknown() -> None:
    live = live_map()
    before = seen(live, UNIVERSITY)
    live.introduce(cluster("gamma"))
    ((_sequence, data),) = live.since(UNIVERSITY, before.sequence)
    picture = read(data)
    assert picture.layout == live.layout().number != before.layout
    assert picture.cells.state[-64:].tolist() == [CellState.UNKNOWN] * 64


def test_a_disk_that_is_full_stops_the_record_but_not_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live, history = lived(tmp_path, 3)
    live._clock = Stopped(NOW + timedelta(minutes=3))
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(history, "_file", full)
        push(live, moment=NOW + timedelta(minutes=3), use=33)
    live._clock = Stopped(NOW + timedelta(minutes=4))
    push(live, moment=NOW + timedelta(minutes=4), use=44)
    live._clock = Stopped(NOW + timedelta(minutes=5))
    push(live, moment=NOW + timedelta(minutes=5), use=55)
    assert seen(live, EVERYTHING).cells.use[0] == 55
    assert [int(one.cells.use[0]) for one in told(live, EVERYTHING, NOW, NOW + timedelta(hours=1))] == [
        80,
        1,
        2,
        44,
        55,
    ]


def test_a_map_without_sites_is_an_empty_picture() -> None:
    picture = seen(LiveMap(Stopped()), EVERYTHING)
    assert (picture.cells.count, picture.table["rail"]["rooms"]) == (0, [])


def test_who_waits_for_a_change_is_woken_by_it() -> None:
    async def story() -> None:
        live = live_map()
        now = seen(live, EVERYTHING).sequence
        waiter = asyncio.create_task(live.changed(now))
        await asyncio.sleep(0)
        assert not waiter.done()
        push(live, moment=NOW + timedelta(seconds=5))
        await asyncio.wait_for(waiter, 5)

    asyncio.run(story())


# -- Cards -------------------------------------------------------------------------------------------------------------


def test_a_jobs_card_tells_its_units_and_a_better_place() -> None:
    live = live_map()
    spread = job(7)
    live.take(frame(ALPHA, {spread: range(24, 40)}, moment=NOW + timedelta(seconds=5)))
    live.publish()
    slot = next(int(slot) for slot, row in seen(live, EVERYTHING).table["jobs"].items() if row["id"] == 7)
    card = live.job_card(EVERYTHING, slot)
    assert [(one.unit, one.nodes) for one in card.units] == [("su00", 1), ("su01", 1)]
    assert (card.fewest, card.near, card.mean_use) == (1, 0.0, 80.0)
    assert [one.nodes for one in card.better] == [2]


@pytest.mark.parametrize("viewer", [UNIVERSITY, PROVIDER])
def test_there_is_no_card_of_a_job_that_the_viewer_may_not_see(viewer: MapViewer) -> None:
    live = live_map()
    with pytest.raises(NotFound):
        live.job_card(viewer, next(int(s) for s, row in seen(live, EVERYTHING).table["jobs"].items() if row["id"] == 2))


def test_a_nodes_curve_shows_a_tenant_nothing_from_before_their_job() -> None:
    live = live_map()
    late = MINE.model_copy(update={"since": NOW + timedelta(minutes=2)})
    push(live, moment=NOW + timedelta(minutes=1), alpha={OTHERS: range(8)}, use=50)
    clock = Stopped(NOW + timedelta(minutes=3))
    live._clock = clock
    push(live, moment=NOW + timedelta(minutes=3), alpha={late: range(8)}, use=60)
    whole = live.node_card(EVERYTHING, "alpha", "alpha-000").gpus[0].use
    mine = live.node_card(UNIVERSITY, "alpha", "alpha-000").gpus[0].use
    assert [use for use in whole if use is not None] == [50, 60]
    assert [use for use in mine if use is not None] == [60]
    assert live.node_card(UNIVERSITY, "beta", "beta-000").gpus[0].use == ()


@pytest.mark.parametrize(("name", "node"), [("alpha", "nobody"), ("nowhere", "alpha-000"), ("alpha", "beta-000")])
def test_there_is_no_card_of_a_node_that_is_not_there(name: str, node: str) -> None:
    with pytest.raises(NotFound):
        live_map().node_card(EVERYTHING, name, node)


# -- The past ----------------------------------------------------------------------------------------------------------


def told(live: LiveMap, viewer: MapViewer, begin: datetime, end: datetime, limit: int = 100) -> list[Picture]:
    pictures: list[Picture] = []
    for data in live.history(viewer, begin, end, limit):
        pictures.append(read(data, pictures[-1] if pictures else None))
    return pictures


def lived(folder: Path, minutes: int) -> tuple[LiveMap, MapHistory]:
    clock, history = Stopped(), MapHistory(folder)
    live = live_map(history, clock)
    for minute in range(1, minutes):
        clock.at = NOW + timedelta(minutes=minute)
        push(live, moment=clock.at, use=minute % 100)
    return live, history


def test_the_past_comes_back_minute_by_minute_over_files_and_restarts(tmp_path: Path) -> None:
    live, history = lived(tmp_path, 130)
    assert len(list(tmp_path.iterdir())) == 3
    uses = [
        int(one.cells.use[0])
        for one in told(live, EVERYTHING, NOW + timedelta(minutes=58, seconds=30), NOW + timedelta(minutes=64))
    ]
    assert uses == [58, 59, 60, 61, 62, 63]
    history.close()
    again = LiveMap(Stopped(NOW + timedelta(hours=5)), history=MapHistory(tmp_path))
    again.introduce(ALPHA)
    again.introduce(BETA)
    again.publish()
    assert [
        int(one.cells.use[0])
        for one in told(again, EVERYTHING, NOW + timedelta(minutes=129), NOW + timedelta(minutes=140))
    ] == [29]
    assert again.past(EVERYTHING, NOW, NOW + timedelta(hours=6)).spans[0] == (NOW, NOW + timedelta(minutes=129))


def test_the_past_hides_from_a_tenant_what_the_present_hides(tmp_path: Path) -> None:
    live, _history = lived(tmp_path, 3)
    for picture in told(live, UNIVERSITY, NOW, NOW + timedelta(hours=1)):
        assert ids(picture) == {1}
        assert picture.cells.state[8] == CellState.TAKEN


def test_no_more_of_the_past_is_told_than_was_asked_for(tmp_path: Path) -> None:
    live, _history = lived(tmp_path, 10)
    assert len(told(live, EVERYTHING, NOW, NOW + timedelta(hours=1), limit=4)) == 4


@pytest.mark.parametrize("spoil", ["cut", "flip"])
def test_what_a_crash_left_half_written_ends_its_file_and_no_more(tmp_path: Path, spoil: str) -> None:
    live, history = lived(tmp_path, 70)
    history.close()
    first = min(tmp_path.iterdir())
    data = bytearray(first.read_bytes())
    if spoil == "cut":
        del data[-5:]
    else:
        data[-5] ^= 1
    first.write_bytes(data)
    uses = [
        int(one.cells.use[0])
        for one in told(live, EVERYTHING, NOW + timedelta(minutes=57), NOW + timedelta(minutes=62))
    ]
    assert uses == [57, 58, 60, 61]
    assert MapHistory(tmp_path).spans(live.layout().number)


def test_files_older_than_the_days_kept_are_deleted_whole(tmp_path: Path) -> None:
    clock, history = Stopped(), MapHistory(tmp_path, keep=timedelta(days=1))
    live = live_map(history, clock)
    for hour in (1, 26, 27):
        clock.at = NOW + timedelta(hours=hour)
        push(live, moment=clock.at, use=hour)
    assert len(list(tmp_path.iterdir())) == 2
    spans: list[Any] = live.past(EVERYTHING, NOW, clock.at).spans  # type: ignore[assignment]
    assert [begin for begin, _end in spans] == [NOW + timedelta(hours=26), NOW + timedelta(hours=27)]


def test_a_past_under_another_layout_is_not_shown(tmp_path: Path) -> None:
    live, _history = lived(tmp_path, 3)
    live.introduce(cluster("gamma"))
    live.publish()
    assert told(live, EVERYTHING, NOW, NOW + timedelta(hours=1))[0].cells.count == live.layout().cells
