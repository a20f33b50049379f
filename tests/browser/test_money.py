"""Rates, statements and reports in a real browser: two people put a rate in force, a tenant admin takes the month's
statement home, and axe finds nothing serious on any of the pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import free_port
from tests.browser.site import certificate, config_of, serving
from tests.browser.test_pages import DESKTOP, PHONE, axe_says, fits, page_of
from tests.money import MoneyPortal
from tests.pools import PASSWORD

DECEMBER_OF_SNU = "2026-12-naver-0002"
ALL_PAGES = {
    "government": ("/overview", "/reports", "/reports/programmes/paid", "/rates"),
    "provider-billing": ("/ledger", "/statements", "/usage"),
    "tenant-admin": (f"/statements/{DECEMBER_OF_SNU}",),
}
WIDE_PAGES = {"government": ("/overview",), "provider-billing": ("/ledger",), "tenant-admin": ("/usage",)}


@dataclass(frozen=True)
class MoneySite:
    url: str
    portal: MoneyPortal


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MoneySite]:
    folder: Path = tmp_path_factory.mktemp("money")
    portal = MoneyPortal(folder)
    config = config_of(free_port(), certificate(folder), limits={"sign_in": 10_000, "address": 100_000})
    with serving(replace(portal.wiring, config=config)):
        yield MoneySite(config.public_url, portal)


def sign_in(page: Page, site: MoneySite, login: str) -> None:
    page.goto(f"{site.url}/sign-in")
    page.locator("#f-login").fill(login)
    page.locator("#f-password").fill(PASSWORD)
    page.locator("form[action='/sign-in'] button").click()
    page.wait_for_url(f"{site.url}/")


def test_one_person_proposes_a_rate_and_another_one_puts_it_in_force(chromium: Browser, site: MoneySite) -> None:
    with page_of(chromium, locale="ko-KR", viewport=DESKTOP) as page:
        sign_in(page, site, "provider-billing")
        page.goto(f"{site.url}/rates")
        page.locator("#f-model").select_option("h200")
        page.locator("#f-won_per_gpu_hour").fill("4,200")
        page.locator("#f-starts").fill("2027-03-01")
        page.locator("#f-name").fill("h200-2027")
        page.locator("#f-basis").fill("고시 2027-3")
        page.locator("form[action='/rates/propose'] button").click()
        expect(page.locator(".toast")).to_contain_text("제안")
        expect(page.locator(".decisions li")).to_contain_text("다른 사람이 결정")
        expect(page.locator("form[action$='/approve']")).to_have_count(0)
    with page_of(chromium, locale="ko-KR", viewport=DESKTOP) as page:
        sign_in(page, site, "government")
        page.goto(f"{site.url}/rates")
        expect(page.locator(".decisions li")).to_contain_text("4,200원")
        page.locator("form[action$='/approve'] button").click()
        expect(page.locator("#coming")).to_be_visible()
    assert "h200-2027" in {rate.name for rate in site.portal.store.ledger.rates()}


def test_a_tenant_admin_takes_the_months_statement_home(chromium: Browser, site: MoneySite) -> None:
    with page_of(chromium, locale="ko-KR", viewport=PHONE) as page:
        sign_in(page, site, "tenant-admin")
        page.goto(f"{site.url}/statements")
        page.get_by_role("link", name="2026-12", exact=True).click()
        expect(page.locator("h1")).to_contain_text(DECEMBER_OF_SNU)
        with page.expect_download() as downloading:
            page.locator("a.button.main").click()
        file = downloading.value
        assert file.suggested_filename == f"statement-{DECEMBER_OF_SNU}.pdf"
        assert Path(file.path()).read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize(
    ("language", "scheme", "viewport", "pages"),
    [
        pytest.param("ko-KR", "light", DESKTOP, ALL_PAGES, id="ko-light-desktop"),
        pytest.param("en-US", "dark", PHONE, WIDE_PAGES, id="en-dark-phone"),
    ],
)
def test_axe_finds_nothing_serious_on_pages_about_money(
    chromium: Browser,
    site: MoneySite,
    language: str,
    scheme: str,
    viewport: dict[str, int],
    pages: Mapping[str, Sequence[str]],
) -> None:
    faults: dict[str, list[str]] = {}
    for login, paths in pages.items():
        with page_of(chromium, locale=language, color_scheme=scheme, viewport=viewport) as page:
            sign_in(page, site, login)
            for path in paths:
                page.goto(site.url + path)
                expect(page.locator("h1")).to_be_visible()
                if said := axe_says(page):
                    faults[f"{login} {path}"] = said
                assert fits(page), f"{path} is wider than the screen"
    assert not faults
