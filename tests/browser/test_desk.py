"""Two people of the government take a call from the reviews over a what-if to the approved award, in a real browser;
axe finds nothing serious on any page of the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import Call
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.app import Wiring
from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.main import uvicorn_config
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.routes.of_pool import pool_features
from tests.browser.conftest import free_port
from tests.browser.site import STARTS_WITHIN_S, certificate
from tests.browser.test_pages import DESKTOP, PHONE, axe_says, fits, page_of
from tests.desk import judged
from tests.pools import PASSWORD, WEAKEST, fill_pool, people_of_all_roles
from tests.stores import new_pool_store
from tests.unit.pool.scene import programme


class LateClock:
    """The system's, as many days ahead as a call takes to close."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass(frozen=True)
class DeskSite:
    """A portal whose call is closed; `second` has judged all of its applications."""

    url: str
    applications: tuple[Application, ...]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeskSite]:
    folder: Path = tmp_path_factory.mktemp("desk")
    clock, port = LateClock(), free_port()
    url = f"https://127.0.0.1:{port}"
    config = Config(public_url=url, listen={"port": port, "tls": certificate(folder)})
    store = new_pool_store(folder / "pool.db")
    officer = people_of_all_roles(store, clock, config)[PortalRole.GOVERNMENT].actor
    pool, accounts = PoolServer(store, clock), Accounts(store, clock, config.sessions, hasher=WEAKEST)
    call = Call(number=1, opens=clock.now() - timedelta(days=1), closes=clock.now() + timedelta(days=1))
    fill_pool(pool.service, accounts, programme(calls=(call,), reviews_needed=2))
    pool.turn()
    people = {login: store.people.credentials(login) for login in ("second", "researcher-snu", "researcher-kaist")}
    actors = {login: found.person.actor for login, found in people.items() if found}
    starts = (clock.now() + timedelta(days=30)).date()
    asked: dict[str, Any] = {
        "starts": starts,
        "ends": starts + timedelta(days=89),
        "model": "b200",
        "gpus": 64,
        "min_gpus": 64,
    }
    applications = tuple(
        judged(pool.service, actors[f"researcher-{of}"], officer, (actors["second"],), points, **asked)
        for of, points in (("snu", 90), ("kaist", 80))
    )
    clock.ahead = timedelta(days=2)
    wiring = Wiring(config=config, store=store, clock=clock, features=pool_features(pool), hasher=WEAKEST)
    server = uvicorn.Server(uvicorn_config(config, wiring))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the portal did not start"
        thread.join(0.01)
    try:
        yield DeskSite(url, applications)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(STARTS_WITHIN_S)
        store.close()


def sign_in(page: Page, url: str, login: str) -> None:
    page.goto(f"{url}/sign-in")
    page.locator("#f-login").fill(login)
    page.locator("#f-password").fill(PASSWORD)
    page.locator("form[action='/sign-in'] button").click()
    page.wait_for_url(f"{url}/")


def look(page: Page) -> None:
    assert axe_says(page) == [], page.url
    assert fits(page), f"{page.url} is wider than the screen"


def judge(page: Page, desk: DeskSite, application: Application) -> None:
    page.goto(f"{desk.url}/reviews")
    page.locator(f"a[href='/reviews/{application.id}']").click()
    expect(page.get_by_text("Who else has judged, and how, you see after your own judgement.")).to_be_visible()
    page.locator("#f-impact").fill("90")
    page.locator("#f-plan").fill("60")
    expect(page.locator("#score")).to_contain_text("80.00")  # while it is typed
    page.get_by_role("button", name="Save the judgement").click()
    expect(page.locator(".toast")).to_contain_text("Your judgement was saved.")
    expect(page.get_by_text("second님")).to_be_visible()


def test_two_people_walk_from_the_reviews_to_the_approved_award(chromium: Browser, desk: DeskSite) -> None:
    first, second = desk.applications
    with page_of(chromium, locale="en-US", viewport=DESKTOP) as page:
        sign_in(page, desk.url, "government")
        for application in desk.applications:
            judge(page, desk, application)
        look(page)
        page.goto(f"{desk.url}/reviews?show=done")
        look(page)
        page.goto(f"{desk.url}/awards")
        look(page)
        page.get_by_role("link", name="National GPU support").click()
        look(page)
        page.get_by_role("button", name="Find the best award").click()
        expect(page.get_by_text("Proven to be the best")).to_be_visible()  # the page brings it by itself
        expect(page.locator("[aria-labelledby=awarded]")).to_contain_text(first.id)
        expect(page.locator("[aria-labelledby=refused]")).to_contain_text("An award of 64 GPUs fits no pool")
        look(page)
        run = page.url
        page.get_by_role("link", name="What if it must be in?").click()
        page.get_by_role("button", name="See what would be").click()
        changes = page.locator("[aria-labelledby=changes]")
        expect(changes.locator("tr", has_text=first.id)).to_contain_text("−64")
        expect(changes.locator("tr", has_text=second.id)).to_contain_text("+64")
        look(page)
        page.goto(run)
        page.get_by_role("button", name="Draft the award").click()
        expect(page.get_by_text("You drafted this award, so you cannot approve it.")).to_be_visible()
        look(page)
        draft = page.url.partition("?")[0]
        page.goto(f"{draft}/lines/{first.id}")
        look(page)
        page.locator("#f-gpus").fill("20")
        page.get_by_role("button", name="Change the draft").click()
        expect(page.locator("#f-gpus-fault")).to_be_visible()
    with page_of(chromium, locale="ko-KR", viewport=PHONE, color_scheme="dark") as page:
        sign_in(page, desk.url, "second")
        page.goto(run)
        look(page)
        page.goto(draft)
        look(page)
        page.get_by_role("button", name="승인").click()
        expect(page.locator(".toast")).to_contain_text("배정이 승인되었습니다.")
        expect(page.locator("a[href^='/offers/']")).to_have_count(1)
        look(page)
        page.goto(f"{desk.url}/awards/programmes/national/waiting-list")
        expect(page.locator("tbody tr")).to_contain_text(second.id)
        look(page)


def test_without_javascript_the_best_award_is_found_and_shown(chromium: Browser, desk: DeskSite) -> None:
    with page_of(chromium, locale="en-US", viewport=PHONE, java_script_enabled=False) as page:
        sign_in(page, desk.url, "third")
        page.goto(f"{desk.url}/awards/programmes/national")
        page.get_by_role("button", name="Find the best award").click()
        expect(page.get_by_text("Proven to be the best")).to_be_visible()  # it loads itself again
        assert fits(page)
