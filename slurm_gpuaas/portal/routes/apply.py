"""The wizard of an application: one page a step, a draft saved at each, so that one can come back tomorrow."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.errors import GpuaasError, NotFound, Refused
from slurm_gpuaas.domain.names import ProgrammeName
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.domain.workloads import Kind, Precision
from slurm_gpuaas.pool.proposal import offered_by
from slurm_gpuaas.portal.earlier_use import earlier_use
from slurm_gpuaas.portal.feature import Portal, go
from slurm_gpuaas.portal.http import FormAct
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.application_form import ALL_FIELDS, ANY, FIELDS, STEP_OF, Desk, Form, FormStep, read
from slurm_gpuaas.portal.routes.fields import Typed, key
from slurm_gpuaas.portal.routes.sizing import figure_value
from slurm_gpuaas.portal.visit import Needs, Visit

MOST_KEPT = 4_000
"""Characters of a field that a draft keeps; a longer one is told and not saved."""


def desk_of(portal: Portal, visit: Visit, name: ProgrammeName) -> Desk:
    """What the visitor's application to the programme is held against.

    Raises:
        Refused: they belong to no organisation that the pool knows.
        NotFound: there is no such programme.
    """
    register = portal.store.register
    programme = register.programmes.get(name)
    mine = visit.person.office.organisation
    organisation = None if mine is None else register.organisations.find(mine)
    if organisation is None:
        raise Refused(
            told("Your organisation {name} is not registered in the pool.", name=mine or "–"),
            way_out=told("Ask the programme's office to register it."),
        )
    today = korean_day(portal.clock.now())
    return Desk(
        programme=programme,
        organisation=organisation,
        clock=portal.clock,
        today=today,
        measured=earlier_use(portal.store, visit.person, today),
        offered=offered_by(programme, register.shares.all()),
    )


def wizard(portal: Portal, pool: PoolServer) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    Applicant = Annotated[Visit, Depends(Needs(Action.APPLICATION_WRITE))]

    def saved(visit: Visit, programme: ProgrammeName) -> Mapping[str, str]:
        draft = portal.store.register.drafts.find(visit.person.id, programme)
        return {} if draft is None else draft.fields

    def show(
        request: Request,
        visit: Visit,
        desk: Desk,
        step: FormStep,
        fields: Mapping[str, str],
        *,
        form: Form | None = None,
        status: int = 200,
        told_faults: bool = False,
        fault: str = "",
    ) -> Response:
        form = form or read(fields, desk)
        return portal.page(
            request,
            visit,
            "apply.html",
            status=status,
            desk=desk,
            programme=desk.programme,
            step=step,
            steps=[(one, bool(fields) and form.done(one)) for one in FormStep],
            form=form,
            typed=_shown(fields, desk, form),
            faults=form.faults_of(step) if told_faults else {},
            fault=fault,
            step_of=STEP_OF,
            open_calls=[call for call in desk.programme.calls if call.open_at(portal.clock.now())],
            kinds=Kind,
            precisions=Precision,
            figure_value=figure_value,
            saved=bool(fields),
        )

    @router.get("/apply/{programme}")
    def begin(visit: Applicant, programme: str) -> Response:
        """To the first step that is not done."""
        name = key(ProgrammeName, programme)
        form = read(saved(visit, name), desk_of(portal, visit, name))
        step = next((one for one in FormStep if not form.done(one)), FormStep.CHECK)
        return go(f"/apply/{name}/{step}")

    @router.post("/apply/{programme}/drop")
    def drop(visit: Applicant, programme: str) -> Response:
        pool.service.drop_draft(visit.actor, key(ProgrammeName, programme))
        return go("/applications", "draft-dropped")

    @router.get("/apply/{programme}/{step}")
    def page(request: Request, visit: Applicant, programme: str, step: str) -> Response:
        name = key(ProgrammeName, programme)
        return show(request, visit, desk_of(portal, visit, name), _step(step), saved(visit, name))

    @router.post("/apply/{programme}/{step}")
    def save(request: Request, visit: Applicant, programme: str, step: str, typed: Typed) -> Response:
        """Save what was typed; then on (`then=next`), the same step again with its sizing (`size`), or leave."""
        name, here = key(ProgrammeName, programme), _step(step)
        desk = desk_of(portal, visit, name)
        given = {one: typed[one][0] for one in FIELDS[here] if one in typed}
        fields = {**saved(visit, name), **given}
        if given:
            kept = {one: value for one, value in fields.items() if len(value) <= MOST_KEPT}
            pool.service.save_draft(visit.actor, name, kept)
        then = typed.get("then", [""])[0]
        if then == "leave":
            return go("/applications", "draft-saved")
        form = read(fields, desk)
        if form.faults_of(here) and then != "size":
            return show(request, visit, desk, here, fields, form=form, status=422, told_faults=True)
        if then == "size":
            sizable = form.proposal is not None or form.no_proposal is not None
            if not sizable:
                return show(request, visit, desk, here, fields, form=form, status=422, told_faults=True)
            return go(f"/apply/{name}/{here}#proposal")
        return go(f"/apply/{name}/{_after(here)}")

    @router.post("/apply/{programme}")
    def submit(request: Request, visit: Applicant, act: FormAct, programme: str) -> Response:
        name = key(ProgrammeName, programme)
        desk, fields = desk_of(portal, visit, name), saved(visit, name)
        form = read(fields, desk)
        if form.request is None:
            done = portal.store.register.done_command(act) if not fields else None
            if done is not None:  # pressed twice: the first press took the draft away
                before = Application.model_validate(done.answer)
                if before.applicant == visit.person.id:
                    return go(f"/applications/{before.id}", "submitted")
            return show(request, visit, desk, FormStep.CHECK, fields, form=form, status=422)
        try:
            application = pool.service.submit(act, visit.actor, form.request)
        except GpuaasError as error:
            said = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
            return show(request, visit, desk, FormStep.CHECK, fields, form=form, status=error.http_status, fault=said)
        return go(f"/applications/{application.id}", "submitted")

    return router


def _step(text: str) -> FormStep:
    if text not in set(FormStep):
        raise NotFound(told("There is no such page."), way_out=told("Begin at the home page."))
    return FormStep(text)


def _after(step: FormStep) -> FormStep:
    steps = list(FormStep)
    return steps[min(steps.index(step) + 1, len(steps) - 1)]


def _shown(fields: Mapping[str, str], desk: Desk, form: Form) -> dict[str, str]:
    """What the fields show: what was typed, else what is likely."""
    likely = {"model": ANY, "precision": str(Precision.BF16)}
    now = desk.clock.now()
    calls = [str(call.number) for call in desk.programme.calls if call.open_at(now)]
    if calls:
        likely["call"] = calls[0]
    if form.proposal is not None:
        likely["gpus"] = str(form.proposal.sizing.gpus)
        likely["min_gpus"] = str(desk.offered.up(form.proposal.sizing.least))
    return dict.fromkeys(ALL_FIELDS, "") | likely | {name: value for name, value in fields.items() if value}
