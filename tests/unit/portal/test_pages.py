"""Pieces of pages that are kept say what they would say if they were made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from markupsafe import Markup

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.portal.assets import Assets
from slurm_gpuaas.portal.pages import TEMPLATES, Pages
from slurm_gpuaas.portal.words import Dictionary

PAGE = (
    '{% import "components.html" as ui %}{{ ui.badge("good", shown) }}'
    '{{ t("{count} of {needed}", count=shown, needed=3) }}'
)


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    (tmp_path / "page.html").write_text(PAGE)
    return Pages(Dictionary(), Assets([]), [TEMPLATES, tmp_path], {})


def test_text_is_escaped_though_the_same_markup_was_shown_before(pages: Pages) -> None:
    tag = "<b>bold</b>"
    as_markup = pages.text(Language.ENGLISH, "page.html", shown=Markup(tag))
    as_text = pages.text(Language.ENGLISH, "page.html", shown=tag)
    assert as_markup.count(tag) == 2
    assert tag not in as_text
    assert as_text.count("&lt;b&gt;bold&lt;/b&gt;") == 2
    assert pages.text(Language.ENGLISH, "page.html", shown=Markup(tag)) == as_markup


def test_a_value_is_put_in_once_and_is_no_text_to_be_put_into(pages: Pages) -> None:
    assert "{needed} of 3" in pages.text(Language.ENGLISH, "page.html", shown="{needed}")
