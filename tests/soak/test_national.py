"""The national pool at full size: every one of 1,642 slurmd is real, and so are the three accounting databases."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from slurm_gpuaas.testbed.instance import Instance, up_all
from slurm_gpuaas.testbed.status import status_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

PROJECTS = 300
ORGANISATIONS = 40
MEMBERS = 3
GPUS = 16
POOLS: tuple[Mapping[str, Any], ...] = (
    # government and own servers of each provider: 287 + 95, 255 + 48, 765 + 192
    {"name": "naver", "model": "h200", "shares": {"gov": "h200-[001-287]", "own": "h200-[288-382]"}},
    {"name": "kakao", "model": "b200", "shares": {"gov": "b200-[001-255]", "own": "b200-[256-303]"}},
    {"name": "nhn", "model": "b200", "shares": {"gov": "b200-[001-765]", "own": "b200-[766-957]"}},
)


def documents() -> list[Mapping[str, Any]]:
    """One policy for all three clusters: 300 projects of 40 organisations, three members each, 16 GPUs."""
    pools = [
        {
            "kind": "Pool",
            "name": pool["name"],
            "cluster": pool["name"],
            "model": pool["model"],
            "shares": [{"name": name, "nodes": nodes} for name, nodes in pool["shares"].items()],
        }
        for pool in POOLS
    ]
    organisations = [{"kind": "Organisation", "name": f"org-{number:02}"} for number in range(ORGANISATIONS)]
    projects, members, grants = [], [], []
    for number in range(PROJECTS):
        project = f"project-{number:03}"
        projects.append({"kind": "Project", "name": project, "organisation": f"org-{number % ORGANISATIONS:02}"})
        members += [
            {"kind": "Member", "project": project, "user": f"user{number:03}{letter}"} for letter in "abc"[:MEMBERS]
        ]
        grants.append(
            {
                "kind": "Grant",
                "name": f"{project}.1",
                "project": project,
                "pool": POOLS[number % len(POOLS)]["name"],
                "share": "gov" if number % 10 else "own",
                "gpus": GPUS if number % 10 else 8,
                "borrow_limit": 64,
                "starts": "2026-01-01",
                "ends": "2099-12-31",
                "budget_gpu_hours": 100_000,
            }
        )
    return [*pools, *organisations, *projects, *members, *grants]


@pytest.fixture(scope="module")
def national() -> Iterator[list[Instance]]:
    began = time.monotonic()
    instances = up_all("national", "soak")
    print(f"\nnational: up in {time.monotonic() - began:.0f} s")
    yield instances
    for instance in instances:
        instance.down()


def test_every_node_of_the_three_clusters_is_idle(national: list[Instance]) -> None:
    states = [status_of(instance) for instance in national]
    print(f"memory: {sum(state.memory_mib for state in states) / 1024:.1f} GiB")
    assert {state.cluster: state.nodes for state in states} == {
        "naver": {"idle": 382},
        "kakao": {"idle": 303},
        "nhn": {"idle": 957},
    }


def test_a_policy_of_300_projects_reaches_every_slurm(national: list[Instance]) -> None:
    text = yaml.safe_dump_all(documents())
    granted: dict[str, Mapping[str, int]] = {}
    for instance in national:
        began = time.monotonic()
        instance.exec(["gpuaas", "policy", "apply", "-f", "-", "--yes"], stdin=text)
        print(f"{instance.name}: applied in {time.monotonic() - began:.1f} s")
        assert instance.exec(["gpuaas", "policy", "plan"], check=False).returncode == 0, "changes are still pending"
        rows = instance.exec(["sacctmgr", "-nP", "show", "qos", "format=Name,GrpTRES"]).stdout.splitlines()
        for name, _, tres in (row.partition("|") for row in rows):
            if name.startswith("guaranteed-"):
                granted[name.removeprefix("guaranteed-")] = {
                    kind: int(count) for kind, _, count in (one.partition("=") for one in tres.split(","))
                }
    wanted = {grant["project"]: grant["gpus"] for grant in documents() if grant["kind"] == "Grant"}
    assert {project: tres["gres/gpu"] for project, tres in granted.items()} == wanted
    assert len(wanted) == PROJECTS
