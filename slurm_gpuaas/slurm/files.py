"""Files that Slurm and its plugins read while we replace them."""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput, Unavailable

ACL: Final = "system.posix_acl_access"
READ, WRITE = 4, 2


def write_atomically(file: Path, text: str | bytes, *, mode: int = 0o644, reader: int | None = None) -> None:
    """Replace a file's text: readers see the old or the new one, also after a power cut.

    Args:
        reader: uid of one user who may read it, whatever `mode` says: an entry in the file's access control list, which
            needs no privilege where giving the file away would.

    Raises:
        Unavailable: we may not write there, or the file system has no access control lists.
    """
    try:
        _replace(file, text, mode, reader)
    except OSError as error:
        raise no_access(file, "written", error) from None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file that another user left for us, and when it was last written."""

    text: str
    written_at: datetime


def read_dropped(file: Path, *, longest: int) -> Dropped:
    """Reads what another user writes: a plain file that not everybody may change. A link is not followed, nothing is
    waited for, and no more than `longest` bytes are read.

    Raises:
        OSError: it is not there or may not be read.
        InvalidInput: it is something else.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InvalidInput(f"{file} is a symbolic link, which is not followed.", way_out="Name the file.") from None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{file} is no plain file.", way_out="Name one.")
        if status.st_mode & stat.S_IWOTH:
            raise InvalidInput(f"Everybody may write {file}.", way_out=f"chmod o-w {file}")
        content = stream.read(longest + 1)
    if len(content) > longest:
        raise InvalidInput(f"{file} has more than {longest} bytes.", way_out="Write it anew.")
    return Dropped(content.decode("utf-8", "replace"), datetime.fromtimestamp(status.st_mtime, UTC))


def no_access(file: Path, what: str, error: OSError) -> Unavailable:
    return Unavailable(
        f"{file} cannot be {what}: {os.strerror(error.errno or 0)}.",
        way_out=f"{file.parent} must be a folder of gpuaasd's user: see etc/tmpfiles.d/gpuaas.conf.",
    )


def _readable_by(uid: int) -> bytes:
    """The list of a file that its owner and one user alone may use: version 2, then tag, permissions and id of each
    entry, little-endian, in the order of their tags (linux/posix_acl_xattr.h)."""
    user_object, user, group_object, mask, other = 1, 2, 4, 16, 32
    nobody = 0xFFFFFFFF
    entries = (
        (user_object, READ | WRITE, nobody),
        (user, READ, uid),
        (group_object, 0, nobody),
        (mask, READ, nobody),
        (other, 0, nobody),
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _replace(file: Path, text: str | bytes, mode: int, reader: int | None) -> None:
    draft = file.with_name(f".{file.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        if reader is not None:
            os.setxattr(descriptor, ACL, _readable_by(reader))
        stream.write(text.encode() if isinstance(text, str) else text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
