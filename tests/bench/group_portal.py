"""What the portal costs: 200 requests a second of mixed reading on one core, beside live updates to 100 open maps.

The pool is of national size (`portal_pool`), its map has 13,136 GPUs; three simulated sites push a picture every five
seconds through their own signed door. The server (`portal_server`) has one core; who reads and who pushes are on the
others. The mix stands in `portal_load.MIX` and is printed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import click
import httpx2

from slurm_gpuaas.api.pool_sites import PicturePush, picture_path
from slurm_gpuaas.api.signing import SITES, sign, site_key
from slurm_gpuaas.domain.fleet_map import SiteLayout
from slurm_gpuaas.domain.names import SiteName
from slurm_gpuaas.testbed.map_demo import DemoFleet
from slurm_gpuaas.testbed.profiles import profile
from tests.bench.model import BenchContext, BenchRow
from tests.bench.portal_load import MIX, Load, load
from tests.bench.portal_pool import National, filled

RATE: Final = 200.0
SECONDS: Final = 30.0
WARM_S: Final = 6.0
OPEN_MAPS: Final = 100
PUSH_EVERY_S: Final = 5.0
STARTS_WITHIN_S: Final = 60.0
MASTER: Final = b"b" * 32


def run(context: BenchContext) -> list[BenchRow]:
    cores = sorted(os.sched_getaffinity(0))
    server_core, others = cores[0], set(cores[1:]) or set(cores)
    with tempfile.TemporaryDirectory(prefix="bench-portal-") as name:
        folder = Path(name)
        with context.step("A pool of national size is written"):
            national = prepared(folder)
        with context.step(f"{RATE:.0f} requests a second beside {OPEN_MAPS} open maps"):
            seen, cpu = measured(folder, national, server_core, others)
    _tell(seen, cpu)
    times = [1000 * one for one in seen.all()]
    return [
        BenchRow.of_percentile("portal_p95_ms", times, 95, unit="ms"),
        BenchRow.of_percentile("portal_p50_ms", times, 50, unit="ms"),
        BenchRow.of_percentile("portal_p99_ms", times, 99, unit="ms"),
        BenchRow.of_figure("portal_core_percent", [100 * cpu], unit="%"),
    ]


def prepared(folder: Path) -> National:
    national = filled(folder / "pool.db")
    key = folder / "sites.key"
    key.touch(mode=0o600)
    key.write_text(MASTER.hex())
    (folder / "map").mkdir()
    return national


def measured(folder: Path, national: National, core: int, others: set[int]) -> tuple[Load, float]:
    """What readers saw, and which part of its core the server used meanwhile."""
    with served(folder, core) as (port, process), pushing(port, others):
        mine, theirs = get_context("spawn").Pipe()
        reader = get_context("spawn").Process(target=_read, args=(theirs, port, national, others))
        before, began = _cpu(process.pid), time.monotonic()
        reader.start()
        theirs.close()
        try:
            seen: Load = mine.recv()
        finally:
            reader.join(10)
        return seen, (_cpu(process.pid) - before) / (time.monotonic() - began)


def _read(pipe: Connection, port: int, national: National, cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)
    pipe.send(load(port, national, rate=RATE, seconds=SECONDS, warm=WARM_S, maps=OPEN_MAPS))


@contextmanager
def served(folder: Path, core: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The server on a port of its own until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "server.log").open("ab") as log:
        program = [sys.executable, "-m", "tests.bench.portal_server", str(folder), str(port), str(core)]
        process = subprocess.Popen(program, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not _is_up(port):
            assert process.poll() is None, (folder / "server.log").read_text()[-2_000:]
            assert time.monotonic() < deadline, "the portal did not start"
            time.sleep(0.05)
        yield port, process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _is_up(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


@contextmanager
def pushing(port: int, cores: set[int]) -> Iterator[None]:
    """The sites push their first pictures before the block begins, and go on until it ends."""
    mine, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_push, args=(theirs, port, cores), daemon=True)
    process.start()
    theirs.close()
    try:
        assert mine.recv() == "shown"
        yield
    finally:
        process.kill()
        process.join(10)


def _push(pipe: Connection, port: int, cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)
    fleet = DemoFleet(profile("national").clusters, datetime.now(UTC))
    layouts = {one.name: SiteLayout(**one.model_dump(exclude={"provider"})) for one in fleet.clusters}
    told = False
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        while True:
            began = time.monotonic()
            for frame in fleet.frames(datetime.now(UTC)):
                site = SiteName(frame.site)
                push = PicturePush(layout=None if told else layouts[frame.site], frame=frame)
                target, body = picture_path(site), push.packed()
                headers = sign(
                    SITES,
                    site_key(MASTER, site, 1),
                    method="POST",
                    target=target,
                    sender=site,
                    body=body,
                    now=datetime.now(UTC),
                )
                kind = {"Content-Type": "application/json", "Content-Encoding": "deflate"}
                answer = client.post(target, content=body, headers={**headers, **kind})
                assert answer.status_code == 200, answer.text
            if not told:
                told = True
                pipe.send("shown")
            time.sleep(max(0.0, PUSH_EVERY_S - (time.monotonic() - began)))


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tell(seen: Load, cpu: float) -> None:
    """The mix, and how long each kind took: figures without them say nothing."""
    total = sum(kind.weight for kind in MIX)
    for kind in MIX:
        times = sorted(1000 * one for one in seen.times.get(kind.name, [])) or [float("nan")]
        middle, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
        share = 100 * kind.weight / total
        click.echo(f"{kind.name:<20} {share:4.0f} % {len(times):>6,} p50 {middle:6.1f} p95 {p95:6.1f} ms")
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    click.echo(
        f"server {100 * cpu:.0f} % of a core; maps got {seen.map_bytes / 1e6:.1f} MB; late {seen.late}; load {load}"
    )
    assert not seen.wrong, f"requests went wrong: {dict(seen.wrong)}"
