"""Which limit truly applies to a job: Slurm's rules of precedence, evaluated on values. Pure.

What Slurm does (src/slurmctld/acct_policy.c of 26.05, and measured: `tests/slurm/test_explain.py`):

- A job is looked at by up to two QOS (its partition's before its own, unless its own has OverPartQOS), then by its
  association and every account above it.
- Of the two QOS, the first that sets a limit of a kind and TRES hides that of the second. A QOS hides a limit of the
  same kind and TRES on associations. Associations hide nothing from each other: all of them are held. (The
  documentation says that the first of them wins; for Grp limits that is not so.)
- Limits of other TRES names stand side by side: `gres/gpu`, `gres/gpu:b200`, `billing` and `node` are four limits.
- A job that does not name the GPU model asks nothing of `gres/gpu:MODEL`, but counts there once it runs.
- With DenyOnLimit on either QOS, a job that alone passes a limit (whatever is in use) is refused at submit. Limits of
  submitted jobs always refuse.
- Else it waits, and the reason is the first limit in a fixed order: jobs and wall times, then nodes, then sizes, each
  by QOS, QOS, association, accounts upwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from math import ceil
from typing import Final

from slurm_gpuaas.domain.names import GpuModel, UserName
from slurm_gpuaas.quota.limit_words import reason as reason_of
from slurm_gpuaas.slurm.limit_records import (
    NOTHING,
    WHOLE,
    AssociationLimits,
    InUse,
    Kind,
    PartitionLimits,
    QosLimits,
)
from slurm_gpuaas.slurm.records import Tres

CPU: Final = "cpu"
NODE: Final = "node"
BILLING: Final = "billing"
GPU: Final = "gres/gpu"
_TYPED_GPU: Final = f"{GPU}:"

FOREVER: Final = 2**32 - 2
"""Minutes that Slurm reckons with for a job without any time limit."""


class Outcome(StrEnum):
    START = "start"
    WAIT = "wait"
    REFUSE = "refuse"


class Level(StrEnum):
    PARTITION_QOS = "partition QOS"
    QOS = "QOS"
    USER = "user"
    ACCOUNT = "account"
    PARTITION = "partition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A job. `tres` are cpu, node and GPUs by name; `minutes` None: it states no time."""

    tres: Tres
    minutes: int | None = None

    @property
    def nodes(self) -> int:
        return self.tres.get(NODE, 0)


def asked(gpus: int, *, model: GpuModel | None, nodes: int, minutes: int | None) -> Asked:
    """`gpus` in all, on so many nodes with a CPU each; without a model the job asks for plain `gpu`."""
    tres = {CPU: nodes, NODE: nodes, GPU: gpus}
    return Asked(tres=tres if model is None else tres | {f"{_TYPED_GPU}{model}": gpus}, minutes=minutes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a job is submitted, with everything that judges it there.

    Args:
        associations: the user's, then the accounts upwards.
        safe, refuses, priority_flags, tres: as in `LimitState`.
    """

    user: UserName
    partition: PartitionLimits
    partition_qos: QosLimits | None
    qos: QosLimits
    associations: tuple[AssociationLimits, ...]
    safe: bool
    refuses: bool
    priority_flags: frozenset[str]
    tres: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bite:
    """A limit that stops the job, and by how much. `in_use` None: nothing adds up, each job is held to it alone."""

    level: Level
    holder: str
    kind: Kind | None
    tres: str
    limit: int
    in_use: int | None
    asked: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """A limit that is set and does not hold for this job, and why."""

    level: Level
    holder: str
    kind: Kind
    tres: str
    limit: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """`reason` is Slurm's word, empty where the job starts as far as limits go. `bites`: the limit of that reason, and
    those that would stop the job once it is out of the way. `unjudged`: limits of TRES that are not evaluated."""

    outcome: Outcome
    reason: str
    bites: tuple[Bite, ...]
    hidden: tuple[Hidden, ...]
    unjudged: tuple[str, ...]


def predict(place: Place, job: Asked) -> Prediction:
    """What limits make of the job, were it submitted now."""
    case = _Case.of(place, job)
    outcome, bites = case.verdict()
    return Prediction(
        outcome=outcome,
        reason=bites[0].reason if bites else "",
        bites=bites,
        hidden=tuple(case.hidden()),
        unjudged=tuple(case.unjudged()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A limit of sizes in use together that holds for a job."""

    level: Level
    holder: str
    tres: str
    limit: int


def bounds(place: Place, job: Asked) -> tuple[Bound, ...]:
    """What bounds sizes in use by an account's jobs like this one together: GrpTRES and MaxTRESPA."""
    return tuple(_Case.of(place, job).bounds())


def billing_of(place: Place, job: Asked) -> int:
    """What the job counts as `billing` there."""
    return _Case.of(place, job).tres[BILLING]


def largest_that_starts(place: Place, shape: Callable[[int], Asked], most: int) -> int:
    """The most GPUs, up to `most`, with which a job of this shape would start now as far as limits go; 0: none.

    All limits but minimums only get tighter with size, so halving finds it.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        too_much = any(bite.kind is not Kind.MIN_TRES for bite in predict(place, shape(middle)).bites)
        low, high = (low, middle - 1) if too_much else (middle, high)
    return low if low and predict(place, shape(low)).outcome is Outcome.START else 0


# -- The order in which Slurm looks ------------------------------------------------------------------------------------

_SUBMIT_MINUTES: Final = (
    Kind.MAX_TRES_MINS,
    Kind.GRP_TRES_MINS,
    Kind.GRP_TRES_RUN_MINS,
    Kind.MAX_RUN_MINS_PA,
    Kind.MAX_RUN_MINS_PU,
)

_FIRST_QOS: Final = (Kind.GRP_JOBS, Kind.GRP_WALL, Kind.MAX_JOBS_PA, Kind.MAX_JOBS_PU, Kind.MAX_WALL)
_FIRST_ALL: Final = (Kind.GRP_JOBS, Kind.GRP_WALL)
_FIRST_OWN: Final = (Kind.MAX_JOBS, Kind.MAX_WALL)

_THEN_QOS: Final = (
    Kind.GRP_TRES_MINS,
    Kind.GRP_TRES,
    Kind.GRP_TRES_RUN_MINS,
    Kind.MAX_TRES_MINS,
    Kind.MAX_TRES,
    Kind.MAX_TRES_NODE,
    Kind.MIN_TRES,
    Kind.MAX_TRES_PA,
    Kind.MAX_TRES_PU,
    Kind.MAX_RUN_MINS_PA,
    Kind.MAX_RUN_MINS_PU,
)
_THEN_ALL: Final = (Kind.GRP_TRES_MINS, Kind.GRP_TRES, Kind.GRP_TRES_RUN_MINS)
_THEN_OWN: Final = (Kind.MAX_TRES_MINS, Kind.MAX_TRES, Kind.MAX_TRES_NODE)

_HIDDEN_BY: Final[Mapping[Kind, tuple[Kind, ...]]] = {
    Kind.MAX_JOBS: (Kind.MAX_JOBS_PA, Kind.MAX_JOBS_PU),
    Kind.MAX_SUBMIT: (Kind.MAX_SUBMIT_PA, Kind.MAX_SUBMIT_PU),
}
"""Kinds of a QOS that hide a kind of an association; for the others, the same kind."""

_OF_ACCOUNT: Final = frozenset({Kind.MAX_TRES_PA, Kind.MAX_RUN_MINS_PA, Kind.MAX_JOBS_PA, Kind.MAX_SUBMIT_PA})
_OF_USER: Final = frozenset({Kind.MAX_TRES_PU, Kind.MAX_RUN_MINS_PU, Kind.MAX_JOBS_PU, Kind.MAX_SUBMIT_PU})
_SIZES_IN_USE: Final = frozenset({Kind.GRP_TRES, Kind.MAX_TRES_PA, Kind.MAX_TRES_PU})
_RUN_MINUTES: Final = frozenset({Kind.GRP_TRES_RUN_MINS, Kind.MAX_RUN_MINS_PA, Kind.MAX_RUN_MINS_PU})
_JOBS: Final = frozenset({Kind.GRP_JOBS, Kind.MAX_JOBS, Kind.MAX_JOBS_PA, Kind.MAX_JOBS_PU})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """A QOS or an association that looks at the job."""

    level: Level
    name: str
    qos: bool
    limits: Mapping[Kind, Tres]
    used: Callable[[Kind], InUse]

    def limit(self, kind: Kind, tres: str) -> int | None:
        return self.limits.get(kind, {}).get(tres)


@dataclass(slots=True)
class _Clock:
    """The time of a job as it is submitted: limits give a time to a job that states none, and lower what they gave."""

    minutes: int | None
    given: bool = False

    def held_to(self, most: int) -> None:
        if self.minutes is None:
            self.minutes, self.given = most, True
        elif self.given:
            self.minutes = min(self.minutes, most)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A job at a place."""

    place: Place
    holders: tuple[_Holder, ...]
    tres: Tres
    """What the job asks, billing included."""
    stated: int | None
    """Minutes, before limits give it some."""
    order: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, place: Place, job: Asked) -> _Case:
        nodes = max(job.nodes, 0 if _has(place.qos, "PARTITION_MINIMUM_NODE") else place.partition.min_nodes)
        tres = dict(job.tres) | {NODE: nodes}
        tres[BILLING] = _billing(tres, place.partition, place.priority_flags)
        return cls(
            place=place,
            holders=tuple(_holders(place)),
            tres=tres,
            stated=place.partition.default_time if job.minutes is None else job.minutes,
            order=tuple(name for name in place.tres if name in tres or name.startswith(_TYPED_GPU)),
        )

    # -- The verdict

    def verdict(self) -> tuple[Outcome, tuple[Bite, ...]]:
        barred = tuple(self._barred())
        if barred and self.place.refuses:
            return Outcome.REFUSE, barred
        clock = _Clock(self.stated)
        refused = tuple(self._at_submit(clock))
        if refused:
            return Outcome.REFUSE, refused
        minutes = clock.minutes
        bites = (
            *barred,
            *self._first(minutes),
            *self._admitted(),
            *self._nodes(),
            *self._then(FOREVER if minutes is None else minutes),
        )
        return (Outcome.WAIT if bites else Outcome.START), bites

    def _barred(self) -> Iterator[Bite]:
        """What the partition itself does not allow."""
        partition, nodes = self.place.partition, self.tres[NODE]
        bite = self._of_partition
        if not partition.up:
            yield bite(0, 1, "PartitionDown")
        elif nodes > partition.total_nodes:
            yield bite(partition.total_nodes, nodes, "PartitionNodeLimit")
        elif (
            partition.max_nodes is not None
            and nodes > partition.max_nodes
            and not _has(self.place.qos, "PARTITION_MAXIMUM_NODE")
        ):
            yield bite(partition.max_nodes, nodes, "PartitionNodeLimit")
        elif (
            partition.max_time is not None
            and self.stated is not None
            and self.stated > partition.max_time
            and not _has(self.place.qos, "PARTITION_TIME_LIMIT")
        ):
            yield bite(partition.max_time, self.stated, "PartitionTimeLimit")

    def _admitted(self) -> Iterator[Bite]:
        """AllowQos and AllowAccounts; an account is let in by any account above it.

        squeue's table spells these two reasons out as sentences; its JSON has the words.
        """
        partition, qos = self.place.partition, self.place.qos.name
        accounts = {one.account for one in self.place.associations}
        if (partition.allow_qos and qos not in partition.allow_qos) or qos in partition.deny_qos:
            yield self._of_partition(0, 1, "QOSNotAllowed")
        if (partition.allow_accounts and accounts.isdisjoint(partition.allow_accounts)) or (
            not accounts.isdisjoint(partition.deny_accounts)
        ):
            yield self._of_partition(0, 1, "AccountNotAllowed")

    def _of_partition(self, limit: int, wanted: int, reason: str) -> Bite:
        return Bite(
            level=Level.PARTITION,
            holder=f"partition {self.place.partition.name}",
            kind=None,
            tres=NODE if reason == "PartitionNodeLimit" else WHOLE,
            limit=limit,
            in_use=None,
            asked=wanted,
            reason=reason,
        )

    # -- At submit

    def _at_submit(self, clock: _Clock) -> Iterator[Bite]:
        """What refuses the job. Only the first is meant: Slurm looks no further."""
        strict = any(_has(qos, "DENY_LIMIT") for qos in (self.place.qos, self.place.partition_qos))
        hidden: set[tuple[Kind, str]] = set()
        for holder in self.holders:
            if holder.qos:
                bite = self._qos_at_submit(holder, clock, hidden, strict=strict)
            else:
                bite = self._association_at_submit(holder, clock, hidden, strict=strict)
            if bite is not None:
                yield bite
                return

    def _qos_at_submit(
        self, holder: _Holder, clock: _Clock, hidden: set[tuple[Kind, str]], *, strict: bool
    ) -> Bite | None:
        before = frozenset(hidden)
        checks: tuple[Callable[[], Bite | None], ...] = (
            lambda: self._alone(holder, Kind.MAX_TRES_PA, before) if strict else None,
            lambda: self._group_or_user(holder, before) if strict else None,
            lambda: self._one_more(holder, Kind.GRP_SUBMIT, before),
            lambda: self._minutes_at_submit(holder, _SUBMIT_MINUTES, clock, hidden, strict=strict),
            lambda: self._wall_at_submit(holder, Kind.MAX_WALL, clock, hidden, strict=strict),
            lambda: self._wall_at_submit(holder, Kind.GRP_WALL, clock, hidden, strict=strict),
            lambda: self._alone(holder, Kind.MAX_TRES, before) if strict else None,
            lambda: self._alone(holder, Kind.MAX_TRES_NODE, before) if strict else None,
            lambda: self._one_more(holder, Kind.MAX_SUBMIT_PA, before),
            lambda: self._one_more(holder, Kind.MAX_SUBMIT_PU, before),
            lambda: self._alone(holder, Kind.MIN_TRES, before) if strict else None,
        )
        bite = next((found for check in checks if (found := check()) is not None), None)
        timed = {*_SUBMIT_MINUTES, Kind.MAX_WALL, Kind.GRP_WALL}
        hidden |= {(kind, tres) for kind, limits in holder.limits.items() if kind not in timed for tres in limits}
        return bite

    def _association_at_submit(
        self, holder: _Holder, clock: _Clock, hidden: set[tuple[Kind, str]], *, strict: bool
    ) -> Bite | None:
        own = holder is self.holders[self._qos_count]
        checks: list[Callable[[], Bite | None]] = [
            lambda: self._alone(holder, Kind.GRP_TRES, hidden) if strict else None,
            lambda: self._one_more(holder, Kind.GRP_SUBMIT, hidden),
            lambda: self._minutes_at_submit(
                holder, (Kind.GRP_TRES_MINS, Kind.GRP_TRES_RUN_MINS), clock, hidden, strict=strict
            ),
            lambda: self._wall_at_submit(holder, Kind.GRP_WALL, clock, hidden, strict=strict),
        ]
        if own:
            checks += [
                lambda: self._alone(holder, Kind.MAX_TRES, hidden) if strict else None,
                lambda: self._alone(holder, Kind.MAX_TRES_NODE, hidden) if strict else None,
                lambda: self._one_more(holder, Kind.MAX_SUBMIT, hidden),
                lambda: self._minutes_at_submit(holder, (Kind.MAX_TRES_MINS,), clock, hidden, strict=strict),
                lambda: self._wall_at_submit(holder, Kind.MAX_WALL, clock, hidden, strict=strict),
            ]
        return next((found for check in checks if (found := check()) is not None), None)

    def _group_or_user(self, holder: _Holder, hidden: frozenset[tuple[Kind, str]]) -> Bite | None:
        """GrpTRES and MaxTRESPU are looked at TRES by TRES together, and the user's is named if both are passed."""
        for tres in self.order:
            wanted = self.tres.get(tres, 0)
            passed = [
                limit
                for kind in (Kind.GRP_TRES, Kind.MAX_TRES_PU)
                if (limit := holder.limit(kind, tres)) is not None and (kind, tres) not in hidden and wanted > limit
            ]
            if passed:
                user = holder.limit(Kind.MAX_TRES_PU, tres)
                kind = Kind.MAX_TRES_PU if user is not None and wanted > user else Kind.GRP_TRES
                return self._bite(holder, kind, tres, in_use=None, wanted=wanted)
        return None

    def _alone(
        self, holder: _Holder, kind: Kind, hidden: frozenset[tuple[Kind, str]] | set[tuple[Kind, str]]
    ) -> Bite | None:
        """The job by itself against a limit of sizes, whatever is in use."""
        return next(self._too_large(holder, kind, hidden), None)

    def _one_more(
        self, holder: _Holder, kind: Kind, hidden: frozenset[tuple[Kind, str]] | set[tuple[Kind, str]]
    ) -> Bite | None:
        """Running and waiting jobs, and this one."""
        limit = holder.limit(kind, WHOLE)
        used = holder.used(kind).submitted
        if limit is None or self._hides(holder, kind, WHOLE, hidden) or used + 1 <= limit:
            return None
        return self._bite(holder, kind, WHOLE, in_use=used, wanted=1)

    def _minutes_at_submit(
        self, holder: _Holder, kinds: Sequence[Kind], clock: _Clock, hidden: set[tuple[Kind, str]], *, strict: bool
    ) -> Bite | None:
        if not strict:
            return None
        for kind in kinds:
            for tres in self.order:
                limit, count = holder.limit(kind, tres), self.tres.get(tres, 0)
                if limit is None or not count or (kind, tres) in hidden:
                    continue
                most = limit // count
                clock.held_to(most)
                hidden.add((kind, tres))
                if clock.minutes is not None and clock.minutes > most:
                    return self._bite(holder, kind, tres, in_use=None, wanted=clock.minutes * count)
        return None

    def _wall_at_submit(
        self, holder: _Holder, kind: Kind, clock: _Clock, hidden: set[tuple[Kind, str]], *, strict: bool
    ) -> Bite | None:
        limit = holder.limit(kind, WHOLE)
        if limit is None or (kind, WHOLE) in hidden:
            return None
        if not holder.qos and clock.minutes is not None and not strict:
            return None
        clock.held_to(limit)
        hidden.add((kind, WHOLE))
        if strict and clock.minutes is not None and clock.minutes > limit:
            return self._bite(holder, kind, WHOLE, in_use=None, wanted=clock.minutes)
        return None

    # -- Before it starts

    def _first(self, minutes: int | None) -> Iterator[Bite]:
        """Jobs and wall times: looked at before nodes are sought."""
        time = None if minutes is None else self._weighted(minutes)
        for holder, kinds in self._looking(_FIRST_QOS, _FIRST_ALL, _FIRST_OWN):
            for kind in kinds:
                limit = holder.limit(kind, WHOLE)
                if limit is None or self._hider(holder, kind, WHOLE) is not None:
                    continue
                used = holder.used(kind)
                if kind in _JOBS:
                    if used.jobs >= limit:
                        yield self._bite(holder, kind, WHOLE, in_use=used.jobs, wanted=1)
                elif kind is Kind.GRP_WALL:
                    wanted = limit if time is None else time
                    if used.wall >= limit or (self.place.safe and used.wall + wanted > limit):
                        yield self._bite(holder, kind, WHOLE, in_use=used.wall, wanted=wanted)
                elif time is not None and time > limit:
                    yield self._bite(holder, kind, WHOLE, in_use=None, wanted=time)

    def _nodes(self) -> Iterator[Bite]:
        """More nodes than could ever be had: the smallest of the limits is named."""
        qos = self.holders[: self._qos_count]
        least: Bite | None = None

        def consider(holder: _Holder, kind: Kind) -> None:
            nonlocal least
            limit = holder.limit(kind, NODE)
            if limit is not None and (least is None or limit < least.limit):
                least = self._bite(holder, kind, NODE, in_use=None, wanted=self.tres[NODE])

        for kind in (Kind.MAX_TRES_PA, Kind.MAX_TRES, Kind.MAX_TRES_PU):
            first = next((holder for holder in qos if holder.limit(kind, NODE) is not None), None)
            if first is not None:
                consider(first, kind)
        per_job = least
        group = next((holder for holder in qos if holder.limit(Kind.GRP_TRES, NODE) is not None), None)
        if group is not None:
            consider(group, Kind.GRP_TRES)
        for position, holder in enumerate(self.holders[self._qos_count :]):
            known = least
            if group is None:
                consider(holder, Kind.GRP_TRES)
            lowered = least is not known
            if position == 0 and per_job is None:
                consider(holder, Kind.MAX_TRES)
            if lowered:
                break
        if least is not None and self.tres[NODE] > least.limit:
            yield least

    def _then(self, minutes: int) -> Iterator[Bite]:
        """Sizes and minutes: looked at with nodes in hand."""
        minutes = self._weighted(minutes)
        for holder, kinds in self._looking(_THEN_QOS, _THEN_ALL, _THEN_OWN):
            for kind in kinds:
                if kind in _SIZES_IN_USE:
                    yield from self._over(holder, kind)
                elif kind is Kind.GRP_TRES_MINS:
                    yield from self._unpayable(holder, minutes)
                elif kind in _RUN_MINUTES:
                    yield from self._too_long_in_all(holder, kind, minutes)
                elif kind is Kind.MAX_TRES_MINS:
                    yield from self._too_long(holder, minutes)
                else:
                    yield from self._too_large(holder, kind, None)

    def _over(self, holder: _Holder, kind: Kind) -> Iterator[Bite]:
        used = holder.used(kind).tres
        for tres, limit, wanted in self._of(holder, kind):
            in_use = used.get(tres, 0)
            if wanted and wanted + in_use > limit:
                yield self._bite(holder, kind, tres, in_use=in_use, wanted=wanted)

    def _unpayable(self, holder: _Holder, minutes: int) -> Iterator[Bite]:
        used = holder.used(Kind.GRP_TRES_MINS)
        free = self.place.qos.usage_factor == 0
        for tres, limit, count in self._of(holder, Kind.GRP_TRES_MINS):
            spent = 0 if free else used.minutes.get(tres, 0)
            kept = 0 if free else used.run_minutes.get(tres, 0)
            wanted = minutes * count
            if count and (spent >= limit or (self.place.safe and wanted + kept + spent > limit)):
                yield self._bite(holder, Kind.GRP_TRES_MINS, tres, in_use=spent + kept, wanted=wanted)

    def _too_long_in_all(self, holder: _Holder, kind: Kind, minutes: int) -> Iterator[Bite]:
        used = holder.used(kind).run_minutes
        free = self.place.qos.usage_factor == 0 and kind is not Kind.MAX_RUN_MINS_PU
        for tres, limit, count in self._of(holder, kind):
            kept = 0 if free else used.get(tres, 0)
            if count and minutes * count + kept > limit:
                yield self._bite(holder, kind, tres, in_use=kept, wanted=minutes * count)

    def _too_long(self, holder: _Holder, minutes: int) -> Iterator[Bite]:
        for tres, limit, count in self._of(holder, Kind.MAX_TRES_MINS):
            if minutes * count > limit:
                yield self._bite(holder, Kind.MAX_TRES_MINS, tres, in_use=None, wanted=minutes * count)

    def _too_large(
        self, holder: _Holder, kind: Kind, hidden: frozenset[tuple[Kind, str]] | set[tuple[Kind, str]] | None
    ) -> Iterator[Bite]:
        """A job that alone is more than a limit, or less than a minimum."""
        for tres in self.order:
            limit, wanted = holder.limit(kind, tres), self.tres.get(tres, 0)
            if limit is None or (not holder.qos and not wanted):
                continue
            if (self._hider(holder, kind, tres) is not None) if hidden is None else (kind, tres) in hidden:
                continue
            if kind is Kind.MAX_TRES_NODE:
                wanted //= self.tres[NODE]
            if wanted < limit if kind is Kind.MIN_TRES else wanted > limit:
                yield self._bite(holder, kind, tres, in_use=None, wanted=wanted)

    # -- Who hides whom

    @property
    def _qos_count(self) -> int:
        return sum(holder.qos for holder in self.holders)

    def _looking(
        self, qos: Sequence[Kind], each: Sequence[Kind], own: Sequence[Kind]
    ) -> Iterator[tuple[_Holder, Sequence[Kind]]]:
        """Holders in Slurm's order, each with the kinds that are looked at there: limits for a job alone are looked at
        on its own association only, for Slurm has handed them down."""
        for position, holder in enumerate(self.holders):
            if holder.qos:
                yield holder, qos
            else:
                yield holder, (*each, *own) if position == self._qos_count else each

    def _of(self, holder: _Holder, kind: Kind) -> Iterator[tuple[str, int, int]]:
        """TRES, limit and what the job asks of it, for limits that hold."""
        for tres in self.order:
            limit = holder.limit(kind, tres)
            if limit is not None and self._hider(holder, kind, tres) is None:
                yield tres, limit, self.tres.get(tres, 0)

    def _hider(self, holder: _Holder, kind: Kind, tres: str) -> tuple[_Holder, Kind] | None:
        """The QOS, and its kind of limit, that hides this limit of the holder."""
        kinds = (kind,) if holder.qos else _HIDDEN_BY.get(kind, (kind,))
        for other in self.holders[: self._qos_count]:
            if other is holder:
                return None
            for found in kinds:
                if other.limit(found, tres) is not None:
                    return other, found
        return None

    def _hides(
        self, holder: _Holder, kind: Kind, tres: str, hidden: frozenset[tuple[Kind, str]] | set[tuple[Kind, str]]
    ) -> bool:
        kinds = (kind,) if holder.qos else _HIDDEN_BY.get(kind, (kind,))
        return any((found, tres) in hidden for found in kinds)

    def hidden(self) -> Iterator[Hidden]:
        """Limits that are set and pass this job by."""
        both = zip(
            self._looking(_FIRST_QOS, _FIRST_ALL, _FIRST_OWN),
            self._looking(_THEN_QOS, _THEN_ALL, _THEN_OWN),
            strict=True,
        )
        for (holder, first), (_same, then) in both:
            for kind in (*first, *then):
                for tres, limit in holder.limits.get(kind, {}).items():
                    why = self._why_not(holder, kind, tres)
                    if why is not None:
                        yield Hidden(level=holder.level, holder=holder.name, kind=kind, tres=tres, limit=limit, why=why)

    def _why_not(self, holder: _Holder, kind: Kind, tres: str) -> str | None:
        by = self._hider(holder, kind, tres)
        if by is not None:
            other, found = by
            of = f" {tres}" if tres else ""
            return f"{other.name} sets {found}{of}={other.limit(found, tres)}, which comes first"
        if tres.startswith(_TYPED_GPU) and not self.tres.get(tres) and self.tres.get(GPU):
            return "the job does not name this GPU model"
        return None

    def bounds(self) -> Iterator[Bound]:
        for holder, kinds in self._looking(_THEN_QOS, _THEN_ALL, _THEN_OWN):
            for kind in kinds:
                if kind in {Kind.GRP_TRES, Kind.MAX_TRES_PA}:
                    for tres, limit, wanted in self._of(holder, kind):
                        if wanted:
                            yield Bound(level=holder.level, holder=holder.name, tres=tres, limit=limit)

    def unjudged(self) -> Iterator[str]:
        for holder in self.holders:
            for kind, limits in holder.limits.items():
                for tres in limits:
                    if tres != WHOLE and tres not in self.order:
                        yield f"{holder.name}: {kind} {tres}={limits[tres]}"

    # -- Parts

    def _weighted(self, minutes: int) -> int:
        """UsageFactorSafe: Slurm reckons with the time that will be charged."""
        factor = self.place.qos.usage_factor
        return int(minutes * factor) if _has(self.place.qos, "USAGE_FACTOR_SAFE") else minutes

    def _bite(self, holder: _Holder, kind: Kind, tres: str, *, in_use: int | None, wanted: int) -> Bite:
        return Bite(
            level=holder.level,
            holder=holder.name,
            kind=kind,
            tres=tres,
            limit=holder.limits[kind][tres],
            in_use=in_use,
            asked=wanted,
            reason=reason_of(kind, tres, qos=holder.qos),
        )


def _has(qos: QosLimits | None, flag: str) -> bool:
    return qos is not None and flag in qos.flags


def _holders(place: Place) -> Iterator[_Holder]:
    """In the order in which they look at the job."""
    account = place.associations[0].account

    def of_qos(level: Level, qos: QosLimits) -> _Holder:
        def used(kind: Kind) -> InUse:
            if kind in _OF_ACCOUNT:
                return qos.by_account.get(account, NOTHING)
            if kind in _OF_USER:
                return qos.by_user.get(place.user, NOTHING)
            return qos.in_use

        return _Holder(level=level, name=f"{level} {qos.name}", qos=True, limits=qos.limits, used=used)

    job = of_qos(Level.QOS, place.qos)
    if place.partition_qos is None or place.partition_qos.name == place.qos.name:
        yield job
    else:
        partition = of_qos(Level.PARTITION_QOS, place.partition_qos)
        yield from (job, partition) if _has(place.qos, "OVERRIDE_PARTITION_QOS") else (partition, job)
    factor = _limit_factor(place)
    for one in place.associations:
        yield _Holder(
            level=Level.ACCOUNT if one.user is None else Level.USER,
            name=str(one),
            qos=False,
            limits=one.limits if factor is None else _multiplied(one.limits, factor),
            used=partial(_in_use_of, one),
        )


def _in_use_of(association: AssociationLimits, _kind: Kind) -> InUse:
    return association.in_use


def _limit_factor(place: Place) -> float | None:
    """LimitFactor of the QOS that looks first and has one."""
    pair = (place.partition_qos, place.qos)
    ordered = reversed(pair) if _has(place.qos, "OVERRIDE_PARTITION_QOS") else pair
    return next((qos.limit_factor for qos in ordered if qos is not None and qos.limit_factor is not None), None)


def _multiplied(limits: Mapping[Kind, Tres], factor: float) -> Mapping[Kind, Tres]:
    if factor <= 0:
        return limits
    return {
        kind: {tres: int(limit * factor) for tres, limit in of.items()}
        if kind in {Kind.GRP_TRES, Kind.MAX_TRES}
        else of
        for kind, of in limits.items()
    }


def _billing(tres: Tres, partition: PartitionLimits, priority_flags: frozenset[str]) -> int:
    """A job's `billing` by the partition's TRESBillingWeights; its CPUs where there are none."""
    weights = partition.billing_weights
    if not weights:
        return tres.get(CPU, 0)
    parts = {name: count * weights.get(name, 0.0) for name, count in tres.items() if name in weights}
    gpus = sum(part for name, part in parts.items() if name.startswith("gres/"))
    others = [part for name, part in parts.items() if not name.startswith("gres/")]
    if "MAX_TRES_GRES" in priority_flags:
        return int(max(others, default=0.0) + gpus)
    if "MAX_TRES" in priority_flags:
        return int(max(parts.values(), default=0.0))
    return int(sum(others) + gpus)


def fewest_nodes(gpus: int, gpus_per_node: int) -> int:
    return max(ceil(gpus / gpus_per_node), 1)
