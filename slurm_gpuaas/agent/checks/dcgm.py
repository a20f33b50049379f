"""NVIDIA's own diagnostics, where DCGM is installed: `dcgmi diag -r LEVEL --json`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Final

from slurm_gpuaas.health.checks import Measure, Reading

SECONDS: Final = {1: 300.0, 2: 900.0, 3: 3600.0, 4: 3 * 3600.0}
"""How long each level may take. Level 1 takes a minute or so, level 4 about an hour."""


class DcgmReader:
    name = "DCGM"
    measures = frozenset({Measure.DCGM_TESTS_FAILED})

    def __init__(self, program: str, *, level: int) -> None:
        self._argv = [program, "diag", "-r", str(level), "--json"]
        self.seconds = SECONDS[level]

    def read(self) -> Iterator[Reading]:
        try:
            # It exits with something else than 0 when a test fails; what it prints tells which.
            said = subprocess.run(
                self._argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=self.seconds - 5, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            yield Reading(measure=Measure.DCGM_TESTS_FAILED, value=None, detail=str(error)[:200])
            return
        failed = failed_tests(said)
        if failed is None:
            yield Reading(measure=Measure.DCGM_TESTS_FAILED, value=None, detail="dcgmi gave no results")
        else:
            yield Reading(measure=Measure.DCGM_TESTS_FAILED, value=len(failed), detail=", ".join(failed)[:500])


def failed_tests(output: bytes) -> list[str] | None:
    """Names of the tests that failed, in the order of the output; None when it holds no test at all.

    The document nests differently in DCGM 3 and 4: in both, a test has a `name` and, somewhere beneath, results with a
    `status` (Pass, Fail, Skip, Warn). Lines before the document are passed over.
    """
    begin = output.find(b"{")
    try:
        document: object = json.loads(output[begin:]) if begin >= 0 else None
    except (ValueError, RecursionError):
        return None
    failed: dict[str, None] = {}
    seen = False
    todo: list[tuple[str, object]] = [("", document)]
    while todo:
        name, part = todo.pop()
        if isinstance(part, dict):
            name = part["name"] if isinstance(part.get("name"), str) else name
            status = part.get("status")
            if name and isinstance(status, str):
                seen = True
                if status.lower() == "fail":
                    failed[name[:80]] = None
            todo += [(name, inner) for inner in reversed(part.values())]
        elif isinstance(part, list):
            todo += [(name, inner) for inner in reversed(part)]
    return list(failed) if seen else None
