"""Drafts of awards: made from a run, changed line by line, approved or dropped by a second person.

What stands under an award's number never changes, so that who approves approves what they saw: a changed draft is a new
one, and the draft that it was made from is dropped.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response

from slurm_gpuaas.domain.applications import Application, check_count, suits
from slurm_gpuaas.domain.errors import Conflict, GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.names import ApplicationId, CommandId, PoolShareName
from slurm_gpuaas.domain.pool_grants import MOST_WHY, Award, AwardLine, AwardState, NotAwarded
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.drafting import Decisions, of_draft, of_run
from slurm_gpuaas.portal.award_desk import AwardDesk
from slurm_gpuaas.portal.feature import Portal, go
from slurm_gpuaas.portal.http import FormAct
from slurm_gpuaas.portal.rights import Action, Scope
from slurm_gpuaas.portal.routes.fields import Faults, Text, line
from slurm_gpuaas.portal.visit import Needs, Visit

Tick = Annotated[str, Form(max_length=10)]


class Decision(StrEnum):
    """Of one application in a draft."""

    AWARD = "award"
    WAIT = "wait"
    REFUSE = "refuse"
    OPEN = "open"
    """Not decided in this round."""


def draft_pages(portal: Portal, desk: AwardDesk) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.AWARD_READ))]
    Proposer = Annotated[Visit, Depends(Needs(Action.AWARD_PROPOSE))]
    Approver = Annotated[Visit, Depends(Needs(Action.AWARD_APPROVE))]
    service, register = desk.service, desk.register

    @pages.post("/awards/runs/{id}/draft")
    def draft(visit: Proposer, act: FormAct, id: str, wait: Tick = "", refuse: Tick = "") -> Response:
        run = desk.runs.get(id)
        if run.award is None:
            raise Conflict(
                told("The run has no award to draft from."), way_out=told("Wait until it is solved, or solve it again.")
            )
        rules = desk.programme(run.question.programme)
        judged = [one for one, _ in desk.undecidable(rules)] if refuse == "yes" else []
        found = of_run(run.award, judged, visit.words.tell, today=desk.today)
        waiting = found.waiting if wait == "yes" else ()
        if not (found.awards or waiting or found.refused):
            raise Conflict(
                told("The draft would decide on nothing."), way_out=told("Put those without GPUs on the waiting list.")
            )
        award = service.draft_award(act, visit.actor, rules.name, found.awards, waiting, found.refused)
        return go(f"/awards/{award.id}", "award-drafted")

    @pages.get("/awards/{number}")
    def award(request: Request, visit: Reader, number: str) -> Response:
        return award_page(request, visit, desk.award(visit, number))

    def award_page(request: Request, visit: Visit, award: Award, fault: GpuaasError | None = None) -> Response:
        rules = desk.programme(award.programme)
        whole = visit.require(Action.AWARD_READ) is Scope.ALL
        drafted = award.state is AwardState.DRAFTED
        applications = desk.applications(award.applications)
        offers = register.offers.all(application=[line.application for line in award.awards]) if not drafted else ()
        decided = set(award.applications)
        left = [one.id for one in register.applications.all(programme=rules.name, state=["in review", "waiting"])]
        return portal.page(
            request,
            visit,
            "award.html",
            status=fault.http_status if fault else 200,
            award=award,
            rules=rules,
            whole=whole,
            applications=applications,
            organisations=desk.organisations(),
            offers={one.application: one for one in offers},
            names=portal.store.people.names([one for one in (award.drafted_by, award.decided_by) if one]),
            fills=_fills(desk, award, applications) if drafted else (),
            left=[id for id in left if id not in decided] if drafted and whole else (),
            may_change=drafted and visit.may(Action.AWARD_PROPOSE),
            may_approve=drafted and visit.may(Action.AWARD_APPROVE) and award.drafted_by != visit.person.id,
            fault=fault,
        )

    @pages.post("/awards/{number}/approve")
    def approve(request: Request, visit: Approver, act: FormAct, number: str) -> Response:
        award = desk.award(visit, number)
        try:
            service.approve_award(act, visit.actor, award.id)
        except GpuaasError as error:
            return award_page(request, visit, desk.award(visit, number), error)
        return go(f"/awards/{number}", "award-approved")

    @pages.post("/awards/{number}/drop")
    def drop(visit: Proposer, act: FormAct, number: str, reason: Text = "") -> Response:
        service.drop_award(act, visit.actor, desk.award(visit, number).id, line(MOST_WHY)(reason.strip()))
        return go(f"/awards/{number}", "award-dropped")

    # -- One line

    def line_page(
        request: Request,
        visit: Visit,
        award: Award,
        application: Application,
        typed: Mapping[str, str],
        *,
        fault: GpuaasError | None = None,
        faults: Mapping[str, str] | None = None,
    ) -> Response:
        rules, asked = desk.programme(award.programme), application.request
        shares = [one.name for one in desk.shares().values() if suits(one, asked, rules)]
        return portal.page(
            request,
            visit,
            "award-line.html",
            status=fault.http_status if fault else 422 if faults else 200,
            award=award,
            application=application,
            asked=asked,
            score=service.score_of(application.id),
            room={name: service.room(name, max(asked.starts, desk.today), asked.ends) for name in shares},
            typed=typed,
            fault=fault,
            faults=faults or {},
        )

    def at_hand(visit: Visit, number: str, application: str) -> tuple[Award, Application]:
        """
        Raises:
            NotFound: there is no such award, or the application is none of its programme's.
        """
        award = desk.award(visit, number)
        try:
            found = register.applications.get(ApplicationId(application))
        except InvalidInput:
            raise NotFound(told("There is no such application.")) from None
        if found.programme != award.programme:
            raise NotFound(told("There is no such application."))
        return award, found

    @pages.get("/awards/{number}/lines/{application}")
    def one_line(request: Request, visit: Proposer, number: str, application: str) -> Response:
        award, found = at_hand(visit, number, application)
        if award.state is not AwardState.DRAFTED:
            raise Conflict(
                told("{award} is {state} and cannot be changed.", award=award.id, state=str(award.state)),
                way_out=told("Draft another award."),
            )
        return line_page(request, visit, award, found, _typed(of_draft(award), found))

    @pages.post("/awards/{number}/lines/{application}")
    def change_line(
        request: Request,
        visit: Proposer,
        act: FormAct,
        number: str,
        application: str,
        decision: Text = "",
        share: Text = "",
        gpus: Text = "",
        why: Text = "",
    ) -> Response:
        award, found = at_hand(visit, number, application)
        typed = {"decision": decision, "share": share, "gpus": gpus, "why": why}
        faults = Faults()
        changed = _changed(of_draft(award), found, typed, faults)
        if changed is None:
            return line_page(request, visit, award, found, typed, faults=faults.told)
        if not (changed.awards or changed.waiting or changed.refused):
            faults.told["decision"] = told("It is the only decision of the draft; drop the draft instead.")
            return line_page(request, visit, award, found, typed, faults=faults.told)
        try:
            with portal.store.transaction():
                service.drop_award(CommandId(f"{act[:59]}-old"), visit.actor, award.id, "changed")
                after = service.draft_award(
                    act, visit.actor, award.programme, changed.awards, changed.waiting, changed.refused
                )
        except GpuaasError as error:
            return line_page(request, visit, award, found, typed, fault=error)
        return go(f"/awards/{after.id}", "line-changed")

    return pages


def _typed(decisions: Decisions, application: Application) -> dict[str, str]:
    """What the form of one line begins with."""
    typed = {"decision": str(Decision.OPEN), "share": "", "gpus": str(application.request.gpus), "why": ""}
    for award in decisions.awards:
        if award.application == application.id:
            typed |= {"decision": str(Decision.AWARD), "share": award.share, "gpus": str(award.gpus)}
    for kind, lines in ((Decision.WAIT, decisions.waiting), (Decision.REFUSE, decisions.refused)):
        for one in lines:
            if one.application == application.id:
                typed |= {"decision": str(kind), "why": one.why}
    return typed


def _changed(
    decisions: Decisions, application: Application, typed: Mapping[str, str], faults: Faults
) -> Decisions | None:
    """The decisions with what was typed for the application; None: `faults` says what is wrong."""
    match typed["decision"]:
        case Decision.AWARD:
            share = faults.read("share", _share, typed["share"])
            gpus = faults.read("gpus", lambda text: _count(text, application), typed["gpus"])
            if share is None or gpus is None:
                return None
            return decisions.award(AwardLine(application=application.id, share=share, gpus=gpus))
        case Decision.WAIT | Decision.REFUSE as decision:
            why = faults.read("why", line(MOST_WHY), typed["why"])
            if why is None:
                return None
            one = NotAwarded(application=application.id, why=why)
            return decisions.wait(one) if decision == Decision.WAIT else decisions.refuse(one)
        case Decision.OPEN:
            return decisions.without(application.id)
        case _:
            faults.told["decision"] = told("Choose from the list.")
            return None


def _share(text: str) -> PoolShareName:
    try:
        return PoolShareName(text)
    except InvalidInput:
        raise InvalidInput(told("Choose from the list.")) from None


def _count(text: str, application: Application) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= application.request.gpus):
        raise InvalidInput(told("Write a whole number up to the {asked} asked for.", asked=application.request.gpus))
    check_count(application.request, int(text))
    return int(text)


def _fills(desk: AwardDesk, award: Award, applications: Mapping[ApplicationId, Application]) -> list[dict[str, Any]]:
    """Of each share that the draft uses: what it takes, and the room that there is over all days of its lines."""
    found = []
    for share in desk.shares().values():
        lines = [line for line in award.awards if line.share == share.name]
        if lines:
            asked = [applications[line.application].request for line in lines]
            starts = max(desk.today, min(one.starts for one in asked))
            room = desk.service.room(share.name, starts, max(starts, *(one.ends for one in asked)))
            found.append(
                {"name": share.name, "model": share.model, "room": room, "gpus": sum(one.gpus for one in lines)}
            )
    return found
