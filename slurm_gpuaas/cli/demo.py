"""`gpuaas testbed demo`: the whole loop on 1,032 simulated GPUs, verified step by step."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from slurm_gpuaas.testbed.demo import RESEARCHER, Demo
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.machine import end, require_root
from slurm_gpuaas.testbed.progress import shown

PLAIN_WIDTH = 150
"""Columns of the table where there is no terminal to fit it into."""


@click.command()
@click.option("--name", default="demo", show_default=True, metavar="NAME", help="Its name on this host.")
@click.option("--profile", default="haein", show_default=True, hidden=True)
def demo(name: str, profile: str) -> None:
    """Boot 129 nodes of real Slurm and run the whole loop: apply, refuse, place, break, recover, meter.

    Every step is verified by asking Slurm itself; a step whose real state is not what it claims ends the demo with an
    error. A demo of that name that is up is started anew. What it starts stays up.

    \b
    Examples:
      gpuaas testbed demo
      gpuaas testbed exec --name demo -- squeue
      gpuaas testbed down --name demo
    """
    require_root()
    console = Console(stderr=True)
    end(name)
    with shown(console) as progress:
        instance = Instance.up(profile, name, progress=progress)
    output = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    Demo(output, instance).run()
    inside = f"gpuaas testbed exec --name {name}"
    output.print(
        f"\nEverything is still running. Go on with (gpuaas is .venv/bin/gpuaas):\n"
        f"  {inside} -- sinfo\n"
        f"  {inside} -- squeue\n"
        f"  {inside} -- gpuaas incident list\n"
        f"  {inside} -- gpuaas policy plan\n"
        f"  {inside} --user {RESEARCHER} -- gpuaas template list\n"
        f"  {inside} --user {RESEARCHER} -- sbatch --gpus=8 --time=10 --wrap 'sleep 60'\n"
        f"  gpuaas testbed inject xid b200-040 --xid 94 --name {name}\n"
        f"Stop it with:\n"
        f"  gpuaas testbed down --name {name}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
