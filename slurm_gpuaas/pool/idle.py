"""The ladder of an unused grant: notice, warning, final warning, recall. Pure: one day's judgement, at most one step.

Everything is worked out anew from the days of use each time, so a judgement that was missed, is repeated, or comes
before a correction of an earlier day leaves nothing behind but the steps that were really taken. Nobody goes up
without: too little use over the window *and* since the step before, the waiting days of that step, days that count,
and nothing that suspends it. See docs/design/0029.

It sends no mail and takes no GPU: a step names both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

import numpy as np

from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.domain.names import GrantName, PersonId, ProgrammeName
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.pool.holidays import FIRST_KNOWN, LAST_KNOWN
from slurm_gpuaas.pool.idle_rules import IdleRules, Mode, Rung
from slurm_gpuaas.pool.idle_use import Flags, Mean, UseDay, UseTable

MOST_LOOK_BACK: Final = timedelta(days=400)
"""Older days of a grant are not looked at."""
SATURDAY: Final = 5
NOTHING: Final = Mean(0, 0.0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedGrant:
    """`min_gpus`: it is not shrunk below; fewer would be of no use to it. Both days are included."""

    name: GrantName
    gpus: int
    min_gpus: int = 0
    starts: date
    ends: date
    programme: ProgrammeName | None = None


# -- What suspends -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """Idleness from a day until a day (both included) counts against nobody: of a grant, of a programme's grants, or,
    where neither is named, of all."""

    grant: GrantName | None = None
    programme: ProgrammeName | None = None
    starts: date
    ends: date
    reason: str
    by: PersonId

    def covers(self, grant: WatchedGrant) -> bool:
        if self.grant is not None:
            return self.grant == grant.name
        return self.programme is None or self.programme == grant.programme


@dataclass(frozen=True, slots=True, kw_only=True)
class Justification:
    """The holder says why GPUs are idle and until when. It pauses the ladder by itself, for a time and a number of
    times that the rules bound; before a notice there is nothing to pause."""

    grant: GrantName
    filed: date
    until: date
    reason: str
    by: PersonId


@dataclass(frozen=True, slots=True, kw_only=True)
class Appeal:
    """Suspends the ladder from its filing until somebody else has decided it.

    Raises:
        Refused: who filed it decided it.
        InvalidInput: it is half decided.
    """

    grant: GrantName
    filed: date
    reason: str
    by: PersonId
    decided: date | None = None
    decided_by: PersonId | None = None
    upheld: bool | None = None

    def __post_init__(self) -> None:
        if len({self.decided is None, self.decided_by is None, self.upheld is None}) > 1:
            raise InvalidInput(
                f"The appeal of {self.grant} is half decided.", way_out="Give the day, the person and the decision."
            )
        if self.decided is not None and self.decided < self.filed:
            raise InvalidInput(
                f"The appeal of {self.grant} was decided on {self.decided}, before it was filed on {self.filed}.",
                way_out="Correct one of the days.",
            )
        if self.decided_by == self.by:
            raise Refused(
                told("An appeal is not decided by who filed it ({person}).", person=self.by),
                way_out=told("Let somebody else decide."),
            )

    def open_on(self, day: date) -> bool:
        return self.filed <= day and (self.decided is None or day < self.decided)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excuses:
    """All that suspends; entries of other grants are passed over."""

    exemptions: Sequence[Exemption] = ()
    justifications: Sequence[Justification] = ()
    appeals: Sequence[Appeal] = ()


# -- Where a grant stands ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is kept of a grant between judgements.

    Attributes:
        gpus: awarded when it was judged; another number begins anew.
        since: day of the step that led to `rung`; None at the bottom.
        climbed: day of the notice; None at the bottom.
        stepped: day of the last step in any direction.
        cool_until: no notice up to and with that day.
        proposed: GPUs it would keep; None below the top rung.
        shadow: some step of it was not carried out, so the ladder begins anew once steps are.
    """

    grant: GrantName
    gpus: int
    rung: Rung = Rung.REGULAR
    since: date | None = None
    climbed: date | None = None
    stepped: date | None = None
    cool_until: date | None = None
    proposed: int | None = None
    shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The numbers a step rests on; it goes into the audit trail whole.

    Attributes:
        first, last: the window.
        window: use over it.
        since_step: use since the step before; None for a notice.
        needed: GPUs at its `burst_days`th highest peak of the look-back.
        proposed: GPUs it would keep.
        excused: days within the window that count for nothing.
        loaded, burst: GPU-hours within the window.
    """

    rules: str
    basis: str
    first: date
    last: date
    window: Mean
    since_step: Mean | None
    gpus: int
    needed: int
    proposed: int
    excused: int
    loaded: int
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rung up, or down to the bottom; with who did it where a person did.

    Attributes:
        to: also names the mail; RECALL proposes `evidence.proposed` GPUs.
        proposal: what is to be taken back; None but at the top.
        shadow: it is only said what would have happened.
    """

    grant: GrantName
    day: date
    before: Rung
    to: Rung
    why: Told
    proposal: Told | None = None
    shadow: bool
    evidence: Evidence | None = None
    by: PersonId | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`held`: why a grant that is used too little does not go up today."""

    standing: Standing
    step: Step | None = None
    held: Told | None = None


# -- One judgement -----------------------------------------------------------------------------------------------------


def step(
    standing: Standing,
    grant: WatchedGrant,
    use: Iterable[UseDay],
    rules: IdleRules,
    today: date,
    excuses: Excuses = Excuses(),
) -> Outcome:
    """Judge one grant in the morning of a Korean day, by the days before it.

    Args:
        use: of the grant, in any order; days that are missing are not measured.

    Raises:
        InvalidInput: a day is there twice.
    """
    standing = _begun(standing, grant, rules)
    table = _table(standing, grant, use, rules, today, excuses)
    return Outcome(standing) if table is None else judge(standing, grant, table, 0, rules, today, excuses)


def _table(
    standing: Standing, grant: WatchedGrant, use: Iterable[UseDay], rules: IdleRules, today: date, excuses: Excuses
) -> UseTable | None:
    """Of one grant, up to the day before today; None before its second day."""
    first = max(grant.starts, today - MOST_LOOK_BACK)
    days = (today - first).days
    if days <= 0:
        return None
    excused = excused_days(grant, first, days, rules, excuses, climbed=standing.climbed, today=today)
    return UseTable(first, days, [list(use)], excused[np.newaxis], [grant.min_gpus], rules)


def judge(
    standing: Standing,
    grant: WatchedGrant,
    table: UseTable,
    row: int,
    rules: IdleRules,
    today: date,
    excuses: Excuses = Excuses(),
) -> Outcome:
    """As `step`, with the grant's use as a row of a table that holds the day before today."""
    standing = _begun(standing, grant, rules)
    at = (today - table.first).days - 1
    if not 0 <= at < table.days or (standing.stepped is not None and today <= standing.stepped):
        return Outcome(standing)
    if not grant.starts <= today <= grant.ends:
        return Outcome(standing)
    since = table.mean(row, (standing.since - table.first).days, at + 1) if standing.since is not None else NOTHING
    facts = _Facts(standing, grant, table, row, at, rules, since)
    if standing.rung is not Rung.REGULAR:
        if upheld := _upheld(grant, excuses, standing.climbed, today):
            return _down(facts, today, told("The appeal of {filed} was upheld.", filed=upheld.filed))
        if (why := facts.used_again()) is not None:
            return _down(facts, today, why)
    if not facts.low or standing.rung is Rung.RECALL:
        return Outcome(standing)
    held = _held(facts, today, excuses)
    return Outcome(standing, held=held) if held is not None else _up(facts, today)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Where a grant stands this morning, and what follows if its use stays as it is.

    Attributes:
        evidence: None before its second day.
        low: it is used too little by the rules.
        next: the step that would follow; None: none would.
        on: the earliest day for it, every day until then being measured; None: not before something else is decided, or
            not before the grant's end.
        held: why it does not go up today.
    """

    standing: Standing
    evidence: Evidence | None = None
    low: bool = False
    next: Rung | None = None
    on: date | None = None
    held: Told | None = None


def outlook(
    standing: Standing,
    grant: WatchedGrant,
    use: Iterable[UseDay],
    rules: IdleRules,
    today: date,
    excuses: Excuses = Excuses(),
) -> Outlook:
    """As `step` sees it, without taking one."""
    standing = _begun(standing, grant, rules)
    table = _table(standing, grant, use, rules, today, excuses)
    if table is None:
        return Outlook(standing=standing)
    at = table.days - 1
    since = table.mean(0, (standing.since - table.first).days, at + 1) if standing.since is not None else NOTHING
    facts = _Facts(standing, grant, table, 0, at, rules, since)
    if not facts.low or standing.rung is Rung.RECALL:
        return Outlook(standing=standing, evidence=facts.evidence(), low=facts.low)
    return Outlook(
        standing=standing,
        evidence=facts.evidence(),
        low=True,
        next=standing.rung.next,
        on=_earliest(facts, today, excuses),
        held=_held(facts, today, excuses),
    )


def _earliest(facts: _Facts, today: date, excuses: Excuses) -> date | None:
    standing, grant, rules = facts.standing, facts.grant, facts.rules
    if any(one.grant == grant.name and one.open_on(today) for one in excuses.appeals):
        return None
    one_day = timedelta(days=1)
    day = today if standing.stepped is None else max(today, standing.stepped + one_day)
    if standing.rung is Rung.REGULAR:
        if standing.cool_until is not None:
            day = max(day, standing.cool_until + one_day)
    else:
        day += one_day * max(0, rules.waits[standing.rung.next] - facts.since_step.days - (day - today).days)
    while (grant.ends - day).days >= rules.before_end_days:
        works = day.weekday() < SATURDAY and day not in rules.holidays
        if works and suspended(grant, day, rules, excuses, climbed=standing.climbed) is None:
            return day
        day += one_day
    return None


def undo(standing: Standing, rules: IdleRules, today: date, *, by: PersonId) -> Outcome:
    """A person takes the last step back: one rung down, and its waiting days begin anew.

    Raises:
        Refused: it stands on no rung.
    """
    if standing.rung is Rung.REGULAR:
        raise Refused(
            told("Grant {grant} stands on no rung of the ladder.", grant=standing.grant),
            way_out=told("There is nothing to undo."),
        )
    below = standing.rung.below
    bottom = below is Rung.REGULAR
    after = replace(
        standing,
        rung=below,
        since=None if bottom else today,
        climbed=None if bottom else standing.climbed,
        stepped=today,
        cool_until=today + timedelta(days=rules.cool_down_days) if bottom else standing.cool_until,
        proposed=None,
    )
    why = told("{rung} was taken back by a person.", rung=standing.rung)
    return Outcome(
        after,
        Step(
            grant=standing.grant,
            day=today,
            before=standing.rung,
            to=below,
            why=why,
            shadow=rules.mode is Mode.SHADOW,
            by=by,
        ),
    )


def suspended(
    grant: WatchedGrant, day: date, rules: IdleRules, excuses: Excuses, *, climbed: date | None
) -> Told | None:
    """Why nothing may be taken from a grant on that day, also what is proposed already; None when it may."""
    for appeal in excuses.appeals:
        if appeal.grant == grant.name and appeal.open_on(day):
            return told("The appeal of {filed} is not decided.", filed=appeal.filed)
    if upheld := _upheld(grant, excuses, climbed, day):
        return told("The appeal of {filed} was upheld.", filed=upheld.filed)
    for exemption in excuses.exemptions:
        if exemption.covers(grant) and exemption.starts <= day <= exemption.ends:
            return told("Exempt until {until}: {reason}", until=exemption.ends, reason=exemption.reason)
    for starts, ends, reason in _justified(grant, rules, excuses, climbed):
        if starts <= day <= ends:
            return told("Justified until {until}: {reason}", until=ends, reason=reason)
    return None


def excused_days(
    grant: WatchedGrant,
    first: date,
    days: int,
    rules: IdleRules,
    excuses: Excuses,
    *,
    climbed: date | None,
    today: date,
) -> Flags:
    """Days from `first` on which idleness does not count: outside the grant, its ramp-up, public holidays, days that
    the calendar of holidays does not know, and all that `suspended` names."""
    excused = np.zeros(days, np.bool_)

    def mark(starts: date, ends: date) -> None:
        excused[max((starts - first).days, 0) : max((ends - first).days + 1, 0)] = True

    mark(first, grant.starts + timedelta(days=rules.ramp_up_days - 1))
    if grant.ends < date.max:
        mark(grant.ends + timedelta(days=1), date.max)
    if first < FIRST_KNOWN:
        mark(first, FIRST_KNOWN - timedelta(days=1))
    mark(LAST_KNOWN + timedelta(days=1), date.max)
    last = first + timedelta(days=days - 1)
    for holiday in rules.holidays:
        if first <= holiday <= last:
            mark(holiday, holiday)
    for exemption in excuses.exemptions:
        if exemption.covers(grant):
            mark(exemption.starts, exemption.ends)
    for starts, ends, _ in _justified(grant, rules, excuses, climbed):
        mark(starts, ends)
    for appeal in excuses.appeals:
        if appeal.grant == grant.name:
            mark(appeal.filed, (appeal.decided or today) - timedelta(days=1))
    return excused


def _justified(
    grant: WatchedGrant, rules: IdleRules, excuses: Excuses, climbed: date | None
) -> list[tuple[date, date, str]]:
    """First and last day and reason of the justifications that hold: the first few of this run up the ladder."""
    mine = sorted((one for one in excuses.justifications if one.grant == grant.name), key=lambda one: one.filed)
    these = [one for one in mine if climbed is not None and one.filed >= climbed][: rules.justifications]
    longest = timedelta(days=rules.justification_days - 1)
    return [(one.filed, min(one.until, one.filed + longest), one.reason) for one in these]


def _begun(standing: Standing, grant: WatchedGrant, rules: IdleRules) -> Standing:
    """Anew where the grant's size changed, or where steps that nobody was told of would now become real."""
    if standing.grant != grant.name:
        raise InvalidInput(f"The standing is of grant {standing.grant}, not of {grant.name}.")
    if standing.gpus != grant.gpus or (standing.shadow and rules.mode is Mode.ACT):
        return Standing(grant=grant.name, gpus=grant.gpus, stepped=standing.stepped, cool_until=standing.cool_until)
    return standing


def _upheld(grant: WatchedGrant, excuses: Excuses, climbed: date | None, today: date) -> Appeal | None:
    """An appeal that was upheld in the run up the ladder that began with `climbed`."""
    return next(
        (
            appeal
            for appeal in excuses.appeals
            if appeal.grant == grant.name
            and appeal.upheld
            and appeal.decided is not None
            and climbed is not None
            and climbed <= appeal.decided <= today
        ),
        None,
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """A grant at the end of the day at place `at` of a row of the table."""

    standing: Standing
    grant: WatchedGrant
    table: UseTable
    row: int
    at: int
    rules: IdleRules
    since_step: Mean
    """Use from the day of the last step on; nothing at the bottom."""

    @property
    def low(self) -> bool:
        """Its size today is asked too: the table may not know of it yet."""
        return bool(self.table.low[self.row, self.at]) and self.proposed < self.grant.gpus

    @property
    def proposed(self) -> int:
        return int(self.table.proposed[self.row, self.at])

    @property
    def window(self) -> Mean:
        return self.table.mean(self.row, int(self.table.window[self.row, self.at]), self.at + 1)

    def used_again(self) -> Told | None:
        """Why it goes down to the bottom. A little more than the threshold for some days, or no reason to go up for a
        whole window: in between it stays where it is."""
        rules, since = self.rules, self.since_step
        back = (rules.allocated_back, rules.busy_back)
        if since.days >= rules.back_days and not since.below(*back):
            return told(
                "In use again: {allocated} % allocated over {days} days.",
                allocated=round(100 * since.allocated),
                days=since.days,
            )
        if not self.table.enough[self.row, self.at]:
            return None
        window = self.window
        if not window.below(*back):
            return told(
                "In use again: {allocated} % allocated over {days} days.",
                allocated=round(100 * window.allocated),
                days=window.days,
            )
        if since.days >= rules.window_days and not self.low:
            return told("Not used too little over the last {days} days.", days=rules.window_days)
        return None

    def evidence(self) -> Evidence:
        table, row, first = self.table, self.row, int(self.table.window[self.row, self.at])
        days = slice(first, self.at + 1)
        return Evidence(
            rules=self.rules.version,
            basis=self.rules.basis,
            first=table.day(first),
            last=table.day(self.at),
            window=self.window,
            since_step=None if self.standing.since is None else self.since_step,
            gpus=self.grant.gpus,
            needed=int(table.needed[row, self.at]),
            proposed=self.proposed,
            excused=int((~table.counted[row, days]).sum()),
            loaded=round(float(table.loaded[row, days].sum()) / 3600),
            burst=round(float(table.burst[row, days].sum()) / 3600),
        )


def _held(facts: _Facts, today: date, excuses: Excuses) -> Told | None:
    standing, grant, rules = facts.standing, facts.grant, facts.rules
    if not FIRST_KNOWN <= today <= LAST_KNOWN:
        return told("Public holidays are not known on {day}.", day=today)
    if today.weekday() >= SATURDAY or today in rules.holidays:
        return told("Steps are taken on working days.")
    left = (grant.ends - today).days
    if left < rules.before_end_days:
        return told("The grant ends in {days} days.", days=left)
    if (reason := suspended(grant, today, rules, excuses, climbed=standing.climbed)) is not None:
        return reason
    if standing.rung is Rung.REGULAR:
        if standing.cool_until is not None and today <= standing.cool_until:
            return told("No notice until {day}: it was in use again.", day=standing.cool_until)
        return None
    since, wait = facts.since_step, rules.waits[standing.rung.next]
    if since.days < wait:
        return told("{days} of {wait} days since the last step.", days=since.days, wait=wait)
    if not since.below(rules.allocated_below, rules.busy_below):
        return told("Since the last step {allocated} % were allocated.", allocated=round(100 * since.allocated))
    return None


def _up(facts: _Facts, today: date) -> Outcome:
    standing, evidence = facts.standing, facts.evidence()
    to = standing.rung.next
    shadow = facts.rules.mode is Mode.SHADOW
    after = replace(
        standing,
        rung=to,
        since=today,
        climbed=standing.climbed or today,
        stepped=today,
        proposed=evidence.proposed if to is Rung.RECALL else None,
        shadow=standing.shadow or shadow,
    )
    return Outcome(
        after,
        Step(
            grant=standing.grant,
            day=today,
            before=standing.rung,
            to=to,
            why=_use(evidence.window),
            proposal=_proposal(evidence) if to is Rung.RECALL else None,
            shadow=shadow,
            evidence=evidence,
        ),
    )


def _down(facts: _Facts, today: date, why: Told) -> Outcome:
    standing = facts.standing
    after = Standing(
        grant=standing.grant,
        gpus=standing.gpus,
        stepped=today,
        cool_until=today + timedelta(days=facts.rules.cool_down_days),
    )
    shadow = standing.shadow or facts.rules.mode is Mode.SHADOW
    return Outcome(
        after,
        Step(
            grant=standing.grant,
            day=today,
            before=standing.rung,
            to=Rung.REGULAR,
            why=why,
            shadow=shadow,
            evidence=facts.evidence(),
        ),
    )


def _use(mean: Mean) -> Told:
    if mean.busy is None:
        return told(
            "Over {days} days {allocated} % of it was allocated.", days=mean.days, allocated=round(100 * mean.allocated)
        )
    return told(
        "Over {days} days {allocated} % of it was allocated and {busy} % busy.",
        days=mean.days,
        allocated=round(100 * mean.allocated),
        busy=round(100 * mean.busy),
    )


def _proposal(evidence: Evidence) -> Told:
    if not evidence.proposed:
        return told("All {gpus} GPUs are taken back.", gpus=evidence.gpus)
    return told(
        "It needed {needed} GPUs and keeps {proposed} of {gpus}.",
        needed=evidence.needed,
        proposed=evidence.proposed,
        gpus=evidence.gpus,
    )
