"""Base of the tables of the pool's store."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import MetaData
from sqlmodel import SQLModel

from slurm_gpuaas.store.columns import NAMING


class PoolTable(SQLModel):
    """Base of all tables of the pool's store. Its tables live in a module for each part; `store.pool` imports all."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)
