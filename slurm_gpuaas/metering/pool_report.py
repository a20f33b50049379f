"""What the government asks of each programme and provider: awarded, used, idle, lost, and what it cost. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from slurm_gpuaas.domain.idle import BusySum
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import Sums, Terms
from slurm_gpuaas.domain.money import Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import GrantName, ProgrammeName, ProviderName
from slurm_gpuaas.domain.usage import Window
from slurm_gpuaas.metering.papers import Cell, csv_of, gpu_hours, html_of
from slurm_gpuaas.metering.rules import whole_seconds

Side = tuple[ProgrammeName | None, ProviderName | None]
Versions = Sequence[tuple[datetime, Terms]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """GPU-seconds and Won without VAT.

    Attributes:
        programme, provider: both None for use of accounts that no grant is known for.
        gpus: of grants in force at the end.
        awarded: GPUs of grants times their time in force, as far as it has passed.
        guaranteed, burst: allocated, with what was lost.
        preempted, faults: parts of the two whose run ended so; `faults` is not charged.
        measured: of it, on days on which sites knew how busy the GPUs were; `busy`: of that, GPUs that computed.
        list_won: what was charged, before discounts.
        by_hand: credits and adjustments on statements of these months.
    """

    programme: ProgrammeName | None
    provider: ProviderName | None
    grants: int
    gpus: int
    awarded: int
    guaranteed: int
    burst: int
    preempted: int
    faults: int
    measured: int
    busy: int
    list_won: Won
    guaranteed_won: Won
    burst_won: Won
    by_hand: Won

    @property
    def idle(self) -> int:
        """Awarded, and not used by those it was awarded to. Others may have borrowed it: that is burst."""
        return max(self.awarded - self.guaranteed, 0)

    @property
    def won(self) -> Won:
        return Won(self.guaranteed_won + self.burst_won + self.by_hand)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """Of whole months; `as_of` is how far the last one has come."""

    first: Month
    last: Month
    as_of: datetime
    rows: tuple[PoolRow, ...]

    def csv(self) -> bytes:
        return csv_of(HEADINGS, [_cells(row) for row in self.rows])

    def html(self, *, nonce: str = "") -> str:
        """A page of its own.

        Args:
            nonce: of the Content-Security-Policy's style-src, when it is served.
        """
        return html_of("pool_report.html.j2", report=self, no_grant=NO_GRANT, nonce=nonce)


NO_GRANT: Final = "배분 없음 No grant"
HEADINGS: Final = (
    "사업 Programme",
    "공급자 Provider",
    "배분 건수 Grants",
    "배분 GPU 수 GPUs",
    "배분 GPU시간 Awarded GPU-h",
    "보장 이용 Guaranteed GPU-h",
    "유휴 차용 Burst GPU-h",
    "미이용 Idle GPU-h",
    "선점 손실 Preempted GPU-h",
    "장애 손실(무상) Faults, free GPU-h",
    "가동 측정 Measured GPU-h",
    "GPU 가동 Busy GPU-h",
    "정가 List Won",
    "보장 Guaranteed Won",
    "차용 Burst Won",
    "감액·조정 By hand Won",
    "공급가액 Supply Won",
)


def pool_report(
    months: Sequence[Month],
    *,
    versions: Mapping[GrantName, Versions],
    used: Mapping[tuple[str, ...], Sums],
    by_hand: Mapping[tuple[str, ...], Sums],
    now: datetime,
    busy: Mapping[Side, BusySum],
) -> PoolReport:
    """
    Args:
        months: in order, without gaps.
        versions: of all grants, oldest first.
        used: charges and corrections of use in these months, on whatever statement, by programme, provider and class.
        by_hand: what else but payments stands on statements of these months, by programme and provider.
        busy: in these months.
    """
    window = Window(months[0].window.start, min(months[-1].window.end, now))
    awarded: dict[Side, int] = defaultdict(int)
    grants: dict[Side, int] = defaultdict(int)
    gpus: dict[Side, int] = defaultdict(int)
    for of_grant in versions.values():
        terms = of_grant[-1][1]
        if terms.grant.starts_at < window.end <= terms.grant.ends_at:
            gpus[terms.programme, terms.provider] += terms.grant.gpus
        if given := awarded_seconds(of_grant, window):
            awarded[terms.programme, terms.provider] += given
            grants[terms.programme, terms.provider] += 1
    of_side: dict[Side, dict[str, Sums]] = defaultdict(dict)
    for (programme_name, provider_name, service), one in used.items():
        of_side[_side(programme_name, provider_name)][service] = one
    hands = {_side(*names): one.won for names, one in by_hand.items()}
    sides = sorted({*awarded, *of_side, *hands}, key=lambda side: tuple(name or "" for name in side))
    rows = []
    for side in sides:
        programme, provider = side
        guaranteed, burst = (of_side[side].get(service, Sums()) for service in ServiceClass)
        whole = guaranteed.plus(burst)
        rows.append(
            PoolRow(
                programme=programme,
                provider=provider,
                grants=grants[side],
                gpus=gpus[side],
                awarded=awarded[side],
                guaranteed=guaranteed.gpu_seconds,
                burst=burst.gpu_seconds,
                preempted=whole.preempted,
                faults=whole.faults,
                measured=busy.get(side, BusySum()).measured,
                busy=busy.get(side, BusySum()).busy,
                list_won=Won(whole.list_won),
                guaranteed_won=Won(guaranteed.won),
                burst_won=Won(burst.won),
                by_hand=Won(hands.get(side, 0)),
            )
        )
    return PoolReport(first=months[0], last=months[-1], as_of=window.end, rows=tuple(rows))


def _side(programme: str, provider: str) -> Side:
    return ProgrammeName(programme) if programme else None, ProviderName(provider) if provider else None


def awarded_seconds(versions: Versions, window: Window) -> int:
    """GPU-seconds that a grant gave within the window, each version of its terms until the next one came; the first
    counts from the grant's first day, however late it was entered."""
    total = 0
    for place, (at, terms) in enumerate(versions):
        since = max(window.start, at) if place else window.start
        until = min(window.end, versions[place + 1][0]) if place + 1 < len(versions) else window.end
        grant = terms.grant
        total += grant.gpus * whole_seconds(min(until, grant.ends_at) - max(since, grant.starts_at))
    return total


def _cells(row: PoolRow) -> list[Cell]:
    hours = (row.awarded, row.guaranteed, row.burst, row.idle, row.preempted, row.faults)
    return [
        row.programme or NO_GRANT,
        row.provider or "",
        row.grants,
        row.gpus,
        *map(gpu_hours, hours),
        *(map(gpu_hours, (row.measured, row.busy)) if row.measured else ("", "")),
        row.list_won,
        row.guaranteed_won,
        row.burst_won,
        row.by_hand,
        row.won,
    ]
