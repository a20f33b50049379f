"""The cluster map in a real browser, drawing a simulated fleet."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from slurm_gpuaas.domain.fleet_map import MapCluster
from slurm_gpuaas.portal.map import LiveMap
from slurm_gpuaas.portal.map.history import MapHistory
from slurm_gpuaas.testbed.map_demo import DemoFleet, ShiftedClock, make_app, prepared
from slurm_gpuaas.testbed.profiles import Cluster, profile

HELPERS = Path(__file__).parent / "map_page.js"
SMALL = (
    Cluster(name="mini", model="b200", nodes=20, digits=2, group=8),
    Cluster(name="side", model="h200", nodes=9, group=8),
)


@dataclass
class Served:
    """A map that runs in a thread of its own; `step` lets its sites push once."""

    url: str
    live: LiveMap
    fleet: DemoFleet
    clock: ShiftedClock
    loop: asyncio.AbstractEventLoop

    def step(self, *, later: timedelta = timedelta(seconds=2), sites: int | None = None) -> None:
        async def push() -> None:
            moment = self.clock.now() + later
            for frame in self.fleet.frames(moment)[:sites]:
                self.live.take(frame)
            self.live.publish()

        asyncio.run_coroutine_threadsafe(push(), self.loop).result(20)


@contextmanager
def serving(
    folder: Path, clusters: tuple[Cluster, ...], *, hours: float, age: timedelta = timedelta(0)
) -> Iterator[Served]:
    """A fleet whose newest pictures are `age` old."""
    clock, end = ShiftedClock(), datetime.now(UTC) - age
    fleet = DemoFleet(clusters, end - timedelta(hours=hours), seed=4)
    loop, live = asyncio.new_event_loop(), LiveMap(clock, history=MapHistory(folder))
    prepared(fleet, live, clock, end, hours=hours)
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(make_app(live), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{sock.getsockname()[1]}/map", live, fleet, clock, loop)
    finally:
        server.should_exit = True
        thread.join(20)
        sock.close()


@pytest.fixture(scope="module")
def browser(chromium: Browser) -> Browser:
    return chromium


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("history"), SMALL, hours=0.7) as served:
        yield served


@contextmanager
def opened(
    browser: Browser, url: str, *, width: int = 1440, height: int = 900, cookies: str = "", **context: Any
) -> Iterator[Page]:
    """The page, drawn; at the end nothing may stand in the console."""
    with browser.new_context(viewport={"width": width, "height": height}, **context) as shown:
        if cookies:
            shown.add_cookies([{"name": "as", "value": cookies, "url": url}])
        shown.add_init_script(path=HELPERS)
        page = shown.new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#gmap[data-sequence]")
        yield page
        assert wrong == []


def part(page: Page, name: str) -> Any:
    return page.locator(f'[data-part="{name}"]')


def colours(page: Page) -> int:
    """How many different colours the map shows."""
    return int(page.evaluate("() => mapTest.colours()"))


@pytest.mark.parametrize("lang", ["ko", "en"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", ["map", "table"])
def test_axe_finds_nothing_on_the_map_and_its_table(
    browser: Browser, served: Served, lang: str, theme: str, view: str
) -> None:
    with opened(browser, f"{served.url}?lang={lang}&theme={theme}&view={view}&sel=node:mini/b200-01") as page:
        expect(part(page, "card").locator("table")).to_be_visible()
        assert Axe().run(page).response["violations"] == []


def test_every_layer_is_drawn_and_stands_in_the_address(browser: Browser, served: Served) -> None:
    with opened(browser, served.url) as page:
        part(page, "stage").focus()
        for key, layer in enumerate(("tenant", "job", "use", "health", "heat", "fragmentation", "age"), start=2):
            page.keyboard.press(str(key))
            expect(page.locator(f'[data-layer="{layer}"]')).to_have_attribute("aria-pressed", "true")
            assert f"layer={layer}" in page.url
            page.wait_for_function("() => mapTest.ready()")
            assert colours(page) >= 4, layer
        page.keyboard.press("6")
        page.keyboard.press("6")
        assert "layer=power" in page.url
        page.reload()
        expect(page.locator('[data-layer="heat"]')).to_have_attribute("aria-pressed", "true")


def test_a_new_picture_reaches_the_open_page_and_an_old_one_is_announced_with_its_age(
    browser: Browser, tmp_path: Path
) -> None:
    with serving(tmp_path, SMALL, hours=0.1, age=timedelta(minutes=4)) as served, opened(browser, served.url) as page:
        expect(part(page, "banner")).to_contain_text("데이터가 오래되었습니다: mini 4")
        before = page.locator("#gmap").get_attribute("data-sequence")
        served.step()
        expect(part(page, "banner")).to_be_hidden()
        assert page.locator("#gmap").get_attribute("data-sequence") != before


def test_a_cluster_that_is_silent_is_told_apart_from_one_that_is_idle(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, SMALL, hours=0.0) as served:
        side = served.fleet.clusters[1].model_dump(exclude_none=True) | {"won_per_gpu_hour": 5}
        served.live.introduce(MapCluster.model_validate(side))
        served.step(sites=1)
        with opened(browser, f"{served.url}?lang=en") as page:
            expect(part(page, "banner")).to_have_text("No data yet: side")
            expect(part(page, "legend")).to_contain_text("Unknown72")


def test_a_map_without_clusters_says_so(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, (), hours=0.0) as served, opened(browser, served.url) as page:
        expect(part(page, "empty")).to_contain_text("아직 연결된 클러스터가 없습니다")


@pytest.mark.parametrize(
    ("query", "nodes"),
    [
        ("b200-[01-03,07]", {"b200-01", "b200-02", "b200-03", "b200-07"}),
        ("node:b200-01,b200-05", {"b200-01", "b200-05"}),
        ("cluster:side unit:su02", {"h200-009"}),
        ("model:h200 h200-00", {f"h200-00{n}" for n in range(1, 10)}),
        ("B200-2", {"b200-20"}),
    ],
)
def test_search_finds_nodes(browser: Browser, served: Served, query: str, nodes: set[str]) -> None:
    with opened(browser, f"{served.url}?q={query.replace(' ', '+')}") as page:
        found = page.evaluate("() => mapTest.found()")
        assert set(found) == nodes


def test_search_by_job_tenant_fault_and_idleness_agrees_with_the_picture(browser: Browser, served: Served) -> None:
    with opened(browser, served.url) as page:
        job = page.evaluate("() => mapTest.jobs()[0]")
        for query, kind, value in (
            (f"job:{job['id']}", "job", job["id"]),
            (f"tenant:{job['tenant']}", "tenant", job["tenant"]),
            (f"user:{job['user']} use>10", "busyUser", job["user"]),
            ("state:free idle>30m", "longFree", 30),
            ("xid", "xid", None),
            ("", "none", None),
        ):
            counted = page.evaluate("([kind, value]) => mapTest.counted(kind, value)", [kind, value])
            assert page.evaluate("(query) => mapTest.looked(query)", query) == counted, query


@pytest.mark.parametrize(
    "query", ["b200-[x]", "b200-[9-1]", "b200-[1-999999999]", "state:nice", "colour:red", "idle>soon", "a[" * 250]
)
def test_a_search_that_cannot_be_read_says_why_and_hides_nothing(browser: Browser, served: Served, query: str) -> None:
    with opened(browser, served.url) as page:
        part(page, "search").fill(query)
        expect(part(page, "search")).to_have_attribute("aria-invalid", "true")
        assert len(part(page, "found").text_content()) > 8
        assert page.evaluate("() => mapTest.page.found") is None


def test_filtered_nodes_dim_and_nothing_moves(browser: Browser, served: Served) -> None:
    with opened(browser, served.url) as page:
        before, all_colours = page.evaluate("() => mapTest.places()"), colours(page)
        part(page, "search").fill("b200-01")
        page.wait_for_function("() => mapTest.page.found?.nodes === 1")
        page.wait_for_function("() => mapTest.ready()")
        assert page.evaluate("() => mapTest.places()") == before
        assert colours(page) != all_colours


def test_pointing_tells_and_clicking_opens_a_card_that_the_address_keeps(browser: Browser, served: Served) -> None:
    with opened(browser, served.url) as page:
        job = next(
            one for one in page.evaluate("() => mapTest.jobs()") if one["cluster"] == "mini" and one["nodes"] > 1
        )
        node = page.evaluate("(id) => mapTest.nodeOf(id)", job["id"])
        x, y = page.evaluate("(node) => mapTest.centre(node)", node)
        page.mouse.move(x, y)
        expect(part(page, "tip")).to_contain_text(f"{node.removeprefix('mini/')} · GPU 0")
        expect(part(page, "tip")).to_contain_text(job["tenant"])
        expect(part(page, "tip").locator(".gm-spark")).to_be_visible()
        page.mouse.click(x, y)
        expect(part(page, "card")).to_contain_text(f"작업 {job['id']}")
        expect(part(page, "card")).to_contain_text("가까운 쌍")
        page.reload()
        expect(part(page, "card")).to_contain_text(f"작업 {job['id']}")


def test_an_incident_card_tells_its_course(browser: Browser, served: Served) -> None:
    with opened(browser, f"{served.url}?lang=en") as page:
        key = page.evaluate("() => Object.keys(mapTest.page.picture.table.incidents)[0]")
        page.goto(f"{served.url}?lang=en&sel=incident:{key.replace(':', '/')}")
        expect(part(page, "card").locator(".gm-steps li").first).to_contain_text("Detected")


def test_the_keyboard_walks_units_nodes_and_gpus_and_says_where_it_is(browser: Browser, served: Served) -> None:
    with opened(browser, f"{served.url}?lang=en") as page:
        said = part(page, "said")
        part(page, "stage").focus()
        expect(said).to_contain_text("b200-01, su01, mini")
        page.keyboard.press("ArrowRight")
        expect(said).to_contain_text("b200-02, su01, mini")
        page.keyboard.press("Enter")
        expect(said).to_contain_text("b200-02 · GPU 0")
        page.keyboard.press("ArrowDown")
        expect(said).to_contain_text("b200-02 · GPU 4")
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        expect(said).to_contain_text("su01, mini")
        page.keyboard.press("End")
        expect(said).to_contain_text("su02, side")
        page.keyboard.press("/")
        expect(part(page, "search")).to_be_focused()


def test_the_table_says_what_the_map_shows_and_sorts(browser: Browser, served: Served) -> None:
    with opened(browser, f"{served.url}?lang=en&view=table&q=cluster:mini") as page:
        table = part(page, "table")
        expect(table).to_contain_text("20 of 29 nodes")
        assert table.locator("tbody tr").count() == 20
        table.get_by_role("button", name="Free", exact=True).click()
        table.get_by_role("button", name="Free", exact=True).click()
        frees = [int(text) for text in table.locator("tbody tr td:nth-child(6)").all_text_contents()]
        assert frees == sorted(frees, reverse=True)
        expect(table.locator("th[aria-sort=descending]")).to_have_text("Free ▾")


def test_the_past_is_shown_and_left_again(browser: Browser, served: Served) -> None:
    at = datetime.now(UTC) - timedelta(minutes=12)
    with opened(browser, f"{served.url}?lang=en&at={at.isoformat().replace('+00:00', 'Z')}") as page:
        expect(part(page, "banner")).to_contain_text("You are looking at")
        page.wait_for_function("() => mapTest.page.past")
        moment = page.evaluate("() => mapTest.page.past.moment")
        assert timedelta(0) <= at - datetime.fromtimestamp(moment / 1000, UTC) <= timedelta(minutes=1)
        part(page, "time").get_by_role("button", name="Back to live").click()
        page.wait_for_function("() => !mapTest.page.past")
        assert "at=" not in page.url
        page.evaluate("() => mapTest.page.time.go(Date.now() - 5 * 3600e3)")
        expect(part(page, "banner")).to_contain_text("Nothing is recorded")


def test_a_tenants_browser_never_gets_what_is_not_theirs(browser: Browser, served: Served) -> None:
    with opened(browser, served.url, cookies="tenant") as page:
        jobs = page.evaluate("() => Object.values(mapTest.page.picture.table.jobs)")
        assert {job["tenant"] for job in jobs} <= {"hangang-univ"}
        expect(part(page, "legend")).to_contain_text("다른 기관 사용 중")
        assert "baekdu-lab" not in json.dumps(jobs)


@pytest.mark.parametrize("query", ["", "?view=table", "?sel=node:mini/b200-01"])
def test_a_phone_scrolls_down_and_never_sideways(browser: Browser, served: Served, query: str) -> None:
    with opened(browser, served.url + query, width=360, height=740) as page:
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        box = part(page, "table" if "table" in query else "stage").bounding_box()
        assert box
        assert box["width"] > 320


def test_the_whole_national_pool_fits_a_laptop_without_scrolling(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, profile("national").clusters, hours=0.0) as served, opened(browser, served.url) as page:
        assert page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [
            1440,
            900,
        ]
        drawn = page.evaluate("() => mapTest.drawn()")
        assert drawn[0] < drawn[2]
        assert drawn[1] < drawn[3]
        assert drawn[4] >= 5


def test_nothing_moves_by_itself_where_motion_is_not_wanted(browser: Browser, served: Served) -> None:
    with opened(browser, f"{served.url}?wall=1", reduced_motion="reduce") as page:
        page.evaluate("() => mapTest.page.turn()")
        assert "layer=" not in page.url
        expect(page.locator("html")).to_have_attribute("data-motion", "off")
    with opened(browser, f"{served.url}?wall=1") as page:
        page.evaluate("() => mapTest.page.turn()")
        assert "layer=tenant" in page.url


def test_colours_of_text_and_marks_keep_their_contrast(browser: Browser, served: Served) -> None:
    """What axe cannot see: text on the canvas at 4.5 to 1, marks on their ground at 3 to 1 (WCAG 1.4.3 and 1.4.11)."""
    with opened(browser, served.url) as page:
        for found in page.evaluate("() => mapTest.contrasts()"):
            assert min(found["ink"], found["soft"]) >= 4.5, found
            assert min(found.values()) >= 3, found
