"""The health report on plain values: what happened, and what it says of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState, Transition
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import AccountName, NodeName
from slurm_gpuaas.domain.outages import Outage, OutageCause
from slurm_gpuaas.domain.reports import CheckpointTerms
from slurm_gpuaas.domain.usage import JobRun, Preemption, SizedUse, Window
from slurm_gpuaas.health.report import Records, best_interval, expected_ettr, report
from tests.fakes import EPOCH

TERMS = CheckpointTerms(interval=timedelta(hours=1), write=timedelta(seconds=36), restart=timedelta(minutes=5))
N1, N2 = NodeName("n1"), NodeName("n2")
S = IncidentState


def at(minutes: float) -> datetime:
    return EPOCH + timedelta(minutes=minutes)


def incident(number: int = 1, node: NodeName = N1, *, opened: float = 60, jobs: tuple[int, ...] = ()) -> Incident:
    return Incident(
        id=f"i{number}", node=node, state=S.CLOSED, drain=Drain.NOW, fault_class="hw_reset", rule="", headline="",
        opened_at=at(opened), updated_at=at(opened), event_ids=(f"e{number}",), requeued_jobs=jobs,
    )  # fmt: skip


def steps(one: Incident, *path: tuple[float, IncidentState]) -> list[Transition]:
    states = [None, *(state for _, state in path)]
    return [
        Transition(incident=one.id, node=one.node, at=at(minute), before=before, after=after, cause="", actor="")
        for before, (minute, after) in zip(states, path, strict=False)
    ]


WHOLE_LIFE = (
    (60, S.SUSPECT), (61, S.DRAINING), (63, S.DRAINED), (70, S.REPAIRING), (80, S.VERIFYING), (82, S.DRAINED),
    (90, S.REPAIRING), (100, S.VERIFYING), (105, S.PROBATION), (200, S.CLOSED),
)  # fmt: skip


def records(**changes: object) -> Records:
    """Two nodes of 8 GPUs over 10 hours; nothing happened."""
    nothing = Records(
        window=Window(at(0), at(600)), now=at(600), gpus={N1: 8, N2: 8, NodeName("login"): 0}, watched_since=at(-60),
        outages=(), incidents=(), transitions=(), seen_at={}, runs=(),
    )  # fmt: skip
    return replace(nothing, **changes)  # type: ignore[arg-type]


def out(node: NodeName, since: float, until: float | None, cause: OutageCause, reason: str = "") -> Outage:
    return Outage(node=node, since=at(since), until=None if until is None else at(until), cause=cause, reason=reason)


def run(job: int, started: float, ended: float | None, *, gpus: int = 16, account: str = "vision") -> JobRun:
    return JobRun(JobId(job), AccountName(account), gpus, at(started), None if ended is None else at(ended), "REQUEUED")


def test_each_stage_of_a_repair_is_told_apart() -> None:
    one = incident(jobs=(7,))
    found = report(
        records(
            incidents=[one], transitions=steps(one, *WHOLE_LIFE), seen_at={"e1": at(59)},
            runs=[run(7, 0, 61), run(7, 61.5, 300)],
        ),
        TERMS,
    )  # fmt: skip
    assert found.fleet is not None
    stages = found.fleet.stages
    medians = {name: getattr(stages, name).median_s for name in type(stages).model_fields}
    assert medians == {
        "detect": 60, "drain": 60, "empty": 120, "replace": 30, "repair": 37 * 60, "verify": 300, "whole": 46 * 60,
    }  # fmt: skip


def test_a_stage_that_is_not_over_is_unknown_and_not_in_the_median() -> None:
    one, two = incident(1), incident(2, N2)
    course = [*steps(one, *WHOLE_LIFE), *steps(two, (60, S.SUSPECT), (62, S.DRAINING))]
    found = report(records(incidents=[one, two], transitions=course, seen_at={"e2": at(61)}), TERMS).fleet
    assert found is not None
    assert (found.stages.repair.known, found.stages.repair.unknown) == (1, 1)
    assert found.stages.drain.median_s == 90
    assert (found.stages.detect.known, found.stages.detect.unknown) == (0, 2), "one is not kept, one is in the future"
    assert found.stages.detect.median_s is None


def test_availability_tells_faults_people_and_plans_apart_and_clips_to_the_window() -> None:
    outages = [
        out(N1, -30, 60, OutageCause.FAULT, "gpuaas:i1: XID 79"),
        out(N2, 100, 160, OutageCause.PERSON, "cable swap"),
        out(N2, 540, None, OutageCause.PLANNED),
    ]
    found = report(records(outages=outages), TERMS).fleet
    assert found is not None and found.availability is not None
    assert (found.availability.fault, found.availability.person, found.availability.planned) == (3600, 3600, 3600)
    assert found.availability.total == 2 * 36_000
    assert found.availability.ratio == pytest.approx(1 - 3 / 20)
    assert found.availability.ratio_unplanned == pytest.approx(1 - 1 / 20)
    assert found.capacity_lost == 8 * 3600


def test_time_before_nodes_were_watched_counts_nothing_and_is_named() -> None:
    found = report(records(watched_since=at(300)), TERMS)
    assert found.fleet is not None and found.fleet.availability is not None
    assert found.fleet.availability.total == 2 * 18_000
    assert any("before 2027-01-04 14:00" in sentence for sentence in found.unknown)


def test_without_any_watching_availability_is_unknown_and_not_one() -> None:
    found = report(records(watched_since=None), TERMS)
    assert found.fleet is not None and found.fleet.availability is None and found.fleet.mtbf_s is None
    assert any(sentence.startswith("Availability") for sentence in found.unknown)


def test_time_between_failures_is_time_in_service_a_fault() -> None:
    one = incident()
    outages = [out(N1, 61, 105, OutageCause.FAULT, "gpuaas:i1: XID 79")]
    found = report(records(incidents=[one], transitions=steps(one, *WHOLE_LIFE), outages=outages), TERMS).fleet
    assert found is not None
    assert (found.faults, found.unannounced) == (1, 0)
    assert found.mtbf_s == 72_000 - 44 * 60
    assert found.failures_per_1000_node_days == pytest.approx(1000 * 86_400 / found.mtbf_s)


def test_a_node_that_went_down_without_an_event_is_a_fault_too() -> None:
    found = report(records(outages=[out(N2, 100, 130, OutageCause.FAULT, "Not responding")]), TERMS).fleet
    assert found is not None
    assert (found.faults, found.unannounced) == (1, 1)
    assert [(one.fault_class, one.drained) for one in found.by_class] == [("no event", 1)]


def test_an_incident_for_review_is_no_fault() -> None:
    found = report(records(incidents=[incident()]), TERMS).fleet
    assert found is not None and (found.incidents, found.faults) == (1, 0)


def test_metas_formula() -> None:
    """Worked by hand: 128 nodes at 6.5 failures in 1,000 node-days: MTTF 1.2 days."""
    rate = 6.5e-3
    by_hand = (1 - 128 * rate / 86_400 * (300 + 1800)) / (1 + 36 / 3600)
    assert expected_ettr(128, rate, TERMS) == pytest.approx(by_hand) == pytest.approx(0.9701, abs=1e-4)
    assert expected_ettr(1_000_000, rate, TERMS) == 0.0
    assert best_interval(128, rate, TERMS.write).total_seconds() == pytest.approx(2734, abs=1)


def test_lost_work_lies_between_nothing_and_the_whole_interrupted_run() -> None:
    one = incident(jobs=(7,))
    found = report(
        records(
            incidents=[one], transitions=steps(one, *WHOLE_LIFE),
            runs=[run(7, 0, 61), run(7, 63, 123)],
            use=[SizedUse(account=AccountName("vision"), gpus=16, gpu_seconds=9)],
        ),
        TERMS,
    )  # fmt: skip
    (job,) = found.jobs
    assert (job.interruptions, job.waited_s, job.ran) == (1, 120, 16 * 121 * 60)
    assert (job.lost_expected, job.lost_most) == (16 * (1800 + 300), 16 * 61 * 60)
    assert job.ettr_most == pytest.approx(121 / 123)
    assert job.ettr_least == pytest.approx(60 / 123)
    (tenant,) = found.tenants
    assert (tenant.interrupted_jobs, tenant.lost_most, tenant.preempted) == (1, job.lost_most, 0)


def test_a_run_shorter_than_half_an_interval_loses_no_more_than_itself() -> None:
    one = incident(jobs=(7,))
    (job,) = report(records(incidents=[one], runs=[run(7, 55, 61)]), TERMS).jobs
    assert job.lost_expected == job.lost_most == 16 * 360
    assert job.waited_s is None, "it waits still"


def test_who_made_room_for_a_job_that_a_fault_hit_is_charged_to_the_fault() -> None:
    one = incident(jobs=(7,))
    runs = sorted(
        [run(7, 0, 61), run(7, 63, 123), run(8, 30, 62, gpus=8, account="speech"), run(8, 70, 80, account="speech")],
        key=lambda run: run.started,
    )
    made_room = [Preemption(victim=JobId(8), made_room_for=JobId(7), at=at(61.5))]
    found = report(records(incidents=[one], runs=runs, preemptions=made_room), TERMS)
    assert {one.project: one.preempted for one in found.tenants} == {"vision": 0, "speech": 8 * 32 * 60}
    later = [replace(made_room[0], at=at(110))]
    assert all(
        not one.preempted for one in report(records(incidents=[one], runs=runs, preemptions=later), TERMS).tenants
    )


def test_slurms_whole_seconds_lose_no_interruption_and_no_victim() -> None:
    """Drained and requeued within the second in which the incident was opened: Slurm says that the run ended before."""
    one = incident(opened=60 + 0.4 / 60, jobs=(7,))
    runs = [run(8, 50, 60, gpus=8, account="speech"), run(7, 0, 60), run(7, 60 + 3 / 60, 90)]
    made_room = [Preemption(victim=JobId(8), made_room_for=JobId(7), at=at(60 + 0.6 / 60))]
    course = steps(one, (60 + 0.4 / 60, S.SUSPECT), (60 + 0.5 / 60, S.DRAINING))
    found = report(records(incidents=[one], transitions=course, runs=runs, preemptions=made_room), TERMS)
    assert {one.project: (one.interruptions, one.preempted) for one in found.tenants} == {
        "vision": (1, 0), "speech": (0, 8 * 600),
    }  # fmt: skip
    assert found.jobs[0].waited_s == 3


def test_a_job_that_came_while_its_node_was_a_suspect_is_counted() -> None:
    one = incident(opened=60, jobs=(7,))
    course = steps(one, (60, S.SUSPECT), (75, S.DRAINING))
    (job,) = report(records(incidents=[one], transitions=course, runs=[run(7, 70, 75)]), TERMS).jobs
    assert job.interruptions == 1


def test_a_node_that_failed_on_probation_is_not_back() -> None:
    one = incident()
    course = steps(one, *WHOLE_LIFE[:-1], (150, S.DRAINING), (151, S.DRAINED))
    found = report(records(incidents=[one], transitions=course, seen_at={"e1": at(59)}), TERMS).fleet
    assert found is not None
    assert [getattr(found.stages, name).known for name in ("drain", "empty", "repair", "verify", "whole")] == [
        1, 1, 0, 0, 0,
    ]  # fmt: skip


def test_means_of_stages_add_up_to_the_whole() -> None:
    one, two = incident(1), incident(2, N2)
    short = ((60, S.SUSPECT), (60, S.DRAINING), (64, S.DRAINED), (70, S.CLOSED))
    course = [*steps(one, *WHOLE_LIFE), *steps(two, *short)]
    found = report(records(incidents=[one, two], transitions=course, seen_at={"e1": at(59), "e2": at(60)}), TERMS).fleet
    assert found is not None
    means = {name: getattr(found.stages, name).mean_s for name in type(found.stages).model_fields}
    assert means["whole"] == sum(means[name] for name in ("detect", "drain", "empty", "repair", "verify")) == 28 * 60


def test_a_jobs_expected_ettr_is_that_of_its_size() -> None:
    one = incident(jobs=(7,))
    found = report(records(incidents=[one], transitions=steps(one, *WHOLE_LIFE), runs=[run(7, 0, 61, gpus=24)]), TERMS)
    assert found.fleet is not None and found.fleet.failures_per_1000_node_days is not None
    rate = found.fleet.failures_per_1000_node_days / 1000
    assert found.jobs[0].ettr_expected == expected_ettr(3, rate, TERMS)


def test_a_run_that_slurm_lost_with_its_node_counts_without_an_incident() -> None:
    lost = run(7, 0, 60)
    (tenant,) = report(records(runs=[lost], failed=[lost]), TERMS).tenants
    assert (tenant.interruptions, tenant.lost_most) == (1, 16 * 3600)


def test_a_requeue_whose_run_is_not_metered_is_said() -> None:
    found = report(records(incidents=[incident(jobs=(7,))]), TERMS)
    assert found.jobs == ()
    assert any(sentence.startswith("1 requeued jobs") for sentence in found.unknown)
