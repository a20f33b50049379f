"""A pool's store and a portal for tests: one person of each role, passwords hashed as weakly as argon2 can."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from fastapi.testclient import TestClient
from httpx2 import Response
from pwdlib.hashers.argon2 import Argon2Hasher

from slurm_gpuaas.domain.accounts import Office, Person
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.names import CommandId, OrganisationName, ProviderName, UserName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import Call, Programme
from slurm_gpuaas.pool.service import PoolService
from slurm_gpuaas.pool.work import Program
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.app import Wiring, make_portal
from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.routes.of_pool import pool_features
from slurm_gpuaas.store.pool import PoolStore
from tests.fakes import FakeClock
from tests.stores import new_pool_store
from tests.unit.pool.scene import KINDS, NAVER, NHN, organisation, programme, share

PASSWORD = "correct horse battery staple"
ORIGIN = "https://gpu.example.org"
AT = datetime(2026, 11, 28, 0, 30, tzinfo=UTC)
WEAKEST = Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)

OFFICES = {
    PortalRole.GOVERNMENT: Office(role=PortalRole.GOVERNMENT),
    PortalRole.PROVIDER_OPERATOR: Office(role=PortalRole.PROVIDER_OPERATOR, provider=ProviderName("naver")),
    PortalRole.PROVIDER_BILLING: Office(role=PortalRole.PROVIDER_BILLING, provider=ProviderName("naver")),
    PortalRole.TENANT_ADMIN: Office(role=PortalRole.TENANT_ADMIN, organisation=OrganisationName("snu")),
    PortalRole.RESEARCHER: Office(role=PortalRole.RESEARCHER, organisation=OrganisationName("snu")),
    PortalRole.AUDITOR: Office(role=PortalRole.AUDITOR),
}
NAMES = {
    PortalRole.GOVERNMENT: "김정부",
    PortalRole.PROVIDER_OPERATOR: "이운영",
    PortalRole.PROVIDER_BILLING: "박정산",
    PortalRole.TENANT_ADMIN: "최관리",
    PortalRole.RESEARCHER: "정연구",
    PortalRole.AUDITOR: "한감사",
}


def login_of(role: PortalRole) -> UserName:
    return UserName(str(role))


def people_of_all_roles(store: PoolStore, clock: Clock, config: Config) -> dict[PortalRole, Person]:
    accounts = Accounts(store, clock, config.sessions, hasher=WEAKEST)
    return {
        role: accounts.create(
            login=login_of(role), name=NAMES[role], email=f"{role}@example.org", office=office, password=PASSWORD
        )
        for role, office in OFFICES.items()
    }


class Browser:
    """A client that keeps cookies and sends forms as a browser does: with its Origin and the page's CSRF token."""

    def __init__(self, app: Any, origin: str = ORIGIN) -> None:
        self.origin = origin
        self.client = TestClient(app, base_url=origin, follow_redirects=False, raise_server_exceptions=False)
        self.csrf = ""

    def get(self, path: str, **headers: str) -> Response:
        answer = self.client.get(path, headers=headers)
        if found := re.search(r'name="csrf" value="([^"]+)"', answer.text):
            self.csrf = found[1]
        return answer

    def post(self, path: str, **fields: Any) -> Response:
        return self.client.post(path, data={"csrf": self.csrf} | fields, headers={"Origin": self.origin})

    def set_cookie(self, name: str, value: str) -> None:
        self.client.cookies.set(name, value, domain=self.origin.removeprefix("https://"), path="/")

    def sign_in(self, login: str, password: str = PASSWORD) -> Response:
        self.get("/sign-in")
        answer = self.post("/sign-in", login=login, password=password)
        if answer.status_code == 303:
            self.get("/profile")
        return answer


@dataclass
class TestPortal:
    """A portal without a socket."""

    __test__ = False

    folder: Path
    features: tuple[Feature, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = FakeClock(AT)
        self.seconds = 0.0
        self.store = new_pool_store(self.folder / "pool.db")
        self.config = Config(public_url=ORIGIN, **self.settings)
        self.wiring = Wiring(
            config=self.config,
            store=self.store,
            clock=self.clock,
            features=(*self.features, *self.parts()),
            seconds=lambda: self.seconds,
            hasher=WEAKEST,
        )
        self.app = make_portal(self.wiring)
        self.people = people_of_all_roles(self.store, self.clock, self.config)
        self.accounts = Accounts(self.store, self.clock, self.config.sessions, hasher=WEAKEST)

    def parts(self) -> Sequence[Feature]:
        """Features over the store, where a kind of portal has some."""
        return ()

    def browser(self, who: PortalRole | str | None = None) -> Browser:
        """Signed in as somebody, by role or by login."""
        browser = Browser(self.app)
        if who is not None:
            assert browser.sign_in(login_of(who) if isinstance(who, PortalRole) else who).status_code == 303
        return browser

    def actions(self) -> list[str]:
        """What the audit trail has, the oldest first."""
        return [entry.action for entry in reversed(self.store.audit.newest(limit=500))]


class PoolPortal(TestPortal):
    """With the pool's pages: two shares, a programme whose call is open for a week, two universities and a young firm.

    People beside one of each role: `second` and `third` of the government, and for each organisation a tenant admin
    `admin-ORGANISATION` and a researcher `researcher-ORGANISATION`.
    """

    def parts(self) -> Sequence[Feature]:
        self.pool = PoolServer(self.store, self.clock)
        return pool_features(self.pool)

    def __post_init__(self) -> None:
        super().__post_init__()
        opens = self.clock.now() - timedelta(days=1)
        call = Call(number=1, opens=opens, closes=opens + timedelta(days=8))
        fill_pool(self.pool.service, self.accounts, programme(calls=(call,)))
        self.pool.turn()

    def person(self, login: str) -> Person:
        """By login."""
        found = self.store.people.credentials(login)
        assert found is not None
        return found.person


def fill_pool(service: PoolService, accounts: Accounts, rules: Programme) -> None:
    """What `PoolPortal` begins with, people of all roles being there already."""
    program = Program("tests")

    def command_id() -> CommandId:
        return CommandId(str(uuid4()))

    for one in (share(NAVER, 32), share(NHN, 64)):
        service.put_share(command_id(), program, one)
    service.put_programme(command_id(), program, rules)
    for login in ("second", "third"):
        _create(accounts, login, Office(role=PortalRole.GOVERNMENT))
    for name, kind in KINDS.items():
        service.put_organisation(command_id(), program, organisation(name, kind))
        for role, title in ((PortalRole.TENANT_ADMIN, "admin"), (PortalRole.RESEARCHER, "researcher")):
            _create(accounts, f"{title}-{name}", Office(role=role, organisation=OrganisationName(name)))


def _create(accounts: Accounts, login: str, office: Office) -> None:
    accounts.create(
        login=UserName(login), name=f"{login}님", email=f"{login}@example.org", office=office, password=PASSWORD
    )
