"""`gpuaas health`: what acts on nodes by itself."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.breaker import breaker


@click.group()
def group() -> None:
    """What acts on nodes by itself, and what has stopped it.

    \b
    Examples:
      gpuaas health breaker
    """


group.add_command(breaker)
