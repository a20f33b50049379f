"""Pictures kept for days: append-only files of one hour, each beginning with a whole picture, then one delta a minute.

    records: length u32 | crc32 u32 | picture as `fleet_map` writes it

A record that was cut off by a crash ends what can be read of its file; the next start begins a new one. Nothing is ever
changed, files older than `keep` are deleted whole. Times are those of the pictures; a layout that changed begins a new
file, and what was recorded under another layout than the present is not shown.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from slurm_gpuaas.domain.fleet_map import HEAD_BYTES, Head, Picture, delta, head, read, whole

KEEP: Final = timedelta(days=7)
STEP: Final = timedelta(minutes=1)
GAP: Final = 5 * STEP
FILE_SPAN: Final = timedelta(hours=1)
_RECORD: Final = struct.Struct("<II")
_NAME: Final = "%Y%m%dT%H%M%S.%f"
MAX_RECORD: Final = 64 * 2**20

log = structlog.get_logger(__name__)


class MapHistory:
    """The files in `folder`; one process writes them."""

    def __init__(self, folder: Path, *, keep: timedelta = KEEP) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._keep = keep
        self._file: BinaryIO | None = None
        self._began = datetime.min.replace(tzinfo=UTC)
        self._last: Picture | None = None
        self._spans: list[tuple[int, datetime, datetime]] = []
        for path in self._files():
            for top in _heads(path):
                self._extend(top.layout, top.moment)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._last = None

    def add(self, picture: Picture) -> bool:
        """Write a picture down, unless the last one is younger than `STEP`. True when it was written.

        Raises:
            OSError: it could not be written; after `close` the next one begins a new file.
        """
        last = self._last
        same = last is not None and last.layout == picture.layout
        if last is not None and same and timedelta(0) <= picture.moment - last.moment < STEP:
            return False
        if last is None or self._ends(last, picture):
            self._begin(picture)
            data = whole(picture)
        else:
            data = delta(last, picture)
        assert self._file is not None
        record = _RECORD.pack(len(data), zlib.crc32(data)) + data
        if self._file.write(record) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._last = picture
        self._extend(picture.layout, picture.moment)
        return True

    def _ends(self, last: Picture, picture: Picture) -> bool:
        return (
            picture.layout != last.layout
            or picture.moment < last.moment
            or picture.moment - self._began >= FILE_SPAN
            or picture.sequence <= last.sequence
        )

    def _begin(self, picture: Picture) -> None:
        self.close()
        self._began = picture.moment
        moment = picture.moment.astimezone(UTC).strftime(_NAME)
        path = self._folder / f"{moment}-{picture.layout:08x}.gmap"
        self._file = path.open("wb", buffering=0)
        for old in self._files():
            if picture.moment - _moment_of(old) > self._keep + FILE_SPAN:
                old.unlink(missing_ok=True)
        oldest = picture.moment - self._keep - FILE_SPAN
        self._spans = [(one, max(begin, oldest), end) for one, begin, end in self._spans if end > oldest]

    def pictures(self, layout: int, begin: datetime, end: datetime) -> Iterator[Picture]:
        """Pictures of this layout from the last at or before `begin` to the last before `end`, in order of time."""
        before: Picture | None = None
        for path in self._covering(begin, end):
            for picture in self._read(path, layout):
                if picture.moment >= end:
                    break
                if picture.moment <= begin:
                    before = picture
                    continue
                if before is not None:
                    yield before
                    before = None
                yield picture
        if before is not None:
            yield before

    def spans(self, layout: int) -> list[tuple[datetime, datetime]]:
        """From when to when there are pictures of a layout, without gaps of more than `GAP`."""
        return [(begin, end) for known, begin, end in self._spans if known == layout]

    def _extend(self, layout: int, moment: datetime) -> None:
        if self._spans:
            known, begin, end = self._spans[-1]
            if known == layout and timedelta(0) <= moment - end <= GAP:
                self._spans[-1] = (layout, begin, moment)
                return
        self._spans.append((layout, moment, moment))

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self._files())

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.gmap"))

    def _covering(self, begin: datetime, end: datetime) -> list[Path]:
        """Files with pictures between, and the one before them, whose last picture may be the one at `begin`."""
        files = [path for path in self._files() if _moment_of(path) < end]
        first = next((n for n in range(len(files) - 1, -1, -1) if _moment_of(files[n]) <= begin), 0)
        return files[first:]

    def _read(self, path: Path, layout: int) -> Iterator[Picture]:
        picture: Picture | None = None
        for data in _records(path):
            try:
                if head(data).layout != layout:
                    return
                picture = read(data, picture)
            except ValueError as error:
                log.warning("map-history.damaged", file=path.name, error=str(error))
                return
            yield picture


def _moment_of(path: Path) -> datetime:
    return datetime.strptime(path.name.partition("-")[0], _NAME).replace(tzinfo=UTC)


def _heads(path: Path) -> Iterator[Head]:
    """Heads of the records, unchecked beyond themselves: enough to know from when there are pictures."""
    with path.open("rb") as file:
        while len(start := file.read(_RECORD.size + HEAD_BYTES)) == _RECORD.size + HEAD_BYTES:
            length, _checksum = _RECORD.unpack_from(start)
            try:
                yield head(start[_RECORD.size :])
            except ValueError:
                return
            file.seek(max(0, length - HEAD_BYTES), os.SEEK_CUR)


def _records(path: Path) -> Iterator[bytes]:
    """Records up to the first that is not whole."""
    with path.open("rb") as file:
        while len(prefix := file.read(_RECORD.size)) == _RECORD.size:
            length, checksum = _RECORD.unpack(prefix)
            data = file.read(length) if length <= MAX_RECORD else b""
            if len(data) != length or zlib.crc32(data) != checksum:
                log.warning("map-history.cut-off", file=path.name)
                return
            yield data
