"""kill -9 at every step of an apply on real Slurm: one restart later everything is as if nothing had happened."""

from __future__ import annotations

import json

import pytest

from slurm_gpuaas.testbed.instance import Instance

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def test_killed_at_any_step_of_an_apply_the_next_run_converges(mini: Instance) -> None:
    mini.make_folder("/run/crash", owner="gpuaas")
    argv = ["/opt/gpuaas/venv/bin/python", "-m", "tests.slurm.crash_runner", "sqlite:////run/crash/store.db"]
    done = mini.exec(argv, user="gpuaas", env={"PYTHONPATH": "/opt/gpuaas/src"}, timeout=570)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    whole = {line["to"]: line for line in lines if "places" in line}
    after = [line for line in lines if "place" in line]

    for name, run in whole.items():
        steps = {place.split(".")[1] for place in run["places"]}
        assert {"policy-stored", "verified"} < steps, name
        visited = {line["place"] for line in after if line["to"] == name}
        assert visited == set(run["places"]), "every place was died at"
    for line in after:
        where = f"to {line['to']}, killed at {line['place']}"
        assert line["killed"], where
        assert line["slurm"] == whole[line["to"]]["slurm"], where
        assert line["left"] == [], where
        assert line["open"] == [], where
        if line["place"].endswith((".intended", ".written", ".file-written")):
            assert line["interrupted"] > 0, where
            assert line["told"], where
