"""Who is offered freed GPUs."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import ApplicationId, GpuModel, OrganisationName
from slurm_gpuaas.pool.waiting import Freed, PoolShare, Waiting, offers

H200, B200 = GpuModel("h200"), GpuModel("b200")
DAY = date(2027, 1, 1)


def share(name: str, gpus: int, model: GpuModel = B200) -> Freed:
    return Freed(where=PoolShare(name, "government"), model=model, gpus=gpus)


def waits(
    number: int,
    gpus: int,
    least: int | None = None,
    *,
    score: float = 70,
    since: int = 0,
    model: GpuModel | None = None,
    unit: int = 8,
    organisation: str | None = None,
) -> Waiting:
    return Waiting(
        id=ApplicationId(f"a2027-{number:05}"),
        organisation=OrganisationName(organisation or f"org-{number}"),
        score=score,
        since=DAY + timedelta(days=since),
        gpus=gpus,
        min_gpus=least or gpus,
        model=model,
        unit=unit,
    )


def given_to(freed: list[Freed], waiting: list[Waiting], **caps: object) -> list[tuple[int, str, int]]:
    made, _ = offers(freed, waiting, **caps)  # type: ignore[arg-type]
    return [(int(one.id[-5:]), one.where.name, one.gpus) for one in made]


@pytest.mark.parametrize(
    ("freed", "waiting", "made"),
    [
        pytest.param(
            [share("nhn", 16)],
            [waits(1, 16, score=60), waits(2, 16, score=80)],
            [(2, "nhn", 16)],
            id="the higher score first",
        ),
        pytest.param(
            [share("nhn", 16)],
            [waits(1, 16, since=5), waits(2, 16, since=1)],
            [(2, "nhn", 16)],
            id="then who waits longer",
        ),
        pytest.param([share("nhn", 16)], [waits(2, 16), waits(1, 16)], [(1, "nhn", 16)], id="then the lower number"),
        pytest.param([share("nhn", 20)], [waits(1, 64, 8)], [(1, "nhn", 16)], id="a part, in whole servers"),
        pytest.param([share("nhn", 20)], [waits(1, 64, 17)], [], id="not under the minimum, rounded down"),
        pytest.param([share("nhn", 3)], [waits(1, 2, unit=1)], [(1, "nhn", 2)], id="single GPUs in the small tier"),
        pytest.param(
            [share("nhn", 16)],
            [waits(1, 64, 32, score=90), waits(2, 16)],
            [(2, "nhn", 16)],
            id="who needs more is passed over",
        ),
        pytest.param(
            [share("kakao", 64), share("nhn", 16)], [waits(1, 16)], [(1, "nhn", 16)], id="large pieces are kept"
        ),
        pytest.param(
            [share("kakao", 24), share("nhn", 16)],
            [waits(1, 32, 8)],
            [(1, "kakao", 24)],
            id="else as much as there is in one",
        ),
        pytest.param(
            [share("naver", 64, H200), share("nhn", 16)], [waits(1, 16, model=H200)], [(1, "naver", 16)], id="the model"
        ),
        pytest.param(
            [share("nhn", 24)], [waits(1, 16), waits(2, 16, 8)], [(1, "nhn", 16), (2, "nhn", 8)], id="in turn"
        ),
    ],
)
def test_offers(freed: list[Freed], waiting: list[Waiting], made: list[tuple[int, str, int]]) -> None:
    assert given_to(freed, waiting) == made


def test_an_organisation_stays_under_its_cap_with_what_it_holds_and_is_offered() -> None:
    waiting = [waits(1, 32, 8, organisation="snu"), waits(2, 32, 8, organisation="snu"), waits(3, 8)]
    held = {OrganisationName("snu"): 16}
    assert given_to([share("nhn", 64)], waiting, cap=40, held=held) == [(1, "nhn", 24), (3, "nhn", 8)]
    _, passed = offers([share("nhn", 64)], waiting, cap=40, held=held)
    assert [one.why for one in passed] == ["snu holds 40 of at most 40 GPUs; it asks for 8 or more."]


def test_who_is_passed_over_is_told_what_is_missing() -> None:
    _, passed = offers([share("nhn", 12)], [waits(1, 16), waits(2, 8, model=H200)])
    assert [one.why for one in passed] == [
        "It asks for 16 GPUs or more; the most in one share is 12.",
        "It asks for 8 GPUs or more; the most in one share is 0.",
    ]


def test_input_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="there twice"):
        offers([share("nhn", 8), share("nhn", 8)], [])
    with pytest.raises(InvalidInput, match="waits twice"):
        offers([], [waits(1, 8), waits(1, 8)])
    with pytest.raises(InvalidInput):
        offers([share("nhn", -1)], [])
    for bad in ({"gpus": 8, "least": 16}, {"gpus": 0}, {"gpus": 4}, {"gpus": 8, "score": float("nan")}):
        with pytest.raises(InvalidInput):
            waits(1, **bad)


lists = st.lists(
    st.builds(
        lambda gpus, part, score, since, unit, org: (max(gpus, unit), part, score, since, unit, org),
        st.integers(1, 64),
        st.floats(0.01, 1),
        st.sampled_from([10.0, 50.0, 90.0]),
        st.integers(0, 3),
        st.sampled_from([1, 8]),
        st.integers(0, 3),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(lists, st.lists(st.integers(0, 80), min_size=1, max_size=4), st.one_of(st.none(), st.integers(8, 96)))
def test_offers_fit_and_whoever_is_passed_could_not_have_been_served_better_by_those_behind(
    asked: list[tuple[int, float, float, int, int, int]], free: list[int], cap: int | None
) -> None:
    waiting = [
        waits(n, gpus, max(1, int(gpus * part)), score=score, since=since, unit=unit, organisation=f"org-{org}")
        for n, (gpus, part, score, since, unit, org) in enumerate(asked)
    ]
    freed = [share(f"pool-{n}", gpus) for n, gpus in enumerate(free)]
    made, passed = offers(freed, waiting, cap=cap)
    assert offers(list(reversed(freed)), list(reversed(waiting)), cap=cap) == (made, passed)
    assert len(made) + len(passed) == len(waiting)
    by_id = {one.id: one for one in waiting}
    for there in freed:
        assert sum(one.gpus for one in made if one.where == there.where) <= there.gpus
    for organisation in {one.organisation for one in waiting}:
        held = sum(one.gpus for one in made if by_id[one.id].organisation == organisation)
        assert cap is None or held <= cap
    for offer in made:
        one = by_id[offer.id]
        assert one.min_gpus <= offer.gpus <= one.gpus
        assert offer.gpus % one.unit == 0
    # Without those behind, each gets the same: nobody is worse off for somebody behind.
    order = sorted(waiting, key=lambda one: one.order)
    for number in range(len(order)):
        head = {one.id for one in order[: number + 1]}
        alone, _ = offers(freed, order[: number + 1], cap=cap)
        assert alone == [one for one in made if one.id in head]
