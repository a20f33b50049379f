"""Tests of a mended node, run as Slurm jobs while nobody else can get it.

Slurm starts nothing on a drained node. So the node first gets a reservation that is ours alone and has no end that
matters, and only then is it resumed: there is no moment in which another job may start on it, and a daemon that is away
leaves it out of service. Jobs are found again by name (incident, moment the verification began, test), so a crash after
a submission does not submit twice.

`look` does what is missing and says how far it is; it is safe to call again at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from slurm_gpuaas.domain.errors import GpuaasError, Unavailable
from slurm_gpuaas.domain.incidents import Incident, Verification
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node, NodeBase
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.health.incidents import is_reason_of
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.slurm.protocols import Controller, SlurmRefused
from slurm_gpuaas.slurm.records import Reservation

PREFIX: Final = "gpuaas-verify-"
PASSED: Final = "passed"
SKIPPED: Final = 77
"""Exit status of a test that cannot run here, as automake has it; it says why in its output."""
_FOR_EVER: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A batch script; `nodes` is 2 for one that needs a good node beside the mended one."""

    script: Path
    nodes: int = 1
    limit: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """`user` is gpuaasd's own: whose jobs count, and whom the reservation lets in. `limit` is for all tests together,
    waiting included."""

    tests: Mapping[str, Test]
    user: str
    partition: str = "gpuaas-verify"
    account: str = "root"
    limit: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passed` is None while tests run or wait."""

    passed: bool | None
    jobs: tuple[JobId, ...]
    detail: str
    said: Mapping[str, str] = field(default_factory=dict)
    """Of tests that have ended well: slurmctld forgets their jobs while others still run."""


Submit = Callable[[str, Sequence[str]], JobId]
"""Submits a batch script with these options of sbatch, as gpuaasd's user."""


class Verifier:
    """Args:
    beside: nodes of the same leaf group as a node, nearest first, as far as the fabric is known.
    """

    def __init__(
        self,
        *,
        slurm: Controller,
        submit: Submit,
        ledger: IncidentLedger,
        settings: VerifySettings,
        beside: Callable[[NodeName], Sequence[NodeName]] = lambda node: (),
    ) -> None:
        self._slurm = slurm
        self._submit = submit
        self._ledger = ledger
        self._settings = settings
        self._beside = beside

    @property
    def tests(self) -> frozenset[str]:
        return frozenset(self._settings.tests)

    def look(self, incident: Incident, verification: Verification) -> Verdict:
        """
        Raises:
            SlurmUnavailable: try again later.
            SlurmRefused: Slurm does not want the reservation or a job; its words are in the message.
        """
        if self._ledger.clock.now() - verification.begun_at >= self._settings.limit:
            minutes = self._settings.limit.total_seconds() / 60
            return Verdict(False, verification.jobs, f"not done within {minutes:g} min", verification.said)
        nodes = self._reserved(incident, verification)
        self._resume(incident)
        return self._run(incident, verification, nodes)

    def clear(self, incident: Incident) -> None:
        """End what is left of an incident's tests: jobs, then the reservation. If the node is not drained by now, it is
        in service after this."""
        name = _reservation(incident)
        for job in self._own_jobs(f"{PREFIX}{incident.id}-"):
            if not job.state.ended:
                self._slurm.cancel(job.id)
        if not any(one.name == name for one in self._slurm.reservations()):
            return
        with self._ledger.journaled("reservation.delete", name, {"incident": incident.id, "node": incident.node}):
            self._slurm.delete_reservation(name)

    def leftovers(self) -> Sequence[str]:
        """Incident ids of all reservations that look like ours."""
        return [one.name.removeprefix(PREFIX) for one in self._slurm.reservations() if self._ours(one)]

    def delete(self, incident_id: str) -> None:
        """Delete the reservation of an incident that is not known any more."""
        self._slurm.delete_reservation(PREFIX + incident_id)

    # -- The parts

    def _reserved(self, incident: Incident, verification: Verification) -> tuple[NodeName, ...]:
        """The nodes of the reservation, the mended one first; it is made when it is missing."""
        name = _reservation(incident)
        present = self._present(name)
        if present is None:
            nodes = [incident.node]
            if any(test.nodes > 1 for name, test in self._settings.tests.items() if name in verification.tests):
                nodes += self._partner(incident)
            wanted = Reservation(
                name=name,
                start=self._ledger.clock.now().replace(microsecond=0),
                duration=_FOR_EVER,
                users=(self._settings.user,),
                nodes=fold_nodes(nodes),
                flags=frozenset({"MAINT"}),  # also where another reservation covers the node; not where a job runs
            )
            with self._ledger.journaled("reservation", name, {"incident": incident.id, "nodes": wanted.nodes}):
                self._slurm.put_reservation(wanted)
            present = self._present(name)
        held = set(expand_nodes(present.nodes)) if present is not None and present.nodes else set()
        if incident.node not in held:
            raise SlurmRefused(
                f"The reservation {name} does not hold {incident.node}.", way_out="Delete it; it is made again."
            )
        return (incident.node, *sorted(held - {incident.node}))

    def _present(self, name: str) -> Reservation | None:
        return next((one for one in self._slurm.reservations() if one.name == name and self._ours(one)), None)

    def _ours(self, reservation: Reservation) -> bool:
        return reservation.name.startswith(PREFIX) and reservation.users == (self._settings.user,)

    def _partner(self, incident: Incident) -> list[NodeName]:
        """An idle node that nobody has a claim on, of the same leaf group if there is one; none when there is none."""
        held = {node for one in self._slurm.reservations() if one.nodes for node in expand_nodes(one.nodes)}
        held |= {other.node for other in self._ledger.open()}
        good = {
            node.name
            for node in self._slurm.nodes()
            if node.usable and node.base is NodeBase.IDLE and node.name not in held and not node.gpus_allocated
        }
        near = [node for node in self._beside(incident.node) if node in good]
        return (near or sorted(good))[:1]

    def _resume(self, incident: Incident) -> None:
        """Looked at right before it is done: a drain that is not ours any more stays."""
        node = next((one for one in self._slurm.nodes() if one.name == incident.node), None)
        if node is None or not node.out_by_hand:
            return
        if not is_reason_of(node.reason, incident):
            if node.draining:
                raise TakenOver(node)
            return  # it went down in the middle of a test, which fails of it
        with self._ledger.journaled("resume", incident.node, {"incident": incident.id, "for": "verification"}):
            self._slurm.resume([incident.node])

    def _run(self, incident: Incident, verification: Verification, nodes: Sequence[NodeName]) -> Verdict:
        prefix = f"{PREFIX}{incident.id}-{int(verification.begun_at.timestamp())}-"
        known = {job.name.removeprefix(prefix): job for job in self._own_jobs(prefix)}
        jobs: list[JobId] = []
        said: list[str] = []
        ended = dict(verification.said)
        waiting = False
        for name in verification.tests:
            test = self._settings.tests.get(name)
            if test is None:
                said.append(f"{name} is not configured any more")
                continue
            if test.nodes > len(nodes):
                said.append(f"{name} left out, no idle node beside it")
                continue
            job = known.get(name)
            if job is not None:
                jobs.append(job.id)
            if name in ended:
                said.append(f"{name} {ended[name]}")
            elif job is None:
                jobs.append(self._start(incident, prefix + name, test, nodes[: test.nodes]))
                waiting = True
            elif not job.state.ended:
                waiting = True
            elif well := _ended_well(job):
                ended[name] = well
                said.append(f"{name} {well}")
            else:
                status = f", exit {job.exit_code}" if job.exit_code else ""
                return Verdict(False, tuple(jobs), f"{name} {job.state.lower()}{status} (job {job.id})", ended)
        if waiting:
            return Verdict(None, tuple(jobs), ", ".join(said), ended)
        return Verdict(PASSED in ended.values(), tuple(jobs), ", ".join(said) or "there is no test", ended)

    def _start(self, incident: Incident, name: str, test: Test, nodes: Sequence[NodeName]) -> JobId:
        options = [
            f"--job-name={name}",
            f"--partition={self._settings.partition}",
            f"--account={self._settings.account}",
            f"--reservation={_reservation(incident)}",
            f"--nodelist={','.join(nodes)}",
            f"--nodes={len(nodes)}",
            f"--time={max(1, int(test.limit.total_seconds() // 60))}",
            "--exclusive",
            "--no-requeue",
            "--chdir=/tmp",
            "--output=/dev/null",
        ]
        try:
            script = test.script.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(
                f"The test {test.script} cannot be read: {error}.",
                way_out="Put it back, or change health.verification.",
            ) from None
        with self._ledger.journaled("verify", name, {"incident": incident.id, "node": incident.node}):
            return self._submit(script, options)

    def _own_jobs(self, prefix: str) -> Sequence[Job]:
        """Anybody may give a job such a name: only our own count."""
        return [job for job in self._slurm.jobs() if job.name.startswith(prefix) and job.user == self._settings.user]


class TakenOver(GpuaasError):
    """Somebody else set the node's drain meanwhile: it is theirs."""

    def __init__(self, node: Node) -> None:
        super().__init__(f"Node {node.name} is out of service for another reason: {node.reason}.")
        self.reason = node.reason


def _ended_well(job: Job) -> str:
    """How a test ended; empty when the node failed it."""
    if job.state is JobState.COMPLETED:
        return PASSED
    return "skipped itself" if job.state is JobState.FAILED and job.exit_code == SKIPPED else ""


def _reservation(incident: Incident) -> str:
    return PREFIX + incident.id
