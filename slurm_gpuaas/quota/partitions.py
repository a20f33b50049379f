"""The include file of slurm.conf that holds our partitions: its text, and its text read back. Pure.

Partition settings changed at run time are lost at the next reconfigure, so a file is the only place that holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from slurm_gpuaas.quota.desired import ADMINISTRATORS
from slurm_gpuaas.slurm.records import PartitionSpec

_HEAD: Final = f"""\
# Written by gpuaasd from the policy: what is changed here by hand is put back.
PartitionName={ADMINISTRATORS} Nodes=ALL AllowAccounts=root MaxTime=INFINITE State=UP
"""


def render(partitions: Iterable[PartitionSpec]) -> str:
    return _HEAD + "".join(f"{_line(spec)}\n" for spec in partitions)


def read(text: str) -> Mapping[str, Mapping[str, str]]:
    """Settings by partition name; what is not a partition line is left out."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        settings = dict(word.split("=", 1) for word in line.split() if "=" in word)
        name = settings.pop("PartitionName", None)
        if name is not None and not line.lstrip().startswith("#"):
            found[name] = settings
    return found


def _line(spec: PartitionSpec) -> str:
    words = [
        f"PartitionName={spec.name}",
        f"Nodes={spec.nodes}",
        f"AllowQos={','.join(spec.allow_qos)}",
        f"MaxTime={_days(spec.max_time)}",
        f"Default={'YES' if spec.default else 'NO'}",
        "State=UP",
    ]
    if spec.topology is not None:
        words.append(f"Topology={spec.topology}")
    return " ".join(words)


def _days(span: timedelta) -> str:
    """Slurm's `days-hours:minutes:seconds`."""
    minutes, seconds = divmod(span.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{span.days}-{hours:02}:{minutes:02}:{seconds:02}"
