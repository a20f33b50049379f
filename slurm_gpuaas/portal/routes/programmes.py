"""Programmes: what is offered to whom at which price, and the office's way to declare and change one."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from slurm_gpuaas.domain.applications import ApplicationState
from slurm_gpuaas.domain.errors import Conflict, GpuaasError, InvalidInput
from slurm_gpuaas.domain.names import ProgrammeName
from slurm_gpuaas.domain.programmes import Call, OrganisationKind, PoolOrganisation, Programme
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Act,
    CursorText,
    FormAct,
    IfMatch,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes import programme_form as form
from slurm_gpuaas.portal.routes.fields import LongText, Text, Typed, key, same_name
from slurm_gpuaas.portal.routes.replacing import unchanged
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Names, noted

NEW: Final = "/programmes/-"
"""Where programmes are written; no programme can be called so."""


def my_organisation(portal: Portal, visit: Visit) -> PoolOrganisation | None:
    mine = visit.person.office.organisation
    return None if mine is None else portal.store.register.organisations.find(mine)


def calls_by_state(programme: Programme, now: datetime) -> tuple[list[Call], list[Call], list[Call]]:
    """Open ones (the first to close first), those to come, and those over (the newest first)."""
    calls = sorted(programme.calls, key=lambda call: (call.closes, call.number))
    return (
        [call for call in calls if call.open_at(now)],
        [call for call in calls if now < call.opens],
        [call for call in reversed(calls) if call.closes <= now],
    )


def _pages(portal: Portal, pool: PoolServer) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.PROGRAMME_READ))]
    Office = Annotated[Visit, Depends(Needs(Action.PROGRAMME_CHANGE))]
    register = portal.store.register

    def drafts_of(visit: Visit) -> set[ProgrammeName]:
        return {draft.programme for draft in register.drafts.all(person=visit.person.id)}

    @pages.get("/programmes")
    def programmes(request: Request, visit: Reader) -> Response:
        now = portal.clock.now()
        rows = [(one, *calls_by_state(one, now)) for one in register.programmes.all()]
        rows.sort(key=lambda row: (not row[1], row[1][0].closes if row[1] else now, row[0].name))
        return portal.page(
            request,
            visit,
            "programmes.html",
            programmes=rows,
            mine=my_organisation(portal, visit),
            drafts=drafts_of(visit),
            may_apply=visit.may(Action.APPLICATION_WRITE),
            may_change=visit.may(Action.PROGRAMME_CHANGE),
        )

    @pages.get("/programmes/{name}")
    def programme(request: Request, visit: Reader, name: str) -> Response:
        found = register.programmes.get(key(ProgrammeName, name))
        opened, coming, over = calls_by_state(found, portal.clock.now())
        counts: dict[int, int] = {}
        if visit.may(Action.APPLICATION_REVIEW):
            for one in register.applications.all(programme=found.name):
                if one.state is not ApplicationState.WITHDRAWN:
                    counts[one.request.call] = counts.get(one.request.call, 0) + 1
        return portal.page(
            request,
            visit,
            "programme.html",
            programme=found,
            calls=[
                *((one, "open") for one in opened),
                *((one, "coming") for one in coming),
                *((one, "over") for one in over),
            ],
            opened=opened,
            counts=counts,
            kinds=OrganisationKind,
            mine=my_organisation(portal, visit),
            has_draft=found.name in drafts_of(visit),
            may_apply=visit.may(Action.APPLICATION_WRITE),
            may_change=visit.may(Action.PROGRAMME_CHANGE),
            may_count=visit.may(Action.APPLICATION_REVIEW),
        )

    def known(name: str) -> Programme | None:
        return register.programmes.get(key(ProgrammeName, name)) if name else None

    def form_page(
        request: Request,
        visit: Visit,
        typed: Mapping[str, Sequence[str]],
        *,
        name: str = "",
        faults: Mapping[str, str] = {},
        status: int = 200,
    ) -> Response:
        return portal.page(
            request,
            visit,
            "programme-form.html",
            status=status,
            name=name,
            typed=typed,
            faults=faults,
            calls=form.rows_shown(typed, form.CALL_FIELDS),
            criteria=form.rows_shown(typed, form.CRITERION_FIELDS),
            kinds=OrganisationKind,
            shares=register.shares.all(),
        )

    @pages.get(f"{NEW}/form")
    def edit(request: Request, visit: Office, name: Annotated[str, Query(max_length=30)] = "") -> Response:
        return form_page(request, visit, form.filled(known(name)), name=name)

    @pages.post(f"{NEW}/form")
    def look_at_form(request: Request, visit: Office, typed: Typed) -> Response:
        wanted, faults = form.read_form(typed)
        if wanted is None:
            name = (typed.get("editing") or [""])[0]
            return form_page(request, visit, typed, name=name, faults=faults, status=422)
        return preview(request, visit, wanted)

    def text_page(
        request: Request, visit: Visit, text: str, *, name: str = "", faults: Sequence[str] = (), status: int = 200
    ) -> Response:
        return portal.page(request, visit, "programme-text.html", status=status, name=name, text=text, faults=faults)

    @pages.get(f"{NEW}/text")
    def edit_text(request: Request, visit: Office, name: Annotated[str, Query(max_length=30)] = "") -> Response:
        found = known(name)
        return text_page(request, visit, form.written(found) if found is not None else "", name=name)

    @pages.post(f"{NEW}/text")
    def look_at_text(request: Request, visit: Office, document: LongText = "") -> Response:
        wanted, faults = form.read_text(document)
        if wanted is None:
            return text_page(request, visit, document, faults=faults, status=422)
        return preview(request, visit, wanted)

    def preview(request: Request, visit: Visit, wanted: Programme, *, fault: str = "", status: int = 200) -> Response:
        before = register.programmes.find(wanted.name)
        return portal.page(
            request,
            visit,
            "programme-preview.html",
            status=status,
            programme=wanted,
            before=before,
            changes=form.changes(before, wanted),
            document=wanted.model_dump_json(),
            seen=form.digest(before),
            fault=fault,
        )

    @pages.post(f"{NEW}/put")
    def put(request: Request, visit: Office, act: FormAct, document: LongText = "", seen: Text = "") -> Response:
        """What the preview showed, unless somebody has changed the programme since."""
        try:
            wanted = Programme.model_validate_json(document)
        except ValidationError:
            raise InvalidInput(
                told("This is no programme."), way_out=told("Go back to the form and look at the changes again.")
            ) from None
        try:
            before = register.programmes.find(wanted.name)
            done = register.done_command(act) is not None
            if not done and form.digest(before) != seen:
                raise Conflict(
                    told("Somebody has changed the programme meanwhile."),
                    way_out=told("Look at the changes again: they are against what it is now."),
                )
            pool.service.put_programme(act, visit.actor, wanted)
        except GpuaasError as error:
            said = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
            return preview(request, visit, wanted, fault=said, status=error.http_status)
        return go(f"/programmes/{wanted.name}", "programme-put")

    return pages


def _api(portal: Portal, pool: PoolServer) -> APIRouter:
    api = APIRouter(prefix=API, tags=["programmes"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.PROGRAMME_READ))]
    Office = Annotated[Visit, Depends(Needs(Action.PROGRAMME_CHANGE))]
    register = portal.store.register

    @api.get("/programmes", response_model=Page[Programme], responses=NOT_MODIFIED)
    def programmes(request: Request, visit: Reader, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """All programmes, by name."""
        found = list(register.programmes.all())
        if cursor is not None:
            (after,) = key_of(cursor, str)
            found = [one for one in found if one.name > after]
        items, following = page_of(found[: limit + 1], limit, lambda one: (str(one.name),))
        return with_etag(request, Page[Programme](items=tuple(items), next=following))

    @api.get("/programmes/{name}", response_model=Programme, responses=NOT_MODIFIED)
    def programme(request: Request, visit: Reader, name: str) -> Response:
        """A programme with all its rules; what PUT takes."""
        return with_etag(request, register.programmes.get(key(ProgrammeName, name)))

    @api.put("/programmes/{name}", response_model=Programme)
    def put_programme(
        request: Request, visit: Office, act: Act, name: str, wanted: Programme, match: IfMatch = None
    ) -> Programme:
        """Declare a programme, or change its rules for what comes from now on."""
        same_name(name, wanted.name)
        with unchanged(pool, request, act, lambda: register.programmes.find(wanted.name)):
            return pool.service.put_programme(act, visit.actor, wanted)

    return api


KIND_NAMES: Final[Names] = {
    OrganisationKind: {
        OrganisationKind.UNIVERSITY: noted("University"),
        OrganisationKind.RESEARCH_INSTITUTE: noted("Research institute"),
        OrganisationKind.YOUNG_FIRM: noted("Young firm"),
        OrganisationKind.FIRM: noted("Firm"),
    }
}


def programmes_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> list[APIRouter]:
        return [_pages(portal, pool), _api(portal, pool)]

    return Feature(
        name="programmes",
        routes=routes,
        nav=(NavEntry("/programmes", noted("Programmes"), "apply", Action.PROGRAMME_READ, 10),),
        names=KIND_NAMES,
        notices={"programme-put": noted("The programme is in force.")},
    )
