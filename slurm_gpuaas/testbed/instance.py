"""A running testbed: one Slurm cluster on a machine of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.testbed import boot
from slurm_gpuaas.testbed.cache import Cache
from slurm_gpuaas.testbed.machine import Machine, Service, State, bring_up, require_root, running
from slurm_gpuaas.testbed.profiles import Cluster, Profile, profile
from slurm_gpuaas.testbed.progress import Progress, SilentProgress
from slurm_gpuaas.testbed.releases import DEFAULT
from slurm_gpuaas.testbed.rootfs import Artifacts, Builder


@dataclass(frozen=True)
class Instance(Machine):
    """A testbed that is up; `cluster` is what it imitates."""

    cluster: Cluster

    @classmethod
    def up(
        cls,
        profile_name: str,
        name: str | None = None,
        *,
        cluster: str | None = None,
        slurm: str = DEFAULT,
        daemon: bool = True,
        progress: Progress | None = None,
        artifacts: Artifacts | None = None,
    ) -> Instance:
        """Brings up one cluster; an instance of that name that is up already is returned as it is.

        Args:
            cluster: which one of a profile of several.
            slurm: which release of Slurm.
            daemon: start gpuaasd and gpuaas-agent too.
            artifacts: what to boot from; built or taken from the cache when not given.

        Raises:
            TestbedError: it could not be built or booted; what was started of it is gone again.
        """
        chosen = profile(profile_name).on(slurm).only(cluster)
        clusters = chosen.instance_names(name)
        if len(clusters) != 1:
            raise InvalidInput(f"Profile {profile_name} has {len(clusters)} clusters.", way_out="Use up_all().")
        ((own_name, one),) = clusters.items()
        return cls._up(chosen, own_name, one, progress or SilentProgress(), artifacts, daemon=daemon)

    @classmethod
    def _up(
        cls,
        chosen: Profile,
        name: str,
        cluster: Cluster,
        progress: Progress,
        artifacts: Artifacts | None = None,
        *,
        daemon: bool,
        clock: bool = False,
    ) -> Instance:
        require_root()
        ready = artifacts or Builder(Cache.default(), cluster.release, progress).all()
        return bring_up(
            State(chosen.name, cluster.name, slurm=cluster.release.slurm),
            name,
            ready,
            lambda pid: cls(name, pid, cluster),
            lambda instance: boot.boot(instance, ready, daemon=daemon, clock=clock, progress=progress),
        )

    @classmethod
    def attach(cls, name: str) -> Instance:
        """The instance of that name.

        Raises:
            NotFound: it is not up.
        """
        found = running().get(name)
        if found is None or found.state is None:
            others = ", ".join(sorted(running())) or "none"
            raise NotFound(
                f"No testbed named {name} is up (up: {others}).",
                way_out=f"gpuaas testbed up --profile mini --name {name}",
            )
        clusters = {cluster.name: cluster for cluster in profile(found.state.profile).on(found.state.slurm).clusters}
        return cls(name, found.pid, clusters[found.state.cluster])

    def services(self) -> Sequence[Service]:
        return boot.services(self)

    def start_postgres(self) -> str:
        """Starts a PostgreSQL server (once) and returns its URL, usable on the host through its UNIX socket."""
        self.start(boot.postgres(self))
        return f"postgresql+psycopg://postgres@/postgres?host=/proc/{self.pid}/root/run/postgresql"

    def inject_xid(self, node: str, *, xid: int, gpu: int = 0) -> None:
        """Raises an XID on a GPU of a node as the driver would: kernel log, NVML event and the GPU's condition."""
        from slurm_gpuaas.testbed.sim import SimulatedNode

        SimulatedNode(self.path(f"/run/gpuaas-sim/{node}")).xid(xid, gpu, text="injected by the testbed")


def up_all(
    profile_name: str,
    name: str | None = None,
    *,
    slurm: str = DEFAULT,
    daemon: bool = True,
    clock: bool = False,
    progress: Progress | None = None,
) -> list[Instance]:
    """Brings up every cluster of a profile, one after the other: each keeps all processors busy by itself.

    Args:
        clock: give each a wall clock that can be set ahead (`Machine.set_ahead`).
    """
    chosen = profile(profile_name).on(slurm)
    shown = progress or SilentProgress()
    return [
        Instance._up(chosen, own_name, cluster, shown, daemon=daemon, clock=clock)
        for own_name, cluster in chosen.instance_names(name).items()
    ]
