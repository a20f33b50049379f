"""Time of the hook's decisions, in-process under the Lua that Debian builds Slurm with (5.1).

2,000 projects of five members each, every member in one project. One figure is one call of `slurm_job_submit` from Lua
to Lua, snapshot read from a file, by users in random order. A call in 200 meets a new standing (another hash in the
first line, so that nothing looked up before is kept), the rest what the call before them met: gpuaasd writes at
most once in `hook.interval`, 5 s, so these are 40 submissions a second without a pause, and every one of the daemon's
looks found another standing. Fewer submissions a second meet new standings more often; then nobody waits for them.
`python -m tests.bench.hook_decisions` prints the figure with and without those calls.

Lua's collector runs as it does in slurmctld. Left out is what slurmctld itself does around the call (locks, its tables
of the job).
"""

from __future__ import annotations

import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import lupa.lua51

from slurm_gpuaas.quota.verdict import laid_out, stamped

HOOK: Final = Path(__file__).parents[2] / "plugins" / "job_submit.lua"
PROJECTS, MEMBERS, CALLS, RENEWED_EVERY = 2_000, 5, 10_000, 200
STUB: Final = """
slurm = { SUCCESS = 0.0, ERROR = -1.0, ESLURM_ACCOUNTING_POLICY = 2050.0, CLUSTER_NAME = "mini" }
said = 0
function slurm.log_user() said = said + 1 end
function slurm.log_error(form, words) error(words) end
function slurm.log_info() end
"""
ONE_CALL: Final = """
function(user, gpus, clock)
  local job = { user_name = user, user_id = nil, tres_per_job = "gres/gpu:" .. gpus, time_limit = 60.0,
                min_nodes = 4294967294.0, max_nodes = 4294967294.0, num_tasks = 4294967294.0, shared = 65534.0,
                ntasks_per_node = 65534.0, ntasks_per_gpu = 65534.0, het_job_offset = 4294967294.0,
                priority = 4294967294.0 }
  local start = clock()
  slurm_job_submit(job, {}, 1000.0)
  return clock() - start
end
"""


def microseconds() -> list[float]:
    """Of each call, in the order in which they were made."""
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        file = Path(folder) / "snapshot"
        lua = lupa.lua51.LuaRuntime(unpack_returned_tuples=True)
        lua.execute(STUB)
        lua.globals().GPUAAS_SNAPSHOT = str(file)
        lua.execute(HOOK.read_text())
        call = lua.eval(ONE_CALL)
        taken = []
        for number in range(CALLS):
            if number % RENEWED_EVERY == 0:
                file.write_text(_snapshot(number))
            user = f"user-{chance.randrange(PROJECTS)}-{chance.randrange(MEMBERS)}"
            taken.append(call(user, chance.choice((8, 16, 24)), time.perf_counter) * 1e6)
        if not lua.globals().said:
            raise AssertionError("No refusal and no advice: the hook did not decide.")
        return taken


def p99(values: list[float]) -> float:
    """The value that one in a hundred passes."""
    return sorted(values)[int(len(values) * 0.99)]


def _snapshot(turn: int) -> str:
    head = ["cluster mini 8", "partition b200 b200 8 2880 16000", "bypass gpuaas"]
    records = []
    for number in range(PROJECTS):
        name = f"project-{number}"
        records.append(
            f"project {name} guaranteed-{name} burst b200 b200 16 32 - - 600000 0 4000000000 active"
            f" {(number + turn) % 17} 8 {turn % 33}"
        )
        records += [f"member user-{number}-{one} {name} {name}" for one in range(MEMBERS)]
    body = laid_out((line.split() for line in head), (line.split() for line in records))
    return stamped(body, datetime.now(UTC))


def main() -> None:
    taken = microseconds()
    met_nothing_new = [one for number, one in enumerate(taken) if number % RENEWED_EVERY]
    print(f"p99 {p99(taken):.0f} us; without the calls that meet a new standing {p99(met_nothing_new):.0f} us")


if __name__ == "__main__":
    main()
