"""How many GPUs a workload needs, and how that was worked out."""

from __future__ import annotations

from dataclasses import replace
from math import isclose
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.names import GpuModel
from slurm_gpuaas.domain.told import Told
from slurm_gpuaas.domain.workloads import Kind, Measured, Precision
from slurm_gpuaas.pool import sizing_figures as known
from slurm_gpuaas.pool.sizing import Offered, Origin, Sizing, SizingQuestion, size

HUGE = {"offered": {"most": 100_000}}


def ask(**fields: Any) -> Sizing:
    given = {"kind": "pre-training", "model": "b200", "parameters": 8e9, "tokens": 1e12, "period_days": 60, **fields}
    return size(SizingQuestion.model_validate(given))


def figure(answer: Sizing, name: str) -> Any:
    return next(one for one in answer.figures if one.name == name)


def test_a_pre_training_run_by_hand() -> None:
    """6 x 8e9 x 1e12 = 4.8e22; 2.25e15 x 0.38 x 0.9 x 0.85 x 60 d = 3.391e21 a GPU: 14.2."""
    answer = ask()
    assert answer.exact[1] == pytest.approx(4.8e22 / (2.25e15 * 0.38 * 0.9 * 0.85 * 60 * 86_400))
    assert round(answer.exact[1], 1) == 14.2
    assert (answer.gpus, answer.low, answer.high) == (16, 16, 32)
    assert answer.exact[0] < answer.exact[1] < answer.exact[2]


def test_llama_3_405b_comes_out_near_what_it_took() -> None:
    """30.84 M H100 hours for 15.6 T tokens (model card): an H200 computes like an H100. 54 days on 16,384 are 21 M."""
    answer = ask(model="h200", parameters=405e9, tokens=15.6e12, period_days=100, **HUGE)
    hours = [gpus * 100 * 24 for gpus in answer.exact]
    assert hours[0] < 30.84e6 < hours[2]


@pytest.mark.parametrize(
    ("kind", "per_token"),
    [("pre-training", 6), ("fine-tuning", 6), ("fine-tuning-lora", 4), ("reinforcement", 10), ("inference", 2)],
)
def test_flops_per_parameter_and_token(kind: str, per_token: int) -> None:
    answer = ask(kind=kind, peak_over_mean=1)
    mfu, use, ettr = (figure(answer, name).value for name in ("MFU", "in use", "ETTR"))
    flops = answer.exact[1] * 2.25e15 * mfu * use * ettr * 60 * 86_400
    assert flops == pytest.approx(per_token * 8e9 * 1e12)


def test_a_mixture_of_experts_computes_with_its_active_parameters_and_keeps_all() -> None:
    dense, sparse = ask(parameters=200e9, **HUGE), ask(parameters=200e9, active_parameters=20e9, **HUGE)
    assert sparse.exact[1] == pytest.approx(dense.exact[1] / 10 / known.MOE_MFU)
    assert sparse.least == dense.least == 24


def test_long_sequences_cost_attention_and_a_caution_where_nothing_is_known_of_it() -> None:
    plain = ask(sequence_length=131_072)
    assert any("attention is left out" in caution for caution in plain.cautions)
    told = ask(sequence_length=131_072, layers=32, width=4096)
    assert told.exact[1] / plain.exact[1] == pytest.approx(1 + 4 * 32 * 4096 * 131_072 / (2 * 8e9))
    assert not any("attention" in caution for caution in told.cautions)


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        ({"parameters": 8e9}, 1),  # 128 GB in 135
        ({"parameters": 70e9}, 9),  # 1,120 GB
        ({"parameters": 70e9, "model": "h200"}, 11),
        ({"parameters": 70e9, "kind": "fine-tuning-lora"}, 2),  # 154 GB
        ({"parameters": 70e9, "kind": "reinforcement"}, 11),  # 1,400 GB
        ({"parameters": 405e9, "kind": "inference", "precision": "fp8", "concurrent_sequences": 1}, 3),
        ({"parameters": 8e9, "kind": "inference", "concurrent_sequences": 1000, "sequence_length": 8192}, 7),
    ],
)
def test_the_memory_needs_so_many_at_least(fields: dict[str, Any], least: int) -> None:
    answer = ask(**{"tokens": 1e6, **fields})
    assert answer.least == least
    assert answer.gpus >= least


def test_state_that_is_not_spread_must_fit_on_one() -> None:
    assert ask(sharding="none").gpus == 16
    with pytest.raises(Refused, match="1120 GB do not fit on one b200, which has 135 GB"):
        ask(parameters=70e9, sharding="none")
    with pytest.raises(Refused, match="memory needs 1186 GPUs; at most 256"):
        ask(parameters=1e13)


def test_what_was_measured_takes_the_place_of_assumptions() -> None:
    measured = [
        {"grant": "a", "gpu_hours": 3000, "mfu": 0.2, "ettr": 0.8, "allocated": 0.9},
        {"grant": "b", "gpu_hours": 1000, "mfu": 0.4},
        {"grant": "c", "gpu_hours": 9e8, "mfu": 0.9, "precision": "fp8"},
    ]
    answer = ask(measured=measured)
    mfu = figure(answer, "MFU")
    assert (mfu.value, mfu.low, mfu.high) == pytest.approx((0.25, 0.17, 0.46))
    assert mfu.origin is Origin.MEASURED
    assert figure(answer, "ETTR").value == pytest.approx(0.8)
    assert figure(answer, "in use").value == pytest.approx(0.9)
    assert figure(ask(), "MFU").origin is Origin.READ


def test_mfu_is_never_above_the_part_of_the_time_in_which_gpus_were_busy() -> None:
    answer = ask(measured=[{"grant": "a", "gpu_hours": 10, "busy": 0.2}])
    mfu = figure(answer, "MFU")
    assert (mfu.low, mfu.value, mfu.high) == (0.2, 0.2, 0.2)
    assert figure(ask(measured=[{"grant": "a", "gpu_hours": 10, "busy": 0.9}]), "MFU") == figure(ask(), "MFU")


def test_waste_does_not_earn_more_gpus() -> None:
    idle = ask(measured=[{"grant": "a", "gpu_hours": 10, "allocated": 0.05}])
    assert figure(idle, "in use").value == known.ALLOCATED.low
    assert any("jobs on 5 % of their GPU time" in caution for caution in idle.cautions)
    slow = ask(measured=[{"grant": "a", "gpu_hours": 10, "mfu": 0.001}])
    assert figure(slow, "MFU").value == known.LOWEST_MFU
    assert any("mend the program first" in caution for caution in slow.cautions)


def test_what_is_more_than_is_offered_says_how_long_it_would_take() -> None:
    answer = ask(parameters=70e9, tokens=15e12)
    assert answer.gpus == 256
    days = round(60 * answer.exact[1] / 256)
    assert f"the work would take {days} days, not 60" in answer.cautions[0] or f"{days + 1} days" in answer.cautions[0]
    assert any("measure how the program scales" in caution for caution in answer.cautions)
    assert ask().cautions == ()


def test_other_work_is_asked_in_gpu_hours() -> None:
    answer = ask(kind="other", parameters=None, tokens=None, gpu_hours=100_000)
    assert answer.exact[1] == pytest.approx(100_000 / (24 * 60 * 0.85))
    assert answer.exact[0] == pytest.approx(100_000 / (24 * 60))
    assert (answer.gpus, answer.low, answer.high) == (128, 128, 128)


@pytest.mark.parametrize(
    ("needed", "offered", "gpus"),
    [
        (0.1, {}, 8),
        (8, {}, 8),
        (8.1, {}, 16),
        (64.5, {}, 128),
        (129, {}, 192),
        (255, {}, 256),
        (300, {}, 256),
        (3, {"singles": 8}, 3),
        (9, {"singles": 8}, 16),
        (5, {"sizes": ()}, 64),
        (5, {"sizes": (4, 12), "step": 12}, 12),
        (13, {"sizes": (12, 4), "step": 12}, 24),
        (50, {"most": 20}, 20),
    ],
)
def test_sizes_that_are_offered(needed: float, offered: dict[str, Any], gpus: int) -> None:
    assert Offered.model_validate(offered).up(needed) == gpus


def test_every_factor_has_a_source_and_sentences_can_be_told_in_korean() -> None:
    for kind in Kind:
        answer = ask(kind=kind, gpu_hours=10)
        assert all(one.source and one.low <= one.value <= one.high for one in answer.figures)
        assert all(isinstance(one, Told) for one in (*answer.steps, *answer.cautions))
        assert answer.steps[-1].startswith(f"Rounded up to a size that is offered: {answer.gpus} GPUs")


def test_peaks_are_dense_and_double_from_precision_to_precision() -> None:
    for model, gpu in known.GPUS.items():
        assert isclose(gpu.peak[Precision.FP8], 2 * gpu.peak[Precision.BF16])
        assert known.GPUS[model].memory > 100e9
    assert known.GPUS[GpuModel("h200")].peak[Precision.BF16] == 989.5e12
    assert known.GPUS[GpuModel("b200")].peak[Precision.BF16] == 2250e12
    for kind, by_precision in known.MFU.items():
        for one in by_precision.values():
            assert 0 < one.low < one.likely < one.high < 1, kind
    assert replace(known.ETTR, low=0.9).low <= known.ETTR.high


@pytest.mark.parametrize(
    "fields",
    [
        {"tokens": float("inf")},
        {"tokens": float("nan")},
        {"tokens": -1},
        {"tokens": None},
        {"parameters": None},
        {"parameters": 1e300},
        {"active_parameters": 9e9},
        {"period_days": 0},
        {"period_days": 10**12},
        {"model": "a100"},
        {"model": "h200", "precision": "fp4"},
        {"kind": "mining"},
        {"kind": "other"},
        {"gpus": 100},
        {"measured": [{"grant": "a", "gpu_hours": 1, "mfu": 40}]},
        {"measured": [{"grant": "a", "gpu_hours": 1, "mfu": 0}]},
        {"measured": [{"grant": "a", "gpu_hours": 0, "mfu": 0.4}]},
        {"offered": {"step": 0}},
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ask(**fields)


parts = st.floats(0.001, 1)
kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.OTHER])


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    parameters = draw(st.floats(1e6, 1e14))
    return {
        "kind": draw(kinds),
        "parameters": parameters,
        "active_parameters": draw(st.one_of(st.none(), st.floats(1e6, parameters))),
        "tokens": draw(st.floats(1, 1e17)),
        "precision": draw(st.sampled_from([Precision.BF16, Precision.FP8])),
        "model": draw(st.sampled_from(["h200", "b200"])),
        "period_days": draw(st.integers(1, 1100)),
        "measured": draw(
            st.lists(
                st.fixed_dictionaries(
                    {"grant": st.just("a"), "gpu_hours": st.floats(0.1, 1e9)},
                    optional={"mfu": parts, "busy": parts, "allocated": parts, "ettr": parts},
                ),
                max_size=3,
            )
        ),
        "offered": {"most": 100_000, "singles": draw(st.integers(0, 16))},
    }


def numbers(fields: dict[str, Any]) -> tuple[int, int, int, float] | None:
    """None where more memory is needed than is offered."""
    try:
        answer = ask(**fields)
    except Refused:
        return None
    assert answer.least <= answer.low <= answer.gpus <= answer.high <= 100_000
    return answer.low, answer.gpus, answer.high, answer.exact[1]


def no_less(more: tuple[float, ...] | None, less: tuple[float, ...] | None) -> bool:
    if more is None or less is None:
        return more is None or less is not None
    return all(one >= other * (1 - 1e-12) for one, other in zip(more, less, strict=True))


@settings(max_examples=150, deadline=None)
@given(questions(), st.floats(1, 100), st.sampled_from(["tokens", "parameters", "sequence_length", "period_days"]))
def test_more_work_never_needs_fewer_gpus_and_more_time_never_more(
    fields: dict[str, Any], by: float, what: str
) -> None:
    fields = {"sequence_length": 2048, "concurrent_sequences": 8, **fields}
    bounds = {"tokens": 1e17, "parameters": 1e14, "sequence_length": 10**8, "period_days": 1100}
    larger = {**fields, what: min(type(fields[what])(fields[what] * by), bounds[what])}
    if what == "period_days":
        assert no_less(numbers(fields), numbers(larger))
    else:
        assert no_less(numbers(larger), numbers(fields))


@settings(max_examples=150, deadline=None)
@given(questions(), st.floats(1, 5), st.sampled_from(["mfu", "busy", "allocated", "ettr"]))
def test_who_uses_gpus_better_is_never_proposed_more(fields: dict[str, Any], by: float, what: str) -> None:
    better = [{**one, what: min(one[what] * by, 1.0)} if what in one else one for one in fields["measured"]]
    assert no_less(numbers(fields), numbers({**fields, "measured": better}))


@pytest.mark.parametrize("name", ["a" * 61, "", "a\x1b[2J", "=cmd()"])
def test_an_earlier_grant_is_named_as_grants_are(name: str) -> None:
    with pytest.raises(ValidationError):
        Measured.model_validate({"grant": name, "gpu_hours": 1})
