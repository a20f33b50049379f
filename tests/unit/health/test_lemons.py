"""How likely a node is to fail again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.lemons import failure_risks
from tests.fakes import EPOCH


def incident(number: int, node: str, *, days_ago: float = 1, drain: Drain = Drain.NOW) -> Incident:
    at = EPOCH - timedelta(days=days_ago)
    return Incident(
        id=f"i{number}", node=NodeName(node), state=IncidentState.CLOSED, drain=drain, rule="", headline="",
        opened_at=at, updated_at=at,
    )  # fmt: skip


def test_a_node_that_failed_more_often_is_a_higher_risk() -> None:
    risks = failure_risks([incident(1, "n1"), incident(2, "n2"), incident(3, "n2")], EPOCH)
    assert risks == {"n1": pytest.approx(0.0351, abs=1e-4), "n2": pytest.approx(0.0689, abs=1e-4)}


def test_what_is_long_ago_or_asked_for_no_drain_counts_nothing() -> None:
    old, harmless = incident(1, "n1", days_ago=28.1), incident(2, "n2", drain=Drain.NO)
    assert failure_risks([old, harmless, incident(3, "n3", days_ago=28)], EPOCH).keys() == {"n3"}
