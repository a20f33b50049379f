"""The words in which Slurm says that a limit bites: what squeue prints as the reason, and sbatch as the error.

Slurm 26.05, src/common/job_state_reason.c and src/slurmctld/acct_policy.c (read 2026-11-26). The irregular ones are
historical: limits of CPUs, memory and nodes are older than the scheme.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from slurm_gpuaas.slurm.limit_records import Kind


class TresClass(StrEnum):
    """How reasons call a TRES."""

    CPU = "Cpu"
    MEMORY = "Memory"
    NODE = "Node"
    ENERGY = "Energy"
    BILLING = "Billing"
    GRES = "GRES"
    LICENSE = "License"
    OTHER = "Unknown"


_CLASSES: Final[Mapping[str, TresClass]] = {
    "cpu": TresClass.CPU,
    "mem": TresClass.MEMORY,
    "node": TresClass.NODE,
    "energy": TresClass.ENERGY,
    "billing": TresClass.BILLING,
    "gres": TresClass.GRES,
    "license": TresClass.LICENSE,
}

_QOS: Final[Mapping[Kind, str]] = {
    Kind.GRP_TRES: "QOSGrp{}",
    Kind.GRP_TRES_MINS: "QOSGrp{}Minutes",
    Kind.GRP_TRES_RUN_MINS: "QOSGrp{}RunMinutes",
    Kind.GRP_JOBS: "QOSGrpJobsLimit",
    Kind.GRP_SUBMIT: "QOSGrpSubmitJobsLimit",
    Kind.GRP_WALL: "QOSGrpWallLimit",
    Kind.MAX_TRES: "QOSMax{}PerJob",
    Kind.MAX_TRES_NODE: "QOSMax{}PerNode",
    Kind.MAX_TRES_MINS: "QOSMax{}MinutesPerJob",
    Kind.MAX_WALL: "QOSMaxWallDurationPerJobLimit",
    Kind.MIN_TRES: "QOSMin{}",
    Kind.MAX_TRES_PA: "Max{}PerAccount",
    Kind.MAX_TRES_PU: "QOSMax{}PerUser",
    Kind.MAX_RUN_MINS_PA: "Max{}RunMinsPerAccount",
    Kind.MAX_RUN_MINS_PU: "Max{}RunMinsPerUser",
    Kind.MAX_JOBS_PA: "MaxJobsPerAccount",
    Kind.MAX_JOBS_PU: "QOSMaxJobsPerUserLimit",
    Kind.MAX_SUBMIT_PA: "MaxSubmitJobsPerAccount",
    Kind.MAX_SUBMIT_PU: "QOSMaxSubmitJobPerUserLimit",
}
_ASSOCIATION: Final[Mapping[Kind, str]] = {
    Kind.GRP_TRES: "AssocGrp{}",
    Kind.GRP_TRES_MINS: "AssocGrp{}Minutes",
    Kind.GRP_TRES_RUN_MINS: "AssocGrp{}RunMinutes",
    Kind.GRP_JOBS: "AssocGrpJobsLimit",
    Kind.GRP_SUBMIT: "AssocGrpSubmitJobsLimit",
    Kind.GRP_WALL: "AssocGrpWallLimit",
    Kind.MAX_TRES: "AssocMax{}PerJob",
    Kind.MAX_TRES_NODE: "AssocMax{}PerNode",
    Kind.MAX_TRES_MINS: "AssocMax{}MinutesPerJob",
    Kind.MAX_WALL: "AssocMaxWallDurationPerJobLimit",
    Kind.MAX_JOBS: "AssocMaxJobsLimit",
    Kind.MAX_SUBMIT: "AssocMaxSubmitJobLimit",
}

_IRREGULAR: Final[Mapping[tuple[Kind, TresClass], str]] = {
    (Kind.GRP_TRES, TresClass.CPU): "CpuLimit",
    (Kind.GRP_TRES, TresClass.MEMORY): "MemLimit",
    (Kind.GRP_TRES, TresClass.NODE): "NodeLimit",
    (Kind.GRP_TRES_MINS, TresClass.CPU): "CPUMinutesLimit",
    (Kind.GRP_TRES_RUN_MINS, TresClass.CPU): "CPURunMinutesLimit",
    (Kind.MAX_TRES, TresClass.CPU): "CpuPerJobLimit",
    (Kind.MAX_TRES, TresClass.NODE): "NodePerJobLimit",
    (Kind.MAX_TRES_PU, TresClass.CPU): "CpuPerUserLimit",
    (Kind.MAX_TRES_PU, TresClass.NODE): "NodePerUserLimit",
    (Kind.MAX_TRES_MINS, TresClass.CPU): "CpuMinutesPerJobLimit",
    (Kind.MIN_TRES, TresClass.CPU): "CpuNotSatisfied",
}
"""What stands for `{}` and all that follows it."""


def class_of(tres: str) -> TresClass:
    return _CLASSES.get(tres.partition("/")[0], TresClass.OTHER)


def reason(kind: Kind, tres: str, *, qos: bool) -> str:
    """Slurm's word for a limit of this kind and TRES, of a QOS or of an association."""
    pattern = (_QOS if qos else _ASSOCIATION)[kind]
    if "{}" not in pattern:
        return pattern
    found = class_of(tres)
    irregular = _IRREGULAR.get((kind, found)) if kind is not Kind.MAX_TRES_PA else None
    if irregular is not None:
        return pattern[: pattern.index("{}")] + irregular
    # of associations Slurm shortens memory
    word = "Mem" if found is TresClass.MEMORY and not qos else str(found)
    return pattern.replace("{}", word)
