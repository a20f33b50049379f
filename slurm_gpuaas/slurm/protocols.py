"""What the rest of the product may ask of Slurm.

Every method either does what it says or raises `SlurmUnavailable` (the same call may work later) or `SlurmRefused`
(Slurm answered no; its words are in the message). All writes are idempotent: asking twice is asking once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from slurm_gpuaas.domain.errors import GpuaasError, Unavailable
from slurm_gpuaas.domain.jobs import Job, JobId
from slurm_gpuaas.domain.names import AccountName, NodeName, PartitionName, QosName, UserName
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.slurm.limit_records import LimitState, Membership
from slurm_gpuaas.slurm.records import (
    Account,
    AccountingJob,
    AccountingState,
    JobChange,
    PartitionSpec,
    Qos,
    Reservation,
    TopologyUnit,
    Transaction,
    UserAssociation,
)


class SlurmUnavailable(Unavailable):
    """slurmctld, slurmdbd, slurmrestd or the pyslurm worker cannot be reached now."""


class SlurmctldAway(SlurmUnavailable):
    """slurmctld itself does not answer: no driver can help."""


class SlurmRefused(GpuaasError):
    """Slurm answered and said no."""

    http_status = 502


class Controller(Protocol):
    """slurmctld: nodes, jobs, reservations."""

    def version(self) -> str:
        """Slurm's version as it says it, e.g. `26.05.5`."""
        ...

    def nodes(self) -> Sequence[Node]:
        """All nodes. One call to slurmctld, O(nodes)."""
        ...

    def jobs(self) -> Sequence[Job]:
        """All jobs that slurmctld still holds, ended ones of the last minutes included. One call, O(jobs)."""
        ...

    def drain(self, nodes: Sequence[NodeName], reason: str) -> None:
        """Let no new job start on the nodes. Running jobs go on."""
        ...

    def resume(self, nodes: Sequence[NodeName]) -> None:
        """Put drained nodes back in service."""
        ...

    def reboot(self, node: NodeName, reason: str) -> None:
        """Have Slurm reboot a node as soon as no job runs on it (RebootProgram), under this reason. Afterwards it is
        DOWN, not draining any more: whoever asked looks at it and resumes it."""
        ...

    def requeue(self, job: JobId, *, restarts: int | None = None) -> None:
        """Kill a running job and queue it again under its id. A job that is pending already is left as it is.

        So is one that has restarted more often than `restarts`, the count that the asker saw: it runs anew since.
        """
        ...

    def cancel(self, job: JobId) -> None:
        """End a job; one that has ended already is left as it is."""
        ...

    def signal(self, job: JobId, signal: str) -> None:
        """Send a signal (`USR1`) to the steps of a running job, not to its batch script. One that does not run is left
        as it is."""
        ...

    def update_job(self, job: JobId, change: JobChange) -> None:
        """Apply all of a change in one message."""
        ...

    def reservations(self) -> Sequence[Reservation]: ...

    def put_reservation(self, reservation: Reservation) -> None:
        """Create it, or bring the one of that name to this description."""
        ...

    def delete_reservation(self, name: str) -> None:
        """Delete it; a missing one is fine."""
        ...

    def reconfigure(self) -> None:
        """Make slurmctld read its configuration files again; running jobs survive."""
        ...


class StillActive(SlurmRefused):
    """slurmdbd deletes nothing that a run without an end uses, also when slurmctld has forgotten the job.

    Attributes:
        runs: those that use what was to be deleted, as far as slurmdbd lists them.
    """

    def __init__(self, message: str, *, runs: tuple[AccountingJob, ...]) -> None:
        super().__init__(message, way_out="It can go when they have ended; `sacctmgr show runawayjobs` ends lost ones.")
        self.runs = runs


class Partitions(Protocol):
    """Partitions of the running slurmctld. What it is told here lasts until it reads its files again."""

    def read(self) -> Mapping[PartitionName, PartitionSpec]:
        """All of them, by name; `default` and `topology` are not read."""
        ...

    def put(self, partitions: Sequence[PartitionSpec]) -> None:
        """Create them, or bring those of that name to this description. Jobs in them go on."""
        ...

    def delete(self, names: Iterable[PartitionName]) -> None:
        """Delete them; a missing one is fine.

        Raises:
            SlurmRefused: jobs are in one.
        """
        ...


class Topologies(Protocol):
    """The topologies that the running slurmctld plans with."""

    def read(self) -> str:
        """All of them, in the form of topology.yaml."""
        ...

    def move(self, nodes: Sequence[NodeName], units: Sequence[TopologyUnit]) -> None:
        """Take the nodes out of the units that they are in and put them into these, one a topology. Jobs go on.

        Not idempotent, alone among all writes: a node that is in the named block already is lost to it, though
        slurmctld still shows it there, and one whose block is not named is taken out of it (26.05). So name a unit of
        every topology, and only units that the nodes are not in. Ranks of jobs follow from the next reconfigure on.
        """
        ...


class LimitReader(Protocol):
    """Limits as slurmctld holds them, and what is in use against them now."""

    def memberships(self, user: UserName) -> Sequence[Membership]:
        """The user's associations with this cluster. One call, whatever there is."""
        ...

    def read(
        self,
        *,
        accounts: Collection[AccountName] | None = None,
        users: Collection[UserName] | None = None,
        qos: Collection[QosName] | None = None,
    ) -> LimitState:
        """Partitions, and associations and QOS: all, or those of the accounts (and of the users in them) and names.

        QOS of partitions and the account root are always among them. A fixed number of calls; O(what is asked for).
        """
        ...


class Accounting(Protocol):
    """slurmdbd. Writes are whole records in bulk: what a record does not say is cleared, never left.

    Deleting raises StillActive while runs without an end use any of it: the rest may be there still, too.
    """

    def read(self) -> AccountingState:
        """Accounts, users, associations and QOS of this cluster. A fixed number of calls, whatever there is."""
        ...

    def put_qos(self, qos: Sequence[Qos]) -> None: ...

    def put_accounts(self, accounts: Sequence[Account]) -> None:
        """Parents must come before children or exist already."""
        ...

    def put_associations(self, associations: Sequence[UserAssociation]) -> None:
        """Creates the users that do not exist yet."""
        ...

    def delete_associations(self, keys: Iterable[tuple[UserName, AccountName]]) -> None: ...

    def delete_users(self, users: Iterable[UserName]) -> None: ...

    def delete_accounts(self, accounts: Iterable[AccountName]) -> None:
        """Children must be gone or come first."""
        ...

    def delete_qos(self, qos: Iterable[QosName]) -> None: ...

    def jobs_since(self, start: datetime, end: datetime) -> Sequence[AccountingJob]:
        """Runs of jobs that overlap [start, end), every requeue of a job as a run of its own."""
        ...

    def transaction_numbers(self, since: datetime) -> frozenset[int]:
        """Numbers of all changes of accounting since then, whoever made them. Cheap: the same numbers, the same
        objects, but for what slurmdbd does not note (an account moved below another parent)."""
        ...

    def transactions(self, since: datetime) -> Sequence[Transaction]:
        """Who changed accounting since then, and when."""
        ...
