"""The award desk: a programme's scenario, the solver's answer with every decision explained, what-if runs beside it,
the waiting list."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from pydantic import StringConstraints

from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.names import ApplicationId
from slurm_gpuaas.domain.pool_grants import AwardState, OfferState
from slurm_gpuaas.domain.programmes import Caps
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.award import Award, OutOfTime, gpus_of
from slurm_gpuaas.pool.award_answer import number
from slurm_gpuaas.pool.award_reasons import reasons
from slurm_gpuaas.pool.award_scenario import MOST_GPUS, MOST_POOLS
from slurm_gpuaas.pool.award_whatif import WhatIf, differences
from slurm_gpuaas.portal.award_desk import AwardDesk
from slurm_gpuaas.portal.award_runs import AwardRuns, Question, Run, RunState
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned, Scope
from slurm_gpuaas.portal.routes.award_drafts import draft_pages
from slurm_gpuaas.portal.routes.awards_api import awards_api
from slurm_gpuaas.portal.routes.fields import Faults, LongText, Text
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Names, noted

CAPS: Final = ("organisation", "region", "per_project")
EVERYTHING: Final = Owned()
"""What only a scope over all reaches."""
NAMES: Final[Names] = {
    RunState: {
        RunState.WAITING: noted("Waiting"),
        RunState.SOLVING: noted("Solving"),
        RunState.SOLVED: noted("Solved"),
        RunState.FAILED: noted("Failed"),
    },
    AwardState: {
        AwardState.DRAFTED: noted("Drafted"),
        AwardState.APPROVED: noted("Approved"),
        AwardState.DROPPED: noted("Dropped"),
    },
    OfferState: {
        OfferState.MADE: noted("Waits for an answer"),
        OfferState.ACCEPTED: noted("Accepted"),
        OfferState.DECLINED: noted("Declined"),
        OfferState.LAPSED: noted("Lapsed"),
    },
}
Several = Annotated[list[Annotated[str, StringConstraints(max_length=100)]], Form(max_length=MOST_POOLS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """How full a pool gets. `before`: in the run that this one is compared with."""

    name: str
    model: str
    capacity: int
    awarded: int
    before: int | None

    @property
    def most(self) -> int:
        return max(self.capacity, self.before or 0, 1)


def awards_feature(pool: PoolServer) -> Feature:
    """The desk, with a solver of its own for the portal that it is put into."""
    return Feature(
        name="awards",
        routes=lambda portal: _routes(portal, AwardDesk(pool, AwardRuns(portal.clock), portal.clock)),
        nav=(NavEntry("/awards", noted("Awards"), "award", Action.AWARD_READ, 30),),
        cards=lambda _portal, visit: _cards(pool, visit),
        names=NAMES,
        notices={
            "award-drafted": noted("The draft is made. Another person approves or drops it."),
            "award-approved": noted("The award is approved: the offers are made and everybody is told."),
            "award-dropped": noted("The draft was dropped. Nothing was decided."),
            "line-changed": noted("The decision was changed; the changed draft has a number of its own."),
        },
    )


def _routes(portal: Portal, desk: AwardDesk) -> Sequence[APIRouter]:
    return [_pages(portal, desk), draft_pages(portal, desk), awards_api(desk)]


def _pages(portal: Portal, desk: AwardDesk) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.AWARD_READ))]
    Proposer = Annotated[Visit, Depends(Needs(Action.AWARD_PROPOSE))]

    @pages.get("/awards")
    def overview(request: Request, visit: Reader) -> Response:
        whole = visit.require(Action.AWARD_READ) is Scope.ALL
        awards = desk.awards(visit)
        open_ones = desk.register.applications.all(state=["submitted", "in review", "waiting"]) if whole else ()
        programmes = desk.register.programmes.all()
        return portal.page(
            request,
            visit,
            "awards.html",
            whole=whole,
            drafts=[one for one in awards if one.state is AwardState.DRAFTED],
            decided=[one for one in awards if one.state is not AwardState.DRAFTED],
            rules={one.name: one for one in programmes},
            open_ones={
                one.name: {
                    state: sum(other.state == state for other in open_ones if other.programme == one.name)
                    for state in ("in review", "waiting")
                }
                for one in programmes
            },
            names=portal.store.people.names(
                [person for one in awards for person in (one.drafted_by, one.decided_by) if person]
            ),
        )

    @pages.get("/awards/programmes/{name}")
    def programme(request: Request, visit: Reader, name: str) -> Response:
        visit.require(Action.AWARD_READ, EVERYTHING)
        rules = desk.programme(name)
        question = desk.question(rules)
        runs = desk.runs.of(rules.name)
        return portal.page(
            request,
            visit,
            "award-programme.html",
            rules=rules,
            scenario=question.scenario,
            solved=next((one for one in runs if one.id == question.id), None),
            runs=runs,
            otherwise=_otherwise,
            totals=_totals,
            undecidable=desk.undecidable(rules),
            waiting=len(desk.register.applications.all(programme=rules.name, state="waiting")),
            names=portal.store.people.names([one.asked_by for one in runs]),
            may_solve=visit.may(Action.AWARD_PROPOSE),
        )

    @pages.post("/awards/programmes/{name}/solve")
    def solve(visit: Proposer, name: str) -> Response:
        run = desk.runs.ask(desk.question(desk.programme(name)), visit.person.id)
        return go(f"/awards/runs/{run.id}")

    @pages.get("/awards/programmes/{name}/waiting-list")
    def waiting_list(request: Request, visit: Reader, name: str) -> Response:
        visit.require(Action.AWARD_READ, EVERYTHING)
        rules = desk.programme(name)
        return portal.page(
            request,
            visit,
            "waiting-list.html",
            rules=rules,
            waiting=desk.waiting_list(rules),
            organisations=desk.organisations(),
        )

    def run_page(
        request: Request,
        visit: Visit,
        run: Run,
        *,
        status: int = 200,
        fault: GpuaasError | None = None,
        faults: Mapping[str, str] | None = None,
        typed: Mapping[str, str] | None = None,
    ) -> Response:
        rules, question = desk.programme(run.question.programme), run.question
        base = desk.runs.base_of(run) if question.what_if else None
        found, before = run.award, base.award if base else None
        return portal.page(
            request,
            visit,
            "award-run.html",
            status=status,
            run=run,
            rules=rules,
            limit_s=desk.runs.time_limit_s,
            out_of_time=isinstance(run.error, OutOfTime),
            otherwise=_otherwise(run),
            base=base,
            stale=run.over and desk.question(rules).id != question.base.id,
            base_scenario=question.scenario,
            fills=_fills(found, before) if found else (),
            caps=_caps(found) if found else (),
            over=desk.over_caps(rules, found) if found and rules.caps != Caps() else (),
            totals=_totals(run),
            before=_totals(base) if base else None,
            changes=differences(before, found) if found and before else (),
            applications=desk.applications([ApplicationId(one.id) for one in question.scenario.applications])
            if found
            else {},
            organisations=desk.organisations() if found else {},
            reasons=reasons,
            may_propose=visit.may(Action.AWARD_PROPOSE),
            fault=fault,
            faults=faults or {},
            typed=_typed(question, typed or {}),
        )

    @pages.get("/awards/runs/{id}")
    def run(
        request: Request,
        visit: Reader,
        id: str,
        without: Annotated[str, Query(max_length=100)] = "",
        must: Annotated[str, Query(max_length=100)] = "",
    ) -> Response:
        """`without`, `must`: one application that a link of the page puts into the what-if form."""
        visit.require(Action.AWARD_READ, EVERYTHING)
        found = desk.runs.get(id)
        added = {"without": without, "must": must}
        chosen = found.question.what_if
        names = {"without": sorted(chosen.without), "must": sorted(chosen.must)}
        typed = {field: " ".join([*names[field], one]) for field, one in added.items() if one}
        return run_page(request, visit, found, typed=typed)

    @pages.post("/awards/runs/{id}/what-if")
    def what_if(
        request: Request,
        visit: Proposer,
        id: str,
        organisation: Text = "",
        region: Text = "",
        per_project: Text = "",
        pool: Several = [],  # noqa: B006
        capacity: Several = [],  # noqa: B006
        without: LongText = "",
        must: LongText = "",
    ) -> Response:
        run = desk.runs.get(id)
        scenario = run.question.scenario
        faults, fault = Faults(), None
        caps = {
            name: faults.read(name, _cap, text)
            for name, text in zip(CAPS, (organisation, region, per_project), strict=True)
        }
        capacities = {
            name: faults.read(f"capacity-{name}", _gpus, text) for name, text in zip(pool, capacity, strict=False)
        }
        if not faults.told:
            asked = WhatIf(
                without=frozenset(_names(without)),
                must=frozenset(_names(must)),
                caps={name: cap for name, cap in caps.items() if cap != getattr(scenario.caps, name)},
                capacities={
                    one.name: gpus
                    for one in scenario.pools
                    if (gpus := capacities.get(one.name)) is not None and gpus != one.capacity
                },
            )
            try:
                question = Question(programme=run.question.programme, scenario=scenario, what_if=asked)
                return go(f"/awards/runs/{desk.runs.ask(question, visit.person.id).id}")
            except GpuaasError as error:
                fault = error
        typed = dict(zip(CAPS, (organisation, region, per_project), strict=True)) | {"without": without, "must": must}
        typed |= {f"capacity-{name}": text for name, text in zip(pool, capacity, strict=False)}
        status = fault.http_status if fault else 422
        return run_page(request, visit, run, status=status, fault=fault, faults=faults.told, typed=typed)

    @pages.post("/awards/runs/{id}/again")
    def again(visit: Proposer, id: str) -> Response:
        """Of a run that ran out of time."""
        return go(f"/awards/runs/{desk.runs.ask(desk.runs.get(id).question, visit.person.id).id}")

    return pages


def _names(text: str) -> list[str]:
    """Numbers of applications with anything but their characters between them."""
    return re.findall(r"[\w-]{1,100}", text)


def _gpus(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= MOST_GPUS):
        raise InvalidInput(told("Write a whole number of GPUs, {most} at most.", most=MOST_GPUS))
    return int(text)


def _cap(text: str) -> int | None:
    return _gpus(text) if text else None


def _typed(question: Question, typed: Mapping[str, str]) -> dict[str, str]:
    """What the what-if form shows: what was typed, else what the run was asked."""
    scenario = question.what_if.of(question.scenario)
    shown = {name: "" if (cap := getattr(scenario.caps, name)) is None else str(cap) for name in CAPS}
    shown |= {f"capacity-{one.name}": str(one.capacity) for one in scenario.pools}
    shown |= {"without": " ".join(sorted(question.what_if.without)), "must": " ".join(sorted(question.what_if.must))}
    return shown | dict(typed)


def _otherwise(run: Run) -> list[str]:
    """What is otherwise in the run, a sentence each."""
    asked, scenario = run.question.what_if, run.question.scenario
    said: list[str] = [told("without {id}", id=id) for id in sorted(asked.without)]
    said += [told("{id} must be awarded", id=id) for id in sorted(asked.must)]
    caps = {
        "organisation": noted("cap of an organisation {before} → {after}"),
        "region": noted("cap of a region {before} → {after}"),
        "per_project": noted("cap of one award {before} → {after}"),
    }
    for name, cap in asked.caps.items():
        said.append(told(caps[name], before=_told_cap(getattr(scenario.caps, name)), after=_told_cap(cap)))
    capacity = {one.name: one.capacity for one in scenario.pools}
    for name, gpus in asked.capacities.items():
        said.append(told("{pool} {before} → {after} GPUs", pool=name, before=capacity[name], after=gpus))
    return said


def _told_cap(cap: int | None) -> int | str:
    return told("none") if cap is None else cap


def _totals(run: Run) -> dict[str, int | float] | None:
    """The figures of an award."""
    found = run.award
    if found is None:
        return None
    return {
        "objective": number(found.objective),
        "awards": len(found.awarded),
        "gpus": gpus_of([*found.awarded.values()]),
        "partial": sum(one.partial for one in found.awarded.values()),
        "refused": len(found.refused),
        "room": sum(one.capacity for one in found.scenario.pools),
    }


def _fills(found: Award, before: Award | None) -> list[Fill]:
    return [
        Fill(
            name=one.name,
            model=one.model,
            capacity=one.capacity,
            awarded=one.capacity - found.free(one),
            before=None if before is None else gpus_of(before.by_pool.get(one.name, ())),
        )
        for one in found.scenario.pools
    ]


def _caps(found: Award) -> list[tuple[str, str, int, int]]:
    """Kind, name, GPUs and limit of the organisations and regions that come closest to their cap."""
    used = [
        (kind, name, gpus_of(awards), limit)
        for kind, limit, groups in (
            ("organisation", found.scenario.caps.organisation, found.by_organisation),
            ("region", found.scenario.caps.region, found.by_region),
        )
        if limit
        for name, awards in groups.items()
    ]
    return sorted(used, key=lambda one: -one[2] / one[3])[:12]


def _cards(pool: PoolServer, visit: Visit) -> list[Card]:
    if visit.may(Action.AWARD_APPROVE) is None:
        return []
    drafts = pool.store.register.awards.all(state="drafted")
    words, others = visit.words, sum(one.drafted_by != visit.person.id for one in drafts)
    return [
        Card(
            label=words.say("Awards"),
            value=words.value(others),
            detail=words.say("drafts of others that wait for your approval"),
            path="/awards",
            asks=others,
        )
    ]
