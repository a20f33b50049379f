"""Slurm's spellings (GRES and TRES strings, state words, host lists) into domain terms; for both drivers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import AccountName, GpuModel, NodeName, PartitionName, QosName, UserName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.slurm.records import Reservation, Tres

_GPU_GRES: Final = re.compile(r"(?:^|,)gpu(?::(?P<model>[^:,()]+))?:(?P<count>\d+)(?=[(,]|$)")
"""One GPU entry of a GRES string such as `gpu:b200:8(S:0-1)` or `gpu:b200:2(IDX:0,3)`."""

_TRES_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_NODE_FLAGS: Final = {
    "DRAIN": NodeFlag.DRAIN,
    "FAIL": NodeFlag.FAIL,
    "NOT_RESPONDING": NodeFlag.NOT_RESPONDING,
    "COMPLETING": NodeFlag.COMPLETING,
    "RESERVED": NodeFlag.RESERVED,
    "MAINTENANCE": NodeFlag.MAINTENANCE,
    "REBOOT_REQUESTED": NodeFlag.REBOOT,
    "REBOOT_ISSUED": NodeFlag.REBOOT,
    "POWERED_DOWN": NodeFlag.POWERED_DOWN,
    "POWERING_DOWN": NodeFlag.POWERED_DOWN,
    "POWERING_UP": NodeFlag.POWERED_DOWN,
    "POWER_DOWN": NodeFlag.POWERED_DOWN,
}
"""Slurm's state words that count; the others (PLANNED, CLOUD, ...) do not keep a job off the node."""

_BASES: Final = {base.value: base for base in NodeBase}
_JOB_STATES: Final = {state.value: state for state in JobState}


@lru_cache(maxsize=8192)
def gpu_gres(gres: str) -> tuple[GpuModel | None, int]:
    """GPU model (of the first typed entry) and number of whole GPUs in a GRES string."""
    model: GpuModel | None = None
    count = 0
    for found in _GPU_GRES.finditer(gres):
        if model is None and found["model"]:
            model = GpuModel.as_slurm_says(found["model"])
        count += int(found["count"])
    return model, count


def tres_counts(text: str) -> dict[str, int]:
    """`cpu=224,mem=2000000M,gres/gpu=8` as counts; memory in MiB, as Slurm counts it. What is no number is left out."""
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", value)
        if found:
            unit = _TRES_UNITS[found[2]] / (2**20 if name == "mem" and found[2] else 1)
            counts[name] = int(float(found[1]) * unit)
    return counts


def gpu_tres(tres: Tres) -> tuple[GpuModel | None, int]:
    """GPU model and number of GPUs in TRES counts; typed entries add up where the untyped one is not tracked."""
    typed = {name.removeprefix("gres/gpu:"): count for name, count in tres.items() if name.startswith("gres/gpu:")}
    model = GpuModel.as_slurm_says(next(iter(typed))) if typed else None
    return model, tres.get("gres/gpu", sum(typed.values()))


def moment(seconds: int | None) -> datetime | None:
    """A UNIX time as UTC; Slurm's 0 and "unset" are None."""
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


@lru_cache(maxsize=8192)
def node_names(folded: str) -> tuple[NodeName, ...]:
    """Unfold Slurm's host list; empty and `(null)` are no nodes."""
    if not folded or folded == "(null)":
        return ()
    if "[" not in folded and "," not in folded:
        return (NodeName.as_slurm_says(folded),)
    return expand_nodes(folded)


@lru_cache(maxsize=1024)
def _node_state(words: tuple[str, ...]) -> tuple[NodeBase, NodeFlag]:
    flags = NodeFlag.NONE
    for word in words:
        flags |= _NODE_FLAGS.get(word, NodeFlag.NONE)
    return next((_BASES[word] for word in words if word in _BASES), NodeBase.UNKNOWN), flags


def node(
    *, name: str, state: Iterable[str], reason: str, gres: str, gpus_allocated: int, booted: int | None = None
) -> Node:
    """`state` are Slurm's words, base state and flags in any order."""
    base, flags = _node_state(tuple(state))
    model, gpus = gpu_gres(gres)
    return Node(
        name=NodeName.as_slurm_says(name),
        base=base,
        flags=flags,
        reason=reason,
        model=model,
        gpus=gpus,
        gpus_allocated=gpus_allocated,
        booted=moment(booted),
    )


def job(
    *,
    job_id: int,
    name: str,
    user: str,
    account: str,
    qos: str,
    partition: str,
    state: Iterable[str],
    reason: str,
    nodes: str,
    node_count: int,
    tres_requested: str,
    tres_allocated: str,
    licenses: str,
    priority: int,
    submitted: int,
    eligible: int | None,
    started: int | None,
    time_limit_minutes: int | None,
    requeue: bool,
    restarts: int,
    admin_comment: str,
    array_job_id: int | None,
    required_nodes: str,
    reservation: str,
    excluded_nodes: str,
    features: str,
    comment: str,
    exit_code: int = 0,
) -> Job:
    """Times are UNIX seconds. A pending job's start time is Slurm's estimate, so it is not `started`."""
    known = next((_JOB_STATES[word] for word in state if word in _JOB_STATES), JobState.PENDING)
    model, gpus = gpu_tres(tres_counts(tres_allocated) or tres_counts(tres_requested))
    pending = known is JobState.PENDING
    return Job(
        id=JobId(job_id),
        name=name,
        user=UserName.as_slurm_says(user),
        account=AccountName.as_slurm_says(account),
        qos=QosName.as_slurm_says(qos),
        partition=PartitionName.as_slurm_says(partition),
        state=known,
        reason=reason,
        nodes=() if pending else node_names(nodes),
        node_count=node_count,
        gpus=gpus,
        model=model,
        licenses=licenses,
        priority=priority,
        submitted=datetime.fromtimestamp(submitted, UTC),
        eligible=moment(eligible),
        started=None if pending else moment(started),
        time_limit=None if time_limit_minutes is None else timedelta(minutes=time_limit_minutes),
        requeue=requeue,
        restarts=restarts,
        admin_comment=admin_comment,
        array_job_id=JobId(array_job_id) if array_job_id else None,
        required_nodes=node_names(required_nodes),
        reservation=reservation,
        excluded_nodes=node_names(excluded_nodes),
        features=features,
        comment=comment,
        exit_code=exit_code,
    )


def out_of_service(wanted: Iterable[NodeName], nodes: Iterable[Node]) -> tuple[NodeName, ...]:
    """Those of the wanted nodes that a resume would change.

    Raises:
        SlurmRefused: Slurm has no node of one of the names.
    """
    by_name = {node.name: node for node in nodes}
    names = tuple(dict.fromkeys(wanted))
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SlurmRefused(
            f"Slurm has no node {', '.join(unknown[:5])} ({len(unknown)} of {len(names)} unknown).",
            way_out="Check the names with `sinfo -N`.",
        )
    stopped = NodeFlag.DRAIN | NodeFlag.FAIL
    return tuple(name for name in names if by_name[name].flags & stopped or by_name[name].base is NodeBase.DOWN)


def reservation_flag_to_slurm(flag: str) -> str:
    """Slurm's wire calls a reservation of licences alone by the flag's older name."""
    return "ANY_NODES" if flag == "LICENSE_ONLY" else flag


def reservation(
    *,
    name: str,
    start: datetime,
    duration: timedelta,
    users: str,
    nodes: str,
    licenses: str,
    flags: Iterable[str],
) -> Reservation:
    """As one would ask for it: without SPEC_NODES, which Slurm adds to every reservation that names its nodes."""
    words = {"LICENSE_ONLY" if flag == "ANY_NODES" else flag for flag in flags} - {"SPEC_NODES"}
    return Reservation(
        name=name,
        start=start,
        duration=duration,
        users=tuple(sorted(filter(None, users.split(",")))),
        nodes=nodes,
        licenses=licenses,
        flags=frozenset(words),
    )
