"""`gpuaas pool`: what to award, how much, and what lies idle, decided on files."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.pool_award import award
from slurm_gpuaas.cli.pool_idle import idle
from slurm_gpuaas.cli.pool_size import size


@click.group()
def group() -> None:
    """The pool: what to award and why, what lies idle. These commands work on files and change nothing.

    \b
    Examples:
      gpuaas pool award --scenario call.yaml
      gpuaas pool size --file workload.yaml
      gpuaas pool idle --uses uses.csv --dry-run
    """


group.add_command(award)
group.add_command(idle)
group.add_command(size)
