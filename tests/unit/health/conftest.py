"""Stores and sites for the tests of nodes' lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.store import Store
from tests.unit.health.life_site import LifeSite, copy_of


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with all tables and nothing in it: making them takes longer than most tests."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    Store.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def make_site(empty_store: Path, tmp_path: Path) -> Iterator[Callable[..., LifeSite]]:
    script = tmp_path / "quick.sh"
    script.write_text("#!/bin/bash\n")
    stores: list[Store] = []

    def make(**options: Any) -> LifeSite:
        stores.append(copy_of(empty_store, tmp_path / f"{len(stores)}.db"))
        return LifeSite(stores[-1], script=script, **options)

    yield make
    for store in stores:
        store.close()
