"""`LimitReader` over scontrol and slurmrestd: limits and what is in use, as slurmctld itself sees them.

`scontrol show assoc_mgr` prints slurmctld's own records: limits after everything that changes them on the way from
slurmdbd (hand-me-downs of parents, relative QOS), and what jobs that run and wait use, by QOS, by association, and by
account and user within a QOS. It prints no QOS flags, and a QOS's limits for accounts and users only once one has had
a job: those come from slurmdbd. There is no JSON of it in any release.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pydantic import Field

from slurm_gpuaas.domain.names import AccountName, PartitionName, QosName, UserName
from slurm_gpuaas.slurm.associations import AssociationsAnswer, AssociationWire
from slurm_gpuaas.slurm.limit_records import (
    WHOLE,
    AssociationLimits,
    InUse,
    Kind,
    LimitState,
    Membership,
    PartitionLimits,
    QosLimits,
)
from slurm_gpuaas.slurm.programs import Program
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.slurm.rest_wire import API, Answer, Number, RestWire, Text, TresList, Wire, tres_of

NameT = TypeVar("NameT", bound=str)

ROOT: Final = AccountName("root")
_DB: Final = f"/slurmdb/{API}"

_COUNTS: Final[Mapping[str, Kind]] = {
    "GrpJobs": Kind.GRP_JOBS,
    "GrpSubmitJobs": Kind.GRP_SUBMIT,
    "GrpWall": Kind.GRP_WALL,
    "MaxJobs": Kind.MAX_JOBS,
    "MaxSubmitJobs": Kind.MAX_SUBMIT,
    "MaxWallPJ": Kind.MAX_WALL,
    "MaxJobsPA": Kind.MAX_JOBS_PA,
    "MaxJobsPU": Kind.MAX_JOBS_PU,
    "MaxSubmitJobsPA": Kind.MAX_SUBMIT_PA,
    "MaxSubmitJobsPU": Kind.MAX_SUBMIT_PU,
}
_SIZES: Final[Mapping[str, Kind]] = {
    "GrpTRES": Kind.GRP_TRES,
    "GrpTRESMins": Kind.GRP_TRES_MINS,
    "GrpTRESRunMins": Kind.GRP_TRES_RUN_MINS,
    "MaxTRESPJ": Kind.MAX_TRES,
    "MaxTRESPN": Kind.MAX_TRES_NODE,
    "MaxTRESMinsPJ": Kind.MAX_TRES_MINS,
    "MinTRESPJ": Kind.MIN_TRES,
    "MaxTRESPA": Kind.MAX_TRES_PA,
    "MaxTRESPU": Kind.MAX_TRES_PU,
    "MaxTRESRunMinsPA": Kind.MAX_RUN_MINS_PA,
    "MaxTRESRunMinsPU": Kind.MAX_RUN_MINS_PU,
}
_TRES_IN_USE: Final = frozenset({Kind.GRP_TRES, Kind.MAX_TRES_PA, Kind.MAX_TRES_PU})
_RUN_MINUTES_IN_USE: Final = frozenset({Kind.GRP_TRES_RUN_MINS, Kind.MAX_RUN_MINS_PA, Kind.MAX_RUN_MINS_PU})
_JOBS_IN_USE: Final = frozenset({Kind.GRP_JOBS, Kind.MAX_JOBS_PA, Kind.MAX_JOBS_PU})
_SUBMITTED_IN_USE: Final = frozenset({Kind.GRP_SUBMIT, Kind.MAX_SUBMIT_PA, Kind.MAX_SUBMIT_PU})

# "8(3)": limit and use; "N(3)": no limit; "8": a limit that nothing counts against; "": no limit
_VALUE: Final = re.compile(r"(N|\d*)(?:\(([\d.]+)\))?")
_ASSOCIATION: Final = re.compile(
    r"ClusterName=\S* Account=(?P<account>\S+) UserName=(?P<user>[^( ]*)(?:\(\d+\))? Partition=(?P<partition>\S*)"
)
_PARENT: Final = re.compile(r"ParentAccount=(?P<parent>[^( ]*)")
_QOS: Final = re.compile(r"QOS=(?P<name>.+)\(\d+\)$")


class ScontrolLimits:
    """Args:
    wire: the connection to slurmrestd.
    scontrol: runs scontrol with the given arguments.
    """

    def __init__(self, wire: RestWire, scontrol: Program) -> None:
        self._wire = wire
        self._scontrol = scontrol

    def memberships(self, user: UserName) -> tuple[Membership, ...]:
        answer = self._wire.get(f"{_DB}/associations/", AssociationsAnswer, {"user": user})
        cluster = answer.meta.slurm.cluster
        return tuple(_membership(row) for row in answer.associations if row.cluster == cluster and row.user == user)

    def read(
        self,
        *,
        accounts: Collection[AccountName] | None = None,
        users: Collection[UserName] | None = None,
        qos: Collection[QosName] | None = None,
    ) -> LimitState:
        partitions = {one.name: one for one in map(_partition, self._partitions())}
        assigned = {one.qos for one in partitions.values() if one.qos is not None}
        words = ["show", "assoc_mgr", "flags=assoc,qos"]
        if accounts is not None:
            words.append(f"accounts={','.join(sorted({*accounts, ROOT}))}")
        if users is not None:
            # scontrol has no word for nobody; root has associations at most in accounts that are none of ours
            words.append(f"users={','.join(sorted(users)) or 'root'}")
        if qos is not None:
            words.append(f"qos={','.join(sorted({*qos, *assigned}))}")
        seen = parse(self._scontrol(words))
        enforced, flags, refuses = _settings(self._scontrol(["show", "config"]))
        return LimitState(
            associations={(one.account, one.user, one.partition): one for one in seen.associations},
            qos=dict(self._whole_qos(seen.qos)),
            partitions=partitions,
            safe="safe" in enforced,
            refuses=refuses,
            priority_flags=flags,
            tres=seen.tres,
        )

    def _partitions(self) -> tuple[_Partition, ...]:
        text = self._scontrol(["show", "partition", "--json"])
        return _PartitionsAnswer.model_validate_json(text).partitions

    def _whole_qos(self, seen: Iterable[_SeenQos]) -> Iterator[tuple[QosName, QosLimits]]:
        """slurmctld's records, with what only slurmdbd tells of each."""
        told = {row.name: row for row in self._wire.get(f"{_DB}/qos/", _QosAnswer).qos}
        for one in seen:
            row = told.get(one.name)
            if row is None:  # made since, or not there any more
                continue
            limits = {**one.limits, **row.for_consumers()}
            yield (
                one.name,
                QosLimits(
                    name=one.name,
                    flags=frozenset(row.flags),
                    usage_factor=1.0 if row.usage_factor.value is None else row.usage_factor.number,
                    limit_factor=None if row.limits.factor.value is None else row.limits.factor.number,
                    limits=limits,
                    in_use=one.in_use,
                    by_account=one.by_account,
                    by_user=one.by_user,
                ),
            )


# -- scontrol show assoc_mgr -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _SeenQos:
    name: QosName
    limits: Mapping[Kind, dict[str, int]]
    in_use: InUse
    by_account: Mapping[AccountName, InUse]
    by_user: Mapping[UserName, InUse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What `scontrol show assoc_mgr` printed."""

    associations: tuple[AssociationLimits, ...]
    qos: tuple[_SeenQos, ...]
    tres: tuple[str, ...]


@dataclass(slots=True)
class _Record:
    """The limits and uses of one holder, gathered line by line."""

    limits: dict[Kind, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    used: dict[Kind, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))

    def line(self, line: str) -> None:
        for word in line.split():
            key, equals, value = word.partition("=")
            if not equals:
                continue
            if (kind := _COUNTS.get(key)) is not None:
                self._value(kind, WHOLE, value)
            elif (kind := _SIZES.get(key)) is not None:
                for one in filter(None, value.split(",")):
                    tres, _, count = one.rpartition("=")
                    self._value(kind, tres, count)

    def _value(self, kind: Kind, tres: str, text: str) -> None:
        found = _VALUE.fullmatch(text)
        if found is None:
            raise SlurmRefused(
                f"scontrol says {kind}={text!r:.60}, which is not understood.",
                way_out="Report it with the version of Slurm.",
            )
        limit, used = found.groups()
        if limit not in {"", "N"}:
            self.limits[kind][tres] = int(limit)
        if used is not None:
            self.used[kind][tres] = int(float(used))

    def in_use(self) -> InUse:
        def whole(kinds: Iterable[Kind]) -> int:
            return max((self.used[kind].get(WHOLE, 0) for kind in kinds if kind in self.used), default=0)

        def of(kinds: Iterable[Kind]) -> dict[str, int]:
            return {tres: n for kind in kinds if kind in self.used for tres, n in self.used[kind].items() if n}

        return InUse(
            tres=of(_TRES_IN_USE),
            minutes=of([Kind.GRP_TRES_MINS]),
            run_minutes=of(_RUN_MINUTES_IN_USE),
            jobs=whole(_JOBS_IN_USE),
            submitted=whole(_SUBMITTED_IN_USE),
            wall=whole([Kind.GRP_WALL]),
        )

    def known(self) -> Mapping[Kind, dict[str, int]]:
        return {kind: limits for kind, limits in self.limits.items() if limits}


def parse(text: str) -> Seen:
    """`scontrol show assoc_mgr flags=assoc,qos` as it prints it.

    Raises:
        SlurmRefused: a value is not what any known release prints.
    """
    associations: list[AssociationLimits] = []
    qos: list[_SeenQos] = []
    tres: tuple[str, ...] = ()
    for block in _blocks(text):
        if not tres:
            tres = _tres_names(block)
        if (head := _ASSOCIATION.match(block[0])) is not None:
            associations.append(_association(head, block[1:]))
        elif (head := _QOS.match(block[0])) is not None:
            qos.append(_seen_qos(QosName.as_slurm_says(head["name"]), block[1:]))
    return Seen(associations=tuple(associations), qos=tuple(qos), tres=tres)


def _blocks(text: str) -> Iterator[list[str]]:
    """Records: a line at the margin and the indented ones below it."""
    block: list[str] = []
    for line in filter(None, text.splitlines()):
        if not line.startswith(" "):
            if block:
                yield block
            block = []
        block.append(line)
    if block:
        yield block


def _tres_names(block: Iterable[str]) -> tuple[str, ...]:
    """All names, in Slurm's order: GrpTRES tells the use of every one."""
    for line in block:
        word = line.strip()
        if word.startswith("GrpTRES="):
            return tuple(one.rpartition("=")[0] for one in word.removeprefix("GrpTRES=").split(","))
    return ()


def _association(head: re.Match[str], lines: Iterable[str]) -> AssociationLimits:
    record, parent = _Record(), ""
    for line in lines:
        if (above := _PARENT.match(line.strip())) is not None:
            parent = above["parent"]
        elif not line.lstrip().startswith("Comment="):  # anybody's text
            record.line(line)
    account = AccountName.as_slurm_says(head["account"])
    user = UserName.as_slurm_says(head["user"]) if head["user"] else None
    return AssociationLimits(
        account=account,
        user=user,
        partition=PartitionName.as_slurm_says(head["partition"]) if head["partition"] else None,
        # of a user's association Slurm names no parent: it is the account's own
        parent=account if user else (AccountName.as_slurm_says(parent) if parent else None),
        limits=record.known(),
        in_use=record.in_use(),
    )


def _seen_qos(name: QosName, lines: Iterable[str]) -> _SeenQos:
    own = _Record()
    accounts: dict[AccountName, _Record] = {}
    users: dict[UserName, _Record] = {}
    record, consumers = own, ""
    for line in lines:
        words = line.strip()
        if words in {"Account Limits", "User Limits"}:
            consumers = words
        elif consumers and line.startswith("      ") and not line.startswith("       "):
            record = _Record()
            if consumers == "Account Limits":
                accounts[AccountName.as_slurm_says(words)] = record
            else:
                users[UserName.as_slurm_says(words.rpartition("(")[0])] = record
        else:
            record.line(line)
    return _SeenQos(
        name=name,
        limits=own.known(),
        in_use=own.in_use(),
        by_account={account: one.in_use() for account, one in accounts.items()},
        by_user={user: one.in_use() for user, one in users.items()},
    )


def _settings(text: str) -> tuple[frozenset[str], frozenset[str], bool]:
    """AccountingStorageEnforce, PriorityFlags, and whether EnforcePartLimits refuses."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found[key.strip()] = value.strip()
    return (
        frozenset(found.get("AccountingStorageEnforce", "").split(",")),
        frozenset(found.get("PriorityFlags", "").split(",")),
        found.get("EnforcePartLimits", "NO") != "NO",
    )


# -- slurmdbd ----------------------------------------------------------------------------------------------------------


class _Consumers(Wire):
    account: Number = Field(default_factory=Number)
    user: Number = Field(default_factory=Number)


class _TresOf(Wire):
    account: TresList = ()
    user: TresList = ()


class _PerTres(Wire):
    per: _TresOf = Field(default_factory=_TresOf)


class _QosTres(Wire):
    per: _TresOf = Field(default_factory=_TresOf)
    minutes: _PerTres = Field(default_factory=_PerTres)


class _Active(Wire):
    per: _Consumers = Field(default_factory=_Consumers)


class _QosJobs(Wire):
    per: _Consumers = Field(default_factory=_Consumers)
    active_jobs: _Active = Field(default_factory=_Active)


class _QosMax(Wire):
    tres: _QosTres = Field(default_factory=_QosTres)
    jobs: _QosJobs = Field(default_factory=_QosJobs)


class _QosLimits(Wire):
    max: _QosMax = Field(default_factory=_QosMax)
    factor: Number = Field(default_factory=Number)


class _Qos(Wire):
    name: str
    flags: tuple[str, ...] = ()
    usage_factor: Number = Field(default_factory=Number)
    limits: _QosLimits = Field(default_factory=_QosLimits)

    def for_consumers(self) -> Mapping[Kind, dict[str, int]]:
        """Limits of each account, of each user, in this QOS."""
        most = self.limits.max
        counts = {
            Kind.MAX_JOBS_PA: most.jobs.active_jobs.per.account.value,
            Kind.MAX_JOBS_PU: most.jobs.active_jobs.per.user.value,
            Kind.MAX_SUBMIT_PA: most.jobs.per.account.value,
            Kind.MAX_SUBMIT_PU: most.jobs.per.user.value,
        }
        sizes = {
            Kind.MAX_TRES_PA: tres_of(most.tres.per.account),
            Kind.MAX_TRES_PU: tres_of(most.tres.per.user),
            Kind.MAX_RUN_MINS_PA: tres_of(most.tres.minutes.per.account),
            Kind.MAX_RUN_MINS_PU: tres_of(most.tres.minutes.per.user),
        }
        return {kind: {WHOLE: count} for kind, count in counts.items() if count is not None} | {
            kind: tres for kind, tres in sizes.items() if tres
        }


class _QosAnswer(Answer):
    qos: tuple[_Qos, ...] = ()


def _membership(row: AssociationWire) -> Membership:
    # /share/organisation/project/0-alice/
    path = [step for step in row.lineage.split("/") if step and not step.startswith("0-")]
    return Membership(
        user=UserName.as_slurm_says(row.user),
        account=AccountName.as_slurm_says(row.account),
        partition=PartitionName.as_slurm_says(row.partition) if row.partition else None,
        above=tuple(AccountName.as_slurm_says(step) for step in reversed(path) if step != row.account),
        qos=frozenset(map(QosName.as_slurm_says, row.qos)),
        default_qos=QosName.as_slurm_says(row.default.qos) if row.default.qos else None,
        is_default=row.is_default,
    )


# -- Partitions --------------------------------------------------------------------------------------------------------


class _Nodes(Wire):
    configured: Text = ""
    total: int = 0


class _Allowed(Wire):
    allowed: Text = ""
    deny: Text = ""
    assigned: Text = ""


class _Maximums(Wire):
    time: Number = Field(default_factory=Number)
    nodes: Number = Field(default_factory=Number)


class _Minimums(Wire):
    nodes: int = 0


class _Defaults(Wire):
    time: Number = Field(default_factory=Number)


class _PartitionTres(Wire):
    billing_weights: Text = ""


class _State(Wire):
    state: tuple[str, ...] = ()


class _Partition(Wire):
    name: str
    nodes: _Nodes = Field(default_factory=_Nodes)
    qos: _Allowed = Field(default_factory=_Allowed)
    accounts: _Allowed = Field(default_factory=_Allowed)
    maximums: _Maximums = Field(default_factory=_Maximums)
    minimums: _Minimums = Field(default_factory=_Minimums)
    defaults: _Defaults = Field(default_factory=_Defaults)
    tres: _PartitionTres = Field(default_factory=_PartitionTres)
    partition: _State = Field(default_factory=_State)


class _PartitionsAnswer(Wire):
    partitions: tuple[_Partition, ...] = ()


def _partition(row: _Partition) -> PartitionLimits:
    return PartitionLimits(
        name=PartitionName.as_slurm_says(row.name),
        qos=QosName.as_slurm_says(row.qos.assigned) if row.qos.assigned else None,
        allow_qos=_names(row.qos.allowed, QosName.as_slurm_says),
        deny_qos=_names(row.qos.deny, QosName.as_slurm_says),
        allow_accounts=_names(row.accounts.allowed, AccountName.as_slurm_says),
        deny_accounts=_names(row.accounts.deny, AccountName.as_slurm_says),
        max_time=row.maximums.time.value,
        default_time=row.defaults.time.value,
        min_nodes=row.minimums.nodes,
        max_nodes=row.maximums.nodes.value,
        total_nodes=row.nodes.total,
        nodes=row.nodes.configured,
        billing_weights=weights(row.tres.billing_weights),
        up=row.partition.state == ("UP",),
    )


def _names(text: str, kind: Callable[[str], NameT]) -> frozenset[NameT]:
    return frozenset(kind(one) for one in text.split(",") if one)


def weights(text: str) -> Mapping[str, float]:
    """TRESBillingWeights: `CPU=1.0,Mem=0.25G,GRES/gpu=2` to TRES names as limits have them, and weights.

    A memory weight is for each MB of the unit it names (`0.25G`: 0.25 for each GB).
    """
    found: dict[str, float] = {}
    for one in filter(None, text.split(",")):
        name, _, value = one.partition("=")
        digits = value.rstrip("KMGTPkmgtp")
        unit = value[len(digits) :].upper()
        found[_lower_type(name)] = float(digits or 0) / _MEGABYTES[unit]
    return found


_MEGABYTES: Final[Mapping[str, float]] = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2, "P": 1024**3}


def _lower_type(name: str) -> str:
    kind, slash, rest = name.partition("/")
    return f"{kind.lower()}{slash}{rest}"
