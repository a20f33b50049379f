"""What the portal answers to sites (`api.pool_sites`). A site is told and tells about itself alone."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Depends, Query, Request, params
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from slurm_gpuaas.api.pool_sites import (
    LONGEST_WAIT_S,
    MOST_REVISION,
    SITES_PATH,
    PicturePush,
    PictureTaken,
    ReportTaken,
    SiteDocuments,
    SiteReport,
    UsagePush,
    UsageTaken,
    UseDayRow,
    UseDaysPush,
    UseDaysTaken,
)
from slurm_gpuaas.api.signing import SITES, BadSignature, Nonces, site_key, verify
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, Refused, Unavailable
from slurm_gpuaas.domain.idle import GrantDay
from slurm_gpuaas.domain.names import ClusterName, PoolGrantId, SiteName
from slurm_gpuaas.domain.usage import UsageChange
from slurm_gpuaas.store.pool.sites import DocumentSet, Site, UsageSink

MOST_POLLS: Final = 4
"""Of one site at a time: a site has one, and one more for a moment after it lost its connection."""


class SitePool(Protocol):
    """What is kept of sites; `store.pool.sites.Sites` has it and says what each does."""

    def find(self, name: SiteName) -> Site | None: ...
    def saw(self, name: SiteName, at: datetime) -> None: ...
    def revision(self, site: SiteName) -> int: ...
    def holds(self, site: SiteName, revision: int) -> None: ...
    def documents(self, site: SiteName) -> DocumentSet: ...
    def outgrow(self, site: SiteName, revision: int) -> None: ...
    def take_usage(self, site: SiteName, *, after: int, changes: Sequence[UsageChange], sink: UsageSink) -> int: ...
    def put_report(
        self, site: SiteName, report: Mapping[str, Any], *, sent_at: datetime, received_at: datetime
    ) -> None: ...


class DaySink(Protocol):
    """Where days of use go; `portal.pool.ReportedDays` has it."""

    def put(self, cluster: ClusterName, days: Sequence[GrantDay]) -> int:
        """Keep them, each in place of an older one; how many are of grants on that cluster."""
        ...


class PictureSink(Protocol):
    """Where pictures go; `portal.pictures.Pictures` is one."""

    async def take(self, site: Site, push: PicturePush) -> PictureTaken: ...


class Polls:
    """Long polls that wait for documents, and what wakes them. `changed` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[SiteName, list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = defaultdict(list)

    def changed(self, site: SiteName) -> None:
        """There are new documents for the site."""
        with self._lock:
            waiting = list(self._waiting[site])
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    @contextmanager
    def waiting(self, site: SiteName) -> Iterator[asyncio.Event]:
        """An event that is set when the site's documents change while the block runs. Read them inside the block: what
        changes after that is not missed.

        Raises:
            Unavailable: too many polls of this site wait already.
        """
        one = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if len(self._waiting[site]) >= MOST_POLLS:
                raise Unavailable(f"{MOST_POLLS} polls of site {site} wait already.", way_out="Let one of them end.")
            self._waiting[site].append(one)
        try:
            yield one[1]
        finally:
            with self._lock:
                self._waiting[site].remove(one)


class SignedSite:
    """A dependency of routes: the site in the path, whose key signed the request."""

    def __init__(self, pool: SitePool, master_key: bytes, clock: Clock, nonces: Nonces) -> None:
        self._pool = pool
        self._master_key = master_key
        self._clock = clock
        self._nonces = nonces
        self._lock = threading.Lock()

    async def __call__(self, site: str, request: Request) -> SiteName:
        body = await request.body()
        return await run_in_threadpool(self._check, site, request, body)

    def _check(self, path_site: str, request: Request, body: bytes) -> SiteName:
        query: bytes = request.scope["query_string"]
        now = self._clock.now()
        with self._lock:
            site = verify(
                SITES,
                self._key_of,
                method=request.method,
                target=request.url.path + (f"?{query.decode('latin-1')}" if query else ""),
                headers=request.headers,
                body=body,
                now=now,
                nonces=self._nonces,
            )
        if site != path_site:
            raise Refused(f"Site {site} asked in the name of site {path_site!r:.40}.", way_out="Ask for yourself.")
        self._pool.saw(site, now)
        return site

    def _key_of(self, name: SiteName) -> bytes | None:
        site = self._pool.find(name)
        return None if site is None else site_key(self._master_key, name, site.key_number)


def site_routes(
    pool: SitePool,
    sink: UsageSink,
    days: DaySink,
    pictures: PictureSink,
    *,
    polls: Polls,
    master_key: bytes,
    clock: Clock,
    nonces: Nonces,
    dependencies: Sequence[params.Depends] = (),
) -> APIRouter:
    """The routes. Whoever serves them bounds bodies to `api.pool_sites.MAX_REQUEST_BYTES`, and lets `polls.changed`
    know of new documents.

    Args:
        master_key: the key from which those of sites are made.
        nonces: of this process, shared by nothing else.
        dependencies: of all routes, beside the signature.
    """
    router = APIRouter(prefix=SITES_PATH, tags=["sites"], dependencies=dependencies)
    Signed = Annotated[SiteName, Depends(SignedSite(pool, master_key, clock, nonces))]

    @router.get("/{site}/documents")
    async def documents(
        site: Signed,
        revision: Annotated[int, Query(ge=0, le=MOST_REVISION, description="The one that the site has.")] = 0,
        wait: Annotated[int, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for a newer one.")] = 0,
    ) -> SiteDocuments:
        """The newest documents for the site, or that it has them."""
        with polls.waiting(site) as changed:
            await run_in_threadpool(pool.holds, site, revision)
            newest = await run_in_threadpool(pool.revision, site)
            if newest < revision:
                await run_in_threadpool(pool.outgrow, site, revision)
            elif newest == revision and wait:
                await _within(changed, wait)
        found = await run_in_threadpool(pool.documents, site)
        if found.revision == revision:
            return SiteDocuments(revision=revision, changed=False, now=clock.now())
        return SiteDocuments(
            revision=found.revision,
            changed=True,
            documents=tuple(map(dict, found.documents)),
            people=tuple(map(dict, found.people)),
            now=clock.now(),
        )

    @router.post("/{site}/usage")
    def usage(site: Signed, push: UsagePush) -> UsageTaken:
        """Take changes of usage; what came before changes nothing. They are in the store when this answers."""
        cluster = _known(site).cluster
        changes = tuple(row.change(cluster) for row in push.rows)
        return UsageTaken(acknowledged=pool.take_usage(site, after=push.after, changes=changes, sink=sink))

    @router.post("/{site}/picture")
    async def picture(site: Signed, request: Request) -> PictureTaken:
        """Take what runs at the site now (`PicturePush`, JSON in the content coding `deflate`). A frame that is not
        newer than what is here changes nothing."""
        of = await run_in_threadpool(_known, site)
        push = await run_in_threadpool(_unpacked, await request.body())
        return await pictures.take(of, push)

    @router.post("/{site}/reports")
    def reports(site: Signed, report: SiteReport) -> ReportTaken:
        """Take how the site is; one that was sent before the newest changes nothing."""
        cluster = _known(site).cluster
        if report.cluster != cluster:
            raise Conflict(
                f"Site {site} has cluster {cluster}, and {report.cluster} reported under its name.",
                way_out="Give each gpuaasd the key of its own site.",
            )
        now = clock.now()
        pool.put_report(site, report.model_dump(mode="json"), sent_at=report.sent_at, received_at=now)
        return ReportTaken(now=now)

    @router.post("/{site}/days")
    def used_days(site: Signed, push: UseDaysPush) -> UseDaysTaken:
        """Take what grants used on whole days; what was measured before changes nothing."""
        rows = [_day(row) for row in push.rows if PoolGrantId.pattern.fullmatch(row.grant)]
        return UseDaysTaken(taken=days.put(_known(site).cluster, rows))

    def _known(site: SiteName) -> Site:
        found = pool.find(site)
        if found is None:
            raise BadSignature(f"There is no site {site} any more.")
        return found

    return router


def _unpacked(body: bytes) -> PicturePush:
    try:
        return PicturePush.unpacked(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


def _day(row: UseDayRow) -> GrantDay:
    return GrantDay(
        grant=PoolGrantId(row.grant),
        day=row.day,
        number=row.number,
        allocated=row.allocated,
        busy=row.busy,
        loaded=row.loaded,
        lost=row.lost,
        burst=row.burst,
        peak=row.peak,
    )


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, or for so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
