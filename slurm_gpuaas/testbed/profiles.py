"""The clusters a testbed can imitate: how many nodes, which GPUs, which network groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.domain.names import Name
from slurm_gpuaas.testbed.releases import DEFAULT, RELEASES, Release


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One Slurm cluster of whole-node GPU machines.

    Args:
        name: Slurm's ClusterName.
        model: GPU model, as Slurm's GRES type and the stem of node names.
        nodes: number of nodes.
        digits: digits of a node's number.
        group: nodes under one leaf switch group (InfiniBand scalable unit).
        release: which Slurm it runs.
    """

    name: str
    model: str
    nodes: int
    digits: int = 3
    gpus: int = 8
    group: int = 32
    release: Release = RELEASES[DEFAULT]

    def node(self, number: int) -> str:
        return f"{self.model}-{number:0{self.digits}}"

    def range(self, first: int, last: int) -> str:
        """Slurm's notation of consecutive nodes, e.g. `b200-[001-032]`."""
        if first == last:
            return self.node(first)
        return f"{self.model}-[{first:0{self.digits}}-{last:0{self.digits}}]"

    @property
    def hostlist(self) -> str:
        return self.range(1, self.nodes)

    def node_names(self) -> Iterator[str]:
        return (self.node(number) for number in range(1, self.nodes + 1))

    def leaf_groups(self) -> Iterator[str]:
        """Host list of each leaf group, in order."""
        for first in range(1, self.nodes + 1, self.group):
            yield self.range(first, min(first + self.group - 1, self.nodes))


@dataclass(frozen=True)
class Profile:
    """One or more independent clusters that are brought up together."""

    name: str
    summary: str
    clusters: tuple[Cluster, ...]

    def on(self, slurm: str) -> Profile:
        """The same clusters with another release of Slurm.

        Raises:
            NotFound: the testbed has no such release.
        """
        if slurm not in RELEASES:
            raise NotFound(f"The testbed has no Slurm {slurm}.", way_out=f"Use one of {', '.join(RELEASES)} (--slurm).")
        return replace(self, clusters=tuple(replace(cluster, release=RELEASES[slurm]) for cluster in self.clusters))

    def only(self, cluster: str | None) -> Profile:
        """Of several clusters that one; all of them for None.

        Raises:
            NotFound: it is not among them.
        """
        if cluster is None:
            return self
        found = tuple(one for one in self.clusters if one.name == cluster)
        if not found:
            names = ", ".join(one.name for one in self.clusters)
            raise NotFound(f"Profile {self.name} has no cluster {cluster}.", way_out=f"Use one of {names}.")
        return replace(self, clusters=found)

    def instance_names(self, name: str | None) -> dict[str, Cluster]:
        """Instance name to cluster.

        One cluster: `name`, else the profile's. Several: the clusters' own names, behind `name-` when one is given.

        Raises:
            InvalidInput: it cannot be a name; files are named after it.
        """
        if name is not None:
            InstanceName(name)
        if len(self.clusters) == 1:
            return {name or self.name: self.clusters[0]}
        return {f"{name}-{cluster.name}" if name else cluster.name: cluster for cluster in self.clusters}


class InstanceName(Name):
    what = "testbed name"


_HAEIN: Final = Cluster(name="haein", model="b200", nodes=129)
_NATIONAL: Final = (
    Cluster(name="naver", model="h200", nodes=382),
    Cluster(name="kakao", model="b200", nodes=303),
    Cluster(name="nhn", model="b200", nodes=957),
)
_NATIONAL_SMALL: Final = (
    Cluster(name="naver", model="h200", nodes=18, group=8),
    Cluster(name="kakao", model="b200", nodes=15, group=8),
    Cluster(name="nhn", model="b200", nodes=47, group=16),
)

PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile(
            "mini", "8 nodes, 64 B200, for tests", (Cluster(name="mini", model="b200", nodes=8, digits=2, group=4),)
        ),
        Profile("haein", "129 nodes, 1,032 B200", (_HAEIN,)),
        Profile("national", "1,642 nodes, 13,136 GPUs, three clusters", _NATIONAL),
        Profile("national-small", "80 nodes, 640 GPUs: the three clusters at a twentieth", _NATIONAL_SMALL),
    )
}


def profile(name: str) -> Profile:
    """The profile called `name`.

    Raises:
        NotFound: there is none.
    """
    if name not in PROFILES:
        raise NotFound(f"There is no testbed profile {name}.", way_out=f"Use one of {', '.join(PROFILES)}.")
    return PROFILES[name]
