"""Passwords in files, so that none is an argument or stands in a configuration."""

from __future__ import annotations

from pathlib import Path

from slurm_gpuaas.domain.errors import InvalidInput


def read_password(file: Path) -> str:
    """Without the line's end.

    Raises:
        InvalidInput: others can read the file, or it cannot be read.
    """
    try:
        mode = file.stat().st_mode & 0o777
        text = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Password file {file} cannot be read: {error}.") from None
    if mode & 0o077:
        raise InvalidInput(
            f"Password file {file} has mode {mode:04o}: others can read it.", way_out=f"chmod 600 {file}"
        )
    return text
