"""Tokens of portals, in one file of the user's that nobody else can read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput, Refused

TOKEN: Final = re.compile(r"gpuaas_[A-Za-z0-9_-]{43}")


def tokens_file() -> Path:
    """`GPUAAS_TOKENS`, else in the user's configuration."""
    if named := os.environ.get("GPUAAS_TOKENS"):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "gpuaas" / "tokens.json"


def token_for(site: str, file: Path) -> str:
    """
    Raises:
        Refused: there is none for this portal.
        InvalidInput: others can read the file, or it is not ours.
    """
    token = _read(file).get(site)
    if token is None:
        raise Refused(f"You have no token for {site}.", way_out=f"gpuaas --site {site} pool login")
    return token


def keep(site: str, token: str, file: Path) -> None:
    _write(file, {**_read(file), site: token})


def forget(site: str, file: Path) -> bool:
    """Whether there was one."""
    known = dict(_read(file))
    if known.pop(site, None) is None:
        return False
    _write(file, known)
    return True


def read_token(file: Path) -> str:
    """A token that stands alone in a file.

    Raises:
        InvalidInput: others can read it, or it holds no token.
    """
    return checked_token(_private(file), str(file))


def checked_token(text: str, where: str) -> str:
    """
    Raises:
        InvalidInput: it is no token; it is not shown.
    """
    if not TOKEN.fullmatch(text.strip()):
        raise InvalidInput(
            f"{where} holds no token.", way_out="It begins with gpuaas_ and was shown once when it was made."
        )
    return text.strip()


def _read(file: Path) -> Mapping[str, str]:
    if not file.exists():
        return {}
    text = _private(file)
    try:
        known = json.loads(text)
    except ValueError:
        known = None
    if not isinstance(known, dict) or not all(isinstance(one, str) for one in known.values()):
        raise InvalidInput(f"{file} is not what this program wrote.", way_out="Remove it and log in again.")
    return known


def _private(file: Path) -> str:
    try:
        mode = file.stat().st_mode & 0o777
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}.") from None
    if mode & 0o077:
        raise InvalidInput(f"{file} has mode {mode:04o}: others can read your token.", way_out=f"chmod 600 {file}")
    return text


def _write(file: Path, tokens: Mapping[str, str]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(tokens, stream, indent=2)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
