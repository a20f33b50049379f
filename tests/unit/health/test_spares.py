"""How many spares there are, and which nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState
from slurm_gpuaas.domain.names import NodeName, PartitionName, QosName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.recovery_rules import Place
from slurm_gpuaas.health.spare_rules import Standby, choose, need, poisson_quantile
from slurm_gpuaas.health.spares import RESERVATION, SparePartition, Spares
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, FakeClock, FakeController, make_job, make_node
from tests.stores import new_store

OWN = PartitionName("own")
NODES = expand_nodes("b200-[001-012]")
PLACES: dict[NodeName, Place] = {node: ("pod", f"leaf-{number // 4}") for number, node in enumerate(NODES)}
"""Three leaf groups of four: 001-004, 005-008, 009-012."""


def incident(number: int, *, days_ago: float, hours: float | None, drain: Drain = Drain.NOW) -> Incident:
    opened = EPOCH - timedelta(days=days_ago)
    return Incident(
        id=f"i{number}",
        node=NODES[number % len(NODES)],
        state=IncidentState.DRAINED if hours is None else IncidentState.CLOSED,
        drain=drain,
        rule="test",
        headline="XID 79",
        opened_at=opened,
        updated_at=opened,
        closed_at=None if hours is None else opened + timedelta(hours=hours),
    )


def test_without_history_published_figures_say_how_many() -> None:
    found = need(129, 129, [], timedelta(0))
    assert found.spares == 3
    assert found.why == (
        "129 nodes x 3.8 failures per 1,000 node-days (0 seen in 0) x 24.0 h to repair (0 seen) = 0.49 nodes out on "
        "average; 3 cover 99% of the time."
    )


def test_with_history_what_was_measured_says_it() -> None:
    """90 days of 129 nodes with 100 failures, mended within 4 h: the prior is a tenth of what is known."""
    failures = [incident(number, days_ago=number % 90, hours=4) for number in range(100)]
    reviewed = [incident(1000 + number, days_ago=1, hours=None, drain=Drain.REVIEW) for number in range(50)]
    found = need(129, 129, [*failures, *reviewed], timedelta(days=90))
    assert found.failures == 100
    assert found.rate == pytest.approx(103.8 / 12610)
    assert found.repair == timedelta(hours=(5 * 24 + 100 * 4) / 105)
    assert found.spares == 2


@given(st.floats(min_value=0, max_value=60))
def test_as_many_as_cover_it_and_not_one_more(mean: float) -> None:
    import math

    def within(number: int) -> float:
        return sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(number + 1))

    found = poisson_quantile(mean, 0.99)
    assert within(found) >= 0.99 - 1e-9
    assert found == 0 or within(found - 1) < 0.99 + 1e-9


def standby(node: str, *, serves: bool = True, frees_s: float = 0.0, loss: int = 0) -> Standby:
    name = NodeName(node)
    return Standby(node=name, place=PLACES[name], serves=serves, frees_s=frees_s, loss=loss)


USED: dict[Place, int] = {("pod", "leaf-0"): 2, ("pod", "leaf-1"): 4}


@pytest.mark.parametrize(
    ("wanted", "current", "others", "gone", "chosen"),
    [
        pytest.param(1, [], NODES, [], "b200-005", id="first where most multi-node jobs run"),
        pytest.param(3, [], NODES, [], "b200-[001,005,009]", id="each leaf group has one before any has two"),
        pytest.param(4, [], NODES, [], "b200-[001,005-006,009]", id="the second where most run"),
        pytest.param(2, ["b200-010", "b200-011"], NODES, [], "b200-[010-011]", id="never moved without a cause"),
        pytest.param(3, ["b200-010", "b200-011"], NODES, [], "b200-[005,010-011]", id="added where none is"),
        pytest.param(1, ["b200-001", "b200-010"], [], [], "b200-001", id="taken away where least is"),
        pytest.param(0, ["b200-001"], [], [], "", id="none"),
        pytest.param(
            2, ["b200-005"], ["b200-001", "b200-012"], ["leaf-2"], "b200-[005,012]", id="a used one is replaced near by"
        ),
        pytest.param(5, [], ["b200-001"], [], "b200-001", id="no more than there are"),
    ],
)
def test_which_nodes_are_spares(
    wanted: int, current: list[str], others: list[str], gone: list[str], chosen: str
) -> None:
    found = choose(
        wanted,
        current=[standby(node) for node in current],
        others=[standby(node) for node in others if node not in current],
        used=USED,
        gone=[("pod", leaf) for leaf in gone],
    )
    assert found == (expand_nodes(chosen) if chosen else ())


def test_a_node_that_serves_at_once_comes_before_one_that_has_to_be_waited_for() -> None:
    others = [standby("b200-005", serves=False, frees_s=60), standby("b200-009", loss=10)]
    assert choose(1, current=[], others=others, used=USED) == ("b200-009",)
    assert choose(2, current=[], others=others, used=USED) == ("b200-005", "b200-009")


def test_the_one_that_is_free_soonest_is_waited_for() -> None:
    others = [standby("b200-005", serves=False, frees_s=600), standby("b200-006", serves=False, frees_s=60)]
    assert choose(1, current=[], others=others, used=USED) == ("b200-006",)
    later = [standby("b200-005", serves=False, frees_s=500)]
    assert choose(1, current=[standby("b200-006", serves=False, frees_s=10)], others=later, used=USED) == ("b200-006",)


class Site:
    def __init__(self, store: Store) -> None:
        self.clock = FakeClock()
        self.store = store
        self.slurm = FakeController([make_node(node) for node in NODES], clock=self.clock)
        self.guaranteed = 6
        self.promised: frozenset[NodeName] = frozenset()
        self.limited: frozenset[NodeName] = frozenset()
        self.spares = self.pool(3)

    def pool(self, count: int | None) -> Spares:
        return Spares(
            slurm=self.slurm,
            ledger=IncidentLedger(self.store, self.clock),
            count=count,
            partitions=lambda: [
                SparePartition(name=OWN, nodes=NODES, qos=QosName("burst-haein-own"), guaranteed=self.guaranteed)
            ],
            places=lambda: PLACES,
            promised=lambda: self.promised,
            limited=lambda: self.limited,
        )

    @property
    def kept(self) -> str:
        found = self.slurm.reservation_by_name.get(RESERVATION)
        return found.nodes if found else ""

    def run(self, job_id: int, nodes: str, qos: str = "guaranteed-vision") -> None:
        names = expand_nodes(nodes)
        job = make_job(job_id, node_count=len(names), qos=qos)
        self.slurm.job_by_id[job.id] = job
        self.slurm.start(job_id, names)

    def warned(self) -> list[str]:
        return [entry.action for entry in reversed(self.store.audit.newest()) if entry.action.startswith("spares")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = new_store(tmp_path / "gpuaas.db")
    yield Site(store)
    store.close()


def test_spares_are_reserved_for_burst_jobs_alone(site: Site) -> None:
    site.run(1, "b200-[005-007]")
    site.spares.tick()
    kept = site.slurm.reservation_by_name[RESERVATION]
    assert kept.nodes == "b200-[001,008-009]"
    assert (kept.users, kept.qos) == ((), ("burst-haein-own",))
    assert "MAGNETIC" in kept.flags, "burst jobs must get there without asking"
    assert not {"REPLACE", "REPLACE_DOWN"} & kept.flags, "Slurm would exchange nodes that we have promised"
    assert site.spares.nodes() == set(expand_nodes(kept.nodes))


def test_on_an_older_slurm_they_stay_idle(site: Site) -> None:
    site.slurm.version = lambda: "24.11.5"  # type: ignore[method-assign]
    site.spares.tick()
    kept = site.slurm.reservation_by_name[RESERVATION]
    assert (kept.users, kept.qos) == (("root",), ())


def test_nothing_is_written_while_nothing_changes(site: Site) -> None:
    site.spares.tick()
    site.slurm.calls.clear()
    site.clock.forward(timedelta(hours=1))
    site.spares.tick()
    assert "put_reservation" not in site.slurm.calls


def test_a_new_daemon_keeps_the_spares_of_the_old_one(site: Site) -> None:
    site.run(1, "b200-[005-007]")
    site.spares.tick()
    before = site.kept
    site.slurm.finish(1)
    site.run(2, "b200-[002-004]")
    site.spares = site.pool(3)
    site.spares.tick()
    assert site.kept == before


def test_a_spare_that_breaks_is_replaced_in_its_leaf_group(site: Site) -> None:
    site.run(1, "b200-[005-007]")
    site.spares.tick()
    site.slurm.drain([NodeName("b200-009")], "broken")
    site.spares.tick()
    assert site.kept == "b200-[001,008,010]"


def test_a_spare_that_is_given_away_is_replaced_in_its_leaf_group(site: Site) -> None:
    site.run(1, "b200-[005-006]")
    site.spares.tick()
    assert site.kept == "b200-[001,007,009]"
    site.spares.give([NodeName("b200-009")])
    assert site.kept == "b200-[001,007]"
    site.promised = frozenset([NodeName("b200-009")])
    site.spares.tick()
    assert site.kept == "b200-[001,007,010]"


def test_a_node_that_takes_small_jobs_only_is_no_spare(site: Site) -> None:
    site.spares.tick()
    assert site.kept == "b200-[001,005,009]"
    site.limited = frozenset([NodeName("b200-005")])
    site.spares.tick()
    assert site.kept == "b200-[001,006,009]"


def test_what_grants_guarantee_is_never_kept_back(site: Site) -> None:
    site.guaranteed = 11
    site.spares.tick()
    assert len(expand_nodes(site.kept)) == 1
    (pool,) = site.spares.standing()
    assert (pool.asked, pool.wanted, pool.ready, pool.thin) == (3, 1, 1, True)
    assert "Grants guarantee 11 of 12 usable nodes, which leaves 1." in pool.why
    site.slurm.drain([NodeName("b200-012")], "broken")
    site.spares.tick()
    assert site.kept == ""


def test_a_thin_pool_is_told_of_once_and_so_is_its_end(site: Site) -> None:
    site.guaranteed = 11
    for _ in range(3):
        site.spares.tick()
    assert site.warned() == ["spares.thin"]
    site.guaranteed = 6
    for _ in range(3):
        site.spares.tick()
    assert site.warned() == ["spares.thin", "spares.enough"]


def test_the_end_of_a_thin_pool_is_told_by_the_next_daemon_too(site: Site) -> None:
    site.guaranteed = 11
    site.spares.tick()
    site.guaranteed = 6
    site.spares = site.pool(3)
    site.spares.tick()
    assert site.warned() == ["spares.thin", "spares.enough"]


def test_a_new_daemon_knows_the_spares_before_its_first_tick(site: Site) -> None:
    site.spares.tick()
    site.spares = site.pool(3)
    assert site.spares.nodes() == set(expand_nodes("b200-[001,005,009]"))
    site.spares.give([NodeName("b200-005")])
    assert site.kept == "b200-[001,009]"


def test_a_pool_that_is_kept_no_more_is_thin_no_more(site: Site) -> None:
    site.guaranteed = 11
    site.spares.tick()
    site.spares = site.pool(0)
    for _ in range(2):
        site.spares.tick()
    assert site.warned() == ["spares.thin", "spares.enough"]


def test_nodes_of_burst_jobs_are_as_good_as_idle_ones(site: Site) -> None:
    site.run(1, "b200-[001-008]")
    site.run(2, "b200-[009-012]", qos="burst-haein-own")
    site.spares.tick()
    assert site.kept == "b200-[009-011]"
    (pool,) = site.spares.standing()
    assert (pool.ready, pool.thin) == (3, False)
    assert pool.nodes[0].jobs == (2,)


def test_none_are_kept_when_none_are_asked_for(site: Site) -> None:
    site.spares.tick()
    site.run(1, site.kept, qos="burst-haein-own")
    job = site.slurm.job_by_id[make_job(1).id]
    site.slurm.job_by_id[job.id] = replace(job, reservation=RESERVATION)
    site.spares = site.pool(0)
    site.spares.tick()
    assert site.kept == ""
    assert site.slurm.job_by_id[job.id].reservation == "", "Slurm deletes none that a job runs in"
    site.slurm.calls.clear()
    site.spares.tick()
    assert site.slurm.calls == ["reservations"]


def test_auto_follows_the_failures(site: Site) -> None:
    site.spares = site.pool(None)
    site.spares.tick()
    (pool,) = site.spares.standing()
    assert (pool.asked, len(expand_nodes(site.kept))) == (1, 1)
    site.clock.forward(timedelta(days=2))
    for number in range(20):
        site.store.put_incident(incident(number, days_ago=-1, hours=None))
    site.spares.tick()
    (pool,) = site.spares.standing()
    assert (pool.need.failures, pool.asked) == (20, 2)
