"""Finds the route of a request by the first words of its path: it is compared with a handful and not with hundreds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from slurm_gpuaas.portal.http import API


class Crossing(BaseRoute):
    """Stands before all routes of an app. What none of its routes takes wholly goes on to them, one after the other.

    Args:
        routes: in the order in which they are tried; those whose path does not begin with a fixed word are left out.
    """

    def __init__(self, routes: Iterable[APIRoute]) -> None:
        found: dict[str, list[APIRoute]] = defaultdict(list)
        for route in routes:
            word = _first_word(route.path)
            if "{" not in word:
                found[word].append(route)
        self._routes: Final = dict(found)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http":
            for route in self._routes.get(_first_word(scope["path"]), ()):
                match, child = route.matches(scope)
                if match is Match.FULL:
                    return match, child
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The route that `matches` found and the router put into the scope."""
        await scope["route"].handle(scope, receive, send)


def _first_word(path: str) -> str:
    """`/grants/g-1` -> `grants`, `/api/v1/grants/g-1` -> `/api/v1 grants`."""
    if path.startswith(API + "/"):
        return f"{API} {path[len(API) + 1 :].partition('/')[0]}"
    return path[1:].partition("/")[0]
