"""The award against every possible one, its rules one by one, and what it says about its decisions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.pool import award_table
from slurm_gpuaas.pool.award import Award, OutOfTime, award
from slurm_gpuaas.pool.award_reasons import Limit, reasons, why
from slurm_gpuaas.pool.award_scenario import Scenario, order_of
from slurm_gpuaas.pool.award_solver import _Choice
from tests.unit.pool.awards import Place, best_by_trying, call, places_of, scenario

B200 = {"p1": ("b200", 64)}


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Small enough to try everything; much ties, little fits."""
    scores = draw(st.sampled_from([("80",), ("0", "0.1", "0.3"), ("70", "80", "90"), ("86.666667", "86.666666", "1")]))
    sizes = draw(st.sampled_from([(8, 16), (8, 16, 24), (1, 3, 5, 8), (9, 12, 20), (16, 17, 24)]))
    applications: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 5))):
        gpus = draw(st.sampled_from(sizes))
        applications.append(
            {
                "gpus": gpus,
                "min_gpus": draw(st.sampled_from(sorted({1, min(8, gpus), gpus}))),
                "score": draw(st.sampled_from(scores)),
                "model": draw(st.sampled_from(["b200", "b200", "h200", "any"])),
                "organisation": draw(st.sampled_from(["snu", "kaist"])),
                "region": draw(st.sampled_from(["seoul", "daejeon"])),
            }
        )
    capacity = st.sampled_from([0, 7, 8, 12, 16, 20, 24, 1_000_000])
    names = draw(st.permutations(["p1", "p2", "p10"]))[: draw(st.integers(0, 3))]
    pools = {name: (draw(st.sampled_from(["b200", "b200", "h200"])), draw(capacity)) for name in names}
    cap = st.none() | st.sampled_from([0, 8, 12, 16, 24, 40])
    return scenario(
        applications,
        pools,
        organisation=draw(cap),
        region=draw(cap),
        per_project=draw(st.none() | st.sampled_from([8, 16])),
    )


@contextmanager
def tried_at_most(beginnings: int) -> Iterator[None]:
    """With 0 every award is searched for by integer programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(award_table, "MOST_BEGINNINGS", beginnings)
        patch.setattr(award_table, "LARGEST_WORD", 1)  # each row and each candidate is a word
        patch.setattr(award_table, "MOST_OPEN", -1 if not beginnings else award_table.MOST_OPEN)
        yield


both_ways = pytest.mark.parametrize("beginnings", [0, award_table.MOST_BEGINNINGS], ids=["searched", "gone through"])


@both_ways
@settings(max_examples=100, deadline=None)
@given(known=scenarios())
def test_it_is_the_best_of_all_possible_awards_by_every_rule(beginnings: int, known: Scenario) -> None:
    with tried_at_most(beginnings):
        assert places_of(award(known)) == best_by_trying(known)


@both_ways
@settings(max_examples=40, deadline=None)
@given(known=scenarios(), data=st.data())
def test_with_applications_that_must_be_awarded_it_is_the_best_of_those_that_do(
    beginnings: int, known: Scenario, data: st.DataObject
) -> None:
    ids = [one.id for one in known.applications]
    must = frozenset(data.draw(st.lists(st.sampled_from(ids), max_size=2))) if ids else frozenset()
    best = best_by_trying(known, must)
    with tried_at_most(beginnings):
        if best is None:
            with pytest.raises(Refused):
                award(known, must=must)
        else:
            assert places_of(award(known, must=must)) == best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scores", [None, (60.0, 70.0)], ids=["scores", "ties"])
@pytest.mark.parametrize("capped", [False, True], ids=["free", "capped"])
def test_going_through_all_and_searching_agree(seed: int, scores: tuple[float, ...] | None, capped: bool) -> None:
    known = call(seed, applications=14, small=0.3, scores=scores, capped=capped)
    with tried_at_most(0):
        searched = award(known)
    assert places_of(award(known)) == places_of(searched)


def national(seed: int) -> Scenario:
    """40 applications for 160 to 1280 GPUs, 4 for a few, in three pools that hold half of what is asked: servers by
    the thousand, scores of two decimals."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(44):
        gpus = chance.choice((1, 2, 4)) if number % 11 == 10 else chance.choice((160, 160, 320, 320, 480, 640, 1280))
        rows.append(
            {
                "gpus": gpus,
                "min_gpus": -(-gpus // 2),
                "score": round(chance.uniform(65, 95), 2),
                "model": chance.choice(("any", "h200", "b200")),
            }
        )
    pools = {"naver": ("h200", 2296), "kakao": ("b200", 2040), "nhn": ("b200", 6120)}
    return scenario(rows, pools)


@pytest.mark.parametrize("seed", [3, 7, 15])
def test_large_awards_to_the_last_server_are_proven_without_a_search(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(self: _Choice) -> list[int]:
        raise AssertionError("gone through all of them, there is nothing to search for")

    monkeypatch.setattr(_Choice, "most_worth", search)
    known = national(seed)
    found = award(known)
    _check_limits(known, found)
    assert sum(one.partial for one in found.awarded.values()) >= 1


def test_when_the_time_is_up_going_through_all_ends() -> None:
    now = itertools.count()
    with pytest.raises(OutOfTime):
        award(national(7), time_limit_s=5.0, clock=lambda: float(next(now)))


def test_going_through_all_is_given_up_where_there_are_too_many() -> None:
    known = call(4, applications=30)
    with tried_at_most(1):
        few = award(known)
    assert places_of(few) == places_of(award(known))


@settings(max_examples=60, deadline=None)
@given(scenarios(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(known: Scenario, chance: random.Random) -> None:
    applications, pools = list(known.applications), list(known.pools)
    chance.shuffle(applications)
    chance.shuffle(pools)
    shuffled = known.model_copy(update={"applications": tuple(applications), "pools": tuple(pools)})
    assert places_of(award(shuffled)) == places_of(award(known))


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_every_refusal_and_every_partial_award_has_a_reason_that_its_numbers_bear_out(known: Scenario) -> None:
    found = award(known)
    for application in known.applications:
        held = found.awarded.get(application.id)
        if held and not held.partial:
            assert reasons(found, application) == ()
            continue
        given_reasons = reasons(found, application)
        assert given_reasons
        for reason in given_reasons:
            if reason.limit in (Limit.ORGANISATION, Limit.REGION, Limit.CAPACITY, Limit.POOL_SIZE):
                assert reason.left < reason.needed
            if reason.limit is Limit.NO_SCORE:
                assert application.score == 0


RULES: dict[str, tuple[list[dict[str, Any]], dict[str, tuple[str, int]], dict[str, int | None], dict[str, Place]]] = {
    "a larger sum goes before a higher score": (
        [{"gpus": 8, "score": 99}, {"gpus": 64, "score": 50}],
        {"p": ("b200", 64)},
        {},
        {"a2": ("p", 64)},
    ),
    "a part in whole servers fills what is left": (
        [{"gpus": 32, "score": 90}, {"gpus": 32, "min_gpus": 8, "score": 80}],
        {"p": ("b200", 52)},
        {},
        {"a1": ("p", 32), "a2": ("p", 16)},
    ),
    "no part under the minimum": (
        [{"gpus": 32, "score": 90}, {"gpus": 32, "min_gpus": 17, "score": 80}],
        {"p": ("b200", 52)},
        {},
        {"a1": ("p", 32)},
    ),
    "fewer parts at the same sum": (
        [{"gpus": 16, "min_gpus": 8}, {"gpus": 16, "min_gpus": 8}, {"gpus": 8}, {"gpus": 8}],
        {"p": ("b200", 24)},
        {},
        {"a1": ("p", 16), "a3": ("p", 8)},
    ),
    "the earlier id at the same sum, numbers as numbers": (
        [{"id": "a10", "gpus": 8}, {"id": "a9", "gpus": 8}, {"id": "b1", "gpus": 8}],
        {"p": ("b200", 16)},
        {},
        {"a9": ("p", 8), "a10": ("p", 8)},
    ),
    "one award is in one pool": (
        [{"gpus": 16, "score": 99}, {"gpus": 8, "score": 1}],
        {"p": ("b200", 8), "q": ("b200", 8)},
        {},
        {"a2": ("p", 8)},
    ),
    "who can be anywhere leaves the scarce model to who cannot": (
        [{"gpus": 8, "model": "any"}, {"gpus": 8, "model": "h200"}],
        {"h": ("h200", 8), "z": ("b200", 8)},
        {},
        {"a1": ("z", 8), "a2": ("h", 8)},
    ),
    "the larger award in the earlier pool by name, if all others still fit": (
        [{"gpus": 8}, {"gpus": 16}, {"gpus": 8}, {"gpus": 32}],
        {"p10": ("b200", 36), "p9": ("b200", 32)},
        {},
        {"a1": ("p10", 8), "a2": ("p10", 16), "a3": ("p10", 8), "a4": ("p9", 32)},
    ),
    "an organisation's cap leaves room for others": (
        [{"gpus": 32, "score": 99}, {"gpus": 32, "score": 98}, {"gpus": 32, "score": 10, "organisation": "kaist"}],
        {"p": ("b200", 96)},
        {"organisation": 40},
        {"a1": ("p", 32), "a3": ("p", 32)},
    ),
    "a cap allows a part of what is asked": (
        [{"gpus": 64, "min_gpus": 16}],
        {"p": ("b200", 96)},
        {"per_project": 20},
        {"a1": ("p", 16)},
    ),
    "at score 0 all or nothing": (
        [{"gpus": 8, "score": 0}, {"gpus": 16, "min_gpus": 8, "score": 0}],
        {"p": ("b200", 16)},
        {},
        {"a1": ("p", 8)},
    ),
    "noise below the sixth decimal is no difference": (
        [{"gpus": 8, "score": 86.66666666666666}, {"gpus": 8, "score": 86.66666666666667}],
        {"p": ("b200", 8)},
        {},
        {"a1": ("p", 8)},
    ),
    "a millionth of a point is": (
        [{"gpus": 8, "score": "86.666666"}, {"gpus": 8, "score": "86.666667"}],
        {"p": ("b200", 8)},
        {},
        {"a2": ("p", 8)},
    ),
    "single GPUs": ([{"gpus": 3}, {"gpus": 5}, {"gpus": 1}], {"p": ("b200", 8)}, {}, {"a1": ("p", 3), "a2": ("p", 5)}),
    "no pool": ([{"gpus": 8}], {}, {}, {}),
    "an empty pool": ([{"gpus": 8}], {"p": ("b200", 0)}, {}, {}),
    "nobody applies": ([], {"p": ("b200", 8)}, {}, {}),
    "more room than anybody asks for": ([{"gpus": 8}], {"p": ("b200", 1_000_000)}, {}, {"a1": ("p", 8)}),
    "two pools of 12 hold two servers, not three": (
        [{"gpus": 8}, {"gpus": 8}, {"gpus": 8}],
        {"p": ("b200", 12), "q": ("b200", 12)},
        {},
        {"a1": ("p", 8), "a2": ("q", 8)},
    ),
    "what fits the pools only together is not awarded": (
        [{"gpus": 9, "score": 80}, {"gpus": 9, "score": 80}, {"gpus": 6, "score": 80}, {"gpus": 5, "score": 80}],
        {"p": ("b200", 14), "q": ("b200", 14)},
        {},
        {"a1": ("p", 9), "a2": ("q", 9), "a4": ("p", 5)},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    applications, pools, caps, expected = RULES[rule]
    known = scenario(applications, pools, **caps)
    assert places_of(award(known)) == expected == best_by_trying(known)


def test_the_objective_is_exact() -> None:
    found = award(scenario([{"gpus": 3, "score": 0.1}, {"gpus": 1, "score": "86.333333"}], B200))
    assert found.objective == Decimal("86.633333")


def test_every_limit_is_named_with_its_numbers_and_who_holds_it() -> None:
    known = scenario(
        [
            {"gpus": 16, "score": 90},
            {"gpus": 8, "score": 70, "organisation": "kaist"},
            {"gpus": 16, "score": 60, "min_gpus": 1},
            {"gpus": 8, "score": 50, "organisation": "kaist", "model": "h200"},
            {"gpus": 64, "score": 40, "min_gpus": 40, "organisation": "unist"},
            {"gpus": 8, "score": 30, "organisation": "unist"},
        ],
        {"p": ("b200", 24)},
        organisation=32,
        region=64,
    )
    found = award(known)
    by_id = {one.id: one for one in known.applications}
    assert places_of(found) == {"a1": ("p", 16), "a2": ("p", 8)}
    limits = {id_: [reason.limit for reason in reasons(found, by_id[id_])] for id_ in ("a3", "a4", "a5", "a6")}
    assert limits == {"a3": [Limit.CAPACITY], "a4": [Limit.NO_POOL], "a5": [Limit.CAP], "a6": [Limit.CAPACITY]}
    assert why(found, by_id["a6"]) == (
        "An award of 8 GPUs fits no pool (p): the most that one has left for it is 0 GPUs; held by a2 (score 70, "
        "8 GPUs), a1 (score 90, 16 GPUs)."
    )
    assert "a5" not in found.awarded
    assert "needs 40 at least; the cap organisation allows 32" in why(found, by_id["a5"])


def test_a_cap_that_others_use_up_is_told_with_them() -> None:
    known = scenario([{"gpus": 16, "score": 90}, {"gpus": 16, "score": 80}], {"p": ("b200", 64)}, organisation=24)
    assert why(award(known), known.applications[1]) == (
        "Organisation snu may have 24 GPUs: 16 awarded and 16 more pass it; held by a1 (score 90, 16 GPUs)."
    )


def test_a_lower_score_that_holds_gpus_is_said() -> None:
    known = scenario([{"gpus": 24, "score": 90}, {"gpus": 32, "score": 80}], {"p": ("b200", 32)})
    assert "1 of them have scores below 90" in why(award(known), known.applications[0])


@pytest.mark.parametrize(
    ("change", "place", "fault"),
    [
        ({"gpus": 0}, ("applications", 0, "gpus"), "greater than or equal to 1"),
        ({"gpus": 8, "min_gpus": 9}, ("applications", 0), "asks for 8 GPUs and needs 9"),
        ({"gpus": 8, "score": -1}, ("applications", 0, "score"), "greater than or equal to 0"),
        ({"gpus": 8, "score": "nan"}, ("applications", 0, "score"), "finite"),
        ({"gpus": 8, "score": 1e300}, ("applications", 0, "score"), "less than or equal to 1000000"),
        ({"gpus": 8.5}, ("applications", 0, "gpus"), "valid integer"),
        ({"gpus": 8, "colour": "red"}, ("applications", 0, "colour"), "Extra inputs"),
        ({"gpus": 8, "id": "a\n1"}, ("applications", 0, "id"), "cannot be printed"),
    ],
)
def test_a_fault_has_its_place(change: dict[str, Any], place: tuple[Any, ...], fault: str) -> None:
    with pytest.raises(ValidationError) as caught:
        scenario([change], B200)
    found = caught.value.errors()[0]
    assert found["loc"] == place
    assert fault in found["msg"]


def test_names_are_unique_and_a_pool_names_its_model() -> None:
    with pytest.raises(ValidationError, match="There are 2 applications a1"):
        scenario([{"id": "a1", "gpus": 8}, {"id": "a1", "gpus": 8}], B200)
    with pytest.raises(ValidationError, match="names no model"):
        scenario([], {"p": ("any", 8)})


def test_scores_that_cannot_be_added_exactly_are_refused() -> None:
    with pytest.raises(InvalidInput, match="added exactly"):
        award(scenario([{"gpus": 900_000, "score": "999999.000001"}, {"gpus": 1}], {"p": ("b200", 1_000_000)}))


def test_when_the_time_is_up_there_is_no_award() -> None:
    now = itertools.count()
    with pytest.raises(OutOfTime, match=r"No award was proven to be the best in 0\.001 s"):
        award(call(3), time_limit_s=0.001, clock=lambda: float(next(now)))


def test_must_names_applications_that_there_are() -> None:
    with pytest.raises(InvalidInput, match="There is no application a7"):
        award(scenario([{"gpus": 8}], B200), must=frozenset({"a7"}))


@pytest.mark.parametrize("capped", [False, True])
def test_a_call_of_some_size_keeps_every_limit_and_its_refusals_hold(capped: bool) -> None:
    known = call(5, applications=60, capped=capped)
    found = award(known)
    _check_limits(known, found)
    for application in found.refused:
        assert reasons(found, application)


def _check_limits(known: Scenario, found: Award) -> None:
    for pool in known.pools:
        assert found.free(pool) >= 0
    for groups, cap in ((found.by_organisation, known.caps.organisation), (found.by_region, known.caps.region)):
        assert cap is None or all(sum(one.gpus for one in awards) <= cap for awards in groups.values())
    for one in found.awarded.values():
        assert one.pool.model == one.application.model or one.application.model == "any"
        assert one.gpus == one.application.gpus or (one.gpus % 8 == 0 and one.gpus >= one.application.min_gpus)
        assert known.caps.per_project is None or one.gpus <= known.caps.per_project


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scores", [None, (60.0, 70.0)], ids=["scores", "ties"])
def test_what_is_closed_because_no_best_award_holds_it_is_held_by_none(
    monkeypatch: pytest.MonkeyPatch, seed: int, scores: tuple[float, ...] | None
) -> None:
    known = call(seed, applications=40, scores=scores)
    monkeypatch.setattr(_Choice, "listed", lambda self, reached=None: None)
    quick = award(known)
    monkeypatch.setattr(_Choice, "_rule_out", lambda self, reached: None)
    assert places_of(award(known)) == places_of(quick)


def test_ids_go_by_their_numbers() -> None:
    names = ["a10", "a2", "b1", "a2026-00010", "a2026-00009", "a02", "7"]
    assert sorted(names, key=order_of) == ["7", "a02", "a2", "a10", "a2026-00009", "a2026-00010", "b1"]
