"""A topology is applied to real Slurm: what moves, what is undone, and that jobs run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import Conflict, InvalidInput
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.slurm.connect import Door, connect
from slurm_gpuaas.slurm.programs import program
from slurm_gpuaas.slurm.topologies import ScontrolTopologies
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.topology.applying import Layout, Plan, plan
from slurm_gpuaas.topology.controller import NotTaken, TopologyController, Wanted
from slurm_gpuaas.topology.fabric import Fabric, LeafGroup
from slurm_gpuaas.topology.follower import FabricFollower, FollowSettings
from slurm_gpuaas.topology.slurm_yaml import Plugin, render
from tests.slurm.door import DAEMON_USER, door_settings
from tests.stores import new_store

pytestmark = pytest.mark.slurm

TOPOLOGY = "/etc/slurm/gpuaas/topology.yaml"
PARTITIONS = "/etc/slurm/gpuaas/partitions.conf"
PARTITION = "topology-test"


@dataclass
class Bench:
    mini: Instance
    door: Door
    asked: list[list[str]]
    """What scontrol was asked for."""

    @property
    def controller(self) -> TopologyController:
        scontrol = program(self.mini.command(["scontrol"], DAEMON_USER))

        def counted(arguments: Sequence[str], /, *, stdin: str = "") -> str:
            self.asked.append(list(arguments))
            return scontrol(arguments, stdin=stdin)

        return TopologyController(
            file=self.mini.path(TOPOLOGY), controller=self.door.controller, topologies=ScontrolTopologies(counted)
        )

    def apply(self, *groups: str, plugin: Plugin = Plugin.TREE) -> Plan:
        controller = self.controller
        return controller.apply(controller.wanted_of(fabric(*groups), plugin)).plan

    def updates(self) -> list[list[str]]:
        return [words[1:] for words in self.asked if words[0] == "update"]

    def submit(self, *options: str) -> JobId:
        argv = ["sbatch", "--parsable", f"--partition={PARTITION}", "--output=/dev/null", "--wrap=sleep 600", *options]
        return JobId(int(self.mini.exec(argv, cwd="/tmp").stdout))

    def running(self, job_id: JobId) -> Job:
        def found() -> Job | None:
            job = next(job for job in self.door.controller.jobs() if job.id == job_id)
            return job if job.state is JobState.RUNNING else None

        return self.mini.wait_for(f"Start of job {job_id}", found, seconds=30)


def fabric(*groups: str) -> Fabric:
    rows = [LeafGroup(name=f"leaf-{i:02}", pod="root", nodes=f"b200-[{nodes}]") for i, nodes in enumerate(groups, 1)]
    return Fabric(leaf_groups=tuple(rows))


@pytest.fixture
def bench(mini: Instance) -> Iterator[Bench]:
    """A partition that a reconfigure leaves, and at the end the topology as it was."""
    topology, partitions = mini.path(TOPOLOGY).read_text(), mini.path(PARTITIONS).read_text()
    line = f"PartitionName={PARTITION} Nodes=ALL AllowAccounts=root"
    mini.write(PARTITIONS, f"{partitions}{line}\n", owner=DAEMON_USER)
    mini.exec(["scontrol", "create", *line.split()])
    with door_settings(mini, name="topology") as settings, closing(connect(settings)) as door:
        bench = Bench(mini, door, [])
        yield bench
        ours = f"--partition={PARTITION}"
        mini.exec(["scancel", ours])
        mini.wait_for("an empty queue", lambda: not mini.exec(["squeue", "--noheader", ours]).stdout.strip())
        controller = bench.controller
        controller.apply(controller.wanted(topology))
    mini.write(TOPOLOGY, topology, owner=DAEMON_USER)
    mini.write(PARTITIONS, partitions, owner=DAEMON_USER)
    mini.path(f"{TOPOLOGY}.before").unlink(missing_ok=True)
    mini.exec(["scontrol", "delete", f"PartitionName={PARTITION}"])


def test_a_node_moves_by_one_update_under_a_job_and_slurm_places_by_it(bench: Bench) -> None:
    job = bench.running(bench.submit("--nodelist=b200-04"))
    done = bench.apply("01-03", "04-08")
    assert (list(done.lines()), done.reconfigure) == (["~ b200-04: from leaf-01 to leaf-02"], False)
    assert bench.apply("01-03", "04-08") == Plan(write=False), "there was nothing left to do"
    assert bench.updates() == [["NodeName=b200-04", "Topology=fabric:leaf-02"]]
    wide = bench.running(bench.submit("--nodes=5", "--switches=1"))
    assert wide.nodes == expand_nodes("b200-[04-08]")
    assert bench.running(job.id) == job


def test_blocks_beside_the_tree_follow_and_are_undone_and_jobs_run_on(bench: Bench) -> None:
    job = bench.running(bench.submit("--nodelist=b200-04"))
    assert bench.apply("01-03", "04-06", "07-08", plugin=Plugin.BOTH).reconfigure
    done = bench.apply("01-03", "05-06", "04,07-08", plugin=Plugin.BOTH)
    assert (len(done.moves), done.reconfigure) == (1, False)
    assert bench.updates() == [["NodeName=b200-04", "Topology=blocks:leaf-03,fabric:leaf-03"]]
    controller = bench.controller
    undone = controller.apply(controller.before()).plan
    assert [str(move) for move in undone.moves] == ["b200-04: from leaf-03 to leaf-02"]
    assert bench.running(job.id) == job


def test_a_bad_file_is_not_written_and_one_that_slurmctld_refuses_is_taken_back(bench: Bench) -> None:
    before = bench.mini.path(TOPOLOGY).read_text()
    bad = render(fabric("01-04", "05-08")).replace("leaf-[01-02]", "leaf-[01-03]")
    with pytest.raises(InvalidInput, match="leaf-03, which is not described"):
        bench.controller.wanted(bad)
    assert not bench.mini.path(f"{TOPOLOGY}.before").exists()
    layout, now = Layout.of(bad), Layout.of(before)
    unjudged = Wanted(text=bad, layout=layout, plan=plan(layout, file=now, slurm=now), warnings=())
    with pytest.raises(NotTaken, match="File and slurmctld are as they were before"):
        bench.controller.apply(unjudged)
    assert bench.mini.path(TOPOLOGY).read_text() == before
    assert not bench.controller.wanted(before).plan


def test_the_follower_moves_a_recabled_node_beside_a_sites_own_topology_and_leaves_what_a_person_set(
    bench: Bench, tmp_path: Path
) -> None:
    file, controller = tmp_path / "fabric.json", bench.controller
    text = render(fabric("01-04", "05-08")).replace(": fabric", ": site") + "- topology: plain\n  flat: true\n"
    controller.apply(controller.wanted(text))
    with closing(new_store(tmp_path / "store.db")) as store:
        follower = FabricFollower(
            file=file,
            topology=controller,
            store=store,
            clock=SystemClock(),
            settings=FollowSettings(apply=True, most_moves=1, longest_age=timedelta(hours=1)),
        )
        for groups in ("01-04", "05-08"), ("01-03", "04-08"):
            file.write_text(fabric(*groups).model_dump_json())
            follower.tick()
        assert bench.updates() == [["NodeName=b200-04", "Topology=site:leaf-02"]]
        assert bench.mini.path(TOPOLOGY).read_text().endswith("- topology: plain\n  flat: true\n")
        controller.apply(controller.before())
        with pytest.raises(Conflict, match="b200-04: from leaf-01 to leaf-02"):
            follower.tick()
