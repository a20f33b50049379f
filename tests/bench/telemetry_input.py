"""Noisy samples of a fleet as the agents would send them: runs of hours with their own level, idle gaps, jitter on
every reading, samples that are missing."""

from __future__ import annotations

import numpy as np

from slurm_gpuaas.domain.telemetry import HIGHEST, METRICS, UNKNOWN
from slurm_gpuaas.store.telemetry.rollup import Codes

MISSING = 0.005
"""Share of samples that never arrive."""
IDLE = 0.3
"""Share of runs that keep their GPUs and do nothing."""
RUN_SLOTS = 3 * 60 * 4
"""A run on a node is three hours on average."""

_RUNNING = np.array([180, 150, 80, 62, 1])
_RESTING = np.array([0, 2, 14, 34, 0])
"""Code of each metric in a run, and of an idle GPU."""
_LEVELS = np.array([25, 30, 12, 6, 0])
"""How far runs differ."""
_NOISE = np.array([8.0, 0.7, 3.0, 1.0, 0.0])
"""Standard deviation of one sample within a run: 4 % busy, 30 W, 1 degree."""


def node_samples(gpus: int, slots: int, chance: np.random.Generator) -> Codes:
    """Codes [metrics, gpus, slots] of one node whose runs take all of it."""
    run = np.cumsum(chance.random(slots) < 1 / RUN_SLOTS)
    level = _RUNNING + (chance.random((run[-1] + 1, len(METRICS))) - 0.5) * 2 * _LEVELS
    level[chance.random(len(level)) < IDLE] = _RESTING
    means = level[run].T[:, None, :]
    noise = chance.standard_normal((len(METRICS), gpus, slots)) * _NOISE[:, None, None]
    noise[0] = np.where(means[0] == 0, 0, noise[0])  # nothing runs: busy is exactly 0
    highest = np.array([HIGHEST[metric] for metric in METRICS])[:, None, None]
    codes: Codes = np.clip(np.rint(means + noise), 0, highest).astype(np.uint8)
    codes[:, chance.random((gpus, slots)) < MISSING] = UNKNOWN
    return codes
