"""Submits a rendered template as the caller and says what became of it. Needs Slurm's commands, not gpuaasd."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.jobs.templates import Template
from slurm_gpuaas.slurm.submit import Decided, Run, decided, sbatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    job: JobId
    template: str
    decided: Decided


def submit(template: Template, given: Mapping[str, str], *, run: Run = subprocess.run) -> Submission:
    """Render and submit.

    Raises:
        InvalidInput: a parameter is wrong; nothing was submitted.
        SlurmRefused, SlurmUnavailable, Unavailable: as `slurm.submit.sbatch`.
    """
    job = sbatch(template.render(given), run=run)
    return Submission(job=job, template=template.name, decided=decided(job, run=run))
