"""The portal's API asked as in tests/unit/portal/test_contract.py, but for long: 200 requests an operation and role."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm_gpuaas.domain.people import PortalRole
from tests.pool_world import World
from tests.unit.portal.contract import token_of, try_all


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("role", [*PortalRole, None], ids=[*map(str, PortalRole), "nobody"])
def test_nothing_that_can_be_asked_breaks_the_portal(tmp_path: Path, role: PortalRole | None) -> None:
    world = World(tmp_path, settings={"limits": {"person": 10_000_000, "address": 10_000_000}})
    assert try_all(world, token_of(world, role) if role else "", examples=200) >= 30
    world.close()
