"""The option that names a file with the site's own verdicts."""

from __future__ import annotations

from typing import IO

import click

from slurm_gpuaas.health.overrides import Override

overrides_option = click.option(
    "--overrides",
    type=click.File("r", encoding="utf-8"),
    help="YAML list of what the site decides itself, like health.overrides of gpuaasd.",
)


def read_overrides(file: IO[str] | None) -> tuple[Override, ...]:
    """Raises:
    InvalidInput: the file is no list of overrides; names each fault.
    """
    if file is None:
        return ()
    from slurm_gpuaas.cli.documents import read_one
    from slurm_gpuaas.health.overrides import Overrides

    return read_one(file, Overrides).root
