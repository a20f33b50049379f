"""`gpuaas pool`: at the pool's portal what people of the pool do there, and on files what to award, how much, what lies
idle."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.pool_award import award
from slurm_gpuaas.cli.pool_idle import idle
from slurm_gpuaas.cli.pool_portal import COMMANDS
from slurm_gpuaas.cli.pool_size import size


@click.group()
def group() -> None:
    """The pool. `award`, `idle` and `size` work on files and change nothing; all others ask the portal that --site
    names, with the token that `login` keeps.

    \b
    Examples:
      gpuaas --site https://gpu.example.org pool login
      gpuaas --site https://gpu.example.org pool grants
      gpuaas pool award --scenario call.yaml
      gpuaas pool size --file workload.yaml
      gpuaas pool idle --uses uses.csv --dry-run
    """


group.add_command(award)
group.add_command(idle)
group.add_command(size)
for command in COMMANDS:
    group.add_command(command)
