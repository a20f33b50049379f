"""What the torchrun template runs in tests: PyTorch, or stand-ins where it cannot be installed."""

from __future__ import annotations

from typing import Final

from slurm_gpuaas.testbed.instance import Instance

TORCHRUN: Final = "/opt/gpuaas/src/job_templates/torchrun"
TORCH_PYTHON: Final = "/opt/gpuaas/torch/bin/python"
STAND_IN_LAUNCHER: Final = ("--python", "python3", "--launcher", f"{TORCHRUN}/launch_standin.py")
STAND_IN_SCRIPT: Final = f"{TORCHRUN}/train_standin.py"


def launcher_and_script(instance: Instance) -> tuple[tuple[str, ...], str]:
    """Options that choose the launcher, and a DDP script for it."""
    if instance.exec(["test", "-x", TORCH_PYTHON], check=False).returncode:
        print("PyTorch cannot be installed here: the stand-in runs the same steps.")
        return STAND_IN_LAUNCHER, STAND_IN_SCRIPT
    instance.exec([TORCH_PYTHON, "-c", "import torch"], timeout=300)  # the first import reads a gigabyte from disk
    return ("--python", TORCH_PYTHON), f"{TORCHRUN}/train.py"
