"""Pictures of the portal's pages, as a person sees them in a real Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.testbed.story import StepFailed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

DESK: Final = (1360, 900)
PHONE: Final = (390, 844)
Snap = Callable[[str], None]
"""Takes a picture of the page as it is, under a name."""
LANGUAGES: Final = {"ko": "ko-KR", "en": "en-GB"}
PATIENCE_MS: Final = 30_000


class Pictures:
    """Args:
    folder: where they go, `NN-name.png` in the order in which they were taken.
    """

    def __init__(self, folder: Path, browser: Browser, *, url: str, password: str) -> None:
        self.folder = folder
        self.taken: list[Path] = []
        self._browser = browser
        self._url = url
        self._password = password
        self._contexts: dict[tuple[str, str, bool], BrowserContext] = {}

    def take(self, name: str, login: str, path: str, *, language: str = "ko", phone: bool = False) -> None:
        """A picture of a whole page; raises as `walk`."""
        self.walk(login, path, lambda _page, snap: snap(name), language=language, phone=phone)

    def walk(
        self,
        login: str,
        path: str,
        steps: Callable[[Page, Snap], None],
        *,
        language: str = "ko",
        phone: bool = False,
    ) -> None:
        """What a person does from a page on.

        Raises:
            StepFailed: the portal answers with an error, or the browser's console has one.
        """
        page = self._page(login, language, phone)
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)

        def snap(name: str) -> None:
            page.wait_for_load_state("load")
            page.evaluate("window.scrollTo(0, 0)")  # what sticks to the window would be drawn where it is now
            drawn = page.locator("#gmap").count() > 0
            if drawn:
                page.wait_for_selector("#gmap[data-sequence]")
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            file = self.folder / f"{len(self.taken) + 1:02}-{name}.png"
            page.screenshot(path=file, full_page=not drawn)  # a canvas that is resized for it would be blank
            self.taken.append(file)

        try:
            answer = page.goto(f"{self._url}{path}")
            if page.url.startswith(f"{self._url}/sign-in"):
                self._sign_in(page, login)
                answer = page.goto(f"{self._url}{path}")
            if answer is None or not answer.ok:
                raise StepFailed(f"{login} at {path}: HTTP {answer.status if answer else '-'}.")
            steps(page, snap)
            if faults:
                raise StepFailed(f"{login} at {path}: the browser's console says {faults[0]}")
        finally:
            page.close()

    def _page(self, login: str, language: str, phone: bool) -> Page:
        key = (login, language, phone)
        if key not in self._contexts:
            width, height = PHONE if phone else DESK
            self._contexts[key] = self._browser.new_context(
                viewport={"width": width, "height": height},
                locale=LANGUAGES[language],
                timezone_id="Asia/Seoul",
                ignore_https_errors=True,
            )
            self._contexts[key].set_default_timeout(PATIENCE_MS)
        return self._contexts[key].new_page()

    def _sign_in(self, page: Page, login: str) -> None:
        page.fill("input[name=login]", login)
        page.fill("input[name=password]", self._password)
        page.click("main button[type=submit], main form button.main")
        page.wait_for_url(lambda url: "/sign-in" not in url)


@contextmanager
def chromium(folder: Path, *, url: str, password: str) -> Iterator[Pictures]:
    """A browser until the block ends; `folder` holds nothing else afterwards.

    Raises:
        NotFound: Playwright or Chromium is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise _missing("Playwright") from None
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise _missing("Chromium")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9]-*.png"):
        old.unlink()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield Pictures(folder, browser, url=url, password=password)
        finally:
            browser.close()


def _missing(what: str) -> NotFound:
    return NotFound(f"{what} is missing on this machine.", way_out="Run `make dev browser`, or take no pictures.")
