"""Builds what is C: the simulated `libnvidia-ml.so.1`, and the wall clock of a testbed that can be set ahead."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from slurm_gpuaas.domain.errors import GpuaasError

LIBRARY = "libnvidia-ml.so.1"
CLOCK_LIBRARY = "libgpuaas-clock.so"
SOURCE = Path(__file__).with_name("nvml.c")
CLOCK_SOURCE = Path(__file__).with_name("clock.c")
_FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread")


def build_nvml(rootfs: Path | None, out_dir: Path) -> Path:
    """The simulated NVML; see `_build`."""
    return _build(rootfs, SOURCE, out_dir / LIBRARY)


def build_clock(rootfs: Path | None, out_dir: Path) -> Path:
    """The clock; see `_build`."""
    return _build(rootfs, CLOCK_SOURCE, out_dir / CLOCK_LIBRARY)


def _build(rootfs: Path | None, source: Path, library: Path) -> Path:
    """Compile a library with the root folder's gcc (needs root), or with the host's when `rootfs` is None.

    Source and object travel over standard input and output, so that nothing is written inside the root folder.

    Raises:
        GpuaasError: there is no compiler or it failed; its first words are in the message.
    """
    prefix: list[str] = ["chroot", str(rootfs)] if rootfs else []
    if not rootfs and not shutil.which("gcc"):
        raise GpuaasError("There is no gcc on this machine.", way_out="Build through a root folder, which has one.")
    # gcc wants a seekable output file: it writes to a temporary one, which `cat` hands over.
    script = 'out=$(mktemp) && gcc "$@" -x c -o "$out" - && cat "$out"; status=$?; rm -f "$out"; exit $status'
    built = subprocess.run(
        [*prefix, "sh", "-c", script, "sh", *_FLAGS, f"-Wl,-soname,{library.name}"],
        input=source.read_bytes(),
        capture_output=True,
        check=False,
        timeout=120,
    )
    if built.returncode != 0:
        raise GpuaasError(
            f"gcc ended with {built.returncode}: {built.stderr.decode(errors='replace')[:500]}",
            way_out="Build the root folder again: `gpuaas testbed down`, remove the cache, `gpuaas testbed up`.",
        )
    library.parent.mkdir(parents=True, exist_ok=True)
    scratch = library.with_suffix(".new")
    scratch.write_bytes(built.stdout)
    scratch.chmod(0o755)
    scratch.rename(library)
    return library
