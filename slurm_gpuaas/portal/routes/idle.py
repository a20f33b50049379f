"""Idle GPUs: grants at risk with their figures and next step, the rules with a dry run, exemptions and appeals."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from slurm_gpuaas.domain.calendar import CalendarDay
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.faults import faults_of
from slurm_gpuaas.domain.idle import AppealState
from slurm_gpuaas.domain.names import AppealId, PoolGrantId
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.stages import Line
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.idle_file import answer_of, step_answer
from slurm_gpuaas.pool.idle_rules import IdleRules, Mode, Rung
from slurm_gpuaas.pool.idle_service import Trial
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Act,
    CursorText,
    FormAct,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.fields import LongText, Text, line
from slurm_gpuaas.portal.routes.idle_views import (
    AppealView,
    ExemptionView,
    IdleGrantView,
    RulesView,
    TrialView,
    appeal_view,
    appeals_of,
    exemption_view,
    owned,
    reckon,
    rules_view,
    view_of,
    visible,
)
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted

MOST_REASON: Final = 4_000
WAITS: Final = (Rung.WARNING, Rung.FINAL_WARNING, Rung.RECALL)
NUMBERS: Final = {
    "window_days": noted("Days over which use is averaged"),
    "allocated_below": noted("Low below: allocated, percent"),
    "busy_below": noted("Low below: busy, percent"),
    "allocated_back": noted("In use again from: allocated, percent"),
    "busy_back": noted("In use again from: busy, percent"),
    "back_days": noted("In use again: days"),
    "ramp_up_days": noted("Days of grace at a grant's beginning"),
    "before_end_days": noted("No step so many days before the end"),
    "cool_down_days": noted("No notice so many days after it is in use again"),
    "look_back_days": noted("Days in which peaks are looked for"),
    "headroom": noted("Headroom above the peak, percent"),
    "recall_below": noted("Recalled whole below: used, percent"),
}
"""Rules that the page has fields for; the others stay as they are, and the API has all of them."""


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PutRules(Asked):
    """`rules.version` is given by the portal: whatever is sent, it is the next number."""

    rules: IdleRules
    reason: Line


class TryRules(Asked):
    rules: IdleRules


class PutExemption(Asked):
    ends: CalendarDay
    reason: Line


class FileAppeal(Asked):
    reason: str = Field(min_length=1, max_length=MOST_REASON, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")


class Decide(Asked):
    reason: Line


def idle_feature(pool: PoolServer) -> Feature:
    return Feature(
        name="idle",
        routes=lambda portal: _routes(portal, pool),
        nav=(NavEntry("/idle", noted("Idle GPUs"), "waiting", Action.GRANT_READ, 45),),
        cards=lambda portal, visit: _cards(pool, visit),
        names={
            Rung: {
                Rung.REGULAR: noted("In use"),
                Rung.NOTICE: noted("Notice"),
                Rung.WARNING: noted("Warning"),
                Rung.FINAL_WARNING: noted("Final warning"),
                Rung.RECALL: noted("Taken back"),
            },
            Mode: {Mode.SHADOW: noted("Only watch"), Mode.ACT: noted("Act")},
            AppealState: {
                AppealState.OPEN: noted("Open"),
                AppealState.ALLOWED: noted("Allowed"),
                AppealState.DENIED: noted("Denied"),
            },
        },
        notices={
            "idle-exempted": noted("The exemption was written down."),
            "idle-appealed": noted("Your appeal was filed. Nothing is taken back until it is decided."),
            "idle-allowed": noted("The appeal was allowed."),
            "idle-denied": noted("The appeal was denied."),
            "idle-rules": noted("The rules are in force."),
        },
    )


def grant_number(text: str) -> PoolGrantId:
    """From an address, where anything may stand.

    Raises:
        NotFound: no grant can have this number.
    """
    try:
        return PoolGrantId(text)
    except InvalidInput:
        raise NotFound(told("There is no such grant.")) from None


def _appeal_number(text: str) -> AppealId:
    try:
        return AppealId(text)
    except InvalidInput:
        raise NotFound(told("There is no such appeal.")) from None


def _routes(portal: Portal, pool: PoolServer) -> list[APIRouter]:
    return [_api(portal, pool), _pages(portal, pool)]


def _grant(pool: PoolServer, visit: Visit, action: Action, number: str) -> PoolGrant:
    """
    Raises:
        NotFound, Refused: there is none, or it is not the visitor's.
    """
    grant = pool.store.register.grants.get(grant_number(number))
    visit.require(action, owned(pool, grant))
    return grant


# -- API ---------------------------------------------------------------------------------------------------------------


def _trial_view(trial: Trial) -> TrialView:
    return TrialView(today=tuple(map(step_answer, trial.today)), replay=answer_of(trial.replay))


def _api(portal: Portal, pool: PoolServer) -> APIRouter:
    api = APIRouter(prefix=API, tags=["idle"], responses=PROBLEMS)
    Anyone = Annotated[Visit, Depends(Needs(Action.PROGRAMME_READ))]
    Reader = Annotated[Visit, Depends(Needs(Action.GRANT_READ))]
    Ruler = Annotated[Visit, Depends(Needs(Action.PROGRAMME_CHANGE))]
    Officer = Annotated[Visit, Depends(Needs(Action.GRANT_CHANGE))]
    Holder = Annotated[Visit, Depends(Needs(Action.GRANT_REQUEST))]

    @api.get("/idle/rules", response_model=RulesView, responses=NOT_MODIFIED)
    def rules(request: Request, visit: Anyone) -> Response:
        """The rules in force; everybody may know them."""
        return with_etag(request, rules_view(pool.store.register.idle_rules.newest()))

    @api.put("/idle/rules")
    def put_rules(visit: Ruler, asked: PutRules, act: Act) -> RulesView:
        """Put rules in force. Try them before."""
        return rules_view(pool.idle.put_rules(act, visit.actor, asked.rules, asked.reason))

    @api.post("/idle/dry-run")
    def dry_run(visit: Ruler, asked: TryRules) -> TrialView:
        """What these rules would do to the grants in force: this morning, and on all recorded days. Changes nothing."""
        return _trial_view(pool.idle.try_rules(asked.rules))

    @api.get("/idle/grants", response_model=Page[IdleGrantView], responses=NOT_MODIFIED)
    def grants(
        request: Request, visit: Reader, every: bool = False, limit: Limit = 100, cursor: CursorText = None
    ) -> Response:
        """Grants that are used too little, or are on the ladder; with `every` all that you may see."""
        found = [one for one in reckon(pool, visible(pool, visit), portal.clock.now()) if every or one.at_risk]
        if cursor is not None:
            (after,) = key_of(cursor, str)
            found = [one for one in found if one.grant.id > after]
        items, following = page_of(found[: limit + 1], limit, lambda one: (str(one.grant.id),))
        return with_etag(request, Page[IdleGrantView](items=tuple(map(view_of, items)), next=following))

    @api.put("/grants/{number}/exemption")
    def exempt(visit: Officer, number: str, asked: PutExemption, act: Act) -> ExemptionView:
        """Idleness of the grant counts against nobody from today until a day."""
        grant = _grant(pool, visit, Action.GRANT_CHANGE, number)
        return exemption_view(pool.idle.exempt(act, visit.actor, grant.id, asked.ends, asked.reason))

    @api.post("/grants/{number}/appeal")
    def appeal(visit: Holder, number: str, asked: FileAppeal, act: Act) -> AppealView:
        """Object to what was announced: nothing is taken back until somebody else has decided."""
        grant = _grant(pool, visit, Action.GRANT_REQUEST, number)
        return appeal_view(pool.idle.appeal(act, visit.actor, grant.id, asked.reason))

    @api.get("/appeals", response_model=Page[AppealView], responses=NOT_MODIFIED)
    def appeals(request: Request, visit: Reader, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """Appeals that you may see, the newest first."""
        found = appeals_of(pool, visit)
        if cursor is not None:
            (before,) = key_of(cursor, str)
            found = [one for one in found if one.id < before]
        items, following = page_of(found[: limit + 1], limit, lambda one: (str(one.id),))
        return with_etag(request, Page[AppealView](items=tuple(map(appeal_view, items)), next=following))

    @api.post("/appeals/{number}/allow")
    def allow(visit: Officer, number: str, asked: Decide, act: Act) -> AppealView:
        """The grant keeps its GPUs. Not by who filed it."""
        return appeal_view(pool.idle.decide_appeal(act, visit.actor, _appeal_number(number), True, asked.reason))

    @api.post("/appeals/{number}/deny")
    def deny(visit: Officer, number: str, asked: Decide, act: Act) -> AppealView:
        """The rules apply again. Not by who filed it."""
        return appeal_view(pool.idle.decide_appeal(act, visit.actor, _appeal_number(number), False, asked.reason))

    return api


# -- Pages -------------------------------------------------------------------------------------------------------------


def _pages(portal: Portal, pool: PoolServer) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.GRANT_READ))]
    Anyone = Annotated[Visit, Depends(Needs(Action.PROGRAMME_READ))]
    Ruler = Annotated[Visit, Depends(Needs(Action.PROGRAMME_CHANGE))]
    Officer = Annotated[Visit, Depends(Needs(Action.GRANT_CHANGE))]
    Holder = Annotated[Visit, Depends(Needs(Action.GRANT_REQUEST))]

    @pages.get("/idle")
    def overview(request: Request, visit: Reader) -> Response:
        found = reckon(pool, visible(pool, visit), portal.clock.now())
        return portal.page(
            request,
            visit,
            "idle.html",
            risky=[one for one in found if one.at_risk],
            watched=len(found),
            rules=pool.idle.rules(),
            appeals=[one for one in appeals_of(pool, visit) if one.state is AppealState.OPEN],
            may_rule=visit.may(Action.PROGRAMME_CHANGE),
        )

    def rules_page(
        request: Request,
        visit: Visit,
        rules: IdleRules,
        *,
        fault: str = "",
        trial: Trial | None = None,
        reason: str = "",
        typed: Mapping[str, str] | None = None,
    ) -> Response:
        return portal.page(
            request,
            visit,
            "idle-rules.html",
            status=422 if fault else 200,
            found=rules_view(pool.store.register.idle_rules.newest()),
            rules=rules,
            numbers=NUMBERS,
            waits=WAITS,
            modes=list(Mode),
            may_rule=visit.may(Action.PROGRAMME_CHANGE),
            fault=fault,
            trial=trial and _trial_view(trial),
            reason=reason,
            typed=typed or {},
        )

    @pages.get("/idle/rules")
    def rules(request: Request, visit: Anyone) -> Response:
        return rules_page(request, visit, pool.idle.rules())

    @pages.post("/idle/rules")
    async def put_rules(request: Request, visit: Ruler, act: FormAct) -> Response:
        fields = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
        return await run_in_threadpool(_put_rules, request, visit, fields, act)

    def _put_rules(request: Request, visit: Visit, fields: dict[str, str], act: Any) -> Response:
        before, reason = pool.idle.rules(), fields.get("reason", "")
        rules = before
        try:
            rules = _rules_of(fields, before)
            if "try" in fields:
                return rules_page(request, visit, rules, trial=pool.idle.try_rules(rules), reason=reason)
            pool.idle.put_rules(act, visit.actor, rules, line(200)(reason.strip()))
        except GpuaasError as error:
            fault = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
            return rules_page(request, visit, rules, fault=fault, reason=reason, typed=fields)
        return go("/idle/rules", "idle-rules")

    def grant_page(request: Request, visit: Visit, grant: PoolGrant, fault: str = "", **typed: str) -> Response:
        register = pool.store.register
        found = reckon(pool, [grant], portal.clock.now())
        steps = sorted(register.idle_steps.all(grant=grant.id), key=lambda one: one.day, reverse=True)
        appeals = appeals_of(pool, visit, [grant.id])
        here = owned(pool, grant)
        return portal.page(
            request,
            visit,
            "idle-grant.html",
            status=422 if fault else 200,
            grant=grant,
            found=found[0] if found else None,
            steps=[(one, Rung(one.to)) for one in steps],
            exemptions=register.exemptions.all(grant=grant.id),
            appeals=appeals,
            names=portal.store.people.names(sorted({one.filed_by for one in appeals})),
            may_exempt=grant.holds and visit.allows(Action.GRANT_CHANGE, here),
            may_appeal=visit.allows(Action.GRANT_REQUEST, here) and pool.idle.may_appeal(grant),
            may_decide=visit.allows(Action.GRANT_CHANGE, here),
            fault=fault,
            typed={"ends": "", "reason": ""} | typed,
        )

    @pages.get("/idle/{number}")
    def one_grant(request: Request, visit: Reader, number: str) -> Response:
        return grant_page(request, visit, _grant(pool, visit, Action.GRANT_READ, number))

    def tried(request: Request, visit: Visit, grant: PoolGrant, error: GpuaasError, **typed: str) -> Response:
        fault = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
        return grant_page(request, visit, pool.store.register.grants.get(grant.id), fault, **typed)

    @pages.post("/idle/{number}/exempt")
    def exempt(
        request: Request, visit: Officer, number: str, act: FormAct, ends: Text = "", reason: Text = ""
    ) -> Response:
        grant = _grant(pool, visit, Action.GRANT_CHANGE, number)
        try:
            pool.idle.exempt(act, visit.actor, grant.id, _day(ends), line(200)(reason.strip()))
        except GpuaasError as error:
            return tried(request, visit, grant, error, ends=ends, reason=reason)
        return go(f"/idle/{grant.id}", "idle-exempted")

    @pages.post("/idle/{number}/appeal")
    def appeal(request: Request, visit: Holder, number: str, act: FormAct, reason: LongText = "") -> Response:
        grant = _grant(pool, visit, Action.GRANT_REQUEST, number)
        try:
            pool.idle.appeal(act, visit.actor, grant.id, _reason(reason))
        except GpuaasError as error:
            return tried(request, visit, grant, error, reason=reason)
        return go(f"/idle/{grant.id}", "idle-appealed")

    @pages.post("/idle/appeals/{number}/decide")
    def decide(
        request: Request,
        visit: Officer,
        number: str,
        act: FormAct,
        verdict: Annotated[str, Form(max_length=10)] = "",
        reason: Text = "",
    ) -> Response:
        filed = pool.store.register.appeals.get(_appeal_number(number))
        grant = pool.store.register.grants.get(filed.grant)
        try:
            if verdict not in ("allow", "deny"):
                raise InvalidInput(told("Allow or deny the appeal."))
            pool.idle.decide_appeal(act, visit.actor, filed.id, verdict == "allow", line(200)(reason.strip()))
        except GpuaasError as error:
            return tried(request, visit, grant, error)
        return go(f"/idle/{grant.id}", "idle-allowed" if verdict == "allow" else "idle-denied")

    return pages


def _day(text: str) -> date:
    """
    Raises:
        InvalidInput: it is no day.
    """
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInput(told("Write a day, as in 2027-03-31.")) from None


def _reason(text: str) -> str:
    text = text.replace("\r\n", "\n").strip()
    if not 1 <= len(text) <= MOST_REASON:
        raise InvalidInput(told("Write {least} to {most} characters.", least=1, most=MOST_REASON))
    return text


def _rules_of(fields: dict[str, str], before: IdleRules) -> IdleRules:
    """What the form says, on top of the rules in force.

    Raises:
        InvalidInput: a number that cannot be, or numbers that contradict each other.
    """
    asked: dict[str, Any] = {name: fields[name].strip() for name in (*NUMBERS, "mode", "basis") if name in fields}
    waits = {rung: fields.get(f"wait-{rung}", str(before.waits[rung])).strip() for rung in WAITS}
    try:
        return IdleRules.model_validate(before.model_dump() | asked | {"waits": waits})
    except ValidationError as error:
        place, _ = next(faults_of(error))
        name = str(place[0]) if place else ""
        field = told(NUMBERS.get(name, name or noted("Rules")))
        if name == "waits" and len(place) > 1:
            field = told("Days before: {step}", step=Rung(str(place[1])))
        raise InvalidInput(told("{field}: this number is not possible.", field=field)) from None


def _cards(pool: PoolServer, visit: Visit) -> list[Card]:
    if visit.may(Action.GRANT_READ) is None:
        return []
    words, grants = visit.words, {one.id: one for one in visible(pool, visit)}
    standings = pool.store.register.standings.all()
    risky = sum(
        one.rung != Rung.REGULAR and one.grant in grants and grants[one.grant].gpus == one.gpus for one in standings
    )
    cards = []
    if risky or visit.may(Action.GRANT_CHANGE):
        cards.append(
            Card(
                label=words.say("Idle grants"),
                value=words.value(risky),
                detail=words.say("with a notice or warning"),
                path="/idle",
                asks=risky if visit.may(Action.GRANT_REQUEST) else None,
            )
        )
    if visit.may(Action.GRANT_CHANGE):
        waiting = pool.store.register.appeals.all(state="open")
        cards.append(
            Card(
                label=words.say("Appeals"),
                value=words.value(len(waiting)),
                detail=words.say("against taking GPUs back, to decide"),
                path="/idle",
                asks=len(waiting),
            )
        )
    return cards
