"""The evidence of a fault as one archive, to be taken before anything is reset: a reset clears the volatile counters.

`manifest.json` says what is in it, and of each part that could not be had, why. Bounded in size and time, so that a GPU
that hangs costs its own part and nothing else.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import click

from slurm_gpuaas import __version__
from slurm_gpuaas.agent.config import Config, Site
from slurm_gpuaas.agent.kmsg import DRIVER_LINES, Record, open_kernel_log
from slurm_gpuaas.agent.node import read_boot_id
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.names import NodeName

PART_MAX: Final = 8 << 20
BUNDLE_MAX: Final = 48 << 20
"""Bytes before compression."""
DRIVER_RECORDS: Final = 1_000
_CHUNK: Final = 64 << 10


class Failed(Exception):
    """A part could not be had; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`make` gives the content; raises Failed, OSError or GpuaasError when it cannot. `seconds` is all it gets."""

    file: str
    make: Callable[[], bytes]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A part in the manifest. `cut` tells that it was longer than its bound."""

    file: str
    bytes: int
    seconds: float
    cut: bool
    failed: str | None


def write_bundle(
    out: IO[bytes], parts: Sequence[Part], *, node: NodeName, incident: str | None, boot_id: str, at: datetime
) -> Sequence[Entry]:
    """Write the archive, tar.gz, the manifest at its end; gives what the manifest says of the parts.

    Raises:
        OSError: it cannot be written.
    """
    entries: list[Entry] = []
    room = BUNDLE_MAX
    with tarfile.open(fileobj=out, mode="w|gz") as archive:
        for part in parts:
            begun = time.monotonic()
            content, failed = _made(part)
            kept = content[: min(PART_MAX, room)]
            room -= len(kept)
            if failed is None:
                _add(archive, part.file, kept, at)
            entries.append(
                Entry(
                    file=part.file,
                    bytes=len(kept),
                    seconds=round(time.monotonic() - begun, 3),
                    cut=len(kept) < len(content),
                    failed=failed,
                )
            )
        manifest = {
            "made_at": at.isoformat(),
            "made_by": f"gpuaas-agent {__version__}",
            "node": node,
            "incident": incident,
            "boot_id": boot_id,
            "parts": [asdict(entry) for entry in entries],
        }
        _add(archive, "manifest.json", json.dumps(manifest, indent=1).encode(), at)
    return entries


def _add(archive: tarfile.TarFile, name: str, content: bytes, at: datetime) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), int(at.timestamp()), 0o600
    archive.addfile(member, BytesIO(content))


def _made(part: Part) -> tuple[bytes, str | None]:
    """The content of a part, or why there is none."""
    made: list[bytes] = []
    failed: list[str] = []

    def make() -> None:
        try:
            made.append(part.make())
        except FileNotFoundError as error:
            failed.append(f"{error.filename} is not installed")
        except (Failed, OSError, GpuaasError) as error:
            failed.append(str(error) or type(error).__name__)

    thread = threading.Thread(target=make, name=f"evidence-{part.file}", daemon=True)
    thread.start()
    thread.join(part.seconds)
    if made:
        return made[0], None
    return b"", failed[0] if failed else f"no answer within {part.seconds:g} s"


def parts_of(config: Config, node: NodeName) -> Sequence[Part]:
    """What belongs to the evidence of a node."""
    deadline = config.check_deadline.total_seconds()
    parts: list[Part] = []
    if config.nvml:
        parts.append(Part(file="gpus.json", make=lambda: _gpus(config, node), seconds=deadline))
    if config.kernel_log is not None:
        parts.append(Part(file="kernel-log.txt", make=lambda: _kernel_log(config, node), seconds=deadline))
    seconds = config.evidence_seconds.total_seconds()
    names: set[str] = set()
    for argv in config.evidence_commands:
        plain = "".join(c if c.isalnum() or c in "-._" else "_" for c in "_".join(argv).replace("{file}", "file"))
        name = plain[:80]
        while name in names:
            name += "_"
        names.add(name)
        parts.append(Part(file=f"{name}.txt", make=_Command(argv, seconds), seconds=seconds + 10))
    return parts


def _gpus(config: Config, node: NodeName) -> bytes:
    from slurm_gpuaas.agent.gpu_facts import gpu_facts

    return json.dumps(gpu_facts(config, node), indent=1).encode()


def _kernel_log(config: Config, node: NodeName) -> bytes:
    """The driver's last records, oldest first: seconds since boot, priority, text."""
    assert config.kernel_log is not None  # asked only then
    kept: deque[Record] = deque(maxlen=DRIVER_RECORDS)
    with _records(config, node, config.kernel_log) as records:
        kept.extend(record for record in records if record.from_kernel and record.text.startswith(DRIVER_LINES))
    return "".join(f"[{one.microseconds / 1e6:14.6f}] <{one.priority}> {one.text}\n" for one in kept).encode()


@contextmanager
def _records(config: Config, node: NodeName, configured: Path) -> Iterator[Iterable[Record]]:
    if not config.journald:
        yield open_kernel_log(config.hardware(node, "kmsg", configured)).read()
        return
    from slurm_gpuaas.agent import journal

    with subprocess.Popen(
        journal.argv("", follow=False), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None  # a pipe was asked for
        yield journal.entries(child.stdout, read_boot_id(config.boot_id))


class _Command:
    """The output of a program, or the file that it wrote in place of `{file}` (it may add an ending to its name)."""

    def __init__(self, argv: Sequence[str], seconds: float) -> None:
        self._argv = argv
        self._seconds = seconds

    def __call__(self) -> bytes:
        with tempfile.TemporaryDirectory(prefix="gpuaas-evidence-") as folder:
            argv = [word.replace("{file}", f"{folder}/out") for word in self._argv]
            said = _output(argv, self._seconds)
            if argv == list(self._argv):
                return said
            for path in sorted(Path(folder).iterdir()):
                with path.open("rb") as file:
                    return file.read(PART_MAX + 1)
        raise Failed(f"{self._argv[0]} wrote no file")


def _output(argv: Sequence[str], seconds: float) -> bytes:
    """What a program prints, up to the bound of a part.

    Raises:
        Failed: it took too long.
        OSError: it cannot be run.
    """
    deadline = time.monotonic() + seconds
    output = bytearray()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdout is not None  # a pipe was asked for
        fd = child.stdout.fileno()
        while len(output) <= PART_MAX:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                child.kill()
                raise Failed(f"{argv[0]} took more than {seconds:g} s")
            chunk = os.read(fd, _CHUNK)
            if not chunk:
                return bytes(output)
            output += chunk
        child.kill()
    return bytes(output)


@click.command()
@click.option("--incident", metavar="ID", help="Incident that it belongs to; noted in the manifest.")
@click.option(
    "--output", metavar="FILE", help="Where to; `-` is standard output.  [default: evidence-NODE-TIME.tar.gz here]"
)
@click.pass_obj
def evidence(site: Site, incident: str | None, output: str | None) -> None:
    """Take the evidence of a fault before anything is reset: one tar.gz with a manifest.

    In it: what NVML says of each GPU (ECC, remapped rows, NVLink, PCIe, power, heat, processes, serial numbers), the
    driver's last kernel-log records, and the output of `evidence_commands`. A part that cannot be had is noted in the
    manifest; the rest is there all the same.

    \b
    Examples:
      gpuaas-agent evidence --incident i7690b68e67
      gpuaas-agent evidence --output - > b200-001.tar.gz
    """
    if len(site.nodes) != 1:
        raise InvalidInput(f"Evidence is of one node, not of {len(site.nodes)}.", way_out="Name one with --nodes.")
    (node,) = site.nodes
    config, at = site.config, SystemClock().now()
    parts = parts_of(config, node)
    boot_id = read_boot_id(config.hardware(node, "boot_id", config.boot_id))
    path = output or f"evidence-{node}-{at:%Y%m%dT%H%M%SZ}.tar.gz"
    try:
        with _writing(path) as out:
            entries = write_bundle(out, parts, node=node, incident=incident, boot_id=boot_id, at=at)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {os.strerror(error.errno or 0)}.") from None
    for entry in entries:
        told = f"not there: {entry.failed}" if entry.failed else f"{entry.bytes} bytes{', cut' if entry.cut else ''}"
        click.echo(f"{entry.file}: {told}", err=True)
    if path != "-":
        click.echo(path)


@contextmanager
def _writing(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdout.buffer
        return
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        yield file
