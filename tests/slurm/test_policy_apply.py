"""A policy on real Slurm: what sacctmgr and scontrol then say, and what Slurm then does with jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.names import ClusterName, QosName, UserName
from slurm_gpuaas.domain.policy import DOCUMENT, Policy, PolicyDocument
from slurm_gpuaas.quota.controller import PolicyController
from slurm_gpuaas.slurm.connect import connect
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.store import Store
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.releases import DEFAULT, RELEASES
from tests.slurm.applied import cancel_all
from tests.slurm.door import door_settings
from tests.stores import new_store

pytestmark = pytest.mark.slurm

EXAMPLE = Path(__file__).parents[2] / "etc" / "examples" / "policy-mini.yaml"
FILE = "/etc/slurm/gpuaas/partitions.conf"
MINI = ClusterName("mini")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test on every release, but one that waits for Slurm's own rounds (51 s on 24.11, 29 s on 26.05)."""
    slow = metafunc.definition.get_closest_marker("newest_slurm")
    metafunc.parametrize("mini", [DEFAULT] if slow else list(RELEASES), indirect=True)


@pytest.fixture
def mini(request: pytest.FixtureRequest, minis: Callable[[str], Instance]) -> Instance:
    return minis(request.param)


def example() -> list[PolicyDocument]:
    return [DOCUMENT.validate_python(value) for value in yaml.safe_load_all(EXAMPLE.read_text())]


def without(name: str, documents: list[PolicyDocument]) -> list[PolicyDocument]:
    """Without a project, its members and its grants, or without a member."""
    return [one for one in documents if name not in {getattr(one, field, "") for field in ("name", "project", "user")}]


@dataclass(frozen=True)
class Site:
    """Real Slurm with the example in force."""

    instance: Instance
    store: Store
    accounting: RestAccounting
    policies: PolicyController

    def apply(self, documents: list[PolicyDocument]) -> tuple[str, ...]:
        return self.policies.apply(Policy.of(documents), actor="root").plan.deferred

    def ask(self, *argv: str) -> list[str]:
        return self.instance.exec(argv).stdout.splitlines()

    def qos(self, name: str, *fields: str) -> list[str]:
        (line,) = self.ask("sacctmgr", "-nP", "show", "qos", name, f"format={','.join(fields)}")
        return line.split("|")

    def partition(self, name: str) -> dict[str, str]:
        (line,) = self.ask("scontrol", "--oneliner", "show", "partition", name)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def submit(self, user: str, *options: str) -> str:
        argv = ["sbatch", "--parsable", "--output=/dev/null", "--chdir=/tmp", *options, "--wrap=sleep 600"]
        return self.instance.exec(argv, user=user).stdout.strip()

    def job(self, job: str) -> tuple[str, str]:
        """State and reason; a reason that squeue tells as a sentence by its name."""
        state, reason = self.ask("squeue", "--noheader", "--jobs", job, "--format=%T|%r")[0].split("|")
        return state, "QOSNotAllowed" if reason.startswith("Job's QOS not permitted") else reason

    def wait_until(self, job: str, *wanted: str) -> None:
        self.instance.wait_for(f"Job {job} {' or '.join(wanted)}", lambda: set(self.job(job)) & set(wanted) or None)


@pytest.fixture
def site(mini: Instance, tmp_path: Path) -> Iterator[Site]:
    with (
        door_settings(mini, name="policy") as settings,
        closing(connect(settings)) as door,
        closing(new_store(tmp_path / "store.db")) as store,
    ):
        policies = PolicyController(
            cluster=MINI,
            store=store,
            accounting=door.accounting,
            controller=door.controller,
            partitions=door.partitions,
            partition_file=mini.path(FILE),
            clock=SystemClock(),
        )
        site = Site(mini, store, door.accounting, policies)
        site.apply(example())
        yield site
        cancel_all(mini)
        site.apply([])


def test_slurm_says_what_the_policy_says(site: Site) -> None:
    assert site.qos("guaranteed-vision", "grptres", "maxtres", "maxwall", "preempt") == [
        "gres/gpu:b200=24,gres/gpu=24",
        "gres/gpu:b200=16,gres/gpu=16",
        "12:00:00",
        "burst-mini-government",
    ]
    burst = site.qos("burst-mini-government", "grptres", "maxtrespa", "preemptmode", "gracetime", "preemptexempttime")
    assert burst == ["", "", "requeue", "00:00:20", ""]
    assert site.qos("guaranteed-archive", "grptres") == ["gres/gpu:b200=0,gres/gpu=0"], "its grant has ended"
    rows = site.ask("sacctmgr", "-nP", "show", "assoc", "format=account,user,parentname,grptres,grptresmins,qos")
    assert "vision||mini-government-snu|billing=40|gres/gpu=6000000|normal" in rows
    assert "vision|alice||||burst-mini-government,guaranteed-vision" in rows
    government = site.partition("mini-government")
    assert government["Nodes"] == "b200-[01-06]"
    assert government["MaxTime"] == "1-00:00:00"
    assert set(government["AllowQos"].split(",")) == {
        "burst-mini-government", "guaranteed-speech", "guaranteed-vision"
    }  # fmt: skip
    assert site.partition("mini-own")["AllowQos"] == "guaranteed-inhouse"


def test_nothing_changed_nothing_written(site: Site) -> None:
    written = site.instance.path(FILE).stat().st_mtime_ns
    before = len(site.ask("sacctmgr", "-nP", "list", "transactions"))
    assert site.policies.reconcile().plan.steps == ()
    assert len(site.ask("sacctmgr", "-nP", "list", "transactions")) == before
    assert site.instance.path(FILE).stat().st_mtime_ns == written


def test_drift_made_by_hand_is_shown_and_corrected(site: Site) -> None:
    site.ask("sacctmgr", "-i", "modify", "qos", "guaranteed-vision", "set", "grptres=gres/gpu=64")
    site.ask("sacctmgr", "-i", "modify", "account", "vision", "set", "grptresmins=gres/gpu=-1")
    site.ask("sacctmgr", "-i", "add", "user", "mallory", "account=vision")
    site.ask("sacctmgr", "-i", "delete", "user", "carol")
    shown = {f"{change.action} {change.kind} {change.name}" for change in site.policies.plan().changes}
    assert shown == {
        "change qos guaranteed-vision",
        "change account vision",
        "delete user mallory",
        "create association carol@speech",
    }
    site.policies.reconcile()
    assert site.policies.plan().steps == ()
    assert site.qos("guaranteed-vision", "grptres") == ["gres/gpu:b200=24,gres/gpu=24"]
    assert {entry.subject for entry in site.store.audit.newest() if entry.reason == "drift"} == {
        "guaranteed-vision", "vision", "mallory", "carol@speech"
    }  # fmt: skip


def test_what_is_not_ours_stays_and_a_name_of_ours_that_is_taken_stops_the_plan(site: Site) -> None:
    site.ask("sacctmgr", "-i", "add", "account", "physics")
    site.ask("sacctmgr", "-i", "add", "qos", "guaranteed-wanted", "grptres=gres/gpu=1")
    try:
        assert site.policies.reconcile().plan.steps == ()
        wanted = [one for one in example() if getattr(one, "project", "") == "speech" or one.kind in {"Pool"}]
        named = yaml.safe_dump_all([one.model_dump(mode="json") for one in wanted]).replace("speech", "wanted")
        renamed = [DOCUMENT.validate_python(value) for value in yaml.safe_load_all(named)]
        extra = [
            DOCUMENT.validate_python({"kind": "Project", "name": "wanted", "organisation": "snu"}),
            # of no GPU: what the shares have is granted already
            *(
                one.model_copy(update={"gpus": 0}) if one.kind == "Grant" else one
                for one in renamed
                if one.kind != "Pool"
            ),
        ]
        with pytest.raises(Conflict, match="needs the QOS guaranteed-wanted, which exists and is not ours"):
            site.apply([*example(), *extra])
        assert site.qos("guaranteed-wanted", "grptres") == ["gres/gpu=1"]
    finally:
        site.ask("sacctmgr", "-i", "delete", "account", "physics")
        site.ask("sacctmgr", "-i", "delete", "qos", "guaranteed-wanted")


@pytest.fixture
def other_cluster(mini: Instance) -> Iterator[str]:
    """Another cluster of the same slurmdbd, with an account and a member of its own that bear names of ours."""
    for argv in (
        ["add", "cluster", "other"],
        ["add", "account", "speech", "cluster=other"],
        ["add", "account", "chem", "cluster=other"],
        ["add", "user", "dave", "account=speech", "cluster=other"],
        ["add", "account", "physics", "cluster=mini"],
    ):
        mini.exec(["sacctmgr", "-i", *argv])
    yield "other"
    for argv in (
        ["delete", "cluster", "other"],
        ["delete", "user", "ivan,grace"],
        ["delete", "account", "physics,chem"],
    ):
        mini.exec(["sacctmgr", "-i", *argv], check=False)


def test_associations_and_accounts_that_are_not_ours_outlive_ours(site: Site, other_cluster: str) -> None:
    def add(user: str, *words: str) -> None:
        site.ask("sacctmgr", "-i", "add", "user", user, *words)

    def rows() -> set[str]:
        return set(site.ask("sacctmgr", "-nP", "show", "assoc", "format=cluster,account,user,partition"))

    members = [
        DOCUMENT.validate_python({"kind": "Member", "project": "speech", "user": user}) for user in ("ivan", "grace")
    ]
    site.apply([*example(), *members])
    add("ivan", "account=physics", "cluster=mini", "partition=all")
    add("ivan", "account=root", "cluster=mini")
    add("ivan", "account=chem", f"cluster={other_cluster}")
    add("grace", "account=chem", f"cluster={other_cluster}")
    site.ask("sacctmgr", "-i", "modify", "user", "ivan", "where", "cluster=mini", "set", "defaultaccount=physics")
    foreign = {
        "mini|physics|ivan|all", "mini|root|ivan|", "other|chem|ivan|", "other|chem|grace|", "other|speech|dave|",
        "other|speech||", "mini|physics||",
    }  # fmt: skip
    assert rows() >= foreign | {"mini|speech|ivan|", "mini|speech|grace|"}
    assert site.policies.reconcile().plan.steps == (), "ivan's default account is his own choice"

    assert site.apply(example()) == ()
    assert rows() >= foreign
    assert not rows() & {"mini|speech|ivan|", "mini|speech|grace|"}
    site.accounting.delete_users([UserName("grace")])
    assert rows() >= foreign, "nor does the door delete whom another cluster knows"

    site.apply(without("speech", example()))
    assert rows() >= foreign
    assert not [row for row in rows() if row.startswith("mini|speech|")]
    assert site.policies.reconcile().plan.steps == ()
    site.apply(example())
    assert {"mini|speech||", "mini|speech|carol|"} | foreign <= rows()
    assert site.policies.reconcile().plan.steps == ()


def test_a_project_runs_its_guarantee_and_its_borrowed_gpus_and_no_more(site: Site) -> None:
    where = ("--account=vision", "--partition=mini-government", "--gpus-per-node=b200:8", "--time=10")
    own = [site.submit("alice", *where, "--qos=guaranteed-vision", "--nodes=1") for _ in range(4)]
    burst = [site.submit("alice", *where, "--qos=burst-mini-government", "--nodes=1") for _ in range(3)]
    for job in (*own[:3], *burst[:2]):
        site.wait_until(job, "RUNNING")
    site.wait_until(own[3], "QOSGrpGRES")
    site.wait_until(burst[2], "AssocGrpBilling")


@pytest.mark.newest_slurm
def test_the_administrators_partition_lets_no_project_in(site: Site) -> None:
    """`AllowAccounts=root` lets in every account below root: the ceiling would end there. Opened by hand, it is closed
    again."""
    rest = ("--partition=all", "--gpus-per-node=b200:8", "--nodes=1", "--time=10")
    assert site.policies.plan().steps == ()
    site.ask("scontrol", "update", "PartitionName=all", "AllowQos=ALL")
    assert [change.name for change in site.policies.plan().changes] == ["all"]
    site.policies.reconcile()
    assert site.partition("all")["AllowQos"] == "normal"
    assert site.policies.plan().steps == ()
    for qos in ("burst-mini-government", "guaranteed-vision"):
        job = site.submit("alice", "--account=vision", f"--qos={qos}", *rest)
        site.wait_until(job, "QOSNotAllowed")
    administrators = site.submit("root", "--account=root", *rest)
    site.wait_until(administrators, "RUNNING")


def test_a_guaranteed_job_gets_its_gpus_back_from_borrowers(site: Site) -> None:
    site.apply([one.model_copy(update={"grace": timedelta(0)}) if one.kind == "Pool" else one for one in example()])
    borrowed = site.submit(
        "carol", "--account=speech", "--partition=mini-government", "--gpus-per-node=b200:8", "--time=10",
        "--qos=burst-mini-government", "--nodes=6", "--requeue",
    )  # fmt: skip
    site.wait_until(borrowed, "RUNNING")
    mine = site.submit(
        "alice", "--account=vision", "--partition=mini-government", "--gpus-per-node=b200:8", "--time=10",
        "--qos=guaranteed-vision", "--nodes=2",
    )  # fmt: skip
    site.wait_until(mine, "RUNNING")
    site.wait_until(borrowed, "PENDING")  # not at once: it needs all nodes, and may be clearing some still


def test_a_member_who_left_keeps_running_jobs_starts_no_other_and_goes_when_they_have_ended(site: Site) -> None:
    where = ("--account=vision", "--partition=mini-government", "--gpus-per-node=b200:8", "--nodes=1", "--time=10")
    running = site.submit("alice", *where)
    site.wait_until(running, "RUNNING")
    waiting = site.submit("alice", *where, "--begin=now+1hour")
    deferred = site.apply(without("alice", example()))
    assert len(deferred) == 1
    assert "alice@vision may start nothing" in deferred[0]
    site.ask("scontrol", "update", f"JobId={waiting}", "StartTime=now")
    site.wait_until(waiting, "InvalidQOS")
    assert site.job(running)[0] == "RUNNING"
    site.ask("scancel", running, waiting)
    site.instance.wait_for("alice's jobs gone", lambda: not site.ask("squeue", "-h", "-u", "alice") or None)
    site.instance.wait_for("alice removed", lambda: not site.policies.reconcile().plan.deferred or None)
    assert not site.ask("sacctmgr", "-nP", "show", "user", "alice")
    site.apply(example())
    assert site.ask("sacctmgr", "-nP", "show", "user", "alice"), "back again, although Slurm had kept a trace of her"


def test_a_moved_and_a_removed_project(site: Site) -> None:
    grant = next(one for one in example() if one.kind == "Grant" and one.project == "vision")
    moved = DOCUMENT.validate_python(grant.model_dump() | {"share": "own", "gpus": 0})
    documents = [moved if one == grant else one for one in without("speech", example())]
    site.apply(documents)
    rows = site.ask("sacctmgr", "-nP", "show", "assoc", "format=account,user,parentname")
    assert "vision||mini-own-snu" in rows
    assert not [row for row in rows if row.startswith("speech|")]
    state = site.accounting.read()
    assert QosName("guaranteed-speech") not in state.qos
    assert site.partition("mini-government")["AllowQos"] == "closed", "no grant in force there any more"
