"""`gpuaas_*` metrics. Slurm 25.11 and later serves its own; nothing of those is repeated here."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slurm_gpuaas import __version__
from slurm_gpuaas.daemon.health_metrics import HealthReadings
from slurm_gpuaas.daemon.operations import Operations
from slurm_gpuaas.domain.capacity import Capacity
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, Unavailable
from slurm_gpuaas.domain.incidents import OPEN_STATES, IncidentState
from slurm_gpuaas.domain.jobs import JobState
from slurm_gpuaas.domain.usage import service_class
from slurm_gpuaas.store.budgets import read_budgets

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One registry a daemon. What is counted as it happens is kept here; the rest is read when the page is asked for.

    Args:
        operations: raises `Unavailable` while this daemon stands by; then there are no readings.
    """

    def __init__(self, operations: Callable[[], Operations]) -> None:
        self._registry = CollectorRegistry()
        self._tick = Histogram(
            "gpuaas_controller_tick_seconds",
            "Duration of a controller's tick.",
            ["controller"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._errors = Counter(
            "gpuaas_controller_errors",
            "Failed ticks; kind is expected (Slurm or store did not answer, a rule) or crash (a bug).",
            ["controller", "kind"],
            registry=self._registry,
        )
        self.leader = Gauge("gpuaas_leader", "1 while this daemon leads.", registry=self._registry)
        build = Gauge("gpuaas_build_info", "Version of the daemon.", ["version"], registry=self._registry)
        build.labels(__version__).set(1)
        self._registry.register(_Readings(operations))

    def observe_tick(self, controller: str, seconds: float, error: Exception | None) -> None:
        self._tick.labels(controller).observe(seconds)
        if error is not None:
            self._errors.labels(controller, "expected" if isinstance(error, GpuaasError) else "crash").inc()

    def page(self) -> bytes:
        return generate_latest(self._registry)


class _Readings(Collector):
    """Gauges read from store and Slurm. What cannot be read is left out: absent is unknown, never zero."""

    def __init__(self, operations: Callable[[], Operations]) -> None:
        self._operations = operations
        self._health = HealthReadings()

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # or the registry would collect at registration, before there is anything to read

    def collect(self) -> Iterator[Metric]:
        try:
            do = self._operations()
        except Unavailable:
            return
        for read in (
            _driver,
            _agents,
            _snapshot_age,
            _hook_age,
            _incidents,
            _spares,
            _gpus,
            _budgets,
            _capacity,
            self._health.now,
            self._health.looking_back,
        ):
            try:
                yield from read(do)
            except (Unavailable, InvalidInput):  # the latter: a topology.yaml that is none
                continue


def _driver(do: Operations) -> Iterator[GaugeMetricFamily]:
    driver = do.driver()
    info = GaugeMetricFamily("gpuaas_slurm_driver_info", "The way to slurmctld in use.", labels=["driver", "fallback"])
    info.add_metric([driver.name, str(driver.fallback).lower()], 1)
    yield info


def _agents(do: Operations) -> Iterator[GaugeMetricFamily]:
    now = do.clock.now()
    silent = sum(now - at > do.agents_silent_after for _, at in do.agents.all())
    agents = GaugeMetricFamily("gpuaas_agents", "Node agents heard since the daemon's start.", labels=["state"])
    agents.add_metric(["seen"], len(do.agents.all()) - silent)
    agents.add_metric(["silent"], silent)
    yield agents


def _snapshot_age(do: Operations) -> Iterator[GaugeMetricFamily]:
    if do.shared.read_at is not None:
        age = do.clock.now() - do.shared.read_at
        yield GaugeMetricFamily(
            "gpuaas_snapshot_age_seconds", "Age of the last reading of Slurm's nodes.", value=age / timedelta(seconds=1)
        )


def _hook_age(do: Operations) -> Iterator[GaugeMetricFamily]:
    written = do.hook_written()
    if written is not None:
        yield GaugeMetricFamily(
            "gpuaas_hook_snapshot_age_seconds",
            "Age of the job_submit hook's snapshot; beyond 900 Slurm's own limits alone decide.",
            value=(do.clock.now() - written) / timedelta(seconds=1),
        )


def _incidents(do: Operations) -> Iterator[GaugeMetricFamily]:
    found = Count(incident.state for incident in do.store.incidents(states=OPEN_STATES, limit=100_000))
    incidents = GaugeMetricFamily("gpuaas_incidents", "Incidents that are not closed.", labels=["state"])
    for state in OPEN_STATES:
        incidents.add_metric([state], found[IncidentState(state)])
    yield incidents


def _spares(do: Operations) -> Iterator[GaugeMetricFamily]:
    spares = GaugeMetricFamily(
        "gpuaas_spare_nodes",
        "Spare nodes: asked for, wanted (what grants leave of those), and ready to take a broken node's place.",
        labels=["partition", "count"],
    )
    for pool in do.replacement.spares.standing():
        for count, value in (("asked", pool.asked), ("wanted", pool.wanted), ("ready", pool.ready)):
            spares.add_metric([pool.partition, count], value)
    yield spares


def _gpus(do: Operations) -> Iterator[GaugeMetricFamily]:
    policy, now = do.store.policy(), do.clock.now()
    capacity = GaugeMetricFamily("gpuaas_share_gpus", "GPUs of a pool share.", labels=["pool", "share"])
    guaranteed = GaugeMetricFamily(
        "gpuaas_guaranteed_gpus", "GPUs guaranteed by grants in force.", labels=["pool", "share"]
    )
    in_use = GaugeMetricFamily("gpuaas_gpus_in_use", "GPUs of running jobs.", labels=["pool", "share", "class"])
    running: Count[tuple[str, str]] = Count()
    for job in do.shared.jobs():
        if job.state is JobState.RUNNING:
            running[job.partition, service_class(job.qos)] += job.gpus
    for pool in policy.pools:
        if pool.cluster != do.cluster:
            continue
        for share in pool.shares:
            where = [str(pool.name), str(share.name)]
            capacity.add_metric(where, pool.capacity(share.name))
            grants = [g for g in policy.grants if (g.pool, g.share) == (pool.name, share.name) and g.active_at(now)]
            guaranteed.add_metric(where, sum(grant.gpus for grant in grants))
            for kind in ("guaranteed", "burst"):
                in_use.add_metric([*where, kind], running[pool.partition_of(share.name), kind])
    yield from (capacity, guaranteed, in_use)


def _budgets(do: Operations) -> Iterator[GaugeMetricFamily]:
    ratio = GaugeMetricFamily(
        "gpuaas_budget_used_ratio",
        "Used part of what the budget's period holds (awarded and carried over); unit is gpu_hours or won.",
        labels=["project", "unit"],
    )
    for name, budget in read_budgets(do.store, do.store.policy(), do.cluster, do.clock.now()).items():
        for unit, side in (("gpu_hours", budget.gpu_seconds), ("won", budget.won)):
            if side is not None:
                ratio.add_metric([name, unit], float(side.used_ratio))
    yield ratio


def _capacity(do: Operations) -> Iterator[GaugeMetricFamily]:
    found = do.capacities.now()
    largest = GaugeMetricFamily(
        "gpuaas_capacity_largest_nodes",
        "Whole nodes of the largest job that could start now within one domain of the level.",
        labels=["partition", "level"],
    )
    for one in found:
        for level in one.largest:
            largest.add_metric([one.partition, level.level.replace("-", "_")], level.nodes)
    yield largest
    for name, description, value in CAPACITY:
        gauge = GaugeMetricFamily(name, description, labels=["partition"])
        for one in found:
            gauge.add_metric([one.partition], value(one))
        yield gauge


CAPACITY: Final[Sequence[tuple[str, str, Callable[[Capacity], float]]]] = (
    ("gpuaas_capacity_free_nodes", "Nodes that a whole-node job could have now.", lambda one: one.free_nodes),
    ("gpuaas_capacity_free_gpus", "Free GPUs, with those on partly used nodes.", lambda one: one.free_gpus),
    ("gpuaas_capacity_idle_leaf_groups", "Leaf groups that are wholly free.", lambda one: one.idle_leaf_groups),
    (
        "gpuaas_fragmentation_ratio",
        "Share of the free nodes that are in partly used leaf groups.",
        lambda one: one.fragmentation,
    ),
    (
        "gpuaas_excess_leaf_groups",
        "Leaf groups that running jobs use above what their sizes need.",
        lambda one: one.excess_leaf_groups,
    ),
)
