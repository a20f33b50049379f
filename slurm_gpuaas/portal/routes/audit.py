"""The audit trail, for government and auditors. Reading it is itself written into it."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from slurm_gpuaas.domain.audit_chain import AuditResult, Entry
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.deeds import CALLED
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal
from slurm_gpuaas.portal.http import API, PROBLEMS, Answer, CursorText, Limit, Page, key_of, page_of
from slurm_gpuaas.portal.pages import is_htmx
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import KST, noted

ROWS: Final = 50

Filter = Annotated[str, Query(max_length=200)]


class AuditView(Answer):
    """An entry; `evidence` is whatever the act was decided on, `hash` chains it to the one before."""

    seq: int
    at: datetime
    actor: str
    role: str
    on_behalf_of: str
    action: str
    subject: str
    reason: str
    evidence: dict[str, Any]
    source: str
    request: str
    result: str
    previous: str
    hash: str


def _view(entry: Entry) -> AuditView:
    return AuditView.model_validate({**entry._asdict(), "evidence": json.loads(entry.evidence)})


def _routes(portal: Portal) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["audit"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.AUDIT_READ))]

    def read(
        visit: Visit,
        limit: int,
        cursor: str | None,
        wanted: dict[str, str],
        first: datetime | None,
        last: datetime | None,
    ) -> tuple[Sequence[Entry], str | None]:
        """Entries under the cursor, and the next cursor; the reading is written down before it is answered."""
        if wanted["result"] and wanted["result"] not in set(AuditResult):
            raise InvalidInput(told("There is no such result."), way_out=told("Choose from the list."))
        before = key_of(cursor, int)[0] if cursor else None
        with portal.store.transaction():
            found = portal.store.audit.newest(
                limit=limit + 1,
                before=before,
                actor=wanted["actor"] or None,
                action=wanted["action"] or None,
                subject=wanted["subject"] or None,
                since=first,
                until=last,
                result=AuditResult(wanted["result"]) if wanted["result"] else None,
            )
            asked: dict[str, str | int | float | bool | None] = {name: text for name, text in wanted.items() if text}
            if found:
                asked |= {"newest": found[0].seq, "oldest": found[:limit][-1].seq}
            portal.store.audit.append(visit.event("audit.read", "audit", at=portal.clock.now(), evidence=asked))
        return page_of(found, limit, lambda entry: (entry.seq,))

    @pages.get("/audit")
    def audit(
        request: Request,
        visit: Reader,
        cursor: CursorText = None,
        actor: Filter = "",
        action: Filter = "",
        subject: Filter = "",
        result: Filter = "",
        first: Filter = "",
        last: Filter = "",
    ) -> Response:
        wanted = {"actor": actor.strip(), "action": action.strip(), "subject": subject.strip(), "result": result}
        entries, following = read(visit, ROWS, cursor, wanted, _day(first), _day(last, after=True))
        template = "audit-rows.html" if is_htmx(request) else "audit.html"
        return portal.page(
            request,
            visit,
            template,
            entries=entries,
            names=portal.store.people.names([one for entry in entries for one in (entry.actor, entry.subject)]),
            following=following,
            wanted=wanted | {"first": first, "last": last},
            results=list(AuditResult),
            deeds=CALLED,
            roles={str(role): visit.words.name(role) for role in PortalRole},
        )

    @api.get("/audit", response_model=Page[AuditView])
    def list_audit(
        visit: Reader,
        limit: Limit = 100,
        cursor: CursorText = None,
        actor: Filter = "",
        action: Annotated[
            str, Query(max_length=100, description="Also finds what is below: people, people.invite.")
        ] = "",
        subject: Filter = "",
        result: Annotated[AuditResult | None, Query()] = None,
        since: Annotated[datetime | None, Query(description="With its time zone.")] = None,
        until: Annotated[datetime | None, Query(description="Not included.")] = None,
    ) -> Page[AuditView]:
        """The audit trail, the newest first. Your reading is written into it."""
        for moment in (since, until):
            if moment is not None and moment.tzinfo is None:
                raise InvalidInput(
                    told("A moment needs its time zone."), way_out=told("Write e.g. 2026-11-28T09:00:00+09:00.")
                )
        wanted = {"actor": actor, "action": action, "subject": subject, "result": str(result or "")}
        entries, following = read(visit, limit, cursor, wanted, since, until)
        return Page[AuditView](items=tuple(map(_view, entries)), next=following)

    return [pages, api]


def _day(text: str, *, after: bool = False) -> datetime | None:
    """A day of a form, as its first moment in Korea (`after`: the next day's); None where nothing was chosen.

    Raises:
        InvalidInput: it is no day.
    """
    if not text:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=KST)
        return day + timedelta(days=1) if after else day
    except (ValueError, OverflowError):
        raise InvalidInput(told("That is no day."), way_out=told("Write it as in 2026-11-28.")) from None


def _cards(portal: Portal, visit: Visit) -> list[Card]:
    if visit.may(Action.AUDIT_READ) is None:
        return []
    last = portal.store.audit.last()
    return [
        Card(
            label=visit.words.say("Audit trail"),
            value=visit.words.value(last.seq),
            detail=visit.words.say("entries, chained; the last hash begins with {hash}", hash=last.hash[:8]),
            path="/audit",
            aside=True,
        )
    ]


AUDIT: Final = Feature(
    name="audit",
    routes=_routes,
    nav=(NavEntry("/audit", noted("Audit"), "audit", Action.AUDIT_READ, 80),),
    cards=_cards,
)
