"""The ledger: entries by filter, corrections that one person asks for and another approves, payments, and whether it
is equal to what sites reported. An entry is never changed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.ledger import AskedWon, Entry, EntryKind, Payment, Reconciled, Verdict, WonRequest
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import CommandId, GrantName, OrganisationName, ProviderName
from slurm_gpuaas.domain.policy import MOST_WON
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Act,
    Answer,
    CursorText,
    FormAct,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned
from slurm_gpuaas.portal.routes.fields import Faults, Text, line, short_name
from slurm_gpuaas.portal.routes.money import MonthText, NameText, month_of, parties_of
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

ROWS: Final = 50
BY_HAND: Final[tuple[Literal[EntryKind.CREDIT], Literal[EntryKind.ADJUSTMENT]]] = (
    EntryKind.CREDIT,
    EntryKind.ADJUSTMENT,
)
KindText = Annotated[str, Query(max_length=10)]


class EntryView(Answer):
    """`month`: on whose statement it stands; `used_in`: the month that the time was used in. What is owed is positive,
    without VAT; a payment is negative, with it."""

    seq: int
    at: datetime
    kind: str
    month: str
    used_in: str | None
    organisation: str | None
    provider: str | None
    programme: str | None
    grant: str | None
    model: str | None
    service: str | None
    fault: bool
    gpu_seconds: int
    preempted: int
    list_won: int
    won: int
    refers: str
    reason: str
    asked_by: str | None
    approved_by: str | None


class CorrectionView(Answer):
    id: str
    kind: str
    organisation: str
    provider: str
    grant: str | None
    won: int
    reason: str
    refers: str
    asked_by: str
    asked_at: datetime
    verdict: str
    decided_by: str | None
    why: str


class ReconciliationView(Answer):
    """`equal_at`: when ledger and reported runs were last found to be equal to the GPU-second."""

    cluster: str
    month: str
    at: datetime
    equal: bool
    equal_at: datetime | None
    runs: int
    gpu_seconds: int
    different: int
    differences: tuple[str, ...]


class Correction(BaseModel):
    """A credit (below 0) or an adjustment."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal[EntryKind.CREDIT, EntryKind.ADJUSTMENT]
    organisation: OrganisationName
    grant: GrantName | None = None
    won: int = Field(ge=-MOST_WON, le=MOST_WON)
    reason: str = Field(min_length=5, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")
    refers: str = Field(default="", max_length=60, pattern=r"^[^\x00-\x1f\x7f]*$")


class Refusal(BaseModel):
    model_config = ConfigDict(extra="forbid")

    why: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")


def ledger_feature(pool: PoolServer) -> Feature:
    return Feature(
        name="ledger",
        routes=lambda portal: _routes(portal, pool),
        cards=lambda portal, visit: _cards(visit, Books(portal, pool)),
        nav=(NavEntry("/ledger", noted("Ledger"), "audit", Action.LEDGER_READ, 58),),
        notices={
            "correction-asked": noted("The correction waits for a second person to approve it."),
            "correction-approved": noted("The correction is booked on the next statement."),
            "correction-refused": noted("The correction was refused; nothing is booked."),
            "payment-entered": noted("The payment is booked."),
        },
    )


def _routes(portal: Portal, pool: PoolServer) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["money"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.LEDGER_READ))]
    Corrector = Annotated[Visit, Depends(Needs(Action.LEDGER_CORRECT))]
    books = Books(portal, pool)

    def ledger_page(
        request: Request,
        visit: Visit,
        *,
        wanted: Mapping[str, str] | None = None,
        cursor: str | None = None,
        status: int = 200,
        faults: Mapping[str, str] | None = None,
        fault: str = "",
        **typed: str,
    ) -> Response:
        wanted = {"month": "", "kind": "", "organisation": "", "grant": ""} | dict(wanted or {})
        entries, following = books.entries(visit, ROWS, cursor, **wanted)
        waiting = books.waiting(visit)
        people = [one or "" for entry in entries for one in (entry.asked_by, entry.approved_by)]
        empty = dict.fromkeys(("kind", "organisation", "grant", "won", "reason", "refers", "pay_of", "pay_won"), "")
        return portal.page(
            request,
            visit,
            "ledger.html",
            status=status,
            entries=entries,
            following=following,
            wanted=wanted,
            kinds=list(EntryKind),
            by_hand=list(BY_HAND),
            waiting=waiting,
            reconciled=books.reconciled(visit),
            names=portal.store.people.names([*people, *(one.asked_by for one in waiting)]),
            may_correct=visit.may(Action.LEDGER_CORRECT),
            faults=faults or {},
            fault=fault,
            typed=empty | typed,
        )

    @pages.get("/ledger")
    def ledger(
        request: Request,
        visit: Reader,
        cursor: CursorText = None,
        month: MonthText = "",
        kind: KindText = "",
        organisation: NameText = "",
        grant: NameText = "",
    ) -> Response:
        wanted = {"month": month, "kind": kind, "organisation": organisation.strip(), "grant": grant.strip()}
        return ledger_page(request, visit, wanted=wanted, cursor=cursor)

    @pages.post("/ledger/corrections")
    def correct_form(
        request: Request,
        visit: Corrector,
        act: FormAct,
        kind: Text = "",
        organisation: Text = "",
        grant: Text = "",
        won: Text = "",
        reason: Text = "",
        refers: Text = "",
    ) -> Response:
        faults = Faults()
        which = faults.read("kind", _by_hand, kind)
        of = faults.read("organisation", lambda text: short_name(OrganisationName, text), organisation)
        for_grant = faults.read("grant", _grant, grant) if grant.strip() else None
        amount = faults.read("won", _signed_won, won)
        why = faults.read("reason", line(500, 5), reason)
        about = faults.read("refers", line(60, 0), refers)
        fault = ""
        if not faults.told and which and of and amount is not None and why and about is not None:
            try:
                asked = Correction(kind=which, organisation=of, grant=for_grant, won=amount, reason=why, refers=about)
                books.ask(visit, act, asked)
                return go("/ledger", "correction-asked")
            except GpuaasError as error:
                fault = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
        return ledger_page(
            request,
            visit,
            status=422,
            faults=faults.told,
            fault=fault,
            kind=kind,
            organisation=organisation,
            grant=grant,
            won=won,
            reason=reason,
            refers=refers,
        )

    @pages.post("/ledger/corrections/{id}/approve")
    def approve_form(visit: Corrector, id: str) -> Response:
        books.decide(visit, id, Verdict.APPROVED, "")
        return go("/ledger", "correction-approved")

    @pages.post("/ledger/corrections/{id}/refuse")
    def refuse_form(visit: Corrector, id: str, why: Text = "") -> Response:
        books.decide(visit, id, Verdict.REFUSED, line(500)(why.strip()))
        return go("/ledger", "correction-refused")

    @pages.post("/ledger/payments")
    def pay_form(
        request: Request,
        visit: Corrector,
        act: FormAct,
        pay_of: Text = "",
        pay_won: Text = "",
        pay_refers: Text = "",
        pay_reason: Text = "",
    ) -> Response:
        faults = Faults()
        of = faults.read("pay_of", lambda text: short_name(OrganisationName, text), pay_of)
        amount = faults.read("pay_won", _paid_won, pay_won)
        about = faults.read("pay_refers", line(60, 0), pay_refers)
        bank = faults.read("pay_reason", line(500, 0), pay_reason)
        fault = ""
        if of and amount is not None and about is not None and bank is not None:
            try:
                books.pay(visit, act, of, amount, about, bank)
                return go("/ledger", "payment-entered")
            except GpuaasError as error:
                fault = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
        return ledger_page(request, visit, status=422, faults=faults.told, fault=fault, pay_of=pay_of, pay_won=pay_won)

    @api.get("/ledger", response_model=Page[EntryView], responses=NOT_MODIFIED)
    def list_ledger(
        request: Request,
        visit: Reader,
        limit: Limit = 100,
        cursor: CursorText = None,
        month: MonthText = "",
        kind: KindText = "",
        organisation: NameText = "",
        grant: NameText = "",
    ) -> Response:
        """Entries that you may see, the newest first; `month`: those on its statements."""
        entries, following = books.entries(
            visit, limit, cursor, month=month, kind=kind, organisation=organisation, grant=grant
        )
        return with_etag(request, Page[EntryView](items=tuple(map(_view, entries)), next=following))

    @api.get("/ledger/corrections", response_model=tuple[CorrectionView, ...])
    def list_corrections(visit: Reader) -> tuple[CorrectionView, ...]:
        """Corrections that wait for a second person, the oldest first."""
        return tuple(map(_correction, books.waiting(visit)))

    @api.post("/ledger/corrections", response_model=CorrectionView, status_code=201)
    def correct(visit: Corrector, act: Act, asked: Correction) -> CorrectionView:
        """Ask for a credit or an adjustment, which a second person approves."""
        return _correction(books.ask(visit, act, asked))

    @api.post("/ledger/corrections/{id}/approve", response_model=CorrectionView)
    def approve(visit: Corrector, id: str) -> CorrectionView:
        """Book what another person asked for."""
        return _correction(books.decide(visit, id, Verdict.APPROVED, ""))

    @api.post("/ledger/corrections/{id}/refuse", response_model=CorrectionView)
    def refuse(visit: Corrector, id: str, said: Refusal) -> CorrectionView:
        """Refuse what another person asked for, and say why."""
        return _correction(books.decide(visit, id, Verdict.REFUSED, said.why.strip()))

    @api.get("/ledger/reconciliation", response_model=tuple[ReconciliationView, ...])
    def reconciliation(visit: Reader) -> tuple[ReconciliationView, ...]:
        """For each site and month, whether the ledger holds what the site reported, the newest month first."""
        return tuple(map(reconciliation_view, books.reconciled(visit)))

    return [pages, api]


class Books:
    """What pages and API do with the ledger; every call is bound to what its visitor may see."""

    def __init__(self, portal: Portal, pool: PoolServer) -> None:
        self._portal = portal
        self._pool = pool
        self._store = portal.store

    def entries(
        self, visit: Visit, limit: int, cursor: str | None, *, month: str, kind: str, organisation: str, grant: str
    ) -> tuple[Sequence[Entry], str | None]:
        """
        Raises:
            InvalidInput: a filter is none.
            Refused: somebody else's are asked for.
        """
        of, at = parties_of(visit, Action.LEDGER_READ, organisation)
        if kind and kind not in set(EntryKind):
            raise InvalidInput(told("There is no such kind of entry."), way_out=told("Choose from the list."))
        found = self._store.ledger.newest_entries(
            limit=limit + 1,
            before=key_of(cursor, int)[0] if cursor else None,
            month=month_of(month, Month.of(self._portal.clock.now())) if month else None,
            kind=EntryKind(kind) if kind else None,
            organisation=of,
            provider=at,
            grant=_grant(grant) if grant else None,
        )
        return page_of(found, limit, lambda entry: (entry.seq,))

    def waiting(self, visit: Visit) -> list[AskedWon]:
        """Corrections to decide."""
        _, at = parties_of(visit, Action.LEDGER_READ)
        return [one for one in self._store.ledger.requests() if at in (None, one.request.provider)]

    def reconciled(self, visit: Visit) -> Sequence[Reconciled]:
        _, at = parties_of(visit, Action.LEDGER_READ)
        clusters = [site.cluster for site in self._store.sites.all() if at in (None, site.provider)]
        return self._store.ledger.reconciliations.newest(clusters)

    def ask(self, visit: Visit, act: CommandId, asked: Correction) -> AskedWon:
        """
        Raises:
            InvalidInput: it gives nothing back.
            NotFound: the organisation has no such grant with the provider.
        """
        if not asked.won or (asked.kind is EntryKind.CREDIT and asked.won > 0):
            raise InvalidInput(
                told("A credit is below 0; an adjustment is not 0."),
                way_out=told("Write '-' in front where the organisation owes less."),
            )
        request = WonRequest(command=act, provider=self._provider(visit), **dict(asked))
        with self._store.transaction():
            if self._pool.keeper.ask(request, visit.actor):
                self._note(visit, "ledger.ask", request)
            return self._asked(act)

    def decide(self, visit: Visit, id: str, verdict: Verdict, why: str) -> AskedWon:
        with self._store.transaction():
            asked = self._asked(id)
            visit.require(Action.LEDGER_CORRECT, Owned(provider=asked.request.provider))
            if self._pool.keeper.decide(id, verdict, visit.actor, why):
                action = "ledger.approve" if verdict is Verdict.APPROVED else "ledger.refuse"
                self._note(visit, action, asked.request, why=why, on_behalf_of=asked.asked_by)
            return self._asked(id)

    def pay(
        self, visit: Visit, act: CommandId, organisation: OrganisationName, won: int, refers: str, bank: str
    ) -> None:
        payment = Payment(
            command=act,
            organisation=organisation,
            provider=self._provider(visit),
            won=won,
            refers=refers,
            reason=bank,
        )
        with self._store.transaction():
            if self._pool.keeper.pay(payment, visit.actor):
                self._note(visit, "ledger.pay", payment)

    def _provider(self, visit: Visit) -> ProviderName:
        """Whose money it is: corrections are a provider's own."""
        provider = visit.person.office.provider
        visit.require(Action.LEDGER_CORRECT, Owned(provider=provider))
        assert provider is not None  # Owned(provider=None) is nobody's, and refused
        return provider

    def _asked(self, id: str) -> AskedWon:
        found = self._store.ledger.request(id)
        if found is None:
            raise NotFound(told("There is no such correction."), way_out=told("List the corrections."))
        return found

    def _note(
        self, visit: Visit, action: str, what: WonRequest | Payment, *, why: str = "", on_behalf_of: str = ""
    ) -> None:
        self._store.audit.append(
            visit.event(
                action,
                what.organisation,
                at=self._portal.clock.now(),
                reason=why or what.reason,
                evidence={"won": what.won, "refers": what.refers, "provider": what.provider, "command": what.command},
                on_behalf_of=on_behalf_of,
            )
        )


def reconciliation_view(one: Reconciled) -> ReconciliationView:
    return ReconciliationView(
        cluster=one.cluster,
        month=str(one.month),
        at=one.at,
        equal=not one.different,
        equal_at=one.equal_at,
        runs=one.runs,
        gpu_seconds=one.gpu_seconds,
        different=one.different,
        differences=one.differences,
    )


def _view(entry: Entry) -> EntryView:
    used = entry.used
    return EntryView(
        seq=entry.seq,
        at=entry.at,
        kind=entry.kind,
        month=str(entry.month),
        used_in=str(used.month) if used else None,
        organisation=entry.organisation,
        provider=entry.provider,
        programme=entry.programme,
        grant=entry.grant,
        model=used.model if used else None,
        service=used.service if used else None,
        fault=bool(used and used.fault),
        gpu_seconds=entry.amounts.gpu_seconds,
        preempted=entry.amounts.preempted,
        list_won=entry.amounts.list_won,
        won=entry.amounts.won,
        refers=entry.refers,
        reason=entry.reason,
        asked_by=entry.asked_by,
        approved_by=entry.approved_by,
    )


def _correction(asked: AskedWon) -> CorrectionView:
    request = asked.request
    return CorrectionView(
        id=request.command,
        kind=request.kind,
        organisation=request.organisation,
        provider=request.provider,
        grant=request.grant,
        won=request.won,
        reason=request.reason,
        refers=request.refers,
        asked_by=asked.asked_by,
        asked_at=asked.asked_at,
        verdict=asked.verdict,
        decided_by=asked.decided_by,
        why=asked.why,
    )


def _by_hand(text: str) -> Literal[EntryKind.CREDIT, EntryKind.ADJUSTMENT]:
    for kind in BY_HAND:
        if text == kind:
            return kind
    raise InvalidInput(told("Choose a credit or an adjustment."))


def _grant(text: str) -> GrantName:
    try:
        return GrantName(text.strip())
    except InvalidInput:
        raise InvalidInput(told("That is no number of a grant."), way_out=told("Write it as in g2026-00017.")) from None


def _signed_won(text: str) -> int:
    digits = text.replace(",", "").replace("−", "-")
    number = digits.removeprefix("-")
    if not (number.isascii() and number.isdigit() and len(number) <= 15 and int(number)):
        raise InvalidInput(told("Write whole Won other than 0, with '-' in front where the organisation owes less."))
    return int(digits)


def _paid_won(text: str) -> int:
    digits = text.replace(",", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 15 and int(digits)):
        raise InvalidInput(told("Write whole Won above 0."))
    return int(digits)


def _cards(visit: Visit, books: Books) -> list[Card]:
    if visit.may(Action.LEDGER_CORRECT) is None:
        return []
    waiting = sum(one.asked_by != visit.person.id for one in books.waiting(visit))
    if not waiting:
        return []
    words = visit.words
    return [
        Card(
            label=words.say("Corrections to decide"),
            value=words.value(waiting),
            detail=words.say("asked for by others"),
            path="/ledger",
            asks=waiting,
        )
    ]
