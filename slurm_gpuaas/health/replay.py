"""What policy would do to a recorded log: the rules that gpuaasd follows, put to lines of a file. Pure.

What a log cannot say is assumed, and the report says what was: a node that left service stays out until its log shows
a new boot, and nobody puts one back by hand.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.incidents import (
    EARLIEST_EVENT,
    LATEST_EVENT,
    Drain,
    EventSource,
    Incident,
    IncidentState,
    NodeEvent,
)
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import GpuModel, NodeName
from slurm_gpuaas.health.attribution import jobs_at_fault, jobs_that_kill_nodes
from slurm_gpuaas.health.catalogue import FaultClass
from slurm_gpuaas.health.decode import MAX_LINE, Decoder
from slurm_gpuaas.health.incidents import History, Step, What, judge
from slurm_gpuaas.health.lifecycle import LADDERS
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.health.repeats import is_storm, repeat_policy, same_again
from slurm_gpuaas.health.triage import DRAINING_VERDICTS, Sighting

BREAKER_WINDOW: Final = timedelta(minutes=10)
NODE_EVENTS: Final = 1_000
FLEET_EVENTS: Final = 2_000
REPORT: Final = timedelta(seconds=1)
"""Events of a node within so long are judged together, as an agent sends them."""
MAX_INCIDENTS: Final = 10_000

_KMSG = re.compile(r"\d{1,6},\d{1,20},(\d{1,16}),[^;]{0,80};")
_SECONDS = re.compile(r"(?:<\d{1,3}>)?\[ {0,12}(\d{1,10}\.\d{1,9})\]")
_DMESG_T = re.compile(r"(?:<\d{1,3}>)?\[([A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})\]")
_ISO = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d{0,3})?(Z|[+-]\d\d:?\d\d)?(?=\s|$)")
_MOMENT: Final = TypeAdapter(AwareDatetime)
_REBOOTED_WHEN_BACK_BY: Final = 60.0

_NEXT: Final[Mapping[str, str]] = {name: f"{rungs[0]}, verify" for name, rungs in LADDERS.items()}
"""First rung of the repair ladder by class; others begin with a reset of the GPUs."""


class ReplayedIncident(BaseModel):
    """`would` is what gpuaasd would do, in order. Times of a log without dates count from its boot."""

    model_config = ConfigDict(frozen=True)

    id: str
    node: NodeName
    opened_at: datetime
    last_event_at: datetime
    events: int
    drain: Drain
    fault_class: str
    state: IncidentState
    rule: str
    headline: str
    would: tuple[str, ...]
    drained_at: datetime | None = None
    jobs: tuple[int, ...] = ()


class ReplayedTrip(BaseModel):
    """From then on nothing acts until a person resets it, whom a log does not know: `waiting` incidents that ask for a
    drain get none."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    waiting: int


class ReplayReport(BaseModel):
    model_config = ConfigDict(frozen=True)

    """`since_boot`: the log has no dates; its times count from `EARLIEST_EVENT`."""

    assumptions: tuple[str, ...]
    since_boot: bool
    lines: int
    events: int
    left_out: int
    incidents: tuple[ReplayedIncident, ...]
    breaker: ReplayedTrip | None
    jobs_at_fault: tuple[str, ...]


def read_lines(stream: BinaryIO) -> Iterator[str]:
    """Lines of a log of any content in bounded memory: undecodable bytes are replaced, over-long lines cut."""
    while raw := stream.readline(MAX_LINE):
        yield raw.decode("utf-8", "replace")
        while len(raw) == MAX_LINE and not raw.endswith(b"\n"):
            raw = stream.readline(MAX_LINE)


@dataclass(slots=True)
class _Node:
    """One node as its log goes on."""

    name: NodeName
    decoder: Decoder = field(default_factory=Decoder)
    boot: int = 1
    sightings: deque[Sighting] = field(default_factory=lambda: deque(maxlen=NODE_EVENTS))
    waiting: list[Sighting] = field(default_factory=list)
    incidents: dict[str, Incident] = field(default_factory=dict)
    """Those that are open."""
    kept: dict[tuple[object, ...], deque[datetime]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Line:
    at: datetime
    node: NodeName
    text: str
    jobs: tuple[JobId, ...] | None
    booted: bool


class Replay:
    """Args:
    node: whose log it is, where lines do not say.
    product: of the node's GPUs; None when unknown.
    driver: its driver's version; None when unknown.
    max_drains: as `health.breaker.drains` of gpuaasd.
    overrides: what the site decides itself.
    """

    def __init__(
        self,
        *,
        node: NodeName,
        product: GpuModel | None = None,
        driver: str | None = None,
        max_drains: int = 16,
        overrides: Sequence[Override] = (),
    ) -> None:
        self._node = node
        self._product = product
        self._driver = driver
        self._overrides = tuple(overrides)
        self._policy = repeat_policy()
        self._breaker = _Breaker(max_drains)
        self._times = _Times()
        self._nodes: dict[NodeName, _Node] = {}
        self._fleet: deque[Sighting] = deque(maxlen=FLEET_EVENTS)
        self._done: dict[str, ReplayedIncident] = {}
        self._faults: dict[tuple[str, int], str] = {}
        self._lines = self._events = self._left_out = self._bad = 0
        self._pids = False
        self._since: datetime | None = None
        """When the first of the events that wait to be judged happened."""

    def run(self, lines: Iterable[str]) -> ReplayReport:
        """Put a log through the rules, in the order of its lines.

        Raises:
            InvalidInput: it would open more than `MAX_INCIDENTS`.
        """
        for text in lines:
            self._lines += 1
            line = self._read(text)
            if line is None:
                self._bad += 1
                continue
            node = self._nodes.setdefault(line.node, _Node(line.node))
            if line.booted or (self._since is not None and abs(line.at - self._since) > REPORT):
                self._judge_all()
            if line.booted:
                node.boot += 1
                node.incidents.clear()
            self._take(node, line)
        self._judge_all()
        return self._report()

    def _read(self, text: str) -> _Line | None:
        stripped = text.strip()
        if stripped.startswith("{"):
            return self._read_json(stripped)
        at, booted = self._times.of(text)
        return _Line(at, self._node, text, None, booted)

    def _read_json(self, text: str) -> _Line | None:
        """`{"at": ISO time, "node": name, "line": text, "jobs": [ids]}`; all but `line` may be absent."""
        try:
            value: Any = json.loads(text)
            line, node, at, jobs = value["line"], value.get("node"), value.get("at"), value.get("jobs")
            name = NodeName(node) if node is not None else self._node
            if not isinstance(line, str):
                return None
            line = line.encode("utf-8", "replace").decode("utf-8")  # JSON can spell what is no text
            if at is None:
                moment, booted = self._times.of(line)
            else:
                moment, booted = _MOMENT.validate_python(at).astimezone(UTC), False
                self._times.given()
                if not EARLIEST_EVENT <= moment <= LATEST_EVENT:
                    return None
            ids = tuple(JobId(int(job)) for job in jobs) if jobs is not None else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, ValidationError):
            return None
        return _Line(moment, name, line, ids, booted)

    def _take(self, node: _Node, line: _Line) -> None:
        for decoded in node.decoder.decode(self._lines, line.text):
            self._events += 1
            event = NodeEvent(
                event_id=f"{node.name}/boot-{node.boot}/log/{self._events}",
                node=node.name,
                kind=decoded.kind,
                code=decoded.code,
                source=EventSource.KERNEL_LOG,
                seen_at=line.at,
                pci=decoded.pci,
                uuid=decoded.gpu,
                product=self._product,
                driver_version=self._driver,
                evidence=line.text[:2_000],
                boot_id=f"boot-{node.boot}",
                recovery_action=decoded.to_action,
            )
            times = node.kept.setdefault(same_again(event), deque(maxlen=self._policy.burst.keep))
            if is_storm(line.at, times, self._policy):
                self._left_out += 1
                continue
            times.append(line.at)
            jobs = line.jobs
            if jobs is None and decoded.pid is not None:
                # Below zero, so that it is never taken for the id of a job.
                jobs, self._pids = (JobId(-1 - decoded.pid),), True
            one = Sighting(event=event, jobs=jobs or (), overrides=self._overrides)
            node.waiting.append(one)
            self._since = self._since or line.at
            if line.jobs:
                self._fleet.append(one)

    def _judge_all(self) -> None:
        self._since = None
        for node in self._nodes.values():
            self._judge(node)

    def _judge(self, node: _Node) -> None:
        """What the events of one node that came in together do."""
        new, node.waiting = node.waiting, []
        if not new:
            return
        now = max(one.event.seen_at for one in new)
        while node.sightings and now - node.sightings[0].event.seen_at > self._policy.looks_back:
            node.sightings.popleft()
        node.sightings.extend(new)
        for incident in node.incidents.values():
            if self._breaker.drained(incident.id) is not None:
                node.incidents[incident.id] = incident.model_copy(update={"state": IncidentState.DRAINING})
        history = History(
            incidents=list(node.incidents.values()),
            sightings=tuple(node.sightings),
            excused=self._excused(now) if any(one.verdict.fault_class is FaultClass.APP for one in new) else {},
        )
        jobs = {one.event.event_id: one.jobs for one in new}
        for step in judge(new, history, now, self._policy):
            self._follow(node, step, jobs[step.event.event_id])
        if any(one.verdict.drain in DRAINING_VERDICTS for one in new):
            self._blame("hardware failed under job", jobs_that_kill_nodes(self._lately(now), self._at_fault))

    @property
    def _at_fault(self) -> int:
        return self._policy.job_at_fault.nodes

    def _lately(self, now: datetime) -> Sequence[Sighting]:
        return [one for one in self._fleet if now - one.event.seen_at <= self._policy.looks_back]

    def _excused(self, now: datetime) -> Mapping[str, JobId]:
        found = jobs_at_fault(self._lately(now), self._at_fault)
        self._blame("at fault: job", found)
        return {event_id: fault.job for fault in found for event_id in fault.event_ids}

    def _blame(self, what: str, found: Iterable[Any]) -> None:
        for fault in found:
            codes = ", ".join(str(code) for code in fault.codes)
            self._faults[what, fault.job] = f"{what} {fault.job} (XID {codes}) on {', '.join(fault.nodes)}"[:500]

    def _follow(self, node: _Node, step: Step, jobs: Sequence[JobId]) -> None:
        incident, at = step.incident, step.event.seen_at
        if step.what is What.OPENED and len(self._done) >= MAX_INCIDENTS:
            raise InvalidInput(
                f"The log opens more than {MAX_INCIDENTS:,} incidents.", way_out="Replay a part of it at a time."
            )
        if incident.drain in DRAINING_VERDICTS and incident.state is IncidentState.SUSPECT:
            self._breaker.want(incident.id, node.name, at)
        if step.what is What.ENDED:
            node.incidents.pop(incident.id, None)
        else:
            node.incidents[incident.id] = incident
        before = self._done.get(incident.id)
        lost = sorted({*(before.jobs if before else ()), *(int(job) for job in jobs if job > 0)})[:100]
        self._done[incident.id] = ReplayedIncident(
            id=incident.id,
            node=node.name,
            opened_at=min(before.opened_at, at) if before else at,
            last_event_at=max(before.last_event_at, at) if before else at,
            events=before.events + 1 if before else len(incident.event_ids),
            drain=incident.drain,
            fault_class=incident.fault_class,
            state=incident.state,
            rule=incident.rule,
            headline=incident.headline,
            would=(),
            jobs=tuple(lost),
        )

    def _report(self) -> ReplayReport:
        return ReplayReport(
            assumptions=tuple(self._assumptions()),
            since_boot=self._times.since_boot,
            lines=self._lines,
            events=self._events,
            left_out=self._left_out,
            incidents=tuple(self._final(one) for one in sorted(self._done.values(), key=lambda i: i.opened_at)),
            breaker=self._breaker.trip,
            jobs_at_fault=tuple(self._faults.values()),
        )

    def _final(self, one: ReplayedIncident) -> ReplayedIncident:
        drained_at = self._breaker.drained(one.id)
        if one.state is IncidentState.CLOSED and drained_at is None:
            would = ["close by itself"]
        elif one.drain is Drain.REVIEW:
            would = ["tell a person"]
        else:
            would = ["drain" if one.drain is Drain.NOW else "drain, let jobs finish"]
            if one.drain is Drain.NOW:
                would.append("requeue its jobs")
            would.append(_NEXT.get(one.fault_class, "reset the GPUs, verify"))
        state = one.state if drained_at is None else IncidentState.DRAINING
        return one.model_copy(update={"would": tuple(would), "drained_at": drained_at, "state": state})

    def _assumptions(self) -> Iterator[str]:
        yield from self._times.assumptions()
        yield "A node that left service is back when its log shows a new boot; nobody puts one back by hand."
        if len(self._nodes) > 1:
            yield "Of the circuit breaker only the count is looked at: no log tells of leaf groups and all nodes."
        if self._pids:
            yield "Lines name no jobs: each process stands for a job of its own."
        by_users = tuple(f"repeat rule {rule.name}:" for rule in self._policy.rules if rule.different_users)
        if any(one.rule.startswith(by_users) for one in self._done.values()):
            yield "Lines name no users: errors that any user can cause are taken to be of different ones."
        if self._bad:
            yield f"{self._bad:,} lines are no such JSON object as `--help` shows, and were left out."


class _Times:
    """When lines were written, as their prefixes say: seconds since boot, `dmesg -T`, ISO, or nothing."""

    def __init__(self) -> None:
        self._base = EARLIEST_EVENT
        self._last: datetime | None = None
        self._uptime: float | None = None
        self._styles: set[str] = set()

    def given(self) -> None:
        self._styles.add("given")

    def of(self, text: str) -> tuple[datetime, bool]:
        """The moment of a line, and whether its machine has booted since the line before."""
        head = text[:120].lstrip("\ufeff")
        booted = False
        if (found := _KMSG.match(head)) is not None:
            at, booted = self._since_boot(int(found[1]) / 1e6)
        elif (found := _SECONDS.match(head)) is not None:
            at, booted = self._since_boot(float(found[1]))
        elif (moment := _written(head)) is not None:
            self._styles.add("written")
            at = moment
        else:
            self._styles.add("none")
            step = timedelta(seconds=1) if self._last is None or self._styles == {"none"} else timedelta(0)
            at = (self._last or self._base) + step
        self._last = min(max(at, EARLIEST_EVENT), LATEST_EVENT)
        return self._last, booted

    @property
    def since_boot(self) -> bool:
        return not self._styles & {"given", "written"}

    def assumptions(self) -> Iterator[str]:
        if "uptime" in self._styles:
            yield f"Times count from boot, which stands as {EARLIEST_EVENT:%Y-%m-%d} 00:00 UTC."
        if self._styles == {"none"}:
            yield "Lines carry no time: each is taken to be one second after the one before."
        elif "none" in self._styles:
            yield "A line without a time is taken to be of the moment of the line before."
        if "written" in self._styles:
            yield "Times without a zone are taken to be UTC."

    def _since_boot(self, seconds: float) -> tuple[datetime, bool]:
        self._styles.add("uptime")
        booted = self._uptime is not None and self._uptime - seconds > _REBOOTED_WHEN_BACK_BY
        if booted:
            self._base = self._last or self._base
        self._uptime = seconds
        return min(self._base + timedelta(seconds=min(seconds, 3e9)), LATEST_EVENT), booted


def _written(head: str) -> datetime | None:
    if (found := _DMESG_T.match(head)) is not None:
        form, text, zone = "%a %b %d %H:%M:%S %Y", found[1], None
    elif (found := _ISO.match(head)) is not None:
        fraction = (found[2] or "0").ljust(6, "0")
        form, text, zone = "%Y-%m-%d %H:%M:%S.%f", f"{found[1].replace('T', ' ')}.{fraction}", found[3]
    else:
        return None
    try:
        if zone not in {None, "Z"}:
            return datetime.strptime(f"{text} {zone}", f"{form} %z").astimezone(UTC)
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


class _Breaker:
    """Lets so many nodes leave service within `BREAKER_WINDOW`; the next one trips it, and then none does."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lately: OrderedDict[NodeName, datetime] = OrderedDict()
        self._drained: dict[str, datetime] = {}
        self._wanted: set[str] = set()
        self.trip: ReplayedTrip | None = None

    def want(self, incident: str, node: NodeName, at: datetime) -> None:
        if incident in self._wanted:
            return
        self._wanted.add(incident)
        while self._lately and at - next(iter(self._lately.values())) >= BREAKER_WINDOW:
            self._lately.popitem(last=False)
        if self.trip is None and (node in self._lately or len(self._lately) < self._most):
            self._drained[incident] = self._lately[node] = at
            self._lately.move_to_end(node)
        else:
            waiting = self.trip.waiting + 1 if self.trip else 1
            self.trip = ReplayedTrip(at=self.trip.at if self.trip else at, waiting=waiting)

    def drained(self, incident: str) -> datetime | None:
        return self._drained.get(incident)
