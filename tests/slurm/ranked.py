"""Runs a training script where its rank belongs, and fails where it does not.

`ranked.py NODE,NODE,... SCRIPT ARGUMENT ...`, with the nodes in the order in which ranks shall follow them.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    order, script, *arguments = sys.argv[1:]
    rank, node = int(os.environ["RANK"]), os.environ["SLURMD_NODENAME"]
    wanted = order.split(",")[rank // int(os.environ["LOCAL_WORLD_SIZE"])]
    if node != wanted:
        sys.exit(f"Rank {rank} runs on {node}; the fabric's order has it on {wanted}.")
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
