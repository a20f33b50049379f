"""Files of `gpuaas topology`: what its commands read and write."""

from __future__ import annotations

import os
import secrets
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
    """Readers of `output` see the old or the new text. A link is not followed: who may write the folder could have put
    it there.

    Raises:
        InvalidInput: it cannot be written, or is no plain file.
    """
    if output is None:
        click.echo(text, nl=False)
        return
    if output.is_symlink() or (output.exists() and not output.is_file()):
        raise InvalidInput(f"{output} is no plain file.", way_out="Leave -o out and use a redirection.")
    draft = output.with_name(f".{output.name[:200]}.{secrets.token_hex(8)}")
    try:
        with draft.open("x", encoding="utf-8") as stream:
            if output.exists():
                draft.chmod(output.stat().st_mode & 0o777)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(output)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidInput(f"{output} cannot be written: {error.strerror}.", way_out="Choose another file.") from None


def name_of(file: TextIO, default: str) -> str:
    name = getattr(file, "name", "-")
    return default if name in ("-", "<stdin>") else Path(name).name
