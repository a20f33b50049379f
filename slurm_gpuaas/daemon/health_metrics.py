"""Metrics of hardware health. What looks back over all that is recorded is reckoned anew at most every five minutes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from slurm_gpuaas.daemon.health_views import read_records
from slurm_gpuaas.daemon.operations import Operations
from slurm_gpuaas.domain.incidents import EARLIEST_EVENT, IN_SERVICE, OPEN_STATES, Incident, stage
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.node_life import smallest
from slurm_gpuaas.domain.outages import OutageCause
from slurm_gpuaas.domain.reports import CheckpointTerms
from slurm_gpuaas.domain.rma import RmaState
from slurm_gpuaas.domain.usage import Window
from slurm_gpuaas.health.alerts import untold
from slurm_gpuaas.health.breaker import CLUSTER
from slurm_gpuaas.health.lemon_watch import LemonWatch
from slurm_gpuaas.health.report import NO_EVENT, report, stage_spans

LOOKS_EVERY: Final = timedelta(minutes=5)
STAGE_BUCKETS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 1_800, 7_200, 21_600, 86_400, 259_200, 604_800)
"""Seconds: a drain takes some tenths, a part from the manufacturer days."""


class HealthReadings:
    def __init__(self) -> None:
        self._kept: Sequence[Metric] = ()
        self._at: datetime | None = None

    def now(self, do: Operations) -> Iterator[Metric]:
        """As things stand."""
        by_node: dict[NodeName, list[Incident]] = defaultdict(list)
        unacknowledged = 0
        for incident in do.store.incidents(states=OPEN_STATES, limit=100_000):
            by_node[incident.node].append(incident)
            unacknowledged += incident.acknowledged_by is None
        stages = Counter(stage(incidents) for incidents in by_node.values())
        nodes = do.store.observations.gpus_of_nodes()
        stages[IN_SERVICE] = sum(name not in by_node for name in nodes)
        family = GaugeMetricFamily(
            "gpuaas_node_stage",
            "Nodes at each stage of their life; one without an incident is in_service.",
            labels=["stage"],
        )
        for name in (IN_SERVICE, *OPEN_STATES):
            family.add_metric([str(name).replace(" ", "_")], stages[str(name)])
        yield family
        yield GaugeMetricFamily(
            "gpuaas_incidents_unacknowledged", "Open incidents that nobody has acknowledged.", value=unacknowledged
        )
        out = Counter(one.cause for one in do.store.observations.outages(since=do.clock.now()) if one.until is None)
        family = GaugeMetricFamily("gpuaas_nodes_out", "Nodes out of service, by whose doing.", labels=["cause"])
        for cause in OutageCause:
            family.add_metric([cause.value], out[cause])
        yield family
        cases = Counter(case.state for case in do.store.rma.find())
        family = GaugeMetricFamily("gpuaas_rma_cases", "RMA cases that are not closed.", labels=["state"])
        for state in RmaState:
            if state is not RmaState.CLOSED:
                family.add_metric([state.value], cases[state])
        yield family
        yield GaugeMetricFamily(
            "gpuaas_limited_nodes", "Nodes that are kept from large jobs.", value=len(smallest(do.store.node_limits()))
        )
        tripped = {trip.scope for trip in do.node_life.breaker.trips()}
        family = GaugeMetricFamily(
            "gpuaas_breaker_tripped",
            "1: the circuit breaker of that scope has stopped what acts there.",
            labels=["scope"],
        )
        for scope in sorted({CLUSTER, *tripped}):
            family.add_metric([scope], scope in tripped)
        yield family
        alerts = do.store.alerts.all()
        holding = sum(alert.resolved_at is None for alert in alerts)
        yield GaugeMetricFamily("gpuaas_alerts", "Alerts that hold and are sent by gpuaasd.", value=holding)
        yield GaugeMetricFamily(
            "gpuaas_alerts_untold",
            "Alerts, or their ends, that no channel has taken yet.",
            value=sum(map(untold, alerts)),
        )

    def looking_back(self, do: Operations) -> Iterator[Metric]:
        """Over all that is recorded, so that counters never fall."""
        now = do.clock.now()
        if self._at is None or now - self._at >= LOOKS_EVERY:
            self._kept, self._at = tuple(_looking_back(do, now)), now
        yield from self._kept


def _looking_back(do: Operations, now: datetime) -> Iterator[Metric]:
    records = read_records(do, Window(EARLIEST_EVENT, now))
    found = report(records, CheckpointTerms())
    fleet = found.fleet
    assert fleet is not None  # of all tenants, so it has it
    family = CounterMetricFamily("gpuaas_faults", "Faults that took a node out of service.", labels=["fault_class"])
    # Prometheus sees no increase in a series that was not there before: its alert asks for this one.
    for fault_class, drained in {NO_EVENT: 0, **{one.fault_class: one.drained for one in fleet.by_class}}.items():
        family.add_metric([fault_class], drained)
    yield family
    lost = CounterMetricFamily(
        "gpuaas_gpu_seconds_lost",
        "capacity: of nodes out of service for faults; work: of runs that faults ended, at most; preempted: of runs "
        "that made room for those.",
        labels=["kind"],
    )
    lost.add_metric(["capacity"], fleet.capacity_lost)
    lost.add_metric(["work"], sum(one.lost_most for one in found.tenants))
    lost.add_metric(["preempted"], sum(one.preempted for one in found.tenants))
    yield lost
    stages = HistogramMetricFamily(
        "gpuaas_incident_stage_seconds", "How long stages of the time to repair took.", labels=["stage"]
    )
    for name, (spans, _) in stage_spans(records).items():
        stages.add_metric([name], _buckets(spans), sum(spans))
    yield stages
    lemons = LemonWatch(cluster=do.cluster, store=do.store, clock=do.clock, largest_job=0).lemons()
    yield GaugeMetricFamily(
        "gpuaas_lemon_nodes", "Nodes that keep failing, over 28 days.", value=sum(one.is_one for one in lemons)
    )
    month = report(read_records(do, Window(now - timedelta(days=30), now)), CheckpointTerms()).fleet
    if month is not None and month.availability is not None and month.availability.ratio is not None:
        there = GaugeMetricFamily(
            "gpuaas_availability_ratio",
            "Node-time in service over 30 days; unplanned counts faults alone as being out.",
            labels=["of"],
        )
        there.add_metric(["all"], month.availability.ratio)
        if month.availability.ratio_unplanned is not None:
            there.add_metric(["unplanned"], month.availability.ratio_unplanned)
        yield there
    if month is not None and month.mtbf_s is not None:
        yield GaugeMetricFamily("gpuaas_node_mtbf_seconds", "Of a node, over 30 days.", value=month.mtbf_s)


def _buckets(spans: Sequence[float]) -> list[tuple[str, float]]:
    ordered = sorted(spans)
    bounds = [(str(float(bound)), float(bisect_left(ordered, bound + 1e-9))) for bound in STAGE_BUCKETS]
    return [*bounds, ("+Inf", float(len(ordered)))]
