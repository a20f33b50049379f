"""Submits jobs as the caller: runs `sbatch` and `squeue` of the machine it is called on, never as another user.

This is the part of the door that a researcher's command uses; the daemon has drivers of its own.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.slurm.protocols import SlurmRefused, SlurmUnavailable

Run = Callable[..., "subprocess.CompletedProcess[str]"]

_FIELDS = ("Account", "QOS", "Partition", "tres-alloc", "NumNodes", "TimeLimit", "State", "Reason")
"""squeue's. `tres-alloc` of a job that waits is what it asks for, however it did: --gpus, --gpus-per-node or --gres."""
_FORMAT = ",".join(f"{field}:512|" for field in _FIELDS)
_GPUS = re.compile(r"\bgres/gpu(?::([^=,]+))?=(\d+)")
_UNREACHABLE = re.compile(r"unable to contact|connection refused|timed out|communication", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What Slurm and the hook made of a submission, in squeue's words. `gpus`: what is asked in all, e.g. `b200:8`."""

    account: str
    qos: str
    partition: str
    gpus: str
    nodes: str
    time_limit: str
    state: str
    reason: str


def sbatch(script: str, *, options: Sequence[str] = (), run: Run = subprocess.run) -> JobId:
    """Submit a batch script, given on standard input.

    Args:
        options: of sbatch; they stand above the script's own.

    Raises:
        SlurmRefused: Slurm or its hook said no, in their words.
        SlurmUnavailable: slurmctld cannot be reached.
        Unavailable: there is no sbatch here.
    """
    answer = _call(["sbatch", "--parsable", *options], run, stdin=script)
    return JobId(int(answer.split(";")[0]))


def decided(job: JobId, *, run: Run = subprocess.run) -> Decided:
    """How a job stands in the queue right after its submission. Raises as `sbatch`."""
    answer = _call(["squeue", "--noheader", f"--jobs={job}", f"--Format={_FORMAT}"], run)
    fields = [field.strip() for field in answer.splitlines()[0].split("|")[:-1]] if answer else []
    if len(fields) != len(_FIELDS):
        raise SlurmRefused(f"squeue does not show job {job}.", way_out=f"Look with `sacct --jobs={job}`.")
    account, qos, partition, tres, nodes, time_limit, state, reason = fields
    return Decided(
        account=account,
        qos=qos,
        partition=partition,
        gpus=_gpus(tres),
        nodes=nodes,
        time_limit=time_limit,
        state=state,
        reason=reason,
    )


def _gpus(tres: str) -> str:
    """As --gpus takes them: with the model where it is known; `0` for none."""
    found: list[tuple[str, str]] = _GPUS.findall(tres)
    typed = [f"{model}:{count}" for model, count in found if model]
    return ",".join(typed or [count for _model, count in found]) or "0"


def _call(argv: Sequence[str], run: Run, *, stdin: str = "") -> str:
    try:
        answer = run(argv, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable(
            f"There is no {argv[0]} on this machine.",
            way_out="Run this where Slurm's commands are, or use --dry-run and take the script there.",
        ) from None
    if answer.returncode:
        said = _said(argv[0], answer.stderr)
        if _UNREACHABLE.search(said):
            raise SlurmUnavailable(f"slurmctld cannot be reached: {said}", way_out="Try again in a minute.")
        raise SlurmRefused(said or f"{argv[0]} ended with {answer.returncode}.")
    return answer.stdout.strip()


def _said(program: str, stderr: str) -> str:
    """What the program wrote, without its name and severity before each line."""
    lines = (re.sub(rf"^{program}: (error: )?", "", line).strip() for line in stderr.splitlines())
    return " ".join(line for line in lines if line)
