"""Statements: what an organisation owes a provider for a Korean month, to read, print and file."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import By, StatementHead
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.metering.closing import ClosingState
from slurm_gpuaas.metering.papers import percent
from slurm_gpuaas.metering.statement_pdf import find_fonts, statement_pdf
from slurm_gpuaas.metering.statements import Statement, draft_number, parts_of_draft
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Answer,
    CursorText,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned
from slurm_gpuaas.portal.routes.money import CSV, PDF, MonthText, NameText, attachment, month_of, only, parties_of
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

ROWS: Final = 50
FILES: Final[dict[int | str, dict[str, object]]] = {200: {"description": "The file.", "content": {}}}


class HeadView(Answer):
    """Won; `supply` without VAT, `total` with it, `due` = carried + total - paid. `provisional`: its month is not
    closed, so it may change."""

    number: str
    month: str
    organisation: str
    provider: str
    provisional: bool
    issued_at: datetime
    carried: int
    supply: int
    vat: int
    total: int
    paid: int
    due: int


class LineView(Answer):
    kind: str
    month: str
    grant: str | None
    programme: str | None
    project: str | None
    model: str | None
    service: str | None
    fault: bool
    gpu_seconds: int
    preempted: int
    list_won: int
    discount: int
    won: int
    text: str
    refers: str


class CorrectionMonth(Answer):
    """What a later month's statement says of this one's use."""

    month: str
    gpu_seconds: int
    won: int


class StatementView(Answer):
    head: HeadView
    lines: tuple[LineView, ...]
    payments: tuple[LineView, ...]
    corrected_later: tuple[CorrectionMonth, ...]


class UntoldView(Answer):
    """`through`: up to when the cluster's site has told all use; null: never."""

    cluster: str
    through: datetime | None


class ClosingView(Answer):
    """The month that is closed next, null as long as nothing was booked.

    `state`: `not due` until `due`; then `ready`, or `waits` for the sites named, or `late` when that takes too long:
    then somebody has to see to them, or close the month by hand. Organisations are not told which sites.
    """

    month: str | None
    state: ClosingState | None
    due: datetime | None
    waits_for: tuple[UntoldView, ...]


def statements_feature(pool: PoolServer) -> Feature:
    return Feature(
        name="statements",
        routes=lambda portal: _routes(portal, pool),
        cards=lambda portal, visit: _cards(portal, visit, pool),
        nav=(NavEntry("/statements", noted("Statements"), "won", Action.STATEMENT_READ, 54),),
    )


def _routes(portal: Portal, pool: PoolServer) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["money"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.STATEMENT_READ))]

    def heads(
        visit: Visit, limit: int, cursor: str | None, month: str, organisation: str
    ) -> tuple[Sequence[StatementHead], str | None]:
        """Issued ones."""
        of, at = parties_of(visit, Action.STATEMENT_READ, organisation)
        before = key_of(cursor, str, str) if cursor else None
        found = portal.store.ledger.newest_statements(
            limit=limit + 1,
            before=(before[0], before[1]) if before else None,
            month=month_of(month, Month.of(portal.clock.now())) if month else None,
            organisation=of,
            provider=at,
        )
        return page_of(found, limit, lambda head: (str(head.month), head.number))

    def drafts(visit: Visit, month: str, organisation: str) -> Sequence[StatementHead]:
        of, at = parties_of(visit, Action.STATEMENT_READ, organisation)
        found = pool.keeper.drafts(organisation=of, provider=at)
        return [head for head in found if month in ("", str(head.month))]

    def statement_of(visit: Visit, number: str) -> Statement:
        """Issued or not.

        Raises:
            NotFound, Refused: there is none, or it is somebody else's.
        """
        found = (
            pool.keeper.draft(number, pool.titles(parts_of_draft(number)[1]))
            if "." in number
            else pool.keeper.statement(number)
        )
        visit.require(Action.STATEMENT_READ, Owned(organisation=found.head.organisation, provider=found.head.provider))
        return found

    def closing_of(visit: Visit) -> ClosingView:
        found = pool.closing()
        if found is None:
            return ClosingView(month=None, state=None, due=None, waits_for=())
        state = found.state(portal.clock.now())
        named = state in (ClosingState.WAITS, ClosingState.LATE) and visit.person.office.organisation is None
        return ClosingView(
            month=str(found.month),
            state=state,
            due=found.due,
            waits_for=tuple(UntoldView(cluster=one.cluster, through=one.through) for one in found.waits_for)
            if named
            else (),
        )

    def file_of(statement: Statement, kind: str) -> str:
        return f"statement-{statement.head.number}.{kind}"

    @pages.get("/statements")
    def statements(
        request: Request,
        visit: Reader,
        cursor: CursorText = None,
        month: MonthText = "",
        organisation: NameText = "",
    ) -> Response:
        organisation = organisation.strip()
        issued, following = heads(visit, ROWS, cursor, month, organisation)
        return portal.page(
            request,
            visit,
            "statements.html",
            issued=issued,
            drafts=[] if cursor else drafts(visit, month, organisation)[: ROWS * 4],
            following=following,
            closing=closing_of(visit),
            titles=pool.titles().organisations,
            wanted={"month": month, "organisation": organisation},
            one_organisation=visit.person.office.organisation is not None,
        )

    @pages.get("/statements/{number}.pdf")
    @api.get("/statements/{number}.pdf", response_class=Response, responses=FILES)
    def as_pdf(visit: Reader, number: str) -> Response:
        """The statement for filing."""
        found = statement_of(visit, number)
        return attachment(statement_pdf(found, find_fonts()), PDF, file_of(found, "pdf"))

    @pages.get("/statements/{number}.csv")
    @api.get("/statements/{number}.csv", response_class=Response, responses=FILES)
    def as_csv(visit: Reader, number: str) -> Response:
        """The statement for a spreadsheet."""
        found = statement_of(visit, number)
        return attachment(found.csv(), CSV, file_of(found, "csv"))

    @pages.get("/statements/{number}")
    def statement(request: Request, visit: Reader, number: str) -> Response:
        found = statement_of(visit, number)
        return portal.page(
            request,
            visit,
            "statement.html",
            statement=found,
            head=found.head,
            charged=[(service, found.charged(service)) for service in ServiceClass],
            percent=percent,
            later=corrected(found),
        )

    def corrected(found: Statement) -> list[tuple[str, str, int, int]]:
        """Later months that correct this one, the number of their statement (empty: not issued yet), GPU-seconds and
        Won."""
        if found.provisional:
            return []
        head = found.head
        rows = []
        for month, sums in sorted(pool.keeper.corrections(head).items()):
            issued = portal.store.ledger.statements(month=month, organisation=head.organisation, provider=head.provider)
            number = issued[0].number if issued else draft_number(month, head.organisation, head.provider)
            rows.append((str(month), number, sums.gpu_seconds, sums.won))
        return rows

    @api.get("/statements", response_model=Page[HeadView], responses=NOT_MODIFIED)
    def list_statements(
        request: Request,
        visit: Reader,
        limit: Limit = 100,
        cursor: CursorText = None,
        month: MonthText = "",
        organisation: NameText = "",
    ) -> Response:
        """Issued statements that you may see, the newest month first. Those of open months: `/statements/drafts`."""
        issued, following = heads(visit, limit, cursor, month, organisation)
        return with_etag(request, Page[HeadView](items=tuple(map(_head, issued)), next=following))

    @api.get("/statements/drafts", response_model=Page[HeadView], responses=NOT_MODIFIED)
    def list_drafts(
        request: Request, visit: Reader, limit: Limit = 100, cursor: CursorText = None, organisation: NameText = ""
    ) -> Response:
        """What statements of open months would say now."""
        after = key_of(cursor, str)[0] if cursor else ""
        found = sorted(drafts(visit, "", organisation), key=lambda head: head.number)
        items, following = page_of(
            [head for head in found if head.number > after][: limit + 1], limit, lambda head: (head.number,)
        )
        answer = tuple(_head(head, provisional=True) for head in items)
        return with_etag(request, Page[HeadView](items=answer, next=following))

    @api.get("/statements/closing", response_model=ClosingView, responses=NOT_MODIFIED)
    def closing(request: Request, visit: Reader) -> Response:
        """Which month is closed next, when, and what it waits for."""
        return with_etag(request, closing_of(visit))

    @api.get("/statements/{number}", response_model=StatementView, responses=NOT_MODIFIED)
    def one_statement(request: Request, visit: Reader, number: str) -> Response:
        """A statement with its lines. `.pdf` and `.csv` after the number give it as a file."""
        found = statement_of(visit, number)
        later = [CorrectionMonth(month=month, gpu_seconds=used, won=won) for month, _, used, won in corrected(found)]
        return with_etag(
            request,
            StatementView(
                head=_head(found.head, provisional=found.provisional),
                lines=_lines(found, payments=False),
                payments=_lines(found, payments=True),
                corrected_later=tuple(later),
            ),
        )

    return [pages, api]


def _head(head: StatementHead, *, provisional: bool = False) -> HeadView:
    return HeadView(
        number=head.number,
        month=str(head.month),
        organisation=head.organisation,
        provider=head.provider,
        provisional=provisional,
        issued_at=head.issued_at,
        carried=head.carried,
        supply=head.supply,
        vat=head.vat,
        total=head.total,
        paid=head.paid,
        due=head.due,
    )


def _lines(statement: Statement, *, payments: bool) -> tuple[LineView, ...]:
    return tuple(
        LineView(
            kind=line.kind,
            month=str(line.month),
            grant=line.grant,
            programme=line.programme,
            project=line.project,
            model=line.model,
            service=line.service,
            fault=line.fault,
            gpu_seconds=line.amounts.gpu_seconds,
            preempted=line.amounts.preempted,
            list_won=line.amounts.list_won,
            discount=line.discount,
            won=line.amounts.won,
            text=line.text,
            refers=line.refers,
        )
        for line in (statement.payments if payments else statement.lines)
    )


def _cards(portal: Portal, visit: Visit, pool: PoolServer) -> list[Card]:
    """This month so far; for an organisation, what is left of its budgets."""
    office = visit.person.office
    if visit.may(Action.STATEMENT_READ) is None or (office.organisation is None and office.provider is None):
        return []
    words, sums = visit.words, portal.store.ledger.sums
    month = Month.of(portal.clock.now())
    mine = only(office.organisation, office.provider)
    so_far = sums.by(months=(month, month), only=mine).get(())
    cards = [
        Card(
            label=words.say("This month so far"),
            value=words.won(so_far.won if so_far else 0),
            detail=words.say("{month}, without VAT; booked every hour", month=str(month)),
            path="/statements",
        )
    ]
    if office.organisation is not None:
        grants = pool.store.register.grants.all(organisation=office.organisation, state=("active", "ending"))
        budgets = {str(grant.id): grant.budget_won for grant in grants if grant.budget_won is not None}
        if budgets:
            spent = {name: one.won for (name,), one in sums.by(By.GRANT, only=mine).items() if name in budgets}
            left = sum(budget - spent.get(name, 0) for name, budget in budgets.items())
            cards.append(
                Card(
                    label=words.say("Budget left"),
                    value=words.won(left),
                    detail=words.say("of {total}", total=words.won(sum(budgets.values()))),
                    path="/usage",
                )
            )
    return cards
