"""Every page in a real browser: as each role, in both languages and colour schemes, at desktop and phone width, with
the keyboard alone and without JavaScript; axe finds nothing serious on any."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from slurm_gpuaas.domain.people import PortalRole
from tests.browser.site import BrowserSite
from tests.pools import NAMES, PASSWORD, login_of

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
SERIOUS = {"serious", "critical"}


@contextmanager
def page_of(chromium: Browser, **settings: object) -> Iterator[Page]:
    """A browser of one's own. What a page writes into its console is a fault: a blocked script, a missing file."""
    context = chromium.new_context(ignore_https_errors=True, **settings)  # type: ignore[arg-type]
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    # what a test asks for on purpose: pages that are not there, forms that are wrong
    assert not [fault for fault in faults if "responded with a status of 4" not in fault]


def sign_in(page: Page, site: BrowserSite, role: PortalRole) -> None:
    page.goto(f"{site.url}/sign-in")
    page.locator("#f-login").fill(login_of(role))
    page.locator("#f-password").fill(PASSWORD)
    page.locator("form[action='/sign-in'] button").click()
    page.wait_for_url(f"{site.url}/")


def paths_of(page: Page) -> list[str]:
    return [path for link in page.locator(".rail nav a").all() if (path := link.get_attribute("href"))]


def axe_says(page: Page) -> list[str]:
    found = Axe().run(page)
    return [
        f"{fault['id']}: {node['html'][:120]} {node.get('failureSummary', '')[:200]}"
        for fault in found.response["violations"]
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@pytest.mark.parametrize("role", PortalRole)
def test_each_role_walks_all_its_pages(chromium: Browser, site: BrowserSite, role: PortalRole) -> None:
    with page_of(chromium, locale="ko-KR", viewport=DESKTOP) as page:
        sign_in(page, site, role)
        expect(page.locator("h1")).to_contain_text(NAMES[role])
        expect(page.locator("html")).to_have_attribute("lang", "ko")
        paths = paths_of(page)
        assert ("/audit" in paths) is (role in {PortalRole.GOVERNMENT, PortalRole.AUDITOR})
        assert ("/people" in paths) is (role in {PortalRole.GOVERNMENT, PortalRole.AUDITOR, PortalRole.TENANT_ADMIN})
        for path in paths:
            page.locator(f".rail nav a[href='{path}']").click()
            expect(page).to_have_url(f"{site.url}{path}")
            expect(page.locator(".rail nav a[aria-current=page]")).to_have_attribute("href", path)
            expect(page.locator("h1")).to_be_visible()
        page.get_by_role("button", name="로그아웃").click()
        expect(page.get_by_role("status")).to_have_text("로그아웃했습니다.")


@pytest.mark.parametrize(
    ("language", "scheme", "viewport"),
    [  # every two of them together
        pytest.param("ko-KR", "light", DESKTOP, id="ko-light-desktop"),
        pytest.param("ko-KR", "dark", PHONE, id="ko-dark-phone"),
        pytest.param("en-US", "dark", DESKTOP, id="en-dark-desktop"),
        pytest.param("en-US", "light", PHONE, id="en-light-phone"),
    ],
)
def test_axe_finds_nothing_serious(
    chromium: Browser, site: BrowserSite, language: str, scheme: str, viewport: dict[str, int]
) -> None:
    with page_of(chromium, locale=language, color_scheme=scheme, viewport=viewport) as page:
        faults: dict[str, list[str]] = {}

        def look(name: str) -> None:
            if said := axe_says(page):
                faults[name] = said
            assert fits(page), f"{name} is wider than the screen"

        page.goto(f"{site.url}/sign-in")
        look("/sign-in")
        page.locator("form[action='/sign-in']").evaluate("form => { form.noValidate = true; form.submit(); }")
        expect(page.locator("#alert")).to_be_visible()
        look("/sign-in, refused")
        sign_in(page, site, PortalRole.GOVERNMENT)
        for path in (*paths_of(page), f"/people/{site.people[PortalRole.RESEARCHER].id}", "/nowhere"):
            page.goto(site.url + path)
            look(path)
        page.goto(f"{site.url}/people")
        page.locator("form[action='/people/invite']").evaluate("form => { form.noValidate = true; form.submit(); }")
        expect(page.locator("[aria-invalid=true]").first).to_be_visible()
        look("/people/invite, wrong")
        assert not faults


def test_on_a_phone_the_menu_opens_and_tables_stack(chromium: Browser, site: BrowserSite) -> None:
    with page_of(chromium, locale="en-US", viewport=PHONE, has_touch=True) as page:
        sign_in(page, site, PortalRole.GOVERNMENT)
        expect(page.locator(".rail nav")).to_be_hidden()
        page.locator("summary", has_text="Menu").tap()
        expect(page.locator(".rail nav")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".rail nav")).to_be_hidden()
        page.locator("summary", has_text="Menu").tap()
        page.locator(".rail nav").get_by_role("link", name="People").tap()
        expect(page).to_have_url(f"{site.url}/people")
        row = page.locator("tbody tr").first
        cells = [box["x"] for cell in row.locator("th, td").all() if (box := cell.bounding_box())]
        assert len(set(cells)) == 1  # one under the other


def test_the_keyboard_alone_is_enough(chromium: Browser, site: BrowserSite) -> None:
    with page_of(chromium, locale="en-US", viewport=DESKTOP) as page:
        page.goto(f"{site.url}/sign-in")

        def tab_to(selector: str) -> None:
            for _ in range(60):
                page.keyboard.press("Tab")
                if page.evaluate("s => document.activeElement.matches(s)", selector):
                    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                    assert outline != "none", f"focus of {selector} cannot be seen"
                    return
            raise AssertionError(f"{selector} is not reached with Tab")

        tab_to("#f-login")
        page.keyboard.type(login_of(PortalRole.RESEARCHER))
        tab_to("#f-password")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{site.url}/")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.goto(f"{site.url}/tokens")
        tab_to("#f-name")
        page.keyboard.type("by keyboard")
        tab_to("input[name=scopes]")
        page.keyboard.press("Space")
        tab_to("form[action='/tokens'] button")
        page.keyboard.press("Enter")
        expect(page.locator("#made")).to_contain_text("gpuaas_")


def test_the_language_is_changed_on_the_page(chromium: Browser, site: BrowserSite) -> None:
    with page_of(chromium, locale="ko-KR", viewport=DESKTOP) as page:
        sign_in(page, site, PortalRole.AUDITOR)
        page.goto(f"{site.url}/audit")
        page.get_by_role("link", name="English").click()
        expect(page).to_have_url(f"{site.url}/audit")
        expect(page.locator("h1")).to_have_text("Audit")
        expect(page.locator("html")).to_have_attribute("lang", "en")
        page.get_by_role("link", name="한국어").click()
        expect(page.locator("h1")).to_have_text("감사")


def test_the_audit_trail_is_filtered_in_place(chromium: Browser, site: BrowserSite) -> None:
    with page_of(chromium, locale="en-US", viewport=DESKTOP) as page:
        sign_in(page, site, PortalRole.AUDITOR)
        page.goto(f"{site.url}/audit")
        page.evaluate("window.kept = true")
        page.locator("#f-action").fill("people")
        page.get_by_role("button", name="Show").click()
        expect(page).to_have_url(re.compile("action=people"))
        expect(page.locator("tbody tr").first).to_contain_text("people.")
        assert page.evaluate("window.kept")  # the page was not loaded anew


def test_without_javascript_everything_works(chromium: Browser, site: BrowserSite) -> None:
    with page_of(chromium, locale="en-US", viewport=PHONE, java_script_enabled=False) as page:
        sign_in(page, site, PortalRole.GOVERNMENT)
        page.locator("summary", has_text="Menu").click()
        page.locator(".rail nav").get_by_role("link", name="Audit").click()
        page.locator("#f-action").fill("session")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("tbody tr").first).to_contain_text("session.open")
        page.goto(f"{site.url}/people")
        page.locator("#f-name").fill("새 사람")
        page.locator("#f-email").fill("new@example.org")
        page.locator("#f-organisation").fill("snu")
        page.get_by_role("button", name="Invite", exact=True).click()
        link = page.locator("#made").inner_text()
        page.locator("summary", has_text="Menu").click()
        page.get_by_role("button", name="Sign out").click()
        page.goto(link)
        page.locator("#f-login").fill("newcomer")
        page.locator("#f-password").fill(PASSWORD)
        page.locator("#f-again").fill(PASSWORD)
        page.get_by_role("button", name="Begin").click()
        expect(page.locator("h1")).to_contain_text("새 사람")
