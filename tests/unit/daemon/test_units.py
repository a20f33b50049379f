"""What etc/ ships is right as it stands, and speaks of things that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from slurm_gpuaas.testbed.slurmconf import bootstrap_partitions
from tests.unit.daemon.site import Site

ETC = Path(__file__).parents[3] / "etc"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
@pytest.mark.parametrize(
    "unit", ["gpuaasd.service", "gpuaas-agent.service", "gpuaas-people.service", "gpuaas-portal.service"]
)
def test_systemd_understands_the_unit_and_calls_it_hardened(unit: str, tmp_path: Path) -> None:
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (ETC / "systemd" / unit).read_text(), flags=re.M)
    (tmp_path / unit).write_text(text)
    understood = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit)], capture_output=True, text=True, check=False
    )
    assert unit not in understood.stderr, understood.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(tmp_path / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-500:]


def test_the_alerts_ask_for_metrics_that_the_daemon_has(site: Site) -> None:
    site.runtime.operations.shared.nodes()
    site.tick("health")
    site.tick("hook")
    site.tick("reading")
    page = site.metrics.page().decode()
    rules = [
        rule
        for group in yaml.safe_load((ETC / "prometheus" / "gpuaas.rules.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert rules
    for rule in rules:
        for metric in re.findall(r"\bgpuaas_\w+", rule["expr"]):
            known = f"# TYPE {re.sub('_(bucket|count)$', '', metric)} "
            assert known in page, f"{rule['alert']} asks for {metric}, which /metrics does not have"


def test_slurmctld_can_start_before_gpuaasd_first_wrote_its_partitions() -> None:
    lines = (ETC / "tmpfiles.d" / "gpuaas.conf").read_text().splitlines()
    made = next(line for line in lines if line.startswith("f /etc/slurm/gpuaas/partitions.conf "))
    kind_to_age, content = made.split(" ")[:6], " ".join(made.split(" ")[6:])
    assert kind_to_age[2:] == ["0644", "gpuaas", "gpuaas", "-"]
    assert content.replace("\\n", "\n") == bootstrap_partitions()
