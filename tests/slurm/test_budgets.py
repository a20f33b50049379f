"""Budgets on real Slurm: what cannot be paid to its end does not start, and what is raised does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.policy import DOCUMENT, PolicyDocument
from slurm_gpuaas.metering.controller import MeteringController
from slurm_gpuaas.store.budgets import read_budgets
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.applied import Applied, applied, cancel_all

pytestmark = pytest.mark.slurm

MINI = ClusterName("mini")


def policy(**limits: Any) -> Sequence[PolicyDocument]:
    """One project with a grant of 32 GPUs; a GPU-hour costs 3,600 Won, as burst a tenth of it."""
    rows: list[dict[str, Any]] = [
        {"kind": "Organisation", "name": "univ"},
        {"kind": "Project", "name": "vision", "organisation": "univ"},
        {"kind": "Member", "project": "vision", "user": "alice"},
        {"kind": "Pool", "name": "mini", "cluster": "mini", "model": "b200",
         "shares": [{"name": "own", "nodes": "b200-[01-08]"}]},
        {"kind": "Rate", "name": "b200", "model": "b200", "won_per_gpu_hour": 3_600, "burst_discount": 90,
         "starts": "2020-01-01", "basis": "test"},
        {"kind": "Grant", "name": "vision-1", "project": "vision", "pool": "mini", "share": "own", "gpus": 32,
         "starts": "2020-01-01", "ends": "2098-12-31", **limits},
    ]  # fmt: skip
    return [DOCUMENT.validate_python(row) for row in rows]


@dataclass
class Desk:
    mini: Instance
    in_force: Applied
    metering: MeteringController

    def grant(self, **limits: Any) -> None:
        self.in_force.apply(policy(**limits))

    def submit(self, minutes: int, *options: str, seconds: int = 600) -> str:
        argv = ["sbatch", "--parsable", "--output=/dev/null", "--gpus=8", f"--time={minutes}", *options]
        return self.mini.exec([*argv, f"--wrap=sleep {seconds}"], user="alice", cwd="/tmp").stdout.strip()

    def wait_for(self, job: str, state: str, reason: str | None = None) -> None:
        """While the job waits, Slurm's reason is what counts."""

        def there() -> bool | None:
            argv = ["squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T|%r"]
            found, why = self.mini.exec(argv).stdout.strip().split("|")
            return (found == state and reason in (None, why)) or None

        self.mini.wait_for(f"Job {job} is {state} {reason or ''}", there, every=0.2)

    def meter_until_ended(self, job: str) -> None:
        def metered() -> bool | None:
            self.metering.tick()
            return any(str(run.job_id) == job and run.ended for run in self.in_force.store.usage()) or None

        self.mini.wait_for(f"Job {job} is metered", metered, every=0.5)

    @property
    def limit(self) -> int:
        """GPU-minutes of the account, as slurmdbd has them."""
        argv = ["sacctmgr", "-nP", "show", "assoc", "where", "account=vision", "user=", "format=grptresmins"]
        return int(self.mini.exec(argv).stdout.strip().removeprefix("gres/gpu="))


@pytest.fixture
def desk(mini: Instance) -> Iterator[Desk]:
    with applied(mini, policy(budget_gpu_hours=1)) as in_force:
        yield Desk(
            mini,
            in_force,
            MeteringController(
                cluster=MINI,
                accounting=in_force.accounting,
                store=in_force.store,
                clock=SystemClock(),
                begin=datetime.now(UTC) - timedelta(seconds=1),
            ),
        )
        cancel_all(mini)


def test_a_job_that_cannot_be_paid_to_its_end_waits_until_the_budget_is_raised(desk: Desk) -> None:
    fits, waits = desk.submit(5), desk.submit(5)
    desk.wait_for(fits, "RUNNING")
    desk.wait_for(waits, "PENDING", "AssocGrpGRESMinutes")
    small = desk.submit(2)
    desk.wait_for(small, "RUNNING")
    desk.grant(budget_gpu_hours=2)
    assert desk.limit == 120
    desk.wait_for(waits, "RUNNING")


def test_lowering_a_budget_ends_no_job_and_starts_none(desk: Desk) -> None:
    runs = desk.submit(5)
    desk.wait_for(runs, "RUNNING")
    waits = desk.submit(1)
    desk.wait_for(waits, "RUNNING")
    desk.grant(budget_gpu_hours=0)
    last = desk.mini.exec(
        ["sbatch", "--parsable", "--gpus=1", "--time=1", "--wrap=true"], user="alice", cwd="/tmp", check=False
    )
    assert "budget" in last.stderr
    desk.wait_for(runs, "RUNNING")


def test_the_hook_is_told_what_running_jobs_have_taken(desk: Desk) -> None:
    desk.wait_for(desk.submit(5), "RUNNING")
    desk.in_force.publisher.tick()
    argv = ["sbatch", "--gpus=8", "--time=5", "--wrap=true"]
    refused = desk.mini.exec(argv, user="alice", cwd="/tmp", check=False)
    assert refused.returncode != 0, "40 of 60 GPU-minutes are taken"
    assert "budget" in refused.stderr


def test_won_are_written_as_minutes_and_cheaper_burst_gives_back_what_it_did_not_cost(desk: Desk) -> None:
    desk.grant(budget_won=3_600)
    assert desk.limit == 60
    ended = desk.submit(1, "--qos=burst", seconds=20)
    desk.wait_for(ended, "RUNNING")
    desk.in_force.controller.reconcile()
    assert desk.limit == 60, "nothing is given back while it runs"
    desk.wait_for(ended, "COMPLETED")
    desk.meter_until_ended(ended)
    desk.in_force.controller.reconcile()
    (run,) = [run for run in desk.in_force.store.usage() if str(run.job_id) == ended]
    assert desk.limit == (3_600 + run.gpu_seconds * 9 // 10) // 60 > 60
    (found,) = read_budgets(desk.in_force.store, desk.in_force.store.policy(), MINI, datetime.now(UTC)).values()
    assert found.won and found.won.used * 10 == run.gpu_seconds
