"""What may follow what: every step from every state, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

import pytest

from slurm_gpuaas.domain.applications import APPLICATION_STEPS, Application, ApplicationState
from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.names import (
    ApplicationId,
    AwardId,
    ChangeId,
    OfferId,
    OrganisationName,
    PoolGrantId,
    ProgrammeName,
)
from slurm_gpuaas.domain.pool_grants import (
    AWARD_STEPS,
    CHANGE_STEPS,
    GRANT_STEPS,
    OFFER_STEPS,
    Award,
    GrantChange,
    NotAwarded,
    Offer,
    PoolGrant,
    PoolGrantState,
    due,
    project_name,
)
from slurm_gpuaas.domain.stages import Staged, stepped
from slurm_gpuaas.domain.told import Told
from tests.unit.pool.scene import KIM, NAVER, START, TODAY, request

KINDS: dict[str, tuple[Any, Mapping[StrEnum, Any], Any]] = {
    "application": (
        Application(id=ApplicationId("a2027-00001"), request=request(), applicant=KIM.person, submitted_at=START),
        APPLICATION_STEPS,
        {
            "submitted": {"begin review": "in review", "withdraw": "withdrawn"},
            "in review": {
                "award": "awarded",
                "put on the waiting list": "waiting",
                "refuse": "refused",
                "withdraw": "withdrawn",
            },
            "waiting": {"award": "awarded", "refuse": "refused", "withdraw": "withdrawn"},
            "awarded": {"lose the offer": "withdrawn"},
            "refused": {},
            "withdrawn": {},
        },
    ),
    "award": (
        Award(
            id=AwardId("w2027-00001"),
            programme=ProgrammeName("national"),
            refused=(NotAwarded(application=ApplicationId("a2027-00001"), why="No plan."),),
            drafted_by=KIM.person,
        ),
        AWARD_STEPS,
        {"drafted": {"approve": "approved", "drop": "dropped"}, "approved": {}, "dropped": {}},
    ),
    "offer": (
        Offer(
            id=OfferId("o2027-00001"),
            application=ApplicationId("a2027-00001"),
            organisation=OrganisationName("snu"),
            programme=ProgrammeName("national"),
            share=NAVER,
            gpus=16,
            starts=TODAY,
            ends=TODAY,
            price_percent=0,
            answer_by=START,
        ),
        OFFER_STEPS,
        {
            "made": {"accept": "accepted", "decline": "declined", "lapse": "lapsed"},
            "accepted": {},
            "declined": {},
            "lapsed": {},
        },
    ),
    "grant": (
        PoolGrant(
            id=PoolGrantId("g2027-00001"),
            offer=OfferId("o2027-00001"),
            application=ApplicationId("a2027-00001"),
            organisation=OrganisationName("snu"),
            programme=ProgrammeName("national"),
            project=project_name(OrganisationName("snu"), PoolGrantId("g2027-00001")),
            title="Model",
            share=NAVER,
            gpus=16,
            starts=TODAY,
            ends=TODAY + timedelta(days=60),
            price_percent=0,
            grace_days=14,
        ),
        GRANT_STEPS,
        {
            "scheduled": {
                "activate": "active",
                "change": "scheduled",
                "shrink": "scheduled",
                "return early": "scheduled",
                "recall": "ending",
                "change members": "scheduled",
                "run out": "ending",
            },
            "active": {
                "change": "active",
                "shrink": "active",
                "return early": "active",
                "recall": "ending",
                "warn": "active",
                "change members": "active",
                "hand in the report": "active",
                "run out": "ending",
            },
            "ending": {"change members": "ending", "hand in the report": "ending", "close": "ended"},
            "ended": {"hand in the report": "ended"},
        },
    ),
    "change": (
        GrantChange(
            id=ChangeId("c2027-00001"),
            grant=PoolGrantId("g2027-00001"),
            gpus=8,
            ends=TODAY,
            reason="Less.",
            asked_by=KIM.person,
        ),
        CHANGE_STEPS,
        {
            "asked": {"approve": "approved", "refuse": "refused", "drop": "dropped"},
            "approved": {},
            "refused": {},
            "dropped": {},
        },
    ),
}
STEPS = [
    (kind, state, step, targets.get(str(step)))
    for kind, (thing, steps, table) in KINDS.items()
    for state, targets in table.items()
    for step in steps
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_names_every_state(kind: str) -> None:
    thing, _, table = KINDS[kind]
    states: type[StrEnum] = type(thing.state)
    assert set(table) == set(states)


@pytest.mark.parametrize(("kind", "state", "step", "target"), STEPS)
def test_every_step_from_every_state(kind: str, state: str, step: StrEnum, target: str | None) -> None:
    first, steps, _ = KINDS[kind]
    thing: Staged[Any] = type(first).model_validate(first.model_dump() | {"state": state})
    if target is None:
        with pytest.raises(Conflict) as refused:
            stepped(thing, "it", steps, step, by="p-kimsnu", at=START)
        assert isinstance(refused.value.message, Told)
        assert refused.value.message.startswith(f"it is {state}; {step} is possible only while it is ")
        return
    after = stepped(thing, "it", steps, step, by="p-kimsnu", at=START, reason="So.")
    assert after.state == target
    assert [(one.at, one.by, one.step, one.reason) for one in after.history] == [(START, "p-kimsnu", step, "So.")]


def test_states_have_no_way_back_to_where_gpus_are_promised() -> None:
    """Only a new application leads to new GPUs."""
    assert {step.target for step in APPLICATION_STEPS.values() if ApplicationState.REFUSED in step.sources} == set()
    over = {PoolGrantState.ENDING, PoolGrantState.ENDED}
    for step in GRANT_STEPS.values():
        if step.sources & over:
            assert step.target in {None, PoolGrantState.ENDED}


@pytest.mark.parametrize(
    ("organisation", "project"),
    [("snu", "snu-2027-00001"), ("a" * 30, "a" * 19 + "-2027-00001"), ("a" * 18 + "-b", "a" * 18 + "-2027-00001")],
)
def test_a_project_is_named_after_organisation_and_number(organisation: str, project: str) -> None:
    assert project_name(OrganisationName(organisation), PoolGrantId("g2027-00001")) == project


def test_a_grant_that_nobody_looked_at_catches_up_step_by_step() -> None:
    grant: PoolGrant = KINDS["grant"][0]
    steps = []
    late = START + timedelta(days=400)
    while (after := due(grant, (30, 14), by="calendar", at=late)) is not None:
        grant = after
        steps.append(grant.history[-1].step)
    assert steps == ["activate", "run out", "close"]
    assert grant.grace_until == grant.ends + timedelta(days=14)


def test_nothing_is_due_on_the_last_day_of_a_grace() -> None:
    grant: PoolGrant = KINDS["grant"][0].model_copy(
        update={"state": PoolGrantState.ENDING, "grace_until": date(2027, 1, 4)}
    )
    assert due(grant, (), by="calendar", at=START) is None
    assert due(grant, (), by="calendar", at=START + timedelta(hours=15)) is not None  # midnight in Korea
