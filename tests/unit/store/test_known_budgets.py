"""Budgets that are kept between looks: always what reckoning them anew would give, and nothing reckoned for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.budgets import Budget, budgets, cuts
from slurm_gpuaas.domain.jobs import Job, JobState
from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, ProjectName, QosName
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.usage import UsageSum
from slurm_gpuaas.store.known_budgets import KnownBudgets
from tests.fakes import make_job
from tests.unit.policies import PROJECTS, grant, member, policies, policy, project, rate

MINI = ClusterName("mini")
START = datetime(2026, 7, 1, tzinfo=UTC)
HOUR = 3_600


def sums_of(hours: Mapping[str, int], moments: Sequence[datetime]) -> list[UsageSum]:
    """Each account's hours, in each stretch of time."""
    return [
        UsageSum(
            account=AccountName(account),
            model=GpuModel("b200"),
            qos=QosName(f"guaranteed-{account}"),
            since=since,
            gpu_seconds=used * HOUR,
            ended=used * HOUR,
        )
        for since in (None, *moments)
        for account, used in hours.items()
    ]


def running(account: str, started: datetime, number: int) -> Job:
    return make_job(number, account=account, qos=f"guaranteed-{account}", state=JobState.RUNNING, started=started)


def look(
    known: KnownBudgets, policy: Policy, at: datetime, hours: Mapping[str, int], jobs: Sequence[Job]
) -> Mapping[ProjectName, Budget]:
    return known.read(policy, MINI, at, sums=lambda moments: sums_of(hours, moments), running=tuple, jobs=jobs)


LOOKS = st.tuples(
    st.integers(0, 40 * 24),
    st.dictionaries(st.sampled_from(PROJECTS), st.integers(0, 100), max_size=4),
    st.lists(st.tuples(st.sampled_from(PROJECTS), st.integers(0, 1_000)), max_size=3),
    st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(first=policies(), second=policies(), looks=st.lists(LOOKS, max_size=8))
def test_what_is_kept_is_what_reckoning_anew_gives(
    first: Policy,
    second: Policy,
    looks: list[tuple[int, dict[str, int], list[tuple[str, int]], bool]],
) -> None:
    known, at = KnownBudgets(), START
    for forward, hours, started, other in looks:
        at += timedelta(hours=forward)
        policy = second if other else first
        jobs = [running(name, at - timedelta(hours=ago), n) for n, (name, ago) in enumerate(started, 1)]
        anew = budgets(policy, MINI, at, sums_of(hours, cuts(policy, MINI, at)), jobs=jobs)
        assert look(known, policy, at, hours, jobs) == anew


def test_only_projects_whose_use_or_jobs_have_changed_are_reckoned() -> None:
    names = ("audio", "vision")
    both = policy(
        rate(),
        *(project(name) for name in names),
        *(member("alice", name) for name in names),
        *(grant(name, gpus=8, budget_won=10**6, budget_period="month") for name in names),
    )
    known, hours = KnownBudgets(), {"audio": 3, "vision": 5}
    jobs = [running("vision", START, 1)]
    first = look(known, both, START, hours, jobs)
    again = look(known, both, START + timedelta(seconds=5), hours, jobs)
    assert all(again[project] is first[project] for project in first)
    more = look(known, both, START + timedelta(seconds=10), {**hours, "audio": 4}, jobs)
    assert more[ProjectName("vision")] is first[ProjectName("vision")]
    assert more[ProjectName("audio")] is not first[ProjectName("audio")]
    ended = look(known, both, START + timedelta(seconds=15), hours, [running("audio", START, 2)])
    assert ended[ProjectName("vision")].committed_seconds == 0
    assert ended[ProjectName("audio")].committed_seconds > 0


def test_a_new_month_is_reckoned_anew() -> None:
    monthly = policy(rate(), project(), grant(budget_won=10**6, budget_period="month"))
    known = KnownBudgets()
    last_of_june = datetime(2026, 6, 30, 14, 59, 59, tzinfo=UTC)
    before = look(known, monthly, last_of_june, {"vision": 1}, ())[ProjectName("vision")]
    after = look(known, monthly, last_of_june + timedelta(seconds=1), {"vision": 1}, ())[ProjectName("vision")]
    assert (before.period.end, after.period.start) == (after.period.start, before.period.end)
