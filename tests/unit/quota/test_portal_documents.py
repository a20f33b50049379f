"""Documents of the portal's in Slurm beside the site's own: kept over every `policy apply`, and never in its way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.from_portal import PortalSet, Terms
from slurm_gpuaas.domain.names import AccountName, ClusterName, ProjectName, ShareName
from slurm_gpuaas.quota.controller import PolicyController
from slurm_gpuaas.slurm.records import Account, AccountingState
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, FakeAccounting, FakeClock, FakeController, FakePartitions, make_node
from tests.stores import new_store
from tests.unit.policies import document, grant, member, policy, pool, project

MINI = ClusterName("mini")
SHARES = [{"name": "own", "nodes": "b200-[01-04]"}, {"name": "government", "nodes": "b200-[05-08]"}]
OWN = policy(pool(shares=SHARES), project("search"), grant("search"))
VISION: tuple[Any, ...] = (
    document("Organisation", name="kaist"),
    project("vision", "kaist"),
    member("bob", "vision"),
    grant("vision", share="government"),
)


@dataclass
class World:
    store: Store
    slurm: FakeAccounting
    clock: FakeClock
    policies: PolicyController

    def portal_says(self, revision: int, *documents: Any) -> None:
        now = self.clock.now()
        self.store.portal.put(PortalSet(revision=revision, documents=documents, received_at=now, as_of=now.date()))
        self.policies.reconcile()

    @property
    def accounts(self) -> set[str]:
        return {str(name) for name in self.slurm.read().accounts} - {"root"}

    @property
    def left_out(self) -> dict[str, str]:
        return {one.name: one.why for one in self.store.in_force().left_out}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock = FakeClock()
    store = new_store(tmp_path / "s.db", terms=Terms(cluster=MINI, shares=frozenset({ShareName("government")})))
    root = Account(name=AccountName("root"), parent=None, description="default root account", organization="root")
    slurm = FakeAccounting(AccountingState(accounts={root.name: root}))
    controller = FakeController([make_node(f"b200-0{n}") for n in range(1, 9)], clock=clock)
    policies = PolicyController(
        cluster=MINI,
        store=store,
        accounting=slurm,
        controller=controller,
        partitions=FakePartitions(),
        partition_file=tmp_path / "partitions.conf",
        clock=clock,
    )
    policies.apply(OWN, actor="root")
    yield World(store, slurm, clock, policies)
    store.close()


IN_SLURM = {"search", "mini-own", "mini-own-snu", "vision", "mini-government", "mini-government-kaist"}


def test_what_the_portal_awards_is_in_slurm_and_goes_when_the_portal_takes_it_back(world: World) -> None:
    world.portal_says(1, *VISION)
    assert world.accounts == IN_SLURM
    assert {user for user, _ in world.slurm.read().associations} == {"bob"}
    world.portal_says(2)
    assert world.accounts == {"search", "mini-own", "mini-own-snu"}


def test_applying_the_sites_own_documents_keeps_the_portals(world: World) -> None:
    world.portal_says(1, *VISION)
    done = world.policies.apply(policy(pool(shares=SHARES), project("maps"), grant("maps")), actor="root")
    assert world.accounts == IN_SLURM - {"search"} | {"maps"}
    assert done.revision.revision == 2
    assert world.policies.reconcile().plan.steps == ()


def test_a_revision_that_an_administrator_saw_is_not_moved_on_by_the_portal(world: World) -> None:
    seen = world.store.policy_revision().revision
    world.portal_says(1, *VISION)
    assert world.policies.apply(OWN, actor="root", expected_revision=seen).revision.revision == seen


def test_a_share_made_smaller_is_not_refused_for_the_portals_sake(world: World) -> None:
    world.portal_says(1, *VISION)
    small = [{"name": "own", "nodes": "b200-[01-07]"}, {"name": "government", "nodes": "b200-08"}]
    world.policies.apply(policy(pool(shares=small), project("search"), grant("search")), actor="root")
    assert "vision" not in world.accounts
    assert "8 GPUs; with it 16" in world.left_out["vision-1"]


def test_a_name_that_slurm_has_for_something_else_leaves_out_that_project_alone(world: World) -> None:
    world.slurm.put_accounts(
        [Account(name=AccountName("vision"), parent=None, description="the physics lab", organization="p")]
    )
    speech = (project("speech", "kaist"), grant("speech", share="government"))
    world.portal_says(1, *VISION, *speech)
    assert "speech" in world.accounts
    assert world.slurm.read().accounts[AccountName("vision")].description == "the physics lab"
    assert "Slurm account vision, which is somebody else's" in world.left_out["vision"]
    assert world.policies.reconcile().plan.steps == ()

    world.policies.apply(OWN, actor="root")  # not in the way
    world.slurm.delete_accounts([AccountName("vision")])
    world.policies.reconcile()
    assert world.accounts >= IN_SLURM
    assert not world.left_out


def test_a_name_that_the_sites_own_policy_needs_is_a_conflict_as_before(world: World) -> None:
    world.slurm.put_accounts([Account(name=AccountName("maps"), parent=None, description="old", organization="p")])
    with pytest.raises(Conflict, match="maps"):
        world.policies.apply(policy(pool(shares=SHARES), project("maps"), grant("maps")), actor="root")


def test_a_day_later_what_ended_has_made_room(world: World) -> None:
    today = EPOCH.date()
    ending = grant("vision", share="government", gpus=32, starts="2026-12-01", ends=today.isoformat())
    next_one = grant("speech", share="government", gpus=32, starts="2027-01-04")
    world.portal_says(1, *VISION[:3], ending, project("speech", "kaist"), next_one)
    assert set(world.left_out) == {"speech-1"}
    world.clock.forward(timedelta(days=1))
    world.policies.reconcile()
    assert not world.left_out
    assert world.store.portal.known() == (1, today + timedelta(days=1))


def test_without_terms_the_portal_has_no_say(world: World, tmp_path: Path) -> None:
    world.portal_says(1, *VISION)
    world.store.close()
    with_none = Store.open(f"sqlite:///{tmp_path}/s.db")
    assert with_none.policy() == OWN
    with_none.close()


def test_a_set_that_comes_late_is_refused_and_the_same_one_again_changes_nothing(world: World) -> None:
    world.portal_says(2, *VISION)
    world.portal_says(2, *VISION)
    with pytest.raises(Conflict, match="Revision 2"):
        world.portal_says(1)
    newest = world.store.portal.newest()
    assert newest
    assert (newest.revision, newest.documents, newest.as_of) == (2, VISION, date(2027, 1, 4))


def test_a_refusal_is_told_once(world: World) -> None:
    world.slurm.put_accounts([Account(name=AccountName("vision"), parent=None, description="lab", organization="p")])
    world.portal_says(1, *VISION)
    world.policies.reconcile()
    assert [one.subject for one in world.store.audit.newest() if one.action == "portal.left-out"] == ["vision"]
    assert set(world.store.portal.refused()) == {ProjectName("vision")}
