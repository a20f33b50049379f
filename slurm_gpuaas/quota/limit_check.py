"""Whether the limits that stand in Slurm do what the policy relies on: `gpuaas quota check`. Pure.

Policy, limits and GPUs in, findings out. Nothing found means: every guarantee, ceiling and budget is set, none is
hidden by another limit, what a project can reach in the worst order is its ceiling, and the guarantees of a partition
fit its GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations

from slurm_gpuaas.domain.names import AccountName, GpuModel, PartitionName, ProjectName, QosName, UserName
from slurm_gpuaas.domain.slurm_accounts import guaranteed_qos
from slurm_gpuaas.quota.desired import account_chain, burst_of
from slurm_gpuaas.quota.entitlement import Entitlement
from slurm_gpuaas.quota.explain import ROOT
from slurm_gpuaas.quota.limits import BILLING, GPU, Level, Place, asked, billing_of, bounds, predict
from slurm_gpuaas.slurm.limit_records import AssociationLimits, Kind, LimitState

NOBODY = UserName("nobody")
"""Whose limits are not looked at: checks are of accounts."""


class Fault(StrEnum):
    MISSING = "missing"
    """A limit, QOS, account or partition that the policy relies on is not there."""
    LOOSE = "loose"
    """A limit is there, and allows more than the policy."""
    HIDDEN = "hidden"
    """A limit is there, and another one hides it."""
    CEILING = "ceiling"
    """In some order of jobs a project gets more than its ceiling."""
    OVERCOMMITTED = "overcommitted"
    """Guarantees pass the GPUs that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`where` is a project, or a partition for what is of all its projects."""

    fault: Fault
    where: str
    project: ProjectName | None
    what: str
    way_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The most GPUs that a project can hold at once, and the order of QOS that leads there; None without a bound."""

    gpus: int | None
    order: tuple[QosName, ...]


def accounts_and_qos(entitled: Sequence[Entitlement]) -> tuple[tuple[AccountName, ...], tuple[QosName, ...]]:
    """What must be read to check these projects."""
    accounts = {name for one in entitled for name in account_chain(one)}
    qos = {qos for one in entitled for qos in (guaranteed_qos(one.name), burst_of(one))}
    return tuple(sorted(accounts)), tuple(sorted(qos))


def check(
    entitled: Sequence[Entitlement],
    budgets: Mapping[ProjectName, int],
    state: LimitState,
    gpus: Mapping[PartitionName, int],
) -> Iterator[Finding]:
    """
    Args:
        entitled: projects with a grant in force.
        budgets: GPU-minutes that are written for each project with a budget.
        gpus: GPUs in service of each partition.
    """
    for one in entitled:
        yield from _of_project(one, budgets.get(one.name), state, gpus.get(one.partition, 0))
    yield from _overcommitted(entitled, state, gpus)


def _of_project(one: Entitlement, budget: int | None, state: LimitState, gpus: int) -> Iterator[Finding]:
    missing = list(_missing(one, state))
    if missing:
        yield from (_finding(Fault.MISSING, one, what, "Apply the policy again.") for what in missing)
        return
    places = places_of(one, state)
    yield from _guarantee(one, state)
    if one.ceiling is not None:
        ceiling = _account(one, state).limits.get(Kind.GRP_TRES, {}).get(BILLING)
        if ceiling is None:
            yield _finding(
                Fault.MISSING,
                one,
                f"Account {one.name} has no GrpTRES {BILLING}={one.ceiling}.",
                "Apply the policy again.",
            )
        found = reach(places, one.pool.model)
        most = gpus if found.gpus is None else min(found.gpus, gpus)
        if most > one.ceiling:
            yield _finding(
                Fault.CEILING,
                one,
                f"It can reach {most} GPUs, above its ceiling of {one.ceiling} "
                f"({one.gpus} guaranteed, {one.borrow_limit} borrowed): {', then '.join(found.order)}.",
                "Look at the limits named for it here; applying the policy sets those that are its own.",
            )
    if budget is not None and GPU not in _account(one, state).limits.get(Kind.GRP_TRES_MINS, {}):
        yield _finding(
            Fault.MISSING, one, f"Account {one.name} has no GrpTRESMins {GPU}={budget}.", "Apply the policy again."
        )
    yield from _hidden(one, places)


def places_of(one: Entitlement, state: LimitState) -> tuple[Place, ...]:
    """The project's account in each of its QOS, guaranteed first."""
    chain: list[AssociationLimits] = []
    name: AccountName | None = AccountName(one.name)
    while name is not None:
        found = state.associations.get((name, None, None))
        if found is None:
            break
        chain.append(found)
        name = found.parent if found.account != ROOT else None
    partition = state.partitions[one.partition]
    names = [guaranteed_qos(one.name), *([burst_of(one)] if one.may_borrow else [])]
    return tuple(
        Place(
            user=NOBODY,
            partition=partition,
            partition_qos=None if partition.qos is None else state.qos.get(partition.qos),
            qos=state.qos[qos],
            associations=tuple(chain),
            safe=state.safe,
            refuses=state.refuses,
            priority_flags=state.priority_flags,
            tres=state.tres,
        )
        for qos in names
    )


def reach(places: Sequence[Place], model: GpuModel) -> Reach:
    """What an account can hold at most, in the best of all orders of its QOS.

    Jobs of a QOS that a limit of the account does not hold for still count against it, but are not stopped by it: so
    who comes first matters. Within an order each QOS takes all that it may. Exponential in the account's QOS (two).
    """
    held = {place.qos.name: tuple(_in_gpus(place, model)) for place in places}
    best = Reach(gpus=0, order=())
    for order in permutations(held):
        total = 0
        for qos in order:
            room = [limit - (0 if level is Level.QOS else total) for level, limit in held[qos]]
            if not room:
                return Reach(gpus=None, order=(qos,))
            total += max(min(room), 0)
        if best.gpus is not None and total > best.gpus:
            best = Reach(gpus=total, order=order)
    return best


def _in_gpus(place: Place, model: GpuModel) -> Iterator[tuple[Level, int]]:
    """What bounds GPUs in use there, in GPUs. Of others' use of a QOS nothing is known: none is assumed."""
    many = asked(1_000, model=model, nodes=1, minutes=1)
    billing = billing_of(place, many) if place.partition.billing_weights else 0
    for bound in bounds(place, many):
        if bound.tres.startswith(GPU):
            yield bound.level, bound.limit
        elif bound.tres == BILLING and billing:
            yield bound.level, bound.limit * 1_000 // billing


def _guarantee(one: Entitlement, state: LimitState) -> Iterator[Finding]:
    name = guaranteed_qos(one.name)
    limits = state.qos[name].limits.get(Kind.GRP_TRES, {})
    for tres in (GPU, f"{GPU}:{one.pool.model}"):
        limit = limits.get(tres)
        if limit is None:
            yield _finding(
                Fault.MISSING, one, f"QOS {name} has no GrpTRES {tres}={one.gpus}.", "Apply the policy again."
            )
        elif limit > one.gpus:
            yield _finding(
                Fault.LOOSE,
                one,
                f"QOS {name} allows GrpTRES {tres}={limit}, and the guarantee is {one.gpus}.",
                "Apply the policy again; `gpuaas audit list` tells who changed it.",
            )


def _hidden(one: Entitlement, places: Sequence[Place]) -> Iterator[Finding]:
    """Limits of the policy that another limit hides."""
    relied = {
        (f"QOS {guaranteed_qos(one.name)}", Kind.GRP_TRES),
        (f"account {one.name}", Kind.GRP_TRES),
        (f"account {one.name}", Kind.GRP_TRES_MINS),
    }
    job = asked(1, model=one.pool.model, nodes=1, minutes=1)
    for place in places:
        for hidden in predict(place, job).hidden:
            if (hidden.holder, hidden.kind) in relied:
                yield _finding(
                    Fault.HIDDEN,
                    one,
                    f"{hidden.kind} {hidden.tres}={hidden.limit} of {hidden.holder} does not hold for jobs of QOS "
                    f"{place.qos.name}: {hidden.why}.",
                    "Take that limit away, or set it on another TRES name.",
                )


def _overcommitted(
    entitled: Sequence[Entitlement], state: LimitState, gpus: Mapping[PartitionName, int]
) -> Iterator[Finding]:
    sums: dict[PartitionName, int] = {}
    for one in entitled:
        qos = state.qos.get(guaranteed_qos(one.name))
        if qos is not None:
            limit = qos.limits.get(Kind.GRP_TRES, {}).get(GPU, 0)
            sums[one.partition] = sums.get(one.partition, 0) + limit
    for partition, total in sorted(sums.items()):
        if total > gpus.get(partition, 0):
            yield Finding(
                fault=Fault.OVERCOMMITTED,
                where=f"partition {partition}",
                project=None,
                what=f"Guarantees of {total} GPUs stand in Slurm, and {gpus.get(partition, 0)} are in service.",
                way_out="Nodes lost for longer than quota.settle short guarantees by themselves; else lower a grant.",
            )


def _missing(one: Entitlement, state: LimitState) -> Iterator[str]:
    if one.partition not in state.partitions:
        yield f"Slurm has no partition {one.partition}."
    if (AccountName(one.name), None, None) not in state.associations:
        yield f"Slurm has no account {one.name}."
    for qos in (guaranteed_qos(one.name), *([burst_of(one)] if one.may_borrow else [])):
        if qos not in state.qos:
            yield f"Slurm has no QOS {qos}."


def _account(one: Entitlement, state: LimitState) -> AssociationLimits:
    return state.associations[AccountName(one.name), None, None]


def _finding(fault: Fault, one: Entitlement, what: str, way_out: str) -> Finding:
    return Finding(fault=fault, where=one.name, project=one.name, what=what, way_out=way_out)
