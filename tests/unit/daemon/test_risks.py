"""What the gate is told of nodes that failed, and how often the store is asked for it."""

from __future__ import annotations

from datetime import timedelta

from slurm_gpuaas.daemon.risks import FailureRisks
from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState
from slurm_gpuaas.domain.names import NodeName
from tests.unit.daemon.site import Site


def failed(site: Site, number: int, node: str) -> None:
    at = site.clock.now()
    site.store.put_incident(
        Incident(
            id=f"i{number}",
            node=NodeName(node),
            state=IncidentState.SUSPECT,
            drain=Drain.NOW,
            rule="",
            headline="",
            opened_at=at,
            updated_at=at,
        )
    )


def test_the_store_is_asked_once_a_minute(site: Site) -> None:
    risks = FailureRisks(site.store, site.clock)
    assert risks.now() == {}
    failed(site, 1, "b200-001")
    site.clock.forward(timedelta(seconds=59))
    assert risks.now() == {}
    site.clock.forward(timedelta(seconds=1))
    assert risks.now().keys() == {"b200-001"}


def test_incidents_of_28_days_count(site: Site) -> None:
    failed(site, 1, "b200-001")
    site.clock.forward(timedelta(days=27))
    failed(site, 2, "b200-002")
    risks = FailureRisks(site.store, site.clock)
    assert risks.now().keys() == {"b200-001", "b200-002"}
    site.clock.forward(timedelta(days=2))
    assert risks.now().keys() == {"b200-002"}
