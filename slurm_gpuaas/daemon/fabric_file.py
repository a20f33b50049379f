"""The fabric that topology.yaml describes now, and its placer: the file is parsed again when it changed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.topology.fabric import FabricArrays
from slurm_gpuaas.topology.placer import FabricPlacer
from slurm_gpuaas.topology.slurm_yaml import Plugin, parse, plugin_of


class FabricFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._fabric: FabricArrays | None = None
        self._plugin = Plugin.TREE

    def needs_segments(self) -> bool:
        """Whether Slurm plans any job by blocks, as far as the file was read."""
        return self._plugin is not Plugin.TREE

    def placer(self) -> FabricPlacer:
        """Raises as `arrays` does."""
        return FabricPlacer(self.arrays())

    def arrays(self) -> FabricArrays:
        """
        Raises:
            Unavailable: there is no such file (yet).
            InvalidInput: it holds neither tree nor blocks.
        """
        with self._lock:
            try:
                status = self._path.stat()
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if self._fabric is None or stamp != self._stamp:
                    text = self._path.read_text(encoding="utf-8")
                    fabric = parse(text, source=str(self._path))
                    self._plugin = plugin_of(text, source=str(self._path))
                    self._fabric, self._stamp = fabric.arrays, stamp
            except OSError as error:
                raise Unavailable(
                    f"The fabric in {self._path} cannot be read: {os.strerror(error.errno or 0)}.",
                    way_out="Write it with `gpuaas topology render`, or set slurm.topology_file.",
                ) from None
            return self._fabric
