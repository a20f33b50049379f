"""What runs and what broke, as one visitor may see it, in sentences. Pure: the newest frames of the sites in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.fleet_map import MapCluster
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.job_reasons import AT_THE_GATE, FOR_BETTER, Meaning, meaning_of_word
from slurm_gpuaas.domain.names import ClusterName, NodeName, OrganisationName, ProviderName, UserName
from slurm_gpuaas.domain.site_frame import AtGate, HitJob, SiteIncident, SiteJob, SiteQueued, SiteRoom
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.portal.map.live import Held, KnownSite
from slurm_gpuaas.portal.rights import Scope

BUSY_PERCENT: Final = 30
"""A job whose GPUs are busy less than this on average is told so."""
FOR_ROOM: Final = frozenset({"None", "Priority", "Resources", "Licenses", "ReqNodeNotAvail"})
"""Slurm's words for waiting on nodes: only then does the room for a job say when it may start."""
IN_SERVICE: Final = frozenset({IncidentState.SUSPECT, IncidentState.PROBATION, IncidentState.CLOSED})
PLACED: Final = Meaning(told("the placement gate gave it nodes: it starts there in a moment"))

Known = Mapping[ClusterName, KnownSite]


@dataclass(frozen=True, slots=True, kw_only=True)
class Onlooker:
    """Who looks, and how far their role reaches."""

    scope: Scope
    organisation: OrganisationName | None = None
    provider: ProviderName | None = None
    login: UserName | None = None

    def sees(self, provider: ProviderName, tenant: OrganisationName | None, user: UserName | None) -> bool:
        """A job of that tenant and user in a cluster of that provider."""
        match self.scope:
            case Scope.ALL:
                return True
            case Scope.PROVIDER:
                return self.provider is not None and self.provider == provider
            case Scope.ORGANISATION:
                return self.organisation is not None and self.organisation == tenant
            case Scope.OWN:
                ours = self.organisation is not None and self.organisation == tenant
                return ours and self.login is not None and self.login == user

    def sees_all_of(self, provider: ProviderName) -> bool:
        return self.scope is Scope.ALL or (self.scope is Scope.PROVIDER and self.provider == provider)


# -- Jobs --------------------------------------------------------------------------------------------------------------


class RunState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNow:
    """A job as its site told of it at `as_of`. Exactly one of `run` (with `held`) and `queued` is there."""

    cluster: MapCluster
    as_of: datetime
    run: SiteJob | None = None
    held: Held | None = None
    queued: SiteQueued | None = None

    @property
    def job(self) -> SiteJob | SiteQueued:
        found = self.run or self.queued
        assert found is not None
        return found

    @property
    def state(self) -> RunState:
        return RunState.WAITING if self.queued else RunState.RUNNING

    @property
    def gpus(self) -> int:
        return self.queued.gpus if self.queued else self.held.gpus if self.held else 0

    @property
    def began(self) -> datetime:
        """When it started, or was submitted."""
        return self.queued.submitted if self.queued else self.run.since if self.run else self.as_of

    @property
    def key(self) -> tuple[int, int, str, int]:
        """Their order: what waits first, the oldest first."""
        return (self.state is RunState.RUNNING, int(self.began.timestamp()), self.cluster.name, self.job.id)


def jobs_seen(known: Known, onlooker: Onlooker) -> list[JobNow]:
    """All jobs that the onlooker may see, in order."""
    return sorted(_jobs(known.values(), onlooker), key=lambda one: one.key)


def _jobs(sites: Iterable[KnownSite], onlooker: Onlooker) -> Iterator[JobNow]:
    for site in sites:
        frame, provider = site.frame, site.cluster.provider
        if frame is None:
            continue
        for run, held in zip(frame.jobs, site.held, strict=True):
            if onlooker.sees(provider, run.tenant, run.user):
                yield JobNow(cluster=site.cluster, as_of=frame.moment, run=run, held=held)
        for queued in frame.queue:
            if onlooker.sees(provider, queued.tenant, queued.user):
                yield JobNow(cluster=site.cluster, as_of=frame.moment, queued=queued)


def job_seen(known: Known, onlooker: Onlooker, cluster: str, number: int) -> JobNow | None:
    """One job; None when it neither waits nor runs, or is not theirs to see."""
    sites = [site for name, site in known.items() if name == cluster]
    return next((one for one in _jobs(sites, onlooker) if one.job.id == number), None)


def why(queued: SiteQueued) -> Meaning:
    """Why it waits and what its user can do; the texts may hold `JOBID`."""
    match queued.gate:
        case AtGate.PLACED:
            return PLACED
        case AtGate.FOR_BETTER:
            return FOR_BETTER
        case AtGate.DECIDING:
            return AT_THE_GATE
        case None:
            return meaning_of_word(queued.reason)


def may_start(queued: SiteQueued) -> datetime | None:
    """The earliest moment by the time limits of what runs; None where something else must happen first, or they do not
    tell."""
    if queued.limit is not None:
        return queued.limit.below_at
    if queued.room is not None and queued.reason in FOR_ROOM:
        return queued.room.enough_at
    return None


def waiting_for(queued: SiteQueued) -> Iterator[Told]:
    """The figures behind it, and when it may start."""
    if queued.limit is not None:
        limit = queued.limit
        yield told("Its grant guarantees {limit} GPUs at once, {in_use} are in use and it asks for {gpus}.",
                   limit=limit.limit, in_use=limit.in_use, gpus=queued.gpus)  # fmt: skip
        if limit.below_at is not None:
            yield told("By the time limits of the running jobs it fits below the guarantee at {at}.", at=limit.below_at)
        elif queued.gpus > limit.limit:
            yield told("It is larger than the guarantee, so it cannot start like this: ask for less, or for burst.")
    elif queued.room is not None and queued.reason in FOR_ROOM:
        yield from _room(queued.room)


def _room(room: SiteRoom) -> Iterator[Told]:
    if room.whole:
        yield told("It needs {nodes} whole nodes; {free} are free.", nodes=room.nodes, free=room.free)
    else:
        yield told("It needs {gpus} GPUs on each of {nodes} nodes; {free} nodes have as many free.",
                   gpus=room.gpus_per_node, nodes=room.nodes, free=room.free)  # fmt: skip
    if room.free >= room.nodes:
        yield told("There is room for it now.")
    elif room.enough_at is not None:
        yield told("By the time limits of what runs there is room at {at}: sooner if jobs end early, later if others "
                   "go first.", at=room.enough_at)  # fmt: skip
    else:
        yield told("Time limits do not tell when there is room: jobs without one run there, or too few nodes work.")


class NoteKind(StrEnum):
    GOOD = "good"
    LOW = "low"
    IDLE = "idle"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Note:
    """How well a job uses its GPUs now, and what to do about it."""

    kind: NoteKind
    text: Told
    way_out: str = ""


def efficiency(held: Held) -> Note:
    """Allocated against busy, of a running job."""
    if held.use is None:
        return Note(
            NoteKind.UNKNOWN,
            told("How busy its GPUs are is not known: it shares its nodes, or nothing was measured lately."),
        )
    if held.idle == held.gpus:
        return Note(
            NoteKind.IDLE,
            told(
                "None of its {gpus} GPUs has done any work for {minutes} minutes.",
                gpus=held.gpus,
                minutes=held.idle_minutes,
            ),
            told("See whether it hangs or has forgotten to end; `scancel JOBID` gives its GPUs back."),
        )
    if held.idle:
        return Note(
            NoteKind.IDLE,
            told(
                "{idle} of its {gpus} GPUs have not done any work for ten minutes or more.",
                idle=held.idle,
                gpus=held.gpus,
            ),
            told("See whether all of its processes run; if it needs fewer GPUs, ask for fewer."),
        )
    percent = round(held.use)
    if percent < BUSY_PERCENT:
        return Note(
            NoteKind.LOW,
            told("Its GPUs are busy {percent} % of the time.", percent=percent),
            told("They may wait for data: more loader processes, data on local disks, or larger batches often help."),
        )
    return Note(NoteKind.GOOD, told("Its GPUs are busy {percent} % of the time.", percent=percent))


def nodes_of(site: KnownSite, number: int) -> tuple[NodeName, ...]:
    """Nodes of a running job, in the order of the layout."""
    if site.frame is None:
        return ()
    place = next((place for place, job in enumerate(site.frame.jobs, start=1) if job.id == number), None)
    if place is None:
        return ()
    cells = site.frame.unpacked().job.reshape(-1, site.cluster.gpus_per_node)
    nodes = site.cluster.nodes
    return tuple(nodes[row] for row in (cells == place).any(axis=1).nonzero()[0].tolist())


# -- Incidents ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentNow:
    """An incident as its site told of it; `hit` are the jobs that the onlooker may know of."""

    cluster: MapCluster
    as_of: datetime
    incident: SiteIncident
    hit: Sequence[HitJob]

    @property
    def key(self) -> tuple[int, str, str]:
        """Their order: the newest first."""
        return (-int(self.opened_at.timestamp()), self.cluster.name, self.incident.id)

    @property
    def id(self) -> str:
        """In the whole pool."""
        return f"{self.cluster.name}:{self.incident.id}"

    @property
    def opened_at(self) -> datetime:
        return self.incident.steps[0].at

    @property
    def state(self) -> IncidentState:
        return self.incident.steps[-1].state

    @property
    def open(self) -> bool:
        return self.state is not IncidentState.CLOSED

    @property
    def back_at(self) -> datetime | None:
        """Since when its node is in service again; None while it is out, and where it never was."""
        if self.state not in IN_SERVICE:
            return None
        back: datetime | None = None
        for before, after in zip(self.incident.steps, self.incident.steps[1:], strict=False):
            if after.state in IN_SERVICE and before.state not in IN_SERVICE:
                back = after.at
        return back


def incidents_seen(known: Known, onlooker: Onlooker) -> list[IncidentNow]:
    """The newest first. A tenant sees those that hit jobs of theirs, and of the jobs only their own."""
    found: list[IncidentNow] = []
    for site in known.values():
        if site.frame is None:
            continue
        provider = site.cluster.provider
        everything = onlooker.sees_all_of(provider)
        for incident in site.frame.incidents:
            hit = [job for job in incident.hit if onlooker.sees(provider, job.tenant, job.user)]
            if everything or hit:
                found.append(IncidentNow(cluster=site.cluster, as_of=site.frame.moment, incident=incident, hit=hit))
    return sorted(found, key=lambda one: one.key)


def incidents_of_job(known: Known, onlooker: Onlooker, cluster: str, number: int) -> list[IncidentNow]:
    """Those that hit a job."""
    return [
        replace(one, hit=[job for job in one.hit if job.id == number])
        for one in incidents_seen(known, onlooker)
        if one.cluster.name == cluster and any(job.id == number for job in one.hit)
    ]
