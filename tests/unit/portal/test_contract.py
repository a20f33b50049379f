"""Whatever the portal's API is asked, by whomever, it answers as its OpenAPI document says. `make soak` asks longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fastapi import FastAPI

from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.app import make_app
from slurm_gpuaas.portal.description import describe
from slurm_gpuaas.portal.http import API, PROBLEM_JSON, PROBLEMS
from tests.pool_world import World
from tests.unit.portal.contract import token_of, try_all

ONCE_WITHOUT_KEY = {
    f"DELETE {API}/tokens/{{token}}": "revoking twice changes nothing",
    f"POST {API}/programmes/{{name}}/what-if": "changes nothing",
    f"POST {API}/sizing": "changes nothing",
    f"POST {API}/idle/dry-run": "changes nothing",
    f"POST {API}/ledger/corrections/{{id}}/approve": "decided once: the second is a 409",
    f"POST {API}/ledger/corrections/{{id}}/refuse": "decided once: the second is a 409",
    f"POST {API}/rates/proposals/{{id}}/approve": "decided once: the second is a 409",
    f"POST {API}/rates/proposals/{{id}}/refuse": "decided once: the second is a 409",
}
"""What needs no Idempotency-Key, and why."""

FEW = {f"{API}/applications/{{number}}/reviews": "one a reviewer"}
"""Lists without pages, and why they are short."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    world = World(folder, settings={"limits": {"person": 1_000_000, "address": 1_000_000}})
    yield world
    world.close()


@pytest.fixture(scope="module")
def described(world: World) -> Mapping[str, Any]:
    return describe(make_app(world.wiring))


@pytest.mark.parametrize("role", [*PortalRole, None], ids=[*map(str, PortalRole), "nobody"])
def test_every_answer_is_declared_and_none_is_a_server_error(world: World, role: PortalRole | None) -> None:
    token = token_of(world, role) if role else ""
    assert try_all(world, token, examples=2) >= 30, "the document has lost operations"


def operations(described: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, item in described["paths"].items():
        if not path.startswith(f"{API}/sites/{{site}}"):
            for method, operation in item.items():
                yield method.upper(), path, operation


def test_what_changes_something_takes_a_key_under_which_it_is_done_once(described: Mapping[str, Any]) -> None:
    for method, path, operation in operations(described):
        if method == "GET" or f"{method} {path}" in ONCE_WITHOUT_KEY:
            continue
        headers = {one["name"]: one for one in operation.get("parameters", ()) if one["in"] == "header"}
        assert "Idempotency-Key" in headers, f"{method} {path}"
        assert headers["Idempotency-Key"]["description"]


def test_every_list_is_read_in_pages(described: Mapping[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    for method, path, operation in operations(described):
        schema = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
        if method != "GET" or "$ref" not in schema:
            continue
        answer = schemas[schema["$ref"].rpartition("/")[2]]["properties"]
        if "items" in answer and "next" not in answer:
            assert path in FEW, f"{path} lists without pages"
        if "next" in answer and "items" in answer:
            names = {one["name"] for one in operation["parameters"]}
            assert {"limit", "cursor"} <= names, f"{path}"


def test_every_operation_says_what_it_is_refused_with(described: Mapping[str, Any]) -> None:
    for method, path, operation in operations(described):
        problems = {int(status): one for status, one in operation["responses"].items() if int(status) >= 400}
        assert problems.keys() >= PROBLEMS.keys(), f"{method} {path}"
        assert all(PROBLEM_JSON in one["content"] for one in problems.values()), f"{method} {path}"
        assert operation.get("description"), f"{method} {path} says nothing of itself"
        assert operation["tags"], f"{method} {path}"


def test_no_two_operations_have_one_name(world: World, described: Mapping[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(names) == len(set(names))
    assert isinstance(make_app(world.wiring), FastAPI)
