"""Policy documents: what they refuse, and that printing and reading them loses nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from pydantic import ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import GpuModel
from slurm_gpuaas.domain.policy import DOCUMENT, KST, Policy, PolicyDocument, expand_nodes, fold_nodes
from tests.unit.policies import document, grant, member, policies, policy, pool, project, rate

EXAMPLES = Path(__file__).parents[3] / "etc" / "examples"


@settings(deadline=None, max_examples=30)
@given(one=policies())
def test_printed_as_yaml_and_read_again_a_policy_is_the_same(one: Policy) -> None:
    text = yaml.safe_dump_all([document.model_dump(mode="json") for document in one.documents], allow_unicode=True)
    assert Policy.of(DOCUMENT.validate_python(value) for value in yaml.safe_load_all(text)) == one


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("policy-*.yaml")), ids=lambda file: file.name)
def test_the_examples_are_policies_that_promise_no_more_than_there_is(file: Path) -> None:
    example = Policy.of(DOCUMENT.validate_python(value) for value in yaml.safe_load_all(file.read_text()))
    assert example.grants
    assert example.overcommitted(datetime.now(UTC)) == ()


OTHER = pool("other", cluster="mini", shares=[{"name": "own", "nodes": "b200-[08-09]"}])


@pytest.mark.parametrize(
    ("documents", "fault"),
    [
        ([project(organisation="nowhere")], "names organisation nowhere, which is not declared"),
        ([member(of="nothing")], "names project nothing, which is not declared"),
        ([project(), grant(pool="none")], "names pool none, which is not declared"),
        ([project(), grant(share="government")], "names share government; pool mini has own"),
        ([project(), project()], "Project vision is declared 2 times"),
        ([project(), member(), member()], "Member vision/alice is declared 2 times"),
        ([pool(), OTHER], "Node b200-08 of cluster mini is in pools mini and other"),
        (
            [
                project(),
                pool(),
                pool("two", shares=[{"name": "own", "nodes": "c[1-2]"}]),
                grant(),
                grant(pool="two", name="b"),
            ],
            "give project vision two shares of cluster mini at once",
        ),
    ],
)
def test_documents_that_do_not_fit_together_are_refused(documents: list[PolicyDocument], fault: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        policy(*documents)
    assert fault in caught.value.message


def test_every_fault_is_in_one_message() -> None:
    with pytest.raises(InvalidInput) as caught:
        policy(project(organisation="a"), member(of="b"))
    assert "organisation a" in caught.value.message
    assert "project b" in caught.value.message


BACKWARDS: dict[str, object] = {
    "name": "g", "project": "p", "pool": "a", "share": "b", "gpus": 1, "starts": "2027-02-01", "ends": "2027-01-01"
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Grant", BACKWARDS),
        ("Member", {"project": "vision", "user": "Alice"}),
        ("Member", {"project": "vision", "user": "a\tb"}),
        ("Project", {"name": "vision", "organisation": "snu", "colour": "red"}),
        ("Pool", {"name": "p", "cluster": "c", "model": "b200", "shares": [{"name": "s", "nodes": "@all"}]}),
        ("Pool", {"name": "p", "cluster": "c", "model": "b200", "shares": []}),
        ("Nothing", {"name": "x"}),
    ],
    ids=["ends before it starts", "upper case user", "tab", "unknown key", "node group", "no share", "unknown kind"],
)  # fmt: skip
def test_a_document_that_can_never_be_right_is_refused(kind: str, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        document(kind, **fields)


def test_more_guaranteed_than_there_is_is_said_with_numbers() -> None:
    (sentence,) = policy(project(), grant(gpus=65)).overcommitted(datetime(2027, 1, 4, tzinfo=UTC))
    assert sentence == "Share own of pool mini has 64 GPUs; 65 are guaranteed now."


@pytest.mark.parametrize(
    ("why", "documents", "expected"),
    [
        ("spares are not granted",
         [pool(shares=[{"name": "own", "nodes": "b200-[01-08]", "spares": 1}]), grant(gpus=64)],
         ["has 56 GPUs (without 1 spare nodes); 64 are guaranteed now"]),
        ("a later grant is seen today",
         [grant(gpus=40), grant("audio", gpus=32, starts="2027-06-01"), project("audio")],
         ["64 GPUs; 72 are guaranteed from 2027-06-01 on"]),
        ("one that follows another is fine",
         [grant(gpus=64, ends="2027-05-31"), grant("audio", gpus=64, starts="2027-06-01"), project("audio")], []),
        ("what has ended does not count",
         [grant(gpus=64, ends="2026-12-31"), grant("audio", gpus=64), project("audio")], []),
    ],
)  # fmt: skip
def test_guarantees_never_pass_what_a_share_has_at_any_time(
    why: str, documents: list[PolicyDocument], expected: list[str]
) -> None:
    found = policy(project(), *documents).overcommitted(datetime(2027, 1, 4, tzinfo=UTC))
    assert len(found) == len(expected), why
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


def test_node_lists_unfold_and_fold_as_slurm_writes_them() -> None:
    assert expand_nodes("b200-[09-11]") == ("b200-09", "b200-10", "b200-11")
    assert fold_nodes(["b200-11", "b200-09", "b200-10"]) == "b200-[09-11]"


@pytest.mark.parametrize(
    "folded",
    ["n[1-1000000]", "n[1-1000]m[1-1000]", "n[0-9999999999999999999999]", "n[ 1 - 1000000 ]", "a,n[5,1-999999]"],
)
def test_a_short_text_cannot_name_a_million_nodes(folded: str) -> None:
    with pytest.raises(InvalidInput, match="more than 100,000 nodes"):
        expand_nodes(folded)


def test_every_real_cluster_fits() -> None:
    assert len(expand_nodes("b200-[001-957],h200-[001-382],rack[1-9]n[01-32]")) == 957 + 382 + 9 * 32


@pytest.mark.parametrize(
    "fields",
    [
        {"max_time": 0},
        {"max_time": -60},
        {"max_time": "P400D"},
        {"budget_gpu_hours": 99999999999999999999},
        {"max_gpus_per_job": 99999999999999999999},
        {"starts": "0001-01-01"},
    ],
)
def test_numbers_that_nothing_could_work_with_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        grant(**fields)


def test_a_grant_to_the_last_day_of_the_calendar_has_no_end() -> None:
    (endless,) = policy(project(), grant(ends="9999-12-31")).grants
    assert endless.ends_at.astimezone(UTC).year == 9999
    assert endless.active_at(datetime(2500, 1, 1, tzinfo=UTC))


MONTHLY: dict[str, Any] = {"budget_gpu_hours": 1, "budget_period": "month"}


@pytest.mark.parametrize(
    ("documents", "fault"),
    [
        (
            [grant(name="a", price_percent=5), grant(name="b")],
            "Grants a and b of project vision overlap and differ in price",
        ),
        (
            [grant(name="a", **MONTHLY), grant(name="b", budget_gpu_hours=1)],
            "differ in budget_period, carry_over or grace",
        ),
        ([grant(name="a", grace=5, **MONTHLY), grant(name="b", **MONTHLY)], "their budgets are one"),
        ([grant(name="a", budget_won=1)], "Grant a has a budget in Won, but model b200 has no Rate on 2026-01-01."),
        ([grant(name="a", budget_won=1), rate(starts="2026-01-02")], "model b200 has no Rate on 2026-01-01"),
        ([rate(name="x"), rate(name="y")], "Rates x and y of model b200 both start on 2026-01-01."),
    ],
    ids=["two prices", "two periods", "two graces", "Won without a rate", "rate too late", "two rates"],
)
def test_budgets_that_do_not_fit_together_are_refused(documents: list[PolicyDocument], fault: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        policy(project(), *documents)
    assert fault in caught.value.message


def test_grants_after_one_another_may_have_their_own_rules_and_prices() -> None:
    first = grant(name="a", ends="2026-12-31", price_percent=5, **MONTHLY)
    assert policy(project(), first, grant(name="b", starts="2027-01-01", budget_gpu_hours=1))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"grace": 10}, "no budget"),
        ({"budget_period": "month"}, "no budget"),
        ({"budget_gpu_hours": 1, "carry_over": 50}, "budget is for the whole grant"),
        ({"price_percent": 2.125}, "decimal places"),
        ({"price_percent": 101}, "less than or equal to 100"),
        ({"budget_won": 1.5}, "integer"),
    ],
)
def test_a_grants_budget_rules_have_something_to_rule(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        grant(**fields)


def test_a_rate_says_what_it_rests_on() -> None:
    with pytest.raises(ValidationError, match="basis"):
        rate(basis="")


def test_the_newest_rate_that_has_begun_is_in_force() -> None:
    two = policy(rate(), rate(name="later", starts="2026-07-01"))
    months = [(date(2025, 12, 31), None), (date(2026, 1, 1), "b200-2026"), (date(2026, 7, 1), "later")]
    for day, name in months:
        found = two.rate_at(GpuModel("b200"), datetime(day.year, day.month, day.day, tzinfo=KST))
        assert (found.name if found else None) == name
