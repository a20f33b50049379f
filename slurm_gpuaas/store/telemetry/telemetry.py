"""Keeps samples of GPUs: by the minute, later partly by the hour, for a time.

    log/2026-11-27T13         batches of an hour that is being filled
    hour/2026-11-27T13        its minutes, all metrics
    busy/2026-11-26           a day's minutes of `busy`
    rest/2026-11-26           a day's minutes of the other metrics
    rest-hours/2026-11-26     their hours

A log becomes an hour's chunk a quarter of an hour after the hour, 24 chunks a day's when no sample of that day is taken
any more; whole days are deleted. Each step writes the new before it deletes the old and may be done again, so a crash
between any two steps costs nothing. Days and hours are UTC.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from slurm_gpuaas.domain.errors import InvalidInput, Unavailable
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import NEWEST_SAMPLE, OLDEST_SAMPLE, SLOT_S, UNKNOWN, SampleBatch
from slurm_gpuaas.store.telemetry.chunk import Block, Chunk, ChunkWriter, Damaged
from slurm_gpuaas.store.telemetry.recent import OpenHour
from slurm_gpuaas.store.telemetry.rollup import SAMPLES, Codes, mean_of, merged, unknown_minutes

FloatCodes = NDArray[np.float64]
DAY_MINUTES: Final = 1440
SEAL_AFTER: Final = timedelta(minutes=15)
"""An hour is written to its chunk so long after its end; what comes later is merged into it."""
RECENT: Final = timedelta(minutes=2)
"""What counts as now: agents send once a minute."""
COMPACT_AFTER: Final = OLDEST_SAMPLE + timedelta(minutes=30)
"""A day is put together so long after its end: by then no sample of it is taken or waits in a log."""

_BUSY, _REST, _REST_HOURS, _HOUR, _LOG = "busy", "rest", "rest-hours", "hour", "log"
_DAY_NAME: Final = re.compile(r"\d{4}-\d\d-\d\d")
_HOUR_NAME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long what is kept. `busy` by the minute; the rest by the minute for `rest_minutes`, by the hour as long as
    `busy`."""

    busy: timedelta = timedelta(days=90)
    rest_minutes: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class BusyDay:
    """Minutes [gpus, DAY_MINUTES] of one node: codes of `busy`, and how many samples of each are known."""

    serials: tuple[str | None, ...]
    busy: Codes
    samples: Codes


class Telemetry:
    """Args:
    folder: made when missing. Of one process at a time (the leader's).
    """

    def __init__(self, folder: Path, keep: Keep = Keep()) -> None:
        self._folder = folder
        self._keep = keep
        self._open_lock = threading.Lock()
        """Held for one batch, and to list or drop open hours."""
        self._files_lock = threading.Lock()
        """Held to open a day's chunks, and to replace hours by days."""
        self._open: dict[int, OpenHour] = {}
        try:
            for name in (_BUSY, _REST, _REST_HOURS, _HOUR, _LOG):
                (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in self._in(_LOG):
                number = _hour_number(datetime.fromisoformat(f"{path.name}:00+00:00"))
                self._open[number] = OpenHour(number, path)
        except OSError as error:
            raise _unusable(folder, error) from None

    def close(self) -> None:
        with self._open_lock:
            for hour in self._open.values():
                try:
                    hour.sync()
                except OSError as error:
                    log.warning("telemetry.unsynced", file=str(hour.path), error=str(error))
                hour.close()
            self._open.clear()

    # -- Writing

    def add(self, batch: SampleBatch, *, now: datetime) -> int:
        """Keep a batch; gives its number of slots. The same batch again changes nothing.

        Raises:
            InvalidInput: it is of a time that is too old, or ahead of ours.
            Unavailable: the log cannot be written; not all of it is kept.
        """
        first, last = batch.first, batch.first + batch.slots * SLOT_S
        if first < (now - OLDEST_SAMPLE).timestamp() or last - SLOT_S > (now + NEWEST_SAMPLE).timestamp():
            raise InvalidInput(
                f"Samples of node {batch.node} from {_moment(first)} to {_moment(last)} are not taken at {now:%FT%TZ}.",
                way_out="At most a day old and five minutes ahead; synchronise the clocks.",
            )
        hours = range(first // 3600, (last - 1) // 3600 + 1)
        try:
            with self._open_lock:
                for number in hours:
                    if number not in self._open:
                        self._open[number] = OpenHour(number, self._folder / _LOG / _hour_name(number))
                    self._open[number].add(batch)
        except OSError as error:
            raise _unusable(self._folder, error) from None
        return batch.slots

    def tick(self, *, now: datetime) -> None:
        """Sync logs; write hours that are over, put days together, delete what is old.

        Raises:
            Unavailable: the disk does not take it; the next tick goes on.
        """
        try:
            with self._open_lock:
                hours = sorted(self._open.values(), key=lambda hour: hour.number)
            for hour in hours:
                hour.sync()
            for hour in hours:
                if now >= _hour_begin(hour.number + 1) + SEAL_AFTER:
                    self._seal(hour)
            for day in sorted({_day_of(path) for path in self._in(_HOUR)}):
                if now >= _begin(day + timedelta(days=1)) + COMPACT_AFTER:
                    self._compact(day)
            self._forget(now)
        except OSError as error:
            raise _unusable(self._folder, error) from None

    def _seal(self, hour: OpenHour) -> None:
        """Write an hour's chunk, with what an earlier one has; then let go of its log, unless more came meanwhile."""
        with self._open_lock:
            written, told = hour.written, hour.nodes()
        path = self._folder / _HOUR / _hour_name(hour.number)
        with ExitStack() as opened:
            before = _opened(opened, path)
            names = sorted({*told, *(before.nodes if before else ())})
            with ChunkWriter(path) as writer:
                for node in names:
                    block = _joined(before.read(node) if before else None, hour.minutes(node))
                    if block is not None:
                        writer.add(node, block)
        with self._open_lock:
            if hour.written == written:
                del self._open[hour.number]
                hour.close()
                hour.path.unlink()

    def _compact(self, day: date) -> None:
        """Three chunks of a day in place of its hours. The last of the three says that all are there."""
        name = day.isoformat()
        hours = [path for path in self._in(_HOUR) if _day_of(path) == day]
        if not (self._folder / _REST_HOURS / name).exists():
            with ExitStack() as opened:
                chunks = {_hour_of(path): chunk for path in hours if (chunk := _opened(opened, path))}
                names = sorted({node for chunk in chunks.values() for node in chunk.nodes})
                # Left in the opposite order: the one that says that all are there is renamed last.
                rest_hours, rest, busy = (
                    opened.enter_context(ChunkWriter(self._folder / kind / name))
                    for kind in (_REST_HOURS, _REST, _BUSY)
                )
                for node in names:
                    minutes = _day(chunk_blocks(chunks, node))
                    table = minutes.codes
                    busy.add(node, Block(minutes.serials, table[[0, SAMPLES]]))
                    rest.add(node, Block(minutes.serials, table[1:SAMPLES]))
                    rest_hours.add(node, Block(minutes.serials, mean_of(table[1:SAMPLES], 60)[0]))
        with self._files_lock:
            for path in hours:
                path.unlink()

    def _forget(self, now: datetime) -> None:
        for kind, kept in ((_BUSY, self._keep.busy), (_REST, self._keep.rest_minutes), (_REST_HOURS, self._keep.busy)):
            for path in self._in(kind):
                if _begin(_day_of(path) + timedelta(days=1)) + kept <= now:
                    path.unlink()

    # -- Reading

    def busy(self, day: date, nodes: Iterable[NodeName]) -> Iterator[tuple[NodeName, BusyDay]]:
        """How busy the GPUs of nodes were on a day. A node of which nothing is known is left out."""
        with ExitStack() as opened:
            whole, hours, recent = self._sources(opened, day, _BUSY)
            for node in nodes:
                if whole is not None:
                    if (block := whole.read(node)) is not None:
                        yield node, BusyDay(block.serials, block.codes[0], block.codes[1])
                elif blocks := _hour_blocks(hours, recent, node):
                    minutes = _day(blocks)
                    yield node, BusyDay(minutes.serials, minutes.codes[0], minutes.codes[SAMPLES])

    def recent(self, nodes: Iterable[NodeName], *, now: datetime) -> Iterator[tuple[NodeName, FloatCodes]]:
        """The mean of each metric of each GPU [metrics, gpus] over the last `RECENT`, in steps of its code; NaN where
        nothing is known. Nodes that told nothing are left out. Reads memory alone."""
        end = int(now.timestamp()) // SLOT_S + 1
        first = end - int(RECENT.total_seconds()) // SLOT_S
        with self._open_lock:
            hours = sorted(self._open.values(), key=lambda hour: hour.number)[-2:]
        alike: dict[tuple[int, ...], list[tuple[NodeName, Codes]]] = defaultdict(list)
        for node in nodes:
            parts = [part for hour in hours if (part := hour.slots(node, first, end)) is not None]
            if parts:
                gpus = max(part.shape[1] for part in parts)
                codes = np.concatenate([_widened(part, gpus) for part in parts], axis=2)
                alike[codes.shape].append((node, codes))
        # All nodes of a shape at once: one by one takes ten times as long.
        for found in alike.values():
            codes = np.stack([codes for _, codes in found])
            known = codes != UNKNOWN
            counts = known.sum(axis=3)
            with np.errstate(invalid="ignore"):
                means = np.where(known, codes, 0).sum(axis=3) / counts
            told = counts.any(axis=(1, 2))
            yield from ((node, mean) for (node, _), mean, any_of in zip(found, means, told, strict=True) if any_of)

    def rest(self, day: date, node: NodeName) -> Block | None:
        """The other metrics of a node on a day: codes [metrics but busy, gpus, minutes or hours]; None when nothing is
        known."""
        with ExitStack() as opened:
            whole, hours, recent = self._sources(opened, day, _REST)
            if whole is not None:
                return whole.read(node)
            if blocks := _hour_blocks(hours, recent, node):
                minutes = _day(blocks)
                return Block(minutes.serials, minutes.codes[1:SAMPLES])
        with ExitStack() as opened:
            chunk = _opened(opened, self._folder / _REST_HOURS / day.isoformat())
            return chunk.read(node) if chunk else None

    def _sources(
        self, opened: ExitStack, day: date, kind: str
    ) -> tuple[Chunk | None, Mapping[int, Chunk], Sequence[OpenHour]]:
        """The day's chunk; or the chunks of its hours and the hours in memory. Memory is looked at first: an hour that
        leaves it has its chunk by then."""
        first = int(_begin(day).timestamp()) // 3600
        with self._open_lock:
            recent = [hour for number, hour in self._open.items() if first <= number < first + 24]
        with self._files_lock:
            if (whole := _opened(opened, self._folder / kind / day.isoformat())) is not None:
                return whole, {}, ()
            paths = (self._folder / _HOUR / _hour_name(first + number) for number in range(24))
            chunks = {number: chunk for number, path in enumerate(paths) if (chunk := _opened(opened, path))}
        return None, chunks, recent

    def _in(self, kind: str) -> list[Path]:
        """Files of a kind, the oldest first; what a crash left aside, or is not ours, is not among them."""
        name = _HOUR_NAME if kind in (_HOUR, _LOG) else _DAY_NAME
        return sorted(path for path in (self._folder / kind).iterdir() if name.fullmatch(path.name))


def _widened(codes: Codes, gpus: int) -> Codes:
    """With unknown GPUs added."""
    if codes.shape[1] == gpus:
        return codes
    more = np.full((codes.shape[0], gpus - codes.shape[1], codes.shape[2]), UNKNOWN, np.uint8)
    return np.concatenate([codes, more], axis=1)


def chunk_blocks(chunks: Mapping[int, Chunk], node: NodeName) -> dict[int, Block]:
    """A node's blocks by hour of the day."""
    return {number: block for number, chunk in chunks.items() if (block := chunk.read(node)) is not None}


def _hour_blocks(chunks: Mapping[int, Chunk], recent: Sequence[OpenHour], node: NodeName) -> dict[int, Block]:
    blocks = chunk_blocks(chunks, node)
    for hour in recent:
        number = hour.number % 24
        if (block := _joined(blocks.get(number), hour.minutes(node))) is not None:
            blocks[number] = block
    return blocks


def _joined(older: Block | None, newer: Block | None) -> Block | None:
    if older is None or newer is None:
        return older or newer
    return Block(_serials([older, newer]), merged(older.codes, newer.codes))


def _day(blocks: Mapping[int, Block]) -> Block:
    """A node's minutes of a day from those of its hours; hours without any are unknown."""
    gpus = max((block.codes.shape[1] for block in blocks.values()), default=0)
    table = unknown_minutes(gpus, DAY_MINUTES)
    for number, block in blocks.items():
        table[:, : block.codes.shape[1], number * 60 : (number + 1) * 60] = block.codes
    return Block(_serials([blocks[number] for number in sorted(blocks)]), table)


def _serials(blocks: Sequence[Block]) -> tuple[str | None, ...]:
    """Those that were told last."""
    known: list[str | None] = [None] * max((block.codes.shape[1] for block in blocks), default=0)
    for block in blocks:
        for gpu, serial in enumerate(block.serials):
            known[gpu] = serial or known[gpu]
    return tuple(known)


def _opened(stack: ExitStack, path: Path) -> Chunk | None:
    """None when there is none, or a damaged one: its time is unknown then."""
    try:
        return stack.enter_context(Chunk(path))
    except FileNotFoundError:
        return None
    except Damaged as error:
        log.warning("telemetry.damaged", file=str(path), error=error.message)
        return None


def _unusable(folder: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"Telemetry in {folder} cannot be used: {error.strerror or error}.",
        way_out="Make room on the disk, and give the folder to gpuaasd's user.",
    )


def _begin(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _hour_begin(number: int) -> datetime:
    return datetime.fromtimestamp(number * 3600, UTC)


def _hour_number(moment: datetime) -> int:
    return int(moment.timestamp()) // 3600


def _hour_name(number: int) -> str:
    return f"{_hour_begin(number):%Y-%m-%dT%H}"


def _day_of(path: Path) -> date:
    return date.fromisoformat(path.name[:10])


def _hour_of(path: Path) -> int:
    return int(path.name[11:13])


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%FT%TZ}"
