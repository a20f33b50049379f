"""`backup` and `restore` of the program that owns a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slurm_gpuaas.store.backup import backup, restore
from slurm_gpuaas.store.engine import Schema

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


def add_backup(group: click.Group, schema: Schema, url_of: Callable[[Any], str]) -> None:
    """Add the two commands to a group.

    Args:
        url_of: the store's URL, of the group's context object.
    """

    @group.command(
        "backup", help=f"Write the store to FILE, which must not exist yet. {schema.owner} may go on running."
    )
    @_FILE
    @click.pass_obj
    def take(found: Any, file: Path) -> None:
        taken = backup(url_of(found), file, schema)
        click.echo(f"{file}: {taken.size:,} bytes, revision {taken.revision}.")

    @group.command(
        "restore", help=f"Make a store of the backup FILE where there is none yet, before {schema.owner} is started."
    )
    @_FILE
    @click.pass_obj
    def make(found: Any, file: Path) -> None:
        made = restore(file, url_of(found), schema)
        click.echo(f"The store is that of {file} (revision {made.revision}). Start {schema.owner}.")
