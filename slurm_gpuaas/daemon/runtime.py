"""Composition: from configuration and a way to Slurm to running controllers and the operations of the API."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from slurm_gpuaas.api.models import DriverStatus
from slurm_gpuaas.api.pool_sites import Finding, SiteReport
from slurm_gpuaas.daemon.alerting import Alerting, channels
from slurm_gpuaas.daemon.capacities import Capacities
from slurm_gpuaas.daemon.config import Config, OnChange, OnDrift
from slurm_gpuaas.daemon.defragmentation import Defragmenter
from slurm_gpuaas.daemon.fabric_file import FabricFile
from slurm_gpuaas.daemon.gpu_activity import GpuActivity
from slurm_gpuaas.daemon.gpu_usages import GpuUsages
from slurm_gpuaas.daemon.identity import uid_of
from slurm_gpuaas.daemon.loop import ControllerLoop, Scheduled, steady
from slurm_gpuaas.daemon.node_life import compose_node_life
from slurm_gpuaas.daemon.operations import Agents, Operations, nodes_by_partition
from slurm_gpuaas.daemon.picture_push import PicturePusher
from slurm_gpuaas.daemon.pool_site import PoolSite
from slurm_gpuaas.daemon.portal_client import Portal
from slurm_gpuaas.daemon.replacement import Replacement, places, spare_partitions
from slurm_gpuaas.daemon.risks import FailureRisks
from slurm_gpuaas.daemon.shared import SharedController
from slurm_gpuaas.daemon.site_report import site_report
from slurm_gpuaas.daemon.use_days import TELL_EVERY, UseDays, last_day
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName, PartitionName, UserName
from slurm_gpuaas.domain.node_life import smallest
from slurm_gpuaas.health.intake import Intake
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.lemon_watch import LemonWatch
from slurm_gpuaas.health.observer import NodeObserver
from slurm_gpuaas.health.recovery import Recovery, RecoverySettings
from slurm_gpuaas.health.rma import RmaKeeper
from slurm_gpuaas.health.spares import Spares
from slurm_gpuaas.jobs.gate import GateSettings, PlacementGate
from slurm_gpuaas.jobs.gate_rules import promised
from slurm_gpuaas.jobs.mover import Mover
from slurm_gpuaas.jobs.pins import GatePins
from slurm_gpuaas.metering.controller import OVERLAP, MeteringController
from slurm_gpuaas.metering.warnings import BudgetWarnings
from slurm_gpuaas.quota.controller import Failpoint, PolicyController, no_failpoint
from slurm_gpuaas.quota.estimate_files import EstimatePublisher
from slurm_gpuaas.quota.live import Scene
from slurm_gpuaas.quota.publisher import VerdictPublisher
from slurm_gpuaas.quota.reclaim import QuotaRulings, ReclaimController
from slurm_gpuaas.quota.verdict import Gate
from slurm_gpuaas.slurm.protocols import (
    Accounting,
    Controller,
    LimitReader,
    Partitions,
    SlurmUnavailable,
    Topologies,
)
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.telemetry import Keep, Telemetry
from slurm_gpuaas.topology.controller import TopologyController
from slurm_gpuaas.topology.follower import FabricFollower, FollowSettings

RMA_EVERY = timedelta(seconds=30)
PULL_EVERY = timedelta(seconds=0.2)
"""From the answer to a poll to the next one."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A leading daemon's inside."""

    operations: Operations
    loop: ControllerLoop
    store: Store
    close: Callable[[], None]

    def stop(self, within: timedelta) -> None:
        for name in self.loop.stop(within):
            log.warning("controller.still-busy", controller=name)
        self.close()
        self.store.close()


def compose(
    config: Config,
    *,
    store: Store,
    controller: Controller,
    accounting: Accounting,
    partitions: Partitions,
    limits: LimitReader,
    topologies: Topologies,
    driver: Callable[[], DriverStatus],
    clock: Clock,
    observe: Callable[[str, float, Exception | None], None] = lambda name, seconds, error: None,
    failpoint: Failpoint = no_failpoint,
    close: Callable[[], None] = lambda: None,
    portal: Portal | None = None,
    jitter: Callable[[timedelta], timedelta] = steady,
) -> Runtime:
    """Wire the controllers; nothing runs yet.

    Args:
        driver: which way to slurmctld serves now.
        close: ends the way to Slurm.
        observe: see `ControllerLoop`.
        portal: given when `config.pool` is.
        jitter: see `ControllerLoop`.
    """

    def limits_of_nodes() -> Mapping[NodeName, int]:
        return {name: limit.largest_job for name, limit in smallest(store.node_limits()).items()}

    shared = SharedController(controller, clock=clock, limited=limits_of_nodes)
    slurm = shared.fresh()
    agents = Agents()
    wake_health, wake_hook, wake_gate = threading.Event(), threading.Event(), threading.Event()
    wake_recovery, wake_spares = threading.Event(), threading.Event()
    wake_policy, wake_people, wake_days = threading.Event(), threading.Event(), threading.Event()
    policies = PolicyController(
        cluster=config.cluster,
        store=store,
        accounting=accounting,
        controller=slurm,
        partitions=partitions,
        partition_file=config.slurm.partitions_file,
        clock=clock,
        settle=config.quota.settle,
        report_only=config.policy.on_drift is OnDrift.REPORT,
        failpoint=failpoint,
    )

    def scene() -> Scene:
        """Slurm as it was last read, in the quota core's words."""
        jobs, nodes, now = shared.jobs(), shared.nodes(), clock.now()
        return Scene(
            now=now,
            jobs=jobs,
            nodes={node.name: node for node in nodes},
            promised=promised(jobs),
            lost=store.nodes_lost(before=now - config.quota.settle),
            spares=spares.nodes(),
        )

    estimates = EstimatePublisher(
        cluster=config.cluster,
        store=store,
        scene=scene,
        folder=config.estimates.folder,
        clock=clock,
        uid_of=uid_of,
    )
    ledger = IncidentLedger(store, clock)

    def jobs_on(node: NodeName) -> Mapping[JobId, UserName]:
        try:
            jobs = shared.jobs()
        except SlurmUnavailable:
            return {}  # a report counts whether Slurm answers or not
        return {job.id: job.user for job in jobs if node in job.nodes and not job.state.ended}

    intake = Intake(ledger, jobs_on=jobs_on, wake=wake_health.set, overrides=config.health.overrides)
    fabric = FabricFile(config.slurm.topology_file)

    def declared() -> Mapping[PartitionName, tuple[NodeName, ...]]:
        return nodes_by_partition(store.policy(), config.cluster)

    spares = Spares(
        slurm=slurm,
        ledger=ledger,
        count=None if config.health.spares.nodes == "auto" else config.health.spares.nodes,
        partitions=lambda: spare_partitions(store.policy(), config.cluster, clock.now()),
        places=lambda: places(fabric),
        promised=lambda: recovery.promised().union(*promised(shared.jobs()).values()),
        limited=limits_of_nodes,
    )
    recovery = Recovery(
        slurm=slurm,
        ledger=ledger,
        settings=RecoverySettings(
            patience=config.health.recovery.patience, most_requeues=config.health.recovery.most_requeues
        ),
        pins=None if config.gate.shadow else GatePins(),
        spares=spares,
        partitions=declared,
        places=lambda: places(fabric),
        limits=limits_of_nodes,
        requeued=wake_gate.set,
        wake=wake_recovery.set,
        ended=wake_spares.set,
    )
    node_life = compose_node_life(
        config.health, slurm=slurm, ledger=ledger, recovery=recovery, fabric=fabric.arrays, again=wake_health.set
    )
    health = node_life.health
    capacities = Capacities(
        cluster=config.cluster,
        shared=shared,
        store=store,
        partitions=declared,
        fabric=fabric.arrays,
        clock=clock,
        keep=config.capacity.keep,
    )
    gate = PlacementGate(
        cluster=config.cluster,
        slurm=slurm,
        store=store,
        placer=fabric.placer,
        partitions=declared,
        clock=clock,
        settings=GateSettings(
            licenses=config.gate.licenses,
            patience=config.gate.patience,
            hold=config.gate.hold,
            longest_wait=config.gate.longest_wait,
            shadow=config.gate.shadow,
        ),
        quota=QuotaRulings(cluster=config.cluster, store=store, settle=config.quota.settle, spares=spares.nodes),
        risks=FailureRisks(store, clock).now,
        limits=limits_of_nodes,
        recovering=recovery.in_hand,
    )
    publisher = VerdictPublisher(
        cluster=config.cluster,
        store=store,
        scene=scene,
        file=config.hook.snapshot,
        clock=clock,
        gate=lambda: Gate(license=gate.license, segments=fabric.needs_segments()) if gate.license else None,
    )
    reclaim = ReclaimController(
        cluster=config.cluster,
        slurm=slurm,
        store=store,
        clock=clock,
        promised=promised,
        settle=config.quota.settle,
        spares=spares.nodes,
        shadow=config.quota.shadow,
    )
    metering = MeteringController(
        cluster=config.cluster,
        accounting=accounting,
        store=store,
        clock=clock,
        begin=config.metering.begin or clock.now() - timedelta(days=31),
    )

    topology = TopologyController(file=config.slurm.topology_file, controller=slurm, topologies=topologies)
    following = []
    if config.topology.fabric_file is not None:
        follower = FabricFollower(
            file=config.topology.fabric_file,
            topology=topology,
            store=store,
            clock=clock,
            settings=FollowSettings(
                apply=config.topology.on_change is OnChange.APPLY,
                most_moves=config.topology.most_moves,
                longest_age=config.topology.longest_age,
            ),
        )
        following = [Scheduled("fabric", follower.tick, config.topology.interval)]
    telemetry = Telemetry(
        config.state_dir / "telemetry",
        Keep(busy=config.telemetry.keep_busy, rest_minutes=config.telemetry.keep_rest),
    )
    warnings = BudgetWarnings(cluster=config.cluster, store=store, clock=clock)

    metered_until: datetime | None = None

    def meter() -> None:
        nonlocal metered_until
        now = clock.now()
        for sentence in metering.tick().unreadable:
            log.warning("metering.unreadable", problem=sentence)
        before, metered_until = metered_until, now
        if before is None or last_day(before) != last_day(now):
            wake_days.set()  # a day is over: whoever waits for it need not wait an hour
        warnings.tick()

    # Shadow mode does nothing to Slurm: what spares there are stay.
    keeping = [Scheduled("spares", spares.tick, config.health.spares.interval, wake_spares)]
    observer = NodeObserver(store, clock)
    lemons = LemonWatch(cluster=config.cluster, store=store, clock=clock, largest_job=config.health.lemons.largest_job)
    knowing = [
        Scheduled("lemons", lemons.tick, config.health.lemons.interval),
        Scheduled("rma", RmaKeeper(store, clock).tick, RMA_EVERY),
    ]
    if told := channels(config.alerts, config.cluster):
        alerting = Alerting(
            store=store,
            clock=clock,
            agents=agents,
            silent_after=config.agents.silent_after,
            renotify=config.alerts.renotify,
            channels=told,
        )
        knowing.append(Scheduled("alerts", alerting.tick, config.alerts.interval))

    def reconcile() -> None:
        if pool_site is not None:
            pool_site.logins_first()
        policies.reconcile()
        wake_people.set()  # who is in force may have changed

    def took_documents() -> None:
        wake_policy.set()
        wake_hook.set()
        wake_people.set()

    def how_we_are(findings: tuple[Finding, ...]) -> SiteReport:
        return site_report(
            store,
            config.cluster,
            now=clock.now(),
            slurm_version=shared.version(),
            nodes=shared.nodes(),
            jobs=shared.jobs(),
            findings=findings,
        )

    pool_site: PoolSite | None = None
    with_portal = []
    if config.pool is not None and portal is not None:
        pool_site = PoolSite(
            portal,
            site=config.pool.site,
            url=config.pool.url,
            store=store,
            clock=clock,
            wait=config.pool.wait,
            report=how_we_are,
            took=took_documents,
            metered=lambda: metered_until and metered_until - OVERLAP,
            people_file=config.pool.people_file,
            people_state=config.pool.people_state,
            failpoint=failpoint,
        )
        pictures = PicturePusher(
            portal,
            cluster=config.cluster,
            shared=shared,
            store=store,
            fabric=fabric.arrays,
            activity=GpuActivity(telemetry),
        )
        use_days = UseDays(
            cluster=config.cluster,
            portal=portal,
            store=store,
            samples=telemetry,
            clock=clock,
            metered=lambda: metered_until,
        )
        with_portal = [
            Scheduled("pool-pull", pool_site.pull, PULL_EVERY, waits=True),
            Scheduled("pool-push", pool_site.push, config.pool.interval, waits=True),
            Scheduled("pool-days", use_days.tick, TELL_EVERY, wake_days, waits=True),
            Scheduled("pool-picture", pictures.tick, config.pool.picture_every, waits=True),
            Scheduled("people", pool_site.publish, config.policy.interval, wake_people),
        ]

    def read() -> None:
        store.put_nodes(shared.nodes(), at=clock.now())
        observer.tick(shared.nodes(), shared.jobs())

    loop = ControllerLoop(
        [
            Scheduled("reading", read, config.slurm.read_every),
            Scheduled("policy", reconcile, config.policy.interval, wake_policy),
            Scheduled("hook", publisher.tick, config.hook.interval, wake_hook),
            Scheduled("estimates", estimates.tick, config.estimates.interval),
            Scheduled("health", health.tick, config.health.interval, wake_health),
            Scheduled("life", node_life.life.tick, config.health.interval, node_life.wake),
            Scheduled("recovery", recovery.tick, config.health.recovery.interval, wake_recovery),
            Scheduled("gate", gate.tick, config.gate.interval, wake_gate),
            Scheduled("reclaim", reclaim.tick, config.quota.interval),
            Scheduled("metering", meter, config.metering.interval),
            Scheduled("capacity", capacities.sample, config.capacity.interval),
            Scheduled("telemetry", lambda: telemetry.tick(now=clock.now()), config.telemetry.interval),
            *([] if config.health.shadow else keeping),
            *following,
            *knowing,
            *with_portal,
        ],
        clock=clock,
        observe=observe,
        jitter=jitter,
    )
    operations = Operations(
        cluster=config.cluster,
        store=store,
        slurm=slurm,
        limits=limits,
        shared=shared,
        policies=policies,
        applied=wake_hook.set,
        health=health,
        node_life=node_life,
        intake=intake,
        calls_off=gate.calls_off,
        slurm_user=config.slurm.user,
        defragmenter=Defragmenter(
            cluster=config.cluster,
            store=store,
            slurm=slurm,
            fabric=lambda: fabric.placer().fabric,
            mover=Mover(slurm=slurm, audit=store.audit, clock=clock, requeued=wake_gate.set, quiet=gate.paused),
            clock=clock,
            shadow=config.gate.shadow,
        ),
        agents=agents,
        clock=clock,
        started_at=clock.now(),
        agents_silent_after=config.agents.silent_after,
        scene=scene,
        capacities=capacities,
        outcomes=lambda: loop.outcomes,
        driver=driver,
        hook_written=lambda: publisher.written_at,
        topology=topology,
        telemetry=telemetry,
        gpu_usages=GpuUsages(cluster=config.cluster, store=store, telemetry=telemetry, shared=shared, clock=clock),
        replacement=Replacement(spares=spares, store=store, clock=clock),
        portal=lambda: None if pool_site is None else pool_site.status(),
    )

    def end() -> None:
        close()
        telemetry.close()

    return Runtime(operations=operations, loop=loop, store=store, close=end)
