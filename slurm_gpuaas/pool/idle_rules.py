"""The rules by which unused grants are warned, shrunk and recalled, as data. Each default says why it is what it is.

No threshold of the Korean programme is published (it says only that use is watched and poor use is recalled), so every
number is a site's decision: `version` and `basis` go into each step's evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.policy import Day
from slurm_gpuaas.pool.holidays import HOLIDAYS

MOST_DAYS: Final = 366
Days = Annotated[int, Field(ge=0, le=MOST_DAYS)]
SomeDays = Annotated[int, Field(ge=1, le=MOST_DAYS)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Rung(StrEnum):
    """Where a grant stands on the ladder; declared from the bottom up."""

    REGULAR = "regular"
    NOTICE = "notice"
    WARNING = "warning"
    FINAL_WARNING = "final-warning"
    RECALL = "recall"
    """It is proposed to take GPUs back."""

    @property
    def next(self) -> Rung:
        """One up; the top has none above and is its own."""
        rungs = list(Rung)
        return rungs[min(rungs.index(self) + 1, len(rungs) - 1)]

    @property
    def below(self) -> Rung:
        rungs = list(Rung)
        return rungs[max(rungs.index(self) - 1, 0)]


class Mode(StrEnum):
    SHADOW = "shadow"
    """Steps are worked out and recorded as what would have happened; nobody is told, nothing is taken."""
    ACT = "act"


class IdleRules(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(default="1", min_length=1, max_length=40)
    basis: str = Field(default="", max_length=500, description="Notice, contract or decision that the numbers rest on.")
    mode: Mode = Field(default=Mode.SHADOW, description="Shadow first: rules are judged on real use before they act.")

    window_days: SomeDays = Field(
        default=14,
        description="Days that count over which use is averaged. Two weeks: a week away is none. Job Defense Shield's "
        "sliding window is twice its ladder's length (PrincetonUniversity/job_defense_shield, docs/alert).",
    )
    allocated_below: Percent = Field(
        default=30.0,
        description="Low: jobs held less than this part of what could be used. microsoft/pai#4266 asks for 20 % over "
        "5 days, of jobs; a researcher also reads, writes and waits for data, but not most of the time.",
    )
    busy_below: Percent = Field(
        default=15.0,
        description="Low: GPUs were busy less than this part of it. Princeton's jobstats shows GPU utilisation in red "
        "below 15 % (PrincetonUniversity/jobstats, config.py).",
    )
    allocated_back: Percent = Field(default=40.0, description="In use again from here on: above the threshold.")
    busy_back: Percent = Field(default=20.0, description="The same for busy GPUs; both are asked for.")
    loaded_counts: Percent = Field(
        default=100.0,
        description="Part of allocated GPU time with memory full and nothing computing that counts as busy: an idle "
        "model server is not an empty GPU (PrincetonUniversity/job_defense_shield#2).",
    )
    back_days: SomeDays = Field(default=5, description="Days that count since a step over which that is asked for.")

    waits: Mapping[Rung, SomeDays] = Field(
        default={Rung.WARNING: 7, Rung.FINAL_WARNING: 7, Rung.RECALL: 7},
        description="Days that count from one step to the next. Princeton warns twice before it ends a job; a grant is "
        "worth more than a job, and people read mail by the week.",
    )
    cool_down_days: Days = Field(default=28, description="No notice so long after a grant is in use again.")
    ramp_up_days: Days = Field(default=21, description="A grant's first days: software and data arrive.")
    before_end_days: Days = Field(default=21, description="No step so shortly before the end: it frees nothing.")
    outage_percent: Percent = Field(
        default=50.0, description="A day of which faults and maintenance took so much does not count against anybody."
    )
    stale_days: SomeDays = Field(default=3, description="No step when the newest measured day is older.")
    justification_days: Days = Field(default=14, description="So long a holder's justification pauses, at most.")
    justifications: Annotated[int, Field(ge=0, le=12)] = Field(default=2, description="In one run up the ladder.")

    look_back_days: SomeDays = Field(
        default=35, description="Calendar days in which peaks are looked for: a month's end is always among them."
    )
    burst_days: SomeDays = Field(
        default=2,
        description="A grant needs what it reached on so many days of these, each for an hour: one day may be chance.",
    )
    headroom: Percent = Field(
        default=25.0,
        description="On top of what it needs, before whole servers. Who needs 7 of 8 GPUs is so left alone, as Job "
        "Defense Shield does with jobs.",
    )
    recall_below: Percent = Field(
        default=2.0, description="Below it a grant is recalled whole, whatever its peaks; above, it is shrunk."
    )
    gpus_per_server: Annotated[int, Field(ge=1, le=64)] = 8
    more_holidays: tuple[Day, ...] = Field(
        default=(), max_length=400, description="Beside the public holidays that the program knows."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.allocated_back < self.allocated_below or self.busy_back < self.busy_below:
            raise InvalidInput(
                f"In use again from {self.allocated_back:g} % and {self.busy_back:g} %, but low below "
                f"{self.allocated_below:g} % and {self.busy_below:g} %.",
                way_out="Set allocated_back and busy_back no lower than allocated_below and busy_below.",
            )
        if set(self.waits) != {Rung.WARNING, Rung.FINAL_WARNING, Rung.RECALL}:
            raise InvalidInput(
                f"waits names {', '.join(self.waits) or 'no step'}.",
                way_out="Name warning, final-warning and recall, each with its days.",
            )
        if self.look_back_days < max(self.window_days, self.burst_days):
            raise InvalidInput(
                f"Peaks are looked for on {self.burst_days} of {self.look_back_days} days, use is averaged over "
                f"{self.window_days}.",
                way_out="Set look_back_days no lower than window_days and burst_days.",
            )
        return self

    @cached_property
    def holidays(self) -> frozenset[date]:
        return HOLIDAYS.union(self.more_holidays)
