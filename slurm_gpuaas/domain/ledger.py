"""The nouns of the pool's accounts: rates, the terms of a grant, use, entries, statements. No I/O.

The rules over them are in `metering.ledger`; the store keeps them and never decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Final, Generic, NamedTuple, Self, TypeVar

from pydantic import Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.money import SECONDS_OF_AN_HOUR, Price, Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    GrantName,
    OrganisationName,
    PersonId,
    ProgrammeName,
    ProjectName,
    ProviderName,
    RateName,
    ShareName,
    UserName,
)
from slurm_gpuaas.domain.policy import MOST_WON, MOST_WON_PER_GPU_HOUR, Day, Document, Grant, Percent

WHOLE: Final = Decimal(100)
"""Percent of the rate that somebody without a discount pays."""

# -- Prices ------------------------------------------------------------------------------------------------------------


class PoolRate(Document):
    """Price of a GPU-hour of one model, without VAT, from a Korean day until the next rate for the same.

    One for a programme goes before one for all programmes, and then one for a share before one for all shares,
    whichever began later. A rate never changes: another one follows it.
    """

    name: RateName
    model: GpuModel
    share: ShareName | None = None
    programme: ProgrammeName | None = None
    won_per_gpu_hour: int = Field(ge=0, le=MOST_WON_PER_GPU_HOUR)
    burst_discount: Percent = Field(default=Decimal(0), description="Percent off for borrowed GPUs.")
    starts: Day
    basis: str = Field(min_length=1, max_length=500, description="Notice, contract or decision that it rests on.")

    def covers(self, share: ShareName, programme: ProgrammeName) -> bool:
        return self.share in (None, share) and self.programme in (None, programme)

    @property
    def rank(self) -> tuple[bool, bool, date]:
        """Of rates that cover a run and have begun, the highest counts."""
        return self.programme is not None, self.share is not None, self.starts

    def price(self, percent: Decimal) -> Price:
        """Won per GPU-second for somebody who pays `percent` of the rate."""
        return Price.of(self.won_per_gpu_hour, burst_discount=self.burst_discount, price_percent=percent)

    def won_an_hour(self, service: ServiceClass) -> Fraction:
        """Won per GPU-hour before anybody's discount."""
        return self.price(WHOLE).of_class(service) * SECONDS_OF_AN_HOUR


class Terms(Document):
    """What the accounts need to know of a grant: the document that its site gets, and whose it is.

    Who, where and what never change; days, GPUs, percent and budgets may.
    """

    grant: Grant
    organisation: OrganisationName
    programme: ProgrammeName
    provider: ProviderName
    cluster: ClusterName
    model: GpuModel

    @property
    def account(self) -> AccountName:
        return AccountName(self.grant.project)

    @property
    def fixed(self) -> tuple[str, ...]:
        """What may not change."""
        grant = self.grant
        mine = (self.organisation, self.programme, self.provider, self.cluster, self.model)
        return (grant.name, grant.project, grant.pool, grant.share, *mine)


# -- Use ---------------------------------------------------------------------------------------------------------------


class Ending(StrEnum):
    """What became of the time of a run, by how it ended."""

    USED = "used"
    PREEMPTED = "preempted"
    FAULT = "fault"


class Place(NamedTuple):
    """What is booked together."""

    cluster: ClusterName
    account: AccountName
    month: Month


class UseKey(NamedTuple):
    """GPU-seconds that have the same price whatever rates and terms say: these begin with Korean days. `day` is that of
    the run's start, `month` the one in which the time was used."""

    cluster: ClusterName
    account: AccountName
    month: Month
    day: date
    model: GpuModel | None
    service: ServiceClass
    ending: Ending

    @property
    def place(self) -> Place:
        return Place(self.cluster, self.account, self.month)


class BookKey(NamedTuple):
    """What is rounded together, once. `month` is the one in which the time was used.

    `grant` is None for an account that no grant is known for; `rate` is None where none was in force, and for `fault`,
    which is time that nobody pays.
    """

    cluster: ClusterName
    account: AccountName
    month: Month
    grant: GrantName | None
    model: GpuModel | None
    service: ServiceClass
    fault: bool
    rate: RateName | None
    percent: Decimal

    @property
    def place(self) -> Place:
        return Place(self.cluster, self.account, self.month)


class Amounts(NamedTuple):
    """`preempted` is the part of `gpu_seconds` whose run was preempted; `list_won` is what they cost without anybody's
    discount."""

    gpu_seconds: int = 0
    preempted: int = 0
    list_won: int = 0
    won: int = 0

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(*(one + two for one, two in zip(self, other, strict=True)))

    def less(self, other: Amounts) -> Amounts:
        return Amounts(*(one - two for one, two in zip(self, other, strict=True)))


NOTHING: Final = Amounts()

# -- Entries -----------------------------------------------------------------------------------------------------------


class EntryKind(StrEnum):
    CHARGE = "charge"
    """Use of a month on that month's statement."""
    CORRECTION = "correction"
    """Use of a month that was closed already, on a later month's statement."""
    CREDIT = "credit"
    """Won that are given back, for a reason."""
    ADJUSTMENT = "adjustment"
    """Won in either direction, for a reason."""
    PAYMENT = "payment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger; what is owed is positive, without VAT, a payment is negative, with it.

    Attributes:
        seq: grows with every entry; 0 until the store has kept it.
        month: on whose statement it stands.
        used: what it is for, of charges and corrections.
        organisation, provider: None for use of an account that no grant is known for: nobody gets a statement for it.
        refers: what it corrects or pays: a closed month, or the number of a statement.
        asked_by: who asked for it or entered it, of what is booked by hand.
        approved_by: never `asked_by`; of credits and adjustments.
        command: the caller's own id of what is booked by hand.
    """

    at: datetime
    kind: EntryKind
    month: Month
    amounts: Amounts
    used: BookKey | None = None
    organisation: OrganisationName | None = None
    provider: ProviderName | None = None
    programme: ProgrammeName | None = None
    grant: GrantName | None = None
    refers: str = ""
    reason: str = ""
    asked_by: PersonId | None = None
    approved_by: PersonId | None = None
    command: str | None = None
    seq: int = 0


MOST_TEXT: Final = 500
MOST_REFERENCE: Final = 60
Command = Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
"""The caller's own id of something that is to be done once."""


class WonRequest(Document):
    """What one person asks to be booked by hand and another one approves."""

    command: Command
    kind: EntryKind
    organisation: OrganisationName
    provider: ProviderName
    grant: GrantName | None = None
    won: int = Field(ge=-MOST_WON, le=MOST_WON, description="Below 0: the organisation owes less.")
    reason: str = Field(min_length=5, max_length=MOST_TEXT)
    refers: str = Field(default="", max_length=MOST_REFERENCE)

    @model_validator(mode="after")
    def _says_what_it_does(self) -> Self:
        if self.kind not in (EntryKind.CREDIT, EntryKind.ADJUSTMENT):
            raise InvalidInput(f"A {self.kind} is not asked for.", way_out="Ask for a credit or an adjustment.")
        if self.won == 0 or (self.kind is EntryKind.CREDIT and self.won > 0):
            raise InvalidInput(
                f"A {self.kind} of {self.won:,} Won gives nothing back.",
                way_out="A credit is below 0; an adjustment may be above.",
            )
        return self


class Payment(Document):
    """Money that came in, VAT included."""

    command: Command
    organisation: OrganisationName
    provider: ProviderName
    won: int = Field(gt=0, le=MOST_WON)
    refers: str = Field(default="", max_length=MOST_REFERENCE, description="Number of the statement that it pays.")
    reason: str = Field(default="", max_length=MOST_TEXT, description="E.g. the bank's reference.")


class Verdict(StrEnum):
    OPEN = "open"
    APPROVED = "approved"
    REFUSED = "refused"


class RateRequest(Document):
    """A rate that one person proposes and another one puts in force. `provider`: whose billing proposes it; None: the
    government."""

    command: Command
    rate: PoolRate
    provider: ProviderName | None = None


R = TypeVar("R", WonRequest, RateRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Generic[R]):
    """A request and what became of it. `why`: what who decided says of it."""

    request: R
    asked_by: PersonId
    asked_at: datetime
    verdict: Verdict = Verdict.OPEN
    decided_by: PersonId | None = None
    decided_at: datetime | None = None
    why: str = ""


AskedWon = Asked[WonRequest]
AskedRate = Asked[RateRequest]


# -- Sums of entries ---------------------------------------------------------------------------------------------------


class By(StrEnum):
    """What sums of entries are told apart by. `MONTH`: on whose statement; `USED_IN`: when the time was used, empty for
    what was booked by hand."""

    MONTH = "month"
    KIND = "kind"
    USED_IN = "of_month"
    ORGANISATION = "organisation"
    PROVIDER = "provider"
    PROGRAMME = "programme"
    GRANT = "grant_name"
    MODEL = "model"
    SERVICE = "service"


class Sums(NamedTuple):
    """`preempted` and `faults` are the parts of `gpu_seconds` whose run was preempted, and that nobody pays for."""

    gpu_seconds: int = 0
    preempted: int = 0
    faults: int = 0
    list_won: int = 0
    won: int = 0

    def plus(self, other: Sums) -> Sums:
        return Sums(*(one + two for one, two in zip(self, other, strict=True)))


class PersonUse(NamedTuple):
    """GPU-seconds of one login in one account."""

    user: UserName
    service: ServiceClass
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """One comparison of ledger and reported runs of a cluster's month.

    Attributes:
        gpu_seconds: of all runs, as reported.
        runs: how many they are.
        differences: sentences, the first of `different` places whose sums differ; none: they are equal.
        equal_at: when they were last found to be equal, None = never.
    """

    cluster: ClusterName
    month: Month
    at: datetime
    equal_at: datetime | None = None
    runs: int
    gpu_seconds: int
    different: int
    differences: tuple[str, ...]


# -- Statements --------------------------------------------------------------------------------------------------------


class Titles(Document):
    """What things are called on paper, by their names."""

    organisations: Mapping[OrganisationName, str] = Field(default_factory=dict)
    providers: Mapping[ProviderName, str] = Field(default_factory=dict)
    programmes: Mapping[ProgrammeName, str] = Field(default_factory=dict)
    projects: Mapping[ProjectName, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementHead:
    """What is decided when a month is closed; the lines are the entries of its month.

    Attributes:
        titles: as they were then.
        carried: owed from earlier statements, VAT included.
        supply: of all lines but payments.
        paid: payments among the entries, as a positive number.
    """

    number: str
    month: Month
    organisation: OrganisationName
    provider: ProviderName
    issued_at: datetime
    vat_percent: int
    carried: Won
    supply: Won
    vat: Won
    paid: Won
    titles: Titles

    @property
    def total(self) -> Won:
        return Won(self.supply + self.vat)

    @property
    def due(self) -> Won:
        return Won(self.carried + self.total - self.paid)
