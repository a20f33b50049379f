"""How long a fatal line in a node's kernel log takes to take the node out of service, agent and gpuaasd running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import yaml

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import Answer, RestWire, Wire
from slurm_gpuaas.testbed.boot import GPUAASD
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.sim import SimulatedNode
from tests.bench.model import BenchContext, BenchRow
from tests.slurm.door import door_settings

RUNS = 24
"""Nodes, one measurement each."""
DEADLINE_S = 20.0
POLL_S = 0.005
LINE = "NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
CONFIG = "/etc/gpuaas/gpuaasd.yaml"


class _Node(Wire):
    state: tuple[str, ...]


class _NodeAnswer(Answer):
    nodes: tuple[_Node, ...]


def run(context: BenchContext) -> list[BenchRow]:
    instance = context.testbed("haein")
    names = [NodeName(name) for name in instance.cluster.node_names()]
    nodes = names[:: len(names) // RUNS][:RUNS]
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
    return [BenchRow.of_figure("kmsg_to_drained_median_s", seconds, unit="s")]


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


@contextmanager
def wide_circuit_breaker(instance: Instance, drains: int) -> Iterator[None]:
    """So many drains in a row are an alarm in real life: let gpuaasd make them here, and put its limit back after."""
    before = instance.path(CONFIG).read_text()
    config = yaml.safe_load(before)
    config["health"] = {
        **config.get("health", {}),
        "breaker": {"drains": 10 * drains, "share": 100, "per_leaf": 10 * drains},
    }
    _restart_with(instance, yaml.safe_dump(config))
    try:
        yield
    finally:
        _restart_with(instance, before)


def _restart_with(instance: Instance, config: str) -> None:
    instance.stop(GPUAASD)
    instance.path(CONFIG).write_text(config)
    instance.start(GPUAASD)
