"""`backup` and `restore` of the program that owns a store."""

from __future__ import annotations

from pathlib import Path

import click

from slurm_gpuaas.store.backup import backup, restore
from slurm_gpuaas.store.engine import Schema

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


def add_backup(group: click.Group, schema: Schema) -> None:
    """Add the two commands to a group whose context object is the store's URL."""

    @group.command(
        "backup", help=f"Write the store to FILE, which must not exist yet. {schema.owner} may go on running."
    )
    @_FILE
    @click.pass_obj
    def take(url: str, file: Path) -> None:
        taken = backup(url, file, schema)
        click.echo(f"{file}: {taken.size:,} bytes, revision {taken.revision}.")

    @group.command(
        "restore", help=f"Make a store of the backup FILE where there is none yet, before {schema.owner} is started."
    )
    @_FILE
    @click.pass_obj
    def make(url: str, file: Path) -> None:
        made = restore(file, url, schema)
        click.echo(f"The store is that of {file} (revision {made.revision}). Start {schema.owner}.")
