"""The kernel log through journald, for nodes where /dev/kmsg is not to be read: `journalctl` as a child, followed.

journald calls everything that came through /dev/kmsg `_TRANSPORT=kernel`, also what user space wrote there; the syslog
facility tells that apart, 0 being the kernel's own. What programs send to journald has another transport.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Final

import structlog

from slurm_gpuaas.agent.kmsg import Record
from slurm_gpuaas.agent.node import NodeAgent
from slurm_gpuaas.domain.errors import Unavailable

LINE_MAX: Final = 64 << 10
"""Bytes of one entry; the kernel's own records are far shorter."""
RESTART_S: Final = 5.0
_CURSOR: Final = re.compile(r"[a-z0-9=;]{1,400}")

log = structlog.get_logger(__name__)


def argv(cursor: str, *, follow: bool, program: str = "journalctl") -> Sequence[str]:
    """How journalctl is asked: for what came after a cursor, or for all of this boot."""
    options = ["-k", "-o", "json", "--no-pager", "--quiet", "--boot"]
    if _CURSOR.fullmatch(cursor):
        options.append(f"--after-cursor={cursor}")
    # Following alone would begin with the last ten lines.
    return [program, *options, *(["--follow", "--no-tail"] if follow else [])]


def parse(line: bytes, boot_id: str) -> Record | None:
    """One entry of `journalctl -o json`; None for what is none, is not the kernel's own word, or is of another boot."""
    if b'"kernel"' not in line:
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.get("_TRANSPORT") != "kernel" or entry.get("SYSLOG_FACILITY") != "0":
        return None
    if boot_id and entry.get("_BOOT_ID") != boot_id.replace("-", ""):
        return None
    cursor, priority, text = entry.get("__CURSOR"), entry.get("PRIORITY"), entry.get("MESSAGE")
    if isinstance(text, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in text):
        text = bytes(text).decode("utf-8", "replace")  # how JSON carries what is not UTF-8
    if not isinstance(text, str) or not isinstance(cursor, str) or not _CURSOR.fullmatch(cursor):
        return None
    # journald takes back how /dev/kmsg writes the ends of lines within a record. They are written so again: a record is
    # one message, and what stands at the head of a later line of it may be a user's words.
    text = text.replace("\n", "\\x0a")
    stamp = entry.get("_SOURCE_MONOTONIC_TIMESTAMP", entry.get("__MONOTONIC_TIMESTAMP"))
    return Record(_number(priority), 0, _number(stamp), text, cursor)


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20 else 0


def entries(stream: IO[bytes], boot_id: str) -> Iterator[Record]:
    """The records of a stream; a line that is too long is passed over in bounded memory."""
    while line := stream.readline(LINE_MAX):
        if line.endswith(b"\n"):
            if record := parse(line, boot_id):
                yield record
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LINE_MAX)


class JournalSource:
    """A thread that follows the journal for one node, and starts journalctl again should it end.

    Args:
        boot_id: of the present boot; entries of others are passed over.
        program: journalctl.
    """

    def __init__(self, agent: NodeAgent, *, boot_id: str, program: str = "journalctl") -> None:
        self._agent = agent
        self._boot_id = boot_id
        self._program = program
        self._stop = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=f"journal-{agent.node}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if (child := self._child) is not None:
            child.terminate()
        if self._thread.is_alive():
            self._thread.join(RESTART_S)

    def read_all(self) -> None:
        """What came since the last event, in this thread.

        Raises:
            Unavailable: journalctl cannot be run.
        """
        try:
            self._read(follow=False)
        except OSError as error:
            raise Unavailable(
                f"The journal cannot be read: {error}.", way_out="Set `kernel_log` to /dev/kmsg."
            ) from None

    def _run(self) -> None:
        told = ""
        while not self._stop.is_set():
            try:
                why = f"journalctl ended with {self._read(follow=True)}"
            except OSError as error:
                why = str(error)
            if not self._stop.is_set() and why != told:
                log.warning("journal.ended", node=self._agent.node, error=why, retry_seconds=RESTART_S)
            told = why
            self._stop.wait(RESTART_S)

    def _read(self, *, follow: bool) -> int:
        """Read until journalctl ends; gives its exit status. It fails on a cursor that it does not take; then all of
        this boot is read, and what was told before is told under the same ids, which gpuaasd takes as once."""
        cursor = self._agent.cursor
        status, any_came = self._read_after(cursor, follow=follow)
        if status and cursor and not any_came and not self._stop.is_set():
            status, _any = self._read_after("", follow=follow)
        return status

    def _read_after(self, cursor: str, *, follow: bool) -> tuple[int, bool]:
        any_came = False
        with subprocess.Popen(
            argv(cursor, follow=follow, program=self._program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as child:
            self._child = child
            if self._stop.is_set():
                child.terminate()
            assert child.stdout is not None  # a pipe was asked for
            for record in entries(child.stdout, self._boot_id):
                any_came = True
                self._agent.see_record(record)
        return child.returncode, any_came
