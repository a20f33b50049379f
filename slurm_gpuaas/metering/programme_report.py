"""What one programme came to: who got what, used what, lost what to faults, and what it cost. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from slurm_gpuaas.domain.idle import BusySum
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import Sums
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import GpuModel, GrantName, OrganisationName, ProgrammeName, ProviderName
from slurm_gpuaas.domain.usage import Window
from slurm_gpuaas.metering.papers import Cell, csv_of, gpu_hours
from slurm_gpuaas.metering.pool_report import Versions, awarded_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRow:
    """One grant, GPU-seconds and Won without VAT.

    Attributes:
        gpus: as its terms are now.
        awarded: GPUs times time in force within the months, as far as it has passed.
        guaranteed, burst: allocated, with what was lost; `preempted` and `faults` are parts of them.
        measured, busy: of what was guaranteed, on days on which its site knew how busy the GPUs were, and of that,
            GPUs that computed.
        by_hand: credits and adjustments on statements of these months.
    """

    grant: GrantName
    organisation: OrganisationName
    provider: ProviderName
    model: GpuModel
    gpus: int
    awarded: int
    guaranteed: int
    burst: int
    preempted: int
    faults: int
    measured: int
    busy: int
    list_won: int
    won: int
    by_hand: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgrammeReport:
    """Of whole months; `as_of` is how far the last one has come."""

    programme: ProgrammeName
    first: Month
    last: Month
    as_of: datetime
    rows: tuple[GrantRow, ...]

    def total(self, figure: str) -> int:
        """Of a figure of `GrantRow`, over all rows."""
        return sum(getattr(row, figure) for row in self.rows)

    def csv(self) -> bytes:
        return csv_of(HEADINGS, [_cells(row) for row in self.rows])


HEADINGS: Final = (
    "배분 Grant",
    "기관 Organisation",
    "공급자 Provider",
    "GPU",
    "배분 GPU 수 GPUs",
    "배분 GPU시간 Awarded GPU-h",
    "보장 이용 Guaranteed GPU-h",
    "유휴 차용 Burst GPU-h",
    "선점 손실 Preempted GPU-h",
    "장애 손실(무상) Faults, free GPU-h",
    "가동 측정 Measured GPU-h",
    "GPU 가동 Busy GPU-h",
    "정가 List Won",
    "이용료 Charged Won",
    "감액·조정 By hand Won",
)


def programme_report(
    programme: ProgrammeName,
    months: tuple[Month, Month],
    *,
    versions: Mapping[GrantName, Versions],
    used: Mapping[tuple[str, ...], Sums],
    by_hand: Mapping[tuple[str, ...], Sums],
    busy: Mapping[GrantName, BusySum],
    now: datetime,
) -> ProgrammeReport:
    """
    Args:
        months: first and last.
        versions: of all grants, oldest first.
        used: charges and corrections of use in these months, by grant and class.
        by_hand: what else but payments stands on statements of these months, by grant.
        busy: in these months.
    """
    window = Window(months[0].window.start, min(months[1].window.end, now))
    of_grant: dict[str, dict[str, Sums]] = defaultdict(dict)
    for (grant, service), one in used.items():
        of_grant[grant][service] = one
    hands = {grant: one.won for (grant,), one in by_hand.items()}
    rows = []
    for name, known in versions.items():
        terms = known[-1][1]
        awarded = awarded_seconds(known, window)
        if terms.programme != programme or not (awarded or name in of_grant or name in hands):
            continue
        guaranteed, burst = (of_grant[name].get(service, Sums()) for service in ServiceClass)
        whole = guaranteed.plus(burst)
        rows.append(
            GrantRow(
                grant=name,
                organisation=terms.organisation,
                provider=terms.provider,
                model=terms.model,
                gpus=terms.grant.gpus,
                awarded=awarded,
                guaranteed=guaranteed.gpu_seconds,
                burst=burst.gpu_seconds,
                preempted=whole.preempted,
                faults=whole.faults,
                measured=busy.get(name, BusySum()).measured,
                busy=busy.get(name, BusySum()).busy,
                list_won=whole.list_won,
                won=whole.won,
                by_hand=hands.get(name, 0),
            )
        )
    rows.sort(key=lambda row: (row.organisation, row.grant))
    return ProgrammeReport(programme=programme, first=months[0], last=months[1], as_of=window.end, rows=tuple(rows))


def _cells(row: GrantRow) -> Sequence[Cell]:
    hours = (row.awarded, row.guaranteed, row.burst, row.preempted, row.faults)
    busy = map(gpu_hours, (row.measured, row.busy)) if row.measured else ("", "")
    won = (row.list_won, row.won, row.by_hand)
    return [row.grant, row.organisation, row.provider, row.model, row.gpus, *map(gpu_hours, hours), *busy, *won]
