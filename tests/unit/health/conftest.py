"""Stores and sites for the tests of nodes' lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.store import Store
from tests.stores import new_store
from tests.unit.health.life_site import LifeSite


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., LifeSite]]:
    script = tmp_path / "quick.sh"
    script.write_text("#!/bin/bash\n")
    stores: list[Store] = []

    def make(**options: Any) -> LifeSite:
        stores.append(new_store(tmp_path / f"{len(stores)}.db"))
        return LifeSite(stores[-1], script=script, **options)

    yield make
    for store in stores:
        store.close()
