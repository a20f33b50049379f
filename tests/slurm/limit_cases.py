"""Random limits on real Slurm, and what slurmctld does with a job: the judge of `quota.limits`.

A batch is a few cases side by side, each with accounts, QOS and a partition of its own. Accounts and QOS come first,
then jobs that use some of what they may, then limits on everything, then a reading and a prediction for each case, and
at last a job for each. A job that starts is ended at once, so that no other waits for its GPUs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from slurm_gpuaas.domain.names import AccountName, GpuModel, PartitionName, QosName, UserName
from slurm_gpuaas.quota.limits import Asked, Outcome, Place, Prediction, asked, predict
from slurm_gpuaas.slurm.limit_reader import ScontrolLimits
from slurm_gpuaas.slurm.limit_records import WHOLE, Kind, LimitState
from slurm_gpuaas.testbed.instance import Instance

ASKER, MATE = "alice", "bob"
MODEL: Final = GpuModel("b200")
SIZES: Final = ("gres/gpu", "gres/gpu:b200", "billing", "node", "cpu")
BUDGET: Final = ("gres/gpu", "gres/gpu:b200", "billing")
TIME: Final = (5, 10, 30, None)

_ON_QOS: Final = tuple(kind for kind in Kind if kind not in {Kind.MAX_JOBS, Kind.MAX_SUBMIT})
_ON_ASSOCIATION: Final = (
    Kind.GRP_TRES, Kind.GRP_TRES_MINS, Kind.GRP_TRES_RUN_MINS, Kind.GRP_JOBS, Kind.GRP_SUBMIT, Kind.GRP_WALL,
    Kind.MAX_TRES, Kind.MAX_TRES_NODE, Kind.MAX_TRES_MINS, Kind.MAX_WALL, Kind.MAX_JOBS, Kind.MAX_SUBMIT,
)  # fmt: skip
_LIKELY: Final = (Kind.GRP_TRES, Kind.MAX_TRES, Kind.MAX_TRES_PA, Kind.MAX_TRES_PU, Kind.GRP_TRES_MINS)
_MINUTES: Final = frozenset(
    {Kind.GRP_TRES_MINS, Kind.GRP_TRES_RUN_MINS, Kind.MAX_TRES_MINS, Kind.MAX_RUN_MINS_PA, Kind.MAX_RUN_MINS_PU}
)
_COUNTS: Final = frozenset(
    {
        Kind.GRP_JOBS, Kind.GRP_SUBMIT, Kind.MAX_JOBS, Kind.MAX_SUBMIT, Kind.MAX_JOBS_PA, Kind.MAX_JOBS_PU,
        Kind.MAX_SUBMIT_PA, Kind.MAX_SUBMIT_PU,
    }
)  # fmt: skip
_WALLS: Final = frozenset({Kind.MAX_WALL, Kind.GRP_WALL})

Chosen = Mapping[Kind, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """`user` and `qos` say whose use it is; `brief` ends by itself at once, and leaves only minutes."""

    gpus: int
    nodes: int
    typed: bool
    minutes: int | None
    user: str = ASKER
    account: str = "own"
    qos: str = "own"
    brief: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """`limits` by holder: part, own (QOS); user, account, parent (associations)."""

    name: str
    limits: Mapping[str, Chosen]
    flags: Sequence[str]
    partition_qos: bool
    weight: float | None
    default_time: int | None
    running: Sequence[Job]
    job: Job


def random_case(name: str, seed: int) -> Case:
    dice = random.Random(seed)
    weight = dice.choice([None, 1.0, 1.0, 2.0, 0.5, 1000.0])
    job = Job(
        gpus=(gpus := dice.randint(1, 4)),
        nodes=dice.choice([one for one in (1, 1, 2, 3) if gpus % one == 0]),
        typed=dice.random() < 0.7,
        minutes=dice.choice(TIME),
    )
    running = [
        Job(
            gpus=(gpus := dice.randint(1, 2)),
            nodes=dice.choice([1, gpus]),
            typed=dice.random() < 0.6,
            minutes=dice.choice(TIME[:2]),
            user=dice.choice([ASKER, ASKER, MATE]),
            account=dice.choice(["own", "own", "sibling"]),
            qos=dice.choice(["own", "own", "other"]),
            brief=weight == 1000.0 and dice.random() < 0.5,
        )
        for _ in range(dice.choice([0, 1, 1, 2, 3]))
    ]
    partition_qos = dice.random() < 0.6
    used = sum(one.gpus for one in running if not one.brief)
    holders = ["own", "user", "account", "parent", *(["part"] if partition_qos else [])]
    limits = {
        holder: dict(_random_limits(dice, holder in {"own", "part"}, job, used, weight or 1.0)) for holder in holders
    }
    flags = [
        flag
        for flag, chance in (("OverPartQOS", 0.4), ("DenyOnLimit", 0.35), ("PartitionTimeLimit", 0.1))
        if dice.random() < chance
    ]
    return Case(
        name=name,
        limits=limits,
        flags=flags,
        partition_qos=partition_qos,
        weight=weight,
        default_time=dice.choice([None, None, 8]),
        running=running,
        job=job,
    )


def _random_limits(
    dice: random.Random, qos: bool, job: Job, used: int, weight: float
) -> Iterator[tuple[Kind, dict[str, int]]]:
    kinds = _ON_QOS if qos else _ON_ASSOCIATION
    likely = [kind for kind in _LIKELY if kind in kinds]
    for kind in {dice.choice(likely if dice.random() < 0.5 else kinds) for _ in range(dice.choice([0, 1, 1, 2, 3]))}:
        if kind in _COUNTS:
            yield kind, {WHOLE: dice.randint(1, 5)}
        elif kind in _WALLS:
            yield kind, {WHOLE: dice.choice([4, 8, 10, 20, 40])}
        elif kind in _MINUTES:
            yield (
                kind,
                {
                    tres: max(
                        int((used + job.gpus) * (weight if tres == "billing" else 1) * dice.choice([3, 6, 12, 40])), 1
                    )
                    for tres in dice.sample(BUDGET, dice.choice([1, 1, 2]))
                },
            )
        elif kind is Kind.MIN_TRES:
            yield kind, {dice.choice(SIZES[:4]): dice.randint(0, 3)}
        elif kind is Kind.MAX_TRES_NODE:
            yield kind, {dice.choice(("gres/gpu", "gres/gpu:b200")): dice.randint(1, 4)}
        else:
            yield (
                kind,
                {
                    tres: _around(dice, job.nodes if tres in {"node", "cpu"} else used + job.gpus, tres, weight)
                    for tres in dice.sample(SIZES, dice.choice([1, 1, 2]))
                },
            )


def _around(dice: random.Random, amount: int, tres: str, weight: float) -> int:
    near = max(amount + dice.randint(-2, 2), 0)
    return int(near * weight) if tres == "billing" else near


# -- On Slurm ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    case: Case
    predicted: Prediction
    happened: tuple[Outcome, str]

    def __str__(self) -> str:
        return f"{self.case.name}: predicted {self.predicted.outcome} {self.predicted.reason!r}, Slurm did {self.happened}; {self.case}; {self.predicted}"  # noqa: E501


@dataclass
class Batch:
    """Cases on one instance. Everything of it goes at the end of `run`."""

    instance: Instance
    reader: ScontrolLimits
    cases: Sequence[Case]
    outcomes: dict[str, tuple[Outcome, str]] = field(default_factory=dict)

    def run(self) -> Iterator[Disagreement]:
        try:
            self._make()
            self._use()
            self._limit()
            predicted = self._predictions()
            happened = self._happened()
        finally:
            self._clear()
        for case in self.cases:
            self.outcomes[case.name] = happened[case.name]
            said = predicted[case.name]
            if (said.outcome, said.reason) != happened[case.name]:
                yield Disagreement(case=case, predicted=said, happened=happened[case.name])

    def _make(self) -> None:
        lines, partitions = [], []
        for case in self.cases:
            n = case.name
            lines += [f"add qos {n}-{one}" for one in ("own", "other", "part")]
            lines += [f"add account {n}-parent"]
            lines += [f"add account {n}-{one} parent={n}-parent" for one in ("own", "sibling")]
        for user in (ASKER, MATE):
            accounts = ",".join(f"{case.name}-{one}" for case in self.cases for one in ("own", "sibling"))
            qos = ",".join(f"{case.name}-{one}" for case in self.cases for one in ("own", "other", "part"))
            lines += [f"add user {user} account={accounts}", f"modify user {user} set qos+={qos}"]
        self._sacctmgr(lines)
        for case in self.cases:
            words = [f"partitionname={case.name}", "nodes=ALL", "MaxTime=60", "State=UP"]
            if case.partition_qos:
                words.append(f"QOS={case.name}-part")
            if case.weight is not None:
                words.append(f"TRESBillingWeights=GRES/gpu={case.weight}")
            if case.default_time is not None:
                words.append(f"DefaultTime={case.default_time}")
            partitions.append(f"create {' '.join(words)}")
        self._inside(f"scontrol <<'END' >/dev/null\n{chr(10).join(partitions)}\nEND\n")

    def _use(self) -> None:
        # The widest first: what is left on single nodes is no room for a job of two.
        running = [(case, job) for case in self.cases for job in case.running]
        running.sort(key=lambda one: (-one[1].nodes, -one[1].gpus))
        lines = [_sbatch(case, job, "sleep 1" if job.brief else "sleep 600") for case, job in running]
        if not lines:
            return
        submitted = self._inside("cd /tmp\n" + "\n".join(lines))
        assert submitted.count("Submitted batch job") == len(lines), submitted
        lasting = sum(not job.brief for case in self.cases for job in case.running)
        self.instance.wait_for(
            "jobs that run before limits come", lambda: self._states().count("RUNNING") == lasting, seconds=60
        )

    def _states(self) -> list[str]:
        return self._inside("squeue --noheader --format=%T").split()

    def _limit(self) -> None:
        lines = []
        for case in self.cases:
            for holder, limits in case.limits.items():
                words = " ".join(_words(limits))
                where = {
                    "own": f"qos {case.name}-own",
                    "part": f"qos {case.name}-part",
                    "user": f"user {ASKER} account={case.name}-own",
                    "account": f"account {case.name}-own",
                    "parent": f"account {case.name}-parent",
                }[holder]
                what, _, rest = where.partition(" ")
                if words:
                    lines.append(f"modify {what} where name={rest} set {words}")
            if case.flags:
                lines.append(f"modify qos where name={case.name}-own set Flags={','.join(case.flags)}")
        self._sacctmgr(lines)
        self.instance.wait_for("slurmctld to know all limits", self._all_known, seconds=20)

    def _all_known(self) -> bool:
        state = self._read()
        return all(
            _limits_of(state, case, holder).get(kind, {}).get(tres) == limit
            for case in self.cases
            for holder, limits in case.limits.items()
            for kind, of in limits.items()
            for tres, limit in of.items()
        )

    def _read(self) -> LimitState:
        names = [case.name for case in self.cases]
        return self.reader.read(
            accounts=[AccountName(f"{name}-{one}") for name in names for one in ("own", "parent")],
            users=[UserName(ASKER)],
            qos=[QosName(f"{name}-own") for name in names],
        )

    def _predictions(self) -> Mapping[str, Prediction]:
        state = self._read()
        return {case.name: predict(place_of(state, case), asked_of(case.job)) for case in self.cases}

    def _happened(self) -> Mapping[str, tuple[Outcome, str]]:
        lines = []
        for case in self.cases:
            lines.append(f"echo case={case.name}")
            lines.append(f"{_sbatch(case, case.job, 'sleep 600', apart=True)} 2>&1")
        said = self._inside("cd /tmp\n" + "\n".join([*lines, "true"]))
        found: dict[str, tuple[Outcome, str]] = {}
        waiting: dict[str, str] = {}
        for part in said.split("case=")[1:]:
            name, _, answer = part.partition("\n")
            if (job := re.search(r"Submitted batch job (\d+)", answer)) is not None:
                waiting[job[1]] = name
            else:
                reason = re.search(r"sbatch: error: (\w+)\n", answer)
                assert reason, f"{name}: {answer}"
                found[name] = Outcome.REFUSE, reason[1]

        def all_judged() -> bool:
            started = []
            for line in self._inside("squeue --noheader --states=all --format='%i %T %r'").splitlines():
                job, state, reason = line.split(maxsplit=2)
                if job in waiting and state == "RUNNING":
                    found[waiting.pop(job)] = Outcome.START, ""
                    started.append(job)
                elif job in waiting and reason not in {"None", "Priority", "Resources"}:
                    assert state == "PENDING", line
                    found[waiting.pop(job)] = Outcome.WAIT, reason
            if started:
                self._inside(f"scancel {' '.join(started)}")
            return not waiting

        self.instance.wait_for("a verdict on every job", all_judged, seconds=90, every=0.2)
        return found

    def _clear(self) -> None:
        names = [case.name for case in self.cases]
        self._inside(f"scancel --user={ASKER}; scancel --user={MATE}; true")
        self.instance.wait_for("all jobs to end", lambda: not self._states(), seconds=60)
        self._inside(
            "scontrol <<'END' >/dev/null\n" + "\n".join(f"delete partitionname={name}" for name in names) + "\nEND\n"
        )
        accounts = [f"{name}-{one}" for one in ("own", "sibling", "parent") for name in names]
        qos = ",".join(f"{name}-{one}" for name in names for one in ("own", "other", "part"))
        self._sacctmgr(
            [f"delete user {ASKER},{MATE}", f"delete account {','.join(accounts)}", f"delete qos {qos}"],
        )

    def _sacctmgr(self, lines: Sequence[str]) -> None:
        if lines:
            self._inside(f"sacctmgr --immediate --quiet <<'END'\n{chr(10).join(lines)}\nEND\n")

    def _inside(self, script: str) -> str:
        return self.instance.exec(["bash", "-c", script]).stdout


def place_of(state: LimitState, case: Case) -> Place:
    user, account = UserName(ASKER), AccountName(f"{case.name}-own")
    chain = [
        state.associations[account, user, None],
        state.associations[account, None, None],
        state.associations[AccountName(f"{case.name}-parent"), None, None],
        state.associations[AccountName("root"), None, None],
    ]
    partition = state.partitions[PartitionName(case.name)]
    return Place(
        user=user,
        partition=partition,
        partition_qos=None if partition.qos is None else state.qos[partition.qos],
        qos=state.qos[QosName(f"{case.name}-own")],
        associations=tuple(chain),
        safe=state.safe,
        refuses=state.refuses,
        priority_flags=state.priority_flags,
        tres=state.tres,
    )


def asked_of(job: Job) -> Asked:
    return asked(job.gpus, model=MODEL if job.typed else None, nodes=job.nodes, minutes=job.minutes)


def _limits_of(state: LimitState, case: Case, holder: str) -> Chosen:
    if holder in {"own", "part"}:
        return state.qos[QosName(f"{case.name}-{holder}")].limits
    account = AccountName(f"{case.name}-{'parent' if holder == 'parent' else 'own'}")
    return state.associations[account, UserName(ASKER) if holder == "user" else None, None].limits


def _sbatch(case: Case, job: Job, command: str, *, apart: bool = False) -> str:
    """`apart`: on the half of the nodes where what runs before is not: a node that an account or QOS uses already
    counts no second time, and which nodes Slurm takes is not the question."""
    gpu = "b200:" if job.typed else ""
    words = [
        f"--uid={job.user}", f"--partition={case.name}", f"--account={case.name}-{job.account}",
        f"--qos={case.name}-{job.qos}", f"--nodes={job.nodes}", f"--gpus-per-node={gpu}{job.gpus // job.nodes}",
        f"--exclude=b200-[{'01-04' if apart else '05-08'}]", "--output=/dev/null",
    ]  # fmt: skip
    if job.minutes is not None:
        words.append(f"--time={job.minutes}")
    return f"sbatch {' '.join(words)} --wrap={command!r}"


_OPTIONS: Final[Mapping[Kind, str]] = {Kind.MAX_TRES: "MaxTRESPerJob", Kind.MIN_TRES: "MinTRESPerJob"}


def _words(limits: Chosen) -> Iterator[str]:
    for kind, of in limits.items():
        option = _OPTIONS.get(kind, str(kind))
        yield f"{option}={','.join(str(n) if tres == WHOLE else f'{tres}={n}' for tres, n in of.items())}"
