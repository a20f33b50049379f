"""For the government: the pool at one look, and what each programme came to."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.api.pool_sites import SiteReport
from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.calendar import Commitment, korean_day
from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.leases import LEASE_PROGRAMME
from slurm_gpuaas.domain.ledger import By, Reconciled
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import ClusterName, ProgrammeName
from slurm_gpuaas.domain.programmes import Programme
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.metering.pool_report import PoolReport, PoolRow
from slurm_gpuaas.metering.programme_report import GrantRow, ProgrammeReport
from slurm_gpuaas.portal.charts import Chart, Series, stacked
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal
from slurm_gpuaas.portal.http import API, NOT_MODIFIED, PROBLEMS, Answer, with_etag
from slurm_gpuaas.portal.overview import (
    ProgrammeState,
    Received,
    ShareState,
    awarded_by_month,
    programme_states,
    share_states,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.ledger import ReconciliationView, reconciliation_view
from slurm_gpuaas.portal.routes.money import CSV, MonthText, attachment, span_of
from slurm_gpuaas.portal.routes.usage import month_label
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Words, noted

OF_AWARDS: Final = ("awarded", "guaranteed", "burst", "faults", "measured", "busy")
TOTALLED: Final = ("capacity", "awarded", "kept", "guaranteed", "burst", "idle", "out")


class ShareView(Answer):
    """GPUs; null where its site does not report it. `reported_at`: when the portal received what runs."""

    provider: str
    cluster: str
    share: str
    model: str
    capacity: int
    awarded: int
    kept: int
    guaranteed: int | None
    burst: int | None
    idle: int | None
    out: int | None
    reported_at: datetime | None
    late: bool


class ProgrammeView(Answer):
    name: str
    title: str
    grants: int
    organisations: int
    gpus: int
    budget: int | None
    won: int
    list_won: int


class OverviewView(Answer):
    """The pool now. What is awarded is the portal's own; what runs is as old as `reported_at` says."""

    shares: tuple[ShareView, ...]
    programmes: tuple[ProgrammeView, ...]


class PoolRowView(Answer):
    """GPU-seconds and Won, without VAT. `measured`: of what was guaranteed, on days on which sites knew how busy the
    GPUs were; `busy`: of that, GPUs that computed. The programme `lease` is what providers leased, free."""

    programme: str | None
    provider: str | None
    grants: int
    gpus: int
    awarded: int
    guaranteed: int
    burst: int
    idle: int
    preempted: int
    faults: int
    measured: int
    busy: int
    list_won: int
    won: int


class PoolReportView(Answer):
    first: str
    last: str
    as_of: datetime
    rows: tuple[PoolRowView, ...]


class GrantRowView(Answer):
    grant: str
    organisation: str
    provider: str
    model: str
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


class ProgrammeReportView(Answer):
    """GPU-seconds and Won, without VAT, by grant."""

    programme: str
    first: str
    last: str
    as_of: datetime
    rows: tuple[GrantRowView, ...]


def reports_feature(pool: PoolServer) -> Feature:
    return Feature(
        name="reports",
        routes=lambda portal: _routes(portal, pool),
        cards=lambda portal, visit: _cards(portal, visit, pool),
        nav=(
            NavEntry("/overview", noted("Overview"), "map", Action.REPORT_READ, 1),
            NavEntry("/reports", noted("Reports"), "report", Action.REPORT_READ, 60),
        ),
    )


def _routes(portal: Portal, pool: PoolServer) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["reports"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.REPORT_READ))]

    def programme(name: str) -> Programme:
        try:
            return portal.store.register.programmes.get(ProgrammeName(name))
        except InvalidInput:
            raise NotFound(told("There is no programme {name}.", name=name[:60])) from None

    def span(first: str, last: str) -> tuple[Month, Month]:
        """Last month and this one, unless others are asked for: on the first of a month there is nothing yet."""
        now = Month.of(portal.clock.now())
        return span_of(first, last, now) if first or last else (now.back(1), now)

    def report_of(name: str, first: str, last: str) -> ProgrammeReport:
        since, until = span(first, last)
        return pool.keeper.programme_report(programme(name).name, since, until, pool.busy(since, until))

    def whole(first: str, last: str) -> PoolReport:
        since, until = span(first, last)
        return pool.keeper.report(since, until, pool.busy(since, until))

    @pages.get("/overview")
    def overview(request: Request, visit: Reader) -> Response:
        now = portal.clock.now()
        month = Month.of(now)
        states = states_of(portal, pool)
        rows = pool.keeper.report(month, month, pool.busy(month, month)).rows
        return portal.page(
            request,
            visit,
            "overview.html",
            states=states,
            late=[state for state in states if state.late],
            totals=totals_of(states),
            heard=any_heard(states),
            now_chart=now_chart(visit.words, states),
            time_chart=time_chart(visit.words, portal, pool),
            programmes=programmes_of(portal, pool),
            use=by_provider(rows),
            month=month,
        )

    @pages.get("/reports")
    def reports(request: Request, visit: Reader, first: MonthText = "", last: MonthText = "") -> Response:
        found = whole(first, last)
        return portal.page(
            request,
            visit,
            "reports.html",
            report=found,
            lease=LEASE_PROGRAMME,
            programmes={str(one.name): one.title for one in portal.store.register.programmes.all()},
            wanted={"first": str(found.first), "last": str(found.last)},
            reconciled=_reconciled(portal),
        )

    @pages.get("/reports.csv")
    def reports_csv(visit: Reader, first: MonthText = "", last: MonthText = "") -> Response:
        found = whole(first, last)
        return attachment(found.csv(), CSV, f"pool-{found.first}-{found.last}.csv")

    @pages.get("/reports/programmes/{name}.csv")
    def programme_csv(visit: Reader, name: str, first: MonthText = "", last: MonthText = "") -> Response:
        found = report_of(name, first, last)
        return attachment(found.csv(), CSV, f"{found.programme}-{found.first}-{found.last}.csv")

    @pages.get("/reports/programmes/{name}")
    def programme_page(
        request: Request, visit: Reader, name: str, first: MonthText = "", last: MonthText = ""
    ) -> Response:
        found = report_of(name, first, last)
        korean = visit.words.language is Language.KOREAN
        title = programme(name).title
        return portal.page(
            request,
            visit,
            "programme-report.html",
            report=found,
            title=title.ko if korean else title.en,
            wanted={"first": str(found.first), "last": str(found.last)},
        )

    @api.get("/reports/overview", response_model=OverviewView, responses=NOT_MODIFIED)
    def overview_now(request: Request, visit: Reader) -> Response:
        """What there is, who has it and what runs, by share; programmes with their budgets."""
        shares = tuple(ShareView(**asdict(state)) for state in states_of(portal, pool))
        programmes = tuple(
            ProgrammeView(**asdict(one) | {"title": one.title.ko}) for one in programmes_of(portal, pool)
        )
        return with_etag(request, OverviewView(shares=shares, programmes=programmes))

    @api.get("/reports/pool", response_model=PoolReportView, responses=NOT_MODIFIED)
    def pool_months(request: Request, visit: Reader, first: MonthText = "", last: MonthText = "") -> Response:
        """Awarded, used, idle, lost and charged, by programme and provider."""
        found = whole(first, last)
        return with_etag(
            request,
            PoolReportView(
                first=str(found.first), last=str(found.last), as_of=found.as_of, rows=tuple(map(_pool_row, found.rows))
            ),
        )

    @api.get("/reports/programmes/{name}", response_model=ProgrammeReportView, responses=NOT_MODIFIED)
    def programme_months(
        request: Request, visit: Reader, name: str, first: MonthText = "", last: MonthText = ""
    ) -> Response:
        """What each grant of a programme got, used, lost to faults and cost."""
        found = report_of(name, first, last)
        return with_etag(
            request,
            ProgrammeReportView(
                programme=found.programme,
                first=str(found.first),
                last=str(found.last),
                as_of=found.as_of,
                rows=tuple(_grant_row(row) for row in found.rows),
            ),
        )

    @api.get("/reports/reconciliation", response_model=tuple[ReconciliationView, ...])
    def reconciliation(visit: Reader) -> tuple[ReconciliationView, ...]:
        """For each site and month, whether the ledger holds what the site reported, the newest month first."""
        return tuple(map(reconciliation_view, _reconciled(portal)))

    return [pages, api]


def _reconciled(portal: Portal) -> Sequence[Reconciled]:
    return portal.store.ledger.reconciliations.newest([site.cluster for site in portal.store.sites.all()])


def _pool_row(row: PoolRow) -> PoolRowView:
    return PoolRowView(
        programme=row.programme,
        provider=row.provider,
        grants=row.grants,
        gpus=row.gpus,
        awarded=row.awarded,
        guaranteed=row.guaranteed,
        burst=row.burst,
        idle=row.idle,
        preempted=row.preempted,
        faults=row.faults,
        measured=row.measured,
        busy=row.busy,
        list_won=row.list_won,
        won=row.won,
    )


def _grant_row(row: GrantRow) -> GrantRowView:
    return GrantRowView(**asdict(row))


# -- What is read ------------------------------------------------------------------------------------------------------


def _calendar(pool: PoolServer, since: date | None = None) -> Mapping[str, Sequence[Commitment]]:
    register = pool.store.register
    return {share.name: register.calendar.of_share(share.name, since=since) for share in register.shares.all()}


def states_of(portal: Portal, pool: PoolServer) -> tuple[ShareState, ...]:
    now = portal.clock.now()
    reports: dict[ClusterName, Received] = {}
    for site in portal.store.sites.all():
        found = portal.store.sites.report(site.name)
        if found is not None:
            reports[site.cluster] = Received(report=SiteReport.model_validate(found.report), at=found.received_at)
    today = korean_day(now)
    return share_states(pool.store.register.shares.all(), _calendar(pool, today), reports, today=today, now=now)


def programmes_of(portal: Portal, pool: PoolServer) -> tuple[ProgrammeState, ...]:
    register = pool.store.register
    sums = portal.store.ledger.sums.by(By.PROGRAMME)
    return programme_states(register.programmes.all(), register.grants.all(state=("scheduled", "active")), sums)


def totals_of(states: Sequence[ShareState]) -> dict[str, int]:
    """Of what is known."""
    return {name: sum(getattr(state, name) or 0 for state in states) for name in TOTALLED}


def any_heard(states: Sequence[ShareState]) -> bool:
    """Whether a site has said what runs; before that it is not known, which is not the same as nothing."""
    return any(state.guaranteed is not None for state in states)


def by_provider(rows: Sequence[PoolRow]) -> list[tuple[str, dict[str, int]]]:
    """GPU-seconds of the month: of what was awarded, and `leased`, which the provider used itself."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys((*OF_AWARDS, "leased"), 0))
    for row in rows:
        if row.provider is not None:
            sums = found[row.provider]
            if row.programme == LEASE_PROGRAMME:
                sums["leased"] += row.guaranteed + row.burst
            else:
                sums |= {name: sums[name] + getattr(row, name) for name in OF_AWARDS}
                found[row.provider] = sums
    return sorted(found.items())


def now_chart(words: Words, states: Sequence[ShareState]) -> Chart:
    series = (
        Series(words.say("Guaranteed"), "first"),
        Series(words.say("Borrowed"), "second"),
        Series(words.say("Idle"), "idle"),
        Series(words.say("Out of service"), "bad"),
    )
    columns = [
        (f"{one.provider}\n{one.share}", [part or 0 for part in (one.guaranteed, one.burst, one.idle, one.out)])
        for one in states
    ]
    return stacked(words.say("Share"), series, columns)


def time_chart(words: Words, portal: Portal, pool: PoolServer) -> Chart:
    models, rows = awarded_by_month(pool.store.register.shares.all(), _calendar(pool), korean_day(portal.clock.now()))
    columns = [(month_label(month, rows[0][0]), figures) for month, figures in rows]
    inks = ("first", "second", "third", "idle")
    series = [Series(model.upper(), inks[place % len(inks)]) for place, model in enumerate(models)]
    return stacked(words.say("Month"), series, columns, most_labels=18)


def _cards(portal: Portal, visit: Visit, pool: PoolServer) -> list[Card]:
    if visit.may(Action.REPORT_READ) is None:
        return []
    words = visit.words
    states = states_of(portal, pool)
    totals, heard = totals_of(states), any_heard(states)
    running = totals["guaranteed"] + totals["burst"]
    return [
        Card(
            label=words.say("Awarded today"),
            value=words.value(totals["awarded"]),
            detail=words.say("of {capacity} GPUs", capacity=totals["capacity"]),
            path="/overview",
        ),
        Card(
            label=words.say("Running"),
            value=words.value(running) if heard else "–",
            detail=words.say("{idle} idle, {out} out of service", idle=totals["idle"], out=totals["out"])
            if heard
            else words.say("no site has reported yet"),
            path="/overview",
        ),
    ]
