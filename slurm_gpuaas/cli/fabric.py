"""`gpuaas testbed fabric`: the testbed's InfiniBand fabric, simulated by ibsim and read with the real tools."""

from __future__ import annotations

from typing import IO

import click
from rich.console import Console

from slurm_gpuaas.testbed.instance import Instance, require_root
from slurm_gpuaas.testbed.progress import shown
from slurm_gpuaas.testbed.sim.fabric import discover, start_fabric


@click.command()
@click.option("--name", required=True, metavar="NAME", help="Which testbed.")
@click.option("-o", "--output", type=click.File("w", lazy=True), default="-", help="File for it.  [default: stdout]")
def fabric(name: str, output: IO[str]) -> None:
    """Start the profile's fabric (ibsim, opensm) and print what the real ibnetdiscover reads of it.

    About 3 s for 129 nodes, 17 s for 957. Once started it runs until the testbed goes down.

    \b
    Example:
      gpuaas testbed fabric --name haein -o fabric.txt
      gpuaas topology import ibnetdiscover fabric.txt -o fabric.json
    """
    require_root()
    instance = Instance.attach(name)
    with shown(Console(stderr=True)) as progress, progress.step(f"{name}: ibsim, opensm, ibnetdiscover"):
        start_fabric(instance)
        text = discover(instance)
    output.write(text)
