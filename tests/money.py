"""A pool with money in it: two paid grants, a closed month, a late correction, runs of the present month."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

from slurm_gpuaas.domain.accounts import Office
from slurm_gpuaas.domain.applications import ApplicationRequest
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.leases import Lease
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    CommandId,
    GpuModel,
    PartitionName,
    ProgrammeName,
    ProviderName,
    QosName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.pool_grants import AwardLine, PoolGrant
from slurm_gpuaas.domain.programmes import OrganisationKind
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.pool.work import Program
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.store.pool import PoolStore
from tests.fakes import FakeClock
from tests.pools import PASSWORD, PoolPortal
from tests.unit.metering.books import kst, pool_rate
from tests.unit.pool.scene import NAVER, programme

DECEMBER, JANUARY = Month(2026, 12), Month(2027, 1)
NOW = kst(2027, 1, 15, 9)
SITE, CLUSTER = SiteName("naver-h200"), ClusterName("naver")
KEY = SshKey("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2sC7WBoqP/lzMvlMQBbKdLEM2wWQKn8JZ4C+LwJ3qX kim@laptop")
PAID = ProgrammeName("paid")


def command_id() -> CommandId:
    return CommandId(str(uuid4()))


class MoneyScene:
    """Fills a pool that `fill_pool` began, and goes on to NOW.

    SNU pays half of 3,601 Won, MINT a tenth. In December SNU ran 8 GPUs for 10 hours, of which the site told an hour
    after the month was closed.
    """

    def __init__(self, store: PoolStore, pool: PoolServer, clock: FakeClock, accounts: Accounts) -> None:
        self.store, self.pool, self.clock = store, pool, clock
        self._number = 0
        begun = clock.now()
        accounts.create(
            login=UserName("billing2"),
            name="오정산",
            email="billing2@example.org",
            office=Office(role=PortalRole.PROVIDER_BILLING, provider=ProviderName("naver")),
            password=PASSWORD,
        )
        store.sites.add(SITE, cluster=CLUSTER, provider=ProviderName("naver"))
        prices = {OrganisationKind.UNIVERSITY: 50, OrganisationKind.YOUNG_FIRM: 10}
        call = programme().calls[0].model_copy(update={"opens": begun, "closes": kst(2026, 12, 4)})
        rules = programme(name=PAID, calls=(call,), prices=prices, cap_won=900_000_000, reviews_needed=1)
        pool.service.put_programme(command_id(), Program("tests"), rules)
        pool.keeper.add_rate(pool_rate(starts="2026-12-01", basis="공고 2026-12"))
        self.snu, self.mint = self._granted(("snu", "mint"))
        clock.at = kst(2026, 12, 12)
        pool.turn()
        self.take(self.snu, kst(2026, 12, 10, 9), 9 * 3_600)
        self.take(self.snu, kst(2026, 12, 11, 9), 3_600, burst=True, state="PREEMPTED")
        self.take(self.mint, kst(2026, 12, 11, 9), 7_200)
        clock.at = kst(2027, 1, 3)
        pool.keeper.close(DECEMBER, pool.titles())
        self.take(self.snu, kst(2026, 12, 31, 12), 3_600)
        self.take(self.snu, kst(2027, 1, 5, 12), 36_000)
        self.take(self.snu, kst(2027, 1, 6, 12), 1_800, state="NODE_FAIL")
        self.take(self.mint, kst(2027, 1, 7, 12), 5_400, burst=True)
        clock.at = NOW
        pool.keeper.book()
        self.report()

    def _granted(self, organisations: tuple[str, ...]) -> list[PoolGrant]:
        service, register = self.pool.service, self.store.register
        government, second = (self._actor(login) for login in ("government", "second"))
        lines = []
        for organisation in organisations:
            who = self._actor(f"researcher-{organisation}")
            service.put_identity(command_id(), who, who.person, UserName(f"kim-{organisation}"), (KEY,))
            asked = ApplicationRequest.model_validate(
                {
                    "programme": PAID,
                    "call": 1,
                    "organisation": organisation,
                    "title": f"한국어 모델 {organisation.upper()}",
                    "purpose": "Pre-training",
                    "workload": "7B parameters",
                    "gpus": 16,
                    "min_gpus": 8,
                    "starts": date(2026, 12, 10),
                    "ends": date(2027, 4, 30),
                    "budget_won": 50_000_000,
                }
            )
            application = service.submit(command_id(), who, asked)
            service.begin_review(command_id(), government, application.id)
            service.review(command_id(), government, application.id, {"impact": 80, "plan": 80}, "")
            lines.append(AwardLine(application=application.id, share=NAVER, gpus=16))
        self.clock.at = kst(2026, 12, 5)
        award = service.draft_award(command_id(), government, PAID, tuple(lines), ())
        service.approve_award(command_id(), second, award.id)
        for offer in register.offers.all(state="made"):
            service.accept_offer(command_id(), self._actor(f"admin-{offer.organisation}"), offer.id)
        grants = {str(grant.organisation): grant for grant in register.grants.all()}
        return [grants[one] for one in organisations]

    def _actor(self, login: str) -> Any:
        found = self.store.people.credentials(login)
        assert found is not None
        return found.person.actor

    def take(
        self,
        grant: PoolGrant | Lease,
        started: datetime,
        seconds: int,
        *,
        burst: bool = False,
        state: str = "COMPLETED",
    ) -> UsageRecord:
        """A run of 8 GPUs that the site reports."""
        self._number += 1
        record = UsageRecord(
            cluster=CLUSTER,
            job_id=JobId(self._number),
            user=UserName(f"kim-{grant.organisation}"),
            account=AccountName(grant.project),
            qos=QosName(f"{'burst' if burst else 'guaranteed'}-{grant.project}"),
            partition=PartitionName("h200-government"),
            model=GpuModel("h200"),
            gpus=8,
            started=started,
            ended=started + timedelta(seconds=seconds),
            gpu_seconds=8 * seconds,
            state=state,
        )
        self.pool.keeper.take([UsageChange(number=self._number, record=record)])
        return record

    def report(self, *, used_through: datetime | None = None) -> None:
        """The site says what runs now, and until when it has told all use."""
        share = {"pool": "h200", "share": "government", "model": "h200", "granted": 32, "capacity": 32}
        said = {
            "sent_at": self.clock.now().isoformat(),
            "cluster": CLUSTER,
            "version": "1",
            "slurm_version": "26.05",
            "revision": 1,
            "used_through": used_through and used_through.isoformat(),
            "shares": [share | {"healthy": 24, "guaranteed": 8, "burst": 4}],
            "incidents": [],
            "findings": [],
        }
        self.store.sites.put_report(SITE, said, sent_at=self.clock.now(), received_at=self.clock.now())


class MoneyPortal(PoolPortal):
    """A portal over a `MoneyScene`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.money = MoneyScene(self.store, self.pool, self.clock, self.accounts)
