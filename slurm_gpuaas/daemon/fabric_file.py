"""The placer of the fabric that topology.yaml describes now: the file is parsed again when it changed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.topology.placer import FabricPlacer
from slurm_gpuaas.topology.slurm_yaml import parse


class FabricFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._placer: FabricPlacer | None = None

    def placer(self) -> FabricPlacer:
        """
        Raises:
            Unavailable: there is no such file (yet).
            InvalidInput: it holds no tree.
        """
        with self._lock:
            try:
                status = self._path.stat()
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if self._placer is None or stamp != self._stamp:
                    fabric = parse(self._path.read_text(encoding="utf-8"), source=str(self._path))
                    self._placer, self._stamp = FabricPlacer(fabric.arrays), stamp
            except OSError as error:
                raise Unavailable(
                    f"The fabric in {self._path} cannot be read: {os.strerror(error.errno or 0)}.",
                    way_out="Write it with `gpuaas topology render`, or set slurm.topology_file.",
                ) from None
            return self._placer
