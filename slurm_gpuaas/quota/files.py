"""Files that others read while we replace them."""

from __future__ import annotations

import os
from pathlib import Path

from slurm_gpuaas.domain.errors import Unavailable


def write_atomically(file: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a file's text: readers see the old or the new one, also after a power cut.

    Raises:
        Unavailable: we may not write there.
    """
    try:
        _replace(file, text, mode)
    except OSError as error:
        raise no_access(file, "written", error) from None


def no_access(file: Path, what: str, error: OSError) -> Unavailable:
    return Unavailable(
        f"{file} cannot be {what}: {os.strerror(error.errno or 0)}.",
        way_out=f"{file.parent} must be a folder of gpuaasd's user: see etc/tmpfiles.d/gpuaas.conf.",
    )


def _replace(file: Path, text: str, mode: int) -> None:
    draft = file.with_name(f".{file.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(descriptor, mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
