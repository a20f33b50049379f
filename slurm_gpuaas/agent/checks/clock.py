"""The node's clock: what chrony says of it, else what the kernel does (adjtimex(2))."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Final

from slurm_gpuaas.health.checks import Measure, Reading

_SYNC_LOST: Final = 0x40  # STA_UNSYNC
_TRACKING_FIELDS: Final = 14


class _Timex(ctypes.Structure):
    """struct timex, up to the fields that are read; the kernel writes 208 bytes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


class ClockReader:
    """Args:
    tracking: the output of `chronyc -c tracking`; None where there is no chrony.
    """

    name = "clock"
    measures = frozenset({Measure.CLOCK_OFFSET_SECONDS, Measure.CLOCK_UNSYNCHRONISED})
    seconds = 10.0

    def __init__(self, tracking: Callable[[], str | None]) -> None:
        self._tracking = tracking

    def read(self) -> Iterator[Reading]:
        said = self._tracking()
        offset, lost, detail = of_kernel() if said is None else of_tracking(said)
        yield Reading(measure=Measure.CLOCK_OFFSET_SECONDS, value=offset, detail=detail)
        yield Reading(measure=Measure.CLOCK_UNSYNCHRONISED, value=lost, detail=detail)


def of_tracking(text: str) -> tuple[float | None, float | None, str]:
    """Offset in seconds and whether synchronisation is lost, from `chronyc -c tracking` (chronyc(1)): comma-separated,
    the fifth field the system clock's offset, the last the leap status."""
    fields = text.strip().split(",")
    if len(fields) != _TRACKING_FIELDS:
        return None, None, "chronyc gave no tracking"
    try:
        offset = abs(float(fields[4]))
    except ValueError:
        return None, None, "chronyc gave no offset"
    return offset, float(fields[-1] == "Not synchronised"), "chrony"


def of_kernel() -> tuple[float | None, float | None, str]:
    """The same from the kernel: the largest possible error, which grows while nothing corrects the clock."""
    answer = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.byref(answer)) < 0:
        return None, None, f"adjtimex: {os.strerror(ctypes.get_errno())}"
    lost = bool(answer.status & _SYNC_LOST)
    # Without synchronisation the error is set to 16 s, which says nothing about the offset.
    return 0.0 if lost else answer.maxerror / 1e6, float(lost), "the kernel's largest error"


def chrony_tracking() -> str | None:
    """What chronyc says; None where it is not installed, empty when it fails."""
    program = shutil.which("chronyc")
    if program is None:
        return None
    try:
        return subprocess.run(
            [program, "-c", "tracking"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            stdin=subprocess.DEVNULL,
        ).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
