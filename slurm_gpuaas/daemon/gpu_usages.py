"""How busy the GPUs of a node, a job or a project were: usage records say who had which nodes when, telemetry the rest.

Administrators ask about everything, researchers about jobs of their projects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from slurm_gpuaas.api.models import GpuUsage, GpuUse, GpuUseRow
from slurm_gpuaas.daemon.identity import Identity
from slurm_gpuaas.daemon.moments import aware
from slurm_gpuaas.daemon.shared import SharedController
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import InvalidInput, NotFound, Refused
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import AccountName, ClusterName, NodeName, ProjectName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.domain.telemetry import IDLE_BELOW_PERCENT, Metric
from slurm_gpuaas.domain.usage import UsageRecord, Window
from slurm_gpuaas.metering.gpu_use import (
    ON_THE_WAY,
    Curve,
    GpuOfNode,
    Stay,
    Use,
    measure,
    measure_node,
    minute_of,
    stays_of,
)
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.telemetry import Telemetry

LONGEST: Final = timedelta(days=100)
"""Longest stretch of one question: all that is kept by default."""
MOST_ROWS: Final = 20
"""Of a project's jobs, those that idled longest."""


@dataclass(frozen=True, kw_only=True)
class GpuUsages:
    cluster: ClusterName
    store: Store
    telemetry: Telemetry
    shared: SharedController
    clock: Clock

    def of(
        self,
        who: Identity,
        *,
        node: str | None,
        job: int | None,
        project: str | None,
        start: datetime | None,
        end: datetime | None,
    ) -> GpuUsage:
        """
        Raises:
            InvalidInput: not one of node, job and project is named, or the time cannot be answered.
            NotFound: there is none such, or none that they may see.
            Refused: a researcher asks about a node.
        """
        if sum(one is not None for one in (node, job, project)) != 1:
            raise InvalidInput("One of node, job and project is needed.", way_out="Name one of them.")
        if node is not None:
            return self._of_node(who, NodeName(node), self._window(start, end))
        if job is not None:
            records = self._records(who, job=JobId(job))
            if not records:
                raise NotFound(
                    f"No GPUs of a job {job} that you may see were metered.",
                    way_out="A job is known a minute after its start; `gpuaas usage` shows what was metered.",
                )
            window = self._window(start or min(record.started for record in records), end)
            return self._of_runs([(record, None) for record in records], window, most=None)
        window = self._window(start, end)
        name = ProjectName(project or "")
        if not who.administrator and name not in self._own(who):
            raise NotFound(
                f"There is no project {name} that you may see.", way_out="`gpuaas project list` shows yours."
            )
        runs = self.store.usage(since=window.start, until=window.end, accounts=[AccountName(name)])
        mine = [(run, str(run.job_id)) for run in runs if run.cluster == self.cluster]
        return self._of_runs(mine, window, most=MOST_ROWS)

    def _of_node(self, who: Identity, node: NodeName, window: Window) -> GpuUsage:
        if not who.administrator:
            raise Refused(f"{who.user} may not read how busy nodes are.", way_out="Ask by --job or --project.")
        gpus = next((one.gpus for one in self.shared.nodes() if one.name == node), 0)
        stay = Stay("", node, gpus, minute_of(window.start), minute_of(window.end))
        curve = Curve(stay.first, stay.end)
        found = measure_node(self.telemetry, stay, minute_of(self.clock.now() - ON_THE_WAY), curve)
        if not found:
            raise NotFound(f"There is no node {node} with GPUs.", way_out="`gpuaas node list` shows them.")
        total = sum((Use(gpu.tally) for gpu in found), Use())
        return _answer(window, total, curve, [_gpu_row(index, gpu) for index, gpu in enumerate(found)])

    def _of_runs(self, runs: Sequence[tuple[UsageRecord, str | None]], window: Window, *, most: int | None) -> GpuUsage:
        """Rows are those with a key of their own, else the nodes."""
        now, stays = self.clock.now(), list[Stay]()
        nowhere = Use()
        for record, key in runs:
            nodes = _nodes(record)
            found = stays_of(key or "", record, nodes, window, now=now)
            stays += found if key is not None else [replace(stay, key=stay.node) for stay in found]
            if not nodes:
                nowhere += _unplaced(record, window, now)
        curve = Curve(minute_of(window.start), minute_of(window.end))
        measured = measure(self.telemetry, stays, curve)
        total = sum(measured.values(), nowhere)
        order = sorted(measured, key=lambda key: -measured[key].tally.idle) if most else sorted(measured)
        rows = [GpuUseRow(name=key, **_use(measured[key]).model_dump()) for key in order[:most]]
        return _answer(window, total, curve, rows, left_out=len(order) - len(rows))

    def _records(self, who: Identity, *, job: JobId) -> list[UsageRecord]:
        own = () if who.administrator else self._own(who)
        return [
            record
            for record in self.store.usage(job=job)
            if record.cluster == self.cluster and (who.administrator or record.account in own)
        ]

    def _own(self, who: Identity) -> frozenset[str]:
        return frozenset(member.project for member in self.store.policy().members if member.user == who.user)

    def _window(self, start: datetime | None, end: datetime | None) -> Window:
        now = self.clock.now()
        last = min(aware(end) or now, now)
        window = Window(aware(start) or last - timedelta(days=1), last)
        if not timedelta(0) <= window.end - window.start <= LONGEST:
            raise InvalidInput(
                f"The time from {window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} cannot be answered.",
                way_out=f"End after the start, and ask for at most {LONGEST.days} days at once.",
            )
        return window


def _nodes(record: UsageRecord) -> tuple[NodeName, ...]:
    return expand_nodes(record.nodes) if record.nodes else ()


def _unplaced(record: UsageRecord, window: Window, now: datetime) -> Use:
    """All of a run whose nodes are not known."""
    place = NodeName("unknown")
    stays = stays_of("", replace(record, nodes=""), [place], window, now=now)
    return sum((Use(replace(Use().tally, unknown=one.gpus * (one.end - one.first))) for one in stays), Use())


def _answer(window: Window, total: Use, curve: Curve, rows: Iterable[GpuUseRow], *, left_out: int = 0) -> GpuUsage:
    return GpuUsage(
        start=window.start.astimezone(UTC),
        end=window.end.astimezone(UTC),
        idle_below_percent=IDLE_BELOW_PERCENT,
        total=_use(total),
        curve=tuple(None if one is None else round(one, 1) for one in curve.percent()),
        rows=tuple(rows),
        left_out=left_out,
    )


def _use(use: Use) -> GpuUse:
    count = use.tally
    return GpuUse(
        known=count.known,
        idle=count.idle,
        unknown=count.unknown,
        shared=use.shared,
        busy_percent=_rounded(count.mean_busy),
    )


def _gpu_row(index: int, gpu: GpuOfNode) -> GpuUseRow:
    processes = gpu.rest[Metric.PROCESSES]
    return GpuUseRow(
        name=f"GPU {index}",
        serial=gpu.serial,
        memory_percent=_rounded(gpu.rest[Metric.MEMORY]),
        power_watts=_rounded(gpu.rest[Metric.POWER]),
        temperature_celsius=gpu.rest[Metric.TEMPERATURE],
        processes=None if processes is None else round(processes),
        **_use(Use(gpu.tally)).model_dump(),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
