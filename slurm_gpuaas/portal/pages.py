"""Pages: templates in two languages, with the components that all of them are made of (`components.html`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import BytecodeCache, ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup, escape

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.told import Value
from slurm_gpuaas.portal.assets import Assets
from slurm_gpuaas.portal.words import Dictionary, Words

MOST_KEPT: Final = 2_048
"""Pieces of pages of one kind and language."""
TEMPLATES: Final = Path(__file__).with_name("templates")


class _Compiled(BytecodeCache):
    """Templates compiled once, not once for each language. Jinja compiles again what has another text."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if code := self._code.get(bucket.key):
            bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._code[bucket.key] = bucket.bytecode_to_string()


_COMPILED: Final = _Compiled()


class Pages:
    """Args:
    folders: of templates, the portal's own first.
    shared: values that every template sees.
    """

    def __init__(
        self, dictionary: Dictionary, assets: Assets, folders: Iterable[Path], shared: Mapping[str, Any]
    ) -> None:
        loader = ChoiceLoader([FileSystemLoader(folder) for folder in folders])
        self._environments = {
            language: _environment(dictionary[language], assets, loader, shared) for language in Language
        }

    def text(self, language: Language, template: str, **values: Any) -> str:
        return self._environments[language].get_template(template).render(**values)

    def answer(self, language: Language, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(self.text(language, template, **values), status_code=status)


def _environment(words: Words, assets: Assets, loader: ChoiceLoader, shared: Mapping[str, Any]) -> Environment:
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        bytecode_cache=_COMPILED,
    )
    environment.globals.update(shared)
    environment.globals.update(
        lang=str(words.language),
        t=_translator(words),
        static=assets.url,
        value=words.value,
        won=words.won,
        gpus=words.gpus,
        gpu_hours=words.gpu_hours,
        ago=words.ago,
        moment=lru_cache(MOST_KEPT)(lambda at: _time(at.isoformat(), words.moment(at))),
        day=lru_cache(MOST_KEPT)(lambda on: _time(on.isoformat(), words.day(on))),
        moment_text=lambda iso: words.moment(datetime.fromisoformat(iso)),
        ago_text=lambda iso, now: words.ago(datetime.fromisoformat(iso), now),
        options=lambda members: [(str(member), words.value(member)) for member in members],
        tell=words.tell,
        new_command=lambda: str(uuid4()),
        kept=_kept,
    )
    return environment


def _translator(words: Words) -> Any:
    def t(template: str, /, **values: Value | Markup) -> Markup:
        """A text with its values. What is no `Markup` is escaped, so a text may hold tags only as values."""
        if not values:
            return alone(template)
        said = []
        for literal, name, _ in words.parts(template):
            said.append(escape(literal))
            if name:
                given = values[name]
                said.append(given if isinstance(given, Markup) else escape(words.value(given)))
        return Markup("".join(said))  # noqa: S704  # each piece of text and each value is escaped, or Markup already

    @lru_cache(MOST_KEPT)
    def alone(template: str) -> Markup:
        return escape(words.say(template))

    return t


def _kept(macro: Callable[..., Markup]) -> Callable[..., Markup]:
    """A macro whose text follows from its arguments alone; for those asked for most, it is made once. What is `Markup`
    and what is text are told apart: they are escaped differently."""
    return lru_cache(MOST_KEPT, typed=True)(macro)


def _time(machine: str, shown: str) -> Markup:
    return Markup(f'<time datetime="{escape(machine)}">{escape(shown)}</time>')  # noqa: S704  # both are escaped


def is_htmx(request: Request) -> bool:
    """Only a part of the page is asked for."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-history-restore-request") != "true"
