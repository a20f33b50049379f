"""What samples of 13,136 GPUs cost to take, to keep and to ask, beside rows in SQLite; and what one agent costs.

The input is noisy (`telemetry_input`). One whole day of the fleet is made; 90 days are copies of it, so size is exact
and no day is warmer in the cache than on a real site. SQLite gets one row a GPU-minute under the key that suits these
questions best, for a part of the fleet (`SQLITE_NODES`, and one node for 90 days): what it is asked is in it, and its
tree is less deep than a whole fleet's, which favours it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import METRICS, SLOTS_A_MINUTE, SampleBatch
from slurm_gpuaas.metering.gpu_use import Curve, Stay, measure, measure_node, minute_of
from slurm_gpuaas.store.telemetry import Telemetry
from slurm_gpuaas.store.telemetry.chunk import Block, ChunkWriter
from slurm_gpuaas.store.telemetry.rollup import IDLE_BELOW, SAMPLES, Codes, mean_of, minutes_of
from slurm_gpuaas.store.telemetry.telemetry import DAY_MINUTES
from slurm_gpuaas.testbed.instance import Instance
from tests.bench.model import BenchContext, BenchRow, side_by_side, timed
from tests.bench.telemetry_input import node_samples

NODES, GPUS, DAYS = 1_642, 8, 90
SQLITE_NODES = 64
JOB_NODES, PROJECT_NODES = 64, 82
"""A large job; a project with a twentieth of the fleet."""
RUN_MINUTES = 180
MINUTES_TAKEN = 5
RUNS = 5
WATCHED_S = 60.0
LAST = date(2027, 3, 31)
END = datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC) + timedelta(days=1)
FLEET = [NodeName(f"b200-{number:04}") for number in range(1, NODES + 1)]
SERIALS = tuple(f"165{number:010}" for number in range(GPUS))

Minutes = Mapping[NodeName, Codes]


def run(context: BenchContext) -> list[BenchRow]:
    with tempfile.TemporaryDirectory(prefix="bench-telemetry-") as scratch:
        folder = Path(scratch)
        with context.step(f"One minute of {NODES * GPUS:,} GPUs is taken, {MINUTES_TAKEN} times"):
            taking = _taking(folder / "taking")
        with context.step(f"A day of {NODES * GPUS:,} GPUs is written, {DAYS} times") as note:
            known = _write_days(folder / "days", note)
        with (
            context.step("The same questions to both"),
            closing(Telemetry(folder / "days")) as telemetry,
            _rows(folder / "rows.db", known) as (database, bytes_a_gpu_day),
        ):
            asking = [*_sizes(folder / "days", bytes_a_gpu_day), *_asking(telemetry, database)]
    instance = context.testbed("mini")
    with context.step(f"One agent of one node, {WATCHED_S:.0f} s"):
        return [*taking, *asking, *_agent(instance)]


# -- Taking ------------------------------------------------------------------------------------------------------------


def _taking(folder: Path) -> list[BenchRow]:
    """CPU seconds for the batches of one minute of the whole fleet, from JSON to what outlives the process."""
    chance = np.random.default_rng(1)
    begin = int(END.timestamp())
    codes = [node_samples(GPUS, MINUTES_TAKEN * SLOTS_A_MINUTE, chance) for _node in FLEET]
    minutes = [
        [_batch(node, begin + 60 * n, one, n) for node, one in zip(FLEET, codes, strict=True)]
        for n in range(MINUTES_TAKEN)
    ]
    bodies, ours, theirs = ([[batch.model_dump_json().encode() for batch in minute] for minute in minutes]), [], []
    with closing(Telemetry(folder)) as telemetry, closing(sqlite3.connect(folder / "samples.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        columns = ", ".join(metric.value for metric in METRICS)
        database.execute(
            f"CREATE TABLE sample (node, gpu, slot, {columns}, PRIMARY KEY (node, gpu, slot)) WITHOUT ROWID"
        )

        def take(minute: int) -> None:
            for body in bodies[minute]:
                telemetry.add(SampleBatch.model_validate_json(body), now=END + timedelta(minutes=minute + 1))

        def insert(minute: int) -> None:
            with database:
                for body in bodies[minute]:
                    batch = SampleBatch.model_validate_json(body)
                    values = np.frombuffer(batch.values, np.uint8).reshape(len(METRICS), -1).T.tolist()
                    database.executemany(
                        "INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        [(batch.node, n % GPUS, batch.first + n // GPUS, *row) for n, row in enumerate(values)],
                    )

        for minute in range(MINUTES_TAKEN):
            ours.append(_cpu(lambda: take(minute)))  # noqa: B023  # called at once
            theirs.append(_cpu(lambda: insert(minute)))  # noqa: B023
    return [
        BenchRow.of_times("telemetry_take_fleet_minute_cpu_s", ours=ours, baseline=theirs),
        BenchRow.of_figure("telemetry_take_core_percent", [100 * one / 60 for one in ours], unit="% of a core"),
    ]


def _batch(node: NodeName, first: int, codes: Codes, minute: int) -> SampleBatch:
    part = codes[:, :, minute * SLOTS_A_MINUTE : (minute + 1) * SLOTS_A_MINUTE]
    values = np.ascontiguousarray(part.transpose(0, 2, 1)).tobytes()
    return SampleBatch(node=node, first=first, serials=SERIALS, values=values)


def _cpu(action: Callable[[], None]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


# -- Keeping -----------------------------------------------------------------------------------------------------------


def _write_days(folder: Path, note: Callable[[str], None]) -> dict[NodeName, Codes]:
    """The three chunks of a day of the fleet, copied to all days that each is kept for. Gives some nodes' minutes."""
    Telemetry(folder).close()
    name, kept = LAST.isoformat(), dict[NodeName, Codes]()
    chance = np.random.default_rng(2)
    with (
        ChunkWriter(folder / "busy" / name) as busy,
        ChunkWriter(folder / "rest" / name) as rest,
        ChunkWriter(folder / "rest-hours" / name) as hours,
    ):
        for number, node in enumerate(FLEET):
            table = minutes_of(node_samples(GPUS, DAY_MINUTES * SLOTS_A_MINUTE, chance), SLOTS_A_MINUTE)
            busy.add(node, Block(SERIALS, table[[0, SAMPLES]]))
            rest.add(node, Block(SERIALS, table[1:SAMPLES]))
            hours.add(node, Block(SERIALS, mean_of(table[1:SAMPLES], 60)[0]))
            if number < SQLITE_NODES:
                kept[node] = table
            note(f"{number + 1} nodes")
    for kind, days in (("busy", DAYS), ("rest", 7), ("rest-hours", DAYS)):
        for ago in range(1, days):
            shutil.copyfile(folder / kind / name, folder / kind / (LAST - timedelta(days=ago)).isoformat())
    return kept


@contextmanager
def _rows(path: Path, known: Minutes) -> Iterator[tuple[sqlite3.Connection, float]]:
    """A day of some nodes and 90 days of the first, as rows; and bytes that one GPU-day of the other metrics and `busy`
    take in it."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        columns = ", ".join(metric.value for metric in METRICS)
        key = "PRIMARY KEY (node, gpu, minute)"
        database.execute(f"CREATE TABLE minute (node, gpu, minute, {columns}, samples, {key}) WITHOUT ROWID")
        last = minute_of(END) - DAY_MINUTES
        for number, (node, table) in enumerate(known.items()):
            for ago in range(DAYS if number == 0 else 1):
                with database:
                    _insert_day(database, node, table, last - ago * DAY_MINUTES)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield database, path.stat().st_size / ((DAYS + len(known) - 1) * GPUS)


def _insert_day(database: sqlite3.Connection, node: NodeName, table: Codes, first: int) -> None:
    for gpu in range(GPUS):
        rows = table[:, gpu].T.tolist()
        database.executemany(
            "INSERT INTO minute VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(node, gpu, first + minute, *row) for minute, row in enumerate(rows)],
        )


def _sizes(folder: Path, rows_bytes: float) -> list[BenchRow]:
    a_day = {kind: (folder / kind / LAST.isoformat()).stat().st_size for kind in ("busy", "rest", "rest-hours")}
    all_days = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    both = (a_day["busy"] + a_day["rest"]) / (NODES * GPUS)
    return [
        BenchRow(
            name="telemetry_bytes_per_gpu_day",
            value=both,
            unit="B",
            baseline=rows_bytes,
            ratio=rows_bytes / both,
            runs=1,
        ),
        BenchRow.of_figure("telemetry_busy_bytes_per_gpu_day", [a_day["busy"] / (NODES * GPUS)], unit="B"),
        BenchRow.of_figure("telemetry_hours_bytes_per_gpu_day", [a_day["rest-hours"] / (NODES * GPUS)], unit="B"),
        BenchRow.of_figure("telemetry_90_days_gib", [all_days / 2**30], unit="GiB"),
    ]


# -- Asking ------------------------------------------------------------------------------------------------------------


def _asking(telemetry: Telemetry, database: sqlite3.Connection) -> list[BenchRow]:
    rows = [_both(f"telemetry_node_{days}_days_s", telemetry, database, FLEET[:1], days) for days in (1, DAYS)]
    rows.append(_both(f"telemetry_job_{JOB_NODES}_nodes_1_day_s", telemetry, database, FLEET[:JOB_NODES], 1))
    for nodes, days, minutes in ((PROJECT_NODES, 1, RUN_MINUTES), (PROJECT_NODES, DAYS, RUN_MINUTES), (NODES, 1, 1440)):
        begin, end = _minutes(days)
        stays = _stays(FLEET[:nodes], begin, end, minutes)
        seconds = _seconds(telemetry, stays, begin, end)
        name = "fleet" if nodes == NODES else f"project_{nodes}_nodes"
        rows.append(BenchRow.of_figure(f"telemetry_{name}_{days}_days_s", seconds, unit="s"))
    return rows


def _minutes(days: int) -> tuple[int, int]:
    return minute_of(END) - days * DAY_MINUTES, minute_of(END)


def _seconds(telemetry: Telemetry, stays: Sequence[Stay], begin: int, end: int) -> list[float]:
    return [timed(lambda: measure(telemetry, stays, Curve(begin, end))) for _ in range(2)]


def _both(
    name: str, telemetry: Telemetry, database: sqlite3.Connection, nodes: Sequence[NodeName], days: int
) -> BenchRow:
    begin, end = _minutes(days)
    stays = _stays(nodes, begin, end, end - begin)

    def ours() -> None:
        if len(nodes) == 1:
            _node(telemetry, begin, end)
        else:
            measure(telemetry, stays, Curve(begin, end))

    mine, others = side_by_side(
        lambda: timed(ours), lambda: timed(lambda: _ask(database, nodes, begin, end)), runs=RUNS
    )
    return BenchRow.of_times(name, ours=mine, baseline=others)


def _stays(nodes: Sequence[NodeName], begin: int, end: int, minutes: int) -> list[Stay]:
    """Runs of all GPUs of the nodes, one after the other."""
    return [
        Stay(f"{n}", node, GPUS, first, first + minutes)
        for node in nodes
        for n, first in enumerate(range(begin, end, minutes))
    ]


def _node(telemetry: Telemetry, begin: int, end: int) -> None:
    found = measure_node(telemetry, Stay("", FLEET[0], GPUS, begin, end), end, Curve(begin, end))
    assert sum(gpu.tally.known + gpu.tally.unknown for gpu in found) == GPUS * (end - begin)


def _ask(database: sqlite3.Connection, nodes: Sequence[NodeName], begin: int, end: int) -> None:
    """What `measure` counts, in SQL: known, idle, busy, and the other metrics of a node."""
    marks = ", ".join("?" * len(nodes))
    found = database.execute(
        f"""SELECT node, gpu, count(*), sum(busy < {IDLE_BELOW}), sum(busy * samples), sum(samples), avg(memory),
                   avg(power), max(temperature), max(processes)
            FROM minute WHERE node IN ({marks}) AND minute >= ? AND minute < ? AND samples > 0 GROUP BY node, gpu""",
        (*nodes, begin, end),
    ).fetchall()
    assert len(found) == len(nodes) * GPUS


# -- The agent ---------------------------------------------------------------------------------------------------------


def _agent(instance: Instance) -> list[BenchRow]:
    """A real agent of one simulated node beside the testbed's own: processor time and memory over a minute."""
    config = "/etc/gpuaas/agent-alone.yaml"
    instance.write(
        config, instance.path("/etc/gpuaas/agent.yaml").read_text() + "spool: /var/lib/gpuaas/alone/{node}\n"
    )
    node = next(iter(instance.cluster.node_names()))
    process = instance.popen(["gpuaas-agent", "--config", config, "--nodes", node])
    try:
        pid = instance.wait_for("the agent", lambda: _pid_of(config), seconds=20)
        time.sleep(5)  # what it does once, at its start, is not what it costs
        before, began = _cpu_of(pid), time.monotonic()
        time.sleep(WATCHED_S)
        share = (_cpu_of(pid) - before) / (time.monotonic() - began)
        resident = _most_memory_of(pid)
    finally:
        process.kill()
        process.wait(20)
    return [
        BenchRow.of_figure("agent_cpu_percent", [100 * share], unit="% of a core"),
        BenchRow.of_figure("agent_rss_mib", [resident], unit="MiB"),
    ]


def _pid_of(config: str) -> int | None:
    """The Python process itself, not what entered the testbed for it: the youngest with this configuration."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if config.encode() in words and b"slurm_gpuaas.agent" in words:
                found.append(int(folder.name))
    return max(found, default=None)


def _most_memory_of(pid: int) -> float:
    """MiB that a process held at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) / 1024


def _cpu_of(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
