"""Submissions a second with our hook, over those with a hook that only returns success, on one slurmctld.

Both are in one script that goes by the job's comment, so that they take turns job by job and a busy machine slows both
alike. The one field that the plain one reads for that costs a fraction of a microsecond.
"""

from __future__ import annotations

import json

import yaml

from slurm_gpuaas.testbed.instance import Instance
from tests.bench import hook_decisions
from tests.bench.model import BenchContext, BenchRow

PAIRS = 1000
PROJECTS = 100
PROJECT, PARTITION = "bench-7", "bench-gov"
OURS = "/opt/gpuaas/src/plugins/job_submit.lua"
BOTH = """\
local ours = slurm_job_submit
function slurm_job_submit(job_desc, part_list, submit_uid)
  if job_desc.comment == "plain" then
    return slurm.SUCCESS
  end
  return ours(job_desc, part_list, submit_uid)
end
return slurm.SUCCESS
"""
HOOK, SNAPSHOT, POLICY = "/etc/slurm/job_submit.lua", "/run/gpuaas/snapshot", "/run/bench-policy.yaml"


def run(context: BenchContext) -> list[BenchRow]:
    with context.step("Decisions with 2,000 projects in the snapshot"):
        # before a Slurm of ours runs beside them on the same cores
        slowest = [hook_decisions.p99(hook_decisions.microseconds()) for _ in range(3)]
    instance = context.testbed("mini")
    instance.write(POLICY, yaml.safe_dump_all(_policy()))
    instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", POLICY])
    instance.wait_for("The hook's snapshot", lambda: PROJECT in instance.path(SNAPSHOT).read_text() or None)
    with context.step("Submissions with our hook and with a plain one, in turns"):
        try:
            rates = _rates(instance)
        finally:
            instance.exec(["ln", "-sfn", OURS, HOOK])
            instance.exec(["scancel", "--quiet", "--user=alice"])
            instance.wait_for("No job left", lambda: not instance.exec(["squeue", "-h"]).stdout or None)
            instance.write(POLICY, "")
            # slurmdbd hears of the jobs' end a moment after squeue, and deletes no account before
            apply = ["gpuaas", "policy", "apply", "--yes", "-f", POLICY]
            instance.wait_for("The bench's projects gone", lambda: instance.exec(apply, check=False).returncode == 0)
    return [
        BenchRow.of_rates("hook_submit_ratio", ours=rates["ours"], baseline=rates["plain"], unit="jobs/s"),
        BenchRow.of_figure("hook_decision_p99_us", slowest, unit="us"),
    ]


def _policy() -> list[dict[str, object]]:
    projects = [f"bench-{number}" for number in range(PROJECTS)]
    grant = {"kind": "Grant", "pool": "bench", "share": "gov", "starts": "2020-01-01", "ends": "2098-12-31", "gpus": 0}
    rows: list[dict[str, object]] = [
        {"kind": "Organisation", "name": "bench"},
        {"kind": "Pool", "name": "bench", "cluster": "mini", "model": "b200",
         "shares": [{"name": "gov", "nodes": "b200-[01-08]"}]},
    ]  # fmt: skip
    for project in projects:
        rows += [
            {"kind": "Project", "name": project, "organisation": "bench"},
            {"kind": "Member", "project": project, "user": "alice"},
            {**grant, "name": f"grant-{project}", "project": project, "borrow_limit": 0}
            | ({"gpus": 64, "budget_gpu_hours": 10_000_000} if project == PROJECT else {}),
        ]
    return rows


def _rates(instance: Instance) -> dict[str, list[float]]:
    ours = instance.path(OURS).read_text().removesuffix("return slurm.SUCCESS\n")
    instance.write("/run/bench-hook.lua", ours + BOTH)
    instance.exec(["ln", "-sfn", "/run/bench-hook.lua", HOOK])
    # slurmctld reads a script again when its time stamp is of a later second than its last reading
    instance.wait_for("The bench's hook", lambda: _in_force(instance) or None)
    argv = [
        "/opt/gpuaas/venv/bin/python",
        "/opt/gpuaas/src/tests/bench/hook_runner.py",
        str(PAIRS),
        PROJECT,
        PARTITION,
    ]
    rates: dict[str, list[float]] = json.loads(instance.exec(argv, user="alice").stdout)
    return rates


def _in_force(instance: Instance) -> bool:
    """Whether the marked job passes the hook, which refuses it without the mark."""
    instance.exec(["touch", "/run/bench-hook.lua"])
    job = [
        "sbatch",
        f"--account={PROJECT}",
        f"--partition={PARTITION}",
        f"--qos=guaranteed-{PROJECT}",
        "--gpus=b200:72",
    ]
    said = [
        instance.exec([*job, f"--comment={mark}", "--begin=tomorrow", "--wrap=true"], user="alice", check=False).stderr
        for mark in ("ours", "plain")
    ]
    return ["72 GPUs" in words for words in said] == [True, False]
