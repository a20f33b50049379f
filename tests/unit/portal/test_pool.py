"""The portal's server at work: what is accepted reaches its site, what a site reports is booked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from queue import Queue
from typing import Any

import httpx2
import pytest

from slurm_gpuaas.api.pool_sites import UsagePush, UsageRow, documents_path, usage_path
from slurm_gpuaas.api.signing import SITES, sign, site_key
from slurm_gpuaas.domain.ledger import PoolRate
from slurm_gpuaas.domain.names import ClusterName, OrganisationName, ProviderName, SiteName, UserName
from slurm_gpuaas.domain.people import NOWHERE, PortalRole
from slurm_gpuaas.domain.policy import Role
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.portal.app import Wiring, make_portal
from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.pool import BOOK_EVERY, PoolServer, PoolTurns
from slurm_gpuaas.portal.routes.sites import sites_feature
from tests.pools import ORIGIN, WEAKEST, PoolPortal
from tests.unit.metering.books import pool_rate
from tests.unit.pool.scene import DIRECTOR, KIM, OF, Pool, programme

MASTER = b"m" * 32
SITE = SiteName("naver-h200")
KEY = SshKey("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2sC7WBoqP/lzMvlMQBbKdLEM2wWQKn8JZ4C+LwJ3qX kim@laptop")


class Scene:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.store, self.clock = pool.store, pool.clock
        if self.store.sites.find(SITE) is None:
            self.store.sites.add(SITE, cluster=ClusterName("naver"), provider=ProviderName("naver"))
        self.server = PoolServer(self.store, self.clock)
        config = Config(public_url=ORIGIN)
        features = (sites_feature(self.server, MASTER),)
        wiring = Wiring(config=config, store=self.store, clock=self.clock, features=features, hasher=WEAKEST)
        self.app = make_portal(wiring)

    def granted(self, of: str = "snu", **fields: Any) -> PoolGrant:
        self.pool.service.put_identity(self.pool.id, OF[of], OF[of].person, UserName(f"kim-{of}"), (KEY,))
        return self.pool.granted(of, **fields)

    def ask(self, method: str, target: str, body: bytes = b"", *, key: bytes | None = None) -> httpx2.Response:
        key = key or site_key(MASTER, SITE, 1)
        headers = sign(SITES, key, method=method, target=target, sender=SITE, body=body, now=self.clock.now())

        async def send() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.app)
            async with httpx2.AsyncClient(transport=transport, base_url=ORIGIN) as client:
                return await client.request(
                    method, target, content=body, headers={**headers, "Content-Type": "application/json"}
                )

        return asyncio.run(send())

    def documents(self, revision: int = 0) -> dict[str, Any]:
        answer = self.ask("GET", documents_path(SITE, revision=revision, wait=0))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def report(self, number: int, grant: PoolGrant, hours: int, *, after: int = 0) -> int:
        row = UsageRow.model_validate(
            {
                "number": number,
                "job_id": 7,
                "user": f"kim-{grant.organisation}",
                "account": grant.project,
                "qos": f"guaranteed-{grant.project}",
                "partition": "h200-government",
                "model": "h200",
                "gpus": 8,
                "started": self.clock.now() - timedelta(hours=hours),
                "ended": self.clock.now(),
                "gpu_seconds": 8 * hours * 3_600,
                "state": "COMPLETED",
                "nodes": "h200-001",
            }
        )
        body = UsagePush(after=after, rows=(row,)).model_dump_json().encode()
        answer = self.ask("POST", usage_path(SITE), body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["acknowledged"])

    def booked(self) -> tuple[int, int]:
        """GPU-seconds and Won of all entries."""
        entries = list(self.store.ledger.entries())
        return sum(one.amounts.gpu_seconds for one in entries), sum(one.amounts.won for one in entries)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool.new(tmp_path / "pool.db")
    yield pool
    pool.store.close()


@pytest.fixture
def scene(pool: Pool) -> Scene:
    return Scene(pool)


def test_an_accepted_offer_is_told_to_its_site_with_its_people(scene: Scene) -> None:
    scene.server.turn()
    before = scene.documents()["revision"]
    grant = scene.granted()
    scene.server.turn()
    told = scene.documents(before)
    assert told["revision"] > before
    kinds = {one["kind"]: one for one in told["documents"]}
    assert (kinds["Grant"]["project"], kinds["Grant"]["gpus"]) == (grant.project, 16)
    assert kinds["Member"]["user"] == "kim-snu"
    assert [(one["user"], one["keys"]) for one in told["people"]] == [("kim-snu", [KEY])]


def test_a_recalled_grant_keeps_its_people_and_loses_its_gpus_at_the_site(scene: Scene) -> None:
    grant = scene.granted()
    scene.pool.until(grant.starts)
    scene.server.turn()
    scene.pool.service.recall_grant(scene.pool.id, DIRECTOR, grant.id, "not used")
    scene.server.turn()
    (document,) = (one for one in scene.documents()["documents"] if one["kind"] == "Grant")
    assert document["gpus"] == 0
    assert [one["user"] for one in scene.documents()["people"]] == ["kim-snu"]


def test_a_server_that_starts_again_tells_a_site_nothing_new(scene: Scene) -> None:
    scene.granted()
    scene.server.turn()
    revision = scene.documents()["revision"]
    PoolServer(scene.store, scene.clock).turn()
    assert scene.documents(revision)["changed"] is False


def test_what_a_site_reports_is_booked_once_at_the_price_of_the_grant(scene: Scene) -> None:
    scene.server.keeper.add_rate(rate())
    grant = scene.granted("mint")  # a young firm pays 2.5 %
    scene.pool.until(grant.starts + timedelta(days=1))
    scene.server.turn()
    for _ in range(2):  # its answer was lost
        assert scene.report(1, grant, hours=10) == 1
    for _ in range(2):
        scene.clock.at += BOOK_EVERY
        scene.server.turn()
    assert scene.booked() == (8 * 36_000, 80 * 4_000 * 25 // 1_000)
    assert scene.report(2, grant, hours=11, after=1) == 2


def test_use_without_a_rate_waits_and_holds_up_no_documents(tmp_path: Path) -> None:
    scene = Scene(Pool.new(tmp_path / "pool.db", programme(cap_won=10_000_000)))
    grant = scene.granted("mint", budget_won=1_000_000)
    scene.pool.until(grant.starts + timedelta(days=1))
    scene.server.turn()
    assert any(one["kind"] == "Grant" for one in scene.documents()["documents"])
    scene.report(1, grant, hours=10)
    scene.server.keeper.add_rate(rate())
    scene.clock.at += BOOK_EVERY
    scene.server.turn()
    assert scene.booked()[1] == 8_000


def test_turns_in_their_thread_bring_an_acceptance_to_a_waiting_site(scene: Scene) -> None:
    told: Queue[SiteName] = Queue()
    scene.store.sites.on_documents(told.put)
    grant = scene.granted()
    turns = PoolTurns(scene.server, every_s=0.01)
    turns.start()
    try:
        assert told.get(timeout=10) == SITE
        scene.pool.service.set_members(scene.pool.id, KIM, grant.id, ())
        assert told.get(timeout=10) == SITE
    finally:
        turns.stop()
    assert scene.documents()["people"] == []


def test_nobody_without_the_sites_key_is_answered(scene: Scene) -> None:
    assert scene.ask("GET", documents_path(SITE, revision=0, wait=0), key=b"x" * 32).status_code == 401


def rate() -> PoolRate:
    return pool_rate(name="h200-2027", won_per_gpu_hour=4_000, starts="2027-01-01", burst_discount=0)


def test_who_belongs_to_an_organisation_follows_from_offices(tmp_path: Path) -> None:
    portal = PoolPortal(tmp_path)
    admin, researcher = portal.person("admin-snu"), portal.person("researcher-snu")
    memberships, snu = portal.store.register.memberships, OrganisationName("snu")
    of_snu = {one.person: one.role for one in memberships.all(organisation=snu)}
    assert of_snu[admin.id] is Role.TENANT_ADMIN and of_snu[researcher.id] is Role.RESEARCHER
    government = portal.people[PortalRole.GOVERNMENT]
    portal.accounts.suspend(government, researcher.id, active=False, reason="left", source=NOWHERE)
    portal.pool.turn()
    left = memberships.all(organisation=snu)
    assert researcher.id not in {one.person for one in left} and admin.id in {one.person for one in left}
    portal.store.close()
