"""Judged applications for tests of the desks, in a portal of `tests.pools`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.names import CommandId
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.pool.service import PoolService
from tests.pools import PoolPortal
from tests.unit.pool.scene import request

NAVER, NHN = "naver.h200.government", "nhn.b200.government"


def command_id() -> CommandId:
    return CommandId(str(uuid4()))


def judged(
    service: PoolService, applicant: Actor, officer: Actor, reviewers: Sequence[Actor], points: int, **fields: Any
) -> Application:
    """An application in review that each of the reviewers gave these points."""
    assert applicant.organisation is not None
    application = service.submit(command_id(), applicant, request(applicant.organisation, **fields))
    service.begin_review(command_id(), officer, application.id)
    for reviewer in reviewers:
        service.review(command_id(), reviewer, application.id, {"impact": points, "plan": points}, "")
    return application


class DeskPortal(PoolPortal):
    """With short ways to applications in review; `close` ends their call."""

    @property
    def officer(self) -> Actor:
        return self.people[PortalRole.GOVERNMENT].actor

    def submitted(self, of: str = "snu", **fields: Any) -> Application:
        applicant = self.person(f"researcher-{of}").actor
        return self.pool.service.submit(command_id(), applicant, request(of, **fields))

    def in_review(self, of: str = "snu", **fields: Any) -> Application:
        return judged(self.pool.service, self.person(f"researcher-{of}").actor, self.officer, (), 0, **fields)

    def judged(self, of: str = "snu", points: int = 80, **fields: Any) -> Application:
        """By `third`."""
        reviewers = (self.person("third").actor,)
        applicant = self.person(f"researcher-{of}").actor
        return judged(self.pool.service, applicant, self.officer, reviewers, points, **fields)

    def close(self) -> None:
        self.clock.forward(timedelta(days=8))
