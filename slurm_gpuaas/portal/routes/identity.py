"""Who one is on the clusters: a login, chosen once, and the SSH keys that open it."""

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from slurm_gpuaas.api.models import Request as Body
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.logins import MOST_KEYS
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import UnixIdentity
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.feature import Card, Feature, Portal, go
from slurm_gpuaas.portal.http import API, NOT_MODIFIED, PROBLEMS, Act, Answer, FormAct, with_etag
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.fields import Faults, LongText, Text, unix_name
from slurm_gpuaas.portal.routes.grant_desk import sentence
from slurm_gpuaas.portal.visit import Needs, Unseen, Visit
from slurm_gpuaas.portal.words import noted

ON_CLUSTERS: Final = frozenset({PortalRole.TENANT_ADMIN, PortalRole.RESEARCHER})
"""Who can be a member of a grant."""


class KeyView(Answer):
    fingerprint: str
    line: str


class IdentityView(Answer):
    login: str | None = Field(description="null: not chosen yet.")
    uid: int | None
    ssh_keys: tuple[KeyView, ...]


class NewIdentity(Body):
    """`login` stays as it is once it is chosen; `ssh_keys` are all that there are from now on."""

    login: UserName
    ssh_keys: tuple[SshKey, ...] = Field(max_length=MOST_KEYS)


def _view(identity: UnixIdentity | None) -> IdentityView:
    if identity is None:
        return IdentityView(login=None, uid=None, ssh_keys=())
    return IdentityView(
        login=identity.login,
        uid=identity.uid,
        ssh_keys=tuple(KeyView(fingerprint=key.fingerprint, line=key) for key in identity.ssh_keys),
    )


def identity_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> Sequence[APIRouter]:
        return _routes(portal, pool)

    def cards(portal: Portal, visit: Visit) -> Sequence[Card]:
        """Only while something is missing."""
        if visit.person.office.role not in ON_CLUSTERS:
            return ()
        identity = pool.store.register.identities.find(visit.person.id)
        if identity is not None and identity.ssh_keys:
            return ()
        say = visit.words.say
        missing = say("no login yet") if identity is None else say("no SSH key yet")
        return (Card(label=say("Login and SSH keys"), value="1", detail=missing, path="/identity", asks=1),)

    return Feature(
        name="identity",
        routes=routes,
        cards=cards,
        notices={
            "login-chosen": noted("The login is yours, on all clusters."),
            "key-added": noted("The key was added. The clusters of your grants have it within seconds."),
            "key-removed": noted("The key was removed. It opens no login any more."),
        },
    )


def _routes(portal: Portal, pool: PoolServer) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["account"], responses=PROBLEMS)
    Owner = Annotated[Visit, Depends(Needs(Action.PROFILE_CHANGE))]
    identities, service = pool.store.register.identities, pool.service

    def page(
        request: Request,
        visit: Visit,
        *,
        status: int = 200,
        faults: Faults | None = None,
        fault: str = "",
        login: str = "",
        key: str = "",
    ) -> Response:
        return portal.page(
            request,
            visit,
            "identity.html",
            status=status,
            identity=identities.find(visit.person.id),
            faults=faults.told if faults else {},
            fault=fault,
            login=login,
            key=key,
            most=MOST_KEYS,
        )

    @pages.get("/identity")
    def identity(request: Request, visit: Owner) -> Response:
        return page(request, visit)

    @pages.post("/identity/login")
    def choose(request: Request, visit: Owner, act: FormAct, login: Text = "") -> Response:
        faults, fault = Faults(), ""
        chosen = faults.read("login", unix_name, login)
        if chosen is not None:
            try:
                known = identities.find(visit.person.id)
                service.put_identity(act, visit.actor, visit.person.id, chosen, known.ssh_keys if known else ())
                return go("/identity", "login-chosen")
            except GpuaasError as error:
                fault = sentence(visit, error)
        return page(request, visit, status=422, faults=faults, fault=fault, login=login)

    @pages.post("/identity/keys")
    def add(request: Request, visit: Owner, act: FormAct, key: LongText = "") -> Response:
        faults, fault = Faults(), ""
        new = faults.read("key", SshKey, key)
        if new is not None:
            try:
                known = _known(identities.find(visit.person.id))
                others = tuple(one for one in known.ssh_keys if one.fingerprint != new.fingerprint)
                if len(others) >= MOST_KEYS:
                    raise InvalidInput(
                        told("{most} keys are here already.", most=MOST_KEYS), way_out=told("Remove one first.")
                    )
                service.put_identity(act, visit.actor, visit.person.id, known.login, (*others, new))
                return go("/identity", "key-added")
            except GpuaasError as error:
                fault = sentence(visit, error)
        return page(request, visit, status=422, faults=faults, fault=fault, key=key)

    @pages.post("/identity/keys/remove")
    def remove(visit: Owner, act: FormAct, fingerprint: Text = "") -> Response:
        known = _known(identities.find(visit.person.id))
        left = tuple(one for one in known.ssh_keys if one.fingerprint != fingerprint)
        service.put_identity(act, visit.actor, visit.person.id, known.login, left)
        return go("/identity", "key-removed")

    @api.get("/identity", response_model=IdentityView, responses=NOT_MODIFIED)
    def mine(request: Request, visit: Owner) -> Response:
        """Your login and SSH keys on the clusters."""
        return with_etag(request, _view(identities.find(visit.person.id)))

    @api.put("/identity")
    def put(visit: Owner, new: NewIdentity, act: Act) -> IdentityView:
        """Choose your login, once, and say which SSH keys open it from now on."""
        return _view(service.put_identity(act, visit.actor, visit.person.id, new.login, new.ssh_keys))

    return [pages, api]


def _known(identity: UnixIdentity | None) -> UnixIdentity:
    """
    Raises:
        Unseen: no login is chosen yet.
    """
    if identity is None:
        raise Unseen(told("You have no login yet."), way_out=told("Choose one first."))
    return identity
