"""Key files: 32 bytes in hexadecimal that only their owner may read."""

from __future__ import annotations

import os
from pathlib import Path

from slurm_gpuaas.api.signing import KEY_BYTES
from slurm_gpuaas.domain.errors import InvalidInput


def read_master_key(path: Path) -> bytes:
    """The key from which those of the nodes are made.

    Raises:
        InvalidInput: as `read_key`.
    """
    return read_key(path, missing=f"Make it once, as gpuaasd's user: umask 077; openssl rand -hex {KEY_BYTES} > {path}")


def read_key(
    path: Path, *, missing: str = "`gpuaas-agent --print-key NODE` on gpuaasd's host prints a node's key."
) -> bytes:
    """The key in a file; `missing` is the way out when it cannot be read.

    Raises:
        InvalidInput: the file is missing, readable by others, or holds no key.
    """
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise InvalidInput(
            f"Key file {path} cannot be read: {os.strerror(error.errno or 0)}.",
            way_out=missing,
        ) from None
    if mode & 0o077:
        raise InvalidInput(f"Key file {path} has mode {mode:04o}: others can read it.", way_out=f"chmod 600 {path}")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidInput(
            f"Key file {path} holds no key of {KEY_BYTES} bytes in hexadecimal.",
            way_out=f"Make one: openssl rand -hex {KEY_BYTES}",
        )
    return key
