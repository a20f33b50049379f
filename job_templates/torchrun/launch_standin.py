"""Starts training processes as torchrun does, without PyTorch: for train_standin.py and `--launcher`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nnodes", type=int, required=True)
    parser.add_argument("--nproc-per-node", type=int, required=True)
    parser.add_argument("--rdzv-endpoint", required=True)
    for ignored in ("--rdzv-backend", "--rdzv-id", "--rdzv-conf", "--max-restarts"):
        parser.add_argument(ignored)
    parser.add_argument("--no-python", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    host, _, port = options.rdzv_endpoint.rpartition(":")
    node = int(os.environ["SLURM_NODEID"])
    common = {
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "WORLD_SIZE": str(options.nnodes * options.nproc_per_node),
        "LOCAL_WORLD_SIZE": str(options.nproc_per_node),
    }
    workers = [
        subprocess.Popen(
            options.command,
            env=os.environ | common | {"RANK": str(node * options.nproc_per_node + local), "LOCAL_RANK": str(local)},
        )
        for local in range(options.nproc_per_node)
    ]
    print(f"launched on {os.environ['SLURMD_NODENAME']}", flush=True)
    sys.exit(max(worker.wait() != 0 for worker in workers))


if __name__ == "__main__":
    main()
