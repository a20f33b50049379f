"""The map's page and its data over HTTP. Decides nothing: `viewer` says who looks, the source what they may see.

/map                      the page
/map/opening              what does not change with each picture: layout, texts, what the viewer may do
/map/picture              the newest picture, whole
/map/events               pictures as server-sent events: deltas from the one the page has (`after`, or on a
                          reconnect Last-Event-ID), a beat in between so that the page knows it is still connected
/map/history, /map/past   pictures between two moments (length u32 before each), and the marks of that time
/map/nodes/…, /map/jobs/… cards
/map/static/…             scripts and style sheet
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response, params
from fastapi.responses import HTMLResponse, StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import AwareDatetime
from starlette.concurrency import run_in_threadpool

from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.map.source import JobCard, MapSource, NodeCard, Past
from slurm_gpuaas.portal.map.view import MapViewer
from slurm_gpuaas.portal.map.words import Language, texts

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
BEAT_S: Final = 10.0
SPREAD_S: Final = 1.0
STREAM_S: Final = 600.0
MAX_PICTURES: Final = 60
MAX_SPAN: Final = timedelta(days=8)
_KINDS: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_LENGTH: Final = struct.Struct("<I")


def map_routes(source: MapSource, viewer: Callable[[Request], MapViewer], *, simulated: bool = False) -> APIRouter:
    """Routes of a map that stands alone; the portal has a page of its own around the same data.

    Args:
        viewer: who looks, from the request; raises where nobody may.
        simulated: the page says that what it shows is made up.
    """
    router = APIRouter(tags=["map"])
    found = Environment(
        loader=PackageLoader("slurm_gpuaas.portal.map"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )

    @router.get("/map", response_class=HTMLResponse)
    def page(request: Request, lang: Language = Language.KO) -> HTMLResponse:
        viewer(request)
        text = found.get_template("map/page.html").render(
            base="map/alone.html",
            framed=False,
            lang=lang.value,
            map_words=texts(lang),
            simulated=simulated,
            version=version(),
        )
        return HTMLResponse(text, headers={"Content-Security-Policy": CSP, "Cache-Control": "no-store"})

    router.include_router(map_data(source, viewer))
    router.include_router(map_files())
    return router


def map_data(
    source: MapSource, viewer: Callable[[Request], MapViewer], dependencies: Sequence[params.Depends] = ()
) -> APIRouter:
    """What the page asks for.

    Args:
        dependencies: of all routes; they see the request before `viewer` does.
    """
    router = APIRouter(include_in_schema=False, dependencies=dependencies)

    @router.get("/map/opening")
    def opening(request: Request, lang: Language = Language.KO) -> Response:
        opened = _opening(source, viewer(request), lang)
        return Response(
            json.dumps(opened, ensure_ascii=False, separators=(",", ":")),
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    @router.get("/map/picture")
    async def picture(request: Request) -> Response:
        return _pictures(source.whole(viewer(request)))

    @router.get("/map/events")
    async def events(request: Request, after: Annotated[int, Query(ge=0, lt=2**32)] = 0) -> StreamingResponse:
        last = request.headers.get("last-event-id", "")
        if last.isascii() and last.isdigit() and len(last) <= 10:
            after = int(last)
        return StreamingResponse(
            event_stream(source, viewer(request), after),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @router.get("/map/history")
    async def history(
        request: Request,
        begin: AwareDatetime,
        end: AwareDatetime,
        limit: Annotated[int, Query(ge=1, le=MAX_PICTURES)] = MAX_PICTURES,
    ) -> Response:
        _ordered(begin, end)
        who = viewer(request)
        found = await run_in_threadpool(lambda: list(source.history(who, begin, end, limit)))
        return _pictures(b"".join(_LENGTH.pack(len(one)) + one for one in found))

    @router.get("/map/past")
    async def past(request: Request, begin: AwareDatetime, end: AwareDatetime) -> Past:
        _ordered(begin, end)
        return source.past(viewer(request), begin, end)

    @router.get("/map/nodes/{cluster}/{node}")
    async def node_card(
        request: Request, cluster: Annotated[str, Path(max_length=64)], node: Annotated[str, Path(max_length=64)]
    ) -> NodeCard:
        return source.node_card(viewer(request), cluster, node)

    @router.get("/map/jobs/{slot}")
    async def job_card(request: Request, slot: Annotated[int, Path(ge=1, le=65_535)]) -> JobCard:
        return source.job_card(viewer(request), slot)

    return router


def map_files(dependencies: Sequence[params.Depends] = ()) -> APIRouter:
    """Scripts and style sheet."""
    router = APIRouter(include_in_schema=False, dependencies=dependencies)

    @router.get("/map/static/{release}/{name}")
    def asset(release: str, name: str) -> Response:
        # The release in the path makes every file of it a different address, so that it may be kept for good.
        content = _static().files.get(name)
        if content is None or release != version():
            raise NotFound(told("The map has no file {name}.", name=name[:64]), way_out=told("Reload the page."))
        return Response(
            content,
            media_type=_KINDS[name[name.rindex(".") :]],
            headers={"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"},
        )

    return router


async def event_stream(source: MapSource, viewer: MapViewer, after: int) -> AsyncIterator[bytes]:
    """Events for one open map. Who reads slowly gets fewer, larger steps.

    Maps are told at different moments within `SPREAD_S`: all at once they would hold up whoever asks for a page, and
    sites that push at the same time are told of together.

    It ends after `STREAM_S`: the page comes back by itself, and who may look is asked again.
    """
    yield b"retry: 2000\n\n"
    ends = asyncio.get_running_loop().time() + STREAM_S
    while asyncio.get_running_loop().time() < ends:
        for sequence, data in source.since(viewer, after):
            yield b"event: picture\nid: %d\ndata: %b\n\n" % (sequence, base64.b64encode(data))
            after = sequence
        try:
            async with asyncio.timeout(BEAT_S):
                await source.changed(after)
        except TimeoutError:
            yield b"event: beat\ndata: \n\n"
        else:
            await asyncio.sleep(random.uniform(0.2, 1.0) * SPREAD_S)  # noqa: S311  # nobody gains by guessing it


def _opening(source: MapSource, viewer: MapViewer, lang: Language) -> dict[str, Any]:
    layout = source.layout()
    return {
        "layout": layout.number,
        "clusters": [
            {
                "name": cluster.name,
                "provider": cluster.provider,
                "model": cluster.model,
                "gpus": cluster.gpus_per_node,
                "won": cluster.won_per_gpu_hour,
                "units": [{"name": unit.name, "nodes": unit.nodes, "shares": unit.shares} for unit in cluster.units],
            }
            for cluster in layout.clusters
        ],
        "viewer": {"everything": viewer.everything, "organisation": viewer.organisation},
        "lang": lang.value,
        "words": dict(texts(lang)),
    }


def _pictures(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream", headers={"Cache-Control": "no-store"})


def _ordered(begin: AwareDatetime, end: AwareDatetime) -> None:
    if not timedelta(0) < end - begin <= MAX_SPAN:
        raise InvalidInput(
            told("The end must lie after the begin, at most 8 days."), way_out=told("Ask for less at once.")
        )


class _Static:
    """Scripts and style sheets, read once; `version` changes with any of them."""

    def __init__(self) -> None:
        folder = files("slurm_gpuaas.portal.map") / "static"
        self.files = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.endswith(tuple(_KINDS))}
        self.version = f"{zlib.crc32(b''.join(self.files[name] for name in sorted(self.files))):08x}"


@cache
def _static() -> _Static:
    return _Static()


def version() -> str:
    """Part of the address of the page's files."""
    return _static().version
