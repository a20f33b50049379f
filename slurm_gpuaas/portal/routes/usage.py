"""Usage: who used which GPUs how long, by month, with what was preempted and what faults cost."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import By, Ending, PersonUse, Sums
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import AccountName, ClusterName, PoolGrantId, UserName
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.metering.papers import csv_of, gpu_hours
from slurm_gpuaas.portal.charts import Chart, Series, stacked
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal
from slurm_gpuaas.portal.grant_figures import STALE_AFTER
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
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.routes.money import CSV, MonthText, NameText, attachment, hours_of, month_of, only, parties_of
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

MONTHS: Final = 12
"""Of the chart."""


class Split(StrEnum):
    """What a row of usage is for."""

    ORGANISATION = "organisation"
    PROVIDER = "provider"
    PROGRAMME = "programme"
    GRANT = "grant"
    MODEL = "model"
    PERSON = "person"
    """Logins of one grant."""


PARTS: Final[Mapping[Split, By]] = {
    Split.ORGANISATION: By.ORGANISATION,
    Split.PROVIDER: By.PROVIDER,
    Split.PROGRAMME: By.PROGRAMME,
    Split.GRANT: By.GRANT,
    Split.MODEL: By.MODEL,
}
SPLIT_NAMES: Final[Mapping[StrEnum, str]] = {
    Split.ORGANISATION: noted("Organisation"),
    Split.PROVIDER: noted("Provider"),
    Split.PROGRAMME: noted("Programme"),
    Split.GRANT: noted("Grant"),
    Split.MODEL: noted("GPU model"),
    Split.PERSON: noted("Person"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """GPU-seconds. `guaranteed` and `burst` are charged; `preempted` is a part of them; `faults` is beside them, free.
    `won`: without VAT; None where nobody is charged by this split."""

    key: str
    title: str
    guaranteed: int = 0
    burst: int = 0
    preempted: int = 0
    faults: int = 0
    won: int | None = None


class UsageView(Answer):
    """As `UsageRow`; hours are hundredths of GPU-hours for reading, seconds are exact."""

    key: str
    title: str
    guaranteed_gpu_seconds: int
    burst_gpu_seconds: int
    preempted_gpu_seconds: int
    faults_gpu_seconds: int
    gpu_hours: float
    won: int | None


def usage_feature(pool: PoolServer) -> Feature:
    return Feature(
        name="usage",
        routes=lambda portal: _routes(portal, pool),
        nav=(NavEntry("/usage", noted("Usage"), "report", Action.USAGE_READ, 52),),
        names={Split: SPLIT_NAMES},
    )


SplitText = Annotated[
    Split | None,
    Query(alias="by", description="What rows are for; `person` only with `grant`."),
]


def _routes(portal: Portal, pool: PoolServer) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["money"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.USAGE_READ))]

    @pages.get("/usage")
    def usage(
        request: Request,
        visit: Reader,
        month: MonthText = "",
        by: Annotated[str, Query(max_length=12)] = "",
        organisation: NameText = "",
        grant: NameText = "",
    ) -> Response:
        found = Usage(portal, pool, visit, month, _split(by), organisation.strip(), grant.strip())
        return portal.page(
            request,
            visit,
            "usage.html",
            rows=found.rows(),
            chart=found.chart(),
            untold=found.untold(),
            split=found.split,
            splits=found.splits,
            month=found.month,
            wanted={"month": str(found.month), "by": found.split, "organisation": organisation, "grant": grant},
            own=found.own,
            charged=not found.by_people,
            one_organisation=visit.person.office.organisation is not None,
        )

    @pages.get("/usage.csv")
    def usage_csv(
        visit: Reader,
        month: MonthText = "",
        by: Annotated[str, Query(max_length=12)] = "",
        organisation: NameText = "",
        grant: NameText = "",
    ) -> Response:
        found = Usage(portal, pool, visit, month, _split(by), organisation.strip(), grant.strip())
        return attachment(found.csv(), CSV, f"usage-{found.month}-{found.split}.csv")

    @api.get("/usage", response_model=Page[UsageView], responses=NOT_MODIFIED)
    def list_usage(
        request: Request,
        visit: Reader,
        limit: Limit = 100,
        cursor: CursorText = None,
        month: MonthText = "",
        by: SplitText = None,
        organisation: NameText = "",
        grant: NameText = "",
    ) -> Response:
        """GPU time of a Korean month that you may see, as far as it is booked (every hour)."""
        found = Usage(portal, pool, visit, month, by, organisation, grant)
        after = key_of(cursor, str)[0] if cursor else None
        rows = sorted((row for row in found.rows() if after is None or row.key > after), key=lambda row: row.key)
        items, following = page_of(rows[: limit + 1], limit, lambda row: (row.key,))
        return with_etag(request, Page[UsageView](items=tuple(map(_view, items)), next=following))

    return [pages, api]


class Usage:
    """What one visitor asked for, bound to what they may see.

    Raises:
        InvalidInput: the month is none, or people are asked for without a grant.
        Refused: somebody else's usage is asked for.
        NotFound: there is no such grant.
    """

    def __init__(
        self,
        portal: Portal,
        pool: PoolServer,
        visit: Visit,
        month: str,
        split: Split | None,
        organisation: str,
        grant: str,
    ) -> None:
        self._pool = pool
        self._visit = visit
        self._words = visit.words
        self._store = portal.store
        self._moment = portal.clock.now()
        self.now = Month.of(self._moment)
        self.month = month_of(month, self.now)
        self.own = visit.require(Action.USAGE_READ) is Scope.OWN
        self._grant = self._grant_of(grant) if grant else None
        if self.own:
            self._only = only(grant=grant)
        else:
            of, at = parties_of(visit, Action.USAGE_READ, organisation)
            self._only = only(of, at, grant)
        self.splits = self._splits()
        self.split = split if split in self.splits else self.splits[0]
        if split is not None and self.split is not split:
            raise InvalidInput(
                told("Usage cannot be split so here."),
                way_out=told("Choose a grant first to see its people, or split it otherwise."),
            )

    @property
    def by_people(self) -> bool:
        """It comes from the runs themselves, which have no price: that is of all of them together."""
        return self.own or self.split is Split.PERSON

    def _splits(self) -> list[Split]:
        if self.own:
            return [Split.GRANT]
        office = self._visit.person.office
        found = [split for split in PARTS if split is not Split.ORGANISATION or office.organisation is None]
        if self._grant is not None:
            return [Split.PERSON, *found]
        return [Split.GRANT, *(one for one in found if one is not Split.GRANT)] if office.organisation else found

    def _grant_of(self, text: str) -> PoolGrant:
        try:
            grant = self._store.register.grants.get(PoolGrantId(text))
        except InvalidInput:
            raise NotFound(told("There is no grant {grant}.", grant=text[:60])) from None
        share = self._share(grant)
        mine = Owned(people=frozenset(grant.members), organisation=grant.organisation, provider=share.provider)
        self._visit.require(Action.USAGE_READ, mine)
        return grant

    def _share(self, grant: PoolGrant) -> PoolShare:
        return self._store.register.shares.get(grant.share)

    # -- Rows

    def rows(self) -> list[UsageRow]:
        """Of the month, most used first."""
        if self.own:
            found = self._own_rows()
        elif self.split is Split.PERSON and self._grant is not None:
            found = self._people_rows(self._grant)
        else:
            found = self._sum_rows()
        return sorted(found, key=lambda row: (-(row.guaranteed + row.burst + row.faults), row.key))

    def _sum_rows(self) -> list[UsageRow]:
        sums = self._store.ledger.sums.by(
            PARTS[self.split], By.SERVICE, used_in=(self.month, self.month), only=self._only
        )
        classes: dict[str, dict[str, Sums]] = defaultdict(dict)
        for (key, service), one in sums.items():
            classes[key][service] = one
        titles = self._titles()
        return [self._row(key, titles.get(key, key), of_class) for key, of_class in classes.items()]

    def _row(self, key: str, title: str, of_class: Mapping[str, Sums]) -> UsageRow:
        guaranteed, burst = (of_class.get(service, Sums()) for service in ServiceClass)
        whole = guaranteed.plus(burst)
        return UsageRow(
            key=key,
            title=title or self._words.say("no grant known"),
            guaranteed=guaranteed.gpu_seconds - guaranteed.faults,
            burst=burst.gpu_seconds - burst.faults,
            preempted=whole.preempted,
            faults=whole.faults,
            won=whole.won,
        )

    def _people_rows(self, grant: PoolGrant) -> list[UsageRow]:
        use = self._people_use(grant)
        identities = self._store.register.identities.all(login=sorted(use)) if use else ()
        names = self._store.people.names([one.person for one in identities])
        titles = {one.login: names.get(one.person, one.login) for one in identities}
        return [_person_row(user, titles.get(user, user), parts) for user, parts in use.items()]

    def _own_rows(self) -> list[UsageRow]:
        """What the visitor used, by grant; from runs, where their login stands."""
        me = self._visit.person.id
        identity = self._store.register.identities.find(me)
        organisation = self._visit.person.office.organisation
        if identity is None or organisation is None:
            return []
        grants = self._store.register.grants.all(organisation=organisation)
        mine = [one for one in grants if me in one.members and (self._grant is None or one.id == self._grant.id)]
        return [
            _person_row(grant.id, grant.title, parts)
            for grant in mine
            if (parts := self._people_use(grant).get(identity.login))
        ]

    def _people_use(self, grant: PoolGrant) -> Mapping[UserName, Mapping[PersonUse, int]]:
        use: dict[UserName, dict[PersonUse, int]] = defaultdict(dict)
        cluster, account = self._share(grant).cluster, AccountName(grant.project)
        for key, used in self._pool.keeper.people_use(cluster, account, self.month).items():
            use[key.user][key] = used
        return use

    def _titles(self) -> Mapping[str, str]:
        register = self._store.register
        match self.split:
            case Split.ORGANISATION:
                return {str(one.name): one.title for one in register.organisations.all()}
            case Split.PROGRAMME:
                korean = self._words.language is Language.KOREAN
                return {str(one.name): one.title.ko if korean else one.title.en for one in register.programmes.all()}
            case Split.GRANT:
                of = self._only.get(By.ORGANISATION)
                grants = register.grants.all() if of is None else register.grants.all(organisation=of)
                return {str(one.id): one.title for one in grants}
            case _:
                return {}

    # -- How old it is

    def untold(self) -> Sequence[tuple[ClusterName, datetime | None]]:
        """Clusters that have not reported lately, nor since the month ended, and when they did (None = never): what was
        used there since then is not in the figures."""
        due = min(self._moment - STALE_AFTER, self.month.window.end)
        clusters = self._clusters()
        found = []
        for site in self._store.sites.all():
            if clusters is None or site.cluster in clusters:
                report = self._store.sites.report(site.name)
                if report is None or report.received_at < due:
                    found.append((site.cluster, None if report is None else report.received_at))
        return found

    def _clusters(self) -> Collection[ClusterName] | None:
        """Where the figures come from; None = everywhere."""
        register, office = self._store.register, self._visit.person.office
        if self._grant is not None:
            return {self._share(self._grant).cluster}
        of = office.organisation if self.own else self._only.get(By.ORGANISATION)
        if of is not None:
            return {self._share(grant).cluster for grant in register.grants.all(organisation=of)}
        at = self._only.get(By.PROVIDER)
        return None if at is None else {share.cluster for share in register.shares.all() if share.provider == at}

    # -- Over time

    def chart(self) -> Chart | None:
        """GPU-hours of twelve months; None where only runs say it."""
        if self.own:
            return None
        first = self.month.back(MONTHS - 1)
        sums = self._store.ledger.sums.by(By.USED_IN, By.SERVICE, used_in=(first, self.month), only=self._only)
        columns: list[tuple[str, Sequence[float]]] = []
        month = first
        while month <= self.month:
            guaranteed, burst = (sums.get((str(month), service), Sums()) for service in ServiceClass)
            parts = (
                guaranteed.gpu_seconds - guaranteed.faults,
                burst.gpu_seconds - burst.faults,
                guaranteed.faults + burst.faults,
            )
            # A moved booking may leave a month below 0 until the next one: nothing is drawn of it.
            columns.append((month_label(month, first), [max(hours_of(one), 0.0) for one in parts]))
            month = month.following
        series = (
            Series(self._words.name(ServiceClass.GUARANTEED), "first"),
            Series(self._words.name(ServiceClass.BURST), "second"),
            Series(self._words.say("Lost to faults"), "bad"),
        )
        return stacked(self._words.say("Month"), series, columns)

    def csv(self) -> bytes:
        headings = (
            SPLIT_HEADINGS[self.split],
            "이름 Name",
            "보장 Guaranteed GPU-h",
            "차용 Borrowed GPU-h",
            "그중 선점 Preempted GPU-h",
            "장애 손실(무상) Faults, free GPU-h",
            "공급가액 Supply Won",
        )
        rows = [
            [
                row.key,
                row.title,
                *(gpu_hours(one) for one in (row.guaranteed, row.burst, row.preempted, row.faults)),
                "" if row.won is None else row.won,
            ]
            for row in self.rows()
        ]
        return csv_of(headings, rows)


SPLIT_HEADINGS: Final = {
    Split.ORGANISATION: "기관 Organisation",
    Split.PROVIDER: "공급자 Provider",
    Split.PROGRAMME: "사업 Programme",
    Split.GRANT: "배분 Grant",
    Split.MODEL: "GPU",
    Split.PERSON: "로그인 Login",
}


def month_label(month: Month, first: Month) -> str:
    """Short, for under a bar; January and the first one say their year, but a December before January: both would not
    have room."""
    year = f"’{month.year % 100:02}." if month.number == 1 or (month == first and month.number < 12) else ""
    return f"{year}{month.number}"


def _person_row(key: str, title: str, parts: Mapping[PersonUse, int]) -> UsageRow:
    paid = [(key_of_use, used) for key_of_use, used in parts.items() if key_of_use.ending is not Ending.FAULT]
    return UsageRow(
        key=key,
        title=title,
        guaranteed=sum(used for one, used in paid if one.service is ServiceClass.GUARANTEED),
        burst=sum(used for one, used in paid if one.service is ServiceClass.BURST),
        preempted=sum(used for one, used in paid if one.ending is Ending.PREEMPTED),
        faults=sum(used for one, used in parts.items() if one.ending is Ending.FAULT),
    )


def _view(row: UsageRow) -> UsageView:
    return UsageView(
        key=row.key,
        title=row.title,
        guaranteed_gpu_seconds=row.guaranteed,
        burst_gpu_seconds=row.burst,
        preempted_gpu_seconds=row.preempted,
        faults_gpu_seconds=row.faults,
        gpu_hours=hours_of(row.guaranteed + row.burst),
        won=row.won,
    )


def _split(text: str) -> Split | None:
    if not text:
        return None
    if text not in set(Split):
        raise InvalidInput(told("Usage cannot be split so here."), way_out=told("Choose from the list."))
    return Split(text)
