"""Submissions a second with our hook, over those with a hook that only says yes, on one slurmctld in turns."""

from __future__ import annotations

import time

import yaml

from slurm_gpuaas.testbed.instance import Instance
from tests.bench.model import BenchContext, BenchRow, side_by_side

JOBS = 120
RUNS = 15
PROJECTS = 100
PARTITION = "bench-gov"
OURS = "/opt/gpuaas/src/plugins/job_submit.lua"
PLAIN = """\
function slurm_job_submit(job_desc, part_list, submit_uid) return slurm.SUCCESS end
function slurm_job_modify(job_desc, job_rec, part_list, submit_uid) return slurm.SUCCESS end
return slurm.SUCCESS
"""
HOOK, SNAPSHOT = "/etc/slurm/job_submit.lua", "/run/gpuaas/snapshot"


def run(context: BenchContext) -> list[BenchRow]:
    instance = context.testbed("mini")
    text = instance.path(OURS).read_text()
    instance.write("/run/bench-policy.yaml", yaml.safe_dump_all(_policy()))
    instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", "/run/bench-policy.yaml"])
    instance.wait_for("The hook's snapshot", lambda: "bench-7" in instance.path(SNAPSHOT).read_text() or None)
    with context.step(f"{JOBS} submissions with our hook and with a plain one, {RUNS} times in turns"):
        try:
            ours, plain = side_by_side(lambda: _rate(instance, text), lambda: _rate(instance, PLAIN), runs=RUNS)
        finally:
            instance.exec(["ln", "-sfn", OURS, HOOK])
            _cancel(instance)
            instance.write("/run/bench-policy.yaml", "")
            instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", "/run/bench-policy.yaml"])
    return [BenchRow.of_rates("hook_submit_ratio", ours=ours, baseline=plain, unit="jobs/s")]


def _policy() -> list[dict[str, object]]:
    projects = [f"bench-{number}" for number in range(PROJECTS)]
    grant = {"kind": "Grant", "pool": "bench", "share": "gov", "starts": "2020-01-01", "ends": "2098-12-31", "gpus": 0}
    rows: list[dict[str, object]] = [
        {"kind": "Organisation", "name": "bench"},
        {"kind": "Pool", "name": "bench", "cluster": "mini", "model": "b200",
         "shares": [{"name": "gov", "nodes": "b200-[01-08]"}]},
    ]  # fmt: skip
    for number, project in enumerate(projects):
        rows += [
            {"kind": "Project", "name": project, "organisation": "bench"},
            {"kind": "Member", "project": project, "user": "alice"},
            {**grant, "name": f"grant-{number}", "project": project, "borrow_limit": 0}
            | ({"gpus": 64, "budget_gpu_hours": 10_000_000} if number == 7 else {}),
        ]
    return rows


def _rate(instance: Instance, hook: str) -> float:
    """Jobs a second. slurmctld reads a hook again when its time stamp is newer than the last reading, in seconds."""
    time.sleep(1.1)
    instance.write("/run/bench-hook.lua", hook)
    instance.exec(["ln", "-sfn", "/run/bench-hook.lua", HOOK])
    asked = ["sbatch", "--account=bench-7", f"--partition={PARTITION}", "--qos=guaranteed-bench-7", "--gpus=b200:72"]
    said = instance.exec([*asked, "--begin=tomorrow", "--wrap=true"], user="alice", check=False).stderr
    assert ("72 GPUs" in said) == (hook is not PLAIN), f"another hook is in force: {said}"
    seconds = _submit(instance, JOBS)
    _cancel(instance)
    return JOBS / seconds


def _submit(instance: Instance, jobs: int) -> float:
    argv = ["/opt/gpuaas/venv/bin/python", "/opt/gpuaas/src/tests/bench/hook_runner.py"]
    return float(instance.exec([*argv, str(jobs), "bench-7", PARTITION], user="alice").stdout)


def _cancel(instance: Instance) -> None:
    instance.exec(["scancel", "--quiet", "--user=alice"])
    instance.wait_for("No job left", lambda: not instance.exec(["squeue", "-h"]).stdout or None)
