"""Readers of the portal: open maps, and requests that come when they come, whether or not the last ones were answered.

A request's time begins when it was due, so a server that falls behind pays for everybody who waits. Answers must be
200 with a body of their own: no 304 counts, and nothing is asked for conditionally.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from slurm_gpuaas.portal.visit import Cookies
from tests.bench.portal_pool import National, Seat

HOST: Final = "gpu.example.org"
SESSION: Final = Cookies(protected=True).session
LONGEST_S: Final = 20.0
KEPT_S: Final = 3.0
"""A connection that was idle for longer is not used again: uvicorn closes it after 5 s."""

Path_ = Callable[[National, Seat, random.Random], str]


def _fixed(path: str) -> Path_:
    return lambda national, seat, chosen: path


def _one(prefix: str, among: Callable[[National], dict[str, Sequence[str]]], suffix: str = "") -> Path_:
    def path(national: National, seat: Seat, chosen: random.Random) -> str:
        of = seat.organisation or chosen.choice(sorted(among(national)))
        return f"{prefix}/{chosen.choice(among(national)[of])}{suffix}"

    return path


@dataclass(frozen=True, slots=True)
class Kind:
    """
    Args:
        weight: of 100 requests.
        roles: who asks; as often as there are people of them.
    """

    name: str
    weight: int
    path: Path_
    roles: tuple[str, ...]


PEOPLE: Final = ("researcher", "tenant-admin")
OFFICE: Final = ("government", "auditor")
PROVIDER: Final = ("provider-operator", "provider-billing")
WATCHING: Final = (*PEOPLE, *OFFICE, "provider-operator")
"""Who has a map open. The office's updates tell of each job, a tenant's of its own."""
EVERYBODY: Final = (*PEOPLE, *OFFICE, *PROVIDER)
MIX: Final = (
    Kind("home page", 15, _fixed("/"), EVERYBODY),
    Kind("applications page", 10, _fixed("/applications"), PEOPLE),
    Kind("review desk", 3, _fixed("/reviews"), ("government",)),
    Kind("grants page", 12, _fixed("/grants"), (*PEOPLE, *OFFICE)),
    Kind("grant page", 10, _one("/grants", lambda one: one.grants), ("tenant-admin", "government")),
    Kind("jobs page", 8, _fixed("/jobs"), ("researcher", "tenant-admin", "provider-operator")),
    Kind("map: state", 8, _fixed("/api/v1/map"), (*PEOPLE, *OFFICE)),
    Kind("map: picture", 2, _fixed("/map/picture"), ("tenant-admin",)),
    Kind("statements page", 7, _fixed("/statements"), ("tenant-admin", "government", "auditor", "provider-billing")),
    Kind("API: grants", 7, _fixed("/api/v1/grants?limit=50"), EVERYBODY),
    Kind("API: applications", 5, _fixed("/api/v1/applications?limit=50"), (*PEOPLE, *OFFICE)),
    Kind("API: offers", 4, _fixed("/api/v1/offers?limit=50"), (*PEOPLE, *OFFICE)),
    Kind("API: usage", 4, _fixed("/api/v1/usage"), ("tenant-admin", "government")),
    Kind("API: who am I", 5, _fixed("/api/v1/me"), EVERYBODY),
)


@dataclass(frozen=True, slots=True)
class Open:
    """A connection that waits for its next request since a moment of `perf_counter`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since: float


@dataclass
class Load:
    """What was seen. `times`: seconds of each answered request by kind."""

    times: dict[str, list[float]] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    late: int = 0
    map_bytes: int = 0
    maps: int = 0

    def all(self) -> list[float]:
        return [one for times in self.times.values() for one in times]


def load(
    port: int, national: National, *, rate: float, seconds: float, warm: float, maps: int, mix: Sequence[Kind] = MIX
) -> Load:
    """Requests at `rate` a second for `seconds`, after `warm` seconds that do not count, beside open maps."""
    return asyncio.run(_load(port, national, rate, seconds, warm, maps, mix))


async def _load(
    port: int, national: National, rate: float, seconds: float, warm: float, maps: int, mix: Sequence[Kind]
) -> Load:
    seen = Load()
    watching = [seat for seat in national.seats if seat.role in WATCHING]
    seats = [watching[n * len(watching) // maps] for n in range(maps)]
    streams = [asyncio.create_task(_map(port, seat, seen)) for seat in seats]
    try:
        await _until(lambda: seen.maps == maps, "all maps are open")
        await _requests(port, national, rate, warm, mix, Load())
        await _requests(port, national, rate, seconds, mix, seen)
        ended = [stream for stream in streams if stream.done()]
        assert not ended, f"{len(ended)} maps were closed: {ended[0].exception()!r}"
    finally:
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    return seen


async def _until(holds: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.05)
    assert holds(), what


async def _requests(
    port: int, national: National, rate: float, seconds: float, mix: Sequence[Kind], seen: Load
) -> None:
    """At moments of a Poisson process, each by somebody drawn for it: the same in every run."""
    chosen = random.Random(7)
    idle: list[Open] = []
    seats = {kind.name: [seat for seat in national.seats if seat.role in kind.roles] for kind in mix}
    weights = [kind.weight for kind in mix]
    pending: set[asyncio.Task[None]] = set()
    begin = time.perf_counter()
    due = begin
    while (due := due + chosen.expovariate(rate)) < begin + seconds:
        kind = chosen.choices(mix, weights)[0]
        seat = chosen.choice(seats[kind.name])
        path = kind.path(national, seat, chosen)
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        elif wait < -0.05:
            seen.late += 1
        task = asyncio.create_task(_ask(port, idle, kind.name, path, seat, due, seen))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    for left in idle:
        left.writer.close()


async def _ask(
    port: int,
    idle: list[Open],
    kind: str,
    path: str,
    seat: Seat,
    due: float,
    seen: Load,
) -> None:
    try:
        async with asyncio.timeout(LONGEST_S):
            reader, writer = await _connection(port, idle)
            api = path.startswith("/api/")
            who = f"Authorization: Bearer {seat.token}" if api else f"Cookie: {SESSION}={seat.cookie}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{who}\r\nAccept-Language: ko\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = _length(head)
            body = await reader.readexactly(length) if length is not None else await _chunks(reader)
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        seen.wrong[f"{kind}: {type(error).__name__}"] += 1
        return
    idle.append(Open(reader, writer, time.perf_counter()))
    status = head[9:12].decode()
    if status == "200" and body:
        seen.times.setdefault(kind, []).append(time.perf_counter() - due)
    else:
        seen.wrong[f"{kind}: {status}"] += 1


async def _connection(port: int, idle: list[Open]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The one that was used last, unless the server may be about to close it."""
    while idle:
        kept = idle.pop()
        if time.perf_counter() - kept.since < KEPT_S:
            return kept.reader, kept.writer
        kept.writer.close()
    return await asyncio.open_connection("127.0.0.1", port, limit=2**20)


def _length(head: bytes) -> int | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


async def _map(port: int, seat: Seat, seen: Load) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    cookie = f"{SESSION}={seat.cookie}"
    writer.write(f"GET /map/events HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head[:80]
    seen.maps += 1
    while data := await reader.read(2**18):
        seen.map_bytes += len(data)
