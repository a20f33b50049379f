"""Slurm's own programs, for the little that no API says: argument lists, no shell, no parsing here."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Protocol

from slurm_gpuaas.slurm.protocols import SlurmRefused, SlurmUnavailable


class Program(Protocol):
    """Runs a program with these arguments, gives it `stdin` to read, and returns what it printed."""

    def __call__(self, arguments: Sequence[str], /, *, stdin: str = "") -> str: ...


def program(argv: Sequence[str], *, timeout: float = 120.0) -> Program:
    """Runs `argv` followed by the arguments of each call.

    Args:
        timeout: seconds of a call; sacctmgr loads 5,000 members in six, and a busy machine is many times slower.

    Raises (on a call):
        SlurmUnavailable: it is not installed, or takes longer than `timeout` seconds.
        SlurmRefused: it failed; its words are in the message.
    """

    def run(arguments: Sequence[str], /, *, stdin: str = "") -> str:
        command = [*argv, *arguments]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SlurmUnavailable(
                f"{command[0]} cannot be run: {error}.", way_out="Install Slurm's client programs on this machine."
            ) from error
        if done.returncode:
            raise SlurmRefused(f"{command[0]} said: {(done.stderr or done.stdout).strip()}.")
        return done.stdout

    return run
