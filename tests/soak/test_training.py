"""A DDP training with real PyTorch over four nodes, in the rank order of the fabric."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slurm_gpuaas.topology import slurm_yaml
from tests.slurm.conftest import mini, minis
from tests.slurm.test_gate import PODS, Bench, bench, channel, install, trains_in_the_order_of_the_fabric
from tests.slurm.training import launcher_and_script

__all__ = ["bench", "channel", "install", "mini", "minis"]

pytestmark = pytest.mark.slurm


def test_pytorch_gets_the_rank_order_of_the_fabric(
    bench: Bench,
    install: Callable[[str], None],
) -> None:
    """Where PyTorch cannot be installed the stand-in runs the same steps, and says so."""
    install(slurm_yaml.render(PODS))
    trains_in_the_order_of_the_fabric(bench, launcher_and_script(bench.mini))
