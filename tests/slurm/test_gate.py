"""The placement gate on real Slurm: where jobs land, in which order their ranks are, and what a dead gate leaves."""

from __future__ import annotations

import http.server
import json
import re
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from slurm_gpuaas.api.models import DefragApply, DefragMove, DefragOrder, DefragTerms, Staying
from slurm_gpuaas.daemon.defragmentation import Defragmenter
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.jobs import Job, JobId, JobState, PlacementOutcome
from slurm_gpuaas.domain.names import ClusterName, NodeName, PartitionName
from slurm_gpuaas.domain.nodes import NodeFlag
from slurm_gpuaas.domain.policy import Policy, Pool, expand_nodes
from slurm_gpuaas.jobs.gate import KEPT, RESERVATION, GateSettings, PlacementGate, change_for
from slurm_gpuaas.jobs.gate_rules import Decision, is_free
from slurm_gpuaas.jobs.mover import Mover
from slurm_gpuaas.slurm.records import JobChange
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.store import Store
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.topology import slurm_yaml
from slurm_gpuaas.topology.fabric import Fabric, LeafGroup
from slurm_gpuaas.topology.placer import FabricPlacer
from slurm_gpuaas.topology.rank import crossings
from slurm_gpuaas.topology.slurm_yaml import Plugin
from tests.slurm.training import STAND_IN_LAUNCHER, STAND_IN_SCRIPT
from tests.stores import new_store

pytestmark = pytest.mark.slurm

RANKED = "/opt/gpuaas/src/tests/slurm/ranked.py"
RELAY = "/opt/gpuaas/src/tests/slurm/relay.py"
SOCKET = "/run/gpuaas/test-gate.sock"
TOPOLOGY = "/etc/slurm/gpuaas/topology.yaml"
PARTITION = "gate-test"
STRANGER = "gpuaas"
"""Another user whose jobs may run there."""
NODES = expand_nodes("b200-[01-08]")
ENDS = ("b200-[01-02]", "b200-[07-08]")
"""What stays free between them is of two leaf groups."""


@dataclass
class Bench:
    """The testbed with a gate of its own, ticked by the test."""

    mini: Instance
    slurm: RestController
    store: Store

    def gate(self, settings: GateSettings | None = None) -> PlacementGate:
        fabric = slurm_yaml.parse(self.mini.path(TOPOLOGY).read_text())
        return PlacementGate(
            cluster=ClusterName("mini"),
            slurm=self.slurm,
            store=self.store,
            placer=lambda: FabricPlacer(fabric.arrays),
            partitions=lambda: {PartitionName(PARTITION): NODES},
            clock=SystemClock(),
            settings=settings or GateSettings(),
        )

    def submit(
        self, nodes: int, script: str = "sleep 600", *options: str, gated: bool = True, user: str = "root"
    ) -> JobId:
        argv = ["sbatch", "--parsable", f"--partition={PARTITION}", f"--nodes={nodes}", "--gpus-per-node=8"]
        argv += ["--exclusive", "--ntasks-per-node=1", "--output=/tmp/%j.out", *options, f"--wrap={script}"]
        argv += ["--licenses=placement:1"] if gated else []
        return JobId(int(self.mini.exec(argv, user, cwd="/tmp").stdout))

    def job(self, job_id: JobId) -> Job:
        return next(job for job in self.slurm.jobs() if job.id == job_id)

    def nodes_of(self, job_id: JobId) -> tuple[NodeName, ...]:
        """Where it runs, once it does."""
        self.mini.wait_for(f"Start of job {job_id}", lambda: self.job(job_id).state is JobState.RUNNING, seconds=30)
        return self.job(job_id).nodes

    def free(self, count: int) -> None:
        """Wait until so many nodes are."""
        self.mini.wait_for(f"{count} free nodes", lambda: sum(map(is_free, self.slurm.nodes())) == count)

    def ends_taken(self) -> list[JobId]:
        """A short job on the first and on the last two nodes; the four between are free."""
        jobs = [self.submit(2, "sleep 600", f"--nodelist={nodes}", "--time=8", gated=False) for nodes in ENDS]
        for job in jobs:
            self.nodes_of(job)
        self.free(len(NODES) - 4)
        return jobs

    def output(self, job_id: JobId) -> list[str]:
        """What it wrote, once it ended."""
        self.mini.wait_for(f"End of job {job_id}", lambda: self.job(job_id).state is JobState.COMPLETED, seconds=60)
        return self.mini.path(f"/tmp/{job_id}.out").read_text().splitlines()

    @contextmanager
    def drained(self, nodes: str) -> Iterator[None]:
        self.slurm.drain(expand_nodes(nodes), "gpuaas:test")
        try:
            yield
        finally:
            self.slurm.resume(expand_nodes(nodes))


def all_idle(mini: Instance) -> bool:
    return set(mini.exec(["sinfo", "--noheader", "--Node", "--format=%T"]).stdout.split()) == {"idle"}


def make_partition(mini: Instance) -> None:
    """Only until Slurm reads its configuration again, which knows nothing of it."""
    mini.exec(["scontrol", "create", f"PartitionName={PARTITION}", "Nodes=ALL", "AllowAccounts=root"])


@pytest.fixture(scope="module")
def channel(mini: Instance) -> Iterator[RestController]:
    """Slurm's REST service, and a partition whose jobs no other test touches."""
    make_partition(mini)
    relay = mini.popen(
        ["python3", RELAY, SOCKET, "/run/slurmrestd/slurmrestd.sock"], user="gpuaas", stdout=subprocess.PIPE
    )
    assert relay.stdout
    assert relay.stdout.readline() == "ready\n"
    try:
        with closing(RestWire(RestAddress(socket=mini.path(SOCKET)))) as wire:
            yield RestController(wire)
    finally:
        relay.kill()
        relay.wait()
        relay.stdout.close()
        mini.exec(["scontrol", "delete", f"PartitionName={PARTITION}"], check=False)


@pytest.fixture
def bench(mini: Instance, channel: RestController, tmp_path: Path) -> Iterator[Bench]:
    with closing(new_store(tmp_path / "store.db")) as store:
        yield Bench(mini, channel, store)
    mini.exec(["scancel", f"--partition={PARTITION}"])
    mini.wait_for("Idle nodes", lambda: all_idle(mini))
    for one in channel.reservations():
        if one.name == RESERVATION or one.name.startswith(KEPT):
            channel.delete_reservation(one.name)


def test_a_job_gets_a_whole_leaf_group_although_node_order_would_spread_it(bench: Bench) -> None:
    with bench.drained("b200-02"):
        gate = bench.gate()
        gate.tick()
        job = bench.submit(4)
        gate.tick()
        assert bench.nodes_of(job) == expand_nodes("b200-[05-08]")
    assert bench.job(job).licenses == ""
    (placement,) = bench.store.placements(job_id=job)
    assert (placement.outcome, placement.leaf_groups) == (PlacementOutcome.PINNED, 1)


def test_one_node_jobs_leave_whole_leaf_groups_whole(bench: Bench) -> None:
    """Slurm 26.05 by itself takes the first free node for them, which is b200-01 here."""
    gate = bench.gate()
    gate.tick()
    bench.nodes_of(bench.submit(1, "sleep 600", "--nodelist=b200-06", gated=False))
    single = bench.submit(1)
    gate.tick()
    assert bench.nodes_of(single) == expand_nodes("b200-05")
    four = bench.submit(4)
    gate.tick()
    assert bench.nodes_of(four) == expand_nodes("b200-[01-04]")


def test_jobs_wait_at_the_gate_only_until_it_looks(bench: Bench) -> None:
    gate = bench.gate()
    gate.tick()
    running = bench.submit(8)
    gate.tick()
    bench.nodes_of(running)
    waiting = bench.submit(2)
    bench.mini.wait_for("Reason Licenses", lambda: bench.job(waiting).reason == "Licenses")
    gate.tick()
    job = bench.job(waiting)
    assert (job.licenses, job.required_nodes) == ("", ()), "opened without nodes: its set is not free"
    bench.slurm.cancel(running)
    assert len(bench.nodes_of(waiting)) == 2


def test_a_dead_gate_lets_jobs_start_by_themselves(bench: Bench) -> None:
    hold = timedelta(seconds=8)
    began = datetime.now(UTC)
    bench.gate(GateSettings(hold=hold)).tick()
    job = bench.submit(4)
    bench.mini.wait_for("Reason Licenses", lambda: bench.job(job).reason == "Licenses")
    bench.mini.wait_for("Start without a gate", lambda: bench.job(job).state is JobState.RUNNING, seconds=120)
    started = bench.job(job).started
    assert started is not None
    assert started - began > hold - timedelta(seconds=2), "the gate held it while it could have come back"
    bench.gate(GateSettings(hold=hold)).tick()
    assert any(one.name == RESERVATION for one in bench.slurm.reservations()), "a new gate holds again"


def test_a_job_whose_nodes_are_taken_before_it_starts_is_let_go(bench: Bench) -> None:
    """A pin must never strand a job: here its node leaves service right after the decision."""
    gate = bench.gate()
    gate.tick()
    job = bench.submit(4, "sleep 600", "--begin=now+3")
    bench.slurm.update_job(job, pin_to_the_first_four(bench, job))
    with bench.drained("b200-03"):
        gate.tick()
        assert bench.job(job).required_nodes == ()
        assert len(bench.nodes_of(job)) == 4


def pin_to_the_first_four(bench: Bench, job: JobId) -> JobChange:
    """The update that a gate makes to pin the job to b200-[01-04]."""
    fabric = slurm_yaml.parse(bench.mini.path(TOPOLOGY).read_text())
    placement = FabricPlacer(fabric.arrays).place(4, free=NODES[:4], among=NODES)
    return change_for(Decision(job=bench.job(job), placement=placement, reason=""), datetime.now(UTC))


def test_a_requeued_job_runs_on_its_survivors_and_a_spare_of_their_leaf_group(bench: Bench) -> None:
    gate = bench.gate()
    gate.tick()
    job = bench.submit(3)
    gate.tick()
    assert bench.nodes_of(job) == expand_nodes("b200-[01-03]")
    with bench.drained("b200-02"):
        bench.slurm.requeue(job)
        gate.tick()
        assert bench.nodes_of(job) == expand_nodes("b200-[01,03-04]")
    assert bench.job(job).restarts == 1


def test_without_a_spare_a_requeued_job_goes_wherever_slurm_finds_room(bench: Bench) -> None:
    gate = bench.gate()
    gate.tick()
    job = bench.submit(4)
    gate.tick()
    bench.nodes_of(job)
    other = bench.submit(4, gated=False)
    bench.nodes_of(other)
    with bench.drained("b200-02"):
        bench.slurm.requeue(job)
        gate.tick()
        assert bench.job(job).required_nodes == ()
        bench.slurm.cancel(other)
        assert NodeName("b200-02") not in bench.nodes_of(job)


POLICY = Policy.of(
    [
        Pool.model_validate(
            {
                "name": "mini",
                "cluster": "mini",
                "model": "b200",
                "shares": [{"name": "own", "nodes": "b200-[01-08]", "partition": PARTITION}],
            }
        )
    ]
)


def test_jobs_that_make_room_run_again_on_the_nodes_of_the_plan(bench: Bench) -> None:
    """One that the gate placed and one that Slurm did; an interactive one stays where it is: Slurm requeues none."""
    bench.store.replace_policy(POLICY, actor="test", at=datetime.now(UTC))
    gate = bench.gate()
    gate.tick()
    interactive = ["salloc", "--no-shell", f"--partition={PARTITION}", "--nodes=1", "--gpus-per-node=8", "--exclusive"]
    bench.mini.exec(interactive)
    with bench.drained("b200-[01-04]"):
        moved = [bench.submit(1, gated=False)]
        bench.nodes_of(moved[0])
        moved.append(bench.submit(1))
        gate.tick()
        assert bench.nodes_of(moved[1]) == expand_nodes("b200-06")
    bench.mini.wait_for("Nodes in service", lambda: all(node.usable for node in bench.slurm.nodes()))
    fabric = slurm_yaml.parse(bench.mini.path(TOPOLOGY).read_text())
    clock = SystemClock()
    defragmenter = Defragmenter(
        cluster=ClusterName("mini"),
        store=bench.store,
        slurm=bench.slurm,
        fabric=lambda: fabric.arrays,
        mover=Mover(slurm=bench.slurm, audit=bench.store.audit, clock=clock),
        clock=clock,
        shadow=False,
    )
    terms = DefragTerms(count=4, guaranteed=True)
    plan = defragmenter.plan(terms)
    assert (plan.room, plan.gap, {move.job for move in plan.moves}) == ("b200-[05-08]", 0, {*moved})
    assert plan.staying == (Staying(why="interactive or --no-requeue", jobs=1),)
    orders = [move.model_dump(include=set(DefragOrder.model_fields)) for move in plan.moves]
    defragmenter.apply(DefragApply.model_validate({**dict(terms), "room": plan.room, "moves": orders}), actor="root")
    bench.mini.wait_for("Requeues", lambda: all(bench.job(job).restarts == 1 for job in moved))

    def placed(move: DefragMove) -> bool:
        gate.tick()  # Slurm refuses while it still undoes the run
        return bench.job(move.job).required_nodes == expand_nodes(move.to)

    for move in plan.moves:
        bench.mini.wait_for("its new node", partial(placed, move))
        assert bench.nodes_of(move.job) == expand_nodes(move.to)
        assert "gpuaas:move" not in bench.job(move.job).admin_comment


def test_a_job_waits_for_a_whole_leaf_group_while_its_nodes_are_lent_to_short_jobs_only(bench: Bench) -> None:
    gate = bench.gate()
    gate.tick()
    there = bench.ends_taken()
    patient = bench.submit(4, "sleep 600", "--comment=gpuaas:wait=10m", "--time=1-0")
    gate.tick()
    kept = next(one for one in bench.slurm.reservations() if one.name == f"gpuaas-wait-{patient}")
    assert kept.nodes == "b200-[03-06]"
    long = bench.submit(1, "sleep 600", "--time=2:00:00", "--nice=100", gated=False, user=STRANGER)
    short = bench.submit(1, "sleep 600", "--time=1", "--nodelist=b200-03", gated=False, user=STRANGER)
    assert bench.nodes_of(short) == expand_nodes("b200-03")
    gate.tick()
    assert (bench.job(patient).state, bench.job(long).state) == (JobState.PENDING, JobState.PENDING)
    bench.slurm.cancel(long)  # it would be quicker than the next look at what gets free
    bench.slurm.cancel(there[1])
    bench.free(5)
    gate.tick()
    assert bench.nodes_of(patient) == expand_nodes("b200-[05-08]")
    bench.slurm.cancel(patient)
    bench.mini.wait_for("its end", lambda: bench.job(patient).state.ended)
    gate.tick()
    assert not [one for one in bench.slurm.reservations() if one.name == kept.name]


def test_a_waiting_job_is_passed_by_nobody_and_a_dead_gate_keeps_it_from_nothing(bench: Bench) -> None:
    """A job of higher priority comes, which needs all nodes: the one that waits starts at once, before it. Then the
    gate dies with a job that waits."""
    bench.ends_taken()
    gate = bench.gate(GateSettings(hold=timedelta(seconds=6)))
    gate.tick()
    patient = bench.submit(4, "sleep 600", "--comment=gpuaas:wait=10m", "--time=1-0", "--nice=100")
    gate.tick()
    assert bench.job(patient).licenses == "placement:1"
    big = bench.submit(8, "sleep 600", "--time=1-0", gated=False, user=STRANGER)
    bench.mini.wait_for("its turn", lambda: bench.job(big).reason not in ("None", ""))
    gate.tick()
    assert bench.nodes_of(patient) == expand_nodes("b200-[03-06]")
    for job in (patient, big):
        bench.slurm.cancel(job)
    bench.mini.wait_for("its end", lambda: bench.job(patient).state.ended)
    gate.tick()
    last = bench.submit(4, "sleep 600", "--comment=gpuaas:wait=10m", "--time=1-0")
    gate.tick()
    assert bench.store.placements(job_id=last)[0].outcome is PlacementOutcome.WAITING
    bench.mini.wait_for("a start without a gate", lambda: bench.job(last).state is JobState.RUNNING, seconds=90)
    assert bench.job(last).nodes == expand_nodes("b200-[03-06]")


PODS = Fabric(
    leaf_groups=tuple(
        LeafGroup(name=leaf, pod=pod, nodes=f"b200-[{nodes}]")
        for leaf, pod, nodes in (("a", "p2", "02,06"), ("b", "p2", "04,08"), ("c", "p1", "01,05"), ("d", "p1", "03,07"))
    )
)
"""Two pods of two leaf groups of two nodes. Names alternate between pods, and within a pod between its leaf groups."""
PAIR = Fabric(
    leaf_groups=tuple(
        LeafGroup(name=leaf, pod="p1", nodes=f"b200-[{nodes}]")
        for leaf, nodes in (("odd", "01,03,05,07"), ("even", "02,04,06,08"))
    )
)
"""Two leaf groups whose nodes alternate by name."""


@pytest.fixture
def install(mini: Instance) -> Iterator[Callable[[str], None]]:
    """Gives Slurm another topology.yaml for the test."""
    before = mini.path(TOPOLOGY).read_text()

    def put(text: str) -> None:
        leaf = slurm_yaml.parse(text).leaf_groups[0].name
        mini.write(TOPOLOGY, text, owner="gpuaas")
        mini.exec(["scontrol", "reconfigure"])
        mini.wait_for("the topology", lambda: f"Name={leaf} " in mini.exec(["scontrol", "show", "topo"]).stdout)
        make_partition(mini)

    yield put
    put(before)


def named(numbers: str) -> list[NodeName]:
    """Nodes in the given order, which `expand_nodes` would not keep."""
    return [NodeName(f"b200-{number}") for number in numbers.split()]


@pytest.mark.parametrize(
    ("fabric", "plugin", "order", "crossed"),
    [
        (PAIR, Plugin.TREE, "01 03 05 07 02 04", 2),
        (PAIR, Plugin.BLOCK, "01 03 05 07 02 04", 2),
        (PODS, Plugin.BOTH, "02 06 01 05 03 07", 3),
    ],
    ids=["tree", "blocks", "pods"],
)
def test_rank_order_inside_the_job_follows_the_fabric(
    bench: Bench, install: Callable[[str], None], fabric: Fabric, plugin: Plugin, order: str, crossed: int
) -> None:
    install(slurm_yaml.render(fabric, plugin=plugin))
    with bench.drained("b200-08"):
        gate = bench.gate()
        gate.tick()
        script = "echo list $SLURM_JOB_NODELIST; srun bash -c 'echo rank $SLURM_PROCID $SLURMD_NODENAME'"
        job = bench.submit(6, script, *(["--segment=1"] if plugin is Plugin.BLOCK else []))  # as the hook makes it
        gate.tick()
        lines = bench.output(job)
    ranks = sorted((int(line.split()[1]), line.split()[2]) for line in lines if line.startswith("rank "))
    assert [node for _, node in ranks] == named(order)
    assert f"list b200-[{order.replace(' ', ',')}]" in lines
    assert crossings(fabric.arrays, named(order)) == crossed, "the fewest: once from each leaf group to the next"


def train(bench: Bench, order: str, program: tuple[tuple[str, ...], str]) -> tuple[JobState, str]:
    """The end of a job of the torchrun template over two interleaved leaf groups of a pod, and what it wrote. Each rank
    compares its node with the one that `order` has for it, and fails the job on any other."""
    launcher, script = program
    words = ["gpuaas", "template", "render", "torchrun", "--nodes", "4", "--processes", "1", *launcher]
    words += ["--partition", PARTITION, "--output", "/tmp/%j.out", "--checkpoints", "/tmp/checkpoints"]
    words += ["--script", RANKED, "--arguments", f"{','.join(named(order))} {script} --steps 3"]
    rendered = bench.mini.exec(words).stdout
    gate = bench.gate()
    gate.tick()
    bench.mini.wait_for("Clear nodes", lambda: not any(NodeFlag.COMPLETING in one.flags for one in bench.slurm.nodes()))
    with bench.drained("b200-[02,06]"):
        job_id = JobId(int(bench.mini.exec(["sbatch", "--parsable", "--exclusive"], cwd="/tmp", stdin=rendered).stdout))
        gate.tick()
        over = (JobState.COMPLETED, JobState.FAILED)
        bench.mini.wait_for(f"End of job {job_id}", lambda: bench.job(job_id).state in over, seconds=180)
    assert bench.job(job_id).nodes == expand_nodes("b200-[01,03,05,07]"), "the gate keeps it in one pod"
    return bench.job(job_id).state, bench.mini.path(f"/tmp/{job_id}.out").read_text()


def trains_in_the_order_of_the_fabric(bench: Bench, program: tuple[tuple[str, ...], str]) -> None:
    state, output = train(bench, "01 05 03 07", program)
    assert state is JobState.COMPLETED, output
    assert "ranks 0=b200-01 1=b200-05 2=b200-03 3=b200-07\n" in output, "as the ranks told each other"
    assert "finished at step 3" in output


def test_a_training_job_over_four_nodes_has_the_rank_order_of_the_fabric(
    bench: Bench, install: Callable[[str], None]
) -> None:
    """Told the order of names instead, it fails. With real PyTorch: tests/soak/test_training.py."""
    install(slurm_yaml.render(PODS))
    trains_in_the_order_of_the_fabric(bench, (STAND_IN_LAUNCHER, STAND_IN_SCRIPT))
    state, output = train(bench, "01 03 05 07", (STAND_IN_LAUNCHER, STAND_IN_SCRIPT))
    assert state is JobState.FAILED, output
    assert re.search(r"Rank [12] runs on b200-0[35]; the fabric's order has it on b200-0[35]\.", output), output


ASKS_GPUAASD = """\

PrologSlurmctld=/opt/gpuaas/src/plugins/prolog_slurmctld
"""
API = "/run/gpuaas/gpuaasd.sock"


class Answers(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """gpuaasd's answer to PrologSlurmctld, from a gate that the test ticks."""

    daemon_threads = True

    def __init__(self, path: Path, gate: PlacementGate) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                number = int(self.path.split("/")[-2])
                body = json.dumps({"call_off": gate.calls_off(JobId(number))}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "slurmctld"

        path.unlink(missing_ok=True)
        super().__init__(str(path), Handler)
        path.chmod(0o666)


@pytest.fixture
def asked(mini: Instance, bench: Bench) -> Iterator[PlacementGate]:
    """A gate that slurmctld asks before each start."""
    gate = bench.gate()
    conf = mini.path("/etc/slurm/slurm.conf")
    before = conf.read_text()
    mini.write("/etc/slurm/slurm.conf", before + ASKS_GPUAASD)
    mini.exec(["scontrol", "reconfigure"])
    make_partition(mini)
    with Answers(mini.path(API), gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield gate
        server.shutdown()
    mini.write("/etc/slurm/slurm.conf", before)
    mini.exec(["scontrol", "reconfigure"])
    make_partition(mini)


def test_a_queued_job_that_slurm_would_spread_waits_for_a_whole_leaf_group(bench: Bench, asked: PlacementGate) -> None:
    asked.tick()
    there = bench.ends_taken()
    filler = bench.submit(4, "sleep 600", gated=False)
    bench.nodes_of(filler)
    script = "echo run $SLURM_RESTART_COUNT; sleep 600"
    patient = bench.submit(4, script, "--comment=gpuaas:wait=10m", "--time=1-0", "--requeue")
    asked.tick()
    assert bench.job(patient).licenses == "", "opened: it does not fit"
    bench.slurm.cancel(filler)
    bench.mini.wait_for("the start to be called off", lambda: bench.job(patient).restarts > 0)

    def back() -> bool:
        asked.tick()  # Slurm refuses while it still undoes the start
        return bench.job(patient).licenses == "placement:1"

    bench.mini.wait_for("it is back at the gate", back)
    bench.slurm.cancel(there[1])
    bench.free(6)
    asked.tick()
    assert bench.nodes_of(patient) == expand_nodes("b200-[05-08]")
    output = bench.mini.path(f"/tmp/{patient}.out")
    bench.mini.wait_for("its first words", lambda: output.exists() and "\n" in output.read_text())
    assert output.read_text().split() == ["run", str(bench.job(patient).restarts)], "nothing of it ran before"
