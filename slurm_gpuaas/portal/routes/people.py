"""People: who is here, inviting, changing roles with a second person, suspending."""

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Path, Request, Response

from slurm_gpuaas.domain.accounts import ORGANISATION_ROLES, PROVIDER_ROLES, Office, Person
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.names import OrganisationName, ProviderName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.accounts import owned
from slurm_gpuaas.portal.deeds import CALLED
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Answer,
    CursorText,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.rights import Action, Scope
from slurm_gpuaas.portal.routes.fields import Faults, Text, email, line, person_number, short_name
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

ChangeNumber = Annotated[int, Path(ge=0, lt=2**63)]


class PersonView(Answer):
    id: str
    name: str
    email: str
    role: str
    organisation: str | None
    provider: str | None
    state: str
    created_at: datetime


def _view(person: Person) -> PersonView:
    return PersonView(
        id=person.id,
        name=person.name,
        email=person.email,
        role=person.office.role,
        organisation=person.office.organisation,
        provider=person.office.provider,
        state=person.state,
        created_at=person.created_at,
    )


def _routes(portal: Portal) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["people"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.PEOPLE_READ))]
    Inviter = Annotated[Visit, Depends(Needs(Action.PEOPLE_INVITE))]
    Changer = Annotated[Visit, Depends(Needs(Action.PEOPLE_CHANGE))]
    Approver = Annotated[Visit, Depends(Needs(Action.PEOPLE_APPROVE))]

    def roles_of(visit: Visit) -> list[PortalRole]:
        """Roles that the visitor may give."""
        if visit.may(Action.PEOPLE_INVITE) is Scope.ALL:
            return list(PortalRole)
        return [PortalRole.RESEARCHER, PortalRole.TENANT_ADMIN]

    def people_page(
        request: Request,
        visit: Visit,
        *,
        status: int = 200,
        faults: dict[str, str] | None = None,
        fault: str = "",
        invitation: str = "",
        **typed: str,
    ) -> Response:
        empty = {
            "name": "",
            "email": "",
            "role": str(PortalRole.RESEARCHER),
            "organisation": "",
            "provider": "",
            "reason": "",
        }
        return portal.page(
            request,
            visit,
            "people.html",
            status=status,
            people=_visible(portal, visit),
            changes=[
                (change, portal.store.people.person(change.person), portal.store.people.person(change.asked_by))
                for change in portal.store.people.open_changes()
                if visit.allows(Action.PEOPLE_READ, owned(change.office, change.person))
            ],
            may_invite=visit.may(Action.PEOPLE_INVITE),
            may_change=visit.may(Action.PEOPLE_CHANGE),
            may_approve=visit.may(Action.PEOPLE_APPROVE),
            roles=roles_of(visit),
            faults=faults or {},
            fault=fault,
            invitation=f"{portal.config.public_url}/invitations/{invitation}" if invitation else "",
            typed=empty | typed,
        )

    @pages.get("/people")
    def people(request: Request, visit: Reader) -> Response:
        return people_page(request, visit)

    @pages.post("/people/invite")
    def invite(
        request: Request,
        visit: Inviter,
        name: Text = "",
        address: Annotated[str, Form(alias="email", max_length=500)] = "",
        role: Text = "",
        organisation: Text = "",
        provider: Text = "",
        reason: Text = "",
    ) -> Response:
        faults = Faults()
        shown = faults.read("name", line(200), name)
        to = faults.read("email", email, address)
        why = faults.read("reason", line(500, 0), reason)
        fault = ""
        try:
            office = _office(visit, role, organisation, provider)
            if shown is not None and to is not None and why is not None:
                secret = portal.accounts.invite(
                    visit.person, name=shown, email=to, office=office, reason=why, source=visit.source
                )
                return people_page(request, visit, invitation=secret)
        except GpuaasError as error:
            fault = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
        return people_page(
            request,
            visit,
            status=422,
            faults=faults.told,
            fault=fault,
            name=name,
            email=address,
            role=role,
            organisation=organisation,
            provider=provider,
            reason=reason,
        )

    @pages.get("/people/{number}")
    def person(request: Request, visit: Reader, number: str) -> Response:
        found = portal.store.people.person(person_number(number))
        visit.require(Action.PEOPLE_READ, owned(found.office, found.id))
        may = visit.allows(Action.PEOPLE_CHANGE, owned(found.office, found.id)) and found.id != visit.person.id
        return portal.page(
            request,
            visit,
            "person.html",
            deeds=CALLED,
            person=found,
            may_change=may,
            roles=roles_of(visit),
            events=portal.store.audit.newest(limit=20, subject=found.id),
            actors=portal.store.people.names,
        )

    @pages.post("/people/{number}/role")
    def change(
        visit: Changer, number: str, role: Text = "", organisation: Text = "", provider: Text = "", reason: Text = ""
    ) -> Response:
        holds = portal.accounts.change_office(
            visit.person,
            person_number(number),
            _office(visit, role, organisation, provider),
            reason=line(500)(reason.strip()),
            source=visit.source,
        )
        return go(f"/people/{number}", "role-changed" if holds else "role-asked")

    @pages.post("/people/{number}/suspend")
    def suspend(visit: Changer, number: str, reason: Text = "") -> Response:
        portal.accounts.suspend(
            visit.person, person_number(number), active=False, reason=line(500)(reason.strip()), source=visit.source
        )
        return go(f"/people/{number}", "suspended")

    @pages.post("/people/{number}/resume")
    def resume(visit: Changer, number: str, reason: Text = "") -> Response:
        portal.accounts.suspend(
            visit.person, person_number(number), active=True, reason=line(500)(reason.strip()), source=visit.source
        )
        return go(f"/people/{number}", "resumed")

    @pages.post("/people/changes/{number}/approve")
    def approve(visit: Approver, number: ChangeNumber) -> Response:
        portal.accounts.decide_office(visit.person, number, approve=True, source=visit.source)
        return go("/people", "role-approved")

    @pages.post("/people/changes/{number}/refuse")
    def refuse(visit: Approver, number: ChangeNumber) -> Response:
        portal.accounts.decide_office(visit.person, number, approve=False, source=visit.source)
        return go("/people", "role-refused")

    @api.get("/people", response_model=Page[PersonView], responses=NOT_MODIFIED)
    def list_people(request: Request, visit: Reader, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """People that you may see, by name."""
        people = _visible(portal, visit)
        if cursor is not None:
            after = key_of(cursor, str, str)
            people = [one for one in people if (one.name, one.id) > after]
        items, following = page_of(people[: limit + 1], limit, lambda one: (one.name, one.id))
        return with_etag(request, Page[PersonView](items=tuple(map(_view, items)), next=following))

    @api.get("/people/{number}", response_model=PersonView, responses=NOT_MODIFIED)
    def one_person(request: Request, visit: Reader, number: str) -> Response:
        """A person that you may see."""
        found = portal.store.people.person(person_number(number))
        visit.require(Action.PEOPLE_READ, owned(found.office, found.id))
        return with_etag(request, _view(found))

    return [pages, api]


def _visible(portal: Portal, visit: Visit) -> list[Person]:
    if visit.may(Action.PEOPLE_READ) is Scope.ALL:
        return sorted(portal.store.people.all(), key=lambda one: (one.name, one.id))
    organisation = visit.person.office.organisation
    if organisation is None:
        return []
    return sorted(portal.store.people.all(organisation=organisation), key=lambda one: (one.name, one.id))


def _office(visit: Visit, role: str, organisation: str, provider: str) -> Office:
    """What a form says of a role. Fields that the role has no use for are left out, since the form shows them all;
    a tenant admin need not write their organisation.

    Raises:
        InvalidInput: there is no such role, or a name is none.
    """
    if role not in set(PortalRole):
        raise InvalidInput(told("There is no such role."), way_out=told("Choose from the list."))
    which = PortalRole(role)
    here = organisation.strip() or visit.person.office.organisation or ""
    if which in ORGANISATION_ROLES and not here:
        raise InvalidInput(
            told("This role needs an organisation."), way_out=told("Write the organisation's short name.")
        )
    if which in PROVIDER_ROLES and not provider.strip():
        raise InvalidInput(told("This role needs a provider."), way_out=told("Write the provider's short name."))
    return Office(
        role=which,
        organisation=short_name(OrganisationName, here) if which in ORGANISATION_ROLES else None,
        provider=short_name(ProviderName, provider) if which in PROVIDER_ROLES else None,
    )


def _cards(portal: Portal, visit: Visit) -> list[Card]:
    if visit.may(Action.PEOPLE_READ) is None:
        return []
    words, people = visit.words, _visible(portal, visit)
    waiting = sum(
        visit.allows(Action.PEOPLE_APPROVE, owned(change.office, change.person))
        and visit.person.id not in {change.asked_by, change.person}
        for change in portal.store.people.open_changes()
    )
    cards = [
        Card(
            label=words.say("People"),
            value=words.value(len(people)),
            detail=words.say("whom you can see"),
            path="/people",
            aside=True,
        )
    ]
    if visit.may(Action.PEOPLE_APPROVE):
        cards.append(
            Card(
                label=words.say("Waiting for you"),
                value=words.value(waiting),
                detail=words.say("changes of roles to decide"),
                path="/people",
                asks=waiting,
            )
        )
    return cards


PEOPLE: Final = Feature(
    name="people",
    routes=_routes,
    nav=(NavEntry("/people", noted("People"), "people", Action.PEOPLE_READ, 70),),
    cards=_cards,
    notices={
        "role-changed": noted("The role was changed."),
        "role-asked": noted("The change waits for a second person to approve it."),
        "role-approved": noted("The change was approved."),
        "role-refused": noted("The change was refused."),
        "suspended": noted("Access was taken away; all sessions and tokens ended."),
        "resumed": noted("Access was given back."),
    },
)
