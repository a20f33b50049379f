"""What a job would cost and when it could start, as lines of text for `plugins/cli_filter.lua`. Pure.

Two texts, because free GPUs are everybody's to know and budgets are not. `shares` is for all:

    gpuaas-estimates 1 <written, epoch seconds>
    by         partition, guaranteed | burst, GPUs, epoch seconds at which a job of up to so many has room (0: now)

and `own` is for one user:

    project    name, whether it is the user's default (0 | 1), partition, GPU model, GPUs of a node, longest wall time
               in minutes, Won a GPU-hour as guaranteed and as burst, GPU-minutes left, Won left, GPUs that may start
               now as guaranteed and as burst

with `-` for what is not limited, has no price, or is not known. Of `by` the first line whose GPUs suffice holds; sizes
that no ends of running jobs make room for are absent.

**When.** A running job ends by its time limit at the latest, and everybody who waits takes GPUs first: a job has room
as soon as what is free is at least what waits and the job itself. For a guaranteed job burst jobs are as good as free
and waiting burst jobs are behind it. Who waits for limits of their own project takes nothing now, but may when one of
its jobs ends. A job within a node needs its GPUs on one node, a larger one whole nodes. It is no promise: later jobs
may go before, and the ones ahead may break nodes up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from slurm_gpuaas.domain.budgets import Budget
from slurm_gpuaas.domain.jobs import Job, JobState, ServiceClass
from slurm_gpuaas.domain.money import SECONDS_OF_AN_HOUR, Price, whole_won
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName, ProjectName, UserName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.quota.desired import default_projects
from slurm_gpuaas.quota.entitlement import Entitlement, entitlements
from slurm_gpuaas.quota.live import ON_NODES, Scene, service_of
from slurm_gpuaas.quota.verdict import Standing

NOW: Final = 0
"""Instead of a time: there is room already."""
OWN_LIMIT: Final = ("QOS", "Assoc", "MaxGRES")
"""Beginnings of Slurm's reasons of a job that its own project's limits hold back."""
NOT_READY: Final = frozenset({"JobHeldUser", "JobHeldAdmin", "Dependency", "DependencyNeverSatisfied", "BeginTime"})


@dataclass(frozen=True, slots=True)
class Opening:
    """A job of up to `gpus` has room at `at`, epoch seconds."""

    gpus: int
    at: int


@dataclass(frozen=True, slots=True)
class _Freed:
    """GPUs of one node that become free."""

    at: int
    gpus: int


def openings(
    scene: Scene, partition: PartitionName, names: Iterable[NodeName], per_node: int, service: ServiceClass
) -> tuple[Opening, ...]:
    """When jobs of each size have room, in order of size. O(sizes within a node x jobs + nodes)."""
    nodes = _freed(scene, frozenset(names), service)
    first, later = _ahead(scene, partition, service)
    found: list[Opening] = []
    for unit in range(1, per_node + 1):
        slots = _slots(nodes.values(), unit)
        largest = per_node * len(nodes) if unit == per_node else unit
        for gpus in range(unit, largest + 1, unit):
            at = _room(slots, gpus, first, later)
            if at is None:
                break
            if found and found[-1].at == at:
                found.pop()
            found.append(Opening(gpus, at))
    return tuple(found)


def _freed(scene: Scene, names: frozenset[NodeName], service: ServiceClass) -> Mapping[NodeName, Sequence[_Freed]]:
    """Of nodes in service: what is free now, and what each running job gives back."""
    freed: dict[NodeName, list[_Freed]] = {}
    for name in sorted(names & scene.nodes.keys()):
        if scene.nodes[name].usable:
            freed[name] = [_Freed(NOW, scene.nodes[name].free_gpus)]
    for job in scene.jobs:
        if job.state not in ON_NODES or not job.nodes:
            continue
        at = NOW if _gives_way(job, service) else _end(job, scene.now)
        for name in job.nodes:
            if name in freed and at is not None:
                freed[name].append(_Freed(at, job.gpus // len(job.nodes)))
    return freed


def _gives_way(job: Job, service: ServiceClass) -> bool:
    return service is ServiceClass.GUARANTEED and service_of(job.qos) is ServiceClass.BURST


def _end(job: Job, now: datetime) -> int | None:
    """Not before a second from now, since a job beyond its limit still runs; None without a limit."""
    if job.started is None or job.time_limit is None:
        return None
    return int(max(job.started + job.time_limit, now + timedelta(seconds=1)).timestamp())


def _ahead(scene: Scene, partition: PartitionName, service: ServiceClass) -> tuple[int, int]:
    """GPUs of waiting jobs that would take them now, and of all that might before a new one."""
    first = later = 0
    for job in scene.jobs:
        if job.state is not JobState.PENDING or job.partition != partition or job.reason in NOT_READY:
            continue
        if service is ServiceClass.GUARANTEED and service_of(job.qos) is ServiceClass.BURST:
            continue
        later += job.gpus
        first += 0 if job.reason.startswith(OWN_LIMIT) else job.gpus
    return first, later


def _slots(nodes: Iterable[Sequence[_Freed]], unit: int) -> list[tuple[int, int]]:
    """Times, and GPUs free then that can be had `unit` at once on a node."""
    gained: dict[int, int] = defaultdict(int)
    for freed in nodes:
        free = 0
        for one in sorted(freed, key=lambda one: one.at):
            gained[one.at] += (free + one.gpus) // unit * unit - free // unit * unit
            free += one.gpus
    total = 0
    return [(at, total := total + gpus) for at, gpus in sorted(gained.items())]


def _room(slots: Iterable[tuple[int, int]], gpus: int, first: int, later: int) -> int | None:
    return next((at for at, free in slots if free >= gpus + (first if at == NOW else later)), None)


# -- Text --------------------------------------------------------------------------------------------------------------


def shares(policy: Policy, cluster: ClusterName, scene: Scene) -> str:
    """The text for everybody."""
    lines = [f"gpuaas-estimates 1 {int(scene.now.timestamp())}"]
    for pool in policy.pools:
        for share in pool.shares if pool.cluster == cluster else ():
            partition = pool.partition_of(share.name)
            for service in ServiceClass:
                found = openings(scene, partition, share.node_names, pool.gpus_per_node, service)
                lines += [f"by\t{partition}\t{service.value}\t{one.gpus}\t{one.at}" for one in found]
    return "".join(f"{line}\n" for line in lines)


def own(
    policy: Policy,
    cluster: ClusterName,
    moment: datetime,
    *,
    budgets: Mapping[ProjectName, Budget],
    standing: Mapping[ProjectName, Standing],
) -> Mapping[UserName, str]:
    """The text for each member of a project with a grant in force."""
    entitled = entitlements(policy, cluster, moment)
    defaults = default_projects(policy, entitled)
    lines: dict[UserName, list[str]] = defaultdict(list)
    for one in (one for one in entitled if one.active):
        price = policy.price_at(one.name, cluster, one.pool.model, moment)
        facts = tuple(_facts(one, price, budgets.get(one.name), standing.get(one.name)))
        for member in policy.members_of(one.name):
            default = "1" if defaults[member.user] == one.name else "0"
            lines[member.user].append("\t".join(("project", one.name, default, *facts)))
    return {user: "".join(f"{line}\n" for line in sorted(found)) for user, found in lines.items()}


def _facts(one: Entitlement, price: Price | None, budget: Budget | None, now: Standing | None) -> Iterator[str]:
    longest = one.pool.max_time if one.max_time is None else min(one.max_time, one.pool.max_time)
    yield from (one.partition, one.pool.model, str(one.pool.gpus_per_node), str(longest // timedelta(minutes=1)))
    yield from ("-", "-") if price is None else (_hourly(price.guaranteed), _hourly(price.burst))
    yield _text(None if budget is None else budget.startable_minutes)
    yield _text(None if budget is None or budget.won is None else whole_won(budget.won.left))
    if now is None:
        yield from ("-", "-")
        return
    ceiling = one.ceiling
    room = None if ceiling is None else max(ceiling - now.guaranteed_in_use - now.burst_in_use, 0)
    for free in (max(one.gpus - now.guaranteed_in_use, 0), now.may_borrow):
        yield str(free if room is None else min(free, room))


def _hourly(price: Fraction) -> str:
    """Won a GPU-hour; a discount can leave a fraction, which the sum needs."""
    return f"{float(price * SECONDS_OF_AN_HOUR):.6f}".rstrip("0").rstrip(".")


def _text(limit: int | None) -> str:
    return "-" if limit is None else str(limit)
