"""Applications: the wizard, one's own with what happens next, and the office's check that they are complete."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID, uuid5

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from slurm_gpuaas.domain.applications import Application, ApplicationState, ApplicationStep, missing
from slurm_gpuaas.domain.errors import Conflict, GpuaasError
from slurm_gpuaas.domain.names import CommandId, ProgrammeName
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.programmes import Programme
from slurm_gpuaas.pool.proposal import of_application, offered_by
from slurm_gpuaas.pool.service import CALENDAR
from slurm_gpuaas.pool.sizing import Sizing
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import CursorText, FormAct, cursor_of, key_of
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.routes.application_access import next_steps, one_of, owned, visible
from slurm_gpuaas.portal.routes.applications_api import application_routes
from slurm_gpuaas.portal.routes.apply import wizard
from slurm_gpuaas.portal.routes.fields import Text, key, line
from slurm_gpuaas.portal.routes.sizing import SIZING_NAMES, figure_value
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Names, noted

MOST_SHOWN: Final = 50
SOON: Final = timedelta(days=14)
_OF_ACTS: Final = UUID("5a0b7f86-6b0b-4d3f-9d0e-0f7b6f5a9c11")
"""Namespace of the commands that one press on a button for many applications stands for."""
KINDS: Final[Mapping[ApplicationState, str]] = {
    ApplicationState.SUBMITTED: "wait",
    ApplicationState.IN_REVIEW: "busy",
    ApplicationState.WAITING: "wait",
    ApplicationState.AWARDED: "good",
    ApplicationState.REFUSED: "bad",
    ApplicationState.WITHDRAWN: "quiet",
}
"""Badges of the states."""
_THEIRS: Final = (ApplicationStep.WITHDRAW, ApplicationStep.LOSE_OFFER)
"""Steps of the applicant's side."""
_RUNNING: Final = (ApplicationState.SUBMITTED, ApplicationState.IN_REVIEW, ApplicationState.WAITING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    begun: int
    incomplete: int


def begin_all(
    portal: Portal, pool: PoolServer, visit: Visit, act: CommandId, programme: ProgrammeName, call: int
) -> Begun:
    """Begins the review of each complete application of a call. Pressed twice: done once, since each of the commands
    that it stands for has an id of its own. What somebody else moved on meanwhile is left alone."""
    begun = incomplete = 0
    for one in portal.store.register.applications.all(programme=programme, state=ApplicationState.SUBMITTED):
        if one.request.call != call:
            continue
        if missing(one.request):
            incomplete += 1
            continue
        try:
            pool.service.begin_review(CommandId(str(uuid5(_OF_ACTS, f"{act}/{one.id}"))), visit.actor, one.id)
            begun += 1
        except Conflict:
            continue
    return Begun(begun=begun, incomplete=incomplete)


def _pages(portal: Portal, pool: PoolServer) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.APPLICATION_READ))]
    Writer = Annotated[Visit, Depends(Needs(Action.APPLICATION_WRITE))]
    Office = Annotated[Visit, Depends(Needs(Action.APPLICATION_REVIEW))]

    @pages.get("/applications")
    def applications(
        request: Request,
        visit: Reader,
        programme: Annotated[str, Query(max_length=30)] = "",
        state: Annotated[str, Query(max_length=20)] = "",
        cursor: CursorText = None,
    ) -> Response:
        register = portal.store.register
        wanted = {name: value for name, value in (("programme", programme), ("state", state)) if value}
        found = visible(portal, visit, **wanted)
        if cursor is not None:
            (before,) = key_of(cursor, str)
            found = [one for one in found if one.id < before]
        shown = found[:MOST_SHOWN]
        may_write = visit.may(Action.APPLICATION_WRITE)
        return portal.page(
            request,
            visit,
            "applications.html",
            applications=shown,
            following=cursor_of(shown[-1].id) if len(found) > MOST_SHOWN else "",
            next_of=next_steps(portal, shown),
            kinds=KINDS,
            drafts=register.drafts.all(person=visit.person.id) if may_write else (),
            programmes={one.name: one for one in register.programmes.all()},
            states=ApplicationState,
            chosen={"programme": programme, "state": state},
            may_write=may_write,
            everything=visit.may(Action.APPLICATION_READ) is Scope.ALL,
            to_check=_to_check(portal) if visit.may(Action.APPLICATION_REVIEW) else (),
            begun=_numbers(request.query_params.get("begun", "")),
        )

    @pages.post("/applications/begin-review")
    def begin_reviews(visit: Office, act: FormAct, programme: Text = "", call: Text = "") -> Response:
        name = key(ProgrammeName, programme.strip())
        number = portal.store.register.programmes.get(name).call(int(call) if call.isdecimal() else 0).number
        done = begin_all(portal, pool, visit, act, name, number)
        return go(f"/applications?begun={done.begun}-{done.incomplete}")

    @pages.get("/applications/{number}")
    def application(request: Request, visit: Reader, number: str) -> Response:
        return page_of_one(request, visit, one_of(portal, visit, number))

    def page_of_one(
        request: Request, visit: Visit, found: Application, *, status: int = 200, faults: Mapping[str, str] = {}
    ) -> Response:
        register = portal.store.register
        programme = register.programmes.get(found.programme)
        offers = register.offers.all(application=found.id)
        sizing, unsized = _sizing(found, programme, portal)
        waiting = [one.id for one in pool.service.waiting_list(programme.name)] if found.state == "waiting" else []
        return portal.page(
            request,
            visit,
            "application.html",
            status=status,
            application=found,
            asked=found.request,
            programme=programme,
            organisation=register.organisations.get(found.organisation),
            next=next_steps(portal, [found])(found),
            place=waiting.index(found.id) + 1 if found.id in waiting else 0,
            waiting=len(waiting),
            kinds=KINDS,
            offer=offers[-1] if offers else None,
            grant=_grant(portal, found, visit),
            sizing=sizing,
            unsized=unsized,
            figure_value=figure_value,
            missing=missing(found.request),
            history=_history(portal, found, visit),
            withdrawable=found.state in _RUNNING and visit.allows(Action.APPLICATION_WRITE, owned(found)),
            may_begin=found.state is ApplicationState.SUBMITTED and visit.may(Action.APPLICATION_REVIEW),
            may_review=visit.may(Action.APPLICATION_REVIEW),
            faults=faults,
        )

    @pages.post("/applications/{number}/withdraw")
    def withdraw(request: Request, visit: Writer, act: FormAct, number: str, reason: Text = "") -> Response:
        found = one_of(portal, visit, number, Action.APPLICATION_WRITE)
        try:
            why = line(500)(reason.strip())
        except GpuaasError as error:
            return page_of_one(request, visit, found, status=422, faults={"reason": error.message})
        pool.service.withdraw(act, visit.actor, found.id, why)
        return go(f"/applications/{found.id}", "withdrawn")

    @pages.post("/applications/{number}/begin-review")
    def begin(visit: Office, act: FormAct, number: str) -> Response:
        found = one_of(portal, visit, number, Action.APPLICATION_REVIEW)
        pool.service.begin_review(act, visit.actor, found.id)
        return go(f"/applications/{found.id}", "review-opened")

    return pages


def _grant(portal: Portal, application: Application, visit: Visit) -> PoolGrant | None:
    """That came of it, where the visitor may see it."""
    for grant in portal.store.register.grants.all(application=application.id):
        whose = Owned(people=frozenset(grant.members), organisation=grant.organisation)
        if visit.allows(Action.GRANT_READ, whose):
            return grant
    return None


def _sizing(application: Application, programme: Programme, portal: Portal) -> tuple[Sizing | None, GpuaasError | None]:
    """How the proposal of an application came about, worked out again with the figures of today."""
    sized = application.request.sized
    if sized is None:
        return None, None
    offered = offered_by(programme, portal.store.register.shares.all())
    try:
        return of_application(sized, days=application.request.days, offered=offered), None
    except GpuaasError as error:
        return None, error
    except ValidationError:
        return None, None  # figures of its model are no longer kept


@dataclass(frozen=True, slots=True)
class _Line:
    at: datetime
    step: str
    by: str
    reason: str
    bad: bool


def _history(portal: Portal, application: Application, visit: Visit) -> list[_Line]:
    """The newest first. Applicants see names of their own people; who decides is the office."""
    words, register = visit.words, portal.store.register
    acted = [(application.submitted_at, str(application.applicant), "submitted", "")]
    acted += [(one.at, one.by, one.step, one.reason) for one in application.history]
    people = {by for _, by, _, _ in acted}
    if visit.may(Action.APPLICATION_READ) is not Scope.ALL:
        colleagues = register.memberships.all(organisation=application.organisation)
        people &= {*map(str, (one.person for one in colleagues)), str(application.applicant)}
    names = portal.store.people.names(sorted(people))
    office, calendar = words.say("the programme's office"), words.say("the calendar")
    theirs = str(application.organisation)  # somebody who has left it since
    return [
        _Line(
            at=at,
            step=words.tell(STEPS.get(step, step)),
            by=names.get(by, calendar if by == CALENDAR.name else theirs if step in _THEIRS else office),
            reason=reason,
            bad=step in (ApplicationStep.REFUSE, *_THEIRS),
        )
        for at, by, step, reason in reversed(acted)
    ]


def _to_check(portal: Portal) -> list[tuple[ProgrammeName, int, int, int]]:
    """Programme, call, submitted applications and of them complete ones; only calls that have some."""
    counts: dict[tuple[ProgrammeName, int], list[bool]] = {}
    for one in portal.store.register.applications.all(state=ApplicationState.SUBMITTED):
        counts.setdefault((one.programme, one.request.call), []).append(not missing(one.request))
    return [(name, call, len(whole), sum(whole)) for (name, call), whole in sorted(counts.items())]


def _numbers(text: str) -> tuple[int, int] | None:
    first, _, second = text.partition("-")
    ours = first.isdecimal() and second.isdecimal() and len(text) < 20
    return (int(first), int(second)) if ours else None


def _cards(portal: Portal, visit: Visit) -> list[Card]:
    return [*_running(portal, visit), *_drafts(portal, visit), *_closing(portal, visit), *_unchecked(portal, visit)]


def _running(portal: Portal, visit: Visit) -> list[Card]:
    if visit.may(Action.APPLICATION_READ) is None:
        return []
    words = visit.words
    running = visible(portal, visit, state=[str(state) for state in _RUNNING])
    step_of = next_steps(portal, running)
    due = min((step.by for one in running if (step := step_of(one)) and step.by), default=None)
    detail = words.say("the next date is {moment}", moment=due) if due else words.say("in the works")
    return [Card(label=words.say("Applications"), value=words.value(len(running)), detail=detail, path="/applications")]


def _drafts(portal: Portal, visit: Visit) -> list[Card]:
    if visit.may(Action.APPLICATION_WRITE) is None:
        return []
    words, drafts = visit.words, portal.store.register.drafts.all(person=visit.person.id)
    if not drafts:
        return []
    saved = words.ago(max(draft.saved_at for draft in drafts), portal.clock.now())
    return [
        Card(
            label=words.say("Drafts"),
            value=words.value(len(drafts)),
            detail=words.say("last saved {ago}", ago=saved),
            path="/applications",
            asks=len(drafts),
        )
    ]


def _unchecked(portal: Portal, visit: Visit) -> list[Card]:
    if visit.may(Action.APPLICATION_REVIEW) is None:
        return []
    words, unchecked = visit.words, sum(submitted for _, _, submitted, _ in _to_check(portal))
    return [
        Card(
            label=words.say("To be checked"),
            value=words.value(unchecked),
            detail=words.say("applications whose review has not begun"),
            path=f"/applications?state={ApplicationState.SUBMITTED}",
            asks=unchecked,
        )
    ]


def _closing(portal: Portal, visit: Visit) -> list[Card]:
    """The open call for the visitor's organisation that closes next, when that is soon."""
    if visit.may(Action.APPLICATION_WRITE) is None:
        return []
    register, now, words = portal.store.register, portal.clock.now(), visit.words
    mine = visit.person.office.organisation
    organisation = None if mine is None else register.organisations.find(mine)
    calls = [
        (call.closes, programme)
        for programme in register.programmes.all()
        if organisation is not None and organisation.kind in programme.prices
        for call in programme.calls
        if call.open_at(now) and call.closes <= now + SOON
    ]
    if not calls:
        return []
    closes, programme = min(calls, key=lambda one: (one[0], one[1].name))
    return [
        Card(
            label=words.say("A call closes"),
            value=words.say("in {days} d", days=(closes - now).days),
            detail=programme.title.ko if words.language == "ko" else programme.title.en,
            path=f"/programmes/{programme.name}",
            asks=1,
        )
    ]


STEPS: Final[Mapping[str, str]] = {
    "submitted": noted("submitted"),
    ApplicationStep.BEGIN_REVIEW: noted("found complete; the review began"),
    ApplicationStep.AWARD: noted("awarded: an offer was made"),
    ApplicationStep.WAIT: noted("put on the waiting list"),
    ApplicationStep.REFUSE: noted("refused"),
    ApplicationStep.WITHDRAW: noted("withdrawn"),
    ApplicationStep.LOSE_OFFER: noted("the offer was declined or lapsed"),
}
"""What the lines of a history say."""

APPLICATION_NAMES: Final[Names] = {
    ApplicationState: {
        ApplicationState.SUBMITTED: noted("Submitted"),
        ApplicationState.IN_REVIEW: noted("In review"),
        ApplicationState.WAITING: noted("On the waiting list"),
        ApplicationState.AWARDED: noted("Awarded"),
        ApplicationState.REFUSED: noted("Not awarded"),
        ApplicationState.WITHDRAWN: noted("Withdrawn"),
    }
}


def applications_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> list[APIRouter]:
        return [_pages(portal, pool), wizard(portal, pool), application_routes(portal, pool)]

    return Feature(
        name="applications",
        routes=routes,
        nav=(NavEntry("/applications", noted("Applications"), "review", Action.APPLICATION_READ, 20),),
        cards=_cards,
        names={**SIZING_NAMES, **APPLICATION_NAMES},
        notices={
            "draft-saved": noted("The draft is saved. Go on whenever you like."),
            "draft-dropped": noted("The draft is gone."),
            "submitted": noted("The application is submitted."),
            "withdrawn": noted("The application is withdrawn."),
            "review-opened": noted("The review has begun."),
        },
    )
