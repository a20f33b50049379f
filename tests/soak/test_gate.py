"""The placement gate on 1,032 GPUs of real Slurm: no job is stranded by a daemon that is killed again and again or for
good, and under an endless stream of small jobs a large one starts hardly later than without the gate."""

from __future__ import annotations

import random
import re
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.jobs.gate import RESERVATION
from slurm_gpuaas.testbed import slurmconf
from slurm_gpuaas.testbed.boot import GPUAASD
from slurm_gpuaas.testbed.instance import Instance

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

SEED = 20_261_127
NODES, PER_NODE = 129, 8
POLICY = "/run/gate-soak.yaml"
PARTITION = "soak-all"
PROJECTS = {"alice": ("p0", 512), "bob": ("p1", 256), "carol": ("p2", 128), "dave": ("p3", 0)}
"""Project of each user, and its guarantee in GPUs."""

JOBS, KILLS = 300, 20
LEAST_PINNED = 0.2
HOLD_S = 20
STREAM = 150
TOP_NODES, TURNS, LATER_S = 32, 5, 10.0

AT_THE_GATE = "--licenses=placement:1"
NOT_THE_END = ("PENDING", "RUNNING", "PREEMPTED", "REQUEUED")
PLACED = re.compile(r"gpuaas:placed\(([^;]+);")
FIELDS = "JobIDRaw,State,Submit,Start,End,NodeList,NNodes,AllocTRES,AdminComment"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a job, as Slurm's accounting has it; times are seconds since 1970, 0 where there is none."""

    job: str
    state: str
    submitted: int
    started: int
    ended: int
    nodes: tuple[str, ...]
    gpus: int
    pin: tuple[str, ...]
    """The nodes that the gate gave it, if it ran on what the gate gave it."""

    @classmethod
    def read(cls, row: str) -> Run:
        job, state, *times, nodes, _, tres, comment = row.split("|")
        submitted, started, ended = (int(value) if value.isdigit() else 0 for value in times)
        gpus = next((int(one.removeprefix("gres/gpu=")) for one in tres.split(",") if one.startswith("gres/gpu=")), 0)
        pin = PLACED.search(comment)
        return cls(
            job=job,
            state=state.split()[0],
            submitted=submitted,
            started=started,
            ended=ended,
            nodes=expand_nodes(nodes) if started else (),
            gpus=gpus,
            pin=expand_nodes(pin[1]) if pin else (),
        )


@dataclass
class Site:
    instance: Instance
    chance: random.Random

    def submit(self, user: str, qos: str, nodes: int, seconds: int, *options: str, gpus: int = PER_NODE) -> str:
        """A job that sleeps; its id."""
        argv = ["sbatch", "--parsable", f"--qos={qos}", f"--nodes={nodes}", f"--gpus-per-node={gpus}", "--time=5"]
        argv += ["--requeue", "--output=/dev/null", *options, f"--wrap=sleep {seconds}"]
        return self.instance.exec(argv, user=user, cwd="/tmp").stdout.strip()

    def submit_any(self) -> str:
        """A job at the gate: 1 to 64 nodes, or a part of one."""
        nodes = self.chance.choices((1, 2, 4, 8, 16, 32, 64), (12, 6, 4, 3, 2, 1, 1))[0]
        gpus = self.chance.choice((1, 2, 4, 8, 8, 8)) if nodes == 1 else PER_NODE
        users = [user for user, (_, guarantee) in PROJECTS.items() if guarantee >= nodes * gpus]
        burst = not users or self.chance.random() < 0.5
        user = self.chance.choice(list(PROJECTS) if burst else users)
        seconds = self.chance.randint(1, 6)
        return self.submit(user, "burst" if burst else "guaranteed", nodes, seconds, AT_THE_GATE, gpus=gpus)

    def runs(self, jobs: Sequence[str]) -> list[Run]:
        """Every run of these jobs."""
        argv = ["sacct", "-D", "-X", "-nP", "-a", "--starttime=now-1hour", f"--format={FIELDS}", "-j", ",".join(jobs)]
        answer = self.instance.exec(argv, env={"SLURM_TIME_FORMAT": "%s"}).stdout
        return [Run.read(row) for row in answer.splitlines()]

    def queue(self, *options: str) -> list[str]:
        return self.instance.exec(["squeue", "-h", "-p", PARTITION, *options]).stdout.splitlines()

    def wait_for_the_end(self, jobs: Sequence[str], seconds: float) -> list[Run]:
        """Every run of the jobs, once none is left in the queue and accounting knows of all ends."""
        what = f"The end of all {len(jobs)} jobs"
        self.instance.wait_for(what, lambda: not self.queue() or None, seconds=seconds, every=0.5)

        def over() -> list[Run] | None:
            runs = self.runs(jobs)
            return runs if all(run.state not in NOT_THE_END for run in last_runs(runs).values()) else None

        return self.instance.wait_for("The ends in accounting", over, seconds=60, every=0.5)

    def kill(self) -> None:
        self.instance.stop(GPUAASD, signal_name="KILL")

    def hold_is_there(self) -> None:
        """Waits until gpuaasd leads and holds the licences."""
        argv = ["scontrol", "show", "reservation"]
        self.instance.wait_for("The hold", lambda: RESERVATION in self.instance.exec(argv).stdout or None, every=0.2)

    @contextmanager
    def hold_of(self, seconds: int) -> Iterator[None]:
        """gpuaasd with another `gate.hold`."""
        config = "/etc/gpuaas/gpuaasd.yaml"
        plain = slurmconf.gpuaasd_yaml(self.instance.cluster)

        def restart(text: str) -> None:
            self.instance.stop(GPUAASD)
            self.instance.exec(["scontrol", "delete", f"reservationname={RESERVATION}"], check=False)
            self.instance.write(config, text)
            self.instance.start(GPUAASD)
            self.hold_is_there()

        restart(f"{plain}gate:\n  hold: {seconds}\n")
        try:
            yield
        finally:
            restart(plain)


def policy() -> Iterator[dict[str, Any]]:
    yield {"kind": "Organisation", "name": "soak"}
    yield {
        "kind": "Pool", "name": "soak", "cluster": "haein", "model": "b200", "grace": 0,
        "shares": [{"name": "all", "nodes": f"b200-[001-{NODES}]", "partition": PARTITION}],
    }  # fmt: skip
    for user, (project, gpus) in PROJECTS.items():
        yield {"kind": "Project", "name": project, "organisation": "soak"}
        yield {"kind": "Member", "project": project, "user": user}
        yield {
            "kind": "Grant", "name": f"{project}-1", "project": project, "pool": "soak", "share": "all", "gpus": gpus,
            "starts": "2020-01-01", "ends": "2098-12-31",
        }  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    instance = Instance.up("haein", "soak-gate")
    instance.write(POLICY, yaml.safe_dump_all(policy()))
    instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", POLICY])
    instance.wait_for("The hook's snapshot", lambda: "gate\tplacement" in snapshot(instance) or None)
    instance.wait_for("The policy in it", lambda: "\tp3\t" in snapshot(instance) or None)
    yield Site(instance, random.Random(SEED))
    instance.down()


def snapshot(instance: Instance) -> str:
    return instance.path("/run/gpuaas/snapshot").read_text()


def crowded(runs: Sequence[Run]) -> list[str]:
    """Nodes with more GPUs in use at a time than they have, and when."""
    changes: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for run in runs:
        for node in run.nodes:
            share = run.gpus // len(run.nodes)
            changes[node] += [(run.started, share, run.job), (run.ended, -share, run.job)]
    found = []
    for node, moments in changes.items():
        used = 0
        for moment, change, job in sorted(moments, key=lambda one: (one[0], one[1])):
            used += change
            if used > PER_NODE:
                found.append(f"{node} at {moment}: {used} GPUs in use as job {job} starts")
    return found


def last_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """The last run of each job."""
    return {run.job: run for run in sorted(runs, key=lambda run: (run.submitted, run.started))}


def test_no_job_is_stranded_though_the_daemon_is_killed_twenty_times(site: Site) -> None:
    pause = threading.Event()
    kills: list[float] = []
    moments = random.Random(SEED + 1)

    def killing() -> None:
        for _ in range(KILLS):
            pause.wait(moments.uniform(0.5, 7))
            site.kill()
            kills.append(time.monotonic())
            site.instance.start(GPUAASD)

    killer = threading.Thread(target=killing)
    began = time.monotonic()
    killer.start()
    jobs: list[str] = []
    try:
        while len(jobs) < JOBS:
            # as many as the kills so far allow: the last job comes beside the last kill
            if len(jobs) < JOBS * (len(kills) + 1) / (KILLS + 1) or not killer.is_alive():
                jobs.append(site.submit_any())
            else:
                pause.wait(0.05)
    finally:
        killer.join()
    submitted = time.monotonic() - began
    runs = site.wait_for_the_end(jobs, seconds=240)
    last = last_runs(runs)
    pinned = sum(bool(run.pin) for run in last.values())
    longest = max(run.started - run.submitted for run in runs if run.started)
    print(
        f"seed {SEED}: {len(jobs)} jobs in {submitted:.0f} s, all over after {time.monotonic() - began:.0f} s; "
        f"{len(kills)} kills; {len(runs) - len(jobs)} requeues; {pinned} ran on the gate's nodes; longest time from "
        f"submission to start {longest} s"
    )
    assert len(kills) == KILLS
    assert {job: last[job].state for job in jobs if last[job].state != "COMPLETED"} == {}
    assert crowded(runs) == []
    assert not [run for run in last.values() if run.pin and run.pin != run.nodes], "not on the nodes it was given"
    assert pinned >= LEAST_PINNED * JOBS, "a gate that places so few shows nothing"


def test_while_the_daemon_stays_dead_jobs_run_without_it(site: Site) -> None:
    with site.hold_of(HOLD_S):
        site.kill()
        killed = time.time()
        jobs = [site.submit_any() for _ in range(20)]
        waiting = len(site.queue("-t", "PD"))
        runs = site.wait_for_the_end(jobs, seconds=HOLD_S + 120)
        starts = [run.started - killed for run in runs if run.started]
        print(
            f"{len(jobs)} jobs at the gate of a dead gpuaasd, hold {HOLD_S} s: {waiting} waited at first; "
            f"started {min(starts):.0f} to {max(starts):.0f} s after the kill"
        )
        late = [site.submit_any() for _ in range(5)]
        later = site.wait_for_the_end(late, seconds=60)
        longest = max(run.started - run.submitted for run in later if run.started)
        print(f"then submitted: started at most {longest} s later")
    assert waiting == len(jobs), "not held, so this shows nothing"
    assert {run.state for run in last_runs(runs + later).values()} == {"COMPLETED"}
    assert not any(run.pin for run in runs + later)
    assert min(starts) > HOLD_S / 2, "the hold is extended when a third of it has passed"


@dataclass
class Feeder:
    """Keeps `STREAM` one-node jobs waiting or running, every other one at the gate."""

    site: Site
    chance: random.Random
    fed: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def feed(self) -> None:
        words = "sbatch --parsable --qos=burst --nodes=1 --gpus-per-node=8 --time=1 --nice=20000 --output=/dev/null"
        words += " --job-name=stream"
        while not self.stop.is_set():
            missing = STREAM - len(self.site.queue("--name=stream", "-o", "%i"))
            lines = []
            for number in range(missing):
                gate = AT_THE_GATE if (self.fed + number) % 2 else ""
                lines.append(f"{words} {gate} --wrap='sleep {self.chance.randint(5, 15)}'")
            if lines:
                self.site.instance.exec(["bash", "-e"], user="dave", cwd="/tmp", stdin="\n".join(lines))
            self.fed += len(lines)
            self.stop.wait(0.2)


def test_under_an_endless_stream_a_large_job_starts_hardly_later_than_without_the_gate(site: Site) -> None:
    feeder = Feeder(site, random.Random(SEED + 2))
    feeding = threading.Thread(target=feeder.feed)
    began = time.monotonic()
    feeding.start()

    def seconds_to_start(*options: str) -> float:
        taken = NODES - TOP_NODES
        site.instance.wait_for("Too few free nodes", lambda: len(site.queue("-t", "R")) > taken or None, every=0.2)
        submitted = time.monotonic()
        job = site.submit("dave", "burst", TOP_NODES, 1, *options)
        site.instance.wait_for(
            f"Start of job {job}", lambda: "R" in site.queue("-j", job, "-o", "%t") or None, seconds=120, every=0.1
        )
        seconds = time.monotonic() - submitted
        site.instance.wait_for(f"End of job {job}", lambda: not site.queue("-j", job) or None, every=0.2)
        return seconds

    found: dict[str, list[float]] = {"with": [], "without": []}
    try:
        for _ in range(TURNS):
            found["with"].append(seconds_to_start(AT_THE_GATE))
            found["without"].append(seconds_to_start())
    finally:
        feeder.stop.set()
        feeding.join()
    seconds = time.monotonic() - began
    ours, without = (statistics.median(found[way]) for way in ("with", "without"))
    print(
        f"{feeder.fed} one-node jobs in {seconds:.0f} s; a job of {TOP_NODES} nodes above them, {TURNS} times each: "
        f"median {ours:.1f} s with the gate ({min(found['with']):.1f} to {max(found['with']):.1f}), "
        f"{without:.1f} s without ({min(found['without']):.1f} to {max(found['without']):.1f})"
    )
    assert ours <= without + LATER_S
    assert feeder.fed > STREAM + 2 * TURNS * TOP_NODES, "no stream"
    site.instance.exec(["scancel", "--quiet", "--partition", PARTITION])
    site.instance.wait_for("No job left", lambda: not site.queue() or None, every=0.5)
