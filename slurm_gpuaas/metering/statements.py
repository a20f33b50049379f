"""The monthly statement of an organisation with one provider, and its CSV and HTML. Pure.

Its lines are the entries of the month, so it can be made again at any time and is the same. They add up exactly: the
lines' Won are the supply value, list price less discount is each line's Won.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

from slurm_gpuaas.domain.errors import Conflict, InvalidInput, NotFound
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import NOTHING, WHOLE, Amounts, BookKey, Entry, EntryKind, StatementHead
from slurm_gpuaas.domain.money import Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import (
    GpuModel,
    GrantName,
    OrganisationName,
    ProgrammeName,
    ProjectName,
    ProviderName,
    ShareName,
)
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.metering.ledger import Tariff
from slurm_gpuaas.metering.papers import Cell, csv_of, gpu_hours, html_of, percent, unit_price

KINDS: Final = {
    EntryKind.CHARGE: "이용 Use",
    EntryKind.CORRECTION: "정정 Correction",
    EntryKind.CREDIT: "감액 Credit",
    EntryKind.ADJUSTMENT: "조정 Adjustment",
    EntryKind.PAYMENT: "수납 Payment",
}
SERVICES: Final = {ServiceClass.GUARANTEED: "보장 Guaranteed", ServiceClass.BURST: "유휴 차용 Burst"}
FAULT: Final = "장애(무상) Lost to faults, free"
PROVISIONAL: Final = "잠정 Provisional"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line. `won_an_hour` is the rate before the discount; None where nothing is charged by the hour."""

    kind: EntryKind
    month: Month
    grant: GrantName | None = None
    project: ProjectName | None = None
    programme: ProgrammeName | None = None
    share: ShareName | None = None
    model: GpuModel | None = None
    service: ServiceClass | None = None
    fault: bool = False
    won_an_hour: Fraction | None = None
    percent: Decimal = WHOLE
    amounts: Amounts
    text: str = ""
    refers: str = ""

    @property
    def discount(self) -> Won:
        return Won(self.amounts.list_won - self.amounts.won)

    @property
    def what(self) -> str:
        """For people."""
        if self.service is None:
            return KINDS[self.kind]
        return FAULT if self.fault else SERVICES[self.service]

    @property
    def price(self) -> str:
        return "" if self.won_an_hour is None else unit_price(self.won_an_hour)

    @property
    def discount_percent(self) -> Decimal:
        return WHOLE - self.percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """`provisional`: its month is not closed, so what is booked until then still changes it."""

    head: StatementHead
    lines: tuple[Line, ...]
    payments: tuple[Line, ...]
    provisional: bool = False

    @property
    def list_won(self) -> Won:
        return Won(sum(line.amounts.list_won for line in self.lines))

    @property
    def discount(self) -> Won:
        return Won(sum(line.discount for line in self.lines))

    @property
    def first_day(self) -> date:
        return self.head.month.first

    @property
    def last_day(self) -> date:
        return self.head.month.following.first - timedelta(days=1)

    @property
    def faults(self) -> int:
        """GPU-seconds lost to faults, not charged."""
        return sum(line.amounts.gpu_seconds for line in self.lines if line.fault)

    @property
    def preempted(self) -> int:
        return sum(line.amounts.preempted for line in self.lines)

    def charged(self, service: ServiceClass) -> int:
        """GPU-seconds."""
        return sum(line.amounts.gpu_seconds for line in self.lines if line.service is service and not line.fault)

    @property
    def organisation(self) -> str:
        return self.head.titles.organisations.get(self.head.organisation, self.head.organisation)

    @property
    def provider(self) -> str:
        return self.head.titles.providers.get(self.head.provider, self.head.provider)

    def programme(self, line: Line) -> str:
        return self.head.titles.programmes.get(line.programme, line.programme) if line.programme else ""

    def project(self, line: Line) -> str:
        return self.head.titles.projects.get(line.project, line.project) if line.project else ""

    def csv(self) -> bytes:
        head = self.head
        own = (head.number, str(head.month), self.organisation, self.provider)
        rows: list[list[Cell]] = [[*own, *self._cells(line)] for line in (*self.lines, *self.payments)]
        return csv_of(HEADINGS, rows)

    def _cells(self, line: Line) -> list[Cell]:
        return [
            KINDS[line.kind],
            str(line.month),
            self.programme(line),
            self.project(line),
            line.grant or "",
            line.share or "",
            line.model or "",
            line.what if line.service else "",
            gpu_hours(line.amounts.gpu_seconds),
            line.amounts.gpu_seconds,
            gpu_hours(line.amounts.preempted),
            line.price.replace(",", ""),
            percent(line.discount_percent) if line.service else "",
            line.amounts.list_won,
            line.discount,
            line.amounts.won,
            line.text,
            line.refers,
        ]

    def html(self, *, nonce: str = "") -> str:
        """A page of its own, made to be printed.

        Args:
            nonce: of the Content-Security-Policy's style-src, when it is served.
        """
        return html_of("statement.html.j2", statement=self, services=ServiceClass, kinds=KINDS, nonce=nonce)


HEADINGS: Final = (
    "명세서 번호 Statement",
    "청구월 Month",
    "기관 Organisation",
    "공급자 Provider",
    "구분 Kind",
    "이용월 Used in",
    "사업 Programme",
    "과제 Project",
    "배분 Grant",
    "몫 Share",
    "GPU",
    "등급 Class",
    "GPU시간 GPU-hours",
    "GPU초 GPU-seconds",
    "선점 손실 Preempted GPU-hours",
    "단가 Won/GPU-hour",
    "할인율 Discount %",
    "정가 List Won",
    "할인 Discount Won",
    "공급가액 Supply Won",
    "사유 Reason",
    "참조 Refers to",
)


def draft_number(month: Month, organisation: OrganisationName, provider: ProviderName) -> str:
    """What a statement is called before it is issued."""
    return f"{month}.{provider}.{organisation}"


def parts_of_draft(number: str) -> tuple[Month, OrganisationName, ProviderName]:
    """
    Raises:
        NotFound: no draft can be called so.
    """
    try:
        month, provider, organisation = number.split(".")
        return Month.parse(month), OrganisationName(organisation), ProviderName(provider)
    except (ValueError, InvalidInput):
        raise NotFound(
            told("There is no statement {number}.", number=number[:80]), way_out=told("List the statements.")
        ) from None


def statement_of(
    head: StatementHead, entries: Sequence[Entry], tariff: Tariff, *, provisional: bool = False
) -> Statement:
    """The statement with its lines.

    Args:
        entries: of the head's month, organisation and provider.

    Raises:
        Conflict: they are not what it was issued for.
    """
    used: dict[tuple[EntryKind, BookKey], Amounts] = defaultdict(lambda: NOTHING)
    by_hand = []
    for entry in entries:
        if entry.used is None:
            by_hand.append(_by_hand(entry, tariff))
        else:
            used[entry.kind, entry.used] = used[entry.kind, entry.used].plus(entry.amounts)
    lines = [_used(kind, key, amounts, tariff) for (kind, key), amounts in used.items() if amounts != NOTHING]
    lines.sort(key=_order)
    statement = Statement(
        head=head,
        lines=(*lines, *(line for line in by_hand if line.kind is not EntryKind.PAYMENT)),
        payments=tuple(line for line in by_hand if line.kind is EntryKind.PAYMENT),
        provisional=provisional,
    )
    supply, paid = _won(statement.lines), -_won(statement.payments)
    if (supply, paid) != (head.supply, head.paid):
        raise Conflict(
            f"Statement {head.number} was issued over {head.supply:,} Won with {head.paid:,} paid; its entries say "
            f"{supply:,} and {paid:,}.",
            way_out="Restore the store from a backup: entries of a closed month never change.",
        )
    return statement


def _won(lines: Iterable[Line]) -> int:
    return sum(line.amounts.won for line in lines)


def _order(line: Line) -> tuple[str, ...]:
    names = (str(name or "") for name in (line.programme, line.project, line.grant, line.model))
    places = (line.kind is EntryKind.CORRECTION, line.service is ServiceClass.BURST, line.fault)
    return (str(int(places[0])), str(line.month), *names, *(str(int(place)) for place in places[1:]), str(line.percent))


def _used(kind: EntryKind, key: BookKey, amounts: Amounts, tariff: Tariff) -> Line:
    terms = tariff.by_grant[key.grant] if key.grant else None
    return Line(
        kind=kind,
        month=key.month,
        grant=key.grant,
        project=terms.grant.project if terms else None,
        programme=terms.programme if terms else None,
        share=terms.grant.share if terms else None,
        model=key.model,
        service=key.service,
        fault=key.fault,
        won_an_hour=tariff.rate(key.rate).won_an_hour(key.service) if key.rate else None,
        percent=key.percent,
        amounts=amounts,
        refers=str(key.month) if kind is EntryKind.CORRECTION else "",
    )


def _by_hand(entry: Entry, tariff: Tariff) -> Line:
    terms = tariff.by_grant[entry.grant] if entry.grant else None
    return Line(
        kind=entry.kind,
        month=entry.month,
        grant=entry.grant,
        project=terms.grant.project if terms else None,
        programme=entry.programme,
        amounts=entry.amounts,
        text=entry.reason,
        refers=entry.refers,
    )
