"""The crossing finds the very route that trying all of them, one after the other, finds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import Match

from slurm_gpuaas.portal.app import make_app
from slurm_gpuaas.portal.crossing import Crossing
from slurm_gpuaas.portal.description import routes_of
from tests.pools import PoolPortal


def scope_of(path: str, method: str) -> dict[str, Any]:
    return {"type": "http", "path": path, "method": method, "headers": [], "root_path": ""}


def one_by_one(routes: Sequence[APIRoute], path: str, method: str) -> APIRoute | None:
    tried = (route for route in routes if route.matches(scope_of(path, method))[0] is Match.FULL)
    return next(tried, None)


def test_it_finds_what_is_found_one_by_one(tmp_path: Path) -> None:
    routes = routes_of(make_app(PoolPortal(tmp_path).wiring))
    crossing = Crossing(routes)
    for route in routes:
        path = re.sub(r"{\w+(:\w+)?}", "g-0001", route.path)
        for method in ("GET", "POST", "PUT", "DELETE"):
            match, child = crossing.matches(scope_of(path, method))
            wanted = one_by_one(routes, path, method)
            assert (child.get("route"), match) == (wanted, Match.FULL if wanted else Match.NONE), (method, path)


def test_what_no_route_takes_goes_on(tmp_path: Path) -> None:
    crossing = Crossing(routes_of(make_app(PoolPortal(tmp_path).wiring)))
    for path in ("", "/nothing", "/api/v1", "/api/v1/", "/api/v1/nothing", "//grants", "grants"):
        assert crossing.matches(scope_of(path, "GET"))[0] is Match.NONE, path
    assert crossing.matches({**scope_of("/grants", "GET"), "type": "websocket"})[0] is Match.NONE
