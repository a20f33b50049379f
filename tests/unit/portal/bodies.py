"""Bodies that routes take, made from what they say: the least that is right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fastapi.routing import APIRoute

from slurm_gpuaas.portal.description import SCHEMAS

GIVEN: Final[Mapping[str, Any]] = {
    "POST /api/v1/applications/{number}/reviews": {"points": {"impact": 70, "plan": 60}},
    "POST /api/v1/awards": {"programme": "national", "refused": [{"application": "a2026-00001", "why": "Too late."}]},
    "PUT /api/v1/identity": {"login": "newlogin", "ssh_keys": []},
}
"""By method and path, where a schema alone does not say what is taken."""

FIELDS: Final[Mapping[str, str]] = {
    "role": "researcher",
    "organisation": "snu",
    "provider": "",
    "members": "p-0123456789abcdef",
    "gpus": "8",
    "sure": "yes",
    "points": "80",
}
"""Of forms, where `FIELD` would be wrong."""
FIELD: Final = "2027-03-01"
"""A day, and a text that any field of text takes."""


def form(route: APIRoute) -> dict[str, str]:
    return {one.alias: FIELDS.get(one.alias, FIELD) for one in route.dependant.body_params}


def filled(described: Mapping[str, Any], path: str, method: str) -> bytes:
    """Empty when the operation takes no body."""
    if (given := GIVEN.get(f"{method} {path}")) is not None:
        return json.dumps(given).encode()
    content = described["paths"][path][method.lower()].get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return b""
    return json.dumps(_value(described, content["application/json"]["schema"])).encode()


def _value(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _value(described, described["components"]["schemas"][schema["$ref"].removeprefix(SCHEMAS)])
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return _value(described, schema[union][0])
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _value(described, properties[name]) for name in schema.get("required", ())}
        case "array":
            return [_value(described, schema["items"]) for _ in range(schema.get("minItems", 0))]
        case "integer":
            return max(8, schema.get("minimum", 8))
        case "number":
            return schema.get("minimum", 1.0)
        case "boolean":
            return True
        case "string":
            if schema.get("format") == "date":
                return FIELD
            return "x" * max(1, schema.get("minLength", 1))
    return None
