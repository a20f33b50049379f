"""Puts the portal together: pages and API of all its parts, behind one guard."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.types import ASGIApp, Receive, Scope, Send

from slurm_gpuaas import __version__
from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.assets import Assets
from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.crossing import Crossing
from slurm_gpuaas.portal.description import gate_of
from slurm_gpuaas.portal.feature import Feature, Limits, Portal
from slurm_gpuaas.portal.guard import BODY_S, MAX_BODY_BYTES, Guard
from slurm_gpuaas.portal.metrics import Metrics
from slurm_gpuaas.portal.oidc import Oidc
from slurm_gpuaas.portal.pages import TEMPLATES, Pages
from slurm_gpuaas.portal.problems import BodyTooLarge, BodyTooSlow, answer, install
from slurm_gpuaas.portal.rate import RateLimit
from slurm_gpuaas.portal.refusals import Refusals
from slurm_gpuaas.portal.routes import FEATURES
from slurm_gpuaas.portal.visit import Machine
from slurm_gpuaas.portal.words import LOCALE, NAMES, Dictionary
from slurm_gpuaas.store.pool import PoolStore

STATIC = Path(__file__).with_name("static")
CALLBACK = "/sign-in/oidc/back"


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What the portal is made of.

    Args:
        features: further parts; the portal's own (accounts, people, audit) are always there.
        seconds: a clock that only goes forward, for rate limits.
        hasher: of passwords; tests give a quick one.
    """

    config: Config
    store: PoolStore
    clock: Clock = field(default_factory=SystemClock)
    features: Sequence[Feature] = ()
    seconds: Callable[[], float] = time.monotonic
    metrics: Metrics = field(default_factory=Metrics)
    hasher: Argon2Hasher | None = None

    @cached_property
    def refusals(self) -> Refusals:
        return Refusals(self.store.audit, self.seconds)


def make_portal(wiring: Wiring) -> ASGIApp:
    """The whole portal as one application.

    Raises:
        InvalidInput: a part brings something that another has already, or a route that does not say whom it is for.
    """
    app = make_app(wiring)

    def refusing(error: GpuaasError) -> ASGIApp:
        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request({**scope, "app": app, "state": {}}, receive)
            await answer(request, error)(scope, receive, send)

        return refuse

    return Guard(
        app,
        protected=not wiring.config.insecure_http,
        observe=wiring.metrics.observe,
        too_large=refusing(BodyTooLarge(MAX_BODY_BYTES)),
        too_slow=refusing(BodyTooSlow(BODY_S)),
    )


def make_app(wiring: Wiring) -> FastAPI:
    """The portal without its guard; for tests that look at routes."""
    portal, assets = _assemble(wiring)
    app = FastAPI(
        title="gpuaas-portal",
        version=__version__,
        description=(
            "The pool's API. Sign in with `Authorization: Bearer TOKEN`; tokens are made on the page *API tokens*. "
            "What changes something takes an `Idempotency-Key`: sent twice, it is done once and answers the same. "
            "Errors are problem documents (RFC 9457)."
        ),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.portal = portal
    install(app)
    routers = [_probes(portal, wiring.metrics), assets.routes()]
    routers += [router for feature in portal.features for router in feature.routes(portal)]
    app.state.routes = tuple(_checked(route) for router in routers for route in router.routes)
    app.router.routes.extend((Crossing(app.state.routes), *app.state.routes))
    return app


def _assemble(wiring: Wiring) -> tuple[Portal, Assets]:
    config, features = wiring.config, (*FEATURES, *wiring.features)
    names = dict(NAMES)
    notices: dict[str, str] = {}
    for feature in features:
        names.update(feature.names)
        if both := notices.keys() & feature.notices.keys():
            raise InvalidInput(f"Two parts of the portal have the notice {min(both)}.")
        notices.update(feature.notices)
    dictionary = Dictionary([LOCALE, *(one.catalogues for one in features if one.catalogues)], names)
    assets = Assets([STATIC, *(one.static for one in features if one.static)])
    pages = Pages(
        dictionary,
        assets,
        [TEMPLATES, *(one.templates for one in features if one.templates)],
        {"service": config.name, "service_ko": config.name_ko or config.name, "insecure": config.insecure_http},
    )
    portal = Portal(
        config=config,
        store=wiring.store,
        clock=wiring.clock,
        accounts=Accounts(wiring.store, wiring.clock, config.sessions, hasher=wiring.hasher),
        oidc=Oidc(config.oidc, redirect=config.public_url + CALLBACK, clock=wiring.clock) if config.oidc else None,
        limits=Limits(
            person=RateLimit(config.limits.person, wiring.seconds),
            address=RateLimit(config.limits.address, wiring.seconds),
            sign_in=RateLimit(config.limits.sign_in, wiring.seconds),
        ),
        refusals=wiring.refusals,
        pages=pages,
        dictionary=dictionary,
        features=features,
        notices=notices,
    )
    return portal, assets


def _checked(route: object) -> APIRoute:
    """Raises:
    InvalidInput: it does not say whom it is for, or cannot.
    """
    if not isinstance(route, APIRoute):
        raise InvalidInput(
            f"{getattr(route, 'path', route)!r:.80} is no plain route, so nothing says whom it is for.",
            way_out="Give each router by itself, with routes of its own only.",
        )
    gate_of(route)
    return route


def _probes(portal: Portal, metrics: Metrics) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz", dependencies=[Depends(Machine("tells nothing but that the server lives", limited=False))])
    async def healthz() -> PlainTextResponse:
        """The process lives and answers."""
        return PlainTextResponse("ok\n")

    @router.get("/readyz", dependencies=[Depends(Machine("tells nothing but whether the store answers"))])
    def readyz() -> JSONResponse:
        """The store answers; 503 with the reason when not."""
        try:
            portal.store.audit.last()
        except GpuaasError as error:
            return JSONResponse([error.message], status_code=503)
        return JSONResponse([])

    @router.get("/metrics", dependencies=[Depends(Machine("counts of requests; a proxy need not pass it on"))])
    def page() -> Response:
        """Prometheus metrics `gpuaas_portal_*`."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return router
