"""The door against Slurm's own commands: reading every node, and draining one."""

from __future__ import annotations

import json

from tests.bench.model import BenchContext, BenchRow
from tests.slurm.door import DAEMON_USER, python_inside


def run(context: BenchContext) -> list[BenchRow]:
    instance = context.testbed("haein")
    with context.step("Nodes read and drained, ours and scontrol in turns"):
        argv, environment = python_inside("tests.bench.slurm_runner", "nodes_read", "drain")
        measured = json.loads(instance.exec(argv, DAEMON_USER, env=environment).stdout)
    return [
        BenchRow.of_times(f"{name}_speedup", ours=ours, baseline=baseline)
        for name, (ours, baseline) in measured.items()
    ]
