"""Many more random limit sets than the suite has time for: `quota.limits` against slurmctld."""

from __future__ import annotations

import pytest

from slurm_gpuaas.slurm.limit_reader import ScontrolLimits
from slurm_gpuaas.testbed.instance import Instance
from tests.slurm.conftest import mini, minis
from tests.slurm.limit_cases import Batch, Disagreement, random_case
from tests.slurm.test_explain import reader

__all__ = ["mini", "minis", "reader"]

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

BATCHES, CASES, FIRST_SEED = 60, 10, 50_000


def test_six_hundred_predictions_are_what_slurmctld_does(mini: Instance, reader: ScontrolLimits) -> None:
    wrong: list[Disagreement] = []
    for start in range(FIRST_SEED, FIRST_SEED + BATCHES * CASES, CASES):
        batch = Batch(mini, reader, [random_case(f"c{number:02}", start + number) for number in range(CASES)])
        wrong += batch.run()
        print(f"{start - FIRST_SEED + CASES} cases, {len(wrong)} predicted otherwise", flush=True)
    assert not wrong, "\n".join(map(str, wrong))
