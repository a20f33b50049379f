"""NVIDIA's XID and SXid catalogue as data (`data/xid_catalogue.json`): dated, with its sources.

This module only looks rows up. What follows from a row for a node is decided in `triage`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from slurm_gpuaas.domain.incidents import Drain


class FaultClass(StrEnum):
    """Whose fault an event is and what mends it."""

    APP = "app"
    """Restart the application."""
    INFO = "info"
    SYMPATHETIC = "sympathetic"
    """Follows another error; never a reason of its own."""
    CONTAINED = "contained"
    """Memory error that hit one process only."""
    HW_RESET = "hw_reset"
    HW_REBOOT = "hw_reboot"
    HW_SUPPORT = "hw_support"
    NVLINK = "nvlink"
    """NVLink 4 registers decide."""
    FOLLOW_154 = "follow_154"
    """The driver's recovery action decides."""
    UNKNOWN = "unknown"
    SXID_FATAL = "sxid_fatal"
    SXID_NONFATAL = "sxid_nonfatal"


@dataclass(frozen=True, slots=True, kw_only=True)
class XidRow:
    """One XID. `immediate` and `investigatory` are NVIDIA's bucket names, None where its sheet is empty."""

    code: int
    mnemonic: str
    text: str
    immediate: str | None
    investigatory: str | None
    fault_class: FaultClass
    drain: Drain


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """`version` is the day the sources were read."""

    version: str
    xid: Mapping[int, XidRow]
    sxid: Mapping[int, FaultClass]


@cache
def catalogue() -> Catalogue:
    """The catalogue that ships with this version."""
    raw = json.loads(files("slurm_gpuaas.health").joinpath("data/xid_catalogue.json").read_text("utf-8"))
    rows = {
        row["code"]: XidRow(
            code=row["code"],
            mnemonic=row["mnemonic"],
            text=row["text"],
            immediate=row["immediate"],
            investigatory=row["investigatory"],
            fault_class=FaultClass(row["class"]),
            drain=Drain(row["drain"]),
        )
        for row in raw["xid"]
    }
    sxid = dict.fromkeys(raw["sxid"]["non_fatal"], FaultClass.SXID_NONFATAL)
    sxid |= dict.fromkeys([*raw["sxid"]["fatal"], *raw["sxid"]["always_fatal"]], FaultClass.SXID_FATAL)
    return Catalogue(version=raw["version"], xid=MappingProxyType(rows), sxid=MappingProxyType(sxid))
