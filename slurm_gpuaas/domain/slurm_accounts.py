"""Names in Slurm: accounts (share, organisation in the share, project: all in one space) and QOS of both classes."""

from __future__ import annotations

from typing import Final

from slurm_gpuaas.domain.names import AccountName, OrganisationName, PoolName, ProjectName, QosName, ShareName
from slurm_gpuaas.domain.usage import BURST_PREFIX

ROOT: Final = AccountName("root")
"""Slurm's own top account, and the administrators'."""


def share_account(pool: PoolName, share: ShareName) -> AccountName:
    return AccountName(f"{pool}-{share}")


def organisation_account(pool: PoolName, share: ShareName, organisation: OrganisationName) -> AccountName:
    return AccountName(f"{pool}-{share}-{organisation}")


def guaranteed_qos(project: ProjectName) -> QosName:
    return QosName(f"guaranteed-{project}")


def burst_qos(pool: PoolName, share: ShareName) -> QosName:
    return QosName(f"{BURST_PREFIX}{pool}-{share}")
