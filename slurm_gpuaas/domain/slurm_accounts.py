"""Names in Slurm's one space of accounts: share, organisation in the share, project."""

from __future__ import annotations

from typing import Final

from slurm_gpuaas.domain.names import AccountName, OrganisationName, PoolName, ShareName

ROOT: Final = AccountName("root")
"""Slurm's own top account, and the administrators'."""


def share_account(pool: PoolName, share: ShareName) -> AccountName:
    return AccountName(f"{pool}-{share}")


def organisation_account(pool: PoolName, share: ShareName, organisation: OrganisationName) -> AccountName:
    return AccountName(f"{pool}-{share}-{organisation}")
