"""`Controller` over slurmrestd: everything the pyslurm driver does, for sites and moments without pyslurm.

All of it is API v0.0.42 but what v0.0.42 has no words for: writing reservations (and, on Slurm 24.11, deleting them)
needs v0.0.43 of Slurm 25.05, requeueing v0.0.45 of Slurm 26.05. For those the oldest version that has them is used if
slurmrestd offers it, else scontrol. No version has words for a reservation's QOS: scontrol writes those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from pydantic import Field
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.slurm import translate
from slurm_gpuaas.slurm.programs import Program, program
from slurm_gpuaas.slurm.protocols import SlurmctldAway, SlurmRefused, SlurmUnavailable
from slurm_gpuaas.slurm.records import JobChange, Reservation
from slurm_gpuaas.slurm.rest_wire import API, Answer, AnswerT, Number, RestRefused, RestWire, Text, Wire, number
from slurm_gpuaas.slurm.scontrol import Scontrol

_CTLD: Final = f"/slurm/{API}"

RESERVATIONS_SINCE: Final = 43
"""v0.0.43 is the first API that writes reservations."""
REQUEUE_SINCE: Final = 45
"""v0.0.45 is the first API that requeues jobs."""
_NEWEST_TRIED: Final = 52

_RECONFIGURE_S: Final = 15
"""How long a slurmctld that is giving way to its new process is asked again."""
_UNKNOWN_JOB: Final = 2017
_ALREADY_DONE: Final = 2021
_ALREADY_PENDING: Final = 2024
_UNKNOWN_RESERVATION: Final = 2053


class _Node(Wire):
    name: str
    state: tuple[str, ...] = ()
    reason: Text = ""
    gres: Text = ""
    gres_used: Text = ""
    boot_time: Number = Field(default_factory=Number)


class _NodesAnswer(Answer):
    nodes: tuple[_Node, ...] = ()


class _ExitCode(Wire):
    return_code: Number = Field(default_factory=Number)


class _Job(Wire):
    job_id: int
    name: Text = ""
    user_name: Text = ""
    account: Text = ""
    qos: Text = ""
    partition: Text = ""
    job_state: tuple[str, ...] = ()
    state_reason: Text = ""
    nodes: Text = ""
    node_count: Number = Field(default_factory=Number)
    tres_req_str: Text = ""
    tres_alloc_str: Text = ""
    licenses: Text = ""
    priority: Number = Field(default_factory=Number)
    submit_time: Number = Field(default_factory=Number)
    eligible_time: Number = Field(default_factory=Number)
    start_time: Number = Field(default_factory=Number)
    time_limit: Number = Field(default_factory=Number)
    requeue: bool = False
    batch_flag: bool = True
    restart_cnt: int = 0
    admin_comment: Text = ""
    array_job_id: Number = Field(default_factory=Number)
    array_task_id: Number = Field(default_factory=Number)
    required_nodes: Text = ""
    resv_name: Text = ""
    excluded_nodes: Text = ""
    features: Text = ""
    comment: Text = ""
    exit_code: _ExitCode = Field(default_factory=_ExitCode)


class _JobsAnswer(Answer):
    jobs: tuple[_Job, ...] = ()


class _KillError(Wire):
    code: int = 0
    message: Text = ""


class _KillStatus(Wire):
    error: _KillError = Field(default_factory=_KillError)


class _KillAnswer(Answer):
    status: tuple[_KillStatus, ...] = ()


class _Reservation(Wire):
    name: str
    start_time: Number = Field(default_factory=Number)
    end_time: Number = Field(default_factory=Number)
    users: Text = ""
    node_list: Text = ""
    licenses: Text = ""
    flags: tuple[str, ...] = ()


class _Ping(Wire):
    hostname: Text = ""
    responding: bool = False


class _PingAnswer(Answer):
    pings: tuple[_Ping, ...] = ()


class _ReservationsAnswer(Answer):
    reservations: tuple[_Reservation, ...] = ()


class RestController:
    """slurmctld through slurmrestd.

    Args:
        wire: the connection.
        timeout: seconds for one answer.
        scontrol: how to run `scontrol`, for what an older slurmrestd has no words for. The program on PATH unless told
            otherwise.
    """

    name: Final = "slurmrestd"

    def __init__(self, wire: RestWire, *, timeout: float = 20.0, scontrol: Program | None = None) -> None:
        self._wire = wire
        self._scontrol = Scontrol(scontrol or program(("scontrol",)))
        self._timeout = timeout
        self._doubted = False
        self._newer: dict[int, str | None] = {}

    def version(self) -> str:
        """slurmrestd's own version; it runs with slurmctld's."""
        answer = self._wire.get(f"{_CTLD}/ping/", _PingAnswer, timeout=self._timeout)
        if not any(ping.responding for ping in answer.pings):
            hosts = ", ".join(ping.hostname for ping in answer.pings)
            raise SlurmctldAway(f"slurmctld on {hosts or '?'} does not answer.", way_out="Start slurmctld.")
        return answer.meta.slurm.release

    def check(self) -> None:
        """In milliseconds, where other calls would wait a minute for a slurmctld that is away.

        Raises:
            SlurmctldAway: slurmctld does not answer.
            SlurmUnavailable: slurmrestd does not.
        """
        self.version()

    def api_for(self, since: int) -> str | None:
        """Oldest API version from `since` on that this slurmrestd offers; None when it offers none."""
        if since not in self._newer:
            offered = (
                f"v0.0.{version}"
                for version in range(since, _NEWEST_TRIED + 1)
                if self._wire.send("GET", f"/slurm/v0.0.{version}/ping/").status_code == 200
            )
            self._newer[since] = next(offered, None)
        return self._newer[since]

    def nodes(self) -> Sequence[Node]:
        rows = self._get(f"{_CTLD}/nodes/", _NodesAnswer).nodes
        return tuple(
            translate.node(
                name=row.name,
                state=row.state,
                reason=row.reason,
                gres=row.gres,
                gpus_allocated=translate.gpu_gres(row.gres_used)[1],
                booted=row.boot_time.value,
            )
            for row in rows
        )

    def jobs(self) -> Sequence[Job]:
        return tuple(map(_job, self._get(f"{_CTLD}/jobs/", _JobsAnswer).jobs))

    def drain(self, nodes: Sequence[NodeName], reason: str) -> None:
        if not reason:
            raise SlurmRefused("A drain needs a reason.", way_out="Say why.")
        if nodes:
            self._post(f"{_CTLD}/nodes/", {"name": list(nodes), "state": ["DRAIN"], "reason": reason})

    def resume(self, nodes: Sequence[NodeName]) -> None:
        """Asks only for nodes that are out of service: Slurm refuses to resume one that is in service."""
        out = translate.out_of_service(nodes, self.nodes())
        if out:
            self._post(f"{_CTLD}/nodes/", {"name": list(out), "state": ["RESUME"]})

    def reboot(self, node: NodeName, reason: str) -> None:
        self._scontrol.reboot(node, reason)

    def requeue(self, job: JobId, *, restarts: int | None = None) -> None:
        """Looks first: Slurm would run a finished job again, and says nothing when asked for unfinished ones only."""
        row = self._row(job)
        found = _job(row)
        if found.state.ended:
            raise SlurmRefused(f"Job {job} has ended ({found.state}).", way_out="Read the jobs again.")
        if found.state is JobState.PENDING or (restarts is not None and found.restarts > restarts):
            return
        api = self.api_for(REQUEUE_SINCE)
        if api is None:
            self._scontrol.requeue(_task(row))
            return
        try:
            self._get(f"/slurm/{api}/job/{_task(row)}/requeue", Answer, {"Incomplete": "true"})
        except RestRefused as refused:
            if refused.codes != {_ALREADY_PENDING}:
                raise

    def signal(self, job: JobId, signal: str) -> None:
        # without the flag slurmrestd signals the batch script, too
        self._kill(job, {"signal": signal, "flags": "FULL_STEPS_ONLY"}, f"signal job {job}")

    def cancel(self, job: JobId) -> None:
        self._kill(job, None, f"cancel job {job}")

    def _kill(self, job: JobId, query: Mapping[str, str] | None, what: str) -> None:
        gone = {0, _ALREADY_DONE, _UNKNOWN_JOB}  # unknown: it ended, and Slurm has forgotten it since
        try:
            answer = self._delete(f"{_CTLD}/job/{_task(self._row(job))}", _KillAnswer, query)
        except RestRefused as refused:
            if refused.codes <= gone:
                return
            raise
        for status in answer.status:
            if status.error.code not in gone:
                raise SlurmRefused(f"Slurm did not {what}: {status.error.message}.")

    def update_job(self, job: JobId, change: JobChange) -> None:
        body: dict[str, object] = {}
        if change.required_nodes is not None:
            body["required_nodes"] = list(change.required_nodes) or [""]  # an empty list would be left as it is
        if change.excluded_nodes is not None:
            body["excluded_nodes"] = list(change.excluded_nodes) or [""]
        if change.licenses is not None:
            body["licenses"] = change.licenses
        if change.reservation is not None:
            body["reservation"] = change.reservation
        if change.start_time is not None:
            body["begin_time"] = number(int(change.start_time.timestamp()))
        if change.priority is not None:
            body["priority"] = number(change.priority)
        elif change.unhold:
            body["priority"] = number(None)
        if change.admin_comment is not None:
            body["admin_comment"] = change.admin_comment
        if change.qos is not None:
            body["qos"] = change.qos
        if body:
            self._post(f"{_CTLD}/job/{job}", body)

    def reservations(self) -> Sequence[Reservation]:
        return tuple(map(_reservation, self._get(f"{_CTLD}/reservations/", _ReservationsAnswer).reservations))

    def put_reservation(self, reservation: Reservation) -> None:
        present = next((one for one in self.reservations() if one.name == reservation.name), None)
        if present == reservation:
            return
        # The start of one that runs already cannot move, and need not.
        moves = present is None or present.start != reservation.start
        api = self.api_for(RESERVATIONS_SINCE)
        if api is None or reservation.qos:
            self._by_scontrol(reservation, present=present is not None, moves=moves)
            return
        end = int((reservation.start + reservation.duration).timestamp())
        body: dict[str, object] = {
            "name": reservation.name,
            "end_time": number(end),
            "users": list(reservation.users),
            "licenses": [reservation.licenses] if reservation.licenses else [],
            "flags": sorted(map(translate.reservation_flag_to_slurm, reservation.flags)),
        }
        if reservation.nodes:  # an empty list would be read as a node without a name
            body["node_list"] = [reservation.nodes]
        if moves:
            body["start_time"] = number(int(reservation.start.timestamp()))
        self._post(f"/slurm/{api}/reservation", body)

    def _row(self, job: JobId) -> _Job:
        """One job: asked for by the id of an array's last task, slurmrestd tells all its tasks."""
        rows = self._get(f"{_CTLD}/job/{job}", _JobsAnswer).jobs
        return next(row for row in rows if row.job_id == job)

    def _by_scontrol(self, reservation: Reservation, *, present: bool, moves: bool) -> None:
        if present:
            self._scontrol.update_reservation(reservation, moves=moves)
        else:
            self._scontrol.create_reservation(reservation)

    def delete_reservation(self, name: str) -> None:
        if self.api_for(RESERVATIONS_SINCE) is None:
            if any(one.name == name for one in self.reservations()):
                self._scontrol.delete_reservation(name)
            return
        try:
            self._delete(f"{_CTLD}/reservation/{quote(name, safe='')}", Answer)
        except RestRefused as refused:
            if refused.codes != {_UNKNOWN_RESERVATION}:
                raise

    def reconfigure(self) -> None:
        # slurmctld gives way to a new process and may close the connection before it answers: ask again.
        for attempt in Retrying(
            retry=retry_if_exception_type(SlurmUnavailable),
            wait=wait_fixed(0.2),
            stop=stop_after_delay(_RECONFIGURE_S),
            reraise=True,
        ):
            with attempt:
                self._get(f"{_CTLD}/reconfigure/", Answer)

    def _get(self, path: str, answer: type[AnswerT], query: Mapping[str, str] | None = None) -> AnswerT:
        return self._ask(lambda: self._wire.get(path, answer, query, timeout=self._timeout))

    def _post(self, path: str, body: Mapping[str, object]) -> None:
        self._ask(lambda: self._wire.post(path, body, timeout=self._timeout))

    def _delete(self, path: str, answer: type[AnswerT], query: Mapping[str, str] | None = None) -> AnswerT:
        return self._ask(lambda: self._wire.delete(path, answer, query, timeout=self._timeout))

    def _ask(self, call: Callable[[], AnswerT]) -> AnswerT:
        """After a call without an answer the next looks first: each would hold a thread of slurmrestd for a minute."""
        if self._doubted:
            self.check()
        try:
            answer = call()
        except SlurmUnavailable:
            self._doubted = True
            raise
        self._doubted = False
        return answer


def _task(row: _Job) -> str:
    """How one task of an array is called, and no other: the id of one of them is also that of the whole array."""
    array, task = row.array_job_id.value, row.array_task_id.value
    return f"{array}_{task}" if array and task is not None else str(row.job_id)


def _job(row: _Job) -> Job:
    return translate.job(
        job_id=row.job_id,
        name=row.name,
        user=row.user_name,
        account=row.account,
        qos=row.qos,
        partition=row.partition,
        state=row.job_state,
        reason=row.state_reason,
        nodes=row.nodes,
        node_count=row.node_count.value or 0,
        tres_requested=row.tres_req_str,
        tres_allocated=row.tres_alloc_str,
        licenses=row.licenses,
        priority=row.priority.value or 0,
        submitted=row.submit_time.value or 0,
        eligible=row.eligible_time.value,
        started=row.start_time.value,
        time_limit_minutes=row.time_limit.value,
        requeue=row.requeue and row.batch_flag,
        restarts=row.restart_cnt,
        admin_comment=row.admin_comment,
        array_job_id=row.array_job_id.value,
        required_nodes=row.required_nodes,
        reservation=row.resv_name,
        excluded_nodes=row.excluded_nodes,
        features=row.features,
        comment=row.comment,
        exit_code=row.exit_code.return_code.value or 0,
    )


def _reservation(row: _Reservation) -> Reservation:
    start = datetime.fromtimestamp(row.start_time.value or 0, UTC)
    end = datetime.fromtimestamp(row.end_time.value or 0, UTC)
    return translate.reservation(
        name=row.name,
        start=start,
        duration=max(end - start, timedelta(0)),
        users=row.users,
        nodes=row.node_list,
        licenses=row.licenses,
        flags=row.flags,
    )
