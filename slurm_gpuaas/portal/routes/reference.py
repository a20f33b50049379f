"""The API's description: OpenAPI for programs, and a page for those who write them."""

import hashlib
import json
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.portal.description import describe, reference
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal
from slurm_gpuaas.portal.http import API
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.visit import Machine, Needs, Visit
from slurm_gpuaas.portal.words import noted

OPENAPI: Final = f"{API}/openapi.json"


def _routes(portal: Portal) -> list[APIRouter]:
    router = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.HOME_READ))]

    @router.get(OPENAPI, dependencies=[Depends(Machine("describes the API, which is public"))])
    def openapi(request: Request) -> Response:
        """The API's description, OpenAPI 3.1."""
        content = json.dumps(describe(request.app), ensure_ascii=False, separators=(",", ":")).encode()
        etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"ETag": etag})
        return Response(content, media_type="application/json", headers={"ETag": etag, "Cache-Control": "no-cache"})

    @router.get("/api-reference")
    def page(request: Request, visit: Reader) -> Response:
        return portal.page(
            request,
            visit,
            "reference.html",
            reference=reference(describe(request.app)),
            openapi=OPENAPI,
            base=portal.config.public_url + API,
        )

    return [router]


REFERENCE: Final = Feature(
    name="reference",
    routes=_routes,
    nav=(NavEntry("/api-reference", noted("API reference"), "report", Action.HOME_READ, 93),),
)
