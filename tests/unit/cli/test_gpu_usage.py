"""`gpuaas usage gpu`, as people and programs read it."""

from __future__ import annotations

import json
from datetime import timedelta

from slurm_gpuaas.cli.gpu_usage import sparkline
from slurm_gpuaas.domain.telemetry import UNKNOWN, Metric
from tests.unit.cli.conftest import Run
from tests.unit.daemon.site import RESEARCHER, Site
from tests.unit.telemetry.batches import batch

NODE = "b200-001"


def half_an_hour(site: Site) -> None:
    """Half an hour until four minutes ago: GPU 0 busy, GPU 1 idle, GPU 2 silent, the other five never seen."""
    begin = site.clock.now() - timedelta(minutes=34)
    codes = [[180] * 120, [2] * 120, [UNKNOWN] * 120]
    told = batch(begin, codes, serials=["1650000000001", None, None], rest={Metric.POWER: 70})
    site.runtime.operations.telemetry.add(told, now=site.clock.now())


def test_busy_idle_and_unknown_are_told_apart(site: Site, run: Run) -> None:
    half_an_hour(site)
    out = run("usage", "gpu", "--node", NODE).out
    assert "191.60 GPU-hours" in out.splitlines()[0], "the last three minutes may be on their way"
    assert "1.00 known, 45.5 % busy on average; 0.50 of them idle (below 5 %)" in out
    assert "unknown" in out
    rows = {line.split()[1]: line.split()[2:] for line in out.splitlines() if line.startswith("GPU ")}
    assert rows["0"][:5] == ["90.0", "0.00", "0.50", "23.45", "1650000000001"]
    assert rows["1"][:4] == ["1.0", "0.50", "0.50", "23.45"]
    assert rows["2"][:4] == ["-", "0.00", "0.00", "23.95"]
    assert len(rows) == 8


def test_programs_read_the_same_as_json(site: Site, run: Run) -> None:
    half_an_hour(site)
    found = json.loads(run("usage", "gpu", "--node", NODE, "--json").out)
    assert (found["total"]["known"], found["total"]["idle"], found["idle_below_percent"]) == (60, 30, 5.0)
    assert found["rows"][0]["power_watts"] == 700.0
    assert found["rows"][2]["busy_percent"] is None


def test_what_is_asked_wrongly_is_said(site: Site, run: Run) -> None:
    assert run("usage", "gpu").code == 3
    assert "One of --node, --job and --project" in run("usage", "gpu", "--node", NODE, "--job", "7").err
    assert run("usage", "gpu", "--node", NODE, "--since", "yesterday").code == 3
    assert run("usage", "--json", "gpu", "--node", NODE).code == 3
    assert run("usage", "gpu", "--node", NODE, uid=RESEARCHER).code == 4
    assert run("usage", "gpu", "--job", "4711").code == 3


def test_a_sparkline_shows_unknown_as_no_height_at_all() -> None:
    assert sparkline([0.0, 50.0, None, 100.0, 101.0]) == "▁▅·██"
