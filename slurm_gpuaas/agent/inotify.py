"""The one system call family that Python lacks here: tell when a regular file was written."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

IN_MODIFY: Final = 0x2
IN_Q_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("iIII")
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """One inotify instance. `fileno` becomes readable when a watched file was written."""

    def __init__(self) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._fd

    def watch(self, path: Path) -> int:
        """Watch a file; gives the number that `read` tells of it."""
        return _checked(_libc.inotify_add_watch(self._fd, os.fsencode(path), IN_MODIFY))

    def read(self) -> set[int] | None:
        """Numbers of the files written since the last call; None when the kernel lost count: look at all."""
        written: set[int] = set()
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return written
            at = 0
            while at < len(data):
                number, mask, _cookie, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                if mask & IN_Q_OVERFLOW:
                    return None
                written.add(number)

    def close(self) -> None:
        os.close(self._fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
