"""Keeps the pool's accounts: takes what sites report, books what follows from it, closes months.

Each step is one transaction and none relies on another having happened: what is not booked yet is noted in the same
transaction as its cause, and the note goes with the entries. So wherever it dies, the next call finishes the work.
Nothing here asks who may do it; two-person rules compare people.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.budgets import pace_window, runs_dry
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, NotFound, Refused
from slurm_gpuaas.domain.idle import BusySum
from slurm_gpuaas.domain.ledger import (
    Amounts,
    Asked,
    AskedRate,
    AskedWon,
    By,
    Entry,
    EntryKind,
    Payment,
    PersonUse,
    PoolRate,
    RateRequest,
    Reconciled,
    StatementHead,
    Sums,
    Terms,
    Titles,
    UseKey,
    Verdict,
    WonRequest,
)
from slurm_gpuaas.domain.money import Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import AccountName, ClusterName, GrantName, OrganisationName, ProgrammeName, ProviderName
from slurm_gpuaas.domain.people import Actor
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.domain.usage import RunKey, UsageChange, UsageRecord, key_of
from slurm_gpuaas.metering.closing import Closing, closing
from slurm_gpuaas.metering.ledger import (
    VAT_PERCENT,
    Standing,
    Tariff,
    check,
    entitled,
    entry_for,
    missing,
    recent_use,
    site_policy,
    standing,
    use_of,
    use_of_people,
    vat_of,
)
from slurm_gpuaas.metering.pool_report import PoolReport, Side, pool_report
from slurm_gpuaas.metering.programme_report import ProgrammeReport, programme_report
from slurm_gpuaas.metering.reconciliation import Difference, reconcile
from slurm_gpuaas.metering.rules import gpu_seconds_in
from slurm_gpuaas.metering.statements import Statement, draft_number, parts_of_draft, statement_of
from slurm_gpuaas.store.pool.ledger import LedgerStore
from slurm_gpuaas.store.pool.ledger_views import MOST_DIFFERENCES

_AT_ONCE: Final = 500
"""Places that are booked in one transaction: the store has one writer, and others wait for it."""

NO_TITLES: Final = Titles()
NOTHING_KNOWN: Final[Mapping[GrantName, BusySum]] = MappingProxyType({})
_LAST_MONTH: Final = Month(9998, 12)

_Pair = tuple[OrganisationName, ProviderName]


class Bookkeeper:
    """Of one pool."""

    def __init__(self, store: LedgerStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def tariff(self) -> Tariff:
        """All terms and rates, as they are now."""
        return self._store.from_tariff("tariff", lambda: Tariff(self._store.terms(), self._store.rates()))

    # -- What bookings follow from

    def take(self, runs: Iterable[UsageChange]) -> int:
        """Keep runs as their sites report them, in any order and however often; how many told something new.

        Raises:
            InvalidInput: one of them cannot be; none was kept.
        """
        newest: dict[RunKey, UsageChange] = {}
        for run in runs:
            check(run.record)
            if newest.setdefault(key_of(run.record), run).number < run.number:
                newest[key_of(run.record)] = run
        with self._store.transaction():
            known = self._store.runs(newest)
            fresh = {key: run for key, run in newest.items() if key not in known or known[key].number < run.number}
            self._store.put_runs(fresh.values())
            before = [known[key].record for key in fresh if key in known]
            self._store.add_use(_change(before, [run.record for run in fresh.values()]))
        return len(fresh)

    def set_terms(self, terms: Terms) -> None:
        """Put a grant's terms in force: new ones, or a change of its days, GPUs, percent or budgets. What was booked
        for it and would now be booked otherwise is corrected by the next booking.

        Raises:
            InvalidInput: they contradict the project's other grants on the cluster, or want a rate that is missing.
            Conflict: they say of a known grant or project that it is somebody else's or somewhere else.
        """
        if self.tariff().by_grant.get(terms.grant.name) == terms:
            return  # mostly: they are put before every booking
        with self._store.transaction():
            tariff = self.tariff()
            before = tariff.by_grant.get(terms.grant.name)
            if before is not None and before.fixed != terms.fixed:
                raise Conflict(
                    told("Grant {grant} is known as another one's or on other GPUs.", grant=terms.grant.name),
                    way_out="Give what differs a grant of its own.",
                )
            others = [one for one in tariff.terms if one.grant.project == terms.grant.project and one != before]
            if any(one.organisation != terms.organisation for one in others):
                raise Conflict(
                    told("Project {project} belongs to another organisation.", project=terms.grant.project),
                    way_out="Use another project.",
                )
            site_policy([*(one for one in others if one.cluster == terms.cluster), terms], tariff)
            if self._store.put_terms(terms, self._clock.now()):
                first = min(terms.grant.starts, before.grant.starts if before else terms.grant.starts)
                since = Month(first.year, first.month)
                self._store.note_unbooked(self._store.places(terms.cluster, terms.account, since=since))

    def add_rate(self, rate: PoolRate) -> None:
        """
        Raises:
            Conflict: another rate has this name, or is for the same from the same day on.
            Refused: it begins in a month that is closed.
        """
        with self._store.transaction():
            if rate in self._store.rates():
                return
            self._check_rate(rate)
            self._store.add_rate(rate)
            since = Month(rate.starts.year, rate.starts.month)
            self._store.note_unbooked(self._store.places(since=since))

    def _check_rate(self, rate: PoolRate) -> None:
        for one in self._store.rates():
            if one.name == rate.name or _for_the_same(one, rate):
                raise Conflict(
                    told("Rate {name} is there already, and a rate never changes.", name=one.name),
                    way_out=told("Give a new rate a name and a first day of its own."),
                )
        closed = self._store.closed_through()
        if closed is not None and rate.starts < closed.following.first:
            raise Refused(
                told("Rate {name} begins on {day}, in a month that is closed.", name=rate.name, day=rate.starts),
                way_out=told(
                    "Let it begin on {day} or later; give back or add Won by adjustment.", day=closed.following.first
                ),
            )

    def propose_rate(self, request: RateRequest, by: Actor) -> bool:
        """Propose a rate, which somebody else then puts in force; whether this is new.

        Raises:
            Conflict: another rate has this name or is for the same from the same day on, or is proposed; another
                proposal came under this command.
            Refused: it begins in a month that is closed.
        """
        with self._store.transaction():
            known = self._store.rate_requests.find(request.command)
            if known is not None:
                if (known.request, known.asked_by) != (request, by.person):
                    raise _taken(request.command)
                return False
            self._check_rate(request.rate)
            for one in (open_one.request.rate for open_one in self._store.rate_requests.all(Verdict.OPEN)):
                if one.name == request.rate.name or _for_the_same(one, request.rate):
                    raise Conflict(
                        told("Rate {name} is proposed already.", name=one.name),
                        way_out=told("Wait for its decision, or give yours a name and a first day of its own."),
                    )
            self._store.rate_requests.put(Asked(request=request, asked_by=by.person, asked_at=self._clock.now()))
        return True

    def decide_rate(self, command: str, verdict: Verdict, by: Actor, why: str = "") -> bool:
        """Put a proposed rate in force, or refuse it; whether that is new.

        Raises:
            NotFound: nobody proposed it.
            Refused: the person who decides is the one who proposed; its first day's month was closed meanwhile.
            Conflict: it was decided otherwise before.
        """
        with self._store.transaction():
            asked = self._store.rate_requests.find(command)
            if asked is None:
                raise NotFound(told("There is no such proposal."), way_out=told("List the rates."))
            if not _to_decide(asked, verdict, by):
                return False
            self._store.rate_requests.decide(command, verdict, by=by.person, at=self._clock.now(), why=why)
            if verdict is Verdict.APPROVED:
                self.add_rate(asked.request.rate)
        return True

    # -- Booking

    def book(self) -> int:
        """Book what is missing; how many entries that took. Costs what has changed since, not what is there."""
        written = 0
        while True:
            with self._store.transaction():
                places = self._store.unbooked(_AT_ONCE)
                if not places:
                    return written
                tariff, closed, now = self.tariff(), self._store.closed_through(), self._clock.now()
                changes = missing(self._store.use(places), self._store.booked(places), tariff)
                entries = [entry_for(key, amounts, tariff, closed=closed, at=now) for key, amounts in changes.items()]
                self._store.append(entries)
                self._store.note_booked(places)
                written += len(entries)

    def book_everything(self) -> int:
        """Compare all that was ever used with all that was ever booked; 0 entries when nothing was missed."""
        self._store.note_unbooked(self._store.places())
        return self.book()

    # -- By hand

    def ask(self, request: WonRequest, by: Actor) -> bool:
        """Ask for a credit or an adjustment, which somebody else then approves; whether this is new.

        Raises:
            NotFound: the organisation has no such grant, or none of the provider's.
            Conflict: another request came under this command.
        """
        with self._store.transaction():
            known = self._store.request(request.command)
            if known is not None:
                if (known.request, known.asked_by) != (request, by.person):
                    raise _taken(request.command)
                return False
            self._check_party(request.organisation, request.provider, request.grant)
            self._store.put_request(Asked(request=request, asked_by=by.person, asked_at=self._clock.now()))
        return True

    def decide(self, command: str, verdict: Verdict, by: Actor, why: str = "") -> bool:
        """Approve or refuse what another person asked for; what is approved is booked at once. Whether that is new.

        Raises:
            NotFound: nobody asked.
            Refused: the person who decides is the one who asked.
            Conflict: it was decided otherwise before.
        """
        with self._store.transaction():
            asked = self._store.request(command)
            if asked is None:
                raise NotFound(
                    told("Nothing was asked for as {command}.", command=command), way_out=told("List requests.")
                )
            if not _to_decide(asked, verdict, by):
                return False
            now, request = self._clock.now(), asked.request
            self._store.decide_request(command, verdict, by=by.person, at=now, why=why)
            if verdict is Verdict.APPROVED:
                terms = self.tariff().by_grant.get(request.grant) if request.grant else None
                self._store.append(
                    [
                        Entry(
                            at=now,
                            kind=request.kind,
                            month=self._open_month(now),
                            amounts=Amounts(list_won=request.won, won=request.won),
                            organisation=request.organisation,
                            provider=request.provider,
                            programme=terms.programme if terms else None,
                            grant=request.grant,
                            refers=request.refers,
                            reason=request.reason,
                            asked_by=asked.asked_by,
                            approved_by=by.person,
                            command=command,
                        )
                    ]
                )
        return True

    def pay(self, payment: Payment, by: Actor) -> bool:
        """Enter money that came in; whether this is new.

        Raises:
            NotFound: the provider has no grant of the organisation's.
            Conflict: something else was booked under this command.
        """
        with self._store.transaction():
            now = self._clock.now()
            entry = Entry(
                at=now,
                kind=EntryKind.PAYMENT,
                month=self._open_month(now),
                amounts=Amounts(list_won=-payment.won, won=-payment.won),
                organisation=payment.organisation,
                provider=payment.provider,
                refers=payment.refers,
                reason=payment.reason,
                asked_by=by.person,
                command=payment.command,
            )
            known = self._store.entry_of(payment.command)
            if known is not None:
                if _said(known) != _said(entry):
                    raise _taken(payment.command)
                return False
            self._check_party(payment.organisation, payment.provider, None)
            self._store.append([entry])
        return True

    def _check_party(self, organisation: OrganisationName, provider: ProviderName, grant: GrantName | None) -> None:
        for terms in self._store.terms():
            if (terms.organisation, terms.provider) == (organisation, provider) and grant in (None, terms.grant.name):
                return
        raise NotFound(
            told(
                "{organisation} has no grant {grant} with {provider}.",
                organisation=organisation,
                grant=grant or "",
                provider=provider,
            ),
            way_out="List its grants.",
        )

    def _open_month(self, now: datetime) -> Month:
        """On whose statement stands what is booked by hand: the next that is issued."""
        closed = self._store.closed_through()
        return closed.following if closed else Month.of(now)

    # -- Statements

    def close(self, month: Month, titles: Titles = NO_TITLES) -> Sequence[StatementHead]:
        """Book what is missing and issue the month's statements; it gets no entry after that.

        Args:
            titles: as the statements shall name things for ever; what has none is called by its name.

        Raises:
            Refused: the month is not over.
            Conflict: it is closed already, or an earlier one is not.
        """
        with self._store.transaction():
            now = self._clock.now()
            if now < month.window.end:
                raise Refused(
                    told("{month} is not over in Korea.", month=str(month)),
                    way_out="Close it on the first of the next.",
                )
            self.book()
            due = self.next_to_close() or month
            if month != due:
                raise Conflict(
                    told("{due} is the month to close next, not {month}.", due=str(due), month=str(month)),
                    way_out="Close months in order; a closed one stays closed.",
                )
            heads = self._heads(month, now, titles)
            self._store.close_month(month, heads, now)
        return heads

    def next_to_close(self) -> Month | None:
        """The first month that is open; None as long as nothing was ever booked."""
        closed = self._store.closed_through()
        return closed.following if closed else self._store.first_month()

    def closing(self, month: Month, told: Mapping[ClusterName, datetime]) -> Closing:
        """When the month closes by itself.

        Args:
            told: until when all runs that each cluster's Slurm knows are here.
        """
        return closing(month, self._store.terms(), told)

    def _heads(self, month: Month, now: datetime, titles: Titles) -> list[StatementHead]:
        owed = self._store.owed()
        entries: dict[_Pair, list[Entry]] = defaultdict(list)
        for entry in self._store.entries(month=month):
            if entry.organisation and entry.provider:
                entries[entry.organisation, entry.provider].append(entry)
        numbers: dict[ProviderName, int] = defaultdict(int)
        heads = []
        for organisation, provider in sorted({*entries, *(pair for pair, won in owed.items() if won)}):
            mine = entries[organisation, provider]
            paid = -sum(entry.amounts.won for entry in mine if entry.kind is EntryKind.PAYMENT)
            supply = sum(entry.amounts.won for entry in mine if entry.kind is not EntryKind.PAYMENT)
            numbers[provider] += 1
            heads.append(
                StatementHead(
                    number=f"{month}-{provider}-{numbers[provider]:04}",
                    month=month,
                    organisation=organisation,
                    provider=provider,
                    issued_at=now,
                    vat_percent=VAT_PERCENT,
                    carried=owed.get((organisation, provider), Won(0)),
                    supply=Won(supply),
                    vat=vat_of(supply),
                    paid=Won(paid),
                    titles=_named(titles, organisation, provider, mine),
                )
            )
        return heads

    def statement(self, number: str) -> Statement:
        """
        Raises:
            NotFound: no statement has this number.
            Conflict: its lines do not add up to what was issued; the store was changed by other means.
        """
        head = self._store.statement(number)
        entries = self._store.entries(month=head.month, organisation=head.organisation, provider=head.provider)
        return statement_of(head, entries, self.tariff())

    def drafts(
        self,
        *,
        organisation: OrganisationName | None = None,
        provider: ProviderName | None = None,
    ) -> Sequence[StatementHead]:
        """What statements of months that are not closed would say in this minute, the earliest month first. Things are
        called by their names."""
        minute = self._clock.now().replace(second=0, microsecond=0)
        name = ("drafts", organisation, provider)
        return self._store.from_books(name, lambda: self._drafts(organisation, provider, minute), as_of=minute)

    def _drafts(
        self, organisation: OrganisationName | None, provider: ProviderName | None, now: datetime
    ) -> Sequence[StatementHead]:
        parties = {By.ORGANISATION: organisation, By.PROVIDER: provider}
        with self._store.snapshot():
            owed = dict(self._store.owed())
            since = self.next_to_close() or Month.of(now)
            sums = self._store.sums.by(
                By.MONTH,
                By.ORGANISATION,
                By.PROVIDER,
                By.KIND,
                months=(since, _LAST_MONTH),
                only={part: name for part, name in parties.items() if name is not None},
                without=(),
            )
        found: dict[tuple[str, str, str], dict[bool, int]] = defaultdict(lambda: {True: 0, False: 0})
        for (month, of, at, kind), one in sums.items():
            if of and at:
                found[month, of, at][kind == EntryKind.PAYMENT] += one.won
        for (of, at), won_owed in owed.items():  # whoever owes gets a statement without any use
            if won_owed and organisation in (None, of) and provider in (None, at):
                found[str(since), of, at][False] += 0
        heads = []
        for (month, of, at), won in sorted(found.items()):
            pair = OrganisationName(of), ProviderName(at)
            head = StatementHead(
                number=draft_number(Month.parse(month), *pair),
                month=Month.parse(month),
                organisation=pair[0],
                provider=pair[1],
                issued_at=now,
                vat_percent=VAT_PERCENT,
                carried=owed.get(pair, Won(0)),
                supply=Won(won[False]),
                vat=vat_of(won[False]),
                paid=Won(-won[True]),
                titles=NO_TITLES,
            )
            owed[pair] = head.due
            heads.append(head)
        return heads

    def draft(self, number: str, titles: Titles = NO_TITLES) -> Statement:
        """What the statement of a month that is not closed would be now; it may change until it is issued.

        Args:
            number: of `drafts`.

        Raises:
            NotFound: there is nothing for it.
        """
        month, organisation, provider = parts_of_draft(number)
        with self._store.snapshot():
            heads = self.drafts(organisation=organisation, provider=provider)
            head = next((one for one in heads if one.month == month), None)
            if head is None:
                raise NotFound(
                    told("There is no statement {number}.", number=number[:80]), way_out=told("List the statements.")
                )
            entries = self._store.entries(month=month, organisation=organisation, provider=provider)
        head = replace(head, titles=_named(titles, organisation, provider, entries))
        return statement_of(head, entries, self.tariff(), provisional=True)

    def corrections(self, head: StatementHead) -> Mapping[Month, Sums]:
        """What later statements say of the use of an issued statement's month, by the month of the later one."""
        sums = self._store.sums.by(
            By.MONTH,
            By.KIND,
            used_in=(head.month, head.month),
            only={By.ORGANISATION: head.organisation, By.PROVIDER: head.provider},
        )
        return {Month.parse(month): one for (month, kind), one in sums.items() if kind == EntryKind.CORRECTION}

    # -- Views

    def won_of(self, record: UsageRecord) -> Won | None:
        """What a run costs by today's terms and rates, rounded by itself: bookings round once for all runs of a month,
        so the sum over runs may be some Won less. None: nobody is charged for its account."""
        tariff = self.tariff()
        if tariff.terms_at(record.cluster, record.account, korean_day(record.started)) is None:
            return None
        return Won(sum(amounts.won for amounts in entitled(use_of(record), tariff).values()))

    def people_use(self, cluster: ClusterName, account: AccountName, month: Month) -> Mapping[PersonUse, int]:
        """GPU-seconds of an account by login, from the runs themselves."""
        return use_of_people(*self._store.use_by_person(cluster, account, month.window), month.window)

    def standing(self, cluster: ClusterName, account: AccountName) -> tuple[Standing, datetime | None] | None:
        """The budget of a project as far as its runs were reported, and when it runs dry at today's pace; None without
        a budget in force."""
        now, tariff = self._clock.now(), self.tariff()
        use: Mapping[UseKey, int] = self._store.use(self._store.places(cluster, account))
        found = standing(tariff, cluster, account, use, now)
        if found is None:
            return None
        window = pace_window(found.budget, now)
        seconds, won = recent_use(tariff, self._store.runs_of(cluster, account, window), window)
        return found, runs_dry(found.budget, seconds, won, now)

    def report(self, first: Month, last: Month, busy: Mapping[GrantName, BusySum] = NOTHING_KNOWN) -> PoolReport:
        """For the government: what was awarded and used in the months from `first` to `last`.

        Args:
            busy: how busy the GPUs of grants were in these months, as far as it is known.
        """
        by_side: dict[Side, BusySum] = defaultdict(BusySum)
        for grant, one in busy.items():
            if (terms := self.tariff().by_grant.get(grant)) is not None:
                side = terms.programme, terms.provider
                by_side[side] = by_side[side].plus(one)
        months = [first]
        while months[-1] < last:
            months.append(months[-1].following)
        return pool_report(
            months,
            versions=self._store.terms_versions(),
            used=self._store.sums.by(By.PROGRAMME, By.PROVIDER, By.SERVICE, used_in=(first, last)),
            by_hand=self._store.sums.by(By.PROGRAMME, By.PROVIDER, months=(first, last), only={By.USED_IN: ""}),
            now=self._clock.now(),
            busy=by_side,
        )

    def programme_report(
        self,
        programme: ProgrammeName,
        first: Month,
        last: Month,
        busy: Mapping[GrantName, BusySum] = NOTHING_KNOWN,
    ) -> ProgrammeReport:
        """What each grant of the programme got, used and cost in the months from `first` to `last`; `busy` as for
        `report`."""
        only = {By.PROGRAMME: str(programme)}
        with self._store.snapshot():
            return programme_report(
                programme,
                (first, last),
                versions=self._store.terms_versions(),
                used=self._store.sums.by(By.GRANT, By.SERVICE, used_in=(first, last), only=only),
                by_hand=self._store.sums.by(By.GRANT, months=(first, last), only=only | {By.USED_IN: ""}),
                busy=busy,
                now=self._clock.now(),
            )

    def reconcile(
        self, cluster: ClusterName, runs: Iterable[UsageRecord], months: Sequence[Month]
    ) -> Sequence[Difference]:
        """Where the ledger, the runs that sites reported and Slurm's accounting differ, to the GPU-second; empty: they
        are equal.

        Args:
            runs: of Slurm's accounting, all that overlap the months.
        """
        wanted = frozenset(months)
        with self._store.transaction():  # nothing is taken or booked between the two readings
            places = [place for place in self._store.places(cluster) if place.month in wanted]
            use, booked = self._store.use(places), self._store.booked(places)
        return reconcile(cluster, runs, use, booked, wanted)

    def show_equal(self, cluster: ClusterName, month: Month) -> Reconciled:
        """Compare the runs that the cluster's site reported, each cut anew, with what was summed and booked of them,
        and keep the answer. Sites go on telling: a place that is noted as unbooked has its booking to come, which is no
        difference."""
        with self._store.snapshot():  # the runs of a month take seconds, and nobody waits for them
            counted = _Counted(self._store.runs_in(cluster, month.window), month)
            places = [place for place in self._store.places(cluster, since=month) if place.month == month]
            due = frozenset(self._store.unbooked())
            compared = reconcile(cluster, counted, self._store.use(places), self._store.booked(places), {month})
        different = [one for one in compared if one.slurm != one.reported or one.cell.place not in due]
        found = Reconciled(
            cluster=cluster,
            month=month,
            at=self._clock.now(),
            runs=counted.runs,
            gpu_seconds=counted.gpu_seconds,
            different=len(different),
            differences=tuple(
                f"{one.cell.account} {one.cell.service}: runs {one.slurm:,}, sums {one.reported:,}, "
                f"booked {one.booked:,} GPU-seconds"
                for one in different[:MOST_DIFFERENCES]
            ),
        )
        self._store.reconciliations.put(found)
        return found


class _Counted:
    """Runs as they come, counted on the way."""

    def __init__(self, runs: Iterable[UsageRecord], month: Month) -> None:
        self._runs = runs
        self._window = month.window
        self.runs = 0
        self.gpu_seconds = 0

    def __iter__(self) -> Iterator[UsageRecord]:
        for run in self._runs:
            self.runs += 1
            self.gpu_seconds += gpu_seconds_in(run, self._window)
            yield run


def _change(before: Iterable[UsageRecord], after: Iterable[UsageRecord]) -> dict[UseKey, int]:
    change: dict[UseKey, int] = defaultdict(int)
    for sign, records in ((-1, before), (1, after)):
        for record in records:
            for key, used in use_of(record).items():
                change[key] += sign * used
    return {key: used for key, used in change.items() if used}


def _for_the_same(one: PoolRate, other: PoolRate) -> bool:
    first, second = ((rate.model, rate.share, rate.programme, rate.starts) for rate in (one, other))
    return first == second


def _to_decide(asked: AskedWon | AskedRate, verdict: Verdict, by: Actor) -> bool:
    """Whether it is still to be decided; not when it was decided just so by the same person.

    Raises:
        Refused: who decides is who asked.
        Conflict: it was decided otherwise before.
    """
    if asked.asked_by == by.person:
        raise Refused(told("Who asks for something does not approve it."), way_out=told("Let a second person decide."))
    if asked.verdict is Verdict.OPEN:
        return True
    if (asked.verdict, asked.decided_by) != (verdict, by.person):
        raise Conflict(told("It was {verdict} already.", verdict=asked.verdict), way_out=told("Ask anew."))
    return False


def _said(entry: Entry) -> Entry:
    """What its caller said; when and on which statement it was booked is ours."""
    return replace(entry, seq=0, at=datetime.min, month=Month(2000, 1))


def _taken(command: str) -> Conflict:
    return Conflict(
        told("Something else was asked for as {command}.", command=command),
        way_out="Give each command an id of its own.",
    )


def _named(titles: Titles, organisation: OrganisationName, provider: ProviderName, entries: Iterable[Entry]) -> Titles:
    """Of what stands on a statement: nobody else's are kept with it."""
    entries = list(entries)
    programmes = {entry.programme for entry in entries if entry.programme}
    projects: set[str] = {entry.used.account for entry in entries if entry.used}
    return Titles(
        organisations={name: title for name, title in titles.organisations.items() if name == organisation},
        providers={name: title for name, title in titles.providers.items() if name == provider},
        programmes={name: title for name, title in titles.programmes.items() if name in programmes},
        projects={name: title for name, title in titles.projects.items() if name in projects},
    )
