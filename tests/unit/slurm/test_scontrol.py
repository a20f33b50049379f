"""What an older slurmrestd cannot say goes to scontrol, in these words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.slurm.records import Reservation
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire

START = datetime(2027, 1, 1, 9, 0, tzinfo=UTC)
EPOCH = int(START.timestamp())
GATE = Reservation(
    name="gate",
    start=START,
    duration=timedelta(minutes=2),
    users=("gpuaas", "root"),
    licenses="placement:1000000",
    flags=frozenset({"LICENSE_ONLY"}),
)


class OldSlurm:
    """A slurmrestd that offers nothing above v0.0.42, and a scontrol that takes everything down."""

    def __init__(
        self, *, jobs: Sequence[dict[str, object]] = (), reservations: Sequence[dict[str, object]] = ()
    ) -> None:
        self.answers = {"job": {"jobs": list(jobs)}, "reservations": {"reservations": list(reservations)}}
        self.said: list[str] = []
        wire = RestWire(RestAddress(), transport=httpx2.MockTransport(self._answer))
        self.controller = RestController(wire, scontrol=self._scontrol)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        _, _slurm, version, what, *_ = request.url.path.split("/")
        if version != "v0.0.42":
            return httpx2.Response(404, content=b"not found")
        return httpx2.Response(200, content=json.dumps(self.answers[what]).encode())

    def _scontrol(self, arguments: Sequence[str], /, *, stdin: str = "") -> str:
        self.said.append(" ".join(arguments))
        return ""


def number(value: int) -> dict[str, object]:
    return {"set": True, "infinite": False, "number": value}


def running(job: int, **fields: object) -> dict[str, object]:
    return {
        "job_id": job,
        "job_state": ["RUNNING"],
        "submit_time": number(EPOCH),
        "start_time": number(EPOCH),
        **fields,
    }


@pytest.mark.parametrize(
    ("fields", "called"),
    [
        ({}, "requeue incomplete 12"),
        ({"array_job_id": number(0)}, "requeue incomplete 12"),
        ({"array_job_id": number(10), "array_task_id": number(3)}, "requeue incomplete 10_3"),
        ({"array_job_id": number(12), "array_task_id": number(0)}, "requeue incomplete 12_0"),
    ],
    ids=["a job", "no array", "a task", "the task with the array's own id"],
)
def test_a_requeue_names_one_job_and_never_a_whole_array(fields: dict[str, object], called: str) -> None:
    sibling = running(11, array_job_id=number(12), array_task_id=number(1))
    slurm = OldSlurm(jobs=[sibling, running(12, **fields)])
    slurm.controller.requeue(JobId(12))
    assert slurm.said == [called]


def test_a_job_that_waits_already_is_left_as_it_is() -> None:
    slurm = OldSlurm(jobs=[running(12, job_state=["PENDING"])])
    slurm.controller.requeue(JobId(12))
    assert slurm.said == []


def test_a_reservation_is_created_with_times_that_no_time_zone_changes() -> None:
    slurm = OldSlurm()
    slurm.controller.put_reservation(GATE)
    slurm.controller.put_reservation(replace(GATE, name="r", licenses="", nodes="b200-[01-02]", flags=frozenset()))
    assert slurm.said == [
        f"create ReservationName=gate EndTime=uts{EPOCH + 120} Users=gpuaas,root Licenses=placement:1000000 "
        f"Flags=LICENSE_ONLY StartTime=uts{EPOCH}",
        f"create ReservationName=r EndTime=uts{EPOCH + 120} Users=gpuaas,root Nodes=b200-[01-02] StartTime=uts{EPOCH}",
    ]


def test_one_that_is_there_is_changed_and_its_start_left_alone_unless_it_moves() -> None:
    there: dict[str, object] = {
        "name": "gate",
        "start_time": number(EPOCH),
        "end_time": number(EPOCH + 120),
        "users": "gpuaas,root",
        "licenses": "placement:1000000",
        "flags": ["ANY_NODES"],
    }
    slurm = OldSlurm(reservations=[there])
    slurm.controller.put_reservation(GATE)
    assert slurm.said == [], "it is as it should be"
    slurm.controller.put_reservation(replace(GATE, duration=timedelta(minutes=10)))
    slurm.controller.put_reservation(replace(GATE, start=START + timedelta(minutes=1)))
    slurm.controller.delete_reservation("gate")
    slurm.controller.delete_reservation("another")
    words = "Users=gpuaas,root Licenses=placement:1000000 Flags=LICENSE_ONLY"
    assert slurm.said == [
        f"update ReservationName=gate EndTime=uts{EPOCH + 600} {words}",
        f"update ReservationName=gate EndTime=uts{EPOCH + 180} {words} StartTime=uts{EPOCH + 60}",
        "delete ReservationName=gate",
    ]
