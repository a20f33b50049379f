"""Recorded use under the rules, and files of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import GrantName, PersonId
from slurm_gpuaas.pool.idle import Exemption
from slurm_gpuaas.pool.idle_file import answer_of, read_uses
from slurm_gpuaas.pool.idle_replay import Recorded, replay
from slurm_gpuaas.pool.idle_rules import IdleRules, Mode, Rung
from slurm_gpuaas.pool.idle_use import UseDay
from tests.unit.pool.idle_days import RULES, START, day, flat, grant, rungs, walk

SHADOW = RULES.model_copy(update={"mode": Mode.SHADOW})


def recorded(name: str, use: list[UseDay]) -> Recorded:
    return Recorded(replace(grant(), name=GrantName(name)), use)


def test_a_replay_takes_the_steps_that_daily_judgements_take() -> None:
    uses = {
        "idle": flat(100, 0.0, 0.0),
        "busy": flat(100, 0.9, 0.8),
        "back": flat(25, 0.0, 0.0) + flat(30, 0.9, 0.8, first=25) + flat(45, 0.0, 0.0, first=55),
        "part": [day(n, 0.2, 0.2, peak=8) for n in range(100)],
        "gaps": [day(n, 0.0 if n % 3 else None, 0.0 if n % 3 else None) for n in range(100)],
    }
    found = replay([recorded(name, use) for name, use in uses.items()], SHADOW)
    for name, use in uses.items():
        one = recorded(name, use).grant
        assert [step for step in found.steps if step.grant == name] == walk(use, of=one, rules=SHADOW)[1]
    assert [step.day for step in found.steps] == sorted(step.day for step in found.steps)
    assert all(step.shadow for step in found.steps)
    assert (found.grants, found.days, found.awarded) == (5, 100, 5 * 100 * 32)


def test_what_is_freed_and_who_is_hit_wrongly() -> None:
    idle = flat(100, 0.0, 0.0)
    taken = walk(idle)[1][-1].day
    at = (taken - START).days
    comes_back = flat(at + 10, 0.0, 0.0) + flat(90 - at, 0.9, 0.8, first=at + 10)
    found = {
        str(hit.step.grant): hit for hit in replay([recorded("idle", idle), recorded("back", comes_back)], SHADOW).hits
    }
    assert (found["idle"].taken, found["idle"].kept, found["idle"].freed) == (32, 0, 32 * (100 - at))
    assert (found["idle"].wanted, found["idle"].wrongly) == (0, False)
    # From the first day on which it is back to the last, 0.8 of 32 GPUs busy: a peak of 26.
    assert (found["back"].wanted, found["back"].wrongly) == (26 * (90 - at), True)


def test_one_day_of_use_after_a_recall_does_not_make_it_wrong() -> None:
    at = (walk(flat(100, 0.0, 0.0))[1][-1].day - START).days
    once = [*flat(at + 5, 0.0, 0.0), day(at + 5, 1.0, 0.9), *flat(94 - at, 0.0, 0.0, first=at + 6)]
    (hit,) = replay([recorded("once", once)], SHADOW).hits
    assert (hit.wrongly, hit.wanted) == (False, 29)


def test_exemptions_hold_in_a_replay_too() -> None:
    exempt = Exemption(
        grant=GrantName("idle"), starts=START, ends=START + timedelta(days=99), reason="x", by=PersonId("p-officer")
    )
    both = [recorded("idle", flat(100, 0.0, 0.0)), recorded("other", flat(100, 0.0, 0.0))]
    found = replay(both, SHADOW, [exempt])
    assert {step.grant for step in found.steps} == {"other"}


def test_nothing_recorded_is_nothing_done_and_a_name_twice_is_refused() -> None:
    assert replay([], SHADOW).steps == ()
    with pytest.raises(InvalidInput, match="Grant a is there twice"):
        replay([recorded("a", flat(2, 0.5)), recorded("a", flat(2, 0.5))], SHADOW)
    far = [recorded(f"g{n}", [day(0, 0.5), day(8_000, 0.5)]) for n in range(1_001)]
    with pytest.raises(InvalidInput, match="more than 4,000,000"):
        replay(far, SHADOW)


# -- Files

HEADER = "grant,day,gpus,allocated_gpu_hours,busy_gpu_hours,peak_gpus,starts,ends\n"


def read(text: str) -> list[Recorded]:
    return read_uses(io.StringIO(text))


def test_rows_of_csv_and_json_are_the_same() -> None:
    csv = HEADER + "vision,2026-05-06,32,120.5,80,16,2026-05-01,2027-01-31\nspeech,2026-05-06,64,,,,,\n"
    rows: list[dict[str, Any]] = [
        {
            "grant": "vision",
            "day": "2026-05-06",
            "gpus": 32,
            "allocated_gpu_hours": 120.5,
            "busy_gpu_hours": 80,
            "peak_gpus": 16,
            "starts": "2026-05-01",
            "ends": "2027-01-31",
        },
        {"grant": "speech", "day": "2026-05-06", "gpus": 64},
    ]
    speech, vision = read(csv)
    assert [speech, vision] == read(json.dumps(rows)) == read("\ufeff" + csv)
    assert vision.use == [UseDay(day=START, gpus=32, allocated=433_800, busy=288_000, peak=16)]
    assert speech.use == [UseDay(day=START, gpus=64)]
    assert (vision.grant.starts.isoformat(), vision.grant.ends.isoformat()) == ("2026-05-01", "2027-01-31")
    assert (speech.grant.starts, speech.grant.ends) == (START, START)


def test_a_peak_that_is_not_told_is_what_the_hours_need_at_least() -> None:
    (one,) = read("grant,day,gpus,allocated_gpu_hours\nvision,2026-05-06,32,120.5\n")
    assert one.use[0].peak == 6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grant,day,gpus\nvision,2026-05-06,-1\n", "Row 1, gpus"),
        ("grant,day,gpus\n=cmd(),2026-05-06,8\n", "Row 1, grant"),
        ("grant,day,gpus\nvision,yesterday,8\n", "Row 1, day"),
        ("grant,day,gpus,allocated_gpu_hours\nvision,2026-05-06,8,193\n", "Row 1: .*have 691,200"),
        ("grant,day,gpus,allocated_gpu_hours\nvision,2026-05-06,8,nan\n", "Row 1, allocated_gpu_hours"),
        ("grant,day,gpus,colour\nvision,2026-05-06,8,red\n", "Row 1, colour"),
        ("grant,day,gpus\nvision,2026-05-06,8,9,10\n", "Row 1"),
        ("grant,day,gpus\nvision,2026-05-06\n", "Row 1, gpus"),
        ('grant,day,gpus\n"vision,2026-05-06,8\n', "no CSV"),
        ("[{]", "no JSON"),
        ("[1]", "Row 1"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_rows_that_cannot_be_are_named(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read(text)


def test_the_answer_of_a_replay_holds_its_sums_and_steps() -> None:
    found = replay([recorded("idle", flat(100, 0.0, 0.0)), recorded("busy", flat(100, 0.9, 0.8))], SHADOW)
    answer = answer_of(found)
    assert answer.steps_by_rung == {Rung.NOTICE: 1, Rung.WARNING: 1, Rung.FINAL_WARNING: 1, Rung.RECALL: 1}
    assert [step.to for step in answer.steps] == rungs(found.steps)
    assert answer.freed_gpu_days == answer.hits[0].freed > 0
    assert answer.unused_gpu_days == round(100 * 32 + 0.1 * 100 * 32)
    assert (answer.hits[0].gpus, answer.hits[0].keeps, answer.wrongly) == (32, 0, 0)
    assert answer.steps[-1].proposal == "All 32 GPUs are taken back."


def test_stricter_rules_take_more_and_sooner() -> None:
    use = [recorded("part", [day(n, 0.25, 0.2, peak=8) for n in range(120)])]
    strict = IdleRules.model_validate({**SHADOW.model_dump(), "window_days": 7, "look_back_days": 14})
    lax = IdleRules.model_validate({**SHADOW.model_dump(), "allocated_below": 20, "busy_below": 10})
    assert replay(use, strict).hits[0].step.day < replay(use, SHADOW).hits[0].step.day
    assert replay(use, lax).steps == ()
