"""Usage on real Slurm: what we meter is, run by run and to the GPU-second, what sacct says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.usage import Window
from slurm_gpuaas.metering.controller import MeteringController
from slurm_gpuaas.metering.rules import totals
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.slurm.rest_wire import RestWire
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.door import door_settings
from tests.stores import new_store

pytestmark = pytest.mark.slurm

BURST, GUARANTEED = "burst-metering", "guaranteed-metering"
PARTITION = "metering"


@pytest.fixture
def accounting(mini: Instance) -> Iterator[RestAccounting]:
    with door_settings(mini, name="metering") as door, closing(RestWire(door.rest)) as wire:
        yield RestAccounting(wire)


@pytest.fixture
def two_qos(mini: Instance) -> Iterator[None]:
    for argv in (
        ["add", "qos", BURST, "set", "preemptmode=requeue"],
        ["add", "qos", GUARANTEED, "set", f"preempt={BURST}", "priority=100"],
        ["modify", "user", "root", "set", f"qos+={BURST},{GUARANTEED}"],
    ):
        mini.exec(["sacctmgr", "--immediate", "--quiet", *argv])
    mini.exec(["scontrol", "create", f"PartitionName={PARTITION}", "Nodes=ALL"])
    yield
    mini.exec(["scontrol", "delete", f"PartitionName={PARTITION}"])
    mini.exec(["sacctmgr", "--immediate", "--quiet", "delete", "qos", f"{GUARANTEED},{BURST}"])


class Jobs:
    """Jobs of this test, one a node."""

    def __init__(self, mini: Instance) -> None:
        self._mini = mini
        self.ids: list[str] = []

    def submit(self, seconds: int, node: str, gpus: int, *options: str) -> str:
        argv = ["sbatch", "--parsable", "-p", PARTITION, "-w", node, f"--gres=gpu:{gpus}", "--output=/dev/null"]
        job = self._mini.exec([*argv, *options, "--wrap", f"exec sleep {seconds}"], cwd="/tmp").stdout.strip()
        self.ids.append(job)
        return job

    def states(self, job: str) -> list[str]:
        """Of its runs, oldest first, as slurmdbd has them."""
        argv = ["sacct", "-X", "--duplicates", "--noheader", "-P", "-S", "now-1days", "-o", "state", "-j", job]
        return self._mini.exec(argv).stdout.split("\n")[:-1]

    def wait(self, job: str, *states: str) -> None:
        self._mini.wait_for(f"Job {job}: {states}", lambda: self.states(job) == list(states) or None, every=0.2)


@pytest.fixture
def jobs(mini: Instance) -> Iterator[Jobs]:
    made = Jobs(mini)
    yield made
    mini.exec(["scancel", *made.ids], check=False)
    mini.wait_for("No job left", lambda: not mini.exec(["squeue", "--noheader"]).stdout or None)


def sacct(mini: Instance, since: datetime) -> dict[tuple[int, datetime], tuple[int, str]]:
    """GPU-seconds and state of every ended run with GPUs, computed from sacct's own elapsed time."""
    columns = "jobidraw,start,end,elapsedraw,state,alloctres%200"
    argv = ["sacct", "-a", "-X", "--duplicates", "--noheader", "-P", "-S", f"{since:%Y-%m-%dT%H:%M:%S}", "-o", columns]
    found = {}
    for line in mini.exec(argv, env={"TZ": "UTC"}).stdout.splitlines():
        job, start, end, elapsed, state, tres = line.split("|")
        gpus = dict(part.split("=") for part in tres.split(",") if part).get("gres/gpu")
        if gpus and start != "Unknown" and end != "Unknown":
            started = datetime.fromisoformat(start).replace(tzinfo=UTC)
            found[int(job), started] = (int(gpus) * int(elapsed), state.split()[0])
    return found


def test_usage_equals_sacct_over_requeue_preemption_failure_and_restarts(
    mini: Instance, accounting: RestAccounting, two_qos: None, jobs: Jobs, tmp_path: Path
) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    store = new_store(tmp_path / "gpuaas.db")

    def restarted_daemon_ticks() -> None:
        MeteringController(
            cluster=ClusterName(mini.cluster.name),
            accounting=accounting,
            store=store,
            clock=SystemClock(),
            begin=began,
            overlap=timedelta(seconds=5),
        ).tick()

    short = jobs.submit(1, "b200-01", 4)
    requeued = jobs.submit(600, "b200-02", 8, "--requeue")
    failed = jobs.submit(600, "b200-03", 2, "--no-requeue")
    burst = jobs.submit(600, "b200-04", 8, f"--qos={BURST}", "--requeue")
    for job in (requeued, failed, burst):
        jobs.wait(job, "RUNNING")
    restarted_daemon_ticks()
    running = store.usage(running=True)
    assert {str(record.job_id) for record in running} >= {requeued, failed, burst}
    assert all(record.model == "b200" for record in running)

    owner = jobs.submit(1, "b200-04", 8, f"--qos={GUARANTEED}")
    mini.exec(["scontrol", "requeue", requeued])
    mini.exec(["scontrol", "update", "nodename=b200-03", "state=down", "reason=test"])
    restarted_daemon_ticks()
    jobs.wait(short, "COMPLETED")
    jobs.wait(owner, "COMPLETED")
    jobs.wait(failed, "NODE_FAIL")
    mini.exec(["scontrol", "update", "nodename=b200-03", "state=resume"])
    jobs.wait(requeued, "REQUEUED", "RUNNING")
    jobs.wait(burst, "PREEMPTED", "RUNNING")
    restarted_daemon_ticks()
    mini.exec(["scancel", requeued, burst])
    mini.wait_for("Both have ended", lambda: "RUNNING" not in jobs.states(requeued) + jobs.states(burst) or None)
    restarted_daemon_ticks()
    restarted_daemon_ticks()

    metered = {(int(r.job_id), r.started): (r.gpu_seconds, r.state) for r in store.usage() if r.ended}
    expected = {key: value for key, value in sacct(mini, began).items() if str(key[0]) in jobs.ids}
    assert {key: value for key, value in metered.items() if str(key[0]) in jobs.ids} == expected
    assert len(expected) == 7, "Five jobs, two of which ran twice."
    assert not [record for record in store.usage(running=True) if str(record.job_id) in jobs.ids]

    (mine,) = totals([r for r in store.usage() if str(r.job_id) in jobs.ids], Window(began, datetime.now(UTC)), by=[])
    by_state = {state: sum(n for n, other in expected.values() if other == state) for _, state in expected.values()}
    assert (mine.preempted, mine.node_failed) == (by_state["PREEMPTED"], by_state["NODE_FAIL"])
    assert mine.burst == sum(value for (job, _), (value, _) in expected.items() if str(job) == burst)
    store.close()


def test_a_time_without_jobs_has_no_runs(accounting: RestAccounting) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    assert accounting.jobs_since(long_ago, long_ago + timedelta(days=1)) == ()
