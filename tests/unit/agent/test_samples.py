"""Samples of GPUs on their way: what cannot be read is unknown, what gpuaasd does not take waits, events go first."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from slurm_gpuaas.agent.config import Config
from slurm_gpuaas.agent.node import NodeAgent
from slurm_gpuaas.agent.sampler import Sampler
from slurm_gpuaas.agent.samples import KEPT, Sample, Waiting
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import METRICS, UNKNOWN, SampleBatch
from slurm_gpuaas.testbed.sim import SimulatedNode
from tests.fakes import FakeClock
from tests.simulated import NODES
from tests.unit.agent.daemon import Daemon, Running

NODE = NodeName(NODES[0])


def sampling(config: Config) -> Config:
    return config.model_copy(update={"nvml": True, "kernel_log": None, "heartbeat": timedelta(seconds=0.05)})


def first_slot(batch: SampleBatch) -> list[list[int]]:
    """Codes by metric and GPU."""
    gpus = len(batch.serials)
    return [list(batch.values[row * batch.slots * gpus :][:gpus]) for row in range(len(METRICS))]


def of(daemon: Daemon, node: str) -> SampleBatch:
    return next(batch for batch in daemon.samples if batch.node == node)


def test_samples_of_all_nodes_of_the_process_arrive_each_with_its_own(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    node.set(2, {"utilisation": "83", "memory_used": str(90 << 30), "power": "704000", "process.4242": "1073741824"})
    node.xid(79, 3)
    with Running(sampling(config), *NODES):
        daemon.wait_for(lambda: {batch.node for batch in daemon.samples} == set(NODES))
    mine, other = of(daemon, NODES[0]), of(daemon, NODES[1])
    assert abs(datetime.now(UTC).timestamp() - mine.first) < 30
    assert mine.serials[2] == node.read_state()["gpu.2.serial"]
    assert [row[2] for row in first_slot(mine)] == [166, 101, 70, 34, 1]
    assert [row[3] for row in first_slot(mine)] == [UNKNOWN] * 5, "GPU 3 fell off the bus"
    assert [row[2] for row in first_slot(other)] == [0, 0, 15, 34, 0]


def test_without_nvml_or_with_0_nothing_is_sampled(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    with Running(sampling(config).model_copy(update={"sample_every": timedelta(0)}), NODES[0]):
        daemon.wait_for(lambda: len(daemon.batches) >= 3)
    assert daemon.samples == []


@pytest.mark.parametrize("answer", [404, 503])
def test_samples_that_gpuaasd_does_not_take_wait_and_hold_up_neither_events_nor_heartbeats(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode, answer: int
) -> None:
    daemon.answer_to_samples = answer
    settings = sampling(config).model_copy(update={"kernel_log": Path("/dev/kmsg")})
    with Running(settings, NODES[0]):
        daemon.wait_for(lambda: len(daemon.batches) >= 2)
        node.xid(48, 1)
        daemon.wait_for(lambda: {event.code for event in daemon.events} == {48})
        daemon.answer_to_samples = 200
        daemon.wait_for(lambda: len(daemon.samples) == 1)


def test_samples_that_gpuaasd_will_never_take_are_dropped(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answer_to_samples = 422
    with Running(sampling(config), NODES[0]):
        daemon.wait_for(lambda: len(daemon.batches) >= 3)
    assert daemon.samples == []
    assert capsys.readouterr().out.count("they are dropped") == 1


@pytest.mark.parametrize(
    ("seconds", "right"), [(0, True), (15, True), (60, True), (-15, False), (5, False), (61, False)]
)
def test_samples_are_taken_once_a_slot_and_at_least_once_a_minute(config: Config, seconds: int, right: bool) -> None:
    fields = {**config.model_dump(exclude={"sample_every"}), "sample_every": seconds}
    if right:
        assert Config(**fields).sample_every == timedelta(seconds=seconds)
    else:
        with pytest.raises(ValidationError, match="use 0, or 15 to 60 seconds"):
            Config(**fields)


class Gpus:
    """Two GPUs of which something cannot be read."""

    def __init__(self, *readings: Sequence[float | None]) -> None:
        self.readings = readings

    def read(self) -> tuple[tuple[str | None, ...], Sequence[Sequence[float | None]]]:
        return tuple(f"s{gpu}" for gpu in range(len(self.readings))), self.readings


@pytest.fixture
def agent(tmp_path: Path) -> NodeAgent:
    return NodeAgent(
        NODE,
        folder=tmp_path / "spool",
        spool_max_bytes=1 << 20,
        same_within=timedelta(seconds=5),
        boot_id=lambda: "boot",
        clock=FakeClock(),
        on_event=lambda agent: None,
    )


def test_a_reading_that_fails_is_unknown_on_its_own(agent: NodeAgent) -> None:
    sampler = Sampler([], every=timedelta(seconds=15), clock=FakeClock())
    sampler.sample(agent, Gpus([50.0, None, 300.0, None, 0.0], [None, 10.0, None, 40.0, None]))
    head = agent.samples.head()
    assert head is not None
    assert first_slot(head[0]) == [[100, 255], [255, 20], [30, 255], [255, 40], [0, 255]]


def test_when_no_gpu_answers_there_is_no_sample(agent: NodeAgent) -> None:
    Sampler([], every=timedelta(seconds=15), clock=FakeClock()).sample(agent, Gpus())
    assert agent.samples.head() is None


def sample(slot: int, busy: int = 100, *, serials: tuple[str | None, ...] = ("a",)) -> Sample:
    return Sample(slot, serials, bytes([busy]) * len(METRICS) * len(serials))


def taken(waiting: Waiting) -> tuple[int, list[int]]:
    """First slot and codes of `busy` of the next batch, which is then delivered."""
    head = waiting.head()
    assert head is not None
    waiting.done(head[1])
    return head[0].first // 15, list(head[0].values[: head[0].slots])


def test_a_slot_without_a_sample_is_unknown() -> None:
    waiting = Waiting(NODE)
    for slot in (10, 11, 14, 14):
        waiting.put(sample(slot, slot))
    assert taken(waiting) == (10, [10, 11, UNKNOWN, UNKNOWN, 14])
    assert len(waiting) == 0


def test_a_batch_ends_where_gpus_change_or_the_clock_was_set_back_or_an_hour_is_full() -> None:
    waiting = Waiting(NODE)
    for slot in (10, 11):
        waiting.put(sample(slot))
    waiting.put(sample(12, serials=("a", "b")))
    waiting.put(sample(5))
    waiting.put(sample(300))
    assert [taken(waiting)[0] for _ in range(4)] == [10, 12, 5, 300]


def test_the_oldest_give_way_and_a_batch_under_way_is_not_taken_for_newer_ones() -> None:
    waiting = Waiting(NODE)
    for slot in range(KEPT):
        waiting.put(sample(slot))
    head = waiting.head()
    assert head is not None
    for slot in range(KEPT, KEPT + 10):
        waiting.put(sample(slot))
    assert len(waiting) == KEPT
    waiting.done(head[1])
    assert (len(waiting), taken(waiting)[0]) == (KEPT - 230, 240)
