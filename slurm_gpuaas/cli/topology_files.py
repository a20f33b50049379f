"""Files of `gpuaas topology`: what its commands read and write."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import click

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.topology.fabric import Fabric, parse_fabric

TEXT = click.File("r", encoding="utf-8-sig", errors="replace")
"""An editor of Windows may have put a mark before it."""
OUTPUT = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output."
)


def read_fabric(file: TextIO) -> Fabric:
    """
    Raises:
        InvalidInput: not a fabric.json; says where.
    """
    return parse_fabric(file.read(), source=name_of(file, "standard input"))


def put(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{output} cannot be written: {error.strerror}.", way_out="Choose another file.") from None


def name_of(file: TextIO, default: str) -> str:
    name = getattr(file, "name", "-")
    return default if name in ("-", "<stdin>") else Path(name).name
