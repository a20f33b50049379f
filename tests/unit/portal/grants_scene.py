"""A portal with a grant: an application of snu's that was reviewed, awarded, and may be accepted; and a site."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.ledger import PoolRate
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    CommandId,
    GpuModel,
    HostName,
    OfferId,
    PartitionName,
    PoolShareName,
    ProgrammeName,
    ProviderName,
    QosName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.people import PortalRole, Source
from slurm_gpuaas.domain.pool_grants import AwardLine, Offer, PoolGrant
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.portal.pool import BOOK_EVERY
from slurm_gpuaas.portal.rights import RIGHTS, Action
from tests.pools import PoolPortal
from tests.unit.metering.books import pool_rate
from tests.unit.pool.scene import NAVER, request

SITE = SiteName("naver-h200")
LOGIN_HOST = HostName("login.naver.example.org")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2sC7WBoqP/lzMvlMQBbKdLEM2wWQKn8JZ4C+LwJ3qX kim@laptop"
NOWHERE = Source()
STARTS, ENDS = date(2026, 12, 1), date(2027, 2, 28)
"""The call of `PoolPortal` closes a week after 28 November 2026."""


class GrantPortal(PoolPortal):
    """With a site for naver, and steps on the way of a grant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.store.sites.add(SITE, cluster=ClusterName("naver"), provider=ProviderName("naver"))
        self.store.sites.set_login_host(SITE, LOGIN_HOST)

    @property
    def id(self) -> CommandId:
        return CommandId(str(uuid4()))

    def application(self, of: str = "snu", **fields: Any) -> Application:
        fields = {"starts": STARTS, "ends": ENDS} | fields
        return self.pool.service.submit(self.id, self.person(f"admin-{of}").actor, request(of, **fields))

    def offered(self, of: str = "snu", *, share: PoolShareName = NAVER, gpus: int = 16, **fields: Any) -> Offer:
        """The day after the call has closed."""
        service, second, third = self.pool.service, self.person("second").actor, self.person("third").actor
        government = self.people[PortalRole.GOVERNMENT].actor
        application = self.application(of, **fields)
        service.begin_review(self.id, government, application.id)
        service.review(self.id, second, application.id, {"impact": 80, "plan": 80}, "")
        self.clock.forward(timedelta(days=8))
        line = AwardLine(application=application.id, share=share, gpus=gpus)
        award = service.draft_award(self.id, second, ProgrammeName("national"), (line,))
        service.approve_award(self.id, third, award.id)
        (offer,) = self.store.register.offers.all(application=str(application.id))
        return offer

    def granted(self, of: str = "snu", **fields: Any) -> PoolGrant:
        return self.accepted(self.offered(of, **fields).id, of)

    def accepted(self, offer: OfferId, of: str = "snu") -> PoolGrant:
        return self.pool.service.accept_offer(self.id, self.person(f"admin-{of}").actor, offer)

    def site_takes(self) -> None:
        """What its gpuaasd does: it asks again with the revision that it has stored."""
        self.pool.turn()
        self.store.sites.holds(SITE, self.store.sites.revision(SITE))

    def site_reports(self, **fields: Any) -> None:
        report: dict[str, Any] = {
            "sent_at": self.clock.now().isoformat(),
            "cluster": "naver",
            "version": "1",
            "slurm_version": "26.05",
            "revision": self.store.sites.revision(SITE),
            "shares": [],
            "incidents": [],
            "findings": [],
        }
        now = self.clock.now()
        self.store.sites.put_report(SITE, report | fields, sent_at=now, received_at=now)

    def ran(
        self,
        grant: PoolGrant,
        hours: int,
        *,
        gpus: int = 8,
        job: int = 1,
        qos: str = "",
        state: str = "COMPLETED",
        running: bool = False,
    ) -> None:
        """A run that ends (or still runs) now."""
        now = self.clock.now()
        record = UsageRecord(
            cluster=ClusterName("naver"),
            job_id=JobId(job),
            user=UserName("kim"),
            account=AccountName(grant.project),
            qos=QosName(qos or f"guaranteed-{grant.project}"),
            partition=PartitionName("h200-government"),
            model=GpuModel("h200"),
            gpus=gpus,
            started=now - timedelta(hours=hours),
            ended=None if running else now,
            gpu_seconds=gpus * hours * 3_600,
            state="RUNNING" if running else state,
        )
        self.pool.keeper.take([UsageChange(number=job, record=record)])

    def books(self) -> None:
        self.clock.forward(BOOK_EVERY)
        self.pool.turn()


def rate(won: int = 4_000) -> PoolRate:
    return pool_rate(name=f"h200-{won}", won_per_gpu_hour=won, starts="2026-01-01", burst_discount=50)


def token_of(portal: PoolPortal, login: str) -> Mapping[str, str]:
    """Headers of a token that may do all that its person may."""
    person = portal.person(login)
    scopes = [action for action in RIGHTS[person.office.role] if action is not Action.TOKEN_MANAGE]
    _, secret = portal.accounts.make_token(person, name="tests", scopes=scopes, days=30, source=NOWHERE)
    return {"Authorization": f"Bearer {secret}", "Accept-Language": "en"}
