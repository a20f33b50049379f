"""`Accounting` over slurmrestd and sacctmgr: whole records in bulk, names checked before they are written.

Why names are checked here (all measured on Slurm 26.05.5, API v0.0.42): a QOS with one unknown TRES name is accepted
with HTTP 200 and *all* its limits of that kind vanish; an association with an unknown account is accepted and nothing
is written; an account association made by `POST /associations` has no parent and a broken lineage; `POST /users` takes
a user who ran jobs and was deleted for present and leaves the mark on; an empty text in a preempt list ends slurmrestd.

New accounts and associations go through `sacctmgr load` instead: it has neither fault, and takes a third of the time,
because slurmrestd asks slurmdbd about every record by itself before it writes (900 associations: 2.4 s against 7 s).
slurmdbd does the work of a connection in one thread, so what is new is written over two. Why associations are read
with sacctmgr, `associations` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

from pydantic import Field

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import AccountName, QosName, UserName
from slurm_gpuaas.slurm import associations as listing
from slurm_gpuaas.slurm import loading, transactions
from slurm_gpuaas.slurm.associations import Association
from slurm_gpuaas.slurm.programs import Program, program
from slurm_gpuaas.slurm.protocols import SlurmRefused, StillActive
from slurm_gpuaas.slurm.records import (
    QOS_FLAGS,
    Account,
    AccountingJob,
    AccountingState,
    Qos,
    Transaction,
    Tres,
    UserAssociation,
)
from slurm_gpuaas.slurm.rest_wire import API, Answer, Number, RestWire, Text, TresList, Wire, number, tres_of
from slurm_gpuaas.slurm.translate import moment

ROOT: Final = "root"
"""Slurm's own top account. Never ours: it is not read, and `parent=None` means directly below it."""

_DB: Final = f"/slurmdb/{API}"
_BATCH: Final = 1000
"""Records a request. slurmdbd holds its locks for a whole request: 1,000 associations take it about 3 s."""
_SPLIT: Final = 50
"""Records from which on they are written over two connections."""
_ACTIVE: Final = "Job(s) active"
_INSTANT: Final = timedelta(seconds=1)
_LOAD: Final = 5000
"""Entries a load. Each load first reads all that is there: 5,000 members take 6 s in one, 12 s in loads of 1,000."""


class _TresAnswer(Answer):
    tres: TresList = Field(default=(), alias="TRES")


class _Account(Wire):
    name: str
    description: Text = ""
    organization: Text = ""


class _AccountsAnswer(Answer):
    accounts: tuple[_Account, ...] = ()


class _User(Wire):
    name: str
    administrator_level: tuple[str, ...] = ()

    @property
    def administers(self) -> bool:
        return not {"None", "Not Set"}.issuperset(self.administrator_level)


class _UsersAnswer(Answer):
    users: tuple[_User, ...] = ()


class _PerTres(Wire):
    job: TresList = ()
    account: TresList = ()


class _QosTres(Wire):
    total: TresList = ()
    per: _PerTres = Field(default_factory=_PerTres)


class _WallPer(Wire):
    job: Number = Field(default_factory=Number)


class _Wall(Wire):
    per: _WallPer = Field(default_factory=_WallPer)


class _QosMax(Wire):
    tres: _QosTres = Field(default_factory=_QosTres)
    wall_clock: _Wall = Field(default_factory=_Wall)


class _QosLimits(Wire):
    grace_time: int = 0
    max: _QosMax = Field(default_factory=_QosMax)


class _Preempt(Wire):
    list: tuple[str, ...] = ()
    mode: tuple[str, ...] = ()
    exempt_time: Number = Field(default_factory=Number)


class _Qos(Wire):
    name: str
    description: Text = ""
    flags: tuple[str, ...] = ()
    priority: Number = Field(default_factory=Number)
    preempt: _Preempt = Field(default_factory=_Preempt)
    limits: _QosLimits = Field(default_factory=_QosLimits)


class _QosAnswer(Answer):
    qos: tuple[_Qos, ...] = ()


class _JobState(Wire):
    current: tuple[str, ...] = ()


class _JobTime(Wire):
    submission: int = 0
    start: int = 0
    end: int = 0


class _JobTres(Wire):
    allocated: TresList = ()


class _Job(Wire):
    job_id: int
    name: Text = ""
    user: Text = ""
    account: Text = ""
    qos: Text = ""
    partition: Text = ""
    cluster: Text = ""
    nodes: Text = ""
    state: _JobState = Field(default_factory=_JobState)
    time: _JobTime = Field(default_factory=_JobTime)
    tres: _JobTres = Field(default_factory=_JobTres)


class _JobsAnswer(Answer):
    jobs: tuple[_Job, ...] = ()


T = TypeVar("T")


class RestAccounting:
    """slurmdbd through slurmrestd.

    Args:
        wire: the connection.
        sacctmgr: how to run `sacctmgr`: for reading associations, QOS names and the transaction log, for loading what
            is new, for deletions, and for emptying a QOS's preempt list, which the REST API has no words for (an empty
            list is ignored, an empty name ends slurmrestd). The program on PATH unless told otherwise.
    """

    def __init__(self, wire: RestWire, *, sacctmgr: Program | None = None) -> None:
        self._wire = wire
        self._sacctmgr = sacctmgr or program(("sacctmgr",))
        self._cluster: str | None = None
        self._tres: frozenset[str] = frozenset()

    # ------------------------------------------------------------------ read

    def read(self) -> AccountingState:
        """Five calls, whatever there is; one more where names or limits in Slurm are not plain."""
        bare = {
            AccountName.as_slurm_says(one.name): Account(
                name=AccountName.as_slurm_says(one.name),
                parent=None,
                description=one.description,
                organization=one.organization,
            )
            for one in self._wire.get(f"{_DB}/accounts/", _AccountsAnswer).accounts
            if one.name != ROOT
        }
        users = self._wire.get(f"{_DB}/users/", _UsersAnswer).users
        here, abroad = self._by_place()
        accounts = dict(bare)
        associations: dict[tuple[UserName, AccountName], UserAssociation] = {}
        unmanaged: dict[tuple[UserName, AccountName], UserAssociation] = {}
        for row in here:
            if row.user:
                association = _user_association(row)
                kept = unmanaged if row.account == ROOT or row.partition else associations
                kept[association.user, association.account] = association
            elif row.account in bare:
                account = bare[AccountName.as_slurm_says(row.account)]
                accounts[account.name] = replace(
                    account,
                    parent=None if row.parent in {"", ROOT} else AccountName.as_slurm_says(row.parent),
                    grp_tres=row.grp_tres,
                    grp_tres_mins=row.grp_tres_mins,
                    fairshare=row.fairshare,
                )
        only_abroad = {row.account for row in abroad} - {row.account for row in here}
        qos = {one.name: one for one in map(_qos, self._qos())}
        return AccountingState(
            accounts={name: one for name, one in accounts.items() if name not in only_abroad},
            users=frozenset(UserName.as_slurm_says(one.name) for one in users),
            associations=associations,
            qos=qos,
            administrators=frozenset(UserName.as_slurm_says(one.name) for one in users if one.administers),
            unmanaged=unmanaged,
            abroad=frozenset(UserName.as_slurm_says(row.user) for row in abroad if row.user),
            accounts_abroad={name: one for name, one in bare.items() if name in only_abroad},
        )

    def jobs_since(self, start: datetime, end: datetime) -> Sequence[AccountingJob]:
        query = {
            "cluster": self.cluster(),
            "start_time": str(int(start.timestamp())),
            "end_time": str(int(end.timestamp())),
            "show_duplicates": "true",
            "skip_steps": "true",
            "disable_truncate_usage_time": "true",
        }
        runs = map(_accounting_job, self._wire.get(f"{_DB}/jobs/", _JobsAnswer, query).jobs)
        # slurmdbd compares whole seconds and counts a run that ends exactly at `start`.
        return tuple(
            run for run in runs if (run.started or run.submitted) < end and (run.ended is None or run.ended > start)
        )

    def transaction_numbers(self, since: datetime) -> frozenset[int]:
        return transactions.numbers(self._sacctmgr(transactions.numbers_since(since)))

    def transactions(self, since: datetime) -> Sequence[Transaction]:
        return transactions.transactions(self._sacctmgr(transactions.rows_since(since)))

    def ping(self) -> str:
        """The cluster's name, after slurmdbd has answered. Raises SlurmUnavailable when it does not."""
        return self._wire.get(f"{_DB}/tres/", _TresAnswer).meta.slurm.cluster

    def cluster(self) -> str:
        """Slurm's ClusterName, as slurmrestd says it."""
        if self._cluster is None:
            name = self._wire.get(f"{_DB}/ping/", Answer).meta.slurm.cluster
            if not name:
                raise SlurmRefused("slurmrestd does not say which cluster it serves.", way_out="Set ClusterName.")
            self._cluster = name
        return self._cluster

    # ------------------------------------------------------------------ write

    def put_qos(self, qos: Sequence[Qos]) -> None:
        """A TRES limit that a QOS has and the record has not is lifted by name: slurmrestd merges these lists."""
        if not qos:
            return
        self._check_tres(
            limit for one in qos for limit in (one.grp_tres, one.max_tres_per_job, one.max_tres_per_account)
        )
        present = {one.name: one for one in map(_qos, self._qos())}
        for level in _preempted_first(qos, present):
            for batch in _batches(level):
                _in_two(batch, lambda part: self._post_qos(part, present))
        for one in qos:
            if not one.preempt and one.name in present and present[one.name].preempt:
                self._sacctmgr(["--immediate", "modify", "qos", "where", f"name={one.name}", "set", "preempt="])

    def _post_qos(self, qos: Sequence[Qos], present: Mapping[QosName, Qos]) -> None:
        self._wire.post(f"{_DB}/qos/", {"qos": [_qos_body(one, present.get(one.name)) for one in qos]})

    def put_accounts(self, accounts: Sequence[Account]) -> None:
        """New ones are loaded, then what differs or could not be loaded is posted: text, place and limits.

        Cut off in between, `read` shows the difference and the same call mends it.
        """
        if not accounts:
            return
        self._check_tres(limit for one in accounts for limit in (one.grp_tres, one.grp_tres_mins))
        present = {row.account for row in self._associations() if not row.user}
        known = set(present)
        for one in accounts:
            if one.parent is not None and one.parent not in known:
                raise SlurmRefused(
                    f"Account {one.name} names parent {one.parent}, which Slurm does not have.",
                    way_out="Create the parent first.",
                )
            known.add(one.name)
        new = [one for one in accounts if one.name not in present]
        parents = {one.parent for one in new}
        self._load([loading.account(one) for one in new if one.name in parents], split=False)
        self._load([loading.account(one) for one in new if one.name not in parents])
        posted = [one for one in accounts if one.name in present or not loading.is_plain(one)]
        for batch in _batches(posted):
            names = [
                {"name": one.name, "description": one.description, "organization": one.organization} for one in batch
            ]
            self._wire.post(f"{_DB}/accounts/", {"accounts": names})
            rows = [self._account_body(one) for one in batch]
            self._wire.post(f"{_DB}/associations/", {"associations": rows})

    def put_associations(self, associations: Sequence[UserAssociation]) -> None:
        """New ones are loaded, those that exist are posted."""
        if not associations:
            return
        for one in associations:
            if not one.qos:
                raise InvalidInput(
                    f"The association of {one.user} with {one.account} allows no QOS.",
                    way_out="Slurm has no way to say that: delete the association instead.",
                )
            if one.default_qos is not None and one.default_qos not in one.qos:
                raise InvalidInput(
                    f"Default QOS {one.default_qos} of {one.user} in {one.account} is not among those allowed there.",
                    way_out="Allow it, or choose another default.",
                )
        rows = self._associations()
        _check_known("account", {one.account for one in associations}, {row.account for row in rows if not row.user})
        known_qos = self._sacctmgr(["--noheader", "--parsable2", "show", "qos", "format=name"]).splitlines()
        _check_known("QOS", {name for one in associations for name in one.qos}, set(known_qos))
        present = self._user_rows(rows)
        users = {user for user, _account in present}
        # Those that become a user's default come first, so that no user is left without one in between.
        ordered = sorted(associations, key=lambda one: not one.is_default)
        new = [one for one in ordered if (one.user, one.account) not in present]
        # A new user is made by one entry alone: two halves never make the same one.
        makes_user = {one.user: one for one in reversed(new) if one.user not in users}
        self._load([loading.member(one) for one in makes_user.values()])
        self._load([loading.member(one) for one in new if one is not makes_user.get(one.user)])
        posted = [
            one for one in ordered if one.user in users and (one.is_default or (one.user, one.account) in present)
        ]
        for batch in _batches(posted):
            self._wire.post(f"{_DB}/associations/", {"associations": [self._user_body(one) for one in batch]})

    def _load(self, entries: Sequence[loading.Entry], *, split: bool = True) -> None:
        """Unless they are `split`, an entry may be the parent of one after it."""
        cluster = self.cluster()

        def load(part: Sequence[loading.Entry]) -> None:
            text = loading.text(cluster, part)
            self._sacctmgr(["--immediate", "--quiet", "load", "/dev/stdin"], stdin=text)

        for batch in _batches(entries, _LOAD):
            if split:
                _in_two(batch, load)
            else:
                load(batch)

    def delete_associations(self, keys: Iterable[tuple[UserName, AccountName]]) -> None:
        rows = self._user_rows()
        leaving = set(keys) & rows.keys()
        with self._unless_active(lambda run: (run.user, run.account) in leaving, says_why=False):
            self._delete_associations(rows, leaving)

    def _delete_associations(
        self,
        rows: dict[tuple[UserName, AccountName], UserAssociation],
        leaving: Collection[tuple[UserName, AccountName]],
    ) -> None:
        self._move_defaults(rows, leaving)
        accounts_of: dict[UserName, list[AccountName]] = defaultdict(list)
        for user, account in sorted(leaving):
            accounts_of[user].append(account)
        users_of: dict[tuple[AccountName, ...], list[UserName]] = defaultdict(list)
        for user, accounts in accounts_of.items():
            users_of[tuple(accounts)].append(user)
        # slurmrestd deletes the product of both lists, so only users who leave the same accounts share a call.
        for accounts_left, users in users_of.items():
            for batch in _batches(users, 100):
                query = {"cluster": self.cluster(), "account": ",".join(accounts_left), "user": ",".join(batch)}
                self._wire.delete(f"{_DB}/associations/", Answer, query)

    def delete_users(self, users: Iterable[UserName]) -> None:
        """Those whom another cluster knows lose their associations with this one only."""
        here, abroad = self._by_place()
        # slurmrestd deletes one a call: 900 users take it half a minute, sacctmgr a quarter of a second.
        leaving = set(users) & self._users()
        with self._unless_active(lambda run: run.user in leaving):
            self._delete("user", sorted(leaving), here=_users_of(here), abroad=_users_of(abroad))

    def delete_accounts(self, accounts: Iterable[AccountName]) -> None:
        """Checks for children itself: Slurm would take a whole subtree along. Other clusters keep theirs."""
        present = {one.name for one in self._wire.get(f"{_DB}/accounts/", _AccountsAnswer).accounts}
        leaving = {name for name in accounts if name in present}
        if not leaving:
            return
        rows, abroad = self._by_place()
        parent_of = {row.account: row.parent for row in rows if not row.user}
        kept = sorted(child for child, parent in parent_of.items() if parent in leaving and child not in leaving)
        if kept:
            raise SlurmRefused(
                f"{len(kept)} accounts stand below those to be deleted, first {kept[0]}.", way_out="Delete those first."
            )
        user_rows = self._user_rows(rows)
        self._move_defaults(user_rows, {key for key in user_rows if key[1] in leaving})
        ordered = sorted(leaving, key=lambda name: (-_depth(name, parent_of), name))
        with self._unless_active(lambda run: run.account in leaving):
            self._delete("account", ordered, here=parent_of.keys(), abroad={row.account for row in abroad})

    def delete_qos(self, qos: Iterable[QosName]) -> None:
        """Out of other QOS's preempt lists first: before 25.05 slurmdbd leaves it there, and slurmrestd 24.11 then
        answers HTTP 500, and nothing else, to every reading of the QOS."""
        present = {one.name: one for one in map(_qos, self._qos())}
        leaving = set(qos) & present.keys()
        kept_of: dict[frozenset[QosName], list[QosName]] = defaultdict(list)
        for one in present.values():
            if one.name not in leaving and one.preempt & leaving:
                kept_of[one.preempt - leaving].append(one.name)
        for kept, names in kept_of.items():
            for batch in _batches(sorted(names)):
                change = ["where", f"name={','.join(batch)}", "set", f"preempt={','.join(sorted(kept))}"]
                self._sacctmgr(["--immediate", "--quiet", "modify", "qos", *change])
        with self._unless_active(lambda run: run.qos in leaving):
            for batch in _batches(sorted(leaving)):
                self._sacctmgr(["--immediate", "--quiet", "delete", "qos", f"name={','.join(batch)}"])

    # ------------------------------------------------------------------ parts

    def _associations(self) -> list[Association]:
        return self._by_place()[0]

    def _by_place(self) -> tuple[list[Association], list[Association]]:
        """Associations of this cluster, and of others that slurmdbd serves."""
        here: list[Association] = []
        abroad: list[Association] = []
        rows = listing.from_rows(self._sacctmgr(listing.ROWS), self._sacctmgr(listing.DEFAULT_ROWS))
        for row in rows if rows is not None else listing.from_json(self._sacctmgr(listing.JSON)):
            (here if row.cluster == self.cluster() else abroad).append(row)
        return here, abroad

    @contextmanager
    def _unless_active(self, uses: Callable[[AccountingJob], bool], *, says_why: bool = True) -> Iterator[None]:
        """Tell a refusal because of runs without an end from others. sacctmgr names one of them, slurmrestd none, and
        for several accounts at once not even the reason.

        Args:
            says_why: the refusal has its reason in it (sacctmgr's); else runs that use any of it are taken for it.
        """
        try:
            yield
        except SlurmRefused as error:
            active = _ACTIVE in str(error)
            if says_why and not active:
                raise
            now = datetime.now(UTC)
            runs = tuple(run for run in self.jobs_since(now - _INSTANT, now) if run.ended is None and uses(run))
            if not runs and not active:
                raise
            raise StillActive(str(error), runs=runs) from error

    def _delete(self, kind: str, names: Sequence[str], *, here: Collection[str], abroad: Collection[str]) -> None:
        """Delete what no other cluster knows, record and all; of the rest, what this cluster has.

        A record that goes takes its associations with every cluster along.
        """
        for batch in _batches(name for name in names if name in abroad and name in here):
            where = [f"name={','.join(batch)}", f"cluster={self.cluster()}"]
            self._sacctmgr(["--immediate", "--quiet", "delete", kind, "where", *where])
        for batch in _batches(name for name in names if name not in abroad):
            self._sacctmgr(["--immediate", "--quiet", "delete", kind, "where", f"name={','.join(batch)}"])

    def _user_rows(
        self, rows: Iterable[Association] | None = None
    ) -> dict[tuple[UserName, AccountName], UserAssociation]:
        found = map(_user_association, (row for row in rows or self._associations() if row.user and not row.partition))
        return {(one.user, one.account): one for one in found}

    def _users(self) -> frozenset[UserName]:
        users = self._wire.get(f"{_DB}/users/", _UsersAnswer).users
        return frozenset(UserName.as_slurm_says(one.name) for one in users)

    def _qos(self) -> tuple[_Qos, ...]:
        return self._wire.get(f"{_DB}/qos/", _QosAnswer).qos

    def _move_defaults(
        self,
        rows: dict[tuple[UserName, AccountName], UserAssociation],
        leaving: Collection[tuple[UserName, AccountName]],
    ) -> None:
        """Slurm refuses to delete a user's default association while there is another: make the other the default."""
        remaining = {user: one for (user, account), one in sorted(rows.items()) if (user, account) not in leaving}
        moved = [
            replace(remaining[user], is_default=True)
            for user, account in leaving
            if rows[user, account].is_default and user in remaining
        ]
        if moved:
            self._wire.post(f"{_DB}/associations/", {"associations": [self._user_body(one) for one in moved]})

    def _check_tres(self, limits: Iterable[Tres]) -> None:
        names = {name for limit in limits for name in limit}
        if not names <= self._tres:
            answer = self._wire.get(f"{_DB}/tres/", _TresAnswer)
            self._tres = frozenset(one.key for one in answer.tres)
        unknown = sorted(names - self._tres)
        if unknown:
            raise SlurmRefused(
                f"Slurm does not count {', '.join(unknown)}; it counts {', '.join(sorted(self._tres))}.",
                way_out="Add it to AccountingStorageTRES in slurm.conf and restart slurmctld.",
            )

    def _account_body(self, account: Account) -> dict[str, object]:
        return {
            "cluster": self.cluster(),
            "account": account.name,
            "user": "",
            "parent_account": account.parent or ROOT,
            "shares_raw": account.fairshare,
            "max": {
                "tres": {
                    "total": _tres_body(account.grp_tres),
                    "group": {"minutes": _tres_body(account.grp_tres_mins)},
                }
            },
        }

    def _user_body(self, association: UserAssociation) -> dict[str, object]:
        return {
            "cluster": self.cluster(),
            "account": association.account,
            "user": association.user,
            "qos": sorted(association.qos),
            "default": {"qos": association.default_qos or ""},
            "is_default": association.is_default,
            "shares_raw": association.fairshare,
        }


def _users_of(rows: Iterable[Association]) -> frozenset[str]:
    return frozenset(row.user for row in rows if row.user)


def _batches(records: Iterable[T], size: int = _BATCH) -> Iterator[tuple[T, ...]]:
    waiting = iter(records)
    while batch := tuple(islice(waiting, size)):
        yield batch


def _in_two(records: Sequence[T], write: Callable[[Sequence[T]], object]) -> None:
    """Writes both halves at the same time, which `write` must bear. A half that is refused is written once more by
    itself: two may meet in the database, and one that is refused alone says why."""
    if len(records) < _SPLIT:
        write(records)
        return
    middle = len(records) // 2
    with ThreadPoolExecutor(1) as beside:
        second = beside.submit(write, records[middle:])
        refused = _refused(lambda: write(records[:middle]))
        refused_too = _refused(second.result)
    if refused:
        write(records[:middle])
    if refused_too:
        write(records[middle:])


def _refused(run: Callable[[], object]) -> bool:
    try:
        run()
    except SlurmRefused:
        return True
    return False


def _preempted_first(qos: Sequence[Qos], present: Collection[QosName]) -> Iterator[list[Qos]]:
    """Groups in which every QOS preempts only what exists by then: slurmrestd resolves names as it reads a request."""
    known, left = set(present), list(qos)
    while left:
        ready = [one for one in left if one.preempt <= known]
        if not ready:
            unknown = sorted({name for one in left for name in one.preempt} - known - {one.name for one in left})
            raise SlurmRefused(
                f"QOS {left[0].name} and {len(left) - 1} more preempt QOS that do not exist "
                f"({', '.join(unknown) or 'they preempt each other'}).",
                way_out="Create those first.",
            )
        yield ready
        left = [one for one in left if not one.preempt <= known]
        known |= {one.name for one in ready}


def _depth(name: str, parent_of: dict[str, str]) -> int:
    depth = 0
    while (name := parent_of.get(name, "")) and depth <= len(parent_of):
        depth += 1
    return depth


def _check_known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    unknown = sorted(name for name in set(names) if name not in known)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise SlurmRefused(f"Slurm has no {what} {', '.join(unknown[:5])}{more}.", way_out="Create it first.")


def _tres_body(tres: Tres, lifted: Iterable[str] = ()) -> list[dict[str, object]]:
    """`lifted` are names whose limit goes: -1 is Slurm's word for it."""
    counts = dict.fromkeys(lifted, -1) | dict(tres)
    rows = []
    for key, count in counts.items():
        kind, _, name = key.partition("/")
        rows.append({"type": kind, "name": name, "count": count})
    return rows


def _user_association(row: Association) -> UserAssociation:
    return UserAssociation(
        user=UserName.as_slurm_says(row.user),
        account=AccountName.as_slurm_says(row.account),
        qos=frozenset(map(QosName.as_slurm_says, row.qos)),
        default_qos=QosName.as_slurm_says(row.default_qos) if row.default_qos else None,
        is_default=row.is_default,
        fairshare=row.fairshare,
    )


def _qos(row: _Qos) -> Qos:
    minutes = row.limits.max.wall_clock.per.job.value
    return Qos(
        name=QosName.as_slurm_says(row.name),
        description=row.description,
        priority=row.priority.value or 0,
        grp_tres=tres_of(row.limits.max.tres.total),
        max_tres_per_job=tres_of(row.limits.max.tres.per.job),
        max_tres_per_account=tres_of(row.limits.max.tres.per.account),
        max_wall=None if minutes is None else timedelta(minutes=minutes),
        preempt=frozenset(map(QosName.as_slurm_says, row.preempt.list)),
        preempt_mode=frozenset(row.preempt.mode) - {"DISABLED"},
        flags=frozenset(row.flags),
        grace=timedelta(seconds=row.limits.grace_time),
        preempt_exempt=timedelta(seconds=row.preempt.exempt_time.value or 0),
    )


def _qos_body(qos: Qos, present: Qos | None) -> dict[str, object]:
    unknown = sorted(qos.flags - QOS_FLAGS)
    if unknown:
        raise InvalidInput(
            f"QOS {qos.name} has the unknown flags {', '.join(unknown)}.",
            way_out=f"Use {', '.join(sorted(QOS_FLAGS))}.",
        )
    if qos.max_wall is not None and qos.max_wall % timedelta(minutes=1):
        raise InvalidInput(f"QOS {qos.name} limits jobs to {qos.max_wall}.", way_out="Slurm counts whole minutes.")
    gone: dict[str, set[str]] = {
        limit: set(getattr(present, limit)) - set(getattr(qos, limit)) if present else set()
        for limit in ("grp_tres", "max_tres_per_job", "max_tres_per_account")
    }
    wall = None if qos.max_wall is None else qos.max_wall // timedelta(minutes=1)
    preempt: dict[str, object] = {
        "mode": sorted(qos.preempt_mode) or ["DISABLED"],
        "exempt_time": number(int(qos.preempt_exempt.total_seconds()) or None),
    }
    if qos.preempt:
        preempt["list"] = sorted(qos.preempt)
    return {
        "name": qos.name,
        "description": qos.description,
        "flags": sorted(qos.flags),
        "priority": number(qos.priority),
        "preempt": preempt,
        "limits": {
            "grace_time": int(qos.grace.total_seconds()),
            "max": {
                "wall_clock": {"per": {"job": number(wall)}},
                "tres": {
                    "total": _tres_body(qos.grp_tres, gone["grp_tres"]),
                    "per": {
                        "job": _tres_body(qos.max_tres_per_job, gone["max_tres_per_job"]),
                        "account": _tres_body(qos.max_tres_per_account, gone["max_tres_per_account"]),
                    },
                },
            },
        },
    }


def _accounting_job(row: _Job) -> AccountingJob:
    started = moment(row.time.start)
    return AccountingJob(
        job_id=row.job_id,
        name=row.name,
        user=row.user,
        account=row.account,
        qos=row.qos,
        partition=row.partition,
        cluster=row.cluster,
        # A run ended by `scontrol requeue` is a PENDING job with a flag: the flag is what became of the run.
        state=next((s for s in row.state.current if s != "PENDING"), "PENDING"),
        submitted=datetime.fromtimestamp(row.time.submission, UTC),
        started=started,
        ended=moment(row.time.end),
        nodes="" if row.nodes == "None assigned" else row.nodes,
        tres_alloc=tres_of(row.tres.allocated),
    )
