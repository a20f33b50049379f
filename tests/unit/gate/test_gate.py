"""The gate's controller on an in-memory Slurm: effects, their order, and what a crash leaves."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest

from slurm_gpuaas.domain.jobs import JobId, PlacementOutcome
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.nodes import NodeFlag
from slurm_gpuaas.jobs.gate import RESERVATION, RESTART_AFTER, GateSettings, PlacementGate, PlacementStore, hold_wanted
from slurm_gpuaas.jobs.gate_rules import MOST_RESTARTS
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.store import Store
from tests.fakes import EPOCH, FakeClock, FakeController, make_job, make_node
from tests.unit.gate.scene import GATED, NODES, OWN, PLACER, FakeStore, gated, names

SETTINGS = GateSettings(hold=timedelta(minutes=3))


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def slurm() -> FakeController:
    return FakeController([make_node(name) for name in NODES])


def gate(slurm: FakeController, store: PlacementStore, settings: GateSettings = SETTINGS) -> PlacementGate:
    return PlacementGate(
        cluster=ClusterName("mini"),
        slurm=slurm,
        store=store,
        placer=lambda: PLACER,
        partitions=lambda: {OWN: NODES},
        clock=slurm.clock,
        settings=settings,
    )


def submit(slurm: FakeController, count: int = 4, job_id: int = 1) -> JobId:
    job = gated(job_id, count)
    slurm.job_by_id[job.id] = job
    return job.id


def test_one_update_pins_the_job_and_clears_its_licence(slurm: FakeController, store: FakeStore) -> None:
    job = submit(slurm)
    gate(slurm, store).tick()
    assert slurm.job_by_id[job].required_nodes == names("n[1-4]")
    assert slurm.job_by_id[job].licenses == ""
    assert slurm.calls.count("update_job") == 1


def test_the_placement_and_its_reasons_are_kept_in_the_real_store(slurm: FakeController) -> None:
    store = Store.open("sqlite://")
    job = submit(slurm, 2)
    gate(slurm, store).tick()
    (placement,) = store.placements(job_id=job)
    assert (placement.outcome, placement.nodes, placement.leaf_groups) == (PlacementOutcome.PINNED, names("n[1-2]"), 1)
    assert placement.cost < (placement.runner_up_cost or 0.0) or placement.cost == placement.runner_up_cost
    (entry,) = store.audit.newest(action="job.place")
    assert entry.subject == "1"
    assert entry.evidence["nodes"] == "n[1-2]"
    assert entry.evidence["gap"] == 0
    store.close()


def test_a_job_that_does_not_fit_is_opened_without_nodes(slurm: FakeController, store: FakeStore) -> None:
    job = submit(slurm, 9)
    gate(slurm, store).tick()
    assert slurm.job_by_id[job].licenses == ""
    assert slurm.job_by_id[job].required_nodes == ()
    (placement,) = store.placements(job_id=job)
    assert placement.outcome is PlacementOutcome.OPENED
    assert placement.reason == "It needs 9 free nodes of partition own; 8 are free."


def test_a_second_tick_writes_nothing(slurm: FakeController, store: FakeStore) -> None:
    submit(slurm)
    controller = gate(slurm, store)
    controller.tick()
    slurm.calls.clear()
    controller.tick()
    assert set(slurm.calls) == {"jobs", "nodes", "reservations"}


def test_without_waiting_jobs_a_tick_reads_jobs_and_its_reservation(slurm: FakeController, store: FakeStore) -> None:
    controller = gate(slurm, store)
    controller.tick()
    slurm.calls.clear()
    controller.tick()
    assert slurm.calls == ["jobs", "reservations"]


def test_shadow_changes_nothing(slurm: FakeController, store: FakeStore) -> None:
    job = submit(slurm)
    gate(slurm, store, GateSettings(shadow=True)).tick()
    assert slurm.calls == ["jobs", "reservations", "nodes"]
    assert slurm.job_by_id[job].licenses == GATED
    assert not store.rows


class TestHold:
    def test_the_first_tick_holds_all_licences(self, slurm: FakeController, store: FakeStore) -> None:
        gate(slurm, store).tick()
        reservation = slurm.reservation_by_name[RESERVATION]
        assert reservation.licenses == "placement:1000000"
        assert reservation.flags == {"LICENSE_ONLY"}
        assert reservation.start + reservation.duration == EPOCH + timedelta(minutes=3)

    def test_it_is_extended_when_a_third_of_it_has_passed(self, slurm: FakeController, store: FakeStore) -> None:
        controller = gate(slurm, store)
        controller.tick()
        slurm.clock.forward(timedelta(seconds=59))
        controller.tick()
        assert slurm.calls.count("put_reservation") == 1
        slurm.clock.forward(timedelta(seconds=2))
        controller.tick()
        reservation = slurm.reservation_by_name[RESERVATION]
        assert reservation.start == EPOCH
        assert reservation.start + reservation.duration == slurm.clock.now() + timedelta(minutes=3)

    def test_one_that_ran_out_but_is_still_listed_is_extended(self, slurm: FakeController) -> None:
        """Slurm clears it away later, and until then refuses to move its start."""
        old = hold_wanted(None, EPOCH, SETTINGS)
        later = EPOCH + timedelta(hours=1)
        new = hold_wanted(old, later, SETTINGS)
        assert new is not None
        assert (new.start, new.start + new.duration) == (EPOCH, later + timedelta(minutes=3))

    def test_a_tick_that_fails_does_not_extend_it(self, slurm: FakeController, store: FakeStore) -> None:
        submit(slurm)

        def no_fabric() -> object:
            raise SlurmRefused("no fabric (test)")

        controller = gate(slurm, store)
        controller._placer = no_fabric  # type: ignore[assignment]
        with pytest.raises(SlurmRefused):
            controller.tick()
        assert RESERVATION not in slurm.reservation_by_name

    def test_a_job_that_slurm_will_not_open_lets_it_run_out(self, slurm: FakeController, store: FakeStore) -> None:
        submit(slurm)

        def refuse(method: str) -> None:
            if method == "update_job":
                raise SlurmRefused("Job update not available right now (test).")

        slurm.before = refuse
        gate(slurm, store).tick()
        assert RESERVATION not in slurm.reservation_by_name


def test_nodes_that_slurm_refuses_open_the_job(slurm: FakeController, store: FakeStore) -> None:
    job = submit(slurm)
    refusals = iter([True])

    def refuse_once(method: str) -> None:
        if method == "update_job" and next(refusals, False):
            raise SlurmRefused("Requested node configuration is not available (test).")

    slurm.before = refuse_once
    gate(slurm, store).tick()
    assert slurm.job_by_id[job].licenses == ""
    assert slurm.job_by_id[job].required_nodes == ()
    assert store.placements(job_id=job)[0].outcome is PlacementOutcome.OPENED


class TestWait:
    """n1, n2, n7 and n8 are in use: four free nodes are of two leaf groups, and its user lets the job wait."""

    UNTIL = EPOCH + timedelta(minutes=10)

    def waits(self, slurm: FakeController, store: FakeStore) -> PlacementGate:
        for number, nodes in ((8, "n[1-2]"), (9, "n[7-8]")):
            slurm.job_by_id[JobId(number)] = make_job(number, node_count=2, time_limit=timedelta(minutes=9))
            slurm.start(number, list(names(nodes)))
        job = gated(1, time_limit=timedelta(hours=10))
        slurm.job_by_id[JobId(1)] = replace(job, comment="gpuaas:wait=10m")
        controller = gate(slurm, store)
        controller.tick()
        return controller

    def test_nodes_are_kept_for_it_and_told_once(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.waits(slurm, store)
        kept = slurm.reservation_by_name["gpuaas-wait-1"]
        assert (kept.nodes, kept.start, kept.licenses) == ("n[3-6]", self.UNTIL, "")
        assert slurm.job_by_id[JobId(1)].licenses == GATED, "it stays at the gate"
        assert store.rows[JobId(1), 0].outcome is PlacementOutcome.WAITING
        slurm.calls.clear()
        controller.tick()
        assert set(slurm.calls) == {"jobs", "nodes", "reservations"}
        assert [entry.action for entry in store.entries] == ["job.wait"]

    def test_a_better_place_ends_the_wait(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.waits(slurm, store)
        slurm.finish(9)
        slurm.calls.clear()
        controller.tick()
        assert slurm.job_by_id[JobId(1)].required_nodes == names("n[5-8]")
        assert slurm.reservation_by_name["gpuaas-wait-1"].nodes == "n[5-8]"
        assert slurm.calls.index("put_reservation") < slurm.calls.index("update_job"), "or somebody could be quicker"

    def test_when_it_has_ended_nothing_is_kept(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.waits(slurm, store)
        slurm.finish(9)
        controller.tick()
        slurm.start(1, list(names("n[5-8]")))
        controller.tick()
        assert "gpuaas-wait-1" in slurm.reservation_by_name, "Slurm deletes none that is in use"
        slurm.finish(1)
        controller.tick()
        assert slurm.reservation_by_name.keys() == {RESERVATION}

    def test_a_reservation_that_slurm_will_not_delete_stops_nothing(
        self, slurm: FakeController, store: FakeStore
    ) -> None:
        controller = self.waits(slurm, store)
        slurm.cancel(JobId(1))
        other = submit(slurm, 1, job_id=2)

        def refuse(method: str) -> None:
            if method == "delete_reservation":
                raise SlurmRefused("Requested reservation is in use")

        slurm.before = refuse
        controller.tick()
        assert slurm.job_by_id[other].licenses == ""

    def test_at_the_end_it_gets_what_was_kept(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.waits(slurm, store)
        slurm.clock.at += timedelta(minutes=10)
        controller.tick()
        assert slurm.job_by_id[JobId(1)].required_nodes == names("n[3-6]")

    def test_of_a_job_that_went_nothing_is_kept(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.waits(slurm, store)
        slurm.cancel(JobId(1))
        controller.tick()
        assert slurm.reservation_by_name.keys() == {RESERVATION}

    def test_another_daemon_goes_on_with_the_wait(self, slurm: FakeController, store: FakeStore) -> None:
        self.waits(slurm, store)
        slurm.clock.at += timedelta(minutes=4)
        gate(slurm, FakeStore()).tick()
        assert slurm.reservation_by_name["gpuaas-wait-1"].start == self.UNTIL

    def test_nodes_that_slurm_would_not_keep_are_given_at_once(self, slurm: FakeController, store: FakeStore) -> None:
        def refuse(method: str) -> None:
            if method == "put_reservation":
                slurm.before = lambda method: None
                raise SlurmRefused("Requested nodes are busy")

        slurm.before = refuse
        self.waits(slurm, store)
        assert slurm.job_by_id[JobId(1)].required_nodes == names("n[3-6]")


class TestCalledOff:
    """Slurm is about to start a job that was queued, on n[3-6], which is of two leaf groups."""

    def about_to_start(
        self, slurm: FakeController, store: FakeStore, comment: str = "gpuaas:wait=10m"
    ) -> PlacementGate:
        controller = gate(slurm, store)
        controller.tick()
        for number, nodes in ((8, "n[1-2]"), (9, "n[7-8]")):
            slurm.job_by_id[JobId(number)] = make_job(number, node_count=2, time_limit=timedelta(minutes=9))
            slurm.start(number, list(names(nodes)))
        job = make_job(1, node_count=4, time_limit=timedelta(hours=10))
        slurm.job_by_id[JobId(1)] = replace(job, comment=comment)
        slurm.start(1, list(names("n[3-6]")))
        return controller

    def test_its_nodes_are_kept_and_it_waits_at_the_gate(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.about_to_start(slurm, store)
        assert controller.calls_off(JobId(1))
        controller.tick()  # before Slurm has queued it again
        slurm.requeue(JobId(1))
        controller.tick()
        assert slurm.job_by_id[JobId(1)].licenses == GATED
        assert slurm.reservation_by_name["gpuaas-wait-1"].nodes == "n[3-6]"
        slurm.finish(9)
        controller.tick()
        assert slurm.job_by_id[JobId(1)].required_nodes == names("n[5-8]")
        assert [entry.action for entry in store.entries] == ["job.wait", "job.wait", "job.place"]

    def test_slurm_that_is_quicker_than_the_gate_is_told_again_while_the_nodes_are_kept(
        self, slurm: FakeController, store: FakeStore
    ) -> None:
        controller = self.about_to_start(slurm, store)
        assert controller.calls_off(JobId(1))
        for _ in range(MOST_RESTARTS):
            slurm.requeue(JobId(1))
            slurm.start(1, list(names("n[3-6]")))
            assert controller.calls_off(JobId(1))
        assert slurm.reservation_by_name["gpuaas-wait-1"].nodes == "n[3-6]"
        slurm.requeue(JobId(1))
        slurm.start(1, list(names("n[3-6]")))
        assert not controller.calls_off(JobId(1)), "it would never start"

    def test_what_the_gate_opened_or_sent_elsewhere_starts(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.about_to_start(slurm, store)
        assert controller.calls_off(JobId(1))
        slurm.requeue(JobId(1))
        slurm.finish(9)
        slurm.start(1, list(names("n[5-8]")))
        assert not controller.calls_off(JobId(1))

    def test_a_better_place_is_taken_at_once(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.about_to_start(slurm, store)
        assert controller.calls_off(JobId(1))
        slurm.finish(9)
        slurm.requeue(JobId(1))
        controller.tick()
        job = slurm.job_by_id[JobId(1)]
        assert (job.required_nodes, job.licenses) == (names("n[5-8]"), "")
        assert slurm.reservation_by_name["gpuaas-wait-1"].nodes == "n[5-8]"

    def test_it_starts_where_nobody_lets_it_wait(self, slurm: FakeController, store: FakeStore) -> None:
        assert not self.about_to_start(slurm, store, comment="").calls_off(JobId(1))
        assert slurm.reservation_by_name.keys() == {RESERVATION}

    @pytest.mark.parametrize(
        ("why", "job"),
        [
            ("it ran before", {"restarts": 1}),
            ("it may not be queued again", {"requeue": False}),
            ("the gate chose its nodes", {"required_nodes": names("n[3-6]")}),
            ("a job of an array", {"array_job_id": JobId(1)}),
        ],
    )
    def test_it_starts(self, slurm: FakeController, store: FakeStore, why: str, job: dict[str, object]) -> None:
        controller = self.about_to_start(slurm, store)
        slurm.job_by_id[JobId(1)] = replace(slurm.job_by_id[JobId(1)], **job)  # type: ignore[arg-type]
        assert not controller.calls_off(JobId(1)), why

    def test_a_job_that_fills_in_before_another_starts(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.about_to_start(slurm, store)
        slurm.job_by_id[JobId(2)] = make_job(2, node_count=8, priority=5, reason="Resources")
        assert not controller.calls_off(JobId(1))

    def test_without_a_hold_on_the_licences_nothing_is_called_off(
        self, slurm: FakeController, store: FakeStore
    ) -> None:
        controller = self.about_to_start(slurm, store)
        slurm.clock.at += timedelta(minutes=4)
        assert not controller.calls_off(JobId(1))


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(12))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_call_the_next_daemon_carries_on(store: FakeStore, moment: str, step: int) -> None:
    """Two jobs to place, one to open, one to replace; killed around the n-th call to Slurm."""
    clock = FakeClock()
    slurm = FakeController([make_node(name) for name in NODES], clock=clock)
    submit(slurm, 2, job_id=4)
    gate(slurm, store).tick()
    slurm.start(4, ["n1", "n2"])
    slurm.drain([names("n2")[0]], "gpuaas:i-1: XID 79")
    slurm.requeue(JobId(4))
    for job_id, count in ((1, 2), (2, 4), (3, 8)):
        submit(slurm, count, job_id)

    remaining = iter(range(step))

    def kill(method: str) -> None:
        if next(remaining, None) is None:
            raise Killed

    setattr(slurm, moment, kill)
    try:
        gate(slurm, store).tick()
    except Killed:
        slurm.before = slurm.after = lambda method: None
        gate(slurm, store).tick()
    jobs = slurm.job_by_id
    assert [jobs[JobId(i)].licenses for i in (1, 2, 3, 4)] == ["", "", "", ""]
    given = [node for i in (1, 2, 4) for node in jobs[JobId(i)].required_nodes]
    assert len(given) == len(set(given)), "no node is given twice"
    assert [len(jobs[JobId(i)].required_nodes) for i in (1, 2, 3, 4)] in ([2, 0, 0, 2], [0, 4, 0, 2], [2, 4, 0, 2])
    assert "n2" not in given
    assert RESERVATION in slurm.reservation_by_name
    for i in (1, 2, 3, 4):
        told = [entry for entry in store.entries if entry.subject == str(i)]
        assert len(told) == (2 if i == 4 else 1), "each decision is told once"


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_call_a_job_that_waits_is_none_the_worse(store: FakeStore, moment: str, step: int) -> None:
    """Killed around the n-th call once it waits, and again once a better place has come."""
    slurm = FakeController([make_node(name) for name in NODES], clock=FakeClock())

    def tick_and_die() -> None:
        remaining = iter(range(step))

        def kill(method: str) -> None:
            if next(remaining, None) is None:
                raise Killed

        setattr(slurm, moment, kill)
        with contextlib.suppress(Killed):
            gate(slurm, store).tick()
        slurm.before = slurm.after = lambda method: None
        slurm.clock.at += timedelta(seconds=5)
        gate(slurm, store).tick()

    for number, nodes in ((8, "n[1-2]"), (9, "n[7-8]")):
        slurm.job_by_id[JobId(number)] = make_job(number, node_count=2, time_limit=timedelta(minutes=9))
        slurm.start(number, list(names(nodes)))
    slurm.job_by_id[JobId(1)] = replace(gated(1, time_limit=timedelta(hours=10)), comment="gpuaas:wait=10m")
    tick_and_die()
    kept = slurm.reservation_by_name["gpuaas-wait-1"]
    assert kept.nodes == "n[3-6]"
    assert kept.start - EPOCH <= timedelta(minutes=10, seconds=5)
    slurm.finish(9)
    tick_and_die()
    assert slurm.reservation_by_name["gpuaas-wait-1"].start == kept.start, "the wait did not begin anew"
    assert slurm.reservation_by_name["gpuaas-wait-1"].nodes == "n[5-8]"
    assert slurm.job_by_id[JobId(1)].required_nodes == names("n[5-8]")
    assert [entry.action for entry in store.entries] == ["job.wait", "job.place"]


class TestReplacement:
    def failed(self, slurm: FakeController, store: FakeStore) -> PlacementGate:
        """A placed job whose node n3 broke: drained, then requeued."""
        controller = gate(slurm, store)
        job = submit(slurm)
        controller.tick()
        slurm.start(job, list(names("n[1-4]")))
        slurm.drain(names("n3"), "gpuaas:i-1: XID 79")
        slurm.requeue(job)
        return controller

    def test_a_requeued_job_runs_on_its_survivors_and_a_spare(self, slurm: FakeController, store: FakeStore) -> None:
        self.failed(slurm, store).tick()
        job = slurm.job_by_id[JobId(1)]
        assert job.required_nodes == names("n[1-2,4-5]")
        assert job.eligible == slurm.clock.now() + RESTART_AFTER, "a second apart from the run that ended, no more"
        assert store.rows.keys() == {(JobId(1), 0), (JobId(1), 1)}

    def test_without_a_spare_it_is_let_go(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.failed(slurm, store)
        slurm.job_by_id[JobId(2)] = make_job(2, node_count=4)
        slurm.start(2, list(names("n[5-8]")))
        controller.tick()
        assert slurm.job_by_id[JobId(1)].required_nodes == ()

    def test_a_running_job_is_left_alone(self, slurm: FakeController, store: FakeStore) -> None:
        controller = self.failed(slurm, store)
        controller.tick()
        slurm.start(1, list(names("n[1-2,4-5]")))
        slurm.drain(names("n4"), "maintenance")
        slurm.calls.clear()
        controller.tick()
        assert slurm.calls == ["jobs", "reservations"]


def test_a_pin_outlives_the_daemon_and_its_store(slurm: FakeController, store: FakeStore) -> None:
    """Another daemon with an empty store still knows whose nodes they are, and takes them back."""
    job = submit(slurm)
    gate(slurm, store).tick()
    slurm.node_by_name[names("n1")[0]] = make_node("n1", flags=NodeFlag.DRAIN)
    gate(slurm, FakeStore()).tick()
    assert slurm.job_by_id[job].required_nodes == ()


def test_its_licence_is_offered_only_while_it_is_held(slurm: FakeController, store: FakeStore) -> None:
    """Where slurm.conf declares no such licence, jobs that ask for it would be refused."""
    one = gate(slurm, store)
    assert one.license is None, "nothing is held before the first good tick"
    one.tick()
    assert one.license == "placement"
    slurm.clock.forward(SETTINGS.hold)
    assert one.license is None, "the hold ran out"

    def refuse(method: str) -> None:
        if method == "put_reservation":
            raise SlurmRefused("Invalid license specification.", way_out="Declare it.")

    slurm.before = refuse
    without = gate(slurm, store)
    with pytest.raises(SlurmRefused):
        without.tick()
    assert without.license is None


def test_a_shadow_offers_no_licence(slurm: FakeController, store: FakeStore) -> None:
    one = gate(slurm, store, GateSettings(shadow=True))
    one.tick()
    assert one.license is None
