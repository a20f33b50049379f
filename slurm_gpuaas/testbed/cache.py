"""What is costly to build, kept outside the checkout under a key made of its inputs.

A build happens in a hidden folder beside its final place and is renamed when complete: what stands under its final name
is whole. Builders of one kind exclude each other by flock, which the kernel releases however they end; the next one
removes what a killed one left.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

KEPT_UNUSED_DAYS: Final = 14
"""An artifact nobody asked for in this many days goes when another of its kind is built."""


def key_of(*inputs: str) -> str:
    """Short hash of everything that decides a build's result."""
    digest = hashlib.sha256()
    for text in inputs:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:12]


class Cache:
    """Folder of finished artifacts, each at `KIND-KEY`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Cache:
        """`$GPUAAS_CACHE`, else `slurm-gpuaas` in the user's cache folder."""
        given = os.environ.get("GPUAAS_CACHE")
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(given).absolute() if given else Path(base) / "slurm-gpuaas")

    @property
    def mount_point(self) -> Path:
        """Always empty here: instances mount on it, each in a mount namespace of its own."""
        return self._folder("mnt")

    @property
    def logs(self) -> Path:
        """Full output of the latest build of each kind."""
        return self._folder("logs")

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Holds the exclusive lock `name`; waits for whoever holds it."""
        with (self._folder("locks") / name).open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def scratch(self, kind: str) -> Iterator[Path]:
        """An empty folder that is gone afterwards, unless it was renamed. One at a time of a kind; the next removes
        what a killed one left."""
        with self.lock(kind):
            for leftover in self.root.glob(f".partial-{kind}-*"):
                shutil.rmtree(leftover)
            folder = Path(tempfile.mkdtemp(prefix=f".partial-{kind}-", dir=self.root))
            folder.chmod(0o755)  # services inside enter it under their own users
            try:
                yield folder
            finally:
                if folder.exists():
                    shutil.rmtree(folder)

    def artifact(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Folder of the artifact, built by `build(empty folder)` when it is not there yet."""
        final = self.root / f"{kind}-{key}"
        if not final.is_dir():
            with self.scratch(kind) as folder:
                if not final.is_dir():
                    build(folder)
                    folder.rename(final)
                    self._forget_unused(kind, final)
        os.utime(final)
        return final

    def _forget_unused(self, kind: str, newest: Path) -> None:
        limit = time.time() - KEPT_UNUSED_DAYS * 86_400
        for old in self.root.glob(f"{kind}-*"):
            if old != newest and old.stat().st_mtime < limit:
                shutil.rmtree(old)

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
