"""Which nodes are lemons, why, and which of them are kept from large jobs."""

from __future__ import annotations

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.node_life import LimitKind, NodeLimit, smallest
from slurm_gpuaas.health.lemons import BY_SCORE, LEMON_FROM, Lemon, LemonSignals, lemon_score, limits_wanted
from tests.fakes import EPOCH

N1 = NodeName("n1")


def score(**signals: int) -> Lemon:
    return lemon_score(LemonSignals(node=N1, **signals))


def named(node: str, points: float) -> Lemon:
    return Lemon(signals=LemonSignals(node=NodeName(node)), score=points, why=("why",))


def limit(node: str, why: str, kind: LimitKind = LimitKind.LEMON, largest_job: int = 4) -> NodeLimit:
    return NodeLimit(node=NodeName(node), kind=kind, largest_job=largest_job, why=why, since=EPOCH)


def test_a_node_that_nothing_speaks_against_has_no_points() -> None:
    assert (score().score, score().why) == (0, ())


def test_failures_of_jobs_that_it_ran_alone_make_a_lemon_by_themselves() -> None:
    found = score(single_node_node_fails=3, single_node_runs=60)
    assert found.is_one
    assert found.why == ("single-node jobs that its faults ended: 3 of 60 (5.0 %) (+45)",)


def test_no_other_signal_alone_makes_one() -> None:
    for signal in ("excl_jobid_count", "xid_cnt", "tickets", "out_count", "multi_node_node_fails"):
        assert not score(**{signal: 1_000}).is_one, signal


def test_the_same_failures_among_more_runs_weigh_less() -> None:
    assert (
        score(single_node_node_fails=2, single_node_runs=10).score
        > score(single_node_node_fails=2, single_node_runs=1_000).score
    )


def test_the_heaviest_reason_comes_first_and_the_sum_is_capped() -> None:
    found = score(
        single_node_node_fails=9, out_count=9, tickets=9, xid_cnt=9, multi_node_node_fails=9, excl_jobid_count=9
    )
    assert found.score == 100
    assert [sentence.split(":")[0] for sentence in found.why][:2] == [
        "single-node jobs that its faults ended",
        "times out of service for a fault",
    ]


def test_the_worst_are_limited_and_no_more_than_a_twentieth_of_the_nodes() -> None:
    lemons = [named(f"n{number}", LEMON_FROM + number) for number in range(9)]
    new, over = limits_wanted(lemons, (), 100, 4, EPOCH)
    assert [one.node for one in new] == ["n8", "n7", "n6", "n5", "n4"]
    assert over == []
    assert (new[0].largest_job, new[0].why) == (4, f"{BY_SCORE} 48: why")


def test_a_limit_by_score_is_lifted_when_the_score_has_halved_and_a_persons_never() -> None:
    known = [limit("n1", f"{BY_SCORE} 60: why"), limit("n2", "a person's"), limit("n3", f"{BY_SCORE} 60: why")]
    lemons = [named("n3", LEMON_FROM / 2)]
    assert limits_wanted(lemons, known, 100, 4, EPOCH) == ([], [N1])


def test_a_person_s_limit_is_not_replaced() -> None:
    assert limits_wanted([named("n1", 90)], [limit("n1", "a person's")], 100, 4, EPOCH) == ([], [])


def test_of_two_limits_the_smaller_holds() -> None:
    found = smallest([limit("n1", "lemon"), limit("n1", "probation", LimitKind.PROBATION, 1)])
    assert found[N1].largest_job == 1
