"""What topology/tree of Slurm takes for one job, by its rules (eval_nodes_tree.c, as research read them): a stand-in to
compare placement with in properties; the comparison with a real slurmctld is a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from slurm_gpuaas.topology.placement import Domain, Path


def takes(domains: Sequence[Domain], count: int) -> dict[Path, int] | None:
    """Places of each leaf: below the lowest switch that covers the request, leaves one by one. Of leaves that hold what
    is left the one with least free; else the one with most free, of a pod that is used already if there is one."""
    free = {domain.path: domain.free for domain in domains if domain.free}
    if sum(free.values()) < count:
        return None
    pods = {path[0]: sum(places for other, places in free.items() if other[0] == path[0]) for path in free}
    if any(places >= count for places in free.values()):
        below = set(free)
    elif holding := {pod: places for pod, places in pods.items() if places >= count}:
        tightest = min(holding, key=lambda pod: (holding[pod], pod))
        below = {path for path in free if path[0] == tightest}
    else:
        below = set(free)
    taken: dict[Path, int] = {}
    while count:
        left = {path: free[path] for path in below if path not in taken}
        if fitting := {path: places for path, places in left.items() if places >= count}:
            path = min(fitting, key=lambda path: (fitting[path], path))
        else:
            used = {path[0] for path in taken}
            near = {path: places for path, places in left.items() if path[0] in used} or left
            path = max(sorted(near), key=lambda path: near[path])
        taken[path] = min(count, left[path])
        count -= taken[path]
    return taken
