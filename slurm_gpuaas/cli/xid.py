"""`gpuaas xid`: decode XID and SXid lines, show the catalogue that decides. Needs no daemon."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from typing import IO, BinaryIO

import click
from pydantic_core import to_jsonable_python

from slurm_gpuaas.cli.output import print_facts, print_table
from slurm_gpuaas.cli.site_overrides import overrides_option, read_overrides
from slurm_gpuaas.domain.errors import ExitCode, NotFound
from slurm_gpuaas.health.assess import NVLINK4_ERROR, assess_sxid
from slurm_gpuaas.health.catalogue import GapKind, Product, catalogue, gaps
from slurm_gpuaas.health.decode import Decoder, line_of, line_of_json, read_records

_MISTAKES = frozenset({GapKind.NO_TEXT, GapKind.CONTRADICTION})


@click.group("xid")
def group() -> None:
    """Decode XID and SXid lines, show the catalogue that decides. Needs no daemon.

    \b
    Examples:
      dmesg | gpuaas xid decode
      gpuaas xid catalogue 79
    """


def _major(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    major = (value or "").partition(".")[0]
    if value is None:
        return None
    if not (major.isascii() and major.isdigit() and len(major) <= 4):
        raise click.BadParameter(f"{value!r} is no driver version like 580 or 580.95.05.")
    return int(major)


@group.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event (JSON Lines).")
@click.option(
    "--jsonl", is_flag=True, help='Input lines are objects {"line": "..."}, each a message of one line or more.'
)
@click.option(
    "--product",
    type=click.Choice([product.value for product in Product]),
    help="What the GPUs are; without it no row of the catalogue is ruled out.",
)
@click.option(
    "--driver",
    callback=_major,
    metavar="VERSION",
    help="The driver's version, 580 or 580.95.05: XID 144-150 read differently from 575 on; without it both are tried.",
)
@overrides_option
def decode(
    file: BinaryIO, as_json: bool, jsonl: bool, product: str | None, driver: int | None, overrides: IO[str] | None
) -> None:
    """Decode a kernel log (FILE, or standard input): what happened, and whether the node should be drained.

    Lines that are no GPU or NVSwitch event give nothing, nor do lines that a program wrote to the system log.

    \b
    Examples:
      dmesg | gpuaas xid decode
      journalctl -k -o cat | gpuaas xid decode --json | jq 'select(.drain == "now")'
      gpuaas xid decode --product b200 --driver 580 /var/log/kern.log
      gpuaas xid decode --overrides site.yaml /var/log/kern.log
    """
    decoder = Decoder(Product(product) if product else None, driver, read_overrides(overrides))
    text_of: Callable[[bytes], str] = line_of_json if jsonl else line_of
    if as_json:
        _print_json_lines(decoder, file, text_of)
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
        for records in read_records(file)
        for number, record in records
        for event in decoder.decode(number, text_of(record))
    ]
    if not rows:
        click.echo("No XID, SXid or fallen-off-the-bus line found.", err=True)
        return
    print_table(("#line", "event", "GPU", "class", "drain", "process", "why"), rows, empty="")


@group.command("catalogue")
@click.argument("code", type=int, required=False)
@click.option("--check", is_flag=True, help="Report what the catalogue lacks; exit 1 when it contradicts itself.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(code: int | None, check: bool, as_json: bool) -> None:
    """Show the catalogue of XIDs and SXids that decides, or the row of one CODE: what it says, from where, read when.

    \b
    Examples:
      gpuaas xid catalogue 79
      gpuaas xid catalogue 149           with its NVLink 5 rules
      gpuaas xid catalogue --check
      gpuaas xid catalogue --json | jq '.xid["63"]'
    """
    if check:
        _check(as_json)
    elif code is None:
        _show_all(as_json)
    else:
        _show_one(code, as_json)


def _check(as_json: bool) -> None:
    found = list(gaps(catalogue()))
    if as_json:
        _print_json(found)
    else:
        print_table(("gap", "of", "what"), [(gap.kind, gap.subject, gap.text) for gap in found], empty="No gaps.")
    if any(gap.kind in _MISTAKES for gap in found):
        click.get_current_context().exit(ExitCode.FAILED)


def _show_all(as_json: bool) -> None:
    data = catalogue()
    if as_json:
        _print_json(data)
        return
    rows = [
        (
            row.code,
            row.mnemonic,
            row.immediate,
            row.consequence.fault_class,
            row.consequence.drain,
            _columns(row.applies),
            row.source,
        )
        for row in data.xid.values()
    ]
    print_table(("#XID", "mnemonic", "action", "class", "drain", "applies to", "source"), rows, empty="")
    click.echo()
    sources = [(source.key, source.read, source.title, source.url) for source in data.sources.values()]
    print_table(("source", "read", "title", "address"), sources, empty="")


def _show_one(code: int, as_json: bool) -> None:
    data = catalogue()
    xid, sxid = data.xid.get(code), data.sxid.get(code)
    rules = [rule for rule in data.nvlink5 if rule.code == code]
    bits = data.nvlink4 if code == NVLINK4_ERROR else ()
    if xid is None and sxid is None:
        raise NotFound(
            f"The catalogue of {data.version} has neither XID nor SXid {code}.",
            way_out="Events of it go to review; health.overrides decides otherwise.",
        )
    if as_json:
        _print_json({"xid": xid, "sxid": sxid, "nvlink4": bits, "nvlink5": rules})
        return
    if xid:
        source = data.sources[xid.source]
        print_facts(
            [
                ("XID", str(code)),
                ("mnemonic", xid.mnemonic),
                ("text", xid.text),
                ("applies to", _columns(xid.applies)),
                ("immediate action", xid.immediate),
                ("investigatory action", xid.investigatory),
                ("class", xid.consequence.fault_class),
                ("drain", xid.consequence.drain),
                ("because", xid.reason),
                ("source", f"{source.title}; {source.url}"),
                ("read", source.read),
            ]
        )
    if sxid:
        source, verdict = data.sources["sxid"], assess_sxid(code, None)
        print_facts(
            [
                ("SXid", str(code)),
                ("text", sxid.text),
                ("list", sxid.severity),
                ("drain", verdict.drain),
                ("source", f"{source.title}; {source.url}"),
                ("read", source.read),
            ]
        )
    if bits:
        click.echo()
        shown = [(rule.register, ", ".join(map(str, rule.bits)), rule.drain, rule.text) for rule in bits]
        print_table(("#register", "bits", "drain", "text"), shown, empty="")
    if rules:
        click.echo()
        print_table(
            ("part", "link-down", "status", "action", "investigatory action", "severity", "fault"),
            [
                (
                    max(rule.units, key=len),
                    f"{rule.v2.value >> 20:06b}",
                    ", ".join(f"{status:#x}" for status in sorted(rule.statuses)) or "any",
                    rule.immediate,
                    rule.investigatory,
                    rule.severity,
                    rule.fault,
                )
                for rule in rules
            ],
            empty="",
        )


def _columns(applies: frozenset[str] | None) -> str:
    return "not stated" if applies is None else " ".join(sorted(applies)) or "none"


def _print_json(value: object) -> None:
    click.echo(json.dumps(to_jsonable_python(value, fallback=dict), indent=2, ensure_ascii=False))


def _print_json_lines(decoder: Decoder, stream: BinaryIO, text_of: Callable[[bytes], str]) -> None:
    """Print events in order, as many at a time as the input has ready."""
    output = sys.stdout.buffer
    gc.disable()  # what is made here refers to nothing that refers to it; looking for such costs a sixth of the time
    try:
        for records in read_records(stream):
            lines = [decoder.json_lines(number, text_of(record)) for number, record in records]
            output.write("".join(lines).encode("ascii"))
            output.flush()
    finally:
        gc.enable()
