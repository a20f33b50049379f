"""Publishes what the job_submit hook decides from. It writes one file and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.names import ClusterName, ProjectName, UserName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.quota import verdict
from slurm_gpuaas.quota.live import Scene, standings
from slurm_gpuaas.quota.tree import TenantName
from slurm_gpuaas.slurm.files import write_atomically
from slurm_gpuaas.slurm.protocols import SlurmUnavailable
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.budgets import read_budgets


class VerdictPublisher:
    """Keeps the hook's snapshot true: rewrites it when its content changed, or when its stamp is `heartbeat` old.

    Args:
        scene: Slurm as it is: running jobs have taken a part of their project's budget up to their time limit, and what
            is in use tells who could start what now.
        file: the snapshot; replaced atomically.
        gate: licence of the placement gate that guaranteed jobs get; None while there is no gate.
        mode: it says of every project who is in it and what is left, which is not for all: slurmctld's user reads it
            as a member of our group.
    """

    def __init__(
        self,
        *,
        cluster: ClusterName,
        store: Store,
        scene: Callable[[], Scene],
        file: Path,
        clock: Clock,
        gate: Callable[[], verdict.Gate | None] = lambda: None,
        heartbeat: timedelta = timedelta(minutes=1),
        bypass: Iterable[UserName] = verdict.ADMINISTRATORS,
        mode: int = 0o640,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._scene = scene
        self._gate = gate
        self._file = file
        self._clock = clock
        self._heartbeat = heartbeat
        self._bypass = tuple(bypass)
        self._mode = mode
        self._published = ""
        self._written_at: datetime | None = None

    @property
    def written_at(self) -> datetime | None:
        """Of the stamp in the file; None before the first one."""
        return self._written_at

    def tick(self) -> bool:
        """True when the file was written."""
        now = self._clock.now()
        policy = self._store.policy()
        scene = self._seen()
        jobs = scene.jobs if scene else ()
        budgets = read_budgets(self._store, policy, self._cluster, now, jobs=jobs)
        text = verdict.body(
            policy,
            self._cluster,
            now,
            left={project: budget.startable_minutes for project, budget in budgets.items()},
            bypass=self._bypass,
            gate=self._gate(),
            standing=project_standings(policy, self._cluster, scene) if scene else verdict.NOBODY_KNOWS,
            limits=self._store.node_limits(),
        )
        fresh = self._written_at is not None and now - self._written_at < self._heartbeat
        if text == self._published and fresh and self._file.exists():
            return False
        write_atomically(self._file, verdict.stamped(text, now), mode=self._mode)
        self._published, self._written_at = text, now
        return True

    def _seen(self) -> Scene | None:
        """Without Slurm's answer nothing is committed and no advice is given: a snapshot that is a little generous
        (Slurm's limits still stand) is better than an old one, which the hook does not read."""
        try:
            return self._scene()
        except SlurmUnavailable:
            return None


def project_standings(policy: Policy, cluster: ClusterName, scene: Scene) -> Mapping[ProjectName, verdict.Standing]:
    """What each project has in use, and may start as burst right now."""
    found: dict[ProjectName, verdict.Standing] = {}
    for share, ruling in standings(policy, cluster, scene):
        used: Counter[tuple[str, bool]] = Counter()
        for job in share.running:
            used[job.tenant, job.service is ServiceClass.BURST] += job.gpus
        for name in share.entitled:
            found[name] = verdict.Standing(
                guaranteed_in_use=used[name, False],
                burst_in_use=used[name, True],
                may_borrow=ruling.standings[TenantName(name)].may_borrow,
            )
    return found
