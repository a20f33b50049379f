"""What the portal's routes say of themselves: whom each is for, and the whole API as OpenAPI and for readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from slurm_gpuaas.api.models import Problem
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.portal.visit import Anybody, Machine, Needs

Gates = Needs | Anybody | Machine
METHODS: Final = ("get", "post", "put", "patch", "delete")
SCHEMAS: Final = "#/components/schemas/"


def routes_of(app: FastAPI) -> Sequence[APIRoute]:
    """Every route of the portal, in the order in which they are tried."""
    routes: Sequence[APIRoute] = app.state.routes
    return routes


def gate_of(route: APIRoute) -> Gates:
    """Whom a route is for.

    Raises:
        InvalidInput: it does not say, or says it twice.
    """
    gates = list(_gates(route.dependant))
    if len(gates) != 1:
        raise InvalidInput(
            f"Route {route.path} has {len(gates)} of Needs, Anybody, Machine.",
            way_out="Depend on exactly one of them.",
        )
    return gates[0]


def _gates(dependant: Dependant) -> Iterator[Gates]:
    if isinstance(dependant.call, Needs | Anybody | Machine):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from _gates(inner)


def describe(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of all routes of the API, with what each may be refused with and which action it needs. Made once:
    an app's routes do not change."""
    if getattr(app.state, "described", None) is None:
        app.state.described = _described(app)
    described: dict[str, Any] = app.state.described
    return described


def _described(app: FastAPI) -> dict[str, Any]:
    schema = app.openapi()
    schema["components"].setdefault("securitySchemes", {})["token"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of the page *API tokens*; the names beside it are the actions it must be made for.",
    }
    problem = Problem.model_json_schema(ref_template=f"{SCHEMAS}{{model}}")
    schema["components"]["schemas"].update({**problem.pop("$defs", {}), "Problem": problem})
    for route in routes_of(app):
        if not route.include_in_schema:
            continue
        gate = gate_of(route)
        for method in route.methods or ():
            operation = schema["paths"][route.path_format][method.lower()]
            operation["x-gpuaas-gate"] = gate.declares
            if isinstance(gate, Needs):
                operation["security"] = [{"token": [gate.declares]}]
            for status, described in operation["responses"].items():
                if status == "429":
                    described["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return schema


# -- For readers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A type in words; `schema` names the schema it is made of, where it is one of those described."""

    text: str
    schema: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """`place`: path, query or header of a parameter; empty in a schema."""

    name: str
    kind: Kind
    required: bool
    about: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """`gate`: the action a token must be made for, or why none is needed."""

    method: str
    path: str
    about: str
    gate: str
    parameters: tuple[Field, ...]
    body: Kind | None
    answer: Kind | None
    statuses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    name: str
    about: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """`groups`: operations by their tag."""

    groups: Mapping[str, tuple[Operation, ...]]
    schemas: tuple[Schema, ...]


def reference(described: Mapping[str, Any]) -> Reference:
    """An OpenAPI document of ours for people to read."""
    groups: dict[str, list[Operation]] = {}
    for path, item in described["paths"].items():
        for method in METHODS:
            if method in item:
                group = (item[method].get("tags") or ["other"])[0]
                groups.setdefault(group, []).append(_operation(method, path, item[method]))
    schemas = described["components"].get("schemas", {})
    return Reference(
        groups={name: tuple(found) for name, found in groups.items()},
        schemas=tuple(Schema(name, _about(one), _fields(one)) for name, one in sorted(schemas.items())),
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Operation:
    done = {status: one for status, one in operation["responses"].items() if status.startswith("2")}
    return Operation(
        method=method.upper(),
        path=path,
        about=_about(operation) or str(operation.get("summary", "")),
        gate=str(operation.get("x-gpuaas-gate", "")),
        parameters=tuple(
            Field(one["name"], _kind(one["schema"]), one.get("required", False), _about(one), one["in"])
            for one in operation.get("parameters", ())
        ),
        body=_content(operation.get("requestBody")),
        answer=next((kind for one in done.values() if (kind := _content(one)) is not None), None),
        statuses=tuple(operation["responses"]),
    )


def _content(described: Mapping[str, Any] | None) -> Kind | None:
    found = next(iter((described or {}).get("content", {}).values()), None)
    return None if found is None or not found.get("schema") else _kind(found["schema"])


def _fields(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    required = set(schema.get("required", ()))
    return tuple(
        Field(name, _kind(one), name in required, _about(one)) for name, one in schema.get("properties", {}).items()
    )


def _about(described: Mapping[str, Any]) -> str:
    return " ".join(str(described.get("description", "")).split())


def _kind(schema: Mapping[str, Any]) -> Kind:
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(SCHEMAS)
        return Kind(name, name)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            kinds = [_kind(one) for one in schema[union]]
            named = [kind.schema for kind in kinds if kind.schema]
            return Kind(" | ".join(kind.text for kind in kinds), named[0] if len(named) == 1 else "")
    if "enum" in schema:
        return Kind(" | ".join(f'"{one}"' for one in schema["enum"]))
    if "const" in schema:
        return Kind(f'"{schema["const"]}"')
    if schema.get("type") == "array":
        inner = _kind(schema.get("items", {}))
        return Kind(f"[{inner.text}]", inner.schema)
    return Kind(str(schema.get("format") or schema.get("type") or "any"))
