"""What a grant's people do with it: members, other terms asked for, given back early, its final report."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Request, Response

from slurm_gpuaas.domain.accounts import Person
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.names import PersonId
from slurm_gpuaas.domain.policy import MOST_GPUS
from slurm_gpuaas.domain.pool_grants import MOST_MEMBERS, ChangeState, PoolGrant, returned
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.portal.feature import go
from slurm_gpuaas.portal.http import (
    FormAct,
)
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.fields import Faults, LongText, day, line, paragraphs, whole
from slurm_gpuaas.portal.routes.fields import Text as FormText
from slurm_gpuaas.portal.routes.grant_desk import MOST_REASON, Desk, sentence
from slurm_gpuaas.portal.routes.grant_views import (
    grant_owner,
)
from slurm_gpuaas.portal.visit import Needs, Visit

MOST_REPORT: Final = 4_000

# -- Members -----------------------------------------------------------------------------------------------------------


def member_pages(desk: Desk) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.MEMBER_READ))]
    Changer = Annotated[Visit, Depends(Needs(Action.MEMBER_CHANGE))]

    def page(
        request: Request, visit: Visit, grant: PoolGrant, share: PoolShare, *, fault: str = "", status: int = 200
    ) -> Response:
        may_change = visit.allows(Action.MEMBER_CHANGE, grant_owner(grant, share))
        people = _people(desk, grant)
        shown = people if may_change else [one for one in people if one.id in grant.members]
        return desk.portal.page(
            request,
            visit,
            "grant-members.html",
            status=status,
            grant=grant,
            people=shown,
            identities={one.person: one for one in desk.register.identities.all(person=[str(one.id) for one in shown])},
            may_change=may_change,
            may_invite=visit.may(Action.PEOPLE_INVITE),
            fault=fault,
        )

    @pages.get("/grants/{id}/members")
    def members(request: Request, visit: Reader, id: str) -> Response:
        grant, share = desk.found(visit, id, Action.MEMBER_READ)
        return page(request, visit, grant, share)

    @pages.post("/grants/{id}/members")
    def set_members(
        request: Request,
        visit: Changer,
        id: str,
        act: FormAct,
        members: Annotated[list[PersonId] | None, Form(max_length=MOST_MEMBERS)] = None,
    ) -> Response:
        grant, share = desk.found(visit, id, Action.MEMBER_CHANGE)
        try:
            desk.service.set_members(act, visit.actor, grant.id, tuple(members or ()))
        except GpuaasError as error:
            return page(request, visit, grant, share, fault=sentence(visit, error), status=error.http_status)
        return go(f"/grants/{grant.id}/members", "members-changed")

    return pages


def _people(desk: Desk, grant: PoolGrant) -> list[Person]:
    """Who belongs to the organisation, by name; members who have left it are no longer members anywhere."""
    colleagues = {one.person for one in desk.register.memberships.all(organisation=grant.organisation)}
    everybody = desk.pool.store.people.all(organisation=grant.organisation)
    return sorted((one for one in everybody if one.id in colleagues), key=lambda one: (one.name, one.id))


# -- What its people ask for -------------------------------------------------------------------------------------------


def request_pages(desk: Desk) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Asker = Annotated[Visit, Depends(Needs(Action.GRANT_REQUEST))]

    def page(
        request: Request,
        visit: Visit,
        grant: PoolGrant,
        *,
        status: int = 200,
        faults: Faults | None = None,
        fault: str = "",
        **typed: str,
    ) -> Response:
        values = {
            "gpus": str(grant.gpus),
            "ends": grant.ends.isoformat(),
            "reason": "",
            "last_day": desk.today.isoformat(),
            "return_reason": "",
            "report": grant.report or "",
        }
        return desk.portal.page(
            request,
            visit,
            "grant-requests.html",
            status=status,
            grant=grant,
            programme=desk.register.programmes.get(grant.programme),
            asked=desk.register.changes.all(grant=grant.id, state=ChangeState.ASKED.value),
            faults=faults.told if faults else {},
            fault=fault,
            typed=values | typed,
        )

    @pages.get("/grants/{id}/requests")
    def requests(request: Request, visit: Asker, id: str) -> Response:
        grant, _ = desk.found(visit, id, Action.GRANT_REQUEST)
        return page(request, visit, grant)

    @pages.post("/grants/{id}/changes")
    def ask(
        request: Request,
        visit: Asker,
        id: str,
        act: FormAct,
        gpus: FormText = "",
        ends: FormText = "",
        reason: FormText = "",
    ) -> Response:
        grant, _ = desk.found(visit, id, Action.GRANT_REQUEST)
        faults, fault, status = Faults(), "", 422
        many = faults.read("gpus", whole(1, MOST_GPUS), gpus)
        last = faults.read("ends", day, ends)
        why = faults.read("reason", line(MOST_REASON), reason)
        if many is not None and last is not None and why is not None:
            try:
                desk.service.ask_change(act, visit.actor, grant.id, many, last, why)
                return go(f"/grants/{grant.id}", "change-asked")
            except GpuaasError as error:
                fault, status = sentence(visit, error), error.http_status
        return page(
            request, visit, grant, status=status, faults=faults, fault=fault, gpus=gpus, ends=ends, reason=reason
        )

    @pages.post("/grants/{id}/return")
    def give_back(
        request: Request,
        visit: Asker,
        id: str,
        act: FormAct,
        last_day: FormText = "",
        return_reason: FormText = "",
        sure: FormText = "",
    ) -> Response:
        grant, _ = desk.found(visit, id, Action.GRANT_REQUEST)
        faults, fault = Faults(), ""
        last = faults.read("last_day", day, last_day)
        why = faults.read("return_reason", line(MOST_REASON), return_reason)
        if last is not None and why is not None:
            try:
                if sure:
                    desk.service.return_grant(act, visit.actor, grant.id, last, why)
                    return go(f"/grants/{grant.id}", "grant-returned")
                now = desk.portal.clock.now()
                after = returned(grant, last_day=last, by=visit.person.id, at=now, reason=why)
                return desk.confirm(
                    request,
                    visit,
                    grant,
                    act="return",
                    gpus_back=grant.gpus,
                    last_day=last if after.holds else None,
                    grace=after.grace_until or last + timedelta(days=grant.grace_days),
                    fields={"last_day": last_day, "return_reason": return_reason},
                    reason=why,
                )
            except GpuaasError as error:
                fault = sentence(visit, error)
        return page(
            request,
            visit,
            grant,
            status=422,
            faults=faults,
            fault=fault,
            last_day=last_day,
            return_reason=return_reason,
        )

    @pages.post("/grants/{id}/report")
    def report(request: Request, visit: Asker, id: str, act: FormAct, report: LongText = "") -> Response:
        grant, _ = desk.found(visit, id, Action.GRANT_REQUEST)
        faults, fault = Faults(), ""
        text = faults.read("report", paragraphs(MOST_REPORT), report)
        if text is not None:
            try:
                desk.service.hand_in_report(act, visit.actor, grant.id, text)
                return go(f"/grants/{grant.id}", "report-taken")
            except GpuaasError as error:
                fault = sentence(visit, error)
        return page(request, visit, grant, status=422, faults=faults, fault=fault, report=report)

    return pages
