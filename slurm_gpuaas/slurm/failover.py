"""A `Controller` that prefers one driver and carries on over another.

A call that the preferred driver cannot serve now is put to the fallback at once: every method of the door may be asked
twice. When to try the preferred one again is its own business (`PyslurmController` backs off by itself and then refuses
in microseconds). Decides nothing about nodes or jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.domain.jobs import Job, JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.slurm.protocols import Controller, SlurmctldAway, SlurmUnavailable
from slurm_gpuaas.slurm.pyslurm_driver import NotByThisDriver
from slurm_gpuaas.slurm.records import JobChange, Reservation

T = TypeVar("T")


class NamedController(Controller, Protocol):
    @property
    def name(self) -> str:
        """What people call this driver."""
        ...


class Fallback(NamedController, Protocol):
    def check(self) -> None:
        """Raises SlurmctldAway, quickly, when slurmctld itself does not answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """Which driver serves, since when, and why it is not the preferred one (empty when it is)."""

    driver: str
    since: datetime
    why: str = ""


def _silent(_: InUse) -> None:
    """The default of `on_change`."""


class FailoverController:
    """`Controller` over a preferred driver and a fallback.

    Args:
        preferred: asked first.
        fallback: asked when the preferred one raises SlurmUnavailable.
        clock: dates the changes.
        on_change: told whenever another driver serves than before; for the log.
    """

    def __init__(
        self,
        preferred: NamedController,
        fallback: Fallback,
        *,
        clock: Clock | None = None,
        on_change: Callable[[InUse], None] = _silent,
    ) -> None:
        self._preferred = preferred
        self._fallback = fallback
        self._clock = clock or SystemClock()
        self._on_change = on_change
        self._in_use = InUse(driver=preferred.name, since=self._clock.now())

    @property
    def name(self) -> str:
        return self._in_use.driver

    @property
    def in_use(self) -> InUse:
        """For /metrics, doctor and the log."""
        return self._in_use

    def version(self) -> str:
        return self._ask(lambda driver: driver.version())

    def nodes(self) -> Sequence[Node]:
        return self._ask(lambda driver: driver.nodes())

    def jobs(self) -> Sequence[Job]:
        return self._ask(lambda driver: driver.jobs())

    def drain(self, nodes: Sequence[NodeName], reason: str) -> None:
        self._ask(lambda driver: driver.drain(nodes, reason))

    def resume(self, nodes: Sequence[NodeName]) -> None:
        self._ask(lambda driver: driver.resume(nodes))

    def reboot(self, node: NodeName, reason: str) -> None:
        self._ask(lambda driver: driver.reboot(node, reason))

    def requeue(self, job: JobId, *, restarts: int | None = None) -> None:
        self._ask(lambda driver: driver.requeue(job, restarts=restarts))

    def cancel(self, job: JobId) -> None:
        self._ask(lambda driver: driver.cancel(job))

    def signal(self, job: JobId, signal: str) -> None:
        self._ask(lambda driver: driver.signal(job, signal))

    def update_job(self, job: JobId, change: JobChange) -> None:
        self._ask(lambda driver: driver.update_job(job, change))

    def reservations(self) -> Sequence[Reservation]:
        return self._ask(lambda driver: driver.reservations())

    def put_reservation(self, reservation: Reservation) -> None:
        self._ask(lambda driver: driver.put_reservation(reservation))

    def delete_reservation(self, name: str) -> None:
        self._ask(lambda driver: driver.delete_reservation(name))

    def reconfigure(self) -> None:
        self._ask(lambda driver: driver.reconfigure())

    def _ask(self, call: Callable[[Controller], T]) -> T:
        failed_before = self._in_use.driver != self._preferred.name
        if failed_before:
            self._check()
        try:
            answer = call(self._preferred)
        except NotByThisDriver:
            return call(self._fallback)
        except SlurmUnavailable as error:
            self._serves(self._fallback.name, str(error))
            if not failed_before:
                self._check()
            return call(self._fallback)
        self._serves(self._preferred.name)
        return answer

    def _check(self) -> None:
        """Both drivers would wait long, one after the other, for a slurmctld that is away: say so at once.

        Raises:
            SlurmctldAway: slurmctld itself does not answer.
        """
        try:
            self._fallback.check()
        except SlurmctldAway:
            raise
        except SlurmUnavailable:
            return  # slurmrestd is away, which says nothing of slurmctld

    def _serves(self, driver: str, why: str = "") -> None:
        if driver != self._in_use.driver:
            self._in_use = InUse(driver=driver, since=self._clock.now(), why=why)
            self._on_change(self._in_use)
