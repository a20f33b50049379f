"""The picture of the cluster map as values: where each GPU stands, what is known of it, and how that crosses a wire.

A fleet is clusters, units (nodes under one leaf switch or NVLink rack), nodes in rack order, GPUs: one *cell* a GPU,
numbered in that order. What is known of all cells at one moment is a `Picture`: seven planes of numbers (`Cells`) and a
table of the jobs, incidents and sites that they refer to. `whole` and `delta` write pictures as bytes, `read` reads
them; static/codec.js reads the same. docs/design/0027 says why it is so.

Bytes of a picture, little-endian:

    "GMAP" | version u8 | kind u8 (1 whole, 2 delta) | 0 u16 | layout u32 | sequence u32 | base u32 | moment u64 (ms)
    | cells u32 | length of the table u32 | zlib(planes, table)

Planes stand one after the other (`PLANES`). A whole picture holds them and its table as they are; a delta holds them
XOR those of the picture `base`, and the table as an RFC 7396 merge patch. `layout` is the layout's number: a page whose
layout differs must fetch the new one.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, IntFlag
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import ClusterName, GpuModel, NodeName, ProviderName, ShareName

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint16]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Table = Mapping[str, Any]
"""JSON objects within JSON objects; no nulls, since a merge patch could not carry them."""

MAX_CELLS: Final = 131_072
"""Ten times the national pool."""
MAX_TABLE_BYTES: Final = 32 * 2**20
UNKNOWN_BYTE: Final = 255
UNKNOWN_IDLE: Final = 65_535
NO_JOB: Final = 0
WATTS_A_STEP: Final = 10


class CellState(IntEnum):
    """Whether a job could have the GPU."""

    UNKNOWN = 0
    FREE = 1
    BUSY = 2
    """A job of the table holds it, whether it uses it or not."""
    RESERVED = 3
    """Free, and kept for somebody."""
    DRAINING = 4
    """A job still holds it; no other will."""
    DRAINED = 5
    DOWN = 6
    MAINTENANCE = 7
    TAKEN = 8
    """In use by somebody whom the viewer may not know. No site says so; masking does."""


class Severity(IntEnum):
    """Lowest two bits of the health plane."""

    OK = 0
    NOTICE = 1
    DECISION = 2
    """A person must decide."""
    FAULT = 3


class Sign(IntFlag):
    """Higher bits of the health plane: what was seen within a day."""

    ECC = 4
    NVLINK = 8
    INFINIBAND = 16
    HEAT = 32
    XID = 64


SEVERITY_BITS: Final = 3

PLANES: Final = (("idle", 2), ("job", 2), ("state", 1), ("health", 1), ("use", 1), ("power", 1), ("heat", 1))
"""Name and bytes a cell, in the order of the wire. The wider ones come first, so that they are aligned."""
CELL_BYTES: Final = sum(width for _name, width in PLANES)


class Cells:
    """Planes over `count` cells, views of one buffer.

    Attributes:
        idle: minutes since the GPU last did work; 0 = it works, `UNKNOWN_IDLE` = not known (also longer than 45 days).
        job: slot of the job that holds it in the table's `jobs`; 0 = none.
        state, health: `CellState`; `Severity` and `Sign`.
        use: percent of the time in which a kernel ran on it (NVML's utilisation); 255 = not known.
        power: in steps of 10 W; 255 = not known.
        heat: degrees Celsius; 255 = not known.
    """

    __slots__ = ("count", "health", "heat", "idle", "job", "power", "raw", "state", "use")

    idle: Words
    job: Words
    state: Bytes
    health: Bytes
    use: Bytes
    power: Bytes
    heat: Bytes

    def __init__(self, raw: Bytes) -> None:
        self.raw = raw
        self.count = len(raw) // CELL_BYTES
        at = 0
        for name, width in PLANES:
            plane = raw[at : at + width * self.count]
            setattr(self, name, plane.view("<u2") if width == 2 else plane)
            at += width * self.count

    @classmethod
    def unknown(cls, count: int) -> Self:
        cells = cls(np.zeros(count * CELL_BYTES, np.uint8))
        cells.idle[:] = UNKNOWN_IDLE
        for plane in (cells.use, cells.power, cells.heat):
            plane[:] = UNKNOWN_BYTE
        return cells

    def copy(self) -> Self:
        return type(self)(self.raw.copy())

    def put(self, first: int, part: Cells) -> None:
        """Write `part` over the cells from `first` on."""
        for name, _width in PLANES:
            getattr(self, name)[first : first + part.count] = getattr(part, name)


# -- Layout ------------------------------------------------------------------------------------------------------------


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MapUnit(_Value):
    """Nodes under one leaf switch, or in one NVLink rack, in rack order. `shares` says whose each node is."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")
    nodes: tuple[NodeName, ...] = Field(min_length=1, max_length=4_096)
    shares: tuple[ShareName, ...] = Field(min_length=1, max_length=4_096)

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if len(self.nodes) != len(self.shares):
            raise InvalidInput(
                f"Unit {self.name} has {len(self.nodes)} nodes and {len(self.shares)} shares.",
                way_out="Name the share of each node.",
            )
        return self


class SiteLayout(_Value):
    """One cluster as its site describes it; sent when it changes."""

    name: ClusterName
    model: GpuModel
    gpus_per_node: int = Field(ge=1, le=16)
    units: tuple[MapUnit, ...] = Field(min_length=1, max_length=2_048)
    won_per_gpu_hour: int | None = Field(default=None, ge=0, le=10_000_000)
    uuid_tails: tuple[str, ...] = Field(
        default=(), max_length=MAX_CELLS, description="Last characters of each GPU's UUID in cell order, or nothing."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        nodes = self.nodes
        if len(nodes) * self.gpus_per_node > MAX_CELLS:
            raise InvalidInput(
                f"Cluster {self.name} has {len(nodes) * self.gpus_per_node:,} GPUs; the map takes {MAX_CELLS:,}.",
                way_out="Divide it into several clusters.",
            )
        if len(set(nodes)) != len(nodes):
            raise InvalidInput(f"Cluster {self.name} names a node twice.", way_out="Name each node in one unit.")
        if self.uuid_tails and len(self.uuid_tails) != len(nodes) * self.gpus_per_node:
            raise InvalidInput(
                f"Cluster {self.name} has {len(nodes) * self.gpus_per_node} GPUs and {len(self.uuid_tails)} UUIDs.",
                way_out="Give one for each GPU, or none.",
            )
        if any(len(tail) > 12 or not tail.isalnum() for tail in self.uuid_tails):
            raise InvalidInput(f"Cluster {self.name} has a strange UUID.", way_out="Give its last 4 to 12 characters.")
        return self

    @cached_property
    def nodes(self) -> tuple[NodeName, ...]:
        return tuple(node for unit in self.units for node in unit.nodes)

    @cached_property
    def place(self) -> Mapping[NodeName, int]:
        """Number of each node within the cluster."""
        return {node: number for number, node in enumerate(self.nodes)}

    @cached_property
    def number(self) -> int:
        """Tells one layout of a cluster from another. The provider is no part of it: the site does not know it."""
        return zlib.crc32(self.model_dump_json(exclude={"provider"}).encode())

    @property
    def cells(self) -> int:
        return len(self.nodes) * self.gpus_per_node


class MapCluster(SiteLayout):
    """A cluster with who provides it, in the portal's word."""

    provider: ProviderName

    @classmethod
    def of(cls, layout: SiteLayout, *, provider: ProviderName) -> Self:
        """What a site described, with the portal's word for its provider."""
        told = {name: getattr(layout, name) for name in SiteLayout.model_fields}
        return cls(**told, provider=provider)


@dataclass(frozen=True)
class FleetLayout:
    """All clusters, in the order in which they are drawn."""

    clusters: tuple[MapCluster, ...] = ()

    @cached_property
    def cells(self) -> int:
        return sum(cluster.cells for cluster in self.clusters)

    @cached_property
    def first(self) -> Mapping[ClusterName, int]:
        """First cell of each cluster."""
        firsts, at = {}, 0
        for cluster in self.clusters:
            firsts[cluster.name] = at
            at += cluster.cells
        return firsts

    @cached_property
    def number(self) -> int:
        return zlib.crc32(b"".join(cluster.number.to_bytes(4, "little") for cluster in self.clusters))

    def cluster(self, name: str) -> MapCluster | None:
        return next((cluster for cluster in self.clusters if cluster.name == name), None)

    def part(self, cluster: MapCluster) -> slice:
        """Where the cells of one of its clusters are."""
        first = self.first[cluster.name]
        return slice(first, first + cluster.cells)

    def of_node(self, cluster: MapCluster, node: NodeName) -> slice:
        """Where the cells of a node are.

        Raises:
            KeyError: the cluster has no such node.
        """
        first = self.first[cluster.name] + cluster.place[node] * cluster.gpus_per_node
        return slice(first, first + cluster.gpus_per_node)


# -- Pictures and their bytes ------------------------------------------------------------------------------------------

MAGIC: Final = b"GMAP"
VERSION: Final = 1
LEVEL: Final = 4
"""zlib's. 6 costs twice the time for 3 % fewer bytes of such planes."""
_HEADER: Final = struct.Struct("<4sBBHIIIQII")
HEAD_BYTES: Final = _HEADER.size
_WHOLE, _DELTA = 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What is known of a fleet at `moment`; `sequence` grows with each picture of one source.

    `table` holds `jobs` (slot to row), `incidents` (id to row), `sites` (cluster to row) and `rail`.
    """

    layout: int
    sequence: int
    moment: datetime
    cells: Cells
    table: Table = field(default_factory=dict)


def whole(picture: Picture) -> bytes:
    return _written(picture, _WHOLE, 0, picture.cells.raw.tobytes(), picture.table)


def delta(before: Picture, after: Picture) -> bytes:
    """What turns `before` into `after`.

    Raises:
        ValueError: they are pictures of different layouts.
    """
    if before.layout != after.layout or before.cells.count != after.cells.count:
        raise ValueError("pictures of different layouts have no difference")
    planes = (before.cells.raw ^ after.cells.raw).tobytes()
    return _written(after, _DELTA, before.sequence, planes, merge_patch(before.table, after.table))


def _written(picture: Picture, kind: int, base: int, planes: bytes, table: Table) -> bytes:
    told = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    moment = round(picture.moment.timestamp() * 1000)
    header = _HEADER.pack(
        MAGIC, VERSION, kind, 0, picture.layout, picture.sequence, base, moment, picture.cells.count, len(told)
    )
    return header + zlib.compress(planes + told, LEVEL)


@dataclass(frozen=True, slots=True)
class Head:
    """What the first bytes of a picture say."""

    kind: int
    layout: int
    sequence: int
    base: int
    moment: datetime
    cells: int
    table_bytes: int

    @property
    def is_whole(self) -> bool:
        return self.kind == _WHOLE


def head(data: bytes) -> Head:
    """
    Raises:
        ValueError: it is no picture of a version that we know, or larger than any we write.
    """
    if len(data) < _HEADER.size:
        raise ValueError("it is shorter than a header")
    magic, version, kind, _zero, layout, sequence, base, moment, cells, told = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or kind not in {_WHOLE, _DELTA}:
        raise ValueError("it is no picture of version 1")
    if cells > MAX_CELLS or told > MAX_TABLE_BYTES or moment >= 2**42:
        raise ValueError("it is larger than a picture can be")
    return Head(kind, layout, sequence, base, datetime.fromtimestamp(moment / 1000, UTC), cells, told)


def read(data: bytes, base: Picture | None = None) -> Picture:
    """The picture that `data` holds; `base` is the one before, which a delta needs.

    Raises:
        ValueError: it is damaged, or a delta of another picture than `base`.
    """
    top = head(data)
    size = top.cells * CELL_BYTES
    body = inflated(data[_HEADER.size :], size + top.table_bytes)
    planes = np.frombuffer(body, np.uint8, count=size).copy()
    table = json.loads(body[size:])
    if not isinstance(table, dict):
        raise ValueError("its table is no object")  # noqa: TRY004  # damaged data, whatever the kind
    if not top.is_whole:
        if base is None or (base.sequence, base.layout, base.cells.count) != (top.base, top.layout, top.cells):
            raise ValueError(f"it is the difference to picture {top.base}")
        planes ^= base.cells.raw
        table = merged(base.table, table)
    return Picture(top.layout, top.sequence, top.moment, Cells(planes), table)


def inflated(data: bytes, size: int) -> bytes:
    """What zlib made `data` of, if that is exactly `size` bytes; never makes more than a byte beyond.

    Raises:
        ValueError: it is not.
    """
    unpacking = zlib.decompressobj()
    try:
        body = unpacking.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(body) != size or not unpacking.eof:
        raise ValueError(f"it does not hold the {size} bytes that it should")
    return body


def merge_patch(before: Table, after: Table) -> dict[str, Any]:
    """The RFC 7396 patch that turns `before` into `after`."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        was = before.get(key)
        if was is value or (key in before and was == value):
            continue
        patch[key] = merge_patch(was, value) if isinstance(was, Mapping) and isinstance(value, Mapping) else value
    return patch


def merged(table: Table, patch: Table) -> dict[str, Any]:
    """`table` with an RFC 7396 patch applied; `table` stays as it is."""
    result = dict(table)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            was = result.get(key)
            result[key] = merged(was if isinstance(was, Mapping) else {}, value)
        else:
            result[key] = value
    return result
