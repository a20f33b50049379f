"""A process that is killed with signal 9 at any write of a command leaves all of it or nothing, on a real file.

Each command runs in a process of its own, forked, that kills itself at one place after the other; then the store is
opened anew and the command sent again under its id, as a browser does that saw no answer.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.names import CommandId
from slurm_gpuaas.pool.service import PoolService
from slurm_gpuaas.store.pool import PoolStore
from tests.stores import opened
from tests.unit.pool.scene import DIRECTOR, KIM, LEE, NAVER, Pool

Given = Callable[[PoolService], object]
ID = CommandId("the-command")


class DieAt:
    """Counts the places it is called at, and ends the process at the n-th as a power cut would."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.places: list[str] = []

    def __call__(self, place: str, /) -> None:
        self.places.append(place)
        if len(self.places) == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(file: Path, pool: Pool, give: Given, die_at: int) -> bool:
    """Whether the process that gives the command was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            give(Pool(opened(PoolStore, file), pool.clock, DieAt(die_at)).service)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def approves_awards(pool: Pool) -> Given:
    awarded, waits = pool.reviewed(), pool.reviewed("kaist", gpus=32, points=50)
    pool.closed()
    award = pool.drafted((awarded, NAVER, 16), waiting=[waits])
    return lambda service: service.approve_award(ID, DIRECTOR, award.id)


def accepts(pool: Pool) -> Given:
    application = pool.reviewed()
    pool.closed()
    offer = pool.offered(application)
    return lambda service: service.accept_offer(ID, LEE, offer.id)


def recalls(pool: Pool) -> Given:
    grant = pool.granted()
    return lambda service: service.recall_grant(ID, DIRECTOR, grant.id, "Idle for 14 days.")


def lets_the_days_pass(pool: Pool) -> Given:
    """A grant ends, and its GPUs go to somebody who waits."""
    first, waits = pool.reviewed(gpus=32), pool.reviewed("kaist", gpus=32, points=50)
    pool.closed()
    award = pool.drafted((first, NAVER, 32), waiting=[waits])
    pool.service.approve_award(pool.id, DIRECTOR, award.id)
    (offer,) = pool.register.offers.all()
    grant = pool.accepted(offer)
    pool.until(grant.starts)
    pool.service.return_grant(pool.id, KIM, grant.id, pool.today, "Done.")
    pool.until(grant.starts + timedelta(days=1))
    return lambda service: service.tick()


@pytest.mark.parametrize("prepare", [approves_awards, accepts, recalls, lets_the_days_pass])
def test_all_of_a_command_or_nothing(prepare: Callable[[Pool], Given], tmp_path: Path) -> None:
    pool = Pool.new(tmp_path / "pool.db", nhn=0)
    give = prepare(pool)
    pool.store.close()
    before = dump(tmp_path / "pool.db")
    whole = Path(shutil.copy(tmp_path / "pool.db", tmp_path / "whole.db"))
    places = DieAt()
    whole_pool = Pool(opened(PoolStore, whole), pool.clock, places)
    give(whole_pool.service)
    whole_pool.store.close()
    after = dump(whole)
    assert len(places.places) > 4
    is_one_command = prepare is not lets_the_days_pass
    for number in range(1, len(places.places) + 1):
        file = Path(shutil.copy(tmp_path / "pool.db", tmp_path / f"{number}.db"))
        assert in_a_process(file, pool, give, number), f"it lived on past {places.places[number - 1]}"
        if is_one_command:
            committed = number == len(places.places)
            assert dump(file) == (after if committed else before), f"killed at {places.places[number - 1]}"
        again = Pool(opened(PoolStore, file), pool.clock)
        assert again.faults() == []
        give(again.service)
        assert again.faults() == []
        again.store.close()
        assert dump(file) == after, f"killed at {places.places[number - 1]}"


def dump(file: Path) -> list[str]:
    """All rows of all tables."""
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())
