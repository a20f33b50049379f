"""What a validation found, in our words: one place and one sentence for each fault."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

Place = tuple[int | str, ...]


def faults_of(error: ValidationError) -> Iterator[tuple[Place, str]]:
    """Where each fault is, and what it is, without a full stop at the end.

    A list that is too short only because one of its items has a fault is left out.
    """
    faults: list[dict[str, Any]] = [{**fault} for fault in error.errors(include_url=False)]
    for fault in faults:
        place: Place = fault["loc"]
        spurious = fault["type"] == "too_short" and any(
            len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in faults
        )
        if fault["type"] == "union_tag_not_found":
            yield (*place, fault["ctx"]["discriminator"].strip("'")), "is missing"
        elif not spurious:
            yield place, _sentence(fault)


def _sentence(fault: dict[str, Any]) -> str:
    context = fault.get("ctx", {})
    match fault["type"]:
        case "value_error":
            said = str(context["error"])
        case "missing":
            said = "is missing"
        case "extra_forbidden":
            said = "there is no such field"
        case "union_tag_invalid":
            said = f"there is no {context['tag']!r:.60}; use one of {context['expected_tags'].replace(chr(39), '')}"
        case "model_type" | "model_attributes_type" | "dict_type" | "dict_attributes_type":
            said = "is not a mapping of fields"
        case "tuple_type" | "list_type":
            said = "is not a list"
        case _:
            said = re.sub(r"^\w+ should", "should", fault["msg"])
    return said.rstrip(".")
