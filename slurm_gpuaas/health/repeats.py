"""What events mean because they come again, or beside others: the rules of `data/repeats.json`. Pure.

Which occurrences are a job's own fault is decided in `attribution`; they come in as ids that do not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files
from itertools import groupby

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.incidents import CheckStatus, Drain, EventKind, NodeEvent
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.health.catalogue import FaultClass
from slurm_gpuaas.health.triage import Sighting, Verdict, one_line, place, strength


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Same(StrEnum):
    """What has to be the same for an error to have come again."""

    GPU = "gpu"
    UNIT = "unit"
    """GPC and TPC of one GPU."""


class RepeatRule(_Data):
    """An error that comes `times` times within `within_s` seconds at the same place. The notes of the data say what the
    rest means."""

    name: str
    codes: frozenset[int] = frozenset()
    class_of: FaultClass | None = Field(default=None, description="Instead of codes: all of this class.")
    same: Same
    times: int = Field(ge=1)
    within_s: float = Field(gt=0)
    burst_s: float = Field(gt=0)
    different_jobs: bool = False
    different_users: bool = False
    alone: bool = False
    drain: Drain
    fault_class: FaultClass = Field(alias="class")
    advice: str
    reason: str
    source: str

    def counts(self, sighting: Sighting) -> bool:
        event = sighting.event
        if event.kind is not EventKind.XID:
            return False
        if self.class_of is not None:
            return sighting.verdict.fault_class is self.class_of
        return event.code in self.codes

    def spot(self, sighting: Sighting) -> tuple[object, ...] | None:
        """Where it happened, as this rule tells places apart; None when the event does not say."""
        gpu, unit = gpu_of(sighting.event), sighting.verdict.unit
        if not gpu:
            return None
        if self.same is Same.GPU:
            return (gpu,)
        return (gpu, unit.gpc, unit.tpc) if unit else None


class Follows(_Data):
    """Codes that only join an incident when one of `beside` stands near them on the same GPU."""

    codes: frozenset[int]
    beside: frozenset[int]
    source: str


class Cancels(_Data):
    """`code` says that what `cancels` told of is over."""

    code: int
    cancels: int
    reason: str
    source: str


class Burst(_Data):
    """The same event of the same GPU within `same_s` is the same again; of those `keep` are stored."""

    same_s: float
    keep: int = Field(ge=1)
    source: str


class Quiet(_Data):
    """An incident takes events in until so many seconds of silence."""

    quiet_s: float
    source: str


class JobAtFault(_Data):
    nodes: int = Field(ge=2)
    within_s: float
    source: str


class Flapping(_Data):
    """A check that fails and recovers so often is for a person."""

    times: int = Field(ge=2)
    within_s: float
    source: str


class RepeatPolicy(_Data):
    """`version` is the day the sources were read; every `source` names one of `sources`."""

    version: str
    notes: str
    sources: Mapping[str, str]
    burst: Burst
    incident: Quiet
    job_at_fault: JobAtFault
    flapping: Flapping
    rules: tuple[RepeatRule, ...]
    follows: tuple[Follows, ...]
    cancels: tuple[Cancels, ...]

    @model_validator(mode="after")
    def _every_source_is_listed(self) -> RepeatPolicy:
        listed: Sequence[BaseModel] = (self.burst, self.incident, self.job_at_fault, self.flapping)
        cited = {str(getattr(one, "source", "")) for one in (*listed, *self.rules, *self.follows, *self.cancels)}
        if unknown := cited - self.sources.keys():
            raise ValueError(f"sources are not listed: {', '.join(sorted(unknown))}")
        return self

    @property
    def quiet(self) -> timedelta:
        return timedelta(seconds=self.incident.quiet_s)

    @property
    def looks_back(self) -> timedelta:
        """How far back events matter for what comes now."""
        spans = [rule.within_s for rule in self.rules]
        return timedelta(seconds=max(*spans, self.job_at_fault.within_s, self.flapping.within_s))


@cache
def repeat_policy() -> RepeatPolicy:
    """The rules that ship with this version."""
    return RepeatPolicy.model_validate_json(files("slurm_gpuaas.health").joinpath("data/repeats.json").read_bytes())


def gpu_of(event: NodeEvent) -> str:
    """The card, or its slot where the card is not known; empty when neither is."""
    return event.serial or slot_of(event)


def slot_of(event: NodeEvent) -> str:
    """The slot, whichever source told of it; empty when it is not known."""
    return event.pci or (f"gpu {event.gpu}" if event.gpu is not None else "")


def same_again(event: NodeEvent) -> tuple[object, ...]:
    """What makes two events the same error told twice."""
    kind = EventKind.XID if event.kind is EventKind.FALLEN else event.kind
    return slot_of(event), kind, event.code, event.check, event.status, event.recovery_action


def is_storm(at: datetime, times: Collection[datetime], policy: RepeatPolicy) -> bool:
    """Whether the same error was kept often enough lately to leave this one out.

    Args:
        times: when those that were kept happened.
    """
    lately = [abs(time - at) for time in times if abs(time - at) < policy.quiet]
    return len(lately) >= policy.burst.keep and min(lately) < timedelta(seconds=policy.burst.same_s)


def repeated(
    sightings: Sequence[Sighting],
    new: Collection[str],
    excused: Collection[str] = (),
    policy: RepeatPolicy | None = None,
    *,
    users: Mapping[JobId, UserName] | None = None,
) -> Mapping[str, Verdict]:
    """Verdicts that repeat rules give to new events of one node, by event id; the strongest where several rules fit.
    Linear in the number of events, up to sorting.

    Args:
        sightings: all of the node within `policy.looks_back`, the new ones included, in any order.
        new: ids of those on which verdicts are wanted.
        excused: ids of events that count for no rule: a job's own fault.
        users: whose the jobs are, as far as that is known; None where nobody can know, as of a log: then it is not
            asked.
    """
    policy = policy or repeat_policy()
    known = sorted(sightings, key=lambda one: (one.event.seen_at, one.event.event_id))
    seen = {one.event.code for one in known if one.event.kind is EventKind.XID}
    verdicts: dict[str, Verdict] = {}
    for rule in policy.rules:
        counting = [
            one
            for one in known
            if one.event.event_id not in excused
            and rule.counts(one)
            and (one.verdict.caused_by is None or one.verdict.caused_by not in seen)
        ]
        if rule.alone:
            counting = [*_alone(counting, timedelta(seconds=rule.burst_s))]
        for verdict, ids in _fitting(rule, counting, new, users):
            for event_id in ids:
                old = verdicts.get(event_id)
                if old is None or _key(verdict) > _key(old):
                    verdicts[event_id] = verdict
    verdicts.update(_flapping(known, new, policy))
    return verdicts


def follows(event: NodeEvent, sightings: Iterable[Sighting], policy: RepeatPolicy | None = None) -> int | None:
    """The code that an event goes with and joins only; None when it stands for itself."""
    policy = policy or repeat_policy()
    causes = {code for rule in policy.follows if event.code in rule.codes for code in rule.beside}
    if event.kind is not EventKind.XID or not causes:
        return None
    near = (
        one.event.code
        for one in sightings
        if one.event.code in causes
        and one.event.kind is EventKind.XID
        and slot_of(one.event) == slot_of(event)
        and abs(one.event.seen_at - event.seen_at) <= policy.quiet
    )
    return next(near, None)


def same_check(one: NodeEvent, other: NodeEvent) -> bool:
    """Whether two events tell of the same check on the same thing. A recovered check does not name its GPU, but begins
    its text with what was checked, as its finding did (`eth0: ...`)."""
    if one.kind is not EventKind.CHECK or other.kind is not EventKind.CHECK or one.check != other.check:
        return False
    subject, colon, _ = one.evidence.partition(": ")
    if colon:
        return other.evidence.startswith(f"{subject}: ")
    return one.gpu == other.gpu


def spells(event: NodeEvent, sightings: Iterable[Sighting], within: timedelta) -> int:
    """How often a check went from well to not well in the span before and at its event."""
    answers = sorted(
        (one.event.seen_at, one.event.event_id, one.event.status is not CheckStatus.OK)
        for one in sightings
        if timedelta(0) <= event.seen_at - one.event.seen_at <= within
        and (same_check(event, one.event) or same_check(one.event, event))
    )
    return sum(1 for bad, _ in groupby(answers, key=lambda answer: answer[2]) if bad)


def _flapping(known: Sequence[Sighting], new: Collection[str], policy: RepeatPolicy) -> Iterator[tuple[str, Verdict]]:
    checks = [one for one in known if one.event.kind is EventKind.CHECK]
    within = timedelta(seconds=policy.flapping.within_s)
    for one in checks:
        event = one.event
        if event.event_id not in new or event.status in {None, CheckStatus.OK}:
            continue
        if (times := spells(event, checks, within)) >= policy.flapping.times:
            yield (
                event.event_id,
                Verdict(
                    drain=Drain.REVIEW,
                    fault_class=FaultClass.UNKNOWN,
                    rule=one_line(f"check {event.check} failed {times} times in {_hours(within)} and recovered", 500),
                    headline=one_line(f"check {event.check} comes and goes: {event.evidence}"[:200], 200),
                ),
            )


def _alone(sightings: Sequence[Sighting], burst: timedelta) -> Iterator[Sighting]:
    """Those that no other GPU shows within the burst, from events sorted by time."""
    for chunk in _chunks(sightings, burst):
        if len({slot_of(one.event) for one in chunk}) == 1:
            yield from chunk


def _fitting(
    rule: RepeatRule, sightings: Sequence[Sighting], new: Collection[str], users: Mapping[JobId, UserName] | None
) -> Iterator[tuple[Verdict, Sequence[str]]]:
    """Verdicts of one rule, each with the new events that it is about."""
    places: defaultdict[tuple[object, ...], list[Sighting]] = defaultdict(list)
    for one in sightings:
        if (spot := rule.spot(one)) is not None:
            places[spot].append(one)
    within = timedelta(seconds=rule.within_s)

    def theirs(burst: Sequence[Sighting]) -> Collection[object]:
        """Users of the jobs of an occurrence; none when one of them is not known."""
        found = {(users or {}).get(job) for job in _jobs(burst)}
        return () if None in found else found

    for here in places.values():
        if not any(one.event.event_id in new for one in here):
            continue
        bursts = [*_chunks(here, timedelta(seconds=rule.burst_s))]
        first = told = 0
        for last, burst in enumerate(bursts):
            while burst[0].event.seen_at - bursts[first][0].event.seen_at > within:
                first += 1
            times = last + 1 - first
            if rule.different_jobs:
                times = _unrelated(bursts[first : last + 1], rule.times, _jobs)
            if times < rule.times:
                continue
            ids = [
                one.event.event_id
                for part in bursts[max(first, told) : last + 1]
                for one in part
                if one.event.event_id in new
            ]
            told = last + 1
            if ids:
                one_user = rule.different_users and users is not None
                one_user = one_user and _unrelated(bursts[first : last + 1], rule.times, theirs) < rule.times
                yield _verdict(rule, burst[-1].event, times, one_user=one_user), ids


def _jobs(burst: Sequence[Sighting]) -> Collection[JobId]:
    return {job for one in burst for job in one.jobs}


def _unrelated(
    window: Sequence[Sequence[Sighting]], enough: int, parties: Callable[[Sequence[Sighting]], Collection[object]]
) -> int:
    """How many occurrences have, pairwise, no party in common, counted up to `enough`; those whose parties are not
    known do not count."""
    seen: set[object] = set()
    times = 0
    for burst in window:
        if times == enough:
            break
        theirs = parties(burst)
        if theirs and seen.isdisjoint(theirs):
            times += 1
        seen.update(theirs)
    return times


def _chunks(sightings: Sequence[Sighting], gap: timedelta) -> Iterator[Sequence[Sighting]]:
    """Events sorted by time, cut where the silence is longer than `gap`."""
    chunk: list[Sighting] = []
    for one in sightings:
        if chunk and one.event.seen_at - chunk[-1].event.seen_at > gap:
            yield chunk
            chunk = []
        chunk.append(one)
    if chunk:
        yield chunk


def _verdict(rule: RepeatRule, event: NodeEvent, times: int, *, one_user: bool) -> Verdict:
    """`one_user`: it may be the doing of one user alone, who must not be able to drain a node: a person decides."""
    what = f"XID {event.code}" if rule.codes else "application errors"
    again = f"{what} {times} times in {_hours(timedelta(seconds=rule.within_s))} on one {rule.same}"
    said = f"XID {event.code}" if rule.times == 1 else again
    doubt = "; not known to be of different users, so for a person" if one_user else ""
    return Verdict(
        drain=Drain.REVIEW if one_user else rule.drain,
        fault_class=rule.fault_class,
        rule=f"repeat rule {rule.name}: {said}; {rule.reason}; {rule.advice}{doubt}",
        headline=one_line(", ".join([f"{said}: {rule.advice}", *place(event)]), 500),
    )


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:g} h"


def _key(verdict: Verdict) -> tuple[int, int]:
    return strength(verdict.drain, verdict.fault_class)
