"""A portal with something of everything, of several organisations at two providers, each thing with a mark in it that
shows wherever its text is shown: so a test can see that nothing of others leaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import uuid4

from slurm_gpuaas.domain.accounts import Office
from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.calendar import start_of
from slurm_gpuaas.domain.names import (
    ClusterName,
    CommandId,
    OrganisationName,
    PersonId,
    ProgrammeName,
    ProviderName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.people import NOWHERE, Actor, PortalRole
from slurm_gpuaas.domain.pool_grants import AwardLine, HoldKind, Offer, PoolGrant
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.portal.accounts import owned
from slurm_gpuaas.portal.rights import Action, Owned
from slurm_gpuaas.portal.secret import csrf_token
from tests.asgi import Answered, Asgi
from tests.pool_happenings import happen
from tests.pools import ORIGIN, PASSWORD, PoolPortal
from tests.things import Thing
from tests.unit.pool.scene import NAVER, NHN, request

KEY: Final = SshKey("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2sC7WBoqP/lzMvlMQBbKdLEM2wWQKn8JZ4C+LwJ3qX kim@laptop")
SHARES: Final = {"snu": NAVER, "kaist": NHN}
"""Where each organisation has its grant."""
STAGES: Final = ("submitted", "judged", "offered", "granted")
_OF_APPLICATION: Final = frozenset({Action.APPLICATION_READ, Action.APPLICATION_REVIEW})


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody at a browser, or nobody (`login` is empty)."""

    label: str
    asgi: Asgi
    login: str = ""
    actor: Actor | None = None
    cookie: str = ""
    csrf: str = ""

    def ask(self, method: str, target: str, *, body: bytes = b"", kind: str = "", **headers: str) -> Answered:
        given = {"Accept-Language": "en", "Origin": ORIGIN} | headers
        if self.cookie:
            given |= {"Cookie": f"__Host-gpuaas={self.cookie}", "X-CSRF-Token": self.csrf}
        if kind:
            given["Content-Type"] = kind
        return self.asgi.ask(method, target, headers=given, body=body)


class World(PoolPortal):
    """`PoolPortal` some months on. `things`: by the static part of the paths in which they stand."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.things: dict[str, list[Thing]] = {}
        for name in ("naver", "nhn"):
            self._create(f"operator-{name}", Office(role=PortalRole.PROVIDER_OPERATOR, provider=ProviderName(name)))
            self._create(f"billing-{name}", Office(role=PortalRole.PROVIDER_BILLING, provider=ProviderName(name)))
            self.store.sites.add(SiteName(name), cluster=ClusterName(name), provider=ProviderName(name))
        self._applications: dict[tuple[str, str], Application] = {}
        for stage in STAGES:
            for of in SHARES:
                self._apply(of, stage)
        self.clock.forward(timedelta(days=8))
        self._award("offered", "granted")
        self._grants = dict(self._accept())
        self.clock.at = start_of(next(iter(self._grants.values())).starts) + timedelta(hours=9)
        self.pool.turn()
        self._act()
        self._award("offered", "judged", approve=False)
        self.asgi = Asgi(self.app)
        newcomers = {of: self._newcomer(of) for of in SHARES}
        self._collect()
        happen(self, self._grants, newcomers)

    def close(self) -> None:
        self.asgi.close()
        self.store.close()

    def caller(self, login: str = "", label: str = "") -> Caller:
        if not login:
            return Caller("nobody", self.asgi)
        secret = self.accounts.sign_in(login, PASSWORD, NOWHERE)
        return Caller(label or login, self.asgi, login, self.person(login).actor, secret, csrf_token(secret))

    # -- What happened

    def _newcomer(self, of: str) -> PersonId:
        login = f"newcomer-{of}"
        self._create(login, Office(role=PortalRole.RESEARCHER, organisation=OrganisationName(of)))
        return self.person(login).id

    def _create(self, login: str, office: Office) -> None:
        name, address = f"{login}님", f"{login}@example.org"
        self.accounts.create(login=UserName(login), name=name, email=address, office=office, password=PASSWORD)

    def actor(self, login: str) -> Actor:
        return self.person(login).actor

    @property
    def command(self) -> CommandId:
        return CommandId(str(uuid4()))

    def _apply(self, of: str, stage: str) -> None:
        service, officer = self.pool.service, self.actor("second")
        asked = request(of, title=f"title-{stage}-{of}-q7z", purpose=f"purpose-{stage}-{of}-q7z", gpus=8)
        application = service.submit(self.command, self.actor(f"researcher-{of}"), asked)
        if stage != "submitted":
            service.begin_review(self.command, officer, application.id)
            points = {"impact": 80, "plan": 70}
            service.review(self.command, officer, application.id, points, f"comment-{stage}-{of}-q7z")
        self._applications[stage, of] = application

    def _award(self, *stages: str, approve: bool = True) -> None:
        """Both organisations' applications of these stages that are to be decided on still."""
        register = self.store.register
        lines = tuple(
            AwardLine(application=one.id, share=SHARES[of], gpus=8)
            for (stage, of), one in self._applications.items()
            if stage in stages and register.applications.get(one.id).state == "in review"
        )
        award = self.pool.service.draft_award(self.command, self.actor("second"), ProgrammeName("national"), lines)
        if approve:
            self.pool.service.approve_award(self.command, self.actor("third"), award.id)

    def _accept(self) -> Iterator[tuple[str, PoolGrant]]:
        for of in SHARES:
            (offer,) = self.store.register.offers.all(application=self._applications["granted", of].id)
            yield of, self.pool.service.accept_offer(self.command, self.actor(f"admin-{of}"), offer.id)

    def _act(self) -> None:
        service = self.pool.service
        for of, grant in self._grants.items():
            researcher, admin = self.actor(f"researcher-{of}"), self.actor(f"admin-{of}")
            service.put_identity(self.command, researcher, researcher.person, UserName(f"login-{of}"), (KEY,))
            service.set_members(self.command, admin, grant.id, (researcher.person,))
            longer = grant.ends + timedelta(days=10)
            service.ask_change(self.command, admin, grant.id, 16, longer, f"reason-change-{of}-q7z")
            service.hand_in_report(self.command, admin, grant.id, f"report-{of}-q7z")
            today = grant.starts
            service.hold(self.command, self.actor("second"), HoldKind.LEASE, SHARES[of], 8, today, today, "lease")

    # -- What there is

    def _collect(self) -> None:
        register = self.store.register
        providers = {share.name: share.provider for share in register.shares.all()}
        things = self.things
        for kind in ("programmes", "organisations", "shares", "applications", "offers", "grants", "changes", "awards"):
            things[kind] = []
        things["programmes"] = [Thing(one.name, (Owned(),)) for one in register.programmes.all()]
        things["shares"] = [Thing(one.name, (Owned(provider=one.provider),)) for one in register.shares.all()]
        things["organisations"] = [Thing(of, (Owned(organisation=OrganisationName(of)),)) for of in SHARES]
        things["awards"] = [
            # A provider sees an award once it is approved, as far as it is about its shares.
            Thing(one.id, (Owned(), *(Owned(provider=providers[line.share]) for line in one.awards if one.decided_by)))
            for one in register.awards.all()
        ]
        for (stage, of), one in self._applications.items():
            whose = Owned(people=frozenset({one.applicant}), organisation=one.organisation)
            things["applications"].append(Thing(one.id, (whose,), f"title-{stage}-{of}-q7z", _OF_APPLICATION))
            comment = Thing(one.id, (Owned(),), f"comment-{stage}-{of}-q7z", frozenset({Action.REVIEW_READ}))
            things.setdefault("comments", []).append(comment)
        offer: Offer
        for offer in register.offers.all():
            people = frozenset({register.applications.get(offer.application).applicant})
            whose = Owned(people=people, organisation=offer.organisation, provider=providers[offer.share])
            title = register.applications.get(offer.application).request.title
            things["offers"].append(Thing(offer.id, (whose,), title, frozenset({Action.GRANT_READ})))
        for of, grant in self._grants.items():
            grant = register.grants.get(grant.id)
            whose = Owned(
                people=frozenset(grant.members), organisation=grant.organisation, provider=providers[grant.share]
            )
            title = f"title-granted-{of}-q7z"
            things["grants"].append(Thing(grant.id, (whose,), title, frozenset({Action.GRANT_READ})))
            report = Thing(grant.id, (whose,), f"report-{of}-q7z", frozenset({Action.GRANT_READ}))
            things.setdefault("reports-of-grants", []).append(report)
            (change,) = register.changes.all(grant=grant.id)
            reason = f"reason-change-{of}-q7z"
            things["changes"].append(Thing(change.id, (whose,), reason, frozenset({Action.GRANT_READ})))
        # The form under a programme's name is everybody's own.
        people = frozenset(person.id for person in self.store.people.all())
        own = (Owned(people=people), *(Owned(organisation=OrganisationName(of)) for of in SHARES))
        things["apply"], things["apply/*"] = [Thing("national", own)], [Thing("purpose", own)]
        things["sites"] = [Thing(one.name, (Owned(provider=one.provider),)) for one in self.store.sites.all()]
        things["idle"] = things["grants"]
        things["lines"] = things["reviews"] = things["applications"]
        things["people"] = [
            Thing(
                person.id,
                (owned(person.office, person.id),),
            )
            for person in self.store.people.all()
        ]

    def marks(self) -> list[Thing]:
        """Everything with a mark; a mark of several things may be shown where any of them may."""
        return [thing for things in self.things.values() for thing in things if thing.mark]
