"""What the fields of an application mean, and what is told beside each."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.applications import check_request
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.programmes import OrganisationKind
from slurm_gpuaas.domain.workloads import MOST_TOKENS
from slurm_gpuaas.pool.proposal import offered_by
from slurm_gpuaas.portal.routes.application_form import ALL_FIELDS, STEP_OF, Desk, FormStep, number, read, whole
from tests.fakes import FakeClock
from tests.unit.pool.scene import NAVER, NHN, START, organisation, programme, share

FIELDS = {
    "call": "1",
    "title": "Speech",
    "purpose": "For all",
    "workload": "8B, from scratch",
    "kind": "pre-training",
    "model": "b200",
    "days": "60",
    "precision": "bf16",
    "parameters": "80억",
    "tokens": "1조",
    "starts": "2027-02-01",
    "gpus": "16",
    "min_gpus": "8",
}


def desk(kind: OrganisationKind = OrganisationKind.UNIVERSITY, **rules: Any) -> Desk:
    declared, clock = programme(**rules), FakeClock(START)
    return Desk(
        programme=declared,
        organisation=organisation("snu", kind),
        clock=clock,
        today=korean_day(clock.now()),
        measured=(),
        offered=offered_by(declared, [share(NAVER, 32), share(NHN, 64)]),
    )


def test_a_form_without_faults_is_an_application_that_no_rule_forbids() -> None:
    at = desk()
    form = read(FIELDS, at)
    assert form.request is not None and form.faults == {}
    check_request(form.request, at.programme, at.organisation, now=START)
    assert (form.request.ends, form.proposed) == (date(2027, 4, 1), 16)
    assert all(form.done(step) for step in FormStep)


@pytest.mark.parametrize(
    ("changed", "field", "parts"),
    [
        ({"call": "2"}, "call", "call 2"),
        ({"title": ""}, "title", "1 to 200"),
        ({"title": "a\nb"}, "title", "one line"),
        ({"purpose": "x" * 4_001}, "purpose", "4000"),
        ({"purpose": "a\x00b"}, "purpose", "control"),
        ({"workload": " "}, "workload", "1 to 4000"),
        ({"kind": ""}, "kind", "list"),
        ({"kind": "other"}, "gpu_hours", "number"),
        ({"model": "a100"}, "model", "h200, b200"),
        ({"model": "A 100"}, "model", "list"),
        ({"days": "366"}, "days", "366 days are more than the 365"),
        ({"days": "0"}, "days", "1 to 1100"),
        ({"precision": "int3"}, "precision", "list"),
        ({"parameters": "8X"}, "parameters", "8B"),
        ({"parameters": "5"}, "parameters", "from 1000000 to 100000000000000"),
        ({"tokens": ""}, "tokens", "8B"),
        ({"active_parameters": "9B"}, "active_parameters", "9e+09 parameters are active of 8e+09"),
        ({"layers": "many"}, "layers", "1 to 10000"),
        ({"starts": "2027-01-03"}, "starts", "2027-01-03; today is 2027-01-04"),
        ({"starts": "2027-02-30"}, "starts", "2027-03-01"),
        ({"starts": "2199-12-31"}, "starts", "2199-12-31"),
        ({"gpus": "12"}, "gpus", "12 GPUs are no size"),
        ({"gpus": "32"}, "why", "proposes 16 GPUs"),
        ({"precision": "fp4", "model": "h200"}, "why", "proposes nothing"),
        ({"min_gpus": "32"}, "min_gpus", "At least 32 GPUs are more than the 16"),
        ({"budget_won": "1000"}, "budget_won", "no budget in Won"),
        ({"budget_won": "-1"}, "budget_won", "whole number"),
    ],
)
def test_what_is_wrong_is_told_beside_its_field_alone(changed: dict[str, str], field: str, parts: str) -> None:
    form = read(FIELDS | changed, desk())
    assert list(form.faults) == [field]
    assert parts in form.faults[field]
    assert form.request is None
    assert not form.done(STEP_OF[field]) and not form.done(FormStep.CHECK)


def test_who_a_programme_is_not_for_is_told_beside_the_call() -> None:
    form = read(FIELDS, desk(OrganisationKind.RESEARCH_INSTITUTE))
    assert "registered as research-institute" in form.faults["call"]


def test_with_a_cap_in_won_each_application_says_how_much_of_it() -> None:
    at = desk(cap_won=1_000_000)
    assert "at most 1000000 Won" in read(FIELDS, at).faults["budget_won"]
    assert "asks for 2000000" in read(FIELDS | {"budget_won": "2,000,000"}, at).faults["budget_won"]
    form = read(FIELDS | {"budget_won": "1,000,000"}, at)
    assert form.request is not None and form.request.budget_won == 1_000_000


@given(st.dictionaries(st.sampled_from(sorted(ALL_FIELDS)), st.text("0189eBT억-., \x00\n가", max_size=9)))
def test_whatever_is_typed_is_read_without_an_error(fields: dict[str, str]) -> None:
    at = desk()
    form = read(FIELDS | fields, at)
    assert (form.request is None) is bool(form.faults)
    if form.request is not None:
        check_request(form.request, at.programme, at.organisation, now=START)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8e9", 8e9),
        ("8B", 8e9),
        ("80억", 8e9),
        ("1.5T", 1.5e12),
        ("2조", 2e12),
        ("1,000", 1e3),
        ("5만", 5e4),
        ("7 b", 7e9),
    ],
)
def test_numbers_are_taken_as_people_write_them(text: str, value: float) -> None:
    assert number(1, MOST_TOKENS)(text) == value


@pytest.mark.parametrize("text", ["", "B", "1e", "-1", "nan", "inf", "1e999", "٣", "1.2.3", "9" * 41, "8bb"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        number(1, MOST_TOKENS)(text)
    if text != "9" * 41:
        with pytest.raises(InvalidInput):
            whole(1, 10)(text)
