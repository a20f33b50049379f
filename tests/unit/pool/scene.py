"""A small pool for tests: two sites, one programme, three organisations, and people to act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from slurm_gpuaas.domain.applications import Application, ApplicationRequest
from slurm_gpuaas.domain.calendar import korean_day, overcommitted, start_of
from slurm_gpuaas.domain.names import CommandId, OrganisationName, PersonId, PoolShareName, ProgrammeName
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.domain.policy import Role
from slurm_gpuaas.domain.pool_grants import Award, AwardLine, NotAwarded, Offer, PoolGrant
from slurm_gpuaas.domain.programmes import (
    Call,
    Criterion,
    Membership,
    OrganisationKind,
    PoolOrganisation,
    PoolShare,
    Programme,
    Region,
    Title,
)
from slurm_gpuaas.pool.service import PoolService
from slurm_gpuaas.pool.work import Evidence, Failpoint, Program, name_of, no_failpoint
from slurm_gpuaas.store.pool import PoolStore
from tests.fakes import FakeClock
from tests.stores import new_pool_store, opened

START = datetime(2027, 1, 4, 0, 0, tzinfo=UTC)
"""Monday, 9 in the morning in Korea."""
TODAY = date(2027, 1, 4)
NAVER = PoolShareName("naver.h200.government")
NHN = PoolShareName("nhn.b200.government")


def person(name: str, role: PortalRole = PortalRole.RESEARCHER, organisation: str | None = None) -> Actor:
    return Actor(
        person=PersonId(f"p-{name}"),
        role=role,
        organisation=None if organisation is None else OrganisationName(organisation),
    )


KIM = person("kimsnu", organisation="snu")
LEE = person("leesnu", PortalRole.TENANT_ADMIN, "snu")
PARK = person("parkkaist", organisation="kaist")
CHOI = person("choifirm", organisation="mint")
OFFICER = person("officer1", PortalRole.GOVERNMENT)
DIRECTOR = person("director", PortalRole.GOVERNMENT)
REVIEWER = person("reviewer1", PortalRole.GOVERNMENT)
SECOND = person("reviewer2", PortalRole.GOVERNMENT)

OF: Mapping[str, Actor] = {"snu": KIM, "kaist": PARK, "mint": CHOI}
KINDS: Mapping[str, OrganisationKind] = {
    "snu": OrganisationKind.UNIVERSITY,
    "kaist": OrganisationKind.UNIVERSITY,
    "mint": OrganisationKind.YOUNG_FIRM,
}
_BEGUN: dict[tuple[str, int, int], bytes] = {}


def programme(**fields: Any) -> Programme:
    rules: dict[str, Any] = {
        "name": "national",
        "title": Title(ko="국가 GPU 지원", en="National GPU support"),
        "calls": (Call(number=1, opens=START - timedelta(days=1), closes=START + timedelta(days=7)),),
        "prices": {
            OrganisationKind.UNIVERSITY: 0,
            OrganisationKind.YOUNG_FIRM: "2.5",
            OrganisationKind.FIRM: 5,
        },
        "models": ("h200", "b200"),
        "shares": (NAVER, NHN),
        "sizes": (8, 16, 32, 64),
        "beyond": 8,
        "longest_days": 365,
        "criteria": (
            Criterion(key="impact", title=Title(ko="파급효과", en="Impact"), weight=2),
            Criterion(key="plan", title=Title(ko="추진계획", en="Plan"), weight=1),
        ),
        "reviews_needed": 1,
    }
    return Programme.model_validate(rules | fields)


def share(name: PoolShareName, capacity: int) -> PoolShare:
    cluster, pool, part = name.split(".")
    return PoolShare.model_validate(
        {"provider": cluster, "cluster": cluster, "pool": pool, "share": part, "model": pool, "capacity": capacity}
    )


def organisation(name: str, kind: OrganisationKind = OrganisationKind.UNIVERSITY) -> PoolOrganisation:
    return PoolOrganisation(name=OrganisationName(name), kind=kind, region=Region.SEOUL, title=name.upper())


def request(of: str = "snu", **fields: Any) -> ApplicationRequest:
    asked: dict[str, Any] = {
        "programme": "national",
        "call": 1,
        "organisation": of,
        "title": "Korean language model",
        "purpose": "Pre-training",
        "workload": "7B parameters, 2T tokens, bf16",
        "gpus": 16,
        "min_gpus": 8,
        "starts": date(2027, 2, 1),
        "ends": date(2027, 4, 30),
    }
    return ApplicationRequest.model_validate(asked | fields)


class TableAudit:
    """An audit trail in the store's own transaction, in a table of the tests'."""

    def __init__(self, store: PoolStore) -> None:
        self._sessions = store._sessions
        with self._sessions.writing() as session:
            session.execute(
                text(
                    "CREATE TABLE IF NOT EXISTS trail "
                    "(number INTEGER PRIMARY KEY, actor TEXT, action TEXT, subject TEXT, reason TEXT)"
                )
            )

    def append(
        self, actor: Actor | Program, action: str, subject: str, reason: str, evidence: Mapping[str, Evidence], /
    ) -> None:
        assert all(value is None or isinstance(value, str | int | float) for value in evidence.values())
        entry = {"actor": name_of(actor), "action": action, "subject": str(subject), "reason": reason}
        with self._sessions.writing() as session:
            number = session.execute(text("SELECT coalesce(max(number), 0) + 1 FROM trail")).scalar_one()
            session.execute(
                text("INSERT INTO trail VALUES (:number, :actor, :action, :subject, :reason)"),
                {"number": number, **entry},
            )

    @property
    def actions(self) -> list[str]:
        with self._sessions.reading() as session:
            return [action for (action,) in session.execute(text("SELECT action FROM trail ORDER BY number"))]


@dataclass
class Pool:
    """The service over a store, and short ways to say what people do."""

    store: PoolStore
    clock: FakeClock = field(default_factory=lambda: FakeClock(START))
    failpoint: Failpoint = no_failpoint

    def __post_init__(self) -> None:
        self.audit = TableAudit(self.store)
        self.register = self.store.register

    @classmethod
    def new(cls, file: Path, rules: Programme | None = None, *, naver: int = 32, nhn: int = 64) -> Pool:
        """In a file that is not there yet. Made once for all tests that begin alike, and copied."""
        rules = rules or programme()
        begun = (rules.model_dump_json(), naver, nhn)
        if begun not in _BEGUN:
            with TemporaryDirectory() as folder:
                pool = cls(new_pool_store(Path(folder, "pool.db")))
                pool._begin(rules, naver, nhn)
                pool.store.close()
                _BEGUN[begun] = Path(folder, "pool.db").read_bytes()
        file.write_bytes(_BEGUN[begun])
        return cls(opened(PoolStore, file))

    def _begin(self, rules: Programme, naver: int, nhn: int) -> None:
        for one in (share(NAVER, naver), share(NHN, nhn)):
            self.service.put_share(self.id, DIRECTOR, one)
        self.service.put_programme(self.id, DIRECTOR, rules)
        for name, kind in KINDS.items():
            self.service.put_organisation(self.id, DIRECTOR, organisation(name, kind))
        for actor in (KIM, LEE, PARK, CHOI):
            assert actor.organisation is not None
            role = Role.TENANT_ADMIN if actor.role is PortalRole.TENANT_ADMIN else Role.RESEARCHER
            membership = Membership(person=actor.person, organisation=actor.organisation, role=role)
            self.service.put_membership(self.id, DIRECTOR, membership)

    @property
    def service(self) -> PoolService:
        return PoolService(store=self.store, clock=self.clock, audit=self.audit, failpoint=self.failpoint)

    @property
    def id(self) -> CommandId:
        """Of a command of its own."""
        return CommandId(str(uuid4()))

    @property
    def today(self) -> date:
        return korean_day(self.clock.now())

    def until(self, day: date) -> None:
        """Forward to that Korean day's morning."""
        self.clock.at = start_of(day) + timedelta(hours=9)

    # -- The way of an application

    def submitted(self, of: str = "snu", **fields: Any) -> Application:
        return self.service.submit(self.id, OF[of], request(of, **fields))

    def reviewed(self, of: str = "snu", *, points: int = 80, **fields: Any) -> Application:
        application = self.submitted(of, **fields)
        self.service.begin_review(self.id, OFFICER, application.id)
        self.service.review(self.id, REVIEWER, application.id, {"impact": points, "plan": points}, "")
        return self.register.applications.get(application.id)

    def closed(self) -> None:
        """The call is over."""
        self.clock.at = START + timedelta(days=7)

    def drafted(self, *awards: tuple[Application, PoolShareName, int], waiting: Sequence[Application] = ()) -> Award:
        lines = tuple(AwardLine(application=one.id, share=share, gpus=gpus) for one, share, gpus in awards)
        others = tuple(NotAwarded(application=one.id, why="No room.") for one in waiting)
        return self.service.draft_award(self.id, OFFICER, ProgrammeName("national"), lines, others)

    def offered(self, application: Application, share: PoolShareName = NAVER, gpus: int | None = None) -> Offer:
        award = self.drafted((application, share, gpus or application.request.gpus))
        self.service.approve_award(self.id, DIRECTOR, award.id)
        (offer,) = self.register.offers.all(application=application.id)
        return offer

    def granted(self, of: str = "snu", *, share: PoolShareName = NAVER, **fields: Any) -> PoolGrant:
        """From an application on the first day to a grant on the day the call closes."""
        if self.clock.at == START:
            application = self.reviewed(of, **fields)
            self.closed()
            return self.accepted(self.offered(application, share))
        raise AssertionError("the call is over")

    def accepted(self, offer: Offer) -> PoolGrant:
        return self.service.accept_offer(self.id, OF[offer.organisation], offer.id)

    # -- What must hold

    def faults(self) -> list[str]:
        """What is wrong with the calendar: a share that has promised too much, or rows that no noun stands behind."""
        with self.store.transaction():
            return self._faults()

    def _faults(self) -> list[str]:
        found = []
        behind = [
            *(offer.commitment for offer in self.register.offers.all()),
            *(grant.commitment for grant in self.register.grants.all()),
            *(hold.commitment for hold in self.register.holds.all()),
        ]
        for one in self.register.shares.all():
            rows = [row for row in self.register.calendar.of_share(one.name) if row.ends >= self.today]
            if (worst := overcommitted(one.capacity, rows, since=self.today)) is not None:
                found.append(f"{one.name} has {one.capacity} and promises {worst}")
            wanted = sorted(
                replace(noun, starts=max(noun.starts, self.today))
                for noun in behind
                if noun is not None and noun.share == one.name and noun.ends >= self.today
            )
            there = sorted(replace(row, starts=max(row.starts, self.today)) for row in rows)
            if wanted != there:
                found.append(f"{one.name}: the calendar has {there}, its nouns {wanted}")
        return found

    def told(self, *templates: str) -> list[tuple[str, str]]:
        """Mails of these templates that are to be sent: to whom, what."""
        return [(one.to, one.template) for one in self.register.outbox.unsent(limit=1_000) if one.template in templates]
