"""Checkpoints that survive a crash at any moment: written aside, flushed, named last, checked before they are used."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_NAME = re.compile(r"step-(\d{12})\.([0-9a-f]{64})")
KEPT = 2
"""Older ones are removed: one to resume from, one in case that one is damaged."""


def save(folder: Path, step: int, payload: bytes) -> Path:
    """Write the checkpoint of a step. Only one process may save in a folder at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:012}.{hashlib.sha256(payload).hexdigest()}"
    aside = folder / f".{final.name}.part"
    with aside.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(final)
    _flush_names(folder)
    for _, old in _by_age(folder)[KEPT:]:
        old.unlink()
    return final


def newest_valid(folder: Path) -> tuple[int, bytes] | None:
    """Step and payload of the newest checkpoint whose content has its checksum; None where there is none."""
    for step, path in _by_age(folder):
        payload = path.read_bytes()
        if path.name.endswith(hashlib.sha256(payload).hexdigest()):
            return step, payload
        print(f"Checkpoint {path} is damaged: an older one is tried.", flush=True)
    return None


def _by_age(folder: Path) -> list[tuple[int, Path]]:
    """Newest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*"))
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _flush_names(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
