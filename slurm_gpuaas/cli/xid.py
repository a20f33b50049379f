"""`gpuaas xid`: decode XID and SXid lines. Needs no daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

import click

from slurm_gpuaas.cli.output import print_table
from slurm_gpuaas.health.decode import Decoded, Decoder, read_lines


@click.group("xid")
def group() -> None:
    """Decode XID and SXid lines."""


@group.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event (JSON Lines).")
def decode(file: BinaryIO, as_json: bool) -> None:
    """Decode a kernel log (FILE, or standard input): what happened, and whether the node should be drained.

    Lines that are no GPU or NVSwitch event give nothing.

    \b
    Examples:
      dmesg | gpuaas xid decode
      journalctl -k -o cat | gpuaas xid decode --json | jq 'select(.drain == "now")'
    """
    if as_json:
        for event in _events(file):
            click.echo(json.dumps(event.as_json()))
        return
    rows = [
        (
            event.line,
            f"{event.kind} {event.code}",
            event.gpu or event.pci,
            event.assessment.fault_class,
            event.assessment.drain,
            " ".join(str(part) for part in (event.pid, event.process) if part is not None) or None,
            event.assessment.why,
        )
        for event in _events(file)
    ]
    if not rows:
        click.echo("No XID, SXid or fallen-off-the-bus line found.", err=True)
        return
    print_table(("#line", "event", "GPU", "class", "drain", "process", "why"), rows, empty="")


def _events(stream: BinaryIO) -> Iterator[Decoded]:
    decoder = Decoder()
    for number, line in enumerate(read_lines(stream), start=1):
        yield from decoder.decode(number, line)
