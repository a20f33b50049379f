"""Samples as tests write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import METRICS, SLOT_S, UNKNOWN, Metric, SampleBatch

NODE = NodeName("b200-001")
NOW = datetime(2027, 1, 4, 9, 0, tzinfo=UTC)
SERIALS = ("1650000000001", "1650000000002")


def batch(
    at: datetime,
    busy: Sequence[Sequence[int]],
    *,
    node: str = NODE,
    serials: Sequence[str | None] | None = None,
    rest: Mapping[Metric, int] | None = None,
) -> SampleBatch:
    """Consecutive slots from `at` on; `busy` are codes by GPU, the other metrics the same code everywhere."""
    gpus, slots = len(busy), len(busy[0])
    values = [busy[gpu][slot] for slot in range(slots) for gpu in range(gpus)]
    for metric in METRICS[1:]:
        values += [(rest or {}).get(metric, UNKNOWN)] * (gpus * slots)
    return SampleBatch(
        node=NodeName(node),
        first=int(at.timestamp()) // SLOT_S * SLOT_S,
        serials=tuple(serials if serials is not None else (None,) * gpus),
        values=bytes(values),
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
