"""Slurm's words for why a job waits or ended, in words and with what its user can do. Pure.

`JOBID` in a text stands for the job's number. Each text has a Korean one in the portal's catalogues.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from slurm_gpuaas.domain.told import told


@dataclass(frozen=True, slots=True)
class Meaning:
    """A reason of Slurm's in words, after "It waits:" or "It ended:", and what to do about it (may be nothing)."""

    says: str
    way_out: str = ""


_HELD: Final = told("`scontrol release JOBID` lets it go")
_WRONG: Final = told("cancel it and submit it again without that")
_ASK: Final = told("ask a cluster administrator")

REASONS: Final[Mapping[str, Meaning]] = {
    "None": Meaning(told("Slurm has not looked at it yet"), told("look again in a moment")),
    "Priority": Meaning(told("jobs of higher priority wait in the partition, and it is behind them")),
    "Resources": Meaning(told("what it asks for is not free now")),
    "Dependency": Meaning(told("it waits for another job, as asked with --dependency")),
    "DependencyNeverSatisfied": Meaning(
        told("the job that it depends on ended otherwise than asked: it will never start"),
        told("cancel it, or `scontrol update JobId=JOBID Dependency=`"),
    ),
    "BeginTime": Meaning(told("its start time lies ahead: asked with --begin, or it was queued again a moment ago")),
    "JobHeldUser": Meaning(told("its user holds it"), _HELD),
    "JobHeldAdmin": Meaning(told("an administrator holds it, or Slurm after a failed start"), _ASK),
    "JobHoldMaxRequeue": Meaning(
        told("it was queued again too often, and Slurm holds it"),
        told("find out why it fails, then `scontrol release JOBID` lets it go"),
    ),
    "JobArrayTaskLimit": Meaning(told("as many tasks of its array run as it allows at once (--array=...%N)")),
    "Licenses": Meaning(told("licences that it asks for are in use")),
    "Reservation": Meaning(
        told("its reservation has not begun, or has no room"), told("`scontrol show reservation` shows it")
    ),
    "ReservationDeleted": Meaning(told("its reservation was deleted"), _WRONG),
    "ReservationInvalid": Meaning(told("its reservation is not one that it may use"), _WRONG),
    "ReqNodeNotAvail": Meaning(
        told("nodes that it needs are down, drained or reserved"),
        told("drop --nodelist, or wait until they are back; `gpuaas node list --drained` shows why"),
    ),
    "NodeDown": Meaning(told("a node that it needs is down"), told("drop --nodelist, or wait until it is back")),
    "BadConstraints": Meaning(told("no set of nodes can ever give it what it asks for"), _WRONG),
    "Constraints": Meaning(told("no set of nodes can give it what it asks for"), _WRONG),
    "No_suitable_topology_unit_found": Meaning(told("no part of the topology has room for it as it asks")),
    "No_suitable_topology_unit_found_for_segment": Meaning(
        told("too few parts of the topology have room for its segments")
    ),
    "PartitionDown": Meaning(told("its partition starts no jobs now"), _ASK),
    "PartitionInactive": Meaning(told("its partition is inactive"), _ASK),
    "PartitionConfig": Meaning(
        told("its partition does not allow what it asks for"), told("ask for less, or for another partition")
    ),
    "PartitionNodeLimit": Meaning(
        told("it asks for more nodes than the partition has in service or allows a job"), told("ask for fewer nodes")
    ),
    "PartitionTimeLimit": Meaning(
        told("its time limit is above that of the partition"),
        told("lower it: `scontrol update JobId=JOBID TimeLimit=`"),
    ),
    "QOSNotAllowed": Meaning(
        told("the partition or its account does not admit its QOS"), told("`gpuaas quota explain` shows which do")
    ),
    "AccountNotAllowed": Meaning(
        told("the partition does not admit its account"), told("`gpuaas project list` shows yours")
    ),
    "InvalidAccount": Meaning(
        told("its account does not exist any more, or its user is not in it"), told("`gpuaas project list` shows yours")
    ),
    "InvalidQOS": Meaning(
        told("its QOS does not exist any more, or is not for its user"), told("`gpuaas quota explain` shows which are")
    ),
    "AccountingPolicy": Meaning(
        told("an accounting policy stands in the way"), told("`gpuaas quota explain` shows which")
    ),
    "MaxMemPerLimit": Meaning(
        told("it asks for more memory a node than the partition allows"), told("ask for less memory")
    ),
    "Prolog": Meaning(told("its nodes are being prepared: it starts in a moment")),
    "Cleaning": Meaning(told("its earlier run is still being cleared away")),
    "FedJobLock": Meaning(told("another cluster of the federation is deciding on it")),
    "SchedDefer": Meaning(told("it was not startable at once, and Slurm defers what is left")),
    "FrontEndDown": Meaning(told("no front-end node is up"), _ASK),
    "PowerNotAvail": Meaning(told("there is not enough power for it now")),
    "PowerReserved": Meaning(told("the power that it needs is reserved")),
    "BurstBufferResources": Meaning(told("burst-buffer space is in use")),
    "BurstBufferStageIn": Meaning(told("its data are being staged in")),
    "BurstBufferOperation": Meaning(told("staging its data failed"), _ASK),
    "InactiveLimit": Meaning(told("it did nothing for too long and was ended")),
    "TimeLimit": Meaning(told("it reached its time limit"), told("ask for more --time, or write checkpoints")),
    "DeadLine": Meaning(told("its deadline (--deadline) was reached")),
    "NonZeroExitCode": Meaning(told("its script ended with an error"), told("its output file says which")),
    "RaisedSignal": Meaning(told("a signal ended it"), told("its output file may say why")),
    "OutOfMemory": Meaning(told("it used more memory than it asked for"), told("ask for more with --mem")),
    "JobLaunchFailure": Meaning(told("Slurm could not start it on its nodes"), _ASK),
    "SystemFailure": Meaning(told("Slurm, or a file system that it needs, failed"), _ASK),
}
"""Of Slurm 26.05, src/common/job_state_reason.c (read 2026-11-27); limits are in `LIMITS`."""

_EXPLAIN: Final = told("`gpuaas quota explain` shows the limit, and what would start")
_LESS: Final = told("ask for less, or use another QOS: `gpuaas quota explain` shows what would start")

LIMITS: Final[Sequence[tuple[re.Pattern[str], Meaning]]] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"QOSMin", Meaning(told("it asks for less than its QOS demands"), told("ask for more, or use another QOS"))),
        (
            r"(QOSGrp|AssocGrp).*(RunMinutes)",
            Meaning(told("what running jobs may still use until their time limits is at a limit"), _EXPLAIN),
        ),
        (
            r"(QOSGrp|AssocGrp).*Minutes",
            Meaning(
                told("what is left of the budget does not pay it until its time limit"),
                told("a shorter --time costs less; `gpuaas budget` shows what is left"),
            ),
        ),
        (r"QOSGrp", Meaning(told("running jobs with its QOS have together as much as the QOS allows"), _EXPLAIN)),
        (
            r"AssocGrp",
            Meaning(
                told("running jobs of its account, or of one above it, have together as much as it allows"), _EXPLAIN
            ),
        ),
        (r"(QOS|Assoc)Max.*(PerJob|PerNode|Wall)", Meaning(told("it asks for more than a job may have"), _LESS)),
        (r"(QOS|Assoc)?Max.*", Meaning(told("its user or account has as much as it may have at once"), _EXPLAIN)),
        (r"QOS(Job|Resource|Time|UsageThreshold)", Meaning(told("a limit of its QOS is reached"), _EXPLAIN)),
        (r"Association(Job|Resource|Time)Limit", Meaning(told("a limit of its account or user is reached"), _EXPLAIN)),
    )
)
"""Limits, by the beginning of Slurm's word; the first that matches."""

AT_THE_GATE: Final = Meaning(
    told("it is at the placement gate, which looks for its nodes and lets it go within a moment"),
    told("look again in a moment"),
)

FOR_BETTER: Final = Meaning(
    told("it waits at the placement gate for better nodes, as its user allows"),
    told("`scontrol update JobId=JOBID Comment=` ends this wait"),
)


def word_of(reason: str) -> str:
    """Slurm's word without what it adds: `ReqNodeNotAvail, UnavailableNodes:n1`."""
    return reason.partition(",")[0].strip() or "None"


def limit_meaning(reason: str) -> Meaning | None:
    """None where no limit holds the job."""
    word = word_of(reason)
    if word in REASONS:
        return None
    return next((meaning for pattern, meaning in LIMITS if pattern.match(word)), None)


def meaning_of_word(reason: str) -> Meaning:
    """Of what Slurm says of a job; words that we do not know are given as they are."""
    word = word_of(reason)
    unknown = Meaning(
        told("Slurm says {word}", word=word[:80]), told("`man squeue` explains it under JOB REASON CODES")
    )
    return REASONS.get(word) or limit_meaning(reason) or unknown
