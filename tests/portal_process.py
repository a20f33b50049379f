"""A portal that talks to sites and does nothing else, as a process of its own.

python -m tests.portal_process STORE_URL MASTER_KEY_FILE PORT
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import text
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slurm_gpuaas.api.keyfile import read_master_key
from slurm_gpuaas.api.models import Problem
from slurm_gpuaas.api.signing import Nonces
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.fleet_map import CellState
from slurm_gpuaas.domain.from_portal import PORTAL_DOCUMENTS
from slurm_gpuaas.domain.logins import LOGINS
from slurm_gpuaas.domain.names import SiteName
from slurm_gpuaas.domain.usage import UsageChange
from slurm_gpuaas.portal import rights
from slurm_gpuaas.portal.pictures import Pictures
from slurm_gpuaas.portal.pool import ReportedDays
from slurm_gpuaas.portal.running import Onlooker, jobs_seen
from slurm_gpuaas.portal.sites import Polls, site_routes
from slurm_gpuaas.store.pool import PoolStore

SAID: Final = "/test/documents"
"""POST {"site", "documents", "people"}: what an acceptance leads to."""
SHOWN: Final = "/test/shown"
"""GET: jobs, and the state of each node's first GPU, as the sites' newest pictures have them."""


class Ledger:
    """Keeps usage in a table of the pool's store, in the caller's transaction."""

    def __init__(self, store: PoolStore, die_at: str) -> None:
        self._store = store
        self._die_at = die_at
        with store._sessions.writing() as session:
            session.connection().execute(
                text("CREATE TABLE IF NOT EXISTS test_usage (job INTEGER, started TEXT, record TEXT, puts INTEGER,"
                     " PRIMARY KEY (job, started))")
            )  # fmt: skip

    def put(self, site: SiteName, changes: Sequence[UsageChange]) -> None:
        with self._store._sessions.writing() as session:
            for one in (change.record for change in changes):
                session.connection().execute(
                    text("INSERT INTO test_usage VALUES (:job, :started, :record, 1) ON CONFLICT (job, started) "
                         "DO UPDATE SET record = :record, puts = puts + 1"),
                    {"job": one.job_id, "started": one.started.isoformat(), "record": repr(one)},
                )  # fmt: skip
        die_if(self._die_at, "usage-put")


def usage_of(store: PoolStore) -> dict[int, str]:
    """Records by job, as they are printed."""
    with store._sessions.reading() as session:
        rows = session.connection().execute(text("SELECT job, record FROM test_usage"))
        return {int(job): str(record) for job, record in rows}


def die_if(die_at: str, place: str) -> None:
    if die_at == place:
        os.kill(os.getpid(), signal.SIGKILL)


class DiesBeforeItAnswers:
    """Done, and killed before anybody hears of it."""

    def __init__(self, app: ASGIApp, die_at: str) -> None:
        self._app = app
        self._die_at = die_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dying(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                die_if(self._die_at, f"answer {scope['path'].rpartition('/')[2]}")
            await send(message)

        await self._app(scope, receive, dying if scope["type"] == "http" else send)


def portal(store: PoolStore, master: bytes, *, die_at: str = "") -> ASGIApp:
    polls, clock = Polls(), SystemClock()
    store.sites.on_documents(polls.changed)
    app = FastAPI()
    pictures = Pictures(store.sites, clock)
    routes = site_routes(
        store.sites,
        Ledger(store, die_at),
        ReportedDays(store, clock),
        pictures,
        polls=polls,
        master_key=master,
        clock=clock,
        nonces=Nonces(),
    )
    app.include_router(routes)

    @app.exception_handler(GpuaasError)
    def problem(request: Request, error: GpuaasError) -> JSONResponse:
        told = Problem(type="", title="", status=error.http_status, detail=error.message, way_out=error.way_out)
        return JSONResponse(told.model_dump(mode="json"), status_code=error.http_status)

    def said(body: dict[str, Any]) -> int:
        documents = PORTAL_DOCUMENTS.validate_python(body["documents"])
        people = LOGINS.validate_python(body["people"])
        return store.sites.set_documents(SiteName(body["site"]), documents, people, at=clock.now())

    @app.post(SAID)
    async def documents(request: Request) -> int:
        return said(json.loads(await request.body()))

    @app.get(SHOWN)
    def shown() -> JSONResponse:
        known = pictures.live.known
        jobs = jobs_seen(known, Onlooker(scope=rights.Scope.ALL))
        return JSONResponse(
            {
                "jobs": [[one.job.id, one.state, one.job.user, one.gpus] for one in jobs],
                "states": {
                    node: CellState(int(state)).name
                    for site in known.values()
                    if site.frame is not None
                    for node, state in zip(
                        site.cluster.nodes, site.frame.unpacked().state[:: site.cluster.gpus_per_node], strict=True
                    )
                },
            }
        )

    return DiesBeforeItAnswers(app, die_at)


def serve(store_url: str, master: bytes, port: int, die_at: str = "") -> None:
    store = PoolStore.open(store_url)
    uvicorn.run(portal(store, master, die_at=die_at), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    serve(sys.argv[1], read_master_key(Path(sys.argv[2])), int(sys.argv[3]))
