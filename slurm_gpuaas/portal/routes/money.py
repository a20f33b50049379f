"""What the parts about money share: months of addresses, whose figures one may see, files to keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import Query, Response

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import By, EntryKind, Verdict
from slurm_gpuaas.domain.money import SECONDS_OF_AN_HOUR
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import OrganisationName, ProviderName
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.routes.fields import short_name
from slurm_gpuaas.portal.visit import Visit
from slurm_gpuaas.portal.words import Names, noted

MonthText = Annotated[str, Query(max_length=7, description="A Korean month, YYYY-MM; empty = the present one.")]
NameText = Annotated[str, Query(max_length=60)]
CSV: Final = "text/csv; charset=utf-8"
PDF: Final = "application/pdf"
MOST_MONTHS: Final = 36
"""Of one report."""

MONEY_NAMES: Final[Names] = {
    EntryKind: {
        EntryKind.CHARGE: noted("Use"),
        EntryKind.CORRECTION: noted("Correction"),
        EntryKind.CREDIT: noted("Credit"),
        EntryKind.ADJUSTMENT: noted("Adjustment"),
        EntryKind.PAYMENT: noted("Payment"),
    },
    ServiceClass: {ServiceClass.GUARANTEED: noted("Guaranteed"), ServiceClass.BURST: noted("Borrowed")},
    Verdict: {
        Verdict.OPEN: noted("Waiting"),
        Verdict.APPROVED: noted("Approved"),
        Verdict.REFUSED: noted("Refused"),
    },
}


def hours_of(gpu_seconds: int) -> float:
    """GPU-hours for reading: hundredths."""
    return round(gpu_seconds / SECONDS_OF_AN_HOUR, 2)


def month_of(text: str, otherwise: Month) -> Month:
    """
    Raises:
        InvalidInput: it is no month.
    """
    if not text:
        return otherwise
    try:
        return Month.parse(text)
    except InvalidInput:
        raise InvalidInput(told("That is no month."), way_out=told("Write it as in 2026-11.")) from None


def span_of(first: str, last: str, otherwise: Month) -> tuple[Month, Month]:
    """The months of a report; by default the one given alone.

    Raises:
        InvalidInput: they are no months, in the wrong order, or too many.
    """
    until = month_of(last, otherwise)
    since = month_of(first, until)
    if not until.back(MOST_MONTHS - 1) <= since <= until:
        raise InvalidInput(
            told("The first month comes before the last, and at most {most} are reported at once.", most=MOST_MONTHS),
            way_out=told("Choose other months."),
        )
    return since, until


def parties_of(
    visit: Visit, action: Action, organisation: str = "", provider: str = ""
) -> tuple[OrganisationName | None, ProviderName | None]:
    """Whose figures are shown: those asked for, within what the visitor may see; None = of all.

    Raises:
        InvalidInput: it is no name.
        Refused: somebody else's are asked for.
    """
    of = short_name(OrganisationName, organisation) if organisation else None
    at = short_name(ProviderName, provider) if provider else None
    office = visit.person.office
    match visit.require(action):
        case Scope.ALL:
            pass
        case Scope.ORGANISATION:
            of = of or office.organisation
            visit.require(action, Owned(organisation=of))
        case Scope.PROVIDER:
            at = at or office.provider
            visit.require(action, Owned(provider=at))
        case Scope.OWN:
            visit.require(action, Owned())
    return of, at


def only(organisation: str | None = None, provider: str | None = None, grant: str | None = None) -> Mapping[By, str]:
    """What sums are bound to."""
    parts = {By.ORGANISATION: organisation, By.PROVIDER: provider, By.GRANT: grant}
    return {part: name for part, name in parts.items() if name}


def attachment(content: bytes, media: str, name: str) -> Response:
    """A file to keep. Whatever is no plain letter, digit, '.', '-' or '_' in its name becomes '_'."""
    name = re.sub("[^A-Za-z0-9._-]", "_", name)
    return Response(
        content,
        media_type=media,
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-store"},
    )
