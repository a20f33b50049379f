"""When a job of each size has room, and the texts that the users' plugin reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.jobs import Job, JobState, ServiceClass
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName, ProjectName, UserName
from slurm_gpuaas.domain.nodes import Node, NodeFlag
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.quota import estimates
from slurm_gpuaas.quota.estimate_files import EstimatePublisher
from slurm_gpuaas.quota.estimates import openings
from slurm_gpuaas.quota.live import Scene
from slurm_gpuaas.quota.verdict import Standing
from slurm_gpuaas.slurm.files import write_atomically
from tests.fakes import EPOCH, FakeClock, make_job, make_node
from tests.stores import new_store
from tests.unit.policies import grant, member, policy, pool, project, rate

MINI, OWN = ClusterName("mini"), PartitionName("mini-own")
NODES = expand_nodes("b200-[01-04]")
NOW = int(EPOCH.timestamp())
HOUR = 3600


def running(job_id: int, nodes: str, *, gpus: int | None = None, left_h: int | None = 1, qos: str = "burst-x") -> Job:
    """Began an hour ago and has `left_h` hours left."""
    return replace(
        make_job(job_id, qos=qos, partition=OWN, state=JobState.RUNNING, nodes=expand_nodes(nodes), gpus=gpus),
        started=EPOCH - timedelta(hours=1),
        time_limit=None if left_h is None else timedelta(hours=1 + left_h),
    )


def waiting(job_id: int, gpus: int, *, reason: str = "Resources", qos: str = "burst-x") -> Job:
    return make_job(job_id, qos=qos, partition=OWN, node_count=max(gpus // 8, 1), gpus=gpus, reason=reason)


def scene(jobs: Sequence[Job], out: str = "") -> Scene:
    used: dict[NodeName, int] = dict.fromkeys(NODES, 0)
    for job in jobs:
        for name in job.nodes:
            used[name] += job.gpus // len(job.nodes)
    nodes: Mapping[NodeName, Node] = {
        name: replace(make_node(name), gpus_allocated=taken, flags=NodeFlag.DRAIN if name == out else NodeFlag.NONE)
        for name, taken in used.items()
    }
    return Scene(now=EPOCH, jobs=jobs, nodes=nodes, promised={})


G, B = "guaranteed-x", "burst-x"
# what runs and waits; then for each size asked: None (never), 0 (now) or hours from now
ROOM: list[tuple[str, list[Job], dict[int, int | None], dict[int, int | None]]] = [
    ("an idle share", [], {1: 0, 8: 0, 32: 0}, {1: 0, 32: 0}),
    ("larger than the share", [], {40: None}, {40: None}),
    ("burst jobs give way to guaranteed ones", [running(1, "b200-[01-04]", left_h=5)], {32: 0}, {1: 5, 32: 5}),
    ("guaranteed jobs give way to nobody", [running(1, "b200-[01-03]", qos=G)], {8: 0, 16: 1}, {8: 0, 32: 1}),
    ("each node when its last job ends",
     [running(1, "b200-01", gpus=4, qos=G, left_h=2), running(2, "b200-01", gpus=4, qos=G, left_h=3),
      running(3, "b200-[02-04]", qos=G, left_h=9)],
     {4: 2, 5: 3, 8: 3, 16: 9}, {4: 2, 8: 3}),
    ("free GPUs on different nodes make no node",
     [running(1, "b200-[01-04]", gpus=16, qos=G, left_h=4)], {4: 0, 5: 4, 8: 4}, {4: 0, 8: 4}),
    ("without a limit nothing is foretold", [running(1, "b200-[01-04]", qos=G, left_h=None)], {1: None}, {1: None}),
    ("who waits goes first", [running(1, "b200-[01-02]", qos=G, left_h=2), waiting(2, 16)],
     {16: 0}, {1: 2, 8: 2, 16: 2, 24: None}),
    ("guaranteed ones before guaranteed ones", [running(1, "b200-[01-02]", qos=G), waiting(2, 16, qos=G)],
     {8: 1, 16: 1}, {8: 1}),
    ("who may not start takes nothing now",
     [running(1, "b200-[01-02]", qos=G, left_h=2), waiting(2, 16, reason="QOSGrpGRES")],
     {}, {16: 0, 24: None}),
    ("nor who is held or waits for others", [waiting(1, 32, reason="Dependency"), waiting(2, 32, reason="JobHeldUser")],
     {32: 0}, {32: 0}),
]  # fmt: skip


@pytest.mark.parametrize(("why", "jobs", "guaranteed", "burst"), ROOM, ids=[row[0] for row in ROOM])
def test_room(why: str, jobs: list[Job], guaranteed: dict[int, int | None], burst: dict[int, int | None]) -> None:
    for service, expected in ((ServiceClass.GUARANTEED, guaranteed), (ServiceClass.BURST, burst)):
        found = openings(scene(jobs), OWN, NODES, 8, service)
        for gpus, hours in expected.items():
            at = next((one.at for one in found if one.gpus >= gpus), None)
            assert at == (hours if not hours else NOW + hours * HOUR), (service, gpus, found)


def test_a_drained_node_gives_nothing() -> None:
    assert max(one.gpus for one in openings(scene([], out="b200-01"), OWN, NODES, 8, ServiceClass.BURST)) == 24


def test_a_job_past_its_limit_is_about_to_end_but_has_not() -> None:
    late = scene([running(1, "b200-[01-04]", qos=G, left_h=-1)])
    assert {one.at for one in openings(late, OWN, NODES, 8, ServiceClass.BURST)} == {NOW + 1}


JOBS = st.lists(
    st.builds(
        running, st.integers(1, 99), st.sampled_from(NODES), gpus=st.integers(1, 2), left_h=st.integers(1, 9),
        qos=st.sampled_from([G, B]),
    ),
    max_size=4,
)  # fmt: skip
QUEUE = st.lists(st.builds(waiting, st.integers(100, 199), st.integers(1, 16), qos=st.sampled_from([G, B])), max_size=3)


@settings(max_examples=100, deadline=None)
@given(jobs=JOBS, queue=QUEUE)
def test_more_waiting_never_brings_room_sooner_and_sizes_rise(jobs: list[Job], queue: list[Job]) -> None:
    for service in ServiceClass:
        empty = openings(scene(jobs), OWN, NODES, 8, service)
        full = openings(scene([*jobs, *queue]), OWN, NODES, 8, service)
        assert [one.gpus for one in full] == sorted({one.gpus for one in full})
        for one in full:
            assert next(other.at for other in empty if other.gpus >= one.gpus) <= one.at


# -- Text and files ----------------------------------------------------------------------------------------------------

POLICY = policy(
    pool(), rate(won_per_gpu_hour=2500, burst_discount=30),
    project("nlp"), member("alice", "nlp"), grant("nlp", gpus=16, borrow_limit=8, price_percent=50, max_time="PT12H"),
    project("vision"), member("alice", "vision"), member("bob", "vision"), grant("vision", gpus=8),
)  # fmt: skip


def test_a_user_reads_of_the_own_projects_only() -> None:
    standing = {ProjectName("nlp"): Standing(guaranteed_in_use=4, burst_in_use=6, may_borrow=40)}
    found = estimates.own(POLICY, MINI, EPOCH, budgets={}, standing=standing)
    nlp, vision = (line.split("\t") for line in found[UserName("alice")].splitlines())
    assert nlp == ["project", "nlp", "1", "mini-own", "b200", "8", "720", "1250", "875", "-", "-", "12", "14"]
    assert vision[1:3] == ["vision", "0"] and vision[-2:] == ["-", "-"]
    assert [line.split("\t")[1] for line in found[UserName("bob")].splitlines()] == ["vision"]


def test_the_folder_follows_the_policy(tmp_path: Path) -> None:
    clock, folder = FakeClock(), tmp_path / "estimates"
    store = new_store(tmp_path / "store.db")
    uids = {"alice": 54001, "bob": 54002}
    publisher = EstimatePublisher(
        cluster=MINI, store=store, scene=lambda: scene([]), folder=folder, clock=clock, uid_of=uids.get
    )
    store.replace_policy(POLICY, actor="root", at=clock.now())
    publisher.tick()
    assert sorted(file.name for file in folder.iterdir()) == ["54001", "54002", "shares"]
    assert stat.S_IMODE((folder / "shares").stat().st_mode) == 0o644
    assert not stat.S_IMODE((folder / "54001").stat().st_mode) & 0o007, "not for everybody"
    written = (folder / "54001").stat().st_ino
    publisher.tick()
    assert (folder / "54001").stat().st_ino == written, "what did not change is not written"
    store.replace_policy(policy(pool()), actor="root", at=clock.now())
    publisher.tick()
    assert [file.name for file in folder.iterdir()] == ["shares"]
    store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize(("uid", "may"), [(54001, True), (54002, False)])
def test_a_users_file_is_read_by_that_user_alone(uid: int, may: bool) -> None:
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        file = Path(name) / "54001"
        write_atomically(file, "mine", mode=0o600, reader=54001)
        child = os.fork()
        if not child:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os._exit(0 if os.access(file, os.R_OK) else 1)
        assert (os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0) == may
