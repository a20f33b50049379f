"""A person at a browser, who clicks what they read; each page that they come to is looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect

from tests.browser.test_pages import DESKTOP, PHONE, axe_says, fits, page_of
from tests.pools import PASSWORD

SHOWN: Final = {"width": 1440, "height": 900}
SHOWN_PHONE: Final = {"width": 390, "height": 844}
_pictures: Final = count(1)
_seen: Final[set[tuple[str, frozenset[str]]]] = set()


class Walker:
    """Signs in at the portal's address, and goes on by names of links, buttons and fields alone.

    Each page passed must have nothing serious for axe, and fit a desktop's and a phone's screen; one that is made as
    one before is not looked at again. Where the environment variable SCREENSHOTS names a folder, pictures of each are
    saved there: `NN-PERSON-PATH.png`, and `-phone` and `-dark` beside.
    """

    def __init__(self, page: Page, login: str, *, phone: bool) -> None:
        self.page = page
        self.main = page.locator("main")
        self._login = login
        self._phone = phone

    def come_in(self, url: str) -> None:
        self.page.goto(url)
        self._look()
        self.fill("아이디", self._login)
        self.fill("비밀번호", PASSWORD)
        self.press("로그인")

    def menu(self, name: str) -> None:
        """A page of the menu."""
        if self._phone:
            self.page.locator("summary", has_text="메뉴").tap()
        self._go(self.page.get_by_role("navigation", name="주 메뉴").get_by_role("link", name=name, exact=True))

    def speak(self, language: str) -> None:
        self._go(self.page.get_by_role("link", name=language, exact=True))

    def follow(self, name: str, *, within: str = "") -> None:
        """A link; several lead to the same page. `within`: the heading of the part that it is in."""
        self._go(self.part(within).get_by_role("link", name=name).first)

    def press(self, name: str, *, within: str = "") -> None:
        """A button that sends a form."""
        self._go(self.part(within).get_by_role("button", name=name, exact=True))

    def fill(self, label: str, text: str, *, within: str = "") -> None:
        self.field(label, within=within).fill(text)

    def choose(self, label: str, option: str) -> None:
        self.field(label).select_option(label=option)

    def tick(self, label: str) -> None:
        self.field(label).check()

    def field(self, label: str, *, within: str = "") -> Locator:
        """By the beginning of its label."""
        labelled = self.part(within).get_by_label(re.compile(f"^{re.escape(label)}"))
        return labelled.and_(self.page.locator("input, select, textarea")).first

    def take_home(self, link: str) -> bytes:
        """The file behind a link."""
        with self.page.expect_download() as downloading:
            self.main.get_by_role("link", name=link).first.click()
        return Path(downloading.value.path()).read_bytes()

    def reads(self, *texts: str) -> None:
        """They stand on the page, now or in a moment."""
        for text in texts:
            expect(self.main).to_contain_text(text)

    def part(self, heading: str) -> Locator:
        return self.main.get_by_role("region", name=re.compile(f"^{re.escape(heading)}")) if heading else self.main

    def _go(self, way: Locator) -> None:
        with self.page.expect_event("load", timeout=60_000):
            try:
                way.click()
            except TimeoutError:
                if self._draws():
                    raise
                # Seen once in thousands of clicks on a busy machine: Chromium draws no frame any more, and a click
                # waits for two. The page is as good as it was.
                way.evaluate("element => element.click()")
        self._look()

    def _draws(self) -> bool:
        """Whether the browser still draws frames of the page: one within five seconds."""
        return bool(
            self.page.evaluate(
                """Promise.race([new Promise(done => requestAnimationFrame(() => done(true))),
                new Promise(done => setTimeout(() => done(false), 5000))])"""
            )
        )

    def _look(self) -> None:
        page = self.page
        if page.locator("#gmap").count():
            page.wait_for_selector("#gmap[data-sequence]")
        self._save_pictures()
        if self._seen_before():
            return
        assert not (said := axe_says(page)), (page.url, said)
        was = page.viewport_size
        assert was is not None
        for size in (DESKTOP, PHONE):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            assert fits(page), f"{page.url} is wider than a screen of {size['width']}"
        page.set_viewport_size(was)

    def _seen_before(self) -> bool:
        """By anybody: the same page, made of the same kinds of elements."""
        made_of = self.page.evaluate(
            "[...new Set([...document.querySelectorAll('*')].map(e => e.tagName + '.' + e.getAttribute('class')))]"
        )
        page = (re.sub(r"[?#].*|[0-9]+", "", self.page.url), frozenset(made_of))
        seen = page in _seen
        _seen.add(page)
        return seen

    def _save_pictures(self) -> None:
        folder = os.environ.get("SCREENSHOTS")
        if not folder:
            return
        page, was = self.page, self.page.viewport_size
        path = re.sub(r"https?://[^/]*/|[?#].*", "", page.url).strip("/").replace("/", "-") or "home"
        name = f"{next(_pictures):02}-{self._login}-{path[:40]}"
        drawn = page.locator("#gmap").count() > 0  # a canvas that is resized for the picture would be blank
        for suffix, size, scheme in (
            ("-phone", SHOWN_PHONE, "light"),
            ("-dark", SHOWN, "dark"),
            ("", SHOWN, "light"),
        ):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            page.screenshot(path=Path(folder, f"{name}{suffix}.png"), full_page=not drawn)
        page.set_viewport_size(was)  # type: ignore[arg-type]


@contextmanager
def walking(chromium: Browser, url: str, login: str, *, phone: bool = False) -> Iterator[Walker]:
    """Somebody who has just signed in, with a browser of their own. What it writes into its console is a fault."""
    size = PHONE if phone else DESKTOP
    with page_of(chromium, locale="ko-KR", viewport=size, has_touch=phone, reduced_motion="reduce") as page:
        walker = Walker(page, login, phone=phone)
        walker.come_in(url)
        yield walker
