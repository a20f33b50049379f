"""Real Slurm for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_gpuaas.testbed.instance import Instance, end, running


@pytest.fixture(scope="session")
def mini() -> Iterator[Instance]:
    """A testbed of profile mini that is up: 8 nodes `b200-[01-08]` of 8 B200, two leaf groups of 4. No daemon in it."""
    for name in running():
        owner = name.removeprefix("pytest-").partition("-")[0]
        if name.startswith("pytest-") and not Path(f"/proc/{owner}").exists():  # its test run was killed
            end(name)
    instance = Instance.up("mini", f"pytest-{os.getpid()}", daemon=False)
    yield instance
    instance.down()


@pytest.fixture(scope="session")
def postgres_url(mini: Instance) -> str:
    """URL of a real PostgreSQL server with an empty database."""
    return mini.start_postgres()
