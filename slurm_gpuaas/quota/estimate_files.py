"""Publishes what `plugins/cli_filter.lua` estimates from: a file for all, and one for each user that no other reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.names import ClusterName, UserName
from slurm_gpuaas.quota import estimates
from slurm_gpuaas.quota.live import Scene
from slurm_gpuaas.quota.publisher import project_standings
from slurm_gpuaas.slurm.files import no_access, write_atomically
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.budgets import read_budgets

SHARES: Final = "shares"


class EstimatePublisher:
    """Keeps the folder true. `shares` is written each time, which says that the rest holds; a user's file when it
    changed.

    Args:
        folder: made when it is not there.
        uid_of: of a user, None when this host does not know it: then the user has no file.
    """

    def __init__(
        self,
        *,
        cluster: ClusterName,
        store: Store,
        scene: Callable[[], Scene],
        folder: Path,
        clock: Clock,
        uid_of: Callable[[UserName], int | None],
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._scene = scene
        self._folder = folder
        self._clock = clock
        self._uid_of = uid_of
        self._published: dict[UserName, tuple[int, str]] = {}

    def tick(self) -> None:
        """Raises:
        SlurmUnavailable: nothing is written, and what there is grows old, which the plugin sees.
        Unavailable: the folder may not be written, or is on a file system without access control lists.
        """
        policy, scene, now = self._store.policy(), self._scene(), self._clock.now()
        try:
            self._folder.mkdir(mode=0o755, exist_ok=True)
            there = {file.name for file in self._folder.iterdir()}
        except OSError as error:
            raise no_access(self._folder, "made", error) from None
        mine = estimates.own(
            policy,
            self._cluster,
            now,
            budgets=read_budgets(self._store, policy, self._cluster, now, jobs=scene.jobs),
            standing=project_standings(policy, self._cluster, scene),
        )
        for user, text in mine.items():
            self._publish(user, text, there)
        for user in self._published.keys() - mine.keys():
            del self._published[user]
        for name in there - {SHARES} - {str(uid) for uid, _ in self._published.values()}:
            (self._folder / name).unlink(missing_ok=True)
        write_atomically(self._folder / SHARES, estimates.shares(policy, self._cluster, scene))

    def _publish(self, user: UserName, text: str, there: set[str]) -> None:
        known = self._published.get(user)
        if known and known[1] == text and str(known[0]) in there:
            return
        uid = self._uid_of(user)
        if uid is not None:
            write_atomically(self._folder / str(uid), text, mode=0o600, reader=uid)
            self._published[user] = (uid, text)
