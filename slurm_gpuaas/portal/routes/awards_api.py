"""The award desk's JSON API: scenario, what-if, waiting list, awards with their approval."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import ApplicationId, PoolShareName, ProgrammeName
from slurm_gpuaas.domain.pool_grants import MOST_LINES, Award, AwardLine, NotAwarded, Why
from slurm_gpuaas.domain.stages import Text
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.award_answer import AwardAnswer, WhatIfAnswer, answer, what_if_answer
from slurm_gpuaas.pool.award_scenario import MOST_APPLICATIONS, MOST_POOLS, Capacity, Scenario
from slurm_gpuaas.pool.award_scenario import Text as Id
from slurm_gpuaas.pool.award_whatif import WhatIf
from slurm_gpuaas.portal.award_desk import AwardDesk
from slurm_gpuaas.portal.award_runs import Question, Run
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
from slurm_gpuaas.portal.rights import Action, Owned
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Words

MOST_WAIT_S: Final = 10


class AskedCaps(BaseModel):
    """A cap that is named is set; null lifts it."""

    model_config = ConfigDict(extra="forbid")

    organisation: Capacity | None = None
    region: Capacity | None = None
    per_project: Capacity | None = None


class Asked(BaseModel):
    """What is otherwise than in the programme's scenario; empty asks for the award itself."""

    model_config = ConfigDict(extra="forbid")

    without: frozenset[Id] = Field(default=frozenset(), max_length=MOST_APPLICATIONS, description="Left out.")
    must: frozenset[Id] = Field(
        default=frozenset(),
        max_length=MOST_APPLICATIONS,
        description="Awarded something, whatever it costs the others.",
    )
    caps: AskedCaps = Field(default_factory=AskedCaps)
    capacities: dict[Id, Capacity] = Field(default={}, max_length=MOST_POOLS, description="GPUs by pool.")


class RunView(Answer):
    """
    Args:
        seconds: how long it has been solved, or took.
        answer: of a run that is `solved`; a what-if has also what differs from the award without it, once that is
            solved.
        problem: why a run has `failed`, with the way out.
    """

    id: str
    programme: str
    state: str
    asked_at: AwareDatetime
    seconds: float
    answer: AwardAnswer | WhatIfAnswer | None
    problem: str | None


class WaitingView(Answer):
    """
    Args:
        place: 1 is offered what is free first; null: too few of its reviews count now, and it is offered nothing.
        score: 0 to 100.
        why: what its applicant was told.
    """

    place: int | None
    application: str
    organisation: str
    gpus: int
    min_gpus: int
    score: float | None
    submitted_at: AwareDatetime
    why: str


class LineView(Answer):
    application: str
    share: str
    gpus: int


class NotAwardedView(Answer):
    application: str
    why: str


class AwardView(Answer):
    """Decisions on applications of a programme. On approval, all in one: `awards` become offers, `waiting` go on the
    waiting list, `refused` are refused. A provider sees only the awards at its shares, once they are approved."""

    id: str
    programme: str
    state: str
    drafted_by: str
    decided_by: str | None
    awards: tuple[LineView, ...]
    waiting: tuple[NotAwardedView, ...]
    refused: tuple[NotAwardedView, ...]


class NewLine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    application: ApplicationId
    share: PoolShareName
    gpus: int = Field(ge=1, le=1_000_000)


class NewNotAwarded(BaseModel):
    model_config = ConfigDict(extra="forbid")

    application: ApplicationId
    why: Why = Field(description="Its applicant reads it; the `why` of an answer also names who else applied.")


class NewAward(BaseModel):
    """A draft, for another person to approve. Each application stands once."""

    model_config = ConfigDict(extra="forbid")

    programme: ProgrammeName
    awards: tuple[NewLine, ...] = Field(default=(), max_length=MOST_LINES)
    waiting: tuple[NewNotAwarded, ...] = Field(default=(), max_length=MOST_LINES)
    refused: tuple[NewNotAwarded, ...] = Field(default=(), max_length=MOST_LINES)

    @model_validator(mode="after")
    def _decides_once(self) -> Self:
        named = [one.application for one in self.awards]
        named += [one.application for one in (*self.waiting, *self.refused)]
        if not named or len(set(named)) < len(named):
            raise InvalidInput(
                told("An award decides on at least one application, and on each once."),
                way_out=told("Name each application in one line."),
            )
        return self


class Dropped(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Text = ""


def _view(award: Award) -> AwardView:
    return AwardView(
        id=award.id,
        programme=award.programme,
        state=award.state,
        drafted_by=award.drafted_by,
        decided_by=award.decided_by,
        awards=tuple(LineView(application=one.application, share=one.share, gpus=one.gpus) for one in award.awards),
        waiting=tuple(NotAwardedView(application=one.application, why=one.why) for one in award.waiting),
        refused=tuple(NotAwardedView(application=one.application, why=one.why) for one in award.refused),
    )


def _run_view(run: Run, base: Run | None, words: Words) -> RunView:
    found: AwardAnswer | WhatIfAnswer | None = None
    if run.award is not None:
        compared = base is not None and base.award is not None and run.question.what_if
        found = what_if_answer(base.award, run.award) if compared and base and base.award else answer(run.award)
    error = run.error
    return RunView(
        id=run.id,
        programme=run.question.programme,
        state=run.state,
        asked_at=run.asked_at,
        seconds=round(run.seconds, 3),
        answer=found,
        problem=None if error is None else f"{words.tell(error.message)} {words.tell(error.way_out)}".strip(),
    )


_ACCEPTED: Final[Mapping[int | str, dict[str, Any]]] = {
    202: {
        "model": RunView,
        "description": "Not solved yet; ask at the address in `Location`.",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "Of the run."}},
    }
}


def awards_api(desk: AwardDesk) -> APIRouter:
    api = APIRouter(prefix=API, tags=["awards"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.AWARD_READ))]
    Proposer = Annotated[Visit, Depends(Needs(Action.AWARD_PROPOSE))]
    Approver = Annotated[Visit, Depends(Needs(Action.AWARD_APPROVE))]

    @api.get("/programmes/{name}/scenario", response_model=Scenario, responses=NOT_MODIFIED)
    def scenario(request: Request, visit: Reader, name: str) -> Response:
        """What an award of the programme would be decided on now: the applications that can be decided with their
        scores, the room of each share, the caps. `gpuaas pool award --scenario` takes it as a file."""
        visit.require(Action.AWARD_READ, Owned())
        return with_etag(request, desk.question(desk.programme(name)).scenario)

    @api.post("/programmes/{name}/what-if", response_model=RunView, responses=dict(_ACCEPTED))
    def what_if(
        request: Request,
        visit: Proposer,
        name: str,
        asked: Asked,
        wait: Annotated[int, Query(ge=0, le=MOST_WAIT_S, description="Seconds to wait for the answer.")] = 5,
    ) -> Response:
        """The award as it would be. It changes nothing; the same question asked again is the same run."""
        rules = desk.programme(name)
        otherwise = WhatIf(
            without=asked.without,
            must=asked.must,
            caps=asked.caps.model_dump(exclude_unset=True),
            capacities=asked.capacities,
        )
        question = Question(programme=rules.name, scenario=desk.question(rules).scenario, what_if=otherwise)
        run = desk.runs.wait(desk.runs.ask(question, visit.person.id).id, wait)
        place = f"{API}/programmes/{rules.name}/what-if/{run.id}"
        view = _run_view(run, desk.runs.base_of(run), visit.words)
        return Response(
            view.model_dump_json(),
            status_code=200 if run.over else 202,
            headers={"Location": place, "Cache-Control": "no-store"},
            media_type="application/json",
        )

    @api.get("/programmes/{name}/what-if/{run}", response_model=RunView, responses=NOT_MODIFIED)
    def run_of(request: Request, visit: Reader, name: str, run: str) -> Response:
        """A run: under way, solved or failed. Runs are kept until the portal starts again, the last 50 of them."""
        visit.require(Action.AWARD_READ, Owned())
        found = desk.runs.get(run, desk.programme(name).name)
        return with_etag(request, _run_view(found, desk.runs.base_of(found), visit.words))

    @api.get("/programmes/{name}/waiting-list", response_model=Page[WaitingView], responses=NOT_MODIFIED)
    def waiting_list(
        request: Request, visit: Reader, name: str, limit: Limit = 100, cursor: CursorText = None
    ) -> Response:
        """In the order in which free GPUs are offered: higher score, earlier submission, smaller number."""
        visit.require(Action.AWARD_READ, Owned())
        rows = [
            WaitingView(
                place=one.place,
                application=one.judged.application.id,
                organisation=one.judged.application.organisation,
                gpus=one.judged.application.request.gpus,
                min_gpus=one.judged.application.request.min_gpus,
                score=None if one.judged.score is None else float(one.judged.score),
                submitted_at=one.judged.application.submitted_at,
                why=one.why,
            )
            for one in desk.waiting_list(desk.programme(name))
        ]
        start = key_of(cursor, int)[0] if cursor else 0
        numbered = list(enumerate(rows, 1))[max(0, start) :]
        items, following = page_of(numbered[: limit + 1], limit, lambda one: (one[0],))
        return with_etag(request, Page[WaitingView](items=tuple(row for _, row in items), next=following))

    @api.get("/awards", response_model=Page[AwardView], responses=NOT_MODIFIED)
    def awards(request: Request, visit: Reader, limit: Limit = 20, cursor: CursorText = None) -> Response:
        """Drafted, approved and dropped awards that you may see, the newest first."""
        found = desk.awards(visit)
        if cursor is not None:
            before = key_of(cursor, str)[0]
            found = tuple(one for one in found if one.id < before)
        items, following = page_of(found[: limit + 1], limit, lambda one: (one.id,))
        return with_etag(request, Page[AwardView](items=tuple(map(_view, items)), next=following))

    @api.get("/awards/{number}", response_model=AwardView, responses=NOT_MODIFIED)
    def award(request: Request, visit: Reader, number: str) -> Response:
        """One award."""
        return with_etag(request, _view(desk.award(visit, number)))

    @api.post("/awards")
    def draft(visit: Proposer, act: Act, asked: NewAward) -> AwardView:
        """Draft an award. Nothing is promised by it; another person approves or drops it."""
        return _view(
            desk.service.draft_award(
                act,
                visit.actor,
                asked.programme,
                tuple(AwardLine(application=one.application, share=one.share, gpus=one.gpus) for one in asked.awards),
                tuple(NotAwarded(application=one.application, why=one.why) for one in asked.waiting),
                tuple(NotAwarded(application=one.application, why=one.why) for one in asked.refused),
            )
        )

    @api.post("/awards/{number}/approve")
    def approve(visit: Approver, act: Act, number: str) -> AwardView:
        """Approve what another person drafted: all of it or, where something stands against it, nothing."""
        return _view(desk.service.approve_award(act, visit.actor, desk.award(visit, number).id))

    @api.post("/awards/{number}/drop")
    def drop(visit: Proposer, act: Act, number: str, dropped: Dropped) -> AwardView:
        """Drop a draft. Nothing was decided."""
        return _view(desk.service.drop_award(act, visit.actor, desk.award(visit, number).id, dropped.reason))

    return api
