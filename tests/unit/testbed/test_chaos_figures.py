"""What a campaign has cost: effective training time, and a ledger that adds up."""

from __future__ import annotations

import pytest

from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.testbed.chaos_figures import (
    Effect,
    Entry,
    Run,
    Step,
    effect_of,
    expected_ettr,
    ledger_faults,
    total,
)

SUSPECT, DRAINING, DRAINED, CLOSED = (
    IncidentState.SUSPECT,
    IncidentState.DRAINING,
    IncidentState.DRAINED,
    IncidentState.CLOSED,
)


def runs(*spans: tuple[float, float]) -> list[Run]:
    return [Run(started=started, ended=ended) for started, ended in spans]


@pytest.mark.parametrize(
    ("spans", "productive", "expected"),
    [
        pytest.param([(0, 60)], 60, Effect(productive=60, lost=0, waiting=0), id="undisturbed"),
        pytest.param([(0, 62)], 60, Effect(productive=60, lost=2, waiting=0), id="time to start"),
        pytest.param([(0, 30), (35, 80)], 60, Effect(productive=60, lost=15, waiting=5), id="requeued once"),
        pytest.param([(35, 80), (0, 30)], 60, Effect(productive=60, lost=15, waiting=5), id="rows in any order"),
        pytest.param([(0, 59)], 60, Effect(productive=59, lost=0, waiting=0), id="whole seconds of accounting"),
        pytest.param([(0, 30), (29, 60)], 60, Effect(productive=60, lost=1, waiting=0), id="rows that overlap"),
        pytest.param([], 0, Effect(productive=0, lost=0, waiting=0), id="never ran"),
    ],
)
def test_where_the_time_of_a_job_went(spans: list[tuple[float, float]], productive: float, expected: Effect) -> None:
    assert effect_of(runs(*spans), productive=productive) == expected


def test_ettr_is_productive_time_by_time_from_first_start_to_last_end() -> None:
    assert effect_of(runs((0, 30), (35, 80)), productive=60).ettr == pytest.approx(60 / 80)
    assert effect_of([], productive=0).ettr == 1


def test_jobs_count_by_their_gpus() -> None:
    small, large = Effect(productive=1, lost=1, waiting=0), Effect(productive=9, lost=0, waiting=1)
    assert total([(8, small), (24, large)]) == Effect(productive=224, lost=8, waiting=24)


def test_expected_ettr_of_a_failure_a_day_that_costs_six_minutes() -> None:
    assert expected_ettr(nodes=1_000, per_node_day=0.001, cost=360) == pytest.approx(1 - 360 / 86_400)
    assert expected_ettr(nodes=100_000, per_node_day=1, cost=360) == 0


def chain(*states: IncidentState, of: str = "i1") -> list[Step]:
    return [
        Step(incident=of, before=before, after=after) for before, after in zip((None, *states), states, strict=False)
    ]


@pytest.mark.parametrize("action", ["job.requeue", "job.recover"])
def test_a_whole_life_with_its_audit_entries_adds_up(action: str) -> None:
    steps = chain(SUSPECT, DRAINING, DRAINED, CLOSED)
    audit = [Entry(incident="i1", action="node.drain"), Entry(incident="i1", action=action, job=7)]
    assert ledger_faults({"i1": CLOSED}, {"i1": [7]}, steps, audit, 0) == []


@pytest.mark.parametrize(
    ("steps", "state", "jobs", "open_effects", "says"),
    [
        pytest.param(chain(SUSPECT, CLOSED), CLOSED, [], 2, "2 effects", id="an effect nobody closed"),
        pytest.param([], CLOSED, [], 0, "no first step", id="no step at all"),
        pytest.param(chain(SUSPECT, DRAINED, CLOSED), CLOSED, [], 0, "may not go", id="a step left out"),
        pytest.param(chain(SUSPECT), CLOSED, [], 0, "last step", id="ended without a step"),
        pytest.param(chain(SUSPECT, DRAINING), DRAINING, [], 0, "audit trail", id="a drain nobody wrote down"),
        pytest.param(chain(SUSPECT, CLOSED), CLOSED, [7], 0, "job 7", id="a requeue nobody wrote down"),
        pytest.param(
            [*chain(SUSPECT), Step(incident="i1", before=DRAINING, after=DRAINED)],
            DRAINED,
            [],
            0,
            "went on",
            id="a gap",
        ),
        pytest.param([*chain(SUSPECT), *chain(SUSPECT, of="i2")], SUSPECT, [], 0, "no incident", id="steps of nothing"),
    ],
)
def test_what_does_not_add_up_is_said(
    steps: list[Step], state: IncidentState, jobs: list[int], open_effects: int, says: str
) -> None:
    (fault, *_) = [line for line in ledger_faults({"i1": state}, {"i1": jobs}, steps, [], open_effects) if says in line]
    assert fault
