"""Map, jobs, incidents and sites in a real browser, fed by sites over their signed API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from slurm_gpuaas.api.pool_sites import PicturePush
from slurm_gpuaas.api.signing import site_key
from slurm_gpuaas.daemon.portal_client import HttpPortal
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.names import ClusterName, ProviderName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.routes.of_pool import pool_features
from slurm_gpuaas.portal.routes.sites import sites_feature
from slurm_gpuaas.store.pool import PoolStore
from tests.browser.conftest import free_port
from tests.browser.site import BrowserSite, certificate, running
from tests.browser.test_pages import DESKTOP, PHONE, axe_says, fits, page_of, sign_in
from tests.pools import AT
from tests.unit.portal.test_running import NAVER, frame, layout

MASTER = bytes(range(32))


@dataclass
class Fed:
    """A portal, and a site that pushes to it."""

    site: BrowserSite
    ca_file: Path

    def push(self, **parts: Any) -> None:
        clock = SystemClock()
        of = self.site.store.sites.find(NAVER)
        assert of is not None
        seconds = (clock.now() - AT).total_seconds()
        wire = HttpPortal(self.site.url, site=NAVER, key=site_key(MASTER, NAVER, 1), ca_file=self.ca_file, clock=clock)
        assert wire.picture(PicturePush(layout=layout(of), frame=frame(of, int(seconds), **parts))).knows_layout
        wire.close()


def parts(store: PoolStore) -> Sequence[Feature]:
    store.sites.add(NAVER, cluster=ClusterName(NAVER), provider=ProviderName("naver"))
    pool = PoolServer(store, SystemClock())
    return (*pool_features(pool), sites_feature(pool, MASTER))


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    folder = tmp_path_factory.mktemp("running")
    tls = certificate(folder)
    limits = {"sign_in": 10_000, "address": 100_000}
    with running(folder, free_port(), tls=tls, parts=parts, limits=limits) as site:
        fed = Fed(site, Path(tls["certificate"]))
        fed.push()
        yield fed


PATHS = ("/jobs", f"/jobs/{NAVER}/1", f"/jobs/{NAVER}/5", "/incidents", f"/incidents/{NAVER}:inc-1", "/sites",
         f"/sites/{NAVER}", "/map")  # fmt: skip


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone-dark"])
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(
    chromium: Browser, fed: Fed, size: dict[str, int], scheme: str
) -> None:
    with page_of(chromium, viewport=size, color_scheme=scheme, locale="ko-KR") as page:
        sign_in(page, fed.site, PortalRole.PROVIDER_OPERATOR)
        for path in PATHS:
            page.goto(fed.site.url + path)
            if path == "/map":
                page.wait_for_selector("#gmap[data-sequence]")
            assert axe_says(page) == [], path
            assert fits(page), path


UNDER_LABELS = """() => [...document.querySelectorAll(".stack [data-label]")].flatMap(cell => {
    const shown = document.createRange(), from = cell.getBoundingClientRect().left + 120;
    return [...cell.childNodes].filter(node => node.textContent.trim()).map(node => (shown.selectNode(node), shown))
        .filter(range => range.getBoundingClientRect().left < from).map(range => range.toString());
})"""
"""Texts of cells that stand in the column of their labels, which are 120 pixels wide."""


def test_on_a_phone_all_of_a_cell_stands_beside_its_label(chromium: Browser, fed: Fed) -> None:
    with page_of(chromium, viewport=PHONE, locale="ko-KR") as page:
        sign_in(page, fed.site, PortalRole.PROVIDER_OPERATOR)
        page.goto(f"{fed.site.url}/jobs")
        expect(page.locator("tbody td[data-label]").first).to_be_visible()
        assert page.evaluate(UNDER_LABELS) == []


def test_the_map_stands_in_the_portals_frame_and_follows_what_a_site_pushes(chromium: Browser, fed: Fed) -> None:
    with page_of(chromium, viewport=DESKTOP, locale="ko-KR") as page:
        sign_in(page, fed.site, PortalRole.PROVIDER_OPERATOR)
        page.locator(".rail nav a[href='/map']").click()
        page.wait_for_selector("#gmap[data-sequence]")
        expect(page.locator(".rail nav a[aria-current]")).to_have_attribute("href", "/map")
        track, span = (page.locator(f".gm-time {one}").bounding_box() for one in (".gm-track", "select"))
        assert track and span and span["width"] < 160 < track["width"], "the portal's forms are as wide as they can be"
        before = page.locator("#gmap").get_attribute("data-sequence")
        fed.push()
        page.wait_for_function("before => document.getElementById('gmap').dataset.sequence !== before", arg=before)
        page.goto(f"{fed.site.url}/map?wall=1&theme=dark")
        page.wait_for_selector("#gmap.gm-wall[data-sequence]")
        expect(page.locator(".rail")).to_be_hidden()


def test_from_a_job_to_its_place_on_the_map_and_to_its_incident(chromium: Browser, fed: Fed) -> None:
    with page_of(chromium, viewport=DESKTOP, locale="ko-KR") as page:
        sign_in(page, fed.site, PortalRole.TENANT_ADMIN)
        page.goto(f"{fed.site.url}/jobs")
        page.get_by_role("link", name="1", exact=True).click()
        expect(page.locator(".units rect.lit")).to_have_count(1)
        page.get_by_role("link", name="지도에서 보기").click()
        page.wait_for_selector("#gmap[data-sequence]")
        expect(page.locator('[data-part="card"]')).to_contain_text("train-1")
        page.goto(f"{fed.site.url}/jobs/{NAVER}/1")
        page.get_by_role("link", name="XID 79").click()
        expect(page.locator("h1")).to_contain_text("XID 79")
        assert "postech" not in page.content()


def test_jobs_are_told_without_javascript(chromium: Browser, fed: Fed) -> None:
    with page_of(chromium, viewport=PHONE, java_script_enabled=False, locale="ko-KR") as page:
        sign_in(page, fed.site, PortalRole.TENANT_ADMIN)
        page.goto(f"{fed.site.url}/jobs?state=waiting")
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("tbody")).to_contain_text("지금 비어 있지 않습니다")
