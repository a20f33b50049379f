"""What people see of the portal on a site: `gpuaas status`, `policy show`, `plan`, `apply` and `export`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.api.pool_sites import (
    PicturePush,
    PictureTaken,
    ReportTaken,
    SiteDocuments,
    SiteReport,
    UsagePush,
    UsageTaken,
    UseDaysPush,
    UseDaysTaken,
)
from slurm_gpuaas.domain.errors import Unavailable
from tests.fakes import EPOCH
from tests.unit.cli.conftest import POLICY, Run
from tests.unit.daemon.site import RESEARCHER, Site

SPLIT = POLICY.replace(
    "nodes: b200-[001-004]", "nodes: b200-[001-002]\n  - name: government\n    nodes: b200-[003-004]"
)
AWARD: list[dict[str, Any]] = [
    {"kind": "Organisation", "name": "snu"},
    {"kind": "Project", "name": "robots", "organisation": "snu"},
    {"kind": "Member", "project": "robots", "user": "gpu-bob"},
    {
        "kind": "Grant", "name": "g-robots", "project": "robots", "pool": "haein", "share": "government", "gpus": 16,
        "starts": "2027-01-01", "ends": "2027-12-31",
    },
    {"kind": "Pool", "name": "evil", "cluster": "mini", "model": "b200", "shares": []},
]  # fmt: skip


@dataclass
class OnePortal:
    """Says one set; down when told so."""

    down: bool = False
    reports: list[SiteReport] = field(default_factory=list)

    def documents(self, *, revision: int, wait: int) -> SiteDocuments:
        self._check()
        said: dict[str, Any] = {"documents": AWARD} if revision == 0 else {}
        return SiteDocuments.model_validate({"revision": 1, "changed": revision == 0, "now": EPOCH, **said})

    def push(self, usage: UsagePush) -> UsageTaken:
        self._check()
        return UsageTaken(acknowledged=usage.rows[-1].number if usage.rows else usage.after)

    def report(self, report: SiteReport) -> ReportTaken:
        self._check()
        self.reports.append(report)
        return ReportTaken(now=EPOCH)

    def picture(self, picture: PicturePush) -> PictureTaken:
        self._check()
        return PictureTaken(knows_layout=True, newest=picture.frame.moment, now=EPOCH)

    def days(self, days: UseDaysPush) -> UseDaysTaken:
        self._check()
        return UseDaysTaken(taken=len(days.rows))

    def _check(self) -> None:
        if self.down:
            raise Unavailable("The portal does not answer.")


@pytest.fixture
def portal() -> OnePortal:
    return OnePortal()


@pytest.fixture
def site(tmp_path: Path, portal: OnePortal) -> Iterator[Site]:
    section = {"url": "https://portal.example.org", "site": "mini", "shares": ["government"]}
    site = Site(tmp_path, more={"pool": section}, portal=portal)
    yield site
    site.store.close()


@pytest.fixture
def applied(run: Run, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The site's own policy and the portal's documents are in force."""
    file = tmp_path / "policy.yaml"
    file.write_text(SPLIT)
    assert run("policy", "apply", "--yes", "-f", str(file)).code == 0
    site.tick("pool-pull")
    site.tick("policy")
    capsys.readouterr()  # what was logged
    return file


def test_the_plan_with_the_same_files_has_nothing_to_do_beside_the_portals_documents(run: Run, applied: Path) -> None:
    planned = run("policy", "plan", "-f", str(applied), "--json")
    assert planned.code == 0, planned.out
    assert json.loads(planned.out)["policy"] == []


def test_show_tells_where_each_document_comes_from_and_what_is_left_out(run: Run, applied: Path) -> None:
    shown = run("policy", "show").out
    rows = {tuple(line.split()) for line in shown.splitlines()}
    assert ("Project", "vision", "site") in rows
    assert ("Grant", "g-robots", "portal") in rows
    assert "Left out: Pool evil: It cannot be taken from the portal" in shown
    assert {one["name"] for one in json.loads(run("policy", "show", "--json").out)["from_portal"] if "name" in one} == {
        "snu", "robots", "g-robots",
    }  # fmt: skip


def test_an_export_can_be_applied_again_so_the_portals_documents_are_not_in_it(run: Run, applied: Path) -> None:
    exported = run("policy", "export").out
    assert "robots" not in exported
    assert "vision" in exported


def test_a_plan_says_which_of_the_portals_documents_would_go(run: Run, applied: Path, site: Site) -> None:
    applied.write_text(SPLIT.replace("b200-[003-004]", "b200-003").replace("b200-[001-002]", "b200-[001-002,004]"))
    planned = run("policy", "plan", "-f", str(applied))
    assert planned.code == 2
    assert "- Grant g-robots  (of the portal's)" in planned.out
    assert "~ Pool haein\n" in planned.out
    assert "Warning: The portal's Grant g-robots is left out: Share government of pool haein has 8 GPUs" in " ".join(
        planned.out.split()
    )
    assert run("policy", "apply", "--yes", "-f", str(applied)).code == 0, "and it is not refused for them"
    assert "robots" not in {str(name) for name in site.accounting.read().accounts}


def test_status_says_how_old_the_portals_word_is(run: Run, applied: Path, site: Site, portal: OnePortal) -> None:
    site.tick("pool-push")
    portal.down = True
    site.clock.forward(timedelta(hours=3))
    site.tick("pool-pull")
    text = run("status").out
    assert "https://portal.example.org, this is site mini" in text
    assert re.search(r"last heard +2027-01-04 18:00:00", text), "Korean time"
    assert "The portal does not answer" in text
    found = json.loads(run("status", "--json").out)["portal"]
    assert (found["revision"], found["taken"], len(found["left_out"])) == (1, 4, 1)
    assert json.loads(run("status", "--json", uid=RESEARCHER).out)["portal"]["left_out"] == []


def test_the_report_tells_capacity_health_and_use_of_each_share(
    run: Run, applied: Path, site: Site, portal: OnePortal
) -> None:
    site.tick("pool-push")
    (report,) = portal.reports
    shares = {one.share: one for one in report.shares}
    assert {name: (one.granted, one.capacity, one.healthy) for name, one in shares.items()} == {
        "own": (16, 16, 16),
        "government": (16, 16, 16),
    }
    assert report.revision == 1
    assert [(one.kind, one.name) for one in report.findings] == [("Pool", "evil")]
