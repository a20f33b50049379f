"""Jobs that have ended: how, how long they ran, what they used and cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.idle import GrantDay
from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import ClusterName, PoolGrantId
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.domain.usage import RunEnd
from slurm_gpuaas.portal.ended import LAST, EndedRun, EndedRuns
from slurm_gpuaas.portal.feature import Portal
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
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.looks import ClusterText, onlooker
from slurm_gpuaas.portal.routes.money import hours_of
from slurm_gpuaas.portal.visit import Needs, Unseen, Visit
from slurm_gpuaas.portal.words import Names, Words, noted

Looks = Annotated[Visit, Depends(Needs(Action.JOB_READ))]
GrantText = Annotated[str, Query(max_length=60, description="Only of this grant's project.")]
JobNumber = Annotated[int, Path(ge=0, lt=2**63)]
ROWS: Final = 50
MOST_RUNS: Final = 100
"""Of one job: each requeue is a run more."""
ENDED: Final = tuple(state for state in JobState if state.ended)
ENDED_NAMES: Final[Names] = {
    JobState: {
        JobState.COMPLETED: noted("Completed"),
        JobState.CANCELLED: noted("Cancelled"),
        JobState.FAILED: noted("Failed"),
        JobState.TIMEOUT: noted("Time limit reached"),
        JobState.NODE_FAIL: noted("Ended by a fault"),
        JobState.PREEMPTED: noted("Gave way"),
        JobState.BOOT_FAIL: noted("Node did not start"),
        JobState.DEADLINE: noted("Deadline missed"),
        JobState.OUT_OF_MEMORY: noted("Out of memory"),
    }
}
KINDS: Final = {
    JobState.COMPLETED: "good",
    JobState.CANCELLED: "quiet",
    JobState.PREEMPTED: "wait",
    JobState.TIMEOUT: "wait",
}
"""Of badges; everything else is `bad`."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class EndedView(Answer):
    """One run of a job; a requeued job has several.

    Args:
        state: Slurm's word for how it ended.
        seconds: from start to end.
        won: what it costs by itself, without VAT; statements round once a month, so they may add up to some Won less.
            null = nobody is charged.
        note, way_out: how it ended and what to do, in your language.
        as_of: until when its site told of everything that ended; null = it never did.
    """

    cluster: str
    id: int
    state: str
    user: str
    organisation: str | None
    project: str
    grant: str | None
    service: str
    model: str | None
    gpus: int
    started: datetime
    ended: datetime
    seconds: int
    gpu_seconds: int
    gpu_hours: float
    won: int | None
    note: str
    way_out: str
    as_of: datetime | None


def ended_routes(portal: Portal, pool: PoolServer) -> list[APIRouter]:
    pages = APIRouter(include_in_schema=False)
    api = APIRouter(prefix=API, tags=["jobs"], responses=PROBLEMS)

    def runs_for(visit: Visit) -> EndedRuns:
        return ended_runs(portal, pool, visit)

    @pages.get("/jobs/ended")
    def ended(
        request: Request,
        visit: Looks,
        state: Annotated[str, Query(max_length=20)] = "",
        cluster: ClusterText = "",
        grant: GrantText = "",
        cursor: CursorText = None,
    ) -> Response:
        runs = runs_for(visit)
        chosen = JobState(state) if state in ENDED else None
        found = runs.newest(ROWS + 1, _before(cursor), cluster=cluster, grant=grant.strip(), state=chosen)
        rows, following = page_of(found, ROWS, _key)
        told_until = runs.told_until()
        return portal.page(
            request,
            visit,
            "jobs-ended.html",
            runs=rows,
            next=following,
            days=LAST.days,
            states=ENDED,
            chosen=chosen,
            clusters=sorted(told_until),
            cluster=cluster,
            grants=runs.grants(),
            grant=grant.strip(),
            kinds=KINDS,
            hours=hours_of,
            ages=sorted(told_until.items()),
        )

    @api.get("/jobs/ended", response_model=Page[EndedView], responses=NOT_MODIFIED)
    def list_ended(
        request: Request,
        visit: Looks,
        state: Annotated[JobState | None, Query(description="Only those that ended so.")] = None,
        cluster: ClusterText = "",
        grant: GrantText = "",
        limit: Limit = 100,
        cursor: CursorText = None,
    ) -> Response:
        """Runs of the last 30 days that you may see and that have ended, the last first."""
        found = runs_for(visit).newest(limit + 1, _before(cursor), cluster=cluster, grant=grant, state=state)
        rows, following = page_of(found, limit, _key)
        items = tuple(_view(one, visit.words) for one in rows)
        return with_etag(request, Page[EndedView](items=items, next=following))

    @api.get("/jobs/ended/{cluster}/{number}", response_model=Page[EndedView], responses=NOT_MODIFIED)
    def runs_of_job(
        request: Request,
        visit: Looks,
        cluster: str,
        number: JobNumber,
        limit: Limit = MOST_RUNS,
        cursor: CursorText = None,
    ) -> Response:
        """Runs of one job that have ended, the last first: several where it was requeued."""
        found = runs_for(visit).newest(limit + 1, _before(cursor), cluster=cluster, job=number)
        if not found and cursor is None:
            raise no_such_job(number, cluster)
        rows, following = page_of(found, limit, _key)
        items = tuple(_view(one, visit.words) for one in rows)
        return with_etag(request, Page[EndedView](items=items, next=following))

    return [pages, api]


def ended_runs(portal: Portal, pool: PoolServer, visit: Visit) -> EndedRuns:
    return EndedRuns(pool, onlooker(pool, visit, Action.JOB_READ), portal.clock.now())


def ended_page(portal: Portal, pool: PoolServer, request: Request, visit: Visit, cluster: str, number: int) -> Response:
    """The page of a job that runs no more.

    Raises:
        Unseen: none of that number ended in the last days, or it is somebody else's.
    """
    found = ended_runs(portal, pool, visit).newest(MOST_RUNS, cluster=cluster, job=number)
    if not found:
        raise no_such_job(number, cluster)
    return portal.page(
        request,
        visit,
        "job-ended.html",
        runs=found,
        last=found[0],
        kinds=KINDS,
        hours=hours_of,
        grant_day=_day_of(pool, found[0]),
        numbered=lambda text: text.replace("JOBID", str(number)),
        ages=[(found[0].record.cluster, found[0].as_of)],
    )


def no_such_job(number: int, cluster: str) -> Unseen:
    return Unseen(
        told("No job {number} of yours is known in {cluster}.", number=str(number)[:20], cluster=cluster[:30]),
        way_out=told("A job is here within seconds of its submission, and for 30 days after its end."),
    )


def _day_of(pool: PoolServer, run: EndedRun) -> GrantDay | None:
    """How its grant used its GPUs on the day of the end; None until the site has told of that day."""
    if run.terms is None:
        return None
    grant, day = PoolGrantId.as_slurm_says(run.terms.grant.name), korean_day(run.ended)
    days = pool.store.register.days.of([grant], since=day).get(grant, ())
    return next((one for one in days if one.day == day), None)


def _key(run: EndedRun) -> tuple[int, str, int, int]:
    ended, cluster, number, started = RunEnd.of(run.record)
    return (ended - _EPOCH) // _MICROSECOND, cluster, number, (started - _EPOCH) // _MICROSECOND


def _before(cursor: str | None) -> RunEnd | None:
    """
    Raises:
        InvalidInput: it is no cursor of this list.
    """
    if cursor is None:
        return None
    ended, cluster, number, started = key_of(cursor, int, str, int, int)
    try:
        moments = [_EPOCH + timedelta(microseconds=one) for one in (ended, started)]
    except OverflowError:
        raise InvalidInput(told("The cursor is none of this list.")) from None
    return RunEnd(moments[0], ClusterName(cluster), JobId(number), moments[1])


def _view(one: EndedRun, words: Words) -> EndedView:
    record, terms = one.record, one.terms
    return EndedView(
        cluster=record.cluster,
        id=record.job_id,
        state=record.state,
        user=record.user,
        organisation=terms.organisation if terms else None,
        project=record.account,
        grant=terms.grant.name if terms else None,
        service=one.service,
        model=record.model,
        gpus=record.gpus,
        started=record.started,
        ended=one.ended,
        seconds=int(one.lasted.total_seconds()),
        gpu_seconds=record.gpu_seconds,
        gpu_hours=hours_of(record.gpu_seconds),
        won=one.won,
        note=words.tell(one.remark.text),
        way_out=words.tell(one.remark.way_out).replace("JOBID", str(record.job_id)),
        as_of=one.as_of,
    )
