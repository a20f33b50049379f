"""Reads policy documents from YAML files; every fault comes with file, document, line and field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.faults import faults_of
from slurm_gpuaas.domain.policy import DOCUMENT, PolicyDocument

MOST_FAULTS = 20
Model = TypeVar("Model", bound=BaseModel)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C's parser is ten times as quick
    """Safe; a key given twice is an error instead of the last one winning. Days stay text: their field checks them."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def read_documents(files: Iterable[IO[str]]) -> list[PolicyDocument]:
    """All documents of the files, in order; empty documents are skipped.

    Raises:
        InvalidInput: names every fault, the first 20 of them.
    """
    documents: list[PolicyDocument] = []
    faults: list[str] = []
    for file in files:
        try:
            _read(file, documents, faults)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            faults.append(f"{file.name}{line}: {getattr(error, 'problem', None) or error}")
        except UnicodeDecodeError:
            faults.append(f"{file.name}: not a text in UTF-8")
    if faults:
        more = [f"... and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        raise InvalidInput(
            "\n  ".join(["The documents have faults:", *faults[:MOST_FAULTS], *more]),
            way_out="\nCorrect them; docs/guides/policy.md shows every kind of document.",
        )
    return documents


def read_one(file: IO[str], model: type[Model]) -> Model:
    """The one document of a YAML or JSON file.

    Raises:
        InvalidInput: names the first faults, each with its line.
    """
    loader = None
    try:
        loader = _Loader(file.read())
        node = loader.get_single_node()
        value = loader.construct_document(node) if node else None
        return model.model_validate(value)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        faults = [f"{file.name}{line}: {getattr(error, 'problem', None) or error}"]
    except UnicodeDecodeError:
        faults = [f"{file.name}: not a text in UTF-8"]
    except ValidationError as error:
        faults = [
            f"{file.name}: line {_line_of(node, place) if node else 1}, "
            f"{'.'.join(str(part) for part in place) or 'the document'}: {fault}"
            for place, fault in faults_of(error)
        ]
    except (TypeError, ValueError, RecursionError) as error:
        faults = [f"{file.name}: a value cannot be read: {error}"]
    finally:
        if loader:
            loader.dispose()
    more = [f"... and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    raise InvalidInput("\n  ".join(["The document has faults:", *faults[:MOST_FAULTS], *more]), way_out="\nCorrect it.")


def _read(file: IO[str], documents: list[PolicyDocument], faults: list[str]) -> None:
    loader = _Loader(file.read())
    try:
        number = 0
        while loader.check_node():
            number += 1
            node = loader.get_node()
            try:
                value = loader.construct_document(node)
            except (TypeError, ValueError) as error:  # e.g. an integer of no digits, `0x_`
                line = node.start_mark.line + 1
                faults.append(f"{file.name}: document {number}, line {line}: a value cannot be read: {error}")
                continue
            if value is None:
                continue
            try:
                documents.append(DOCUMENT.validate_python(value))
            except ValidationError as error:
                for place, fault in faults_of(error):
                    # The first part of the place is the kind of the document, which the union chose by.
                    kind, *within = place or (None,)
                    where = ".".join(str(part) for part in within) or kind or "kind"
                    line = _line_of(node, within)
                    faults.append(f"{file.name}: document {number}, line {line}, {where}: {fault}")
    finally:
        loader.dispose()


def _line_of(node: yaml.Node, place: Sequence[str | int]) -> int:
    """The line (from 1) of the innermost part of `place` that is in the file."""
    line = node.start_mark.line
    for part in place:
        child: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == part]
            if pairs:
                line, child = pairs[0][0].start_mark.line, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
            line = child.start_mark.line
        if child is None:
            break
        node = child
    return int(line) + 1
