"""What happens when ...: the courses that docs/guides/quota.md promises, on real Slurm.

A borrowed job whose owner wants its guarantee back is in test_policy_apply.py and test_reclaim.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.policy import Policy, PolicyDocument
from slurm_gpuaas.testbed.errors import CommandFailed
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.applied import Applied, applied, cancel_all
from tests.unit.policies import document, grant, member, pool, project

pytestmark = pytest.mark.slurm

CLUSTER = ClusterName("mini")
BASE = [document("Organisation", name="snu"), pool()]
VISION = [project("vision"), member("alice", "vision"), grant("vision", gpus=16, borrow_limit=0)]
SPEECH = [project("speech"), member("carol", "speech"), grant("speech", gpus=32, borrow_limit=0)]
MINUTE = timedelta(minutes=1)


@dataclass
class Later:
    """The system's clock, set forward by a test."""

    ahead: timedelta = field(default=timedelta())

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass(frozen=True)
class Desk:
    mini: Instance
    site: Applied
    clock: Later

    def apply(self, *documents: PolicyDocument) -> str:
        """What is deferred."""
        return " ".join(self.site.controller.apply(Policy.of([*BASE, *documents]), actor="root").plan.deferred)

    def ask(self, *argv: str) -> list[str]:
        return self.mini.exec(argv).stdout.splitlines()

    def submit(self, user: str, project: str, *options: str) -> str:
        """A job of one node."""
        argv = ["sbatch", "--parsable", f"--account={project}", f"--qos=guaranteed-{project}", "--partition=mini-own"]
        argv += ["--nodes=1", "--gpus-per-node=b200:8", "--time=10", "--output=/dev/null", *options]
        return self.mini.exec([*argv, "--wrap=sleep 600"], user=user, cwd="/tmp").stdout.strip()

    def runs(self, user: str, project: str, *options: str) -> str:
        job = self.submit(user, project, *options)
        self.becomes(job, "RUNNING")
        return job

    def becomes(self, job: str, *wanted: str) -> None:
        """State or reason."""
        argv = ("squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T|%r")
        self.mini.wait_for(
            f"Job {job} {' or '.join(wanted)}", lambda: set(self.ask(*argv)[0].split("|")) & set(wanted) or None
        )

    def running(self, *jobs: str) -> bool:
        return set(self.ask("squeue", "--noheader", "--states=running", "--format=%A")) >= set(jobs)

    def end(self, *jobs: str) -> None:
        self.ask("scancel", *jobs)
        for job in jobs:
            self.becomes(job, "CANCELLED")

    def settles(self) -> None:
        """The reconciler's ticks until nothing waits."""
        self.mini.wait_for("Nothing deferred", lambda: not self.tick() or None)

    def tick(self) -> tuple[str, ...]:
        self.clock.ahead += 10 * MINUTE  # all is read again, and slurmdbd asked again to delete
        return self.site.controller.reconcile().plan.deferred

    def accounts(self) -> set[str]:
        return set(self.ask("sacctmgr", "-nP", "show", "account", "format=account"))

    def limit(self, project: str) -> str:
        (line,) = self.ask("sacctmgr", "-nP", "show", "qos", f"guaranteed-{project}", "format=grptres")
        return line


@pytest.fixture(scope="module")
def clock() -> Later:
    return Later()


@pytest.fixture(scope="module")
def site(mini: Instance, clock: Later) -> Iterator[Applied]:
    with applied(mini, BASE, clock=clock) as both:
        mini.path("/run/gpuaas/snapshot").unlink()  # Slurm's own limits are asked, not the hook
        yield both
        both.publisher.tick()


@pytest.fixture
def desk(mini: Instance, site: Applied, clock: Later) -> Iterator[Desk]:
    yield Desk(mini, site, clock)
    cancel_all(mini)


def test_a_quota_lowered_under_load_ends_no_job_and_starts_none_above_it(desk: Desk) -> None:
    desk.apply(*SPEECH)
    jobs = [desk.runs("carol", "speech") for _ in range(3)]
    desk.apply(*SPEECH[:2], grant("speech", gpus=16, borrow_limit=0))
    waits = desk.submit("carol", "speech")
    desk.becomes(waits, "QOSGrpGRES")
    desk.end(jobs[0])
    desk.becomes(waits, "QOSGrpGRES")
    assert desk.running(*jobs[1:])
    desk.end(jobs[1])
    desk.becomes(waits, "RUNNING")


def test_a_deleted_project_goes_when_its_last_job_has_ended(desk: Desk) -> None:
    desk.apply(*VISION, *SPEECH)
    job = desk.runs("alice", "vision")
    waits = desk.submit("alice", "vision", "--begin=now+1hour")
    assert "alice@vision may start nothing" in desk.apply(*SPEECH)
    desk.ask("scontrol", "update", f"JobId={waits}", "StartTime=now")
    assert desk.running(job)
    desk.becomes(waits, "InvalidQOS")
    assert desk.tick(), "not yet"
    desk.end(job, waits)
    desk.settles()
    assert "vision" not in desk.accounts()
    assert "speech" in desk.accounts()


def test_a_run_that_only_slurmdbd_still_counts_delays_its_project_and_nothing_else(desk: Desk) -> None:
    """As after a slurmctld that lost the end of a job: `sacctmgr show runawayjobs` lists it."""
    desk.apply(*VISION, *SPEECH)
    job = desk.runs("alice", "vision")
    desk.end(job)
    rows = ("mariadb", "slurm_acct_db", "--skip-column-names", "--execute")
    ended = f"select time_end from mini_job_table where id_job = {job} and time_end > 0"
    (at,) = desk.mini.wait_for("slurmdbd has the end", lambda: desk.ask(*rows, ended))
    desk.ask(*rows, f"update mini_job_table set time_end = 0, state = 1 where id_job = {job}")
    try:
        deferred = desk.apply()
        assert f"no end of job {job} (alice@vision)" in deferred
        assert "vision" in desk.accounts()
        assert "speech" not in desk.accounts(), "it goes although it was in the same bulk deletion"
        assert desk.tick(), "asked again, refused again: no error"
    finally:
        desk.ask(*rows, f"update mini_job_table set time_end = {at}, state = 4 where id_job = {job}")
    desk.settles()
    assert "vision" not in desk.accounts()


def test_a_user_who_moves_between_projects_keeps_what_runs_and_starts_in_the_new_one(desk: Desk) -> None:
    desk.apply(*VISION, *SPEECH)
    job = desk.runs("alice", "vision")
    moved = [VISION[0], VISION[2], *SPEECH, member("alice", "speech")]
    assert "alice@vision" in desk.apply(*moved)
    assert desk.running(job)
    desk.runs("alice", "speech")
    (default,) = desk.ask("sacctmgr", "-nP", "show", "user", "alice", "format=defaultaccount")
    assert default == "speech", "a job that names no account starts too"
    with pytest.raises(CommandFailed, match="Invalid qos"):
        desk.submit("alice", "vision")
    cancel_all(desk.mini)
    desk.settles()
    rows = desk.ask("sacctmgr", "-nP", "show", "assoc", "user=alice", "format=account")
    assert rows == ["speech"]


def test_a_renamed_project_starts_under_the_new_name_while_the_old_one_ends(desk: Desk) -> None:
    desk.apply(*VISION)
    job = desk.runs("alice", "vision")
    desk.apply(project("sight"), member("alice", "sight"), grant("sight", gpus=16, borrow_limit=0))
    assert desk.running(job)
    desk.runs("alice", "sight")
    desk.end(job)
    desk.settles()
    assert {"vision", "sight"} & desk.accounts() == {"sight"}
    (user,) = desk.ask("sacct", "--noheader", "--parsable2", "-X", "--jobs", job, "--format=account")
    assert user == "vision", "its past stays under the old name"


def test_lost_nodes_short_the_lowest_priority_and_end_no_job(desk: Desk) -> None:
    first = grant("speech", gpus=32, borrow_limit=0, priority=1)
    desk.apply(*VISION, *SPEECH[:2], first)
    runs = desk.runs("alice", "vision", "--nodelist=b200-01")
    desk.site.store.put_nodes(desk.site.slurm.nodes(), at=desk.clock.now())
    desk.ask("scontrol", "update", "NodeName=b200-[05-08]", "State=DOWN", "Reason=lost")
    try:
        desk.site.store.put_nodes(desk.site.slurm.nodes(), at=desk.clock.now())
        desk.tick()
        assert (desk.limit("speech"), desk.limit("vision")) == (
            "gres/gpu:b200=32,gres/gpu=32", "gres/gpu:b200=0,gres/gpu=0",
        )  # fmt: skip
        (told,) = desk.site.store.audit.newest(action="guarantee.short", limit=1)
        assert "vision gets 0 of 16 guaranteed" in told.reason
        assert desk.running(runs)
        desk.becomes(desk.submit("alice", "vision"), "QOSGrpGRES")
    finally:
        desk.ask("scontrol", "update", "NodeName=b200-[05-08]", "State=RESUME")

    def back() -> bool:
        desk.site.store.put_nodes(desk.site.slurm.nodes(), at=desk.clock.now())
        desk.tick()
        return desk.limit("vision") == "gres/gpu:b200=16,gres/gpu=16"

    desk.mini.wait_for("The guarantee is back", lambda: back() or None)
    assert desk.site.store.audit.newest(action="guarantee.kept", limit=1)


def test_drift_is_shown_with_who_made_it_and_when(desk: Desk) -> None:
    desk.apply(*VISION)
    desk.tick()
    before = datetime.now(UTC) - timedelta(seconds=2)
    desk.ask("sacctmgr", "-i", "modify", "qos", "guaranteed-vision", "set", "grptres=gres/gpu=64")
    (change,) = desk.site.controller.plan().changes
    assert change.name == "guaranteed-vision"
    assert change.origin
    assert change.origin.actor == "root"
    assert before <= change.origin.at <= datetime.now(UTC) + timedelta(seconds=2)
    desk.tick()
    (entry,) = desk.site.store.audit.newest(subject="guaranteed-vision", limit=1)
    assert entry.evidence["changed_by"] == "root"
    assert desk.limit("vision") == "gres/gpu:b200=16,gres/gpu=16"
