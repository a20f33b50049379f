"""A testbed that is a site of a real portal on a machine of its own: the wire between them, and one clock for both."""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.testbed.instance import Instance, up_all
from slurm_gpuaas.testbed.national.visitor import Visitor
from slurm_gpuaas.testbed.portal import CERTIFICATE, PORTAL, USER, PortalMachine
from slurm_gpuaas.testbed.status import status_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

POOL = """\
kind: Pool
name: mini
cluster: mini
model: b200
shares: [{name: government, nodes: "b200-[01-08]"}]
---
{kind: Organisation, name: snu}
---
{kind: Project, name: vision, organisation: snu}
---
{kind: Member, project: vision, user: alice}
---
{kind: Grant, name: g1, project: vision, pool: mini, share: government, gpus: 16,
 starts: "2026-01-01", ends: "2099-12-31"}
"""
DAY = 86_400
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def joined() -> Iterator[tuple[PortalMachine, Instance]]:
    """`mini` as a site of a portal, both with clocks of their own."""
    name = f"pytest-{os.getpid()}-joined"
    portal = PortalMachine.up(f"{name}-portal", clock=True)
    try:
        (site,) = up_all("mini", name, daemon=False, clock=True)
        try:
            portal.join(site, provider="mini", shares=["government"])
            yield portal, site
        finally:
            site.down()
    finally:
        portal.down()


def told(site: Instance) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.exec(["gpuaas", "status", "--json"]).stdout)
    return found


def accounted(site: Instance, job: str) -> str:
    """Seconds and state, as Slurm's accounting has them."""
    return site.exec(["sacct", "-nXPj", job, "-o", "ElapsedRaw,State"]).stdout


def test_the_portal_answers_the_host_over_tls_and_holds_nothing_of_slurm(
    joined: tuple[PortalMachine, Instance],
) -> None:
    portal, _ = joined
    trust = ssl.create_default_context(cadata=portal.path(CERTIFICATE).read_text())
    with urllib.request.urlopen(f"{portal.url}/readyz", context=trust, timeout=10) as answer:
        assert answer.status == 200
    assert not portal.path("/etc/munge/munge.key").exists()
    assert not portal.path("/etc/slurm/slurm.conf").exists()
    owner = portal.exec(["ps", "-o", "user:20=", "-p", portal.path(PORTAL.pid_path).read_text().strip()]).stdout
    assert owner.strip() == USER
    assert status_of(portal).services == {"gpuaas-portal": True}


def test_a_site_that_is_cut_off_is_heard_again_once_the_wire_is_mended(joined: tuple[PortalMachine, Instance]) -> None:
    portal, site = joined
    site.wait_for("the first word", lambda: told(site)["portal"]["heard_at"])
    portal.cut(site)
    site.wait_for(
        "trouble",
        lambda: [one for one in told(site)["controllers"] if one["name"] == "pool-push" and one["failures"]] or None,
    )
    portal.mend(site)
    before = told(site)["portal"]["heard_at"]
    site.wait_for("the next word", lambda: told(site)["portal"]["heard_at"] > before or None, seconds=90)


def test_a_job_runs_through_the_days_by_which_all_clocks_are_set_ahead(joined: tuple[PortalMachine, Instance]) -> None:
    portal, site = joined
    site.exec(["gpuaas", "policy", "apply", "--yes", "-f", "-"], stdin=POOL)
    sbatch = ["sbatch", "--parsable", "--gpus=8", "--time=3-0", "--output=/dev/null", "--wrap", "exec sleep 1000"]
    job = site.wait_for(
        "sbatch to take it", lambda: site.exec(sbatch, user="alice", check=False).stdout.strip() or None
    )
    site.wait_for("the job", lambda: "RUNNING" in site.exec(["squeue", "-hj", job, "-o", "%T"]).stdout or None)

    for machine in (portal, site):
        machine.set_ahead(DAY)
    assert portal.ahead == site.ahead == DAY
    with pytest.raises(InvalidInput):
        site.set_ahead(DAY - 1)
    since = site.exec(["date", "-Is", "-u"]).stdout.strip()
    site.wait_for("the next word", lambda: told(site)["portal"]["heard_at"] > since or None, seconds=90)

    seconds = int(site.exec(["squeue", "-hj", job, "-O", "TimeUsed:20"]).stdout.partition("-")[0])
    assert seconds == 1, "squeue counts days first"
    assert set(status_of(site).nodes) <= {"idle", "mixed"}, "a node was taken for dead or rebooted"
    site.exec(["scancel", job])
    site.wait_for("its end", lambda: "CANCELLED" in accounted(site, job) or None)
    assert DAY <= int(accounted(site, job).partition("|")[0]) < DAY + 600


def test_a_lost_portal_is_restored_on_a_clean_machine_and_its_site_tells_it_again(
    joined: tuple[PortalMachine, Instance],
) -> None:
    """The last one of this file: the portal's machine is another one afterwards."""
    portal, site = joined
    portal.create_admin("director", name="김국장", password=PASSWORD)
    sbatch = ["sbatch", "--parsable", "--gpus=8", "--time=3-0", "--output=/dev/null", "--wrap", "exec sleep 5"]
    site.wait_for("all usage", lambda: not told(site)["portal"]["usage_waits"])
    kept, before = portal.keep(), portal.command_line("reconcile")
    job = site.exec(sbatch, user="alice").stdout.strip()
    site.wait_for("its end", lambda: "COMPLETED" in accounted(site, job) or None)
    after = site.wait_for(
        "the portal to be told of it", lambda: one if (one := portal.command_line("reconcile")) != before else None
    )
    ahead, address = portal.ahead, portal.address
    portal.down()

    restored = PortalMachine.restored(portal.name, kept, ahead=ahead)
    assert restored.address == address
    assert restored.command_line("reconcile") == before
    assert "entries are whole" in restored.command_line("audit", "verify")
    restored.wire(site)
    site.wait_for("the site to tell it again", lambda: restored.command_line("reconcile") == after or None, seconds=120)
    trust = ssl.create_default_context(cadata=restored.path(CERTIFICATE).read_text())
    visitor = Visitor(restored.url, trust, login="director", password=PASSWORD)
    visitor.sign_in()
    assert "mini" in visitor.get("/sites")
    visitor.close()
