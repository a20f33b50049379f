"""`gpuaas topology capacity` and `gpuaas job why` as people read them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from slurm_gpuaas.cli.capacity import LEVELS, sparkline
from slurm_gpuaas.domain.jobs import JobId
from tests.fakes import make_job
from tests.unit.cli.conftest import Run
from tests.unit.daemon.site import RESEARCHER, Site
from tests.unit.daemon.test_capacity import running, with_fabric


def test_a_partition_is_a_sentence_and_tables(run: Run, site: Site) -> None:
    running(with_fabric(site), 7, "b200-001", gpus=3)
    printed = run("topology", "capacity", uid=RESEARCHER)
    assert printed.code == 0
    assert printed.out.startswith(
        "Partition own: 3 of 4 nodes are free, 29 GPUs in all; 1 of 2 leaf groups are idle.\n"
        "Fragmentation 33%; no running job uses more leaf groups than it needs.\n"
    )
    rows = [line.split("  ") for line in printed.out.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["one leaf group", "root/leaf-02", "2", "16"] in cells
    assert ["the fewest leaf groups", "-", "2", "-"] in cells
    assert ["8", "3", "███"] in cells


def test_over_time_it_is_a_line(run: Run, site: Site) -> None:
    site.clock.at = datetime.now(UTC)  # the command counts back from the real present
    with_fabric(site)
    site.tick("capacity")
    running(site, 7, "b200-001")
    site.tick("capacity")
    printed = run("topology", "capacity", "--since", "24h").out
    assert "2 samples from" in printed
    assert "fragmentation            ▁█  0 to 33%" in printed
    assert "free nodes               █▇  3 to 4" in printed
    (own,) = json.loads(run("topology", "capacity", "--since", "24h", "--json").out)
    assert len(own["history"]) == 2


def test_a_time_that_cannot_be_meant_is_refused(run: Run) -> None:
    for since in ("1w", "0h", "24", "-1h", "9999999d", "99999d", "40d"):
        printed = run("topology", "capacity", "--since", since)
        assert printed.code == 3, since
        assert any(way in printed.err for way in ("write e.g. 90m", "last 31 days", "from 1971")), since


def test_a_long_time_is_told_in_means_of_equal_parts() -> None:
    line = sparkline([0.0] * 600 + [1.0] * 600)
    assert line == LEVELS[0] * 30 + LEVELS[-1] * 30
    assert sparkline([0.0]) == LEVELS[0]


# -- job why


def test_why_a_job_waits_is_sentences_with_the_limits_numbers(run: Run, site: Site) -> None:
    with_fabric(site)
    for job, node in ((7, "b200-001"), (8, "b200-002")):
        running(site, job, node)
    site.controller.job_by_id[JobId(9)] = make_job(9, partition="own", user="nobody", reason="QOSGrpGRES")
    printed = run("job", "why", "9", uid=RESEARCHER)
    assert printed.out.splitlines() == [
        "Job 9 waits (QOSGrpGRES): running jobs with its QOS have together as much as the QOS allows.",
        "It needs 1 whole node; partition own has 2 free: enough.",
        "8 GPUs on 1 node as guaranteed-vision: waits with QOSGrpGRES.",
        "QOS guaranteed-vision has GrpTRES gres/gpu=16, 16 in use; the job asks for 8.",
        "As guaranteed-vision nothing of this shape would start now.",
        "As burst-haein-own it would start now: --qos=burst-haein-own.",
        "`gpuaas quota explain` shows the limit, and what would start.",
    ]
    assert json.loads(run("job", "why", "9", "--json").out)["room"]["missing"] == 0


def test_an_unknown_job_is_one_sentence(run: Run, site: Site) -> None:
    printed = run("job", "why", "12", uid=RESEARCHER)
    assert (printed.code, printed.out) == (3, "")
    assert printed.err.startswith("Error: slurmctld knows no job 12 that you may see. It forgets a job")
