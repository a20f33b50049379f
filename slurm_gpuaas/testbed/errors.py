"""What can go wrong with the testbed itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from slurm_gpuaas.domain.errors import GpuaasError


class TestbedError(GpuaasError):
    """The testbed could not be built, booted or reached."""

    __test__ = False  # not a test, whatever its name looks like


class ArchiveMoved(TestbedError):
    """The Debian archive no longer has the package versions that packages.lock names."""


class ServiceFailed(TestbedError):
    """A service of an instance ended or did not become ready in time."""


class CommandFailed(TestbedError):
    """A command inside an instance ended with an error. Carries `returncode`, `stdout` and `stderr`."""

    def __init__(self, argv: Sequence[str], returncode: int, stdout: str, stderr: str) -> None:
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr
        super().__init__(f"`{shlex.join(argv)}` failed (exit {returncode}): {(stderr or stdout).strip()}")
