"""Asks every operation of the portal's API what its OpenAPI document says can be asked, and holds the answer to it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from slurm_gpuaas.domain.people import NOWHERE, PortalRole
from slurm_gpuaas.portal.http import API
from slurm_gpuaas.portal.rights import RIGHTS
from tests.pool_world import World
from tests.pools import login_of

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPENAPI: Final = f"{API}/openapi.json"


def token_of(world: World, role: PortalRole) -> str:
    """For everything that the role may do."""
    person = world.person(login_of(role))
    _, secret = world.accounts.make_token(person, name="contract", scopes=tuple(RIGHTS[role]), days=300, source=NOWHERE)
    return secret


def try_all(world: World, token: str, *, examples: int) -> int:
    """How many operations were tried.

    Args:
        token: empty: nobody asks.
        examples: requests of each operation. One in two has something that is there in its path.
    """
    schema = schemathesis.openapi.from_asgi(OPENAPI, world.app)
    known = {kind: [thing.value for thing in things] for kind, things in world.things.items()}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    tried = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if any(tag == "sites" for tag in operation.tags or ()):
            continue  # signed by sites: test_sites asks them
        _try(operation, headers, _values(operation.path, known), examples)
        tried += 1
    return tried


def _values(path: str, known: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """Of each thing in the path, those that are there."""
    parts = path.removeprefix(API).split("/")
    return {
        part.strip("{}"): known.get(parts[place - 1], ()) for place, part in enumerate(parts) if part.startswith("{")
    }


def _try(
    operation: APIOperation[Any, Any, Any, Any],
    headers: Mapping[str, str],
    values: Mapping[str, Sequence[str]],
    examples: int,
) -> None:
    chosen = random.Random(operation.label)  # the same in every run

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy())
    def ask(case: schemathesis.Case[Any]) -> None:
        for name, there in values.items():
            if there and chosen.random() < 0.5:
                case.path_parameters[name] = chosen.choice(there)
        case.call_and_validate(checks=CHECKS, headers=dict(headers))

    ask()
