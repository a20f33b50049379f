"""Runs inside the testbed: the door's pyslurm driver and Slurm's own commands in turns; prints the seconds as JSON.

Inside, so that neither side pays for entering the namespaces.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.slurm.pyslurm_driver import PyslurmController
from tests.bench.model import side_by_side, timed

RUNS = 15
REASON = "gpuaas:bench: drain and resume"


def read_nodes(controller: PyslurmController) -> tuple[list[float], list[float]]:
    """Until every node is an object in this process."""

    count = len(controller.nodes())

    def scontrol() -> None:
        shown = subprocess.run(["scontrol", "show", "nodes", "--json"], capture_output=True, check=True)
        assert len(json.loads(shown.stdout)["nodes"]) == count

    return side_by_side(lambda: timed(controller.nodes), lambda: timed(scontrol), runs=RUNS)


def drain(controller: PyslurmController) -> tuple[list[float], list[float]]:
    """One node a measurement, resumed again outside of it."""
    node = NodeName(controller.nodes()[0].name)

    def measured(action: Callable[[], object]) -> float:
        seconds = timed(action)
        assert next(one for one in controller.nodes() if one.name == node).draining
        controller.resume([node])
        return seconds

    argv = ["scontrol", "update", f"nodename={node}", "state=drain", f"reason={REASON}"]
    return side_by_side(
        lambda: measured(lambda: controller.drain([node], REASON)),
        lambda: measured(lambda: subprocess.run(argv, check=True)),
        runs=RUNS,
    )


def main(names: Sequence[str]) -> None:
    groups = {"nodes_read": read_nodes, "drain": drain}
    with closing(PyslurmController()) as controller:
        print(json.dumps({name: groups[name](controller) for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:])
