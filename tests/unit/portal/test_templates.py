"""What a template names is there, on branches that no other test comes to as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from jinja2 import Environment, meta, nodes

from slurm_gpuaas import portal
from slurm_gpuaas.portal.pages import TEMPLATES

GLOBALS: Final = {
    *("lang", "t", "static", "value", "won", "gpus", "gpu_hours", "ago", "moment", "day", "moment_text", "ago_text"),
    *("options", "tell", "new_command", "kept", "service", "service_ko", "insecure"),
}
"""What `pages` and `app` give to every template."""
NAMES: Final = sorted(path.name for path in TEMPLATES.glob("*.html"))
FRAME: Final = {"visit", "words", "csrf", "nav", "current", "here", "now", "notice", "title_of"}
"""What `Portal.page` gives to every page."""


@cache
def _tree(name: str) -> nodes.Template:
    return Environment(autoescape=True).parse((TEMPLATES / name).read_text())


def _of_others(name: str, kinds: tuple[type[nodes.Node], ...]) -> Iterator[str]:
    for one in _tree(name).find_all(kinds):
        where = one.template  # type: ignore[attr-defined]
        assert isinstance(where, nodes.Const), f"{name}: a template is chosen while it is drawn"
        yield where.value


@cache
def _made(name: str) -> frozenset[str]:
    """What the template itself gives names to, wherever in it."""
    tree = _tree(name)
    made = {one.target for one in tree.find_all(nodes.Import)} | {one.name for one in tree.find_all(nodes.Macro)}
    return frozenset(made.union(one.name for one in tree.find_all(nodes.Name) if one.ctx == "store"))


@cache
def _named(name: str) -> frozenset[str]:
    return frozenset(meta.find_undeclared_variables(_tree(name)))


def _family(name: str) -> set[str]:
    """The template, its frame and what it includes: they draw one page, and see each other's names."""
    return {name}.union(*map(_family, _of_others(name, (nodes.Extends, nodes.Include))))


def _needs(name: str) -> set[str]:
    """What somebody must give for it."""
    family = _family(name)
    return {named for one in family for named in _named(one)}.difference(*map(_made, family))


def _pages() -> Iterator[tuple[str, str, set[str]]]:
    """Calls that draw a template: which, where, and the values they name."""
    for file in sorted(Path(portal.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or any(word.arg is None for word in call.keywords):
                continue
            for given in call.args:
                if isinstance(given, ast.Constant) and given.value in NAMES:
                    named = {str(word.arg) for word in call.keywords}
                    yield str(given.value), f"{file.name}:{call.lineno}", named


IMPORTED: Final = sorted({one for name in NAMES for one in _of_others(name, (nodes.Import, nodes.FromImport))})


@pytest.mark.parametrize("name", IMPORTED)
def test_an_imported_template_needs_nothing_of_who_imports_it(name: str) -> None:
    assert _needs(name) <= GLOBALS


@pytest.mark.parametrize(("template", "where", "given"), list(_pages()))
def test_who_draws_a_page_gives_all_that_it_names(template: str, where: str, given: set[str]) -> None:
    assert _needs(template) - GLOBALS - FRAME - given == set(), where
