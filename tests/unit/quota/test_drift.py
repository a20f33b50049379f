"""What an idle reconciler reads, and whom it names when something was changed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.names import AccountName, QosName
from slurm_gpuaas.quota.controller import PolicyController
from slurm_gpuaas.quota.memory import FULL_READING
from slurm_gpuaas.slurm.transactions import transactions
from tests.fakes import FakeAccounting, FakeClock, FakeController, FakePartitions, make_node
from tests.stores import new_store
from tests.unit.policies import small
from tests.unit.quota.test_controller import MINI, VISION


class World:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.slurm = FakeAccounting(clock=self.clock)
        self.store = new_store(Path(folder, "store.db"))
        nodes = [make_node(f"b200-{number:02}") for number in range(1, 9)]
        self.policies = PolicyController(
            cluster=MINI,
            store=self.store,
            accounting=self.slurm,
            controller=FakeController(nodes, clock=self.clock),
            partitions=FakePartitions(),
            partition_file=folder / "partitions.conf",
            clock=self.clock,
        )

    def set_limit(self, gpus: int, by: str) -> None:
        """An administrator changes the guarantee in Slurm by hand."""
        self.slurm.noted()
        self.slurm.administrator = by
        qos = self.slurm.qos_by_name[VISION]
        self.slurm.qos_by_name[VISION] = replace(qos, grp_tres={**qos.grp_tres, "gres/gpu": gpus})
        self.slurm.noted()
        self.slurm.administrator = "gpuaas"

    def reads(self) -> int:
        return self.slurm.calls.count("read")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.slurm.administrator = "gpuaas"
    world.policies.apply(small(), actor="root")
    world.policies.reconcile()
    yield world
    world.store.close()


def test_while_nothing_changes_only_the_log_is_read(world: World) -> None:
    before = world.reads()
    for _ in range(10):
        world.clock.forward(timedelta(seconds=30))
        world.policies.reconcile()
    assert world.reads() == before


def test_a_change_that_the_log_notes_is_seen_and_put_back_at_the_next_tick(world: World) -> None:
    world.clock.forward(timedelta(seconds=30))
    world.set_limit(99, by="mallory")
    world.policies.reconcile()
    assert world.slurm.qos_by_name[VISION].grp_tres["gres/gpu"] == 16


def test_a_change_that_the_log_does_not_note_is_seen_at_the_next_full_reading(world: World) -> None:
    """Slurm 26.05 notes nothing when an account moves below another parent."""
    account = world.slurm.account_by_name[AccountName("vision")]
    world.slurm.account_by_name[account.name] = replace(account, parent=AccountName("mini-own"))
    world.clock.forward(FULL_READING - timedelta(seconds=1))
    world.policies.reconcile()
    assert world.slurm.account_by_name[account.name].parent == "mini-own"
    world.clock.forward(timedelta(seconds=1))
    world.policies.reconcile()
    assert world.slurm.account_by_name[account.name] == account


def test_drift_names_who_made_it_and_when(world: World) -> None:
    world.clock.forward(timedelta(minutes=1))
    world.set_limit(99, by="mallory")
    made_at = world.clock.now()
    world.clock.forward(timedelta(seconds=20))
    (change,) = world.policies.plan().changes
    assert change.origin is not None
    assert (change.origin.actor, change.origin.at) == ("mallory", made_at)
    world.policies.reconcile()
    (entry,) = world.store.audit.newest(subject=VISION, limit=1)
    assert "mallory" in f"{entry.reason} {entry.evidence}"


def test_what_slurm_says_never_becomes_what_is_awarded(world: World) -> None:
    """Waldur's echo loop: limits read back from Slurm as the base of the next ones grew 18,800 x 1.3 each round."""
    awarded = world.store.policy()
    written = world.slurm.qos_by_name[VISION]
    for turn in range(50):
        world.clock.forward(timedelta(minutes=1))
        world.set_limit(1_000 + turn, by="mallory")
        world.policies.reconcile()
        assert world.slurm.qos_by_name[VISION] == written
    assert world.store.policy() == awarded


@pytest.mark.parametrize(
    ("why", "text", "expected"),
    [
        ("a QOS by name", "7|2026-11-25T10:00:00|mallory|Modify QOS|||(name='guaranteed-vision')",
         [(7, "mallory", {"guaranteed-vision"})]),
        ("oldest first", "9|2026-11-25T10:00:00|b|Add QOS|||x\n8|2026-11-25T10:00:00|a|Add QOS|||y",
         [(8, "a", {"y"}), (9, "b", {"x"})]),
        ("a row that somebody forged with a line break is dropped with the one it imitates",
         "8|2026-11-25T10:00:00|root|Add QOS|||x\n8|2026-11-25T10:00:00|mallory|Add QOS|||x", []),
        ("no row at all", "Slurm is away\n\n|||||", []),
        ("control characters in an actor", "8|2026-11-25T10:00:00|ro\x1bot|Add QOS|||x", []),
    ],
)  # fmt: skip
def test_the_log_is_read_as_hostile_text(why: str, text: str, expected: list[tuple[int, str, set[str]]]) -> None:
    found = transactions(text)
    assert [(one.number, one.actor, set(one.names)) for one in found] == expected, why
    assert all(one.at < datetime(2030, 1, 1, tzinfo=UTC) for one in found)


def test_a_qos_of_another_name_is_nobodys_drift(world: World) -> None:
    world.slurm.qos_by_name[QosName("theirs")] = replace(
        world.slurm.qos_by_name[VISION], name=QosName("theirs"), description="x"
    )
    assert world.policies.plan().changes == ()
