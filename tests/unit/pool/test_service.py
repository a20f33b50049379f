"""Who may do what when, on the way from an application to the end of its grant."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.names import ProgrammeName
from slurm_gpuaas.domain.pool_grants import PoolGrantState
from tests.unit.pool.scene import (
    OFFICER,
    REVIEWER,
    Pool,
)

NATIONAL = ProgrammeName("national")
POINTS = {"impact": 80, "plan": 80}


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool.new(tmp_path / "pool.db")
    yield pool
    pool.store.close()


def test_the_whole_way(pool: Pool) -> None:
    application = pool.submitted()
    assert application.id == "a2027-00001"
    pool.service.begin_review(pool.id, OFFICER, application.id)
    pool.service.review(pool.id, REVIEWER, application.id, {"impact": 90, "plan": 60}, "good")
    assert pool.service.score_of(application.id) == 80
    pool.closed()
    offer = pool.offered(application)
    grant = pool.accepted(offer)
    assert (grant.state, grant.project, grant.price_percent) == (PoolGrantState.SCHEDULED, "snu-2027-00001", 0)
    pool.until(grant.starts)
    assert pool.service.tick() == 1
    assert pool.register.grants.get(grant.id).state is PoolGrantState.ACTIVE
    pool.until(grant.ends + timedelta(days=1))
    assert pool.service.tick() == 1
    pool.until(grant.ends + timedelta(days=15))
    assert pool.service.tick() == 1
    ended = pool.register.grants.get(grant.id)
    assert ended.state is PoolGrantState.ENDED
    assert [one.step for one in ended.history] == ["activate", "run out", "close"]
    assert pool.told("grant.report-missing") == [
        ("p-kimsnu", "grant.report-missing"),
        ("p-leesnu", "grant.report-missing"),
    ]
    assert pool.faults() == []
