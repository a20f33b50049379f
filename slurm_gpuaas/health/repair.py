"""Repair shops: whoever can reset, reboot or replace, behind one question that is safe to ask again.

`ask` begins an attempt or says how far it is. Programs run in threads of their own, as gpuaasd's user and without a
shell, so a tick never waits for one. After a restart of the daemon nobody knows what became of a program, so it is run
again with the same attempt: programs must look whether they have done it already (`{attempt}` names it).
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import httpx2

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.incidents import Incident, Remedy, RepairAttempt, RepairOutcome
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.health.incidents import drain_reason
from slurm_gpuaas.slurm.protocols import Controller

STILL_RUNNING: Final = 75
"""Exit status of a program that has begun and is to be asked again (EX_TEMPFAIL)."""
ASK_AGAIN: Final = timedelta(seconds=15)
_DETAIL: Final = 200
"""Characters of a program's answer that are kept."""
_EVIDENCE: Final = "evidence: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One attempt to mend a node. `gpus` are the indices that the incident's events name, `all` when none does."""

    incident: Incident
    attempt: RepairAttempt
    number: int
    node: Node
    gpus: str

    @property
    def key(self) -> str:
        return f"{self.incident.id}-{self.number}"

    def filled(self, argv: Sequence[str]) -> list[str]:
        """The arguments with {node}, {incident}, {attempt}, {remedy} and {gpu} put in."""
        words = {
            "{node}": str(self.incident.node),
            "{incident}": self.incident.id,
            "{attempt}": self.key,
            "{remedy}": self.attempt.remedy.value,
            "{gpu}": self.gpus,
        }
        filled = []
        for argument in argv:
            for word, value in words.items():
                argument = argument.replace(word, value)
            filled.append(argument)
        return filled


@dataclass(frozen=True, slots=True)
class Report:
    """How far an attempt is; `detail` is kept with it and shown to the shop when it is asked again."""

    outcome: RepairOutcome
    detail: str = ""


class RepairShop(Protocol):
    def ask(self, order: Order) -> Report:
        """Begin the attempt, or say how far it is. Never waits; safe to ask again, also by another daemon."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended; `status` is None when it could not be started or took too long."""

    status: int | None
    said: str


RunProgram = Callable[[Sequence[str], timedelta], Ended]
Spawn = Callable[[Callable[[], None]], None]


def run_program(argv: Sequence[str], limit: timedelta) -> Ended:
    """In a session of its own, so that all it started ends with it. Keeps the end of what it says."""
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return Ended(None, f"{argv[0]} cannot be run: {os.strerror(error.errno or 0)}")
    tail = bytearray()

    def read() -> None:
        assert process.stdout is not None
        while part := os.read(process.stdout.fileno(), 4096):
            tail.extend(part)
            del tail[: -4 * _DETAIL]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        status: int | None = process.wait(timeout=limit.total_seconds())
    except subprocess.TimeoutExpired:
        status = None
        os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is its own
        process.wait()
    reader.join(timeout=1)  # what it left behind may hold the pipe
    said = _line(bytes(tail).decode(errors="replace"))
    if status is None:
        return Ended(None, f"not done within {limit.total_seconds():g} s; {said}".rstrip("; "))
    return Ended(status, said)


def in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True, name="repair").start()


class Errands:
    """Work in the background, each with a name: started once, its end kept until it is collected.

    Args:
        ended: called at each end; who waits for it need not wait for the next tick.
    """

    def __init__(self, *, spawn: Spawn = in_a_thread, ended: Callable[[], None] = lambda: None) -> None:
        self._spawn = spawn
        self._ended = ended
        self._lock = threading.Lock()
        self._results: dict[str, Ended | None] = {}

    def run(self, name: str, work: Callable[[], Ended]) -> Ended | None:
        """Its end; None while it runs. Starts it unless it was started; once its end was given it may be run again."""
        with self._lock:
            if name in self._results:
                ended = self._results[name]
                if ended is not None:
                    del self._results[name]
                return ended
            self._results[name] = None

        def errand() -> None:
            ended = Ended(None, "ended unexpectedly")
            try:
                ended = work()
            finally:
                with self._lock:
                    self._results[name] = ended
                self._ended()

        self._spawn(errand)
        return None


class CommandShop:
    """Runs a program: exit 0 = done, 75 = still under way (run again in 15 s), else failed."""

    def __init__(
        self, argv: Sequence[str], *, limit: timedelta, errands: Errands, clock: Clock, run: RunProgram = run_program
    ) -> None:
        self._argv = tuple(argv)
        self._limit = limit
        self._errands = errands
        self._clock = clock
        self._run = run
        self._not_before: dict[str, datetime] = {}

    def ask(self, order: Order) -> Report:
        now = self._clock.now()
        left = order.attempt.begun_at + self._limit - now
        if left <= timedelta(0):
            return Report(RepairOutcome.FAILED, f"not done within {self._limit.total_seconds():g} s")
        if now < self._not_before.get(order.key, now):
            return Report(RepairOutcome.RUNNING)
        ended = self._errands.run(order.key, lambda: self._run(order.filled(self._argv), left))
        if ended is None:
            return Report(RepairOutcome.RUNNING)
        if ended.status == STILL_RUNNING:
            self._not_before[order.key] = now + ASK_AGAIN
            return Report(RepairOutcome.RUNNING, ended.said)
        self._not_before.pop(order.key, None)
        if ended.status == 0:
            return Report(RepairOutcome.DONE, ended.said)
        status = "" if ended.status is None else f"exit {ended.status}: "
        return Report(RepairOutcome.FAILED, f"{status}{ended.said}"[:_DETAIL])


class SlurmReboot:
    """Reboots through Slurm (RebootProgram); done when the node's slurmd tells of a later boot."""

    def __init__(self, slurm: Controller, *, limit: timedelta, clock: Clock) -> None:
        self._slurm = slurm
        self._limit = limit
        self._clock = clock

    def ask(self, order: Order) -> Report:
        node, begun = order.node, order.attempt.begun_at
        if node.booted is not None and node.booted >= begun.replace(microsecond=0):
            return Report(RepairOutcome.DONE, f"booted {node.booted:%Y-%m-%d %H:%M:%S} UTC")
        if self._clock.now() - begun >= self._limit:
            return Report(RepairOutcome.FAILED, f"not back within {self._limit.total_seconds():g} s")
        # Asked again where slurmctld was killed and has forgotten it: it says in the reason what it has begun.
        forgotten = node.base is not NodeBase.DOWN and "reboot issued" not in node.reason
        if NodeFlag.REBOOT not in node.flags and (forgotten or "asked Slurm" not in order.attempt.detail):
            self._slurm.reboot(order.incident.node, drain_reason(order.incident))
        return Report(RepairOutcome.RUNNING, "asked Slurm to reboot")


class TicketShop:
    """Posts a ticket as JSON; done when somebody took it (2xx). Refusals and silence are tried again until `limit`."""

    def __init__(
        self,
        url: str,
        *,
        token: Callable[[], str],
        limit: timedelta,
        errands: Errands,
        clock: Clock,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._url = url
        self._token = token
        self._limit = limit
        self._errands = errands
        self._clock = clock
        self._transport = transport

    def ask(self, order: Order) -> Report:
        if self._clock.now() - order.attempt.begun_at >= self._limit:
            return Report(RepairOutcome.FAILED, f"nobody took the ticket within {self._limit.total_seconds():g} s")
        ended = self._errands.run(order.key, lambda: self._post(order))
        if ended is None:
            return Report(RepairOutcome.RUNNING)
        return Report(RepairOutcome.DONE if ended.status == 0 else RepairOutcome.RUNNING, ended.said)

    def _post(self, order: Order) -> Ended:
        headers = {"Idempotency-Key": order.key}
        try:
            if token := self._token():
                headers["Authorization"] = f"Bearer {token}"
            with httpx2.Client(transport=self._transport, timeout=10.0, trust_env=False) as client:
                answer = client.post(self._url, json=ticket(order), headers=headers)
        except (OSError, UnicodeError, httpx2.HTTPError) as error:  # its token file cannot be read, or nobody answers
            return Ended(None, f"{type(error).__name__}: {error}"[:_DETAIL])
        return Ended(0 if answer.is_success else 1, f"HTTP {answer.status_code} {_line(answer.text)}"[:_DETAIL].strip())


def ticket(order: Order) -> Mapping[str, object]:
    """What a provider needs to know, in words that are nobody's own."""
    incident = order.incident
    tried = [f"{a.remedy}: {a.outcome}, {a.detail}".rstrip(", ") for a in incident.attempts[:-1]]
    return {
        "id": order.key,
        "incident": incident.id,
        "node": incident.node,
        "gpus": order.gpus,
        "serials": list(incident.serials),
        "fault": incident.headline,
        "fault_class": incident.fault_class,
        "opened_at": incident.opened_at.isoformat(),
        "tried": tried,
        "text": "\n".join(
            [
                f"Node {incident.node} needs a part replaced or looked at.",
                f"Fault: {incident.headline}.",
                f"Decided by: {incident.rule}.",
                f"GPUs by serial number: {', '.join(incident.serials) or 'not known'}.",
                *(f"Tried: {line}." for line in tried),
                "The node is out of service and nothing runs on it.",
            ]
        ),
    }


class Workshop:
    """All shops of a site, and the evidence that is taken before any of them touches the node.

    Evidence that fails is noted and holds nothing up.
    """

    def __init__(
        self,
        shops: Mapping[Remedy, RepairShop],
        *,
        evidence: Sequence[str] = (),
        evidence_limit: timedelta = timedelta(minutes=2),
        errands: Errands,
        run: RunProgram = run_program,
    ) -> None:
        self._shops = shops
        self._evidence = tuple(evidence)
        self._evidence_limit = evidence_limit
        self._errands = errands
        self._run = run

    @property
    def remedies(self) -> frozenset[Remedy]:
        return frozenset(self._shops)

    def ask(self, order: Order) -> Report:
        noted = order.attempt.detail
        if self._evidence and not noted.startswith(_EVIDENCE):
            argv = order.filled(self._evidence)
            ended = self._errands.run(f"{order.key} evidence", lambda: self._run(argv, self._evidence_limit))
            if ended is None:
                return Report(RepairOutcome.RUNNING)
            said = ended.said if ended.status == 0 else f"failed, {ended.said}"
            return Report(RepairOutcome.RUNNING, f"{_EVIDENCE}{said or 'taken'}"[:_DETAIL])
        report = self._shops[order.attempt.remedy].ask(order)
        kept = noted.partition("; ")[0] if noted.startswith(_EVIDENCE) else ""
        said = report.detail or (noted.partition("; ")[2] if kept else noted)
        return Report(report.outcome, "; ".join(filter(None, (kept, said)))[: 2 * _DETAIL])


def _line(text: str) -> str:
    """The last line of what was said, with what cannot be printed left out."""
    lines = [" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in text.splitlines()]
    return next((line[:_DETAIL] for line in reversed(lines) if line), "")
