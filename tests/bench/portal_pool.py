"""A pool of national size for the portal's load: 13,136 GPUs of three providers, 60 organisations, some hundred
applications, offers and grants, and a month of use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from slurm_gpuaas.domain.accounts import Office
from slurm_gpuaas.domain.applications import ApplicationRequest
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    CommandId,
    GpuModel,
    OrganisationName,
    PartitionName,
    PoolShareName,
    ProgrammeName,
    ProviderName,
    QosName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.people import NOWHERE, Actor, PortalRole
from slurm_gpuaas.domain.pool_grants import AwardLine, NotAwarded, PoolGrant
from slurm_gpuaas.domain.programmes import (
    Call,
    Criterion,
    OrganisationKind,
    PoolOrganisation,
    PoolShare,
    Programme,
    Region,
    Title,
)
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.pool.work import Program
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.config import SessionsConfig
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import RIGHTS
from slurm_gpuaas.store.pool import PoolStore
from slurm_gpuaas.testbed.map_demo import GOVERNMENT, PRICES, TENANTS
from slurm_gpuaas.testbed.profiles import profile
from tests.fakes import FakeClock
from tests.pools import WEAKEST
from tests.unit.metering.books import pool_rate

ORGANISATIONS: Final = 60
APPLICATIONS: Final = 240
GRANTED: Final = 120
JOBS_A_GRANT: Final = 60
PASSWORD: Final = "correct horse battery staple"
_TESTS: Final = Program("tests")


@dataclass(frozen=True, slots=True)
class Seat:
    """Somebody who reads: by session or by token."""

    role: str
    organisation: str
    cookie: str
    token: str


@dataclass(frozen=True, slots=True)
class National:
    """What the load can ask for."""

    seats: Sequence[Seat]
    grants: dict[str, Sequence[str]]
    """By organisation."""
    applications: dict[str, Sequence[str]]


def command() -> CommandId:
    return CommandId(str(uuid4()))


def organisations() -> list[OrganisationName]:
    return [*TENANTS, *(OrganisationName(f"tenant-{number}") for number in range(len(TENANTS), ORGANISATIONS))]


def filled(file: Path) -> National:
    """The store in a file that is not there yet."""
    store = PoolStore.open(f"sqlite:///{file}")
    now = datetime.now(UTC).replace(microsecond=0)
    clock = FakeClock(now - timedelta(days=40))
    pool = PoolServer(store, clock)
    accounts = Accounts(store, clock, SessionsConfig(), hasher=WEAKEST)
    with store.transaction():
        _declare(pool, clock)
        people = _people(accounts)
    pool.turn()
    with store.transaction():
        applications = _applied(pool, people, clock)
    clock.at = now - timedelta(days=30)
    with store.transaction():
        grants = _granted(pool, people, applications)
    pool.turn()
    _used(pool, grants, now)
    clock.at = now
    pool.turn()
    clock_now = Accounts(store, FakeClock(now), SessionsConfig(), hasher=WEAKEST)
    seats = [_seat(clock_now, store, login, office) for login, office in _offices()]
    store.close()
    by_organisation: dict[str, list[str]] = {}
    for grant in grants:
        by_organisation.setdefault(grant.organisation, []).append(grant.id)
    applied: dict[str, list[str]] = {}
    for id, of in applications:
        applied.setdefault(of, []).append(id)
    return National(seats=seats, grants=dict(by_organisation), applications=dict(applied))


def _declare(pool: PoolServer, clock: FakeClock) -> None:
    service = pool.service
    shares = []
    for model, won in PRICES.items():
        pool.keeper.add_rate(pool_rate(name=f"{model}-2026", model=model, won_per_gpu_hour=won, starts="2026-01-01"))
    for cluster in profile("national").clusters:
        name, total = cluster.name, cluster.nodes * cluster.gpus
        pool.store.sites.add(SiteName(name), cluster=ClusterName(name), provider=ProviderName(name))
        for part, capacity in (("government", GOVERNMENT[name]), ("own", total - GOVERNMENT[name])):
            share = PoolShare.model_validate(
                {
                    "provider": name,
                    "cluster": name,
                    "pool": cluster.model,
                    "share": part,
                    "model": cluster.model,
                    "capacity": capacity,
                }
            )
            shares.append(service.put_share(command(), _TESTS, share))
    opens = clock.now() - timedelta(days=1)
    service.put_programme(
        command(),
        _TESTS,
        Programme(
            name=ProgrammeName("national"),
            title=Title(ko="국가 GPU 지원", en="National GPU support"),
            calls=(Call(number=1, opens=opens, closes=opens + timedelta(days=8)),),
            prices=dict.fromkeys(OrganisationKind, 5),
            models=(GpuModel("h200"), GpuModel("b200")),
            shares=tuple(one.name for one in shares if one.share == "government"),
            sizes=(8, 16, 32, 64),
            beyond=8,
            longest_days=365,
            criteria=(Criterion(key="impact", title=Title(ko="파급효과", en="Impact"), weight=1),),
            reviews_needed=1,
        ),
    )
    regions = list(Region)
    for number, name in enumerate(organisations()):
        kind = OrganisationKind.UNIVERSITY if number % 2 else OrganisationKind.YOUNG_FIRM
        region = regions[number % len(regions)]
        service.put_organisation(
            command(), _TESTS, PoolOrganisation(name=name, kind=kind, region=region, title=f"{name} 연구소")
        )


def _offices() -> Iterator[tuple[str, Office]]:
    for number in range(6):
        yield f"officer{number}", Office(role=PortalRole.GOVERNMENT)
    for number in range(2):
        yield f"auditor{number}", Office(role=PortalRole.AUDITOR)
    for cluster in profile("national").clusters:
        provider = ProviderName(cluster.name)
        yield f"operator-{provider}", Office(role=PortalRole.PROVIDER_OPERATOR, provider=provider)
        yield f"billing-{provider}", Office(role=PortalRole.PROVIDER_BILLING, provider=provider)
    for name in organisations():
        yield f"admin-{name}"[:32], Office(role=PortalRole.TENANT_ADMIN, organisation=name)
        yield f"res-{name}"[:32], Office(role=PortalRole.RESEARCHER, organisation=name)


def _people(accounts: Accounts) -> dict[str, Actor]:
    found = {}
    for login, office in _offices():
        address = f"{login}@example.org"
        person = accounts.create(login=UserName(login), name=login, email=address, office=office, password=PASSWORD)
        found[login] = person.actor
    return found


def _applied(pool: PoolServer, people: dict[str, Actor], clock: FakeClock) -> list[tuple[str, OrganisationName]]:
    names, today = organisations(), korean_day(clock.now())
    applied: list[tuple[str, OrganisationName]] = []
    for number in range(APPLICATIONS):
        of = names[number % len(names)]
        asked = ApplicationRequest.model_validate(
            {
                "programme": "national",
                "call": 1,
                "organisation": of,
                "title": f"한국어 거대언어모델 사전학습 {number}",
                "purpose": "Pre-training of a Korean language model of the next generation.",
                "workload": "7B parameters, 2T tokens, bf16",
                "gpus": 64,
                "min_gpus": 8,
                "starts": today + timedelta(days=10),
                "ends": today + timedelta(days=120),
            }
        )
        application = pool.service.submit(command(), people[f"res-{of}"[:32]], asked)
        pool.service.begin_review(command(), people["officer0"], application.id)
        for reviewer in ("officer2", "officer3"):
            points = {"impact": 60 + number % 40}
            pool.service.review(command(), people[reviewer], application.id, points, "")
        applied.append((application.id, of))
    return applied


def _granted(
    pool: PoolServer, people: dict[str, Actor], applications: Sequence[tuple[str, OrganisationName]]
) -> list[PoolGrant]:
    shares = [PoolShareName(f"{one.name}.{one.model}.government") for one in profile("national").clusters]
    register = pool.store.register
    chosen = [register.applications.get(id) for id, _ in applications[:GRANTED]]
    lines = tuple(
        AwardLine(application=one.id, share=shares[number % 3], gpus=64 if number % 3 == 2 else 32)
        for number, one in enumerate(chosen)
    )
    rest = tuple(
        NotAwarded(application=register.applications.get(id).id, why="No room is left.")
        for id, _ in applications[GRANTED : GRANTED + 60]
    )
    award = pool.service.draft_award(command(), people["officer0"], ProgrammeName("national"), lines, (), rest)
    pool.service.approve_award(command(), people["officer1"], award.id)
    return [
        pool.service.accept_offer(command(), people[f"admin-{offer.organisation}"[:32]], offer.id)
        for offer in register.offers.all()
    ]


def _used(pool: PoolServer, grants: Sequence[PoolGrant], now: datetime) -> None:
    number = 0
    shares = {share.name: share for share in pool.store.register.shares.all()}
    changes = []
    for grant in grants:
        share = shares[grant.share]
        for job in range(JOBS_A_GRANT):
            number += 1
            started = now - timedelta(days=29) + timedelta(hours=11 * job)
            ended = None if job == JOBS_A_GRANT - 1 else started + timedelta(hours=9)
            until = ended or max(started, now)
            record = UsageRecord(
                cluster=share.cluster,
                job_id=JobId(number),
                user=UserName(f"u{number % 40}"),
                account=AccountName(grant.project),
                qos=QosName(f"guaranteed-{grant.project}"),
                partition=PartitionName(f"{share.model}-government"),
                model=share.model,
                gpus=16,
                started=started,
                ended=ended,
                gpu_seconds=16 * int((until - started).total_seconds()),
                state="RUNNING" if ended is None else "COMPLETED",
                nodes="gpu-001",
            )
            changes.append(UsageChange(number=number, record=record))
    for at in range(0, len(changes), 500):
        pool.keeper.take(changes[at : at + 500])
    pool.keeper.book()


def _seat(accounts: Accounts, store: PoolStore, login: str, office: Office) -> Seat:
    cookie = accounts.sign_in(login, PASSWORD, NOWHERE)
    found = store.people.credentials(login)
    assert found is not None
    scopes = tuple(RIGHTS[office.role])
    _, token = accounts.make_token(found.person, name="load", scopes=scopes, days=1, source=NOWHERE)
    return Seat(role=str(office.role), organisation=str(office.organisation or ""), cookie=cookie, token=token)
