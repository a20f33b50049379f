"""The pyslurm worker: a process that may die. Run as `python -m slurm_gpuaas.slurm.pyslurm_worker`.

libslurm ends its process on fatal errors, at import already, and a pyslurm that does not match frees what it must not.
So pyslurm is imported here only, late (on the probe), and nothing here is kept: the driver starts another when this one
is gone. Requests and answers are JSON with a 4-byte length before it, on stdin and stdout; libslurm's own chatter goes
to stderr. Standard library and pyslurm only, so that it starts in a tenth of a second.

Request `{"op": name, "args": {...}}`; answer `{"ok": value}` or `{"error": kind, "message": text, "code": number}` with
kind `refused` (Slurm said no), `unavailable` (slurmctld does not answer) or `unsupported` (this pyslurm has no words).
"""

from __future__ import annotations

import json
import os
import pwd
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import IO, Any, Final

HEADER: Final = struct.Struct(">I")
LARGEST: Final = 1 << 28

_CANNOT_REACH: Final = frozenset({*range(1001, 1005), *range(1013, 1026), *range(1800, 1806), 2027, *range(5003, 5006)})
_UNKNOWN_JOB: Final = 2017
_ALREADY_DONE: Final = 2021
_ALREADY_PENDING: Final = 2024
_UNKNOWN_RESERVATION: Final = 2053
_SLURM_ERRORS: Final = 1000
"""Error numbers below are the C library's, left over from something else: pyslurm reads errno without clearing it."""

NODE_FIELDS: Final = ("name", "state", "reason", "gres", "gpus_allocated", "booted")
JOB_FIELDS: Final = (
    "job_id",
    "name",
    "user",
    "account",
    "qos",
    "partition",
    "state",
    "reason",
    "nodes",
    "node_count",
    "tres_requested",
    "tres_allocated",
    "licenses",
    "priority",
    "submitted",
    "eligible",
    "started",
    "time_limit_minutes",
    "requeue",
    "restarts",
    "admin_comment",
    "array_job_id",
    "required_nodes",
    "reservation",
    "excluded_nodes",
    "features",
    "comment",
    "exit_code",
)
RESERVATION_FIELDS: Final = ("name", "start", "end", "users", "nodes", "licenses", "flags")

_FLAGS: Final = {
    "MAINT": "MAINTENANCE",
    "MAGNETIC": "MAGNETIC",
    "FLEX": "FLEX",
    "IGNORE_JOBS": "IGNORE_RUNNING_JOBS",
    "LICENSE_ONLY": "ANY_NODES",
    "STATIC": "STATIC_NODES",
    "PART_NODES": "PARTITION_NODES_ONLY",
    "USER_DELETE": "USER_DELETION",
    "PURGE_COMP": "PURGE",
    "SPEC_NODES": "SPECIFIC_NODES",
    "NO_HOLD_JOBS_AFTER_END": "NO_JOB_HOLD_AFTER_END",
    "OVERLAP": "OVERLAP",
    "ALL_NODES": "ALL_NODES",
    "SKIP": "SKIP",
}
"""Slurm's words for reservation flags to pyslurm's."""

_UNDER_FLAG: Final = {
    "CONFIGURING": "RUNNING",
    "RESIZING": "RUNNING",
    "SIGNALING": "RUNNING",
    "STOPPED": "SUSPENDED",
    "EXPEDITING": "PENDING",
    "REQUEUED": "PENDING",
    "REQUEUE_HOLD": "PENDING",
    "REQUEUE_FED": "PENDING",
    "RESV_DEL_HOLD": "PENDING",
    "SPECIAL_EXIT": "PENDING",
    "REVOKED": "CANCELLED",
}
"""pyslurm shows one word only, a flag before the state. The state that each flag comes with."""


class Failed(Exception):
    """An answer of the kind `error`."""

    def __init__(self, kind: str, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code


class _Empty(str):
    """An empty text that pyslurm does send: it leaves out false values, but Slurm clears a field by an empty one."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, _index: object) -> str:
        return " "


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame; None at the end of the stream, also in the middle of a frame."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    body = stream.read(size)
    return body if len(body) == size else None


def write_frame(stream: IO[bytes], message: object) -> None:
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    stream.write(HEADER.pack(len(body)) + body)
    stream.flush()


class Operations:
    """What the driver may ask; each public method is one operation. The first request makes it and imports pyslurm."""

    def __init__(self) -> None:
        import pyslurm  # late: without a cluster the import ends the process
        from pyslurm import slurmctld

        self._slurm: Any = pyslurm
        self._ctld: Any = slurmctld

    def probe(self) -> Mapping[str, object]:
        """Versions, and proof that this pyslurm reads this Slurm's answers."""
        version = self.version()
        for name, state, *_ in self.nodes():
            if not name or not state:
                raise Failed("unsupported", f"pyslurm {self._slurm.__version__} does not match Slurm {version}.")
        return {"pyslurm": self._slurm.__version__, "slurm": version}

    def version(self) -> str:
        return str(self._ctld.Config.load().version)

    def nodes(self) -> list[tuple[object, ...]]:
        return [
            (
                node.name,
                node.state,
                _text(node, "reason"),
                _gres(node.configured_gres),
                _gpus(node.allocated_gres),
                node.boot_time,
            )
            for node in self._slurm.Nodes.load().values()
        ]

    def jobs(self) -> list[tuple[object, ...]]:
        return [_job(job) for job in self._slurm.Jobs.load().values()]

    def drain(self, nodes: list[str], reason: str) -> None:
        self._modify_nodes(nodes, state="DRAIN", reason=reason)

    def resume(self, nodes: list[str]) -> None:
        self._modify_nodes(nodes, state="RESUME")

    def requeue(self, job: int, restarts: int | None) -> None:
        found = self._slurm.Job.load(job)
        state = _state(found)
        if state == "PENDING" or (restarts is not None and (found.requeue_count or 0) > restarts):
            return
        if state not in {"RUNNING", "SUSPENDED"}:
            raise Failed("refused", f"Job {job} has ended ({state}).", _ALREADY_DONE)
        self._unless({_ALREADY_PENDING}, lambda: self._slurm.Job(job).requeue())

    def signal(self, job: int, signal: str) -> None:
        if self._has_an_arrays_id(job):
            raise Failed("unsupported", f"tell job {job} from the whole array of that id.")
        self._unless({_UNKNOWN_JOB, _ALREADY_DONE}, lambda: self._slurm.Job(job).send_signal(f"SIG{signal}"))

    def cancel(self, job: int) -> None:
        """Not the last task of an array, whose id is also the array's: pyslurm would end all its tasks."""
        if self._has_an_arrays_id(job):
            raise Failed("unsupported", f"tell job {job} from the whole array of that id.")
        try:
            self._slurm.Job(job).cancel()
        except self._slurm.RPCError as error:
            if not 0 < (error.errno or 0) < _SLURM_ERRORS or _state(self._slurm.Job.load(job)) in {
                "PENDING",
                "RUNNING",
                "SUSPENDED",
            }:
                raise

    def _has_an_arrays_id(self, job: int) -> bool:
        try:
            return bool(self._slurm.Job.load(job).array_id == job)
        except self._slurm.RPCError as error:
            if error.errno != _UNKNOWN_JOB:
                raise
            return False

    def update_job(self, job: int, change: Mapping[str, Any]) -> None:
        """`change` holds pyslurm's own attribute names."""
        fields = {name: _Empty() if value == "" else value for name, value in change.items()}
        self._slurm.Job(job).modify(self._slurm.JobSubmitDescription(**fields))

    def reservations(self) -> list[tuple[object, ...]]:
        words = {pyslurm: slurm for slurm, pyslurm in _FLAGS.items()}
        rows: list[tuple[object, ...]] = []
        for one in self._slurm.Reservations.load().values():
            flags = [words.get(flag.name, flag.name) for flag in self._slurm.ReservationFlags if flag in one.flags]
            if one.reoccurrence != self._slurm.ReservationReoccurrence.NO:
                flags.append(one.reoccurrence.name)
            rows.append(
                (
                    one.name,
                    one.start_time or 0,
                    one.end_time or 0,
                    _text(one, "users"),
                    _text(one, "nodes"),
                    _text(one, "licenses"),
                    flags,
                )
            )
        return rows

    def update_reservation(
        self, name: str, start: int | None, end: int, users: str, nodes: str, licenses: str, flags: list[str]
    ) -> None:
        """Creating one is not here: pyslurm 25.11 frees Slurm's answer with the wrong allocator and dies of it."""
        changes = self._slurm.Reservation(name)
        if start is not None:
            changes.start_time = start
        changes.end_time = end
        changes.users = users or _Empty()
        if nodes:
            changes.nodes = nodes
        if licenses:
            changes.licenses = licenses
        unknown = sorted(set(flags) - _FLAGS.keys())
        if unknown:
            raise Failed("unsupported", f"pyslurm cannot set the reservation flags {', '.join(unknown)}.")
        chosen = self._slurm.ReservationFlags(0)
        for flag in flags:
            chosen |= self._slurm.ReservationFlags[_FLAGS[flag]]
        changes.flags = chosen
        changes.modify()

    def delete_reservation(self, name: str) -> None:
        self._unless({_UNKNOWN_RESERVATION}, lambda: self._slurm.Reservation(name).delete())

    def reconfigure(self) -> None:
        self._ctld.reconfigure()

    def _modify_nodes(self, names: Iterable[str], **change: str) -> None:
        nodes = self._slurm.Nodes({name: self._slurm.Node(name) for name in names})
        nodes.modify(self._slurm.Node(**change))

    def _unless(self, codes: set[int], ask: Callable[[], object]) -> None:
        """Ask; an error of `codes` means that it is so already."""
        try:
            ask()
        except self._slurm.RPCError as error:
            if error.errno not in codes:
                raise

    def failure(self, error: Exception) -> Failed | None:
        """What an exception of an operation means; None when it is none of Slurm's."""
        if isinstance(error, Failed):
            return error
        if isinstance(error, self._slurm.RPCError):
            code = error.errno if isinstance(error.errno, int) else 0
            return Failed("unavailable" if code in _CANNOT_REACH else "refused", str(error), code)
        return None


@lru_cache(maxsize=65536)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _text(record: Any, attribute: str) -> str:
    """A text, or names with commas between, of a pyslurm record; empty when not set.

    Slurm takes any bytes for a text, also from tenants (a job's name), and pyslurm decodes it when it is asked for:
    what is not UTF-8 must cost the bad characters only, never the whole answer.
    """
    try:
        value = getattr(record, attribute)
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", "replace")
    return value if isinstance(value, str) else ",".join(value or ())


def _gres(gres: Mapping[str, int]) -> str:
    return ",".join(f"{name}:{count}" for name, count in gres.items())


def _gpus(counts: Mapping[str, int]) -> int:
    """GPUs among allocated GRES, where an untyped entry counts the typed ones again."""
    typed = sum(int(count) for name, count in counts.items() if name.startswith("gpu:"))
    return int(counts.get("gpu", typed))


def _tres(tres: Any) -> str:
    if tres is None:
        return ""
    return ",".join(f"gres/{name}={gres.count}" for name, gres in tres.gres.items())


def _state(job: Any) -> str:
    """The job's base state.

    While a job completes its base state is hidden. A requeued one is pending beneath and shows no run time; of an ended
    one only success and failure can be told apart until it is done completing (seconds).
    """
    state = str(job.state)
    if state in {"COMPLETING", "STAGE_OUT"}:
        if not job.run_time:
            return "PENDING"
        return "FAILED" if job.exit_code or job.exit_code_signal else "COMPLETED"
    return _UNDER_FLAG.get(state, state)


def _job(job: Any) -> tuple[object, ...]:
    limit = job.time_limit
    return (
        job.id,
        _text(job, "name"),
        _user(job.user_id),
        _text(job, "account"),
        _text(job, "qos"),
        _text(job, "partition"),
        _state(job),
        _text(job, "state_reason"),
        _text(job, "allocated_nodes"),
        job.num_nodes or 0,
        _tres(job.requested_tres),
        _tres(job.allocated_tres),
        _text(job, "licenses"),
        job.priority or 0,
        job.submit_time or 0,
        job.eligible_time,
        job.start_time,
        limit if isinstance(limit, int) else None,
        bool(job.is_requeueable and job.is_batch_job),
        job.requeue_count or 0,
        _text(job, "admin_comment"),
        job.array_id,
        _text(job, "required_nodes"),
        _text(job, "reservation"),
        _text(job, "excluded_nodes"),
        _text(job, "constraints"),
        _text(job, "comment"),
        job.exit_code or 0,
    )


def serve(requests: IO[bytes], answers: IO[bytes], make: Callable[[], Operations] = Operations) -> None:
    """Answer requests until the driver hangs up."""
    operations: Operations | None = None
    while (frame := read_frame(requests)) is not None:
        request = json.loads(frame)
        operations = operations or make()
        try:
            answer: dict[str, object] = {"ok": getattr(operations, request["op"])(**request.get("args", {}))}
        except Exception as error:
            failed = operations.failure(error)
            if failed is None:
                raise  # a fault of ours: end, with the traceback on stderr, and let the driver fall back
            answer = {"error": failed.kind, "message": str(failed), "code": failed.code}
        write_frame(answers, answer)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libslurm prints must not look like an answer
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
