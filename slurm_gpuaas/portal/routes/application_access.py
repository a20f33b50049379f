"""Which applications a visitor may see, and what happens next with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slurm_gpuaas.domain.applications import Application, ApplicationState
from slurm_gpuaas.domain.names import ApplicationId
from slurm_gpuaas.domain.pool_grants import Offer
from slurm_gpuaas.pool.next_steps import NextStep, next_step
from slurm_gpuaas.portal.feature import Portal
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.routes.fields import key
from slurm_gpuaas.portal.visit import Visit


def owned(application: Application) -> Owned:
    return Owned(people=frozenset({application.applicant}), organisation=application.organisation)


def visible(portal: Portal, visit: Visit, **columns: str | Sequence[str]) -> list[Application]:
    """Applications that the visitor may see, the newest first."""
    found: Sequence[Application] = ()
    organisation = visit.person.office.organisation
    match visit.may(Action.APPLICATION_READ):
        case Scope.ALL:
            found = portal.store.register.applications.all(**columns)
        case Scope.ORGANISATION | Scope.OWN if organisation is not None:
            found = portal.store.register.applications.all(organisation=organisation, **columns)
    seen = [one for one in found if visit.allows(Action.APPLICATION_READ, owned(one))]
    return sorted(seen, key=lambda one: one.id, reverse=True)


def one_of(portal: Portal, visit: Visit, text: str, action: Action = Action.APPLICATION_READ) -> Application:
    """
    Raises:
        NotFound: there is none of this number.
        Refused: it is not the visitor's.
    """
    application = portal.store.register.applications.get(key(ApplicationId, text))
    visit.require(action, owned(application))
    return application


def next_steps(portal: Portal, applications: Sequence[Application]) -> Callable[[Application], NextStep | None]:
    """Looked up once for all of them."""
    register, now = portal.store.register, portal.clock.now()
    calls = {(one.name, call.number): call for one in register.programmes.all() for call in one.calls}
    awarded = [one.id for one in applications if one.state is ApplicationState.AWARDED]
    offers: dict[ApplicationId, Offer] = {}
    for offer in register.offers.all(application=awarded) if awarded else ():
        offers[offer.application] = offer  # in the order of their numbers: the newest stays

    def of(application: Application) -> NextStep | None:
        call = calls.get((application.programme, application.request.call))
        return next_step(application, call, offers.get(application.id), now)

    return of
