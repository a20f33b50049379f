"""Jobs that wait or run: why they wait, when they may start, how well they use their GPUs. `ended` has the others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal
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
from slurm_gpuaas.portal.routes.ended import ENDED_NAMES, JobNumber, ended_page, ended_routes
from slurm_gpuaas.portal.routes.looks import ClusterText, ages, onlooker
from slurm_gpuaas.portal.running import (
    JobNow,
    NoteKind,
    RunState,
    efficiency,
    incidents_of_job,
    job_seen,
    jobs_seen,
    may_start,
    nodes_of,
    waiting_for,
    why,
)
from slurm_gpuaas.portal.visit import Needs, Unseen, Visit
from slurm_gpuaas.portal.words import Words, noted

Looks = Annotated[Visit, Depends(Needs(Action.JOB_READ))]
StateText = Annotated[RunState | None, Query(description="Only these.")]
FIRST: Final = 100


class JobView(Answer):
    """
    Args:
        began: when it started, or was submitted.
        why, way_out: why it waits and what to do, in your language.
        may_start: the earliest, by the time limits of what runs; null = something else must happen first, or unknown.
        use_percent: mean of its GPUs that are known, in the last minutes.
        idle_gpus: GPUs that it has not used for ten minutes.
        as_of: when its site told of it.
    """

    cluster: str
    id: int
    state: RunState
    name: str
    user: str | None
    organisation: str | None
    project: str | None
    share: str
    service: str
    gpus: int
    began: datetime
    until: datetime | None
    reason: str | None
    why: str | None
    way_out: str | None
    may_start: datetime | None
    use_percent: float | None
    idle_gpus: int
    notes: tuple[str, ...]
    nodes: tuple[str, ...]
    as_of: datetime


def jobs_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> Sequence[APIRouter]:
        return (*ended_routes(portal, pool), _pages(portal, pool), _api(pool))

    def cards(portal: Portal, visit: Visit) -> Sequence[Card]:
        if visit.may(Action.JOB_READ) is None:
            return ()
        jobs, words = jobs_seen(pool.pictures.live.known, onlooker(pool, visit, Action.JOB_READ)), visit.words
        running = [one for one in jobs if one.state is RunState.RUNNING]
        return (
            Card(
                label=words.say("Running jobs"),
                value=words.value(len(running)),
                detail=words.say(
                    "{gpus} GPUs; {waiting} jobs wait",
                    gpus=sum(one.gpus for one in running),
                    waiting=len(jobs) - len(running),
                ),
                path="/jobs",
            ),
        )

    return Feature(
        name="jobs",
        routes=routes,
        cards=cards,
        nav=(NavEntry("/jobs", noted("Jobs"), "jobs", Action.JOB_READ, 22),),
        names={
            **ENDED_NAMES,
            RunState: {RunState.WAITING: noted("Waiting"), RunState.RUNNING: noted("Running")},
            NoteKind: {
                NoteKind.GOOD: noted("Busy"),
                NoteKind.LOW: noted("Little busy"),
                NoteKind.IDLE: noted("Idle"),
                NoteKind.UNKNOWN: noted("Not known"),
            },
        },
    )


def _found(pool: PoolServer, visit: Visit, cluster: str, number: int) -> JobNow:
    job = job_seen(pool.pictures.live.known, onlooker(pool, visit, Action.JOB_READ), cluster, number)
    if job is None:
        raise Unseen(
            told("No job {number} of yours waits or runs in {cluster}.", number=str(number)[:20], cluster=cluster[:30]),
            way_out=told("A job is here within seconds of its submission; /jobs/ended has those that have ended."),
        )
    return job


def _seen(pool: PoolServer, visit: Visit, state: RunState | None, cluster: str) -> list[JobNow]:
    return [
        one
        for one in jobs_seen(pool.pictures.live.known, onlooker(pool, visit, Action.JOB_READ))
        if state in (None, one.state) and cluster in ("", one.cluster.name)
    ]


def _after(jobs: list[JobNow], cursor: str | None) -> list[JobNow]:
    if cursor is None:
        return jobs
    rank, began, cluster, number = key_of(cursor, int, int, str, int)
    return [one for one in jobs if one.key > (bool(rank), began, cluster, number)]


def _key(job: JobNow) -> tuple[int, int, str, int]:
    rank, began, cluster, number = job.key
    return int(rank), began, cluster, number


def _pages(portal: Portal, pool: PoolServer) -> APIRouter:
    pages = APIRouter(include_in_schema=False)

    @pages.get("/jobs")
    def jobs(
        request: Request, visit: Looks, state: str = "", cluster: ClusterText = "", cursor: CursorText = None
    ) -> Response:
        everything = _seen(pool, visit, None, "")
        chosen = RunState(state) if state in set(RunState) else None
        found = [one for one in everything if chosen in (None, one.state) and cluster in ("", one.cluster.name)]
        rows, following = page_of(_after(found, cursor)[: FIRST + 1], FIRST, _key)
        running = [one for one in everything if one.state is RunState.RUNNING]
        return portal.page(
            request,
            visit,
            "jobs.html",
            jobs=rows,
            next=following,
            running=len(running),
            waiting=len(everything) - len(running),
            gpus=sum(one.gpus for one in running),
            idle=sum(one.held.idle for one in running if one.held),
            clusters=sorted(pool.pictures.live.known),
            chosen=chosen,
            cluster=cluster,
            states=list(RunState),
            why=why,
            may_start=may_start,
            efficiency=efficiency,
            good=NoteKind.GOOD,
            ages=ages(pool),
        )

    @pages.get("/jobs/{cluster}/{job_id}")
    def job(request: Request, visit: Looks, cluster: str, job_id: JobNumber) -> Response:
        found = job_seen(pool.pictures.live.known, onlooker(pool, visit, Action.JOB_READ), cluster, job_id)
        if found is None:
            return ended_page(portal, pool, request, visit, cluster, job_id)
        incidents = []
        if visit.may(Action.INCIDENT_READ):
            looks = onlooker(pool, visit, Action.INCIDENT_READ)
            incidents = incidents_of_job(pool.pictures.live.known, looks, cluster, job_id)
        site = pool.pictures.live.known[found.cluster.name]
        mine = frozenset(nodes_of(site, job_id)) if found.run else frozenset()
        return portal.page(
            request,
            visit,
            "job.html",
            one=found,
            reason=why(found.queued) if found.queued else None,
            figures=list(waiting_for(found.queued)) if found.queued else [],
            start=may_start(found.queued) if found.queued else None,
            note=efficiency(found.held) if found.held else None,
            note_kinds={"good": "good", "low": "wait", "idle": "bad", "unknown": "quiet"},
            units=[unit for unit in found.cluster.units if not mine.isdisjoint(unit.nodes)],
            mine=mine,
            incidents=incidents,
            numbered=lambda text: text.replace("JOBID", str(job_id)),
            ages=ages(pool),
        )

    return pages


def _api(pool: PoolServer) -> APIRouter:
    api = APIRouter(prefix=API, tags=["jobs"], responses=PROBLEMS)

    @api.get("/jobs", response_model=Page[JobView], responses=NOT_MODIFIED)
    def jobs(
        request: Request,
        visit: Looks,
        state: StateText = None,
        cluster: ClusterText = "",
        limit: Limit = 100,
        cursor: CursorText = None,
    ) -> Response:
        """Jobs that you may see: what waits first, the oldest first. Without their nodes."""
        found = _after(_seen(pool, visit, state, cluster), cursor)
        rows, following = page_of(found[: limit + 1], limit, _key)
        return with_etag(request, Page(items=tuple(_view(one, visit.words) for one in rows), next=following))

    @api.get("/jobs/{cluster}/{number}", response_model=JobView, responses=NOT_MODIFIED)
    def one_job(request: Request, visit: Looks, cluster: str, number: int) -> Response:
        """A job that you may see, with its nodes."""
        found = _found(pool, visit, cluster, number)
        nodes = nodes_of(pool.pictures.live.known[found.cluster.name], number) if found.run else ()
        return with_etag(request, _view(found, visit.words, nodes))

    return api


def _view(one: JobNow, words: Words, nodes: Sequence[str] = ()) -> JobView:
    job, queued, held = one.job, one.queued, one.held
    meaning = why(queued) if queued else None
    notes = list(map(words.tell, waiting_for(queued))) if queued else []
    if held is not None:
        note = efficiency(held)
        notes = [words.tell(text) for text in (note.text, note.way_out) if text]
    return JobView(
        cluster=one.cluster.name,
        id=job.id,
        state=one.state,
        name=job.name,
        user=job.user,
        organisation=job.tenant,
        project=job.project,
        share=job.share,
        service=job.service,
        gpus=one.gpus,
        began=one.began,
        until=one.run.until if one.run else None,
        reason=queued.reason if queued else None,
        why=words.tell(meaning.says) if meaning else None,
        way_out=words.tell(meaning.way_out).replace("JOBID", str(job.id)) if meaning and meaning.way_out else None,
        may_start=may_start(queued) if queued else None,
        use_percent=None if held is None or held.use is None else round(held.use, 1),
        idle_gpus=held.idle if held else 0,
        notes=tuple(note.replace("JOBID", str(job.id)) for note in notes),
        nodes=tuple(nodes),
        as_of=one.as_of,
    )
