"""Whose fault it is: a job that meets the same error wherever it runs, or the hardware."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.attribution import jobs_at_fault, jobs_that_kill_nodes
from slurm_gpuaas.health.triage import Sighting
from tests.unit.health.sightings import after, xid

NODES = [NodeName(f"b200-{number:03d}") for number in range(1, 6)]


def on(*jobs: tuple[int, ...], code: int = 31) -> list[Sighting]:
    """The same error on one node after the other, each with the jobs that ran there."""
    return [
        xid(code, after(minutes=n), node=node, jobs=theirs)
        for n, (node, theirs) in enumerate(zip(NODES, jobs, strict=False))
    ]


@pytest.mark.parametrize(
    ("what", "sightings", "jobs"),
    [
        ("one job alone on three nodes", on((7,), (7,), (7,)), [7]),
        ("two nodes are too few", on((7,), (7,)), []),
        ("the only job that three shared nodes have in common", on((7, 8), (7, 9), (7, 5)), [7]),
        ("two jobs in common: nobody knows which", on((7, 8), (7, 8), (7, 8)), []),
        ("alone on three of four nodes", on((7,), (7,), (7,), (7, 8)), [7]),
        ("different jobs", on((7,), (8,), (9,)), []),
        ("jobs not known", on((), (), ()), []),
        ("different errors", [*on((7,), (7,)), xid(13, node=NODES[2], jobs=(7,))], []),
        ("three times on one node", [xid(31, after(minutes=n), jobs=(7,)) for n in range(3)], []),
        ("hardware errors are no application errors", on((7,), (7,), (7,), code=79), []),
    ],
)
def test_a_job_is_at_fault_when_it_meets_the_same_error_on_three_nodes(
    what: str, sightings: list[Sighting], jobs: list[int]
) -> None:
    assert [found.job for found in jobs_at_fault(sightings, 3)] == jobs, what


def test_only_events_that_are_the_jobs_for_certain_are_excused() -> None:
    sightings = on((7,), (7,), (7,), (7, 8), (9,))
    (found,) = jobs_at_fault(sightings, 3)
    assert found.event_ids == {one.event.event_id for one in sightings[:3]}
    assert found.nodes == tuple(NODES[:3])


@pytest.mark.parametrize(
    ("what", "sightings", "jobs"),
    [
        ("hardware of three nodes failed under one job", on((7,), (7,), (7,), code=79), [7]),
        ("whatever failed", [*on((7,), (7,), code=79), xid(48, node=NODES[2], jobs=(7,))], [7]),
        ("two nodes", on((7,), (7,), code=79), []),
        ("application errors kill no nodes", on((7,), (7,), (7,)), []),
    ],
)
def test_a_job_under_which_three_nodes_fail_is_named(what: str, sightings: list[Sighting], jobs: list[int]) -> None:
    assert [found.job for found in jobs_that_kill_nodes(sightings, 3)] == jobs, what


@given(st.lists(st.tuples(st.sampled_from(NODES), st.frozensets(st.integers(1, 3), max_size=3)), max_size=12))
def test_no_job_is_blamed_for_what_happened_where_it_did_not_run(seen: list[tuple[NodeName, frozenset[int]]]) -> None:
    sightings = [xid(31, node=node, jobs=tuple(sorted(jobs))) for node, jobs in seen]
    by_id = {one.event.event_id: one for one in sightings}
    for found in jobs_at_fault(sightings, 3):
        assert all(found.job in by_id[event_id].jobs for event_id in found.event_ids)
        assert len({by_id[event_id].event.node for event_id in found.event_ids}) >= 3
