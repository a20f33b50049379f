"""Hardware that was recabled is noticed; what is few and sure is applied, the rest is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Unavailable
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.store import Store
from slurm_gpuaas.topology.controller import NotTaken
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.follower import FabricFollower, FollowSettings
from tests.fakes import FakeClock
from tests.unit.topology.test_topology_controller import LEAF_MORE, MOVED, OLD, SWAPPED, Site, groups

APPLY = FollowSettings(apply=True, most_moves=1)
REPORT = FollowSettings(apply=False, most_moves=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(f"sqlite:///{tmp_path}/store.db")) as store:
        yield store


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def follower(site: Site, store: Store, settings: FollowSettings = APPLY) -> FabricFollower:
    return FabricFollower(
        file=site.folder / "fabric.json",
        topology=site.controller,
        store=store,
        clock=FakeClock(),
        settings=settings,
    )


def cable(site: Site, fabric: Fabric) -> None:
    (site.folder / "fabric.json").write_text(fabric.model_dump_json())


def audited(store: Store) -> list[tuple[str, str]]:
    return [(entry.action, entry.reason) for entry in store.audit.newest(limit=10)]


def test_a_node_moved_to_another_leaf_is_applied_once(site: Site, store: Store) -> None:
    cable(site, MOVED)
    one = follower(site, store)
    one.tick()
    one.tick()
    assert site.settled(MOVED)
    assert audited(store) == [("topology.applied", "~ n4: from leaf-1 to leaf-2")]


def test_a_node_that_is_switched_off_has_not_moved(site: Site, store: Store) -> None:
    cable(site, groups("n[1-2,4]", "n[5-8]", "n[9-12]", "n[13-16]"))
    follower(site, store).tick()
    assert site.settled(OLD)


@pytest.mark.parametrize(
    ("fabric", "settings"),
    [(MOVED, REPORT), (SWAPPED, APPLY), (LEAF_MORE, APPLY)],
    ids=["nobody said apply", "more nodes than may be moved", "another shape"],
)
def test_what_a_person_must_decide_is_told_and_left(
    site: Site, store: Store, fabric: Fabric, settings: FollowSettings
) -> None:
    cable(site, fabric)
    one = follower(site, store, settings)
    for _ in range(2):
        with pytest.raises(Conflict, match=r"is not what Slurm plans with: .* topology apply --dry-run"):
            one.tick()
    assert site.settled(OLD)
    assert [action for action, _ in audited(store)] == ["topology.differs"], "once"


def test_what_slurmctld_did_not_take_is_not_tried_again_until_the_cables_change(site: Site, store: Store) -> None:
    def refuse(method: str) -> None:
        if method == "move":
            raise SlurmRefused("scontrol said: no.")

    site.topologies.before = refuse
    cable(site, MOVED)
    one = follower(site, store)
    with pytest.raises(NotTaken):
        one.tick()
    with pytest.raises(Conflict):
        one.tick()
    assert site.topologies.calls.count("move") == 1
    site.topologies.before = site.step
    cable(site, groups("n[1-4,8]", "n[5-7]", "n[9-12]", "n[13-16]"))
    one.tick()
    assert site.topologies.moved == [("n8", "fabric:leaf-1")]


def test_a_slurm_that_was_changed_by_hand_is_brought_back(site: Site, store: Store) -> None:
    cable(site, OLD)
    site.topologies.text = site.text(MOVED)
    follower(site, store).tick()
    assert site.settled(OLD)


def test_a_fabric_that_cannot_be_read_changes_nothing(site: Site, store: Store) -> None:
    one = follower(site, store)
    with pytest.raises(Unavailable, match="No such file"):
        one.tick()
    (site.folder / "fabric.json").write_text(OLD.model_dump_json()[:40])
    with pytest.raises(InvalidInput, match=r"fabric\.json"):
        one.tick()
    assert site.settled(OLD)
