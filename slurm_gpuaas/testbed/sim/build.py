"""Builds the simulated `libnvidia-ml.so.1`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from slurm_gpuaas.domain.errors import GpuaasError

LIBRARY = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("nvml.c")
_FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread")
# As NVIDIA's has it: whoever loaded the file by its path has it under this name, too.
_SONAME = f"-Wl,-soname,{LIBRARY}"


def build_nvml(rootfs: Path | None, out_dir: Path) -> Path:
    """Compile the library with the root folder's gcc (needs root), or with the host's when `rootfs` is None.

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
        [*prefix, "sh", "-c", script, "sh", *_FLAGS, _SONAME],
        input=SOURCE.read_bytes(),
        capture_output=True,
        check=False,
        timeout=120,
    )
    if built.returncode != 0:
        raise GpuaasError(
            f"gcc ended with {built.returncode}: {built.stderr.decode(errors='replace')[:500]}",
            way_out="Build the root folder again: `gpuaas testbed down`, remove the cache, `gpuaas testbed up`.",
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    library = out_dir / LIBRARY
    scratch = library.with_suffix(".new")
    scratch.write_bytes(built.stdout)
    scratch.chmod(0o755)
    scratch.rename(library)
    return library
