"""A chunk: one file with the same stretch of time of many nodes, a compressed block of codes for each.

    magic | blocks | index | trailer

The index names nodes in ascending order with offset and length of their blocks (fixed width, so that one node of
thousands is found without reading them all); the trailer says where the index is and holds its checksum. A block is
zlib over `rows, gpus, times` (little-endian), the serial numbers (JSON) and the codes; zlib's own checksum tells when
it is damaged. A chunk is written aside, synced and renamed: it is there whole or not at all, and never changed.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import structlog

from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.store.telemetry.rollup import Codes

MAGIC: Final = b"gpuaas-telemetry-1\n"
LEVEL: Final = 6
_INDEX: Final = np.dtype([("node", "S64"), ("offset", "<u8"), ("length", "<u4")])
_TRAILER: Final = struct.Struct("<QII")  # offset of the index, its bytes, its crc32
_BLOCK: Final = struct.Struct("<HHHI")  # rows, gpus, times, bytes of the serial numbers

log = structlog.get_logger(__name__)


class Damaged(Unavailable):
    """A chunk is not what was written."""


@dataclass(frozen=True, slots=True)
class Block:
    """`codes` are [rows, gpus, times]; `serials` are those of the GPUs."""

    serials: tuple[str | None, ...]
    codes: Codes

    def packed(self) -> bytes:
        serials = json.dumps(self.serials).encode()
        codes = np.ascontiguousarray(self.codes).tobytes()
        return zlib.compress(_BLOCK.pack(*self.codes.shape, len(serials)) + serials + codes, LEVEL)

    @classmethod
    def unpacked(cls, packed: bytes) -> Block:
        """
        Raises:
            ValueError: it is damaged.
        """
        try:
            raw = zlib.decompress(packed)
            rows, gpus, times, length = _BLOCK.unpack_from(raw)
            at = _BLOCK.size + length
            codes = np.frombuffer(raw, np.uint8, offset=at).reshape(rows, gpus, times)
            return cls(tuple(json.loads(raw[_BLOCK.size : at])), codes)
        except (zlib.error, struct.error) as error:
            raise ValueError(str(error)) from None


class ChunkWriter:
    """Writes one chunk. As a context manager: on a clean end the chunk is there and synced, else nothing is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name}.new")
        self._file = self._aside.open("wb")
        self._file.write(MAGIC)
        self._index: list[tuple[bytes, int, int]] = []

    def add(self, node: NodeName, block: Block) -> None:
        """Nodes come in ascending order."""
        packed = block.packed()
        self._index.append((node.encode(), self._file.tell(), len(packed)))
        self._file.write(packed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if kind is not None:
                self._aside.unlink(missing_ok=True)
                return
            index = np.array(self._index, _INDEX).tobytes()
            offset = self._file.tell()
            self._file.write(index + _TRAILER.pack(offset, len(index), zlib.crc32(index)))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._aside.replace(self._path)
        sync_folder(self._path.parent)


class Chunk:
    """An open chunk; a context manager. It stays readable when its file is deleted meanwhile.

    Raises:
        FileNotFoundError: there is none.
        Damaged: its end is not that of a chunk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._index = self._read_index()
        except (ValueError, struct.error) as error:
            self.close()
            raise Damaged(
                f"The telemetry file {path} is damaged ({error}).", way_out="Delete it: its time is unknown then."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    @property
    def nodes(self) -> tuple[NodeName, ...]:
        return tuple(NodeName.as_slurm_says(name.decode("ascii", "replace")) for name in self._index["node"])

    def read(self, node: NodeName) -> Block | None:
        """None when the chunk knows nothing of the node, or its block is damaged: unknown both times."""
        name = node.encode()
        place = int(np.searchsorted(self._index["node"], name))
        if place == len(self._index) or self._index["node"][place] != name:
            return None
        _name, offset, length = self._index[place]
        try:
            return Block.unpacked(os.pread(self._fd, int(length), int(offset)))
        except ValueError as error:
            log.warning("telemetry.damaged", file=str(self._path), node=node, error=str(error))
            return None

    def _read_index(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        size = os.fstat(self._fd).st_size
        trailer = os.pread(self._fd, _TRAILER.size, max(0, size - _TRAILER.size))
        offset, length, checksum = _TRAILER.unpack(trailer)
        if os.pread(self._fd, len(MAGIC), 0) != MAGIC or offset + length + _TRAILER.size != size:
            raise ValueError("it was cut off")
        index = os.pread(self._fd, length, offset)
        if zlib.crc32(index) != checksum:
            raise ValueError("its index does not match its checksum")
        return np.frombuffer(index, _INDEX)


def write_chunk(path: Path, blocks: Iterable[tuple[NodeName, Block]]) -> None:
    with ChunkWriter(path) as writer:
        for node, block in sorted(blocks, key=lambda item: item[0]):
            writer.add(node, block)


def sync_folder(folder: Path) -> None:
    """Bring renames in it to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
