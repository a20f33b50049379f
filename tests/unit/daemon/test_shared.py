from __future__ import annotations

from datetime import timedelta

import pytest

from slurm_gpuaas.daemon.shared import SharedController
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.slurm.protocols import SlurmUnavailable
from tests.fakes import FakeClock, FakeController, make_node

NODE = NodeName("b200-001")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def door(clock: FakeClock) -> FakeController:
    return FakeController([make_node(NODE)], clock=clock)


@pytest.fixture
def calls(door: FakeController) -> list[str]:
    made: list[str] = []
    door.before = made.append
    return made


@pytest.fixture
def shared(door: FakeController, clock: FakeClock) -> SharedController:
    return SharedController(door, clock=clock, max_age=timedelta(seconds=1))


def test_one_reading_serves_everybody_for_a_second(
    shared: SharedController, calls: list[str], clock: FakeClock
) -> None:
    for _ in range(5):
        shared.nodes()
    assert calls == ["nodes"]
    clock.forward(timedelta(seconds=1))
    shared.nodes()
    assert calls == ["nodes", "nodes"]


def test_a_write_ends_the_reading(shared: SharedController) -> None:
    assert not shared.nodes()[0].draining
    shared.drain([NODE], "test")
    assert shared.nodes()[0].draining


def test_a_write_whose_answer_was_lost_ends_the_reading_too(shared: SharedController, door: FakeController) -> None:
    shared.nodes()

    def lose(method: str) -> None:
        if method == "drain":
            raise SlurmUnavailable("lost")

    door.after = lose
    with pytest.raises(SlurmUnavailable):
        shared.drain([NODE], "test")
    assert shared.nodes()[0].draining


def test_a_failed_reading_is_not_kept(shared: SharedController, door: FakeController, clock: FakeClock) -> None:
    door.go_down()
    with pytest.raises(SlurmUnavailable):
        shared.nodes()
    assert shared.read_at is None
    door.come_back()
    assert len(shared.nodes()) == 1
    assert shared.read_at == clock.now()


def test_who_decides_reads_anew_and_the_others_get_what_it_read(shared: SharedController, calls: list[str]) -> None:
    shared.nodes()
    shared.fresh().nodes()
    shared.nodes()
    assert calls == ["nodes", "nodes"]
