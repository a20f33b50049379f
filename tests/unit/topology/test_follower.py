"""Hardware that was recabled is noticed; what is few and sure is applied, the rest is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Unavailable
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.store import Store
from slurm_gpuaas.topology.applying import Plan
from slurm_gpuaas.topology.controller import NotTaken
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.follower import ACTOR, FabricFollower, FollowSettings, entry
from slurm_gpuaas.topology.slurm_yaml import LONGEST_FILE
from tests.fakes import EPOCH, FakeClock
from tests.stores import new_store
from tests.unit.topology.test_topology_controller import LEAF_MORE, MOVED, OLD, REST, SWAPPED, Site, groups

APPLY = FollowSettings(apply=True, most_moves=1, longest_age=timedelta(hours=1))
REPORT = replace(APPLY, apply=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(new_store(tmp_path / "store.db")) as store:
        yield store


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def follower(
    site: Site, store: Store, settings: FollowSettings = APPLY, clock: FakeClock | None = None
) -> FabricFollower:
    return FabricFollower(
        file=site.folder / "fabric.json",
        topology=site.controller,
        store=store,
        clock=clock or FakeClock(),
        settings=settings,
    )


def cable(site: Site, fabric: Fabric, at: datetime = EPOCH) -> None:
    file = site.folder / "fabric.json"
    file.write_text(fabric.model_dump_json())
    os.utime(file, (at.timestamp(), at.timestamp()))


def following(site: Site, store: Store, settings: FollowSettings = APPLY) -> FabricFollower:
    """Has seen that all is as it should be."""
    cable(site, OLD)
    one = follower(site, store, settings)
    one.tick()
    return one


def audited(store: Store) -> list[tuple[str, str]]:
    entries = store.audit.newest(limit=10)
    return [(entry.action, entry.reason) for entry in entries if entry.action != "topology.agrees"]


def test_a_node_moved_to_another_leaf_is_applied_once(site: Site, store: Store) -> None:
    one = following(site, store)
    cable(site, MOVED)
    one.tick()
    one.tick()
    assert site.settled(MOVED)
    assert audited(store) == [("topology.applied", "~ n4: from leaf-1 to leaf-2")]


def test_a_node_that_moved_while_gpuaasd_was_down_is_applied(site: Site, store: Store) -> None:
    following(site, store)
    cable(site, MOVED)
    follower(site, store).tick()
    assert site.settled(MOVED)


def test_the_first_reading_is_compared_with_nothing_so_that_a_person_decides(site: Site, store: Store) -> None:
    cable(site, MOVED)
    for _ in range(2):
        with pytest.raises(Conflict, match="n4: from leaf-1 to leaf-2"):
            follower(site, store).tick()
    assert site.settled(OLD)


def test_an_audit_trail_of_an_older_version_is_as_good_as_none(site: Site, store: Store) -> None:
    store.audit.append(entry(FakeClock(), ACTOR, site.file, Plan(write=True)))
    cable(site, MOVED)
    with pytest.raises(Conflict):
        follower(site, store).tick()
    assert site.settled(OLD)


def test_a_node_that_is_switched_off_has_not_moved(site: Site, store: Store) -> None:
    one = following(site, store)
    cable(site, groups("n[1-2,4]", "n[5-8]", "n[9-12]", "n[13-16]"))
    one.tick()
    assert site.settled(OLD)
    cable(site, groups("n[1-2,4]", "n[3,5-8]", "n[9-12]", "n[13-16]"))
    one.tick()
    assert site.settled(groups("n[1-2,4]", "n[3,5-8]", "n[9-12]", "n[13-16]")), "and comes back elsewhere"


@pytest.mark.parametrize(
    ("fabric", "settings"),
    [(MOVED, REPORT), (SWAPPED, APPLY), (LEAF_MORE, APPLY)],
    ids=["nobody said apply", "more nodes than may be moved", "another shape"],
)
def test_what_a_person_must_decide_is_told_and_left(
    site: Site, store: Store, fabric: Fabric, settings: FollowSettings
) -> None:
    one = following(site, store, settings)
    cable(site, fabric)
    for _ in range(2):
        with pytest.raises(Conflict, match=r"is not what Slurm plans with: .* topology apply --dry-run"):
            one.tick()
    assert site.settled(OLD)
    assert [action for action, _ in audited(store)] == ["topology.differs"], "once"


def test_what_slurmctld_did_not_take_is_not_tried_again_until_the_cables_change(site: Site, store: Store) -> None:
    def refuse(method: str) -> None:
        if method == "move":
            raise SlurmRefused("scontrol said: no.")

    one = following(site, store)
    site.topologies.before = refuse
    cable(site, MOVED)
    with pytest.raises(NotTaken):
        one.tick()
    with pytest.raises(Conflict):
        one.tick()
    assert site.topologies.calls.count("move") == 1
    site.topologies.before = site.step
    cable(site, groups("n[1-4,8]", "n[5-7]", "n[9-12]", "n[13-16]"))
    one.tick()
    assert site.topologies.moved == [("n8", "fabric:leaf-1")]


@pytest.mark.parametrize("again", [False, True], ids=["running on", "started anew"])
def test_what_a_person_set_by_hand_is_never_undone(site: Site, store: Store, again: bool) -> None:
    one = following(site, store)
    site.apply(MOVED)
    if again:
        one = follower(site, store)
    for fabric in (
        OLD,
        groups("n[1-4]", "n[5-8]", "n[9-11]", "n[13-16]"),
        groups("n[1-4,9]", "n[5-8]", "n[10-12]", REST[1]),
    ):
        cable(site, fabric)
        with pytest.raises(Conflict, match="n4: from leaf-2 to leaf-1"):
            one.tick()
    assert site.settled(MOVED)


def test_a_file_that_a_person_edited_is_not_written_over(site: Site, store: Store) -> None:
    one = following(site, store)
    site.file.write_text(site.text(LEAF_MORE))
    cable(site, MOVED)
    with pytest.raises(Conflict):
        one.tick()
    assert site.file.read_text() == site.text(LEAF_MORE)


def test_a_reading_that_flaps_moves_no_more_nodes_in_an_hour_than_may_be(site: Site, store: Store) -> None:
    clock = FakeClock()
    cable(site, OLD)
    one = follower(site, store, replace(APPLY, most_moves=2), clock)
    one.tick()
    for fabric in MOVED, OLD:
        cable(site, fabric)
        one.tick()
    cable(site, MOVED)
    with pytest.raises(Conflict):
        one.tick()
    assert site.settled(OLD)
    clock.forward(timedelta(hours=1, seconds=1))
    cable(site, groups("n[1-4]", "n[5-8,9]", "n[10-12]", REST[1]), clock.now())
    one.tick()
    assert site.topologies.moved[2:] == [("n9", "fabric:leaf-2")]


@pytest.mark.parametrize("fault", ["cut-text", "strange-text", "joined-groups"])
def test_a_reading_that_may_be_wrong_is_not_followed(site: Site, store: Store, fault: str) -> None:
    one = following(site, store)
    cable(site, Fabric.model_validate({**MOVED.model_dump(), "findings": [{"fault": fault, "says": "Odd."}]}))
    with pytest.raises(Conflict, match=rf"is not followed \({fault}\): Odd\."):
        one.tick()
    assert site.settled(OLD)


def test_a_reading_that_is_too_old_is_not_followed(site: Site, store: Store) -> None:
    one = following(site, store)
    cable(site, MOVED, EPOCH - timedelta(hours=3))
    with pytest.raises(Conflict, match=r"was written 3\.0 h ago"):
        one.tick()
    assert site.settled(OLD)


def linked(file: Path) -> None:
    file.rename(file.with_name("other"))
    file.symlink_to("other")


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def opened(file: Path) -> None:
    file.chmod(0o666)


def huge(file: Path) -> None:
    os.truncate(file, LONGEST_FILE + 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (linked, "symbolic link"),
        (piped, "no plain file"),
        (opened, "Everybody may write"),
        (huge, "more than 16000000"),
    ],
)
def test_a_file_that_others_may_have_put_there_is_not_read(
    site: Site, store: Store, change: Callable[[Path], None], says: str
) -> None:
    one = following(site, store)
    change(site.folder / "fabric.json")
    with pytest.raises(InvalidInput, match=says):
        one.tick()


def test_a_fabric_that_cannot_be_read_changes_nothing(site: Site, store: Store) -> None:
    one = follower(site, store)
    with pytest.raises(Unavailable, match="No such file"):
        one.tick()
    cable(site, OLD)
    os.truncate(site.folder / "fabric.json", 40)
    os.utime(site.folder / "fabric.json", (EPOCH.timestamp(), EPOCH.timestamp()))
    with pytest.raises(InvalidInput, match=r"fabric\.json"):
        one.tick()
    assert site.settled(OLD)
