"""Applications and right-sizing in the API."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, Field, ValidationError

from slurm_gpuaas.domain.applications import Application, ApplicationRequest, ApplicationState, check_days, check_model
from slurm_gpuaas.domain.calendar import CalendarDay
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import ApplicationId, GpuModel, OrganisationName, PersonId, ProgrammeName
from slurm_gpuaas.domain.policy import MOST_WON
from slurm_gpuaas.domain.programmes import GpuCount
from slurm_gpuaas.domain.stages import Line, Noun, Text
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.domain.workloads import Workload
from slurm_gpuaas.pool.next_steps import NextStep
from slurm_gpuaas.pool.proposal import Proposal, models_of, propose
from slurm_gpuaas.portal.feature import Portal
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Act,
    Answer,
    CursorText,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Scope
from slurm_gpuaas.portal.routes.application_access import next_steps, one_of, visible
from slurm_gpuaas.portal.routes.application_form import Desk, reason, sized
from slurm_gpuaas.portal.routes.apply import desk_of
from slurm_gpuaas.portal.routes.sizing import SizingAsked, SizingView, sizing_view
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Words


class ApplicationAsked(Noun):
    """An application of the caller's organisation. `declared` is sized; where `gpus` is another count than is proposed,
    `why` says why."""

    programme: ProgrammeName
    call: int = Field(ge=1, le=10_000)
    title: Line
    purpose: Text
    workload: Text
    declared: Workload | None = None
    why: Text = ""
    model: GpuModel | None = None
    gpus: GpuCount
    min_gpus: GpuCount
    starts: CalendarDay
    ends: CalendarDay
    budget_won: int | None = Field(default=None, ge=1, le=MOST_WON)


class WithdrawAsked(Noun):
    reason: Line


class NextView(Answer):
    who: str
    what: str
    by: datetime | None


class StepView(Answer):
    """`by` only for whoever sees all applications."""

    at: AwareDatetime
    step: str
    reason: str
    by: str | None


class ApplicationView(Answer):
    """`next`: null when nothing follows any more."""

    id: ApplicationId
    state: ApplicationState
    organisation: OrganisationName
    applicant: PersonId
    submitted_at: AwareDatetime
    request: ApplicationRequest
    next: NextView | None
    history: tuple[StepView, ...]


def _view(application: Application, step: NextStep | None, words: Words, *, everything: bool) -> ApplicationView:
    return ApplicationView(
        id=application.id,
        state=application.state,
        organisation=application.organisation,
        applicant=application.applicant,
        submitted_at=application.submitted_at,
        request=application.request,
        next=None if step is None else NextView(who=words.tell(step.who), what=words.tell(step.what), by=step.by),
        history=tuple(
            StepView(at=one.at, step=one.step, reason=one.reason, by=one.by if everything else None)
            for one in application.history
        ),
    )


def application_routes(portal: Portal, pool: PoolServer) -> APIRouter:
    api = APIRouter(prefix=API, tags=["applications"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.APPLICATION_READ))]
    Writer = Annotated[Visit, Depends(Needs(Action.APPLICATION_WRITE))]
    Office = Annotated[Visit, Depends(Needs(Action.APPLICATION_REVIEW))]

    def view(visit: Visit, application: Application) -> ApplicationView:
        everything = visit.may(Action.APPLICATION_READ) is Scope.ALL
        return _view(application, next_steps(portal, [application])(application), visit.words, everything=everything)

    @api.post("/sizing", response_model=SizingView)
    def sizing(visit: Writer, asked: SizingAsked) -> SizingView:
        """How many GPUs a workload needs, with what was measured of your earlier grants, and how that was worked
        out."""
        desk = desk_of(portal, visit, asked.programme)
        check_model(asked.model, desk.programme)
        check_days(asked.days, desk.programme)
        return sizing_view(_propose(desk, asked.workload, asked.model, asked.days), visit.words)

    @api.get("/applications", response_model=Page[ApplicationView], responses=NOT_MODIFIED)
    def applications(
        request: Request,
        visit: Reader,
        programme: Annotated[str | None, Query(max_length=30)] = None,
        state: ApplicationState | None = None,
        limit: Limit = 100,
        cursor: CursorText = None,
    ) -> Response:
        """Applications that you may see, the newest first."""
        wanted = {name: str(value) for name, value in (("programme", programme), ("state", state)) if value}
        found = visible(portal, visit, **wanted)
        if cursor is not None:
            (before,) = key_of(cursor, str)
            found = [one for one in found if one.id < before]
        items, following = page_of(found[: limit + 1], limit, lambda one: (str(one.id),))
        step_of = next_steps(portal, items)
        everything = visit.may(Action.APPLICATION_READ) is Scope.ALL
        views = tuple(_view(one, step_of(one), visit.words, everything=everything) for one in items)
        return with_etag(request, Page[ApplicationView](items=views, next=following))

    @api.post("/applications", response_model=ApplicationView, status_code=201)
    def submit(visit: Writer, act: Act, asked: ApplicationAsked) -> ApplicationView:
        """Apply for your organisation."""
        desk = desk_of(portal, visit, asked.programme)
        fields = asked.model_dump(exclude={"declared", "why"})
        fields["organisation"] = desk.organisation.name
        if asked.declared is not None:
            fields["sized"] = _sized(desk, asked, asked.declared)
        try:
            wanted = ApplicationRequest.model_validate(fields)
        except ValidationError as error:
            raise reason(error) from None
        return view(visit, pool.service.submit(act, visit.actor, wanted))

    def _sized(desk: Desk, asked: ApplicationAsked, workload: Workload) -> object:
        days = (asked.ends - asked.starts).days + 1
        if days < 1:
            raise InvalidInput(
                told("The period ends {ends}, before it starts {starts}.", ends=asked.ends, starts=asked.starts),
                way_out=told("Swap the days."),
            )
        check_model(asked.model, desk.programme)
        check_days(days, desk.programme)
        proposal = _propose(desk, workload, asked.model, days)
        return sized(workload, proposal, proposal.model, desk.measured, asked.why)

    @api.get("/applications/{number}", response_model=ApplicationView, responses=NOT_MODIFIED)
    def application(request: Request, visit: Reader, number: str) -> Response:
        """An application that you may see, with what happens next."""
        return with_etag(request, view(visit, one_of(portal, visit, number)))

    @api.post("/applications/{number}/withdraw", response_model=ApplicationView)
    def withdraw(visit: Writer, act: Act, number: str, asked: WithdrawAsked) -> ApplicationView:
        """Take an application back that is not decided yet."""
        found = one_of(portal, visit, number, Action.APPLICATION_WRITE)
        return view(visit, pool.service.withdraw(act, visit.actor, found.id, asked.reason))

    @api.post("/applications/{number}/begin-review", response_model=ApplicationView)
    def begin_review(visit: Office, act: Act, number: str) -> ApplicationView:
        """Say that an application is complete, so that reviewers may judge it."""
        found = one_of(portal, visit, number, Action.APPLICATION_REVIEW)
        return view(visit, pool.service.begin_review(act, visit.actor, found.id))

    return api


def _propose(desk: Desk, workload: Workload, model: GpuModel | None, days: int) -> Proposal:
    models = models_of(desk.programme, model, workload.kind)
    try:
        return propose(workload, models, days=days, measured=desk.measured, offered=desk.offered)
    except ValidationError as error:
        raise reason(error) from None
