"""Every route times everybody: each role, others of the same roles elsewhere, and nobody.

What must happen follows from the table of rights, from what the route says it needs, and from whose the thing in its
path is; nothing is listed here route by route. A new route is in the matrix by itself, and where nothing is known to
stand in its path, the test says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, urlencode

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.app import make_app
from slurm_gpuaas.portal.description import describe, gate_of, routes_of
from slurm_gpuaas.portal.http import API
from slurm_gpuaas.portal.rights import scope_of
from slurm_gpuaas.portal.visit import Machine, Needs
from tests.asgi import Answered
from tests.pool_world import Caller, World
from tests.pools import OFFICES, login_of
from tests.things import Thing
from tests.unit.portal.bodies import filled, form

ELSEWHERE: Final = ("admin-kaist", "researcher-kaist", "researcher-snu", "operator-nhn", "billing-nhn")
FORM: Final = "application/x-www-form-urlencoded"
SIGN_OUT: Final = "/sign-out"
"""It would be everybody's last request."""
_CHANCE: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b[0-9a-f]{16}\b|\b[0-9a-f]{64}\b")
"""Parts of an answer that are new in each: numbers of requests and commands."""
_THING: Final = re.compile(r"\{([^}:]+)(?::path)?\}")


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    target: str
    route: APIRoute
    thing: Thing | None

    def __str__(self) -> str:
        return f"{self.method} {self.target} ({self.route.path})"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"), settings={"limits": {"person": 1_000_000, "address": 1_000_000}})
    yield world
    world.close()


@pytest.fixture(scope="module")
def app(world: World) -> FastAPI:
    return make_app(world.wiring)


def everybody(world: World) -> list[Caller]:
    roles = [world.caller(login_of(role)) for role in OFFICES]
    return [*roles, *(world.caller(login) for login in ELSEWHERE), world.caller()]


def things_in(world: World, path: str) -> list[tuple[str, Thing | None]]:
    """What the path is with each thing that can stand in it.

    Raises:
        AssertionError: nothing is known to stand there.
    """
    names = list(_THING.finditer(path))
    if not names:
        return [(path, None)]
    first, *others = (_kind(world, path[: name.start()]) for name in names)
    targets: list[tuple[str, Thing | None]] = []
    for thing in _one_of_each_owner(first):
        target = path
        for one in (thing, *(_of_the_same(thing, other) for other in others)):
            target = _THING.sub(one.value, target, count=1)
        targets.append((target, thing))
    return targets


def _of_the_same(thing: Thing, others: list[Thing]) -> Thing:
    return next((one for one in others if one.owners == thing.owners), others[0])


def _one_of_each_owner(things: Iterable[Thing]) -> list[Thing]:
    found: dict[object, Thing] = {}
    for thing in things:
        found.setdefault(tuple((one.organisation, one.provider) for one in thing.owners), thing)
    return list(found.values())


def _kind(world: World, before: str) -> list[Thing]:
    """Things by the static part of the path before them; `*` in it stands for a thing."""
    parts = [part for part in _THING.sub("*", before).removeprefix(API).split("/") if part]
    for words in range(len(parts), 0, -1):
        place = "/".join(parts[-words:])
        if place in world.things:
            return world.things[place]
    raise AssertionError(
        f"Nothing is known to stand in {before}...: let tests/pool_happenings.py put such things there."
    )


def calls(world: World, app: FastAPI) -> Iterator[Call]:
    """Reading first: what is changed later was seen before."""
    routes = [one for one in routes_of(app) if isinstance(gate_of(one), Needs) and one.path != SIGN_OUT]
    for route in sorted(routes, key=lambda one: "GET" not in (one.methods or ())):
        for method in sorted(route.methods or ()):
            for target, thing in things_in(world, route.path):
                yield Call(method, target, route, thing)


def asked(caller: Caller, call: Call, described: dict[str, Any]) -> Answered:
    """Forms are sent as they should be by whom they must not be taken from, and empty by others: people would suspend
    each other."""
    if call.method == "GET":
        return caller.ask("GET", call.target)
    if not call.target.startswith(API):
        fields = {} if expected(caller, call) == "taken" else form(call.route)
        return caller.ask(
            "POST", call.target, body=urlencode(fields).encode(), kind="application/x-www-form-urlencoded"
        )
    body = filled(described, call.route.path, call.method)
    return caller.ask(call.method, call.target, body=body, kind="application/json" if body else "")


def expected(caller: Caller, call: Call) -> str:
    """`unknown`, `refused` (the role may not), `foreign` (not with this thing) or `taken`."""
    gate = gate_of(call.route)
    assert isinstance(gate, Needs)
    if caller.actor is None:
        return "unknown"
    if scope_of(caller.actor.role, gate.action) is None:
        return "refused"
    if call.thing is not None and not call.thing.reached(caller.actor, gate.action):
        return "foreign"
    return "taken"


def told(caller: Caller, call: Call, answer: Answered) -> str:
    gate = gate_of(call.route)
    assert isinstance(gate, Needs)
    if answer.status == 401 or (answer.status == 303 and answer.headers["location"].startswith("/sign-in?")):
        return "unknown"
    if answer.status == 403 and f"Your role does not allow this ({gate.action})" in answer.text:
        return "refused"
    if answer.status == 404:
        return "foreign"
    return "taken"


def as_if_absent(caller: Caller, call: Call, answer: Answered, described: dict[str, Any]) -> bool:
    """Whether the answer is the one that a thing that is not there gets."""
    assert call.thing is not None
    absent = re.sub("[0-9a-f]+$", lambda end: "9" * len(end[0]), call.thing.value)
    if absent == call.thing.value:
        absent = f"no-{absent}"
    other = asked(caller, replace(call, target=call.target.replace(f"/{call.thing.value}", f"/{absent}")), described)
    return (answer.status, _about(answer, call.thing.value)) == (other.status, _about(other, absent))


def _about(answer: Answered, name: str) -> str:
    """What the answer says apart from the name of the thing, which may stand as it was asked for."""
    places = "/|%2F| " if len(name) > 2 else "/|%2F"  # short numbers stand in drawings too
    return _CHANCE.sub("", re.sub(rf"({places})({re.escape(name)}|{quote(name, safe='')})\b", "", answer.text))


def leaks(world: World, caller: Caller, answer: Answered) -> set[str]:
    """Marks of things of others that the answer shows."""
    shown = {thing.mark for thing in world.marks() if thing.mark in answer.text}
    if not shown or caller.actor is None:
        return shown
    actor = caller.actor
    return shown - {thing.mark for thing in world.marks() for action in thing.shown_by if thing.reached(actor, action)}


def test_everybody_may_call_exactly_what_the_table_gives_them_with_what_is_theirs(world: World, app: FastAPI) -> None:
    callers, described = everybody(world), describe(app)
    wrong: list[str] = []
    reached: dict[str, set[int]] = {}
    for call in calls(world, app):
        ordered = sorted(callers, key=lambda one: expected(one, call) == "taken")
        for caller in ordered:
            wanted, before = expected(caller, call), world.store.audit.last().seq
            answer = asked(caller, call, described)
            found = told(caller, call, answer)
            who = f"{caller.label} {call}: {answer.status}"
            if answer.status >= 500:
                wrong.append(f"{who} {answer.text[:200]}")
            elif wanted == "taken":
                # What a domain rule forbids is no refusal of a right; a thing that is absent is not there for anybody.
                if found in {"unknown", "refused"} or (found == "foreign" and call.thing is not None):
                    wrong.append(f"{who}, and the table allows it: {answer.text[:200]}")
                # Where somebody must be told that it is not theirs, a wrong body would have hidden that they were not.
                if any(expected(one, call) == "foreign" for one in callers):
                    reached.setdefault(f"{call.method} {call.route.path}", set()).add(answer.status)
            elif found != wanted and not (wanted == "foreign" and found == "refused"):
                wrong.append(f"{who}, and should be {wanted}: {answer.text[:100]}")
            elif wanted == "foreign" and not as_if_absent(caller, call, answer, described):
                wrong.append(f"{who}, and says so otherwise than of what is not there: {answer.text[:200]}")
            elif done := _done(world, before):
                wrong.append(f"{who}, and still {done} was done")
            if marks := leaks(world, caller, answer):
                wrong.append(f"{who} shows {sorted(marks)}")
    assert not wrong, "\n".join(wrong[:40])
    unread = sorted(name for name, statuses in reached.items() if statuses <= {400, 415, 422} and API in name)
    assert not unread, f"No body was taken as it should be; give tests/unit/portal/bodies.py one: {unread}"


def _done(world: World, before: int) -> list[str]:
    newest = world.store.audit.newest(limit=10)
    return [one.action for one in newest if one.seq > before and one.result == "done"]


def test_machines_and_guests_are_shown_nothing_of_anybody(world: World, app: FastAPI) -> None:
    nobody = world.caller()
    for route in routes_of(app):
        if isinstance(gate_of(route), Needs):
            continue
        for method in sorted(route.methods or ()):
            answer = nobody.ask(method, _THING.sub("none-such", route.path))
            assert answer.status < 500, (method, route.path)
            assert not leaks(world, nobody, answer), (method, route.path)


def test_the_roles_of_the_matrix_are_all_there_are(world: World, app: FastAPI) -> None:
    assert set(OFFICES) == set(PortalRole)
    tried = {str(call) for call in calls(world, app)}
    assert len(tried) > 100
    assert any(isinstance(gate_of(route), Machine) for route in routes_of(app))
