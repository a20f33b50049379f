"""Real Slurm for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.machine import end, running
from slurm_gpuaas.testbed.releases import DEFAULT


@pytest.fixture(scope="session")
def minis() -> Iterator[Callable[[str], Instance]]:
    """A testbed of profile mini for each release of Slurm that is asked for: 8 nodes `b200-[01-08]` of 8 B200, two leaf
    groups of 4. No daemon in it."""
    for name in running():
        owner = name.removeprefix("pytest-").partition("-")[0]
        if name.startswith("pytest-") and not Path(f"/proc/{owner}").exists():  # its test run was killed
            end(name)
    up: dict[str, Instance] = {}

    def of(slurm: str) -> Instance:
        if slurm not in up:
            name = f"pytest-{os.getpid()}"
            up[slurm] = Instance.up(
                "mini", name if slurm == DEFAULT else f"{name}-{slurm.replace('.', '')}", slurm=slurm, daemon=False
            )
            acknowledge_at_once(up[slurm])
        return up[slurm]

    yield of
    for instance in up.values():
        instance.down()


def acknowledge_at_once(instance: Instance) -> None:
    """A record written by sacctmgr takes 10 ms instead of 50: slurmctld answers slurmdbd in two pieces, and sends the
    second one (Nagle) when the first is acknowledged, which Linux puts off for 40 ms."""
    for to in ("127.0.0.0/8", "127.0.0.1"):
        route = ["local", to, "dev", "lo", "proto", "kernel", "scope", "host", "src", "127.0.0.1", "table", "local"]
        instance.exec(["ip", "route", "change", *route, "quickack", "1"], cwd="/")


@pytest.fixture(scope="session")
def mini(minis: Callable[[str], Instance]) -> Instance:
    """The one with the newest Slurm."""
    return minis(DEFAULT)


@pytest.fixture(scope="session")
def postgres_url(mini: Instance) -> str:
    """URL of a real PostgreSQL server with an empty database."""
    return mini.start_postgres()
