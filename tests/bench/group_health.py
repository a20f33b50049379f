"""How long a fatal line in a node's kernel log takes to take the node out of service, agent and gpuaasd running: one
node after another, and 150 of the largest cluster at once."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, closing

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import Answer, RestWire, Wire
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.sim import SimulatedNode
from tests.bench.model import BenchContext, BenchRow
from tests.slurm.configured import configured
from tests.slurm.door import door_settings

RUNS = 120
"""Nodes, one measurement each: enough for a 99th percentile."""
MASS = 150
MASS_PROFILE, MASS_CLUSTER = "national", "nhn"
DEADLINE_S = 20.0
MASS_DEADLINE_S = 60.0
POLL_S = 0.005
MASS_POLL_S = 0.1
LINE = "NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


class _Node(Wire):
    state: tuple[str, ...]


class _NodeAnswer(Answer):
    nodes: tuple[_Node, ...]


def run(context: BenchContext) -> list[BenchRow]:
    seconds = one_after_another(context)
    return [
        BenchRow.of_figure("kmsg_to_drained_median_s", seconds, unit="s"),
        BenchRow.of_percentile("kmsg_to_drained_p99_s", seconds, 99, unit="s"),
        BenchRow.of_figure(f"mass_drain_{MASS}_s", [all_at_once(context)], unit="s"),
    ]


def one_after_another(context: BenchContext) -> list[float]:
    instance = context.testbed("haein")
    nodes = [NodeName(name) for name in instance.cluster.node_names()][:RUNS]
    with (
        door_settings(instance, name="bench-health") as door,
        closing(RestWire(door.rest)) as wire,
        wide_circuit_breaker(instance, len(nodes)),
    ):
        try:
            with context.step(f"Kernel log to drained, {len(nodes)} nodes") as note:
                seconds = []
                for node in nodes:
                    seconds.append(kmsg_to_drained(instance, wire, node))
                    note(f"{node}: {seconds[-1]:.3f} s")
        finally:
            RestController(wire).resume(nodes)
    return seconds


def all_at_once(context: BenchContext) -> float:
    """Seconds from the first of 150 fatal lines, written as fast as files can be, until slurmctld drains all of those
    nodes. They are of one cluster, so one gpuaasd has them all."""
    instance = context.testbed(MASS_PROFILE, cluster=MASS_CLUSTER)
    nodes = frozenset(list(instance.cluster.node_names())[:MASS])
    with wide_circuit_breaker(instance, MASS), context.step(f"{MASS} nodes of {MASS_CLUSTER} at once") as note:
        hardware = [SimulatedNode(instance.path(f"/run/gpuaas-sim/{node}")) for node in nodes]
        start = time.perf_counter()
        for one in hardware:
            one.log(LINE)
        while True:
            drained = nodes.intersection(
                instance.exec(["sinfo", "--noheader", "--Node", "--states=drain", "--format=%N"]).stdout.split()
            )
            seconds = time.perf_counter() - start
            note(f"{len(drained)} drained after {seconds:.1f} s")
            if drained == nodes:
                return seconds
            if seconds > MASS_DEADLINE_S:
                raise AssertionError(f"{len(drained)} of {MASS} nodes were drained within {MASS_DEADLINE_S:g} s.")
            time.sleep(MASS_POLL_S)


def kmsg_to_drained(instance: Instance, wire: RestWire, node: NodeName) -> float:
    """Seconds from the line's being in the log until slurmctld says DRAIN."""
    hardware = SimulatedNode(instance.path(f"/run/gpuaas-sim/{node}"))
    assert "DRAIN" not in states(wire, node), f"{node} is drained before its fault."
    start = time.perf_counter()
    hardware.log(LINE)
    while "DRAIN" not in states(wire, node):
        if time.perf_counter() - start > DEADLINE_S:
            raise AssertionError(f"{node} was not drained within {DEADLINE_S:g} s of its fault.")
        time.sleep(POLL_S)
    return time.perf_counter() - start


def states(wire: RestWire, node: NodeName) -> tuple[str, ...]:
    """Base state and flags of one node, straight from slurmctld."""
    return wire.get(f"/slurm/v0.0.42/node/{node}", _NodeAnswer).nodes[0].state


def wide_circuit_breaker(instance: Instance, drains: int) -> AbstractContextManager[None]:
    """So many drains in a row are an alarm in real life: let gpuaasd make them here, and put its limit back after."""
    breaker = {"drains": 10 * drains, "share": 100, "per_leaf": 10 * drains}
    return configured(instance, "health", breaker=breaker)
