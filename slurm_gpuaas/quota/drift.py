"""Who made a difference by hand, as far as Slurm's transaction log tells. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from slurm_gpuaas.quota.plan import Action, Change, Origin, Plan
from slurm_gpuaas.slurm.records import Transaction


def explained(found: Plan, transactions: Sequence[Transaction]) -> Plan:
    """The plan with an origin at every change that the transactions account for.

    Args:
        transactions: since Slurm was last seen to be as wanted, oldest first.
    """
    steps = (
        replace(step, changes=tuple(replace(one, origin=origin(one, transactions)) for one in step.changes))
        for step in found.steps
    )
    return replace(found, steps=tuple(steps))


def origin(change: Change, transactions: Sequence[Transaction]) -> Origin | None:
    """The newest transaction that named the object. Slurm notes only the number of a QOS or association that it
    deletes: who deleted it is known when one person alone deleted such things."""
    named = [one for one in transactions if _names(one, change)]
    if named:
        return Origin(actor=named[-1].actor, at=named[-1].at)
    if change.action is not Action.CREATE:
        return None
    removed = [one for one in transactions if one.action in _REMOVALS.get(change.kind, ()) and not _says_what(one)]
    return Origin(actor=removed[-1].actor, at=removed[-1].at) if len(_actors(removed)) == 1 else None


_REMOVALS = {"qos": ("Remove QOS",), "association": ("Remove Associations",), "account": ("Remove Associations",)}


def _names(one: Transaction, change: Change) -> bool:
    match change.kind:
        case "qos":
            return one.action.endswith("QOS") and change.name in one.names
        case "account":
            by_name = one.action.endswith("Accounts") and change.name in one.names
            return by_name or (change.name in one.accounts and not one.users)
        case "user":
            return change.name in one.users or (one.action.endswith("Users") and change.name in one.names)
        case "association":
            user, _, account = change.name.rpartition("@")
            by_user = one.action == "Remove Users" and user in one.names
            return by_user or (user in one.users and account in one.accounts)
        case _:
            return False  # partitions are slurmctld's, which keeps no log


def _says_what(one: Transaction) -> bool:
    return bool(one.names or one.accounts or one.users)


def _actors(transactions: Iterable[Transaction]) -> frozenset[str]:
    return frozenset(one.actor for one in transactions)
