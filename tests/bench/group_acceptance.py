"""From an accepted offer to its login, with account, QOS and SSH key, one grant after another: real Slurm, portal,
gpuaasd and gpuaas-people."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.model import BenchContext, BenchRow
from tests.slurm.test_pool_site import AWARD, KEY, KEYS, Pool, standing

RUNS = 20
DEADLINE_S = 60.0
POLL_S = 0.01


def run(context: BenchContext) -> list[BenchRow]:
    instance = context.testbed("mini", daemon=False)
    seconds = []
    with tempfile.TemporaryDirectory() as logs, standing(instance, Path(logs)) as pool:
        pool.start()
        with context.step(f"Accepted to log in with, {RUNS} grants") as note:
            for number in range(1, RUNS + 1):
                seconds.append(accepted(pool, number))
                note(f"grant {number}: {seconds[-1]:.2f} s")
    return [
        BenchRow.of_figure("acceptance_to_login_median_s", seconds, unit="s"),
        BenchRow.of_figure("acceptance_to_login_longest_s", [max(seconds)], unit="s"),
    ]


def accepted(pool: Pool, number: int) -> float:
    """Seconds from the acceptance of the last of so many grants until its login is in Slurm and has its key."""
    login = f"gpu-bench{number}"
    start = time.perf_counter()
    pool.accept(documents(number), [person(one) for one in range(1, number + 1)])
    key = pool.instance.path(f"{KEYS}/{login}")
    while not (key.exists() and any(row.startswith(f"{login}|p{number}|") for row in pool.associations())):
        if time.perf_counter() - start > DEADLINE_S:
            raise AssertionError(f"{login} cannot log in {DEADLINE_S:g} s after the acceptance.")
        time.sleep(POLL_S)
    return time.perf_counter() - start


def documents(grants: int) -> list[dict[str, Any]]:
    organisation, project, member, grant = AWARD
    found = [organisation]
    for number in range(1, grants + 1):
        found += [
            {**project, "name": f"p{number}"},
            {**member, "project": f"p{number}", "user": f"gpu-bench{number}"},
            {**grant, "name": f"g-{number}", "project": f"p{number}", "gpus": 2},
        ]
    return found


def person(number: int) -> dict[str, Any]:
    return {"user": f"gpu-bench{number}", "name": f"Researcher {number}", "keys": [KEY]}
