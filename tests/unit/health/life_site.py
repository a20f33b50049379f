"""A site whose nodes live a whole life: fake Slurm and shops, a real SQLite store, controllers that restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from slurm_gpuaas.domain.incidents import (
    EventKind,
    EventSource,
    Incident,
    IncidentState,
    NodeEvent,
    Remedy,
    RepairOutcome,
)
from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.health.breaker import Breaker, BreakerLimits
from slurm_gpuaas.health.controller import HealthController, HealthSettings
from slurm_gpuaas.health.intake import Intake
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.life import LifeController, LifeSettings
from slurm_gpuaas.health.overrides import Override
from slurm_gpuaas.health.recovery import Recovery
from slurm_gpuaas.health.repair import Errands, Order, Report, Workshop
from slurm_gpuaas.health.verify import Test, Verifier, VerifySettings
from slurm_gpuaas.store import Store
from tests.fakes import FakeClock, FakeController, make_job, make_node

NODE, OTHER = NodeName("b200-001"), NodeName("b200-002")
RESET, REBOOT, REPLACE = Remedy.RESET, Remedy.REBOOT, Remedy.REPLACE


@dataclass
class FakeShop:
    """A shop that has mended a node when it is asked the second time. `orders`: attempts that it was given."""

    point: Callable[[str], None]
    outcome: RepairOutcome = RepairOutcome.DONE
    orders: dict[str, Order] = field(default_factory=dict)

    def ask(self, order: Order) -> Report:
        self.point("shop")
        if order.key not in self.orders:
            self.orders[order.key] = order
            return Report(RepairOutcome.RUNNING, "begun")
        return Report(self.outcome, "as told")


class LifeSite:
    """Args:
    broken: remedies after which the node is still broken: its verification fails.
    """

    def __init__(
        self,
        store: Store,
        *,
        nodes: int = 2,
        remedies: Sequence[Remedy] = (RESET, REBOOT, REPLACE),
        broken: Sequence[Remedy] = (),
        settings: LifeSettings | None = None,
        health: HealthSettings | None = None,
        limits: BreakerLimits | None = None,
        overrides: Sequence[Override] = (),
        script: Path,
    ) -> None:
        self.store = store
        self.clock = FakeClock()
        self.slurm = FakeController([make_node(f"b200-{i:03d}") for i in range(1, nodes + 1)], clock=self.clock)
        self.slurm.before = self.slurm.after = lambda method: self.point(f"slurm {method}")
        self.shops = {remedy: FakeShop(lambda name: self.point(name)) for remedy in remedies}
        self.broken = broken
        self.settings = settings or LifeSettings(verifies=True, probation=timedelta(hours=4))
        self.health_settings = health or HealthSettings()
        self.limits = limits or BreakerLimits(share=100, per_leaf=100)
        self.overrides = overrides
        self.leaves: dict[NodeName, str] = {}
        self.tests = {"quick": Test(script=script), "pair": Test(script=script, nodes=2)}
        self.exit_codes: dict[str, int] = {}
        """Exit status of tests by name; 0 unless the node is broken."""
        self.on_point: Callable[[str], None] = lambda name: None
        self.submitted: list[str] = []
        self.restart()

    def point(self, name: str) -> None:
        self.on_point(name)

    def restart(self) -> None:
        self.ledger = ledger = IncidentLedger(self.store, self.clock)
        self.breaker = Breaker(store=self.store, clock=self.clock, limits=self.limits, leaves=lambda: self.leaves)
        self.intake = Intake(ledger, overrides=self.overrides)
        self.life = LifeController(
            slurm=self.slurm,
            ledger=ledger,
            workshop=Workshop(self.shops, errands=Errands()),
            verifier=Verifier(
                slurm=self.slurm,
                submit=self._submit,
                ledger=ledger,
                settings=VerifySettings(tests=self.tests, user="gpuaas"),
            ),
            breaker=self.breaker,
            settings=self.settings,
            overrides=self.overrides,
        )
        self.health = HealthController(
            slurm=self.slurm,
            ledger=ledger,
            recovery=Recovery(slurm=self.slurm, ledger=ledger),
            breaker=self.breaker,
            settings=self.health_settings,
            released=self.life.release,
            overrides=self.overrides,
        )

    def _submit(self, script: str, options: Sequence[str]) -> JobId:
        self.point("submit")
        words = dict(option.removeprefix("--").partition("=")[::2] for option in options)
        job = JobId(1000 + len(self.submitted))
        self.submitted.append(words["job-name"])
        nodes = words["nodelist"].split(",")
        made = make_job(job, name=words["job-name"], user="gpuaas", node_count=len(nodes), requeue=False)
        names = tuple(NodeName(node) for node in nodes)
        self.slurm.job_by_id[job] = replace(made, reservation=words["reservation"], required_nodes=names)
        self.point("submitted")
        return job

    def report(self, *events: NodeEvent) -> None:
        for event in events:
            self.intake.ingest(event.node, [event])

    def fault(self, code: int = 95, *, node: NodeName = NODE, sequence: int = 1) -> None:
        """A fault that is seen now. XID 95 asks for a reset of the GPUs."""
        self.report(
            NodeEvent(
                event_id=f"{node}/boot/kmsg/{sequence}",
                node=node,
                kind=EventKind.XID,
                code=code,
                source=EventSource.KERNEL_LOG,
                seen_at=self.clock.now(),
                pci="0000:61:00",
                gpu=3,
                evidence=f"NVRM: Xid (PCI:0000:61:00): {code}, pid=1, name=python3, text",
            )
        )

    def run_job(self, job_id: int, *nodes: str) -> None:
        self.slurm.job_by_id[JobId(job_id)] = make_job(job_id, node_count=len(nodes))
        self.slurm.start(job_id, nodes)

    def tick(self, times: int = 1) -> None:
        """Both controllers, and Slurm's scheduler after them; five seconds each."""
        for _ in range(times):
            self.health.tick()
            self.life.tick()
            self.schedule()
            self.clock.forward(timedelta(seconds=5))

    def schedule(self) -> None:
        """Run what waits for verification on nodes that are not drained, and end it at once."""
        for job in list(self.slurm.job_by_id.values()):
            if not job.name.startswith("gpuaas-verify-") or job.state is not JobState.PENDING:
                continue
            if all(not self.slurm.node_by_name[node].out_by_hand for node in job.required_nodes):
                self.slurm.start(job.id, job.required_nodes)
                code = self.exit_codes.get(job.name.rpartition("-")[2], int(self._is_broken()))
                self.slurm.finish(job.id, JobState.FAILED if code else JobState.COMPLETED)
                self.slurm.job_by_id[job.id] = replace(self.slurm.job_by_id[job.id], exit_code=code)

    def _is_broken(self) -> bool:
        attempts = self.incident.attempts
        return bool(attempts) and attempts[-1].remedy in self.broken

    def until(self, state: IncidentState, *, ticks: int = 40) -> Incident:
        """Tick until the first incident is in that state."""
        for _ in range(ticks):
            if self.incident.state is state:
                return self.incident
            self.tick()
        raise AssertionError(f"{self.steps()} and not {state} after {ticks} ticks: {self.incident}")

    @property
    def incident(self) -> Incident:
        return self.store.incidents()[-1]

    def steps(self) -> list[str]:
        return [step.after.value for step in self.store.transitions(incident=self.incident.id)]

    def reason(self, node: NodeName = NODE) -> str:
        return self.slurm.node_by_name[node].reason

    def in_service(self, node: NodeName = NODE) -> bool:
        held = any(node in expand_nodes(one.nodes) for one in self.slurm.reservation_by_name.values())
        return not self.slurm.node_by_name[node].out_by_hand and not held

    def actions(self) -> list[str]:
        return [entry.action for entry in reversed(self.store.audit.newest(limit=1000))]
