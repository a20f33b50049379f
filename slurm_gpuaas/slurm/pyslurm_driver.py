"""`Controller` over pyslurm, which lives in a supervised worker process (`pyslurm_worker`).

The worker is started by the first call, asked for its versions before anything else, and started again after it died.
Every request has a deadline; a worker that misses it is killed. After a failure the next try waits, twice as long each
time, so that a pyslurm that cannot work costs nothing.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final

from slurm_gpuaas.domain.jobs import Job, JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.slurm import translate
from slurm_gpuaas.slurm.protocols import SlurmRefused, SlurmUnavailable
from slurm_gpuaas.slurm.pyslurm_worker import (
    HEADER,
    JOB_FIELDS,
    LARGEST,
    NODE_FIELDS,
    RESERVATION_FIELDS,
)
from slurm_gpuaas.slurm.records import JobChange, Reservation

DEFAULT_COMMAND: Final = (sys.executable, "-m", "slurm_gpuaas.slurm.pyslurm_worker")
_INFINITE: Final = 0xFFFFFFFF
"""Slurm's INFINITE: as a priority, that it shall be worked out."""
_STDERR_KEPT: Final = 1 << 20


class NotByThisDriver(SlurmUnavailable):
    """pyslurm has no way to ask this; slurmrestd has. The driver itself is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PyslurmVersions:
    pyslurm: str
    slurm: str


@dataclass(slots=True)
class Backoff:
    """When to try again: after each failure twice as long as before, from `first` to `longest` seconds."""

    first: float = 0.5
    longest: float = 60.0
    failures: int = 0
    not_before: float = 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        self.not_before = now + min(self.longest, self.first * 2 ** (self.failures - 1))

    def succeeded(self) -> None:
        self.failures = 0
        self.not_before = 0.0


class _Worker:
    """One worker process and its pipes. Any failure leaves it dead."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=None if environment is None else dict(environment),
                process_group=0,  # an operator's Ctrl-C is for the daemon, which then ends the worker
            )
        except OSError as error:
            self._stderr.close()
            raise SlurmUnavailable(
                f"The pyslurm worker cannot be started: {error}.", way_out="Correct the worker's command."
            ) from error
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._to.fileno(), False)
        os.set_blocking(self._from.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, op: str, args: Mapping[str, object], deadline: float) -> Mapping[str, Any]:
        """One request and its answer; `deadline` on the monotonic clock.

        Raises:
            SlurmUnavailable: it died or was too late; it is gone then.
        """
        body = json.dumps({"op": op, "args": args}, ensure_ascii=False).encode()
        try:
            self._send(HEADER.pack(len(body)) + body, deadline)
            (size,) = HEADER.unpack(self._receive(HEADER.size, deadline))
            answer = json.loads(self._receive(size, deadline))
        except (OSError, ValueError) as error:
            raise self._gone(op, error) from None
        if not isinstance(answer, dict):
            raise self._gone(op, ValueError("its answer is no object"))
        self._trim()
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._to, self._from, self._stderr):
            with suppress(OSError):  # closing the pipe of a dead process writes what was buffered for it
                stream.close()

    def _send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._to.fileno(), selectors.EVENT_WRITE, deadline)
            view = view[os.write(self._to.fileno(), view) :]

    def _receive(self, size: int, deadline: float) -> bytes:
        if size > LARGEST:
            raise OSError(f"it sent a frame of {size} bytes")
        parts, left = [], size
        while left:
            self._wait(self._from.fileno(), selectors.EVENT_READ, deadline)
            part = os.read(self._from.fileno(), min(left, 1 << 20))
            if not part:
                raise BrokenPipeError("it ended")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    @staticmethod
    def _wait(descriptor: int, event: int, deadline: float) -> None:
        with selectors.PollSelector() as selector:
            selector.register(descriptor, event)
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise TimeoutError("it did not answer in time")

    def _gone(self, op: str, error: Exception) -> SlurmUnavailable:
        if isinstance(error, BrokenPipeError):
            try:
                status = f"exit status {self._process.wait(timeout=1)}"
            except subprocess.TimeoutExpired:
                status = "still there"
            said = self._said()
            text = f"The pyslurm worker ended during {op!r} ({status}{f': {said}' if said else ''})."
        else:
            text = f"The pyslurm worker failed during {op!r}: {error}."
        self.end()
        return SlurmUnavailable(text, way_out="It is started again by itself; `gpuaas doctor` says what it needs.")

    def _said(self) -> str:
        """The last line it wrote to stderr."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 2000))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else ""

    def _trim(self) -> None:
        if os.fstat(self._stderr.fileno()).st_size > _STDERR_KEPT:
            os.ftruncate(self._stderr.fileno(), 0)


class PyslurmController:
    """slurmctld through pyslurm.

    Args:
        command: starts the worker. It inherits `environment` (this process's own when None).
        timeout: seconds that a call may take.
        start_timeout: seconds that starting and probing may take.
        monotonic: clock of the back-off.
    """

    name: Final = "pyslurm"

    def __init__(
        self,
        command: Sequence[str] = DEFAULT_COMMAND,
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        start_timeout: float = 15.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = tuple(command)
        self._environment = environment
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._monotonic = monotonic
        self._backoff = Backoff()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._versions: PyslurmVersions | None = None
        self._last_failure: SlurmUnavailable | None = None

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id on this host; None when none runs."""
        return self._worker.pid if self._worker else None

    def versions(self) -> PyslurmVersions:
        """Starts the worker if need be."""
        with self._lock:
            self._running_worker()
            assert self._versions
            return self._versions

    def close(self) -> None:
        with self._lock:
            if self._worker:
                self._worker.end()
                self._worker = None

    # ------------------------------------------------------------------ Controller

    def version(self) -> str:
        return str(self._ask("version"))

    def nodes(self) -> Sequence[Node]:
        rows = (dict(zip(NODE_FIELDS, row, strict=True)) for row in self._ask("nodes"))
        return tuple(translate.node(**{**row, "state": row["state"].split("+")}) for row in rows)

    def jobs(self) -> Sequence[Job]:
        rows = (dict(zip(JOB_FIELDS, row, strict=True)) for row in self._ask("jobs"))
        return tuple(translate.job(**{**row, "state": (row["state"],)}) for row in rows)

    def drain(self, nodes: Sequence[NodeName], reason: str) -> None:
        if not reason:
            raise SlurmRefused("A drain needs a reason.", way_out="Say why.")
        if nodes:
            self._ask("drain", nodes=list(nodes), reason=reason)

    def resume(self, nodes: Sequence[NodeName]) -> None:
        out = translate.out_of_service(nodes, self.nodes())
        if out:
            self._ask("resume", nodes=list(out))

    def reboot(self, node: NodeName, reason: str) -> None:
        raise NotByThisDriver("reboot nodes.", way_out="Start slurmrestd: it can.")

    def requeue(self, job: JobId, *, restarts: int | None = None) -> None:
        self._ask("requeue", job=job, restarts=restarts)

    def cancel(self, job: JobId) -> None:
        self._ask("cancel", job=job)

    def signal(self, job: JobId, signal: str) -> None:
        self._ask("signal", job=job, signal=signal)

    def update_job(self, job: JobId, change: JobChange) -> None:
        fields: dict[str, object] = {}
        if change.required_nodes is not None:
            fields["required_nodes"] = ",".join(change.required_nodes)
        if change.excluded_nodes is not None:
            fields["excluded_nodes"] = ",".join(change.excluded_nodes)
        if change.licenses is not None:
            fields["licenses"] = change.licenses
        if change.reservation is not None:
            fields["reservations"] = change.reservation
        if change.start_time is not None:
            fields["begin_time"] = int(change.start_time.timestamp())
        if change.priority is not None:
            fields["priority"] = change.priority
        elif change.unhold:
            fields["priority"] = _INFINITE
        if change.admin_comment is not None:
            fields["admin_comment"] = change.admin_comment
        if change.qos is not None:
            fields["qos"] = change.qos
        if fields:
            self._ask("update_job", job=job, change=fields)

    def reservations(self) -> Sequence[Reservation]:
        rows = (dict(zip(RESERVATION_FIELDS, row, strict=True)) for row in self._ask("reservations"))
        return tuple(
            translate.reservation(
                name=row["name"],
                start=datetime.fromtimestamp(row["start"], UTC),
                duration=timedelta(seconds=max(0, row["end"] - row["start"])),
                users=row["users"],
                nodes=row["nodes"],
                licenses=row["licenses"],
                flags=row["flags"],
            )
            for row in rows
        )

    def put_reservation(self, reservation: Reservation) -> None:
        """Changes one that exists; creating one is slurmrestd's (see `pyslurm_worker`)."""
        if reservation.qos:
            raise NotByThisDriver("pyslurm has no words for a reservation's QOS.", way_out="Start slurmrestd: it can.")
        present = next((one for one in self.reservations() if one.name == reservation.name), None)
        if present is None:
            raise NotByThisDriver(
                "pyslurm cannot create a reservation on this Slurm.", way_out="Start slurmrestd: it can."
            )
        if present == reservation:
            return
        end = reservation.start + reservation.duration
        self._ask(
            "update_reservation",
            name=reservation.name,
            start=None if present.start == reservation.start else int(reservation.start.timestamp()),
            end=int(end.timestamp()),
            users=",".join(reservation.users),
            nodes=reservation.nodes,
            licenses=reservation.licenses,
            flags=sorted(reservation.flags),
        )

    def delete_reservation(self, name: str) -> None:
        self._ask("delete_reservation", name=name)

    def reconfigure(self) -> None:
        self._ask("reconfigure")

    # ------------------------------------------------------------------ supervision

    def _ask(self, op: str, **args: object) -> Any:
        with self._lock:
            worker = self._running_worker()
            try:
                answer = worker.call(op, args, time.monotonic() + self._timeout)
            except SlurmUnavailable as error:
                self._worker = None
                self._note(error)
                raise
            failure = _failure(op, answer)
            if isinstance(failure, SlurmUnavailable) and not isinstance(failure, NotByThisDriver):
                self._note(failure)
            elif failure is None:
                self._backoff.succeeded()
            if failure:
                raise failure
            return answer["ok"]

    def _running_worker(self) -> _Worker:
        wait = self._backoff.not_before - self._monotonic()
        if wait > 0:
            raise SlurmUnavailable(
                f"pyslurm rests for {wait:.1f} s after {self._backoff.failures} failures: {self._last_failure}",
                way_out="Correct the cause; it is tried again by itself.",
            )
        if self._worker is None:
            worker = _Worker(self._command, self._environment)
            try:
                answer = worker.call("probe", {}, time.monotonic() + self._start_timeout)
                if failure := _failure("probe", answer):
                    worker.end()
                    raise failure
            except SlurmUnavailable as error:
                self._note(error)
                raise
            self._versions = PyslurmVersions(pyslurm=answer["ok"]["pyslurm"], slurm=answer["ok"]["slurm"])
            self._worker = worker
        return self._worker

    def _note(self, error: SlurmUnavailable) -> None:
        self._last_failure = error
        self._backoff.failed(self._monotonic())


def _failure(op: str, answer: Mapping[str, Any]) -> SlurmUnavailable | SlurmRefused | None:
    kind, message = answer.get("error"), answer.get("message")
    if kind is None:
        return None
    if kind == "refused":
        return SlurmRefused(f"Slurm refused {op.replace('_', ' ')}: {message}.")
    if kind == "unsupported":
        return NotByThisDriver(f"pyslurm cannot: {message}", way_out="Start slurmrestd: it can.")
    return SlurmUnavailable(f"slurmctld does not answer: {message}.", way_out="Check with `gpuaas doctor`.")
