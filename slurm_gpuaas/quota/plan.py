"""The way from what stands in Slurm to what should: a difference, as few bulk writes in a safe order. Pure.

Ours is what carries our description; associations belong to their account. Nothing else is ever written or deleted. A
name that we need and that somebody else's object has is a conflict, and a plan with a conflict writes nothing.

What we no longer want but jobs still use cannot be deleted (Slurm refuses). It is retired: its users may start nothing
there any more, and it goes when its jobs have ended. The plan lists it under `deferred`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeVar

from slurm_gpuaas.domain.jobs import Job
from slurm_gpuaas.domain.names import AccountName, PartitionName, ProjectName, QosName, UserName
from slurm_gpuaas.domain.slurm_accounts import guaranteed_qos
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.quota import stages
from slurm_gpuaas.quota.desired import CLOSED, OWNED, account_chain, burst_of
from slurm_gpuaas.quota.entitlement import Entitlement
from slurm_gpuaas.quota.partitions import Partitions, settings
from slurm_gpuaas.quota.stages import Stages
from slurm_gpuaas.slurm.records import Account, AccountingJob, AccountingState, PartitionSpec, Qos, UserAssociation

_TOLD: Final = 5
_UNNAMED: Final = "until Slurm's accounting lets it go: it refused to delete it together with others, and named no job"

Key = tuple[UserName, AccountName]
Record = Account | UserAssociation | Qos
T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R", Account, UserAssociation, Qos)
_Stage = Callable[[Stages[R]], tuple[R | None, R | None]]


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """Values as text for people; None = not set."""

    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who made Slurm differ from what it was brought to, and when."""

    actor: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one object. `kind` is account, association, qos, user or partition; `origin` is known of drift
    that Slurm's transaction log tells of."""

    action: Action
    kind: str
    name: str
    fields: tuple[FieldChange, ...] = ()
    origin: Origin | None = None


# -- What a step writes: one bulk call to Slurm each -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutQos:
    qos: tuple[Qos, ...]


@dataclass(frozen=True, slots=True)
class PutAccounts:
    accounts: tuple[Account, ...]


@dataclass(frozen=True, slots=True)
class PutAssociations:
    associations: tuple[UserAssociation, ...]


@dataclass(frozen=True, slots=True)
class WritePartitions:
    """Delete, replace the include file, create and change: in this order, so that the file lists all that is ours."""

    text: str
    put: tuple[PartitionSpec, ...]
    delete: tuple[PartitionName, ...]


@dataclass(frozen=True, slots=True)
class DeleteAssociations:
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class DeleteUsers:
    users: tuple[UserName, ...]


@dataclass(frozen=True, slots=True)
class DeleteAccounts:
    accounts: tuple[AccountName, ...]


@dataclass(frozen=True, slots=True)
class DeleteQos:
    qos: tuple[QosName, ...]


Write = (
    PutQos
    | PutAccounts
    | PutAssociations
    | WritePartitions
    | DeleteAssociations
    | DeleteUsers
    | DeleteAccounts
    | DeleteQos
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One bulk write. `title` says it in the audit trail and the journal, e.g. `raise QOS`."""

    title: str
    write: Write
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`steps` in the order of writing. `conflicts` and `deferred` are sentences."""

    steps: tuple[Step, ...] = ()
    conflicts: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(change for step in self.steps for change in step.changes)

    def with_conflicts(self, conflicts: tuple[str, ...]) -> Plan:
        """This plan, or one that writes nothing when there are conflicts."""
        return Plan(conflicts=conflicts) if conflicts else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """What jobs that have not ended use: Slurm refuses to delete it.

    Attributes:
        accounts: that slurmdbd refused without a word whose jobs are in the way: not all of them need have any.
        users: the same.
        refused_associations: the same.
        refused_qos: the same.
        told: sentences about jobs that only slurmdbd knows of.
    """

    associations: frozenset[Key] = frozenset()
    qos: frozenset[QosName] = frozenset()
    accounts: frozenset[AccountName] = frozenset()
    users: frozenset[UserName] = frozenset()
    refused_associations: frozenset[Key] = frozenset()
    refused_qos: frozenset[QosName] = frozenset()
    told: tuple[str, ...] = ()

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> Busy:
        alive = [job for job in jobs if not job.state.ended]
        return cls(
            associations=frozenset((job.user, job.account) for job in alive),
            qos=frozenset(job.qos for job in alive),
        )

    def __or__(self, other: Busy) -> Busy:
        return Busy(
            associations=self.associations | other.associations,
            qos=self.qos | other.qos,
            accounts=self.accounts | other.accounts,
            users=self.users | other.users,
            refused_associations=self.refused_associations | other.refused_associations,
            refused_qos=self.refused_qos | other.refused_qos,
            told=tuple(dict.fromkeys((*self.told, *other.told))),
        )

    @classmethod
    def of_runs(cls, runs: Iterable[AccountingJob]) -> Busy:
        """Runs that slurmdbd has no end of."""
        runs = tuple(runs)
        told = tuple(
            f"Slurm's accounting has no end of job {run.job_id} ({run.user}@{run.account}); "
            "if slurmctld has forgotten it, `sacctmgr show runawayjobs` ends it."
            for run in runs[:_TOLD]
        )
        return cls(
            associations=frozenset(
                (UserName.as_slurm_says(run.user), AccountName.as_slurm_says(run.account)) for run in runs
            ),
            qos=frozenset(QosName.as_slurm_says(run.qos) for run in runs),
            told=told,
        )

    @classmethod
    def of_step(cls, write: Write) -> Busy:
        """All that a refused deletion was to delete."""
        match write:
            case DeleteAssociations(keys):
                return cls(refused_associations=frozenset(keys))
            case DeleteUsers(users):
                return cls(users=frozenset(users))
            case DeleteAccounts(accounts):
                return cls(accounts=frozenset(accounts))
            case DeleteQos(qos):
                return cls(refused_qos=frozenset(qos))
            case _:
                return IDLE

    def of_member(self, key: Key) -> str | None:
        """Until when a member stays."""
        if key in self.associations:
            return f"until its jobs have ended ({_cancel(key)})"
        return _UNNAMED if key in self.refused_associations or key[0] in self.users else None

    def of_qos(self, name: QosName) -> str | None:
        """Until when a QOS stays."""
        if name in self.qos:
            return "until its jobs have ended"
        return _UNNAMED if name in self.refused_qos else None


IDLE: Final = Busy()


def plan(
    actual: AccountingState,
    wanted: AccountingState,
    *,
    partitions: Partitions | None = None,
    busy: Busy = IDLE,
) -> Plan:
    """What must be written so that Slurm is as wanted; no step when it is.

    Args:
        partitions: None leaves them alone.
    """
    conflicts = (*_conflicts(actual, wanted), *_foreign_partitions(partitions))
    if conflicts:
        return Plan(conflicts=conflicts)
    gone = _gone(actual, wanted, busy)
    raised, lowered = _put_limits(actual, wanted, gone)
    opened = partitions.opened(actual.qos.keys() | wanted.qos.keys()) if partitions else None
    if opened and partitions and not lowered and not partitions.after(opened).takes:
        opened = None  # one write does all
    steps = (
        *raised,
        _write_partitions(opened, "open partitions") if opened else None,
        *lowered,
        _write_partitions(partitions.after(opened), "write partitions") if partitions else None,
        _delete("remove members", DeleteAssociations, gone.associations, "association", _of_key),
        _delete("remove users", DeleteUsers, gone.users, "user", str),
        _delete("remove accounts", DeleteAccounts, gone.accounts, "account", str),
        _delete("remove QOS", DeleteQos, gone.qos, "qos", str),
    )
    return Plan(steps=tuple(step for step in steps if step is not None), deferred=gone.deferred)


def gone_of(step: Step, actual: AccountingState) -> tuple[Change, ...]:
    """The deletions of a step that Slurm has done."""
    there: Mapping[str, Collection[str]] = {
        "association": {_of_key(key) for key in actual.associations},
        "user": actual.users,
        "account": actual.accounts,
        "qos": actual.qos,
    }
    return tuple(
        one for one in step.changes if one.action is Action.DELETE and one.name not in there.get(one.kind, (one.name,))
    )


def is_ours(thing: Account | Qos | None) -> bool:
    return thing is not None and thing.description.startswith(OWNED)


def foreign_needs(actual: AccountingState, entitled: Iterable[Entitlement]) -> Mapping[ProjectName, str]:
    """Projects that need an account or a QOS under a name that somebody else's has, and a sentence about it."""
    accounts = {**actual.accounts_abroad, **actual.accounts}
    found: dict[ProjectName, str] = {}
    for one in entitled:
        needs: list[tuple[str, str, Account | Qos | None]] = [
            *(("Slurm account", name, accounts.get(name)) for name in account_chain(one)),
            *(("QOS", name, actual.qos.get(name)) for name in (guaranteed_qos(one.name), burst_of(one))),
        ]
        for what, name, there in needs:
            if there is not None and not is_ours(there):
                found[one.name] = told("It needs the {what} {name}, which is somebody else's.", what=what, name=name)
    return found


def digest(wanted: AccountingState) -> str:
    """Names a wanted state: equal states have equal digests."""
    records: list[Record] = [*wanted.accounts.values(), *wanted.associations.values(), *wanted.qos.values()]
    lines = sorted(
        repr((type(one).__name__, [(field.name, _text(getattr(one, field.name))) for field in fields(one)]))
        for one in records
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _conflicts(actual: AccountingState, wanted: AccountingState) -> Iterator[str]:
    accounts = {**actual.accounts_abroad, **actual.accounts}  # a name is one record, whatever clusters use it
    pairs: list[tuple[str, Account | Qos, Account | Qos | None]] = [
        *(("Slurm account", one, accounts.get(name)) for name, one in wanted.accounts.items()),
        *(("QOS", one, actual.qos.get(name)) for name, one in wanted.qos.items()),
    ]
    for what, needed, found in pairs:
        if found is not None and not is_ours(found):
            yield (
                f"{needed.description.removeprefix(OWNED)} needs the {what} {needed.name}, which exists and is not "
                f"ours (its description is {found.description!r:.60})."
            )


# -- Puts --------------------------------------------------------------------------------------------------------------


def _put_limits(
    actual: AccountingState, wanted: AccountingState, gone: _Gone
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """All that gives more, and all that gives less. QOS that others name in Preempt come first; moves last.

    Accounts are raised parents first and lowered children first.
    """
    qos = [stages.of_qos(actual.qos.get(one.name), one) for one in _differing(actual.qos, wanted.qos)]
    accounts = [
        stages.of_account(actual.accounts.get(one.name), one) for one in _differing(actual.accounts, wanted.accounts)
    ]
    members = _members(actual, wanted, gone)
    raised = (
        _put_qos("put QOS without preemption", [one for one in qos if one.more and not one.more.preempt], _more),
        _put_qos("put and raise QOS", [one for one in qos if one.more and one.more.preempt], _more),
        _put_accounts("put and raise accounts", accounts, _more),
        _put_members("put members", members, _more),
    )
    lowered = (
        _put_qos("lower QOS", qos, _less),
        _put_accounts("lower accounts", accounts[::-1], _less),
        _put_accounts("move accounts", accounts, _move),
        _put_members("narrow members", members, _less),
    )
    return tuple(filter(None, raised)), tuple(filter(None, lowered))


def _differing(actual: Mapping[K, R], wanted: Mapping[K, R]) -> list[R]:
    return [one for name, one in wanted.items() if one != actual.get(name)]


def _more(one: Stages[R]) -> tuple[R | None, R | None]:
    """Before and after of a stage."""
    return one.before, one.more


def _less(one: Stages[R]) -> tuple[R | None, R | None]:
    return one.more or one.before, one.less


def _move(one: Stages[R]) -> tuple[R | None, R | None]:
    return one.less or one.more or one.before, one.moved


def _put_qos(title: str, qos: Iterable[Stages[Qos]], stage: _Stage[Qos]) -> Step | None:
    pairs = [(before, after) for before, after in map(stage, qos) if after]
    changes = [_change("qos", after.name, before, after) for before, after in pairs]
    return _step(title, PutQos(tuple(after for _, after in pairs)), changes)


def _put_accounts(title: str, accounts: Iterable[Stages[Account]], stage: _Stage[Account]) -> Step | None:
    """Parents stand before children in `wanted`."""
    pairs = [(before, after) for before, after in map(stage, accounts) if after]
    changes = [_change("account", after.name, before, after) for before, after in pairs]
    return _step(title, PutAccounts(tuple(after for _, after in pairs)), changes)


def _put_members(title: str, members: Iterable[Stages[UserAssociation]], stage: _Stage[UserAssociation]) -> Step | None:
    pairs = [(before, after) for before, after in map(stage, members) if after]
    changes = [_change("association", _of_key((after.user, after.account)), before, after) for before, after in pairs]
    return _step(title, PutAssociations(tuple(after for _, after in pairs)), changes)


def _members(actual: AccountingState, wanted: AccountingState, gone: _Gone) -> list[Stages[UserAssociation]]:
    settled = _settled_defaults(actual, wanted.associations.keys(), [*wanted.associations.values(), *gone.retired])
    found = [(actual.associations.get((one.user, one.account)), one) for one in settled]
    # Slurm makes the first association of a new user the default.
    found.sort(key=lambda pair: not pair[1].is_default)
    return [stages.of_member(before, after) for before, after in found if before != after]


def _settled_defaults(
    actual: AccountingState, staying: Collection[Key], targets: Sequence[UserAssociation]
) -> list[UserAssociation]:
    """A user's default account is the user's own choice while it stands: users may change it by themselves. One in
    which nothing starts any more is no choice, as long as the user has another."""
    chosen = {
        one.user: one.account
        for key, one in (*actual.associations.items(), *_foreign(actual))
        if one.is_default and (key in staying or not is_ours(actual.accounts.get(one.account)))
    }
    for one in sorted(targets, key=lambda one: not one.is_default):
        chosen.setdefault(one.user, one.account)
    return [
        one if one.is_default == is_default else replace(one, is_default=is_default)
        for one in targets
        for is_default in [chosen[one.user] == one.account]
    ]


def _foreign_partitions(found: Partitions | None) -> Iterator[str]:
    for name in found.foreign if found else ():
        yield f"The policy needs partition {name}, which exists and is not ours."


def _write_partitions(found: Partitions, title: str) -> Step | None:
    if not found.put and not found.delete and found.file == found.text:
        return None
    changes = [
        Change(
            action=Action.CHANGE if spec.name in found.live else Action.CREATE,
            kind="partition",
            name=spec.name,
            fields=_fields(settings(found.live.get(spec.name)), settings(spec)),
        )
        for spec in found.put
    ]
    changes += [Change(action=Action.DELETE, kind="partition", name=name) for name in found.delete]
    if not changes:
        action = Action.CREATE if found.file is None else Action.CHANGE
        changes.append(Change(action=action, kind="partition", name="(the include file's text)"))
    write = WritePartitions(text=found.text, put=found.put, delete=found.delete)
    return Step(title=title, write=write, changes=tuple(changes))


# -- Deletions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gone:
    """Ours and no longer wanted: what can be deleted now (in the order of deleting), and what has to wait."""

    associations: tuple[Key, ...]
    users: tuple[UserName, ...]
    accounts: tuple[AccountName, ...]
    qos: tuple[QosName, ...]
    retired: tuple[UserAssociation, ...]
    deferred: tuple[str, ...]


def _gone(actual: AccountingState, wanted: AccountingState, busy: Busy) -> _Gone:
    surplus = [
        key for key in actual.associations if key not in wanted.associations and is_ours(actual.accounts.get(key[1]))
    ]
    held = {key: why for key in surplus if (why := busy.of_member(key))}
    ours = {user for user, _account in (*wanted.associations, *held)}
    elsewhere = {user for user, account in actual.associations if not is_ours(actual.accounts.get(account))}
    elsewhere |= {user for (user, _account), _one in _foreign(actual)}
    for user, account in surplus:
        if user in ours:
            continue
        if user not in elsewhere | actual.abroad and user in actual.administrators:
            # The last association goes with the user, and the rights of an administrator would go with both.
            held[user, account] = f"because {user} is a Slurm administrator"
        elif user in elsewhere and actual.associations[user, account].is_default:
            held[user, account] = f"because it is the default account of {user}, who has others to choose"
    leaving = [key for key in surplus if key not in held]
    users = {user for user, _account in leaving} - ours - elsewhere - actual.abroad - {user for user, _account in held}
    accounts, staying = _accounts_gone(actual, wanted, {account for _user, account in held} | busy.accounts)
    unwanted_qos = sorted(name for name, one in actual.qos.items() if is_ours(one) and name not in wanted.qos)
    held_qos = {name: why for name in unwanted_qos if (why := busy.of_qos(name))}
    return _Gone(
        associations=tuple(sorted(key for key in leaving if key[0] not in users)),
        users=tuple(sorted(users)),
        accounts=accounts,
        qos=tuple(name for name in unwanted_qos if name not in held_qos),
        retired=tuple(
            replace(actual.associations[key], qos=frozenset({CLOSED}), default_qos=CLOSED) for key in sorted(held)
        ),
        deferred=(
            *(f"Member {_of_key(key)} may start nothing and stays {why}." for key, why in sorted(held.items())),
            *(
                f"Account {name} stays {_UNNAMED}."
                if name in busy.accounts
                else f"Account {name} stays: there is something below it that is not going."
                for name in staying
            ),
            *(f"QOS {name} stays {why}." for name, why in held_qos.items()),
            *busy.told,
        ),
    )


def _foreign(actual: AccountingState) -> list[tuple[Key, UserAssociation]]:
    """Associations of a kind that we never write, in accounts that are not ours."""
    return [(key, one) for key, one in actual.unmanaged.items() if not is_ours(actual.accounts.get(key[1]))]


def _accounts_gone(
    actual: AccountingState, wanted: AccountingState, held: set[AccountName]
) -> tuple[tuple[AccountName, ...], tuple[AccountName, ...]]:
    """Accounts to delete, children before parents, and those that have to stay."""
    unwanted = {name for name, one in actual.accounts.items() if is_ours(one) and name not in wanted.accounts}
    parents = {name: (wanted.accounts.get(name) or one).parent for name, one in actual.accounts.items()}
    staying = {name for name in unwanted if name in held}
    above = [parent for name, parent in parents.items() if name not in unwanted or name in staying]
    while above:
        parent = above.pop()
        if parent in unwanted and parent not in staying:
            staying.add(parent)
            above.append(parents[parent])
    depth: dict[AccountName | None, int] = {None: 0}

    def depth_of(name: AccountName | None) -> int:
        if name not in depth:
            depth[name] = 1 + depth_of(parents.get(name) if name else None)
        return depth[name]

    going = sorted(unwanted - staying, key=lambda name: (-depth_of(name), name))
    return tuple(going), tuple(sorted(staying))


def _delete(
    title: str, write: Callable[[tuple[T, ...]], Write], gone: tuple[T, ...], kind: str, name: Callable[[T], str]
) -> Step | None:
    return _step(title, write(gone), [Change(action=Action.DELETE, kind=kind, name=name(one)) for one in gone])


# -- Differences as text -----------------------------------------------------------------------------------------------


def _step(title: str, write: Write, changes: Sequence[Change]) -> Step | None:
    return Step(title=title, write=write, changes=tuple(changes)) if changes else None


def _cancel(key: Key) -> str:
    return f"scancel --user={key[0]} --account={key[1]}"


def _of_key(key: Key) -> str:
    return f"{key[0]}@{key[1]}"


def _change(kind: str, name: str, before: Record | None, after: Record) -> Change:
    return Change(
        action=Action.CREATE if before is None else Action.CHANGE,
        kind=kind,
        name=name,
        fields=_fields({} if before is None else _values(before), _values(after)),
    )


def _values(record: Record) -> Mapping[str, str]:
    """Fields that are set, as text; the names that say which record it is are left out."""
    texts = ((field.name, _text(getattr(record, field.name))) for field in fields(record))
    return {name: text for name, text in texts if text is not None and name not in {"name", "user", "account"}}


def _fields(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[FieldChange, ...]:
    return tuple(
        FieldChange(field=name, before=before.get(name), after=after.get(name))
        for name in dict.fromkeys([*after, *before])
        if before.get(name) != after.get(name)
    )


def _text(value: object) -> str | None:
    match value:
        case None:
            return None
        case Mapping():
            return ",".join(f"{name}={count}" for name, count in sorted(value.items())) or None
        case frozenset():
            return ",".join(sorted(value)) or None
        case timedelta():
            return str(value)
        case _:
            return str(value)
