"""In-memory Slurm behind the door's protocols, for tests of everything above the door.

The fakes hold state and answer as real Slurm was seen to answer (`tests/slurm/test_conformance.py` puts the same
questions to the real drivers). They schedule nothing: a test plays the scheduler with `start` and `finish`.

Failures: `before` and `after` are called with the method's name around every call. Raising in `before` is a call that
never reached Slurm; raising in `after` is a write that took effect and whose answer was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.jobs import Job, JobId, JobState
from slurm_gpuaas.domain.names import AccountName, GpuModel, NodeName, PartitionName, QosName, UserName
from slurm_gpuaas.domain.nodes import Node, NodeBase, NodeFlag
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.slurm.limit_reader import weights
from slurm_gpuaas.slurm.limit_records import (
    AssociationLimits,
    InUse,
    Kind,
    LimitState,
    Membership,
    PartitionLimits,
    QosLimits,
)
from slurm_gpuaas.slurm.protocols import SlurmRefused, SlurmUnavailable, StillActive
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

EPOCH = datetime(2027, 1, 4, 9, 0, tzinfo=UTC)
"""When fake jobs were submitted unless a test says otherwise."""


@dataclass(slots=True)
class FakeClock:
    """A clock that moves only when told to."""

    at: datetime = EPOCH

    def now(self) -> datetime:
        return self.at

    def forward(self, by: timedelta) -> None:
        self.at += by


def make_node(
    name: str,
    *,
    base: NodeBase = NodeBase.IDLE,
    flags: NodeFlag = NodeFlag.NONE,
    reason: str = "",
    model: str | None = "b200",
    gpus: int = 8,
    gpus_allocated: int = 0,
) -> Node:
    return Node(
        name=NodeName(name),
        base=base,
        flags=flags,
        reason=reason,
        model=GpuModel(model) if model else None,
        gpus=gpus,
        gpus_allocated=gpus_allocated,
    )


def make_job(
    job_id: int,
    *,
    name: str = "train",
    user: str = "alice",
    account: str = "vision",
    qos: str = "guaranteed-vision",
    partition: str = "own",
    state: JobState = JobState.PENDING,
    reason: str = "None",
    nodes: Sequence[str] = (),
    node_count: int = 1,
    gpus: int | None = None,
    model: str | None = "b200",
    licenses: str = "",
    priority: int = 1,
    submitted: datetime = EPOCH,
    eligible: datetime | None = EPOCH,
    started: datetime | None = None,
    time_limit: timedelta | None = timedelta(hours=1),
    requeue: bool = True,
    restarts: int = 0,
    admin_comment: str = "",
) -> Job:
    """A job of whole 8-GPU nodes unless `gpus` says otherwise."""
    count = len(nodes) or node_count
    return Job(
        id=JobId(job_id),
        name=name,
        user=UserName(user),
        account=AccountName(account),
        qos=QosName(qos),
        partition=PartitionName(partition),
        state=state,
        reason=reason,
        nodes=tuple(NodeName(node) for node in nodes),
        node_count=count,
        gpus=8 * count if gpus is None else gpus,
        model=GpuModel(model) if model else None,
        licenses=licenses,
        priority=priority,
        submitted=submitted,
        eligible=eligible,
        started=started,
        time_limit=time_limit,
        requeue=requeue,
        restarts=restarts,
        admin_comment=admin_comment,
    )


def _nothing(method: str) -> None:
    """The default of `before` and `after`."""


@dataclass(kw_only=True)
class _Calls:
    """What both fakes share: the log of calls and the two failure hooks."""

    calls: list[str] = field(default_factory=list)
    """Names of the methods called, in order: a test asserts the load with it."""
    before: Callable[[str], None] = _nothing
    after: Callable[[str], None] = _nothing

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        self.calls.append(method)
        self.before(method)
        yield
        self.after(method)

    def go_down(self) -> None:
        """From now on every call raises SlurmUnavailable, until `come_back`."""

        def refuse(method: str) -> None:
            raise SlurmUnavailable("slurmctld does not answer (test).", way_out="Start it.")

        self.before = refuse

    def come_back(self) -> None:
        self.before = _nothing


class FakePartitions(_Calls):
    """`Partitions` over a dictionary that a test may read and set directly."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[PartitionName, PartitionSpec] = {}

    def read(self) -> Mapping[PartitionName, PartitionSpec]:
        with self._call("read"):
            return dict(self.by_name)

    def put(self, partitions: Sequence[PartitionSpec]) -> None:
        with self._call("put"):
            self.by_name.update({spec.name: spec for spec in partitions})

    def delete(self, names: Iterable[PartitionName]) -> None:
        with self._call("delete"):
            for name in names:
                self.by_name.pop(name, None)


class FakeTopologies(_Calls):
    """`Topologies` of a slurmctld that reads `file` when it is told to (`reload`). `text` is what it plans with."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.text = file.read_text() if file.exists() else ""
        self.moved: list[tuple[str, str]] = []
        """Node list and units of each update."""

    def reload(self) -> None:
        self.text = self.file.read_text()

    def read(self) -> str:
        with self._call("read"):
            return self.text

    def move(self, nodes: Sequence[NodeName], units: Sequence[TopologyUnit]) -> None:
        with self._call("move"):
            topologies = yaml.safe_load(self.text)
            assert {unit.topology for unit in units} == {one["topology"] for one in topologies}, "a topology lost nodes"
            for one in topologies:
                (wanted,) = (unit.unit for unit in units if unit.topology == one["topology"])
                rows = one["tree"]["switches"] if "tree" in one else one["block"]["blocks"]
                places = {row.get("switch", row.get("block")): row for row in rows}
                if wanted not in places:
                    raise SlurmRefused("scontrol said: Requested topology configuration is not available.")
                for name, row in places.items():
                    if "children" not in row:
                        held = set(expand_nodes(row["nodes"])) if row["nodes"] else set()
                        assert name != wanted or not held & set(nodes), "an identical update"
                        held = held | set(nodes) if name == wanted else held - set(nodes)
                        row["nodes"] = fold_nodes(held) if held else None
            self.text = yaml.safe_dump(topologies, sort_keys=False)
            self.moved.append((fold_nodes(nodes), ",".join(map(str, units))))


class FakeController(_Calls):
    """`Controller` over dictionaries that a test may read and set directly."""

    def __init__(self, nodes: Iterable[Node] = (), jobs: Iterable[Job] = (), *, clock: FakeClock | None = None) -> None:
        super().__init__()
        self.clock = clock or FakeClock()
        self.node_by_name: dict[NodeName, Node] = {node.name: node for node in nodes}
        self.job_by_id: dict[JobId, Job] = {job.id: job for job in jobs}
        self.reservation_by_name: dict[str, Reservation] = {}
        self.reconfigured = 0
        self.reboots_at_once = True
        self.signals: list[tuple[JobId, str]] = []

    # -- Controller

    def version(self) -> str:
        with self._call("version"):
            return "26.05.5"

    def nodes(self) -> Sequence[Node]:
        with self._call("nodes"):
            return tuple(self.node_by_name.values())

    def jobs(self) -> Sequence[Job]:
        with self._call("jobs"):
            return tuple(self.job_by_id.values())

    def drain(self, nodes: Sequence[NodeName], reason: str) -> None:
        with self._call("drain"):
            if not reason:
                raise SlurmRefused("A drain needs a reason.", way_out="Give one.")
            for node in self._known(nodes):
                self.node_by_name[node.name] = replace(node, flags=node.flags | NodeFlag.DRAIN, reason=reason)

    def resume(self, nodes: Sequence[NodeName]) -> None:
        with self._call("resume"):
            for node in self._known(nodes):
                base = NodeBase.IDLE if node.base is NodeBase.DOWN else node.base
                kept = node.flags & ~(NodeFlag.DRAIN | NodeFlag.FAIL)
                self.node_by_name[node.name] = replace(node, base=base, flags=kept, reason="")

    def reboot(self, node: NodeName, reason: str) -> None:
        """As Slurm with nextstate=DOWN. `reboots_at_once` says whether the node is back when this returns."""
        with self._call("reboot"):
            (held,) = self._known([node])
            flags, words = held.flags | NodeFlag.DRAIN | NodeFlag.REBOOT, f"{reason} : reboot issued"
            self.node_by_name[node] = replace(held, base=NodeBase.DOWN, flags=flags, reason=words)
            if self.reboots_at_once:
                self.boot(node)

    def requeue(self, job: JobId, *, restarts: int | None = None) -> None:
        with self._call("requeue"):
            held = self._job(job)
            if held.state is JobState.PENDING or (restarts is not None and held.restarts > restarts):
                return
            if held.state.ended:
                raise SlurmRefused(f"Job {job} has ended ({held.state}).", way_out="Read the jobs again.")
            if not held.requeue:
                raise SlurmRefused(f"Job {job} may not be requeued.", way_out="Submit it with --requeue.")
            self._occupy(held.nodes, held, sign=-1)
            self.job_by_id[job] = replace(
                held, state=JobState.PENDING, nodes=(), started=None, reason="BeginTime", restarts=held.restarts + 1
            )

    def cancel(self, job: JobId) -> None:
        with self._call("cancel"):
            if job in self.job_by_id and not self.job_by_id[job].state.ended:
                self.finish(job, JobState.CANCELLED)

    def signal(self, job: JobId, signal: str) -> None:
        with self._call("signal"):
            if job in self.job_by_id and self.job_by_id[job].state is JobState.RUNNING:
                self.signals.append((job, signal))

    def update_job(self, job: JobId, change: JobChange) -> None:
        with self._call("update_job"):
            held = self._job(job)
            if held.state.ended:
                raise SlurmRefused(f"Job {job} has ended.", way_out="Read the jobs again.")
            if held.state is not JobState.PENDING and (
                change.required_nodes is not None or change.licenses is not None or change.qos is not None
            ):
                raise SlurmRefused(f"Job {job} is no longer pending execution.", way_out="Read the jobs again.")
            wanted = {
                "required_nodes": change.required_nodes,
                "excluded_nodes": change.excluded_nodes,
                "licenses": change.licenses,
                "reservation": change.reservation,
                "priority": change.priority,
                "admin_comment": change.admin_comment,
                "qos": change.qos,
                "eligible": change.start_time,
            }
            for name, value in wanted.items():
                if value is not None:
                    held = replace(held, **{name: value})  # type: ignore[arg-type]
            if change.unhold:
                held = replace(held, priority=1, reason="None")
            if change.licenses == "" and held.reason == "Licenses":
                held = replace(held, reason="None")
            self.job_by_id[job] = held

    def reservations(self) -> Sequence[Reservation]:
        with self._call("reservations"):
            return tuple(self.reservation_by_name.values())

    def put_reservation(self, reservation: Reservation) -> None:
        with self._call("put_reservation"):
            present = self.reservation_by_name.get(reservation.name)
            if present and present.start <= self.clock.now() and present.start != reservation.start:
                raise SlurmRefused("Reservation already started.", way_out="Leave its start.")
            self.reservation_by_name[reservation.name] = reservation

    def delete_reservation(self, name: str) -> None:
        with self._call("delete_reservation"):
            if any(job.reservation == name and not job.state.ended for job in self.job_by_id.values()):
                raise SlurmRefused("Requested reservation is in use.", way_out="Let its jobs leave it.")
            self.reservation_by_name.pop(name, None)

    def reconfigure(self) -> None:
        with self._call("reconfigure"):
            self.reconfigured += 1

    # -- the scheduler, played by the test

    def boot(self, node: str) -> None:
        """A node that was told to reboot is back."""
        held = self.node_by_name[NodeName(node)]
        flags = held.flags & ~(NodeFlag.DRAIN | NodeFlag.REBOOT)
        self.node_by_name[held.name] = replace(
            held, flags=flags, reason=f"{held.reason} : reboot complete", booted=self.clock.now()
        )

    def start(self, job_id: int, nodes: Sequence[str]) -> None:
        """Run a pending job on the nodes, now."""
        job = self.job_by_id[JobId(job_id)]
        names = tuple(NodeName(node) for node in nodes)
        self._occupy(names, job, sign=1)
        self.job_by_id[job.id] = replace(
            job, state=JobState.RUNNING, nodes=names, node_count=len(names), started=self.clock.now(), reason="None"
        )

    def finish(self, job_id: int, state: JobState = JobState.COMPLETED) -> None:
        job = self.job_by_id[JobId(job_id)]
        self._occupy(job.nodes, job, sign=-1)
        self.job_by_id[job.id] = replace(job, state=state)

    def _occupy(self, names: Sequence[NodeName], job: Job, *, sign: int) -> None:
        for node in self._known(names):
            taken = node.gpus_allocated + sign * (job.gpus // len(names))
            base = NodeBase.IDLE if taken == 0 else NodeBase.ALLOCATED if taken == node.gpus else NodeBase.MIXED
            self.node_by_name[node.name] = replace(node, gpus_allocated=taken, base=base)

    def _known(self, names: Sequence[NodeName]) -> list[Node]:
        unknown = sorted(set(names) - self.node_by_name.keys())
        if unknown:
            raise SlurmRefused(f"Slurm has no node {', '.join(unknown)}.", way_out="Check the names with `sinfo -N`.")
        return [self.node_by_name[name] for name in names]

    def _job(self, job: JobId) -> Job:
        if job not in self.job_by_id:
            raise SlurmRefused(f"Slurm has no job {job}.", way_out="Read the jobs again.")
        return self.job_by_id[job]


class FakeAccounting(_Calls):
    """`Accounting` over dictionaries. `records_written` counts what reached Slurm: zero for a plan without changes.

    Every change of the dictionaries is a transaction, a test's own too, by `administrator` at the `clock`'s time.
    """

    def __init__(
        self, state: AccountingState | None = None, *, tres: Iterable[str] = (), clock: FakeClock | None = None
    ) -> None:
        super().__init__()
        self.clock = clock or FakeClock()
        self.administrator = "root"
        self.log: list[Transaction] = []
        self._noted: dict[tuple[str, ...], object] = {}
        state = state or AccountingState()
        self.account_by_name: dict[AccountName, Account] = dict(state.accounts)
        self.user_names: set[UserName] = set(state.users)
        self.association_by_key: dict[tuple[UserName, AccountName], UserAssociation] = dict(state.associations)
        self.qos_by_name: dict[QosName, Qos] = dict(state.qos)
        self.administrators: set[UserName] = set(state.administrators)
        self.tres = frozenset(tres)
        """Known TRES names; empty = all are known."""
        self.runs: list[AccountingJob] = []
        self.names_no_runs = False
        """Refuse deletions because of a run without an end, and do not say which."""
        self.deletes_in_parts = False
        """Delete users one by one, as a deletion of several requests does: some have gone when one is refused."""
        self.records_written = 0

    def read(self) -> AccountingState:
        with self._call("read"):
            return AccountingState(
                accounts=dict(self.account_by_name),
                users=frozenset(self.user_names),
                associations=dict(self.association_by_key),
                qos=dict(self.qos_by_name),
                administrators=frozenset(self.administrators),
            )

    def put_qos(self, qos: Sequence[Qos]) -> None:
        with self._call("put_qos"):
            known = self.qos_by_name.keys() | {one.name for one in qos}
            for one in qos:
                self._check_tres(one.grp_tres, one.max_tres_per_job, one.max_tres_per_account)
                self._check("QOS", one.preempt, known)
            self.qos_by_name.update({one.name: one for one in qos})
            self.records_written += len(qos)

    def put_accounts(self, accounts: Sequence[Account]) -> None:
        with self._call("put_accounts"):
            known = set(self.account_by_name)
            for account in accounts:
                self._check_tres(account.grp_tres, account.grp_tres_mins)
                if account.parent is not None:
                    self._check("account", [account.parent], known)
                known.add(account.name)
            self.account_by_name.update({account.name: account for account in accounts})
            self.records_written += len(accounts)

    def put_associations(self, associations: Sequence[UserAssociation]) -> None:
        with self._call("put_associations"):
            for one in associations:
                if not one.qos:
                    raise InvalidInput(f"The association of {one.user} with {one.account} allows no QOS.")
                self._check("account", [one.account], self.account_by_name)
                self._check("QOS", one.qos, self.qos_by_name)
            for one in sorted(associations, key=lambda one: not one.is_default):
                self.user_names.add(one.user)
                others = [other for other in self._of_user(one.user) if other.account != one.account]
                if one.is_default:
                    for other in others:
                        self.association_by_key[one.user, other.account] = replace(other, is_default=False)
                first = not any(other.is_default for other in others)
                self.association_by_key[one.user, one.account] = replace(one, is_default=one.is_default or first)
            self.records_written += len(associations)

    def delete_associations(self, keys: Iterable[tuple[UserName, AccountName]]) -> None:
        with self._call("delete_associations"):
            gone = set(keys) & self.association_by_key.keys()
            self._refuse_active(lambda run: (run.user, run.account) in gone)
            self.records_written += len(gone)
            self._drop_associations(gone.__contains__)

    def delete_users(self, users: Iterable[UserName]) -> None:
        with self._call("delete_users"):
            leaving = set(users)
            if not self.deletes_in_parts:
                self._refuse_active(lambda run: run.user in leaving)
            for user in sorted(leaving & self.user_names):
                self._refuse_active(lambda run, user=user: run.user == user)  # type: ignore[misc]
                self.user_names.remove(user)
                self.records_written += 1
                self._drop_associations(lambda key, user=user: key[0] == user)  # type: ignore[misc]

    def delete_accounts(self, accounts: Iterable[AccountName]) -> None:
        with self._call("delete_accounts"):
            accounts = tuple(accounts)
            self._refuse_active(lambda run: run.account in accounts)
            for name in accounts:
                children = [one.name for one in self.account_by_name.values() if one.parent == name]
                if children:
                    raise SlurmRefused(
                        f"Account {name} still has {len(children)} accounts below it.", way_out="Delete those first."
                    )
                self.records_written += self.account_by_name.pop(name, None) is not None
                self._drop_associations(lambda key, name=name: key[1] == name)  # type: ignore[misc]

    def delete_qos(self, qos: Iterable[QosName]) -> None:
        with self._call("delete_qos"):
            gone = set(qos) & self.qos_by_name.keys()
            self._refuse_active(lambda run: run.qos in gone)
            for name in gone:
                del self.qos_by_name[name]
                self.records_written += 1
            for other in self.qos_by_name.values():
                if other.preempt & gone:
                    self.qos_by_name[other.name] = replace(other, preempt=other.preempt - gone)
            for key, one in self.association_by_key.items():
                if one.qos & gone:
                    default = None if one.default_qos in gone else one.default_qos
                    self.association_by_key[key] = replace(one, qos=one.qos - gone, default_qos=default)

    def _refuse_active(self, uses: Callable[[AccountingJob], bool]) -> None:
        """Of a whole call, as slurmdbd does."""
        active = tuple(run for run in self.runs if run.ended is None and uses(run))
        if active:
            listed = () if self.names_no_runs else active
            raise StillActive("sacctmgr said: Job(s) active, cancel job(s) before remove (test).", runs=listed)

    def jobs_since(self, start: datetime, end: datetime) -> Sequence[AccountingJob]:
        with self._call("jobs_since"):
            return tuple(
                run
                for run in self.runs
                if (run.started or run.submitted) < end and (run.ended is None or run.ended > start)
            )

    def transaction_numbers(self, since: datetime) -> frozenset[int]:
        with self._call("transaction_numbers"):
            return frozenset(one.number for one in self.noted() if one.at >= since)

    def transactions(self, since: datetime) -> Sequence[Transaction]:
        with self._call("transactions"):
            return tuple(one for one in self.noted() if one.at >= since)

    def noted(self) -> list[Transaction]:
        """The log, after what changed since the last look was noted as `administrator`'s. An account's parent is left
        out, and so are the names of deleted associations: slurmdbd has neither."""
        found: dict[tuple[str, ...], object] = {
            **{("Accounts", name): replace(one, parent=None) for name, one in self.account_by_name.items()},
            **{("Users", name): name for name in self.user_names},
            **{("Associations", *key): one for key, one in self.association_by_key.items()},
            **{("QOS", name): one for name, one in self.qos_by_name.items()},
        }
        for key in sorted(found.keys() | self._noted.keys()):
            if found.get(key) != self._noted.get(key):
                verb = "Remove" if key not in found else "Modify" if key in self._noted else "Add"
                kind, *names = key
                pair = kind == "Associations"
                told = () if pair and verb == "Remove" else names
                self.log.append(
                    Transaction(
                        number=len(self.log) + 1,
                        at=self.clock.now(),
                        actor=self.administrator,
                        action=f"{verb} {kind}",
                        users=frozenset(told[:1] if pair else ()),
                        accounts=frozenset(told[1:] if pair else ()),
                        names=frozenset(() if pair else told),
                    )
                )
        self._noted = found
        return self.log

    def _drop_associations(self, gone: Callable[[tuple[UserName, AccountName]], bool]) -> None:
        for user, account in [key for key in self.association_by_key if gone(key)]:
            dropped = self.association_by_key.pop((user, account))
            left = self._of_user(user)
            if dropped.is_default and left:  # a user with associations has one default, always
                self.association_by_key[user, left[0].account] = replace(left[0], is_default=True)

    def _of_user(self, user: UserName) -> list[UserAssociation]:
        return [one for (name, _), one in sorted(self.association_by_key.items()) if name == user]

    def _check_tres(self, *limits: Iterable[str]) -> None:
        if self.tres:
            self._check("TRES", {name for limit in limits for name in limit}, self.tres)

    @staticmethod
    def _check(what: str, names: Iterable[str], known: Iterable[str]) -> None:
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise SlurmRefused(f"Slurm has no {what} {', '.join(unknown)}.", way_out="Create it first.")


class FakeLimits(_Calls):
    """`LimitReader` over the other fakes: limits of their accounts and QOS, and what their jobs use of them."""

    def __init__(self, accounting: FakeAccounting, controller: FakeController, partitions: FakePartitions) -> None:
        super().__init__()
        self.accounting, self.controller, self.partitions = accounting, controller, partitions
        self.partition_qos: dict[PartitionName, QosName] = {}

    def memberships(self, user: UserName) -> Sequence[Membership]:
        with self._call("memberships"):
            return [
                Membership(
                    user=user,
                    account=one.account,
                    partition=None,
                    above=self._above(one.account),
                    qos=one.qos,
                    default_qos=one.default_qos,
                    is_default=one.is_default,
                )
                for one in self.accounting.association_by_key.values()
                if one.user == user
            ]

    def read(
        self,
        *,
        accounts: Collection[AccountName] | None = None,
        users: Collection[UserName] | None = None,
        qos: Collection[QosName] | None = None,
    ) -> LimitState:
        with self._call("read"):
            associations = [*self._accounts(), *self._users()]
            return LimitState(
                associations={
                    (one.account, one.user, None): one
                    for one in associations
                    if (accounts is None or one.account in {*accounts, "root"})
                    and (users is None or one.user is None or one.user in users)
                },
                qos={
                    name: self._qos(one)
                    for name, one in self.accounting.qos_by_name.items()
                    if qos is None or name in {*qos, *self.partition_qos.values()}
                },
                partitions={
                    name: PartitionLimits(
                        name=name,
                        qos=self.partition_qos.get(name),
                        allow_qos=frozenset(spec.allow_qos),
                        max_time=int(spec.max_time.total_seconds() // 60),
                        total_nodes=len(self.controller.node_by_name),
                        nodes=spec.nodes,
                        billing_weights=weights(spec.billing_weights),
                    )
                    for name, spec in self.partitions.by_name.items()
                },
                safe=True,
                refuses=False,
                priority_flags=frozenset(),
                tres=(
                    "cpu",
                    "mem",
                    "energy",
                    "node",
                    "billing",
                    "fs/disk",
                    "vmem",
                    "pages",
                    "gres/gpu",
                    "gres/gpu:b200",
                ),
            )

    def _above(self, account: AccountName) -> tuple[AccountName, ...]:
        found = self.accounting.account_by_name[account].parent
        return () if found is None else (found, *self._above(found))

    def _accounts(self) -> Iterator[AssociationLimits]:
        root = AccountName("root")
        yield AssociationLimits(account=root)
        for name, one in self.accounting.account_by_name.items():
            if name != root:
                limits = {Kind.GRP_TRES: one.grp_tres, Kind.GRP_TRES_MINS: one.grp_tres_mins}
                below = {name, *(other for other in self.accounting.account_by_name if name in self._above(other))}
                yield AssociationLimits(
                    account=name,
                    parent=one.parent or root,
                    limits={kind: tres for kind, tres in limits.items() if tres},
                    in_use=self._in_use(lambda job, below=below: job.account in below),  # type: ignore[misc]
                )

    def _users(self) -> Iterator[AssociationLimits]:
        for user, account in self.accounting.association_by_key:
            yield AssociationLimits(account=account, user=user, parent=account)

    def _qos(self, one: Qos) -> QosLimits:
        limits = {Kind.GRP_TRES: one.grp_tres, Kind.MAX_TRES: one.max_tres_per_job}
        return QosLimits(
            name=one.name,
            flags=one.flags,
            limits={kind: tres for kind, tres in limits.items() if tres},
            in_use=self._in_use(lambda job: job.qos == one.name),
        )

    def _in_use(self, counts: Callable[[Job], bool]) -> InUse:
        jobs = [job for job in self.controller.job_by_id.values() if job.state is JobState.RUNNING and counts(job)]
        gpus = sum(job.gpus for job in jobs)
        return InUse(tres={"gres/gpu": gpus, "gres/gpu:b200": gpus, "billing": gpus}, jobs=len(jobs))
