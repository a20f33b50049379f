"""The map over HTTP."""

from __future__ import annotations

import asyncio
import base64
import re
import struct
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from slurm_gpuaas.domain.errors import NotFound, Refused
from slurm_gpuaas.domain.fleet_map import Picture, read
from slurm_gpuaas.domain.names import OrganisationName
from slurm_gpuaas.portal.map import EVERYTHING, LiveMap, MapViewer, map_routes, routes
from slurm_gpuaas.portal.map.history import MapHistory
from slurm_gpuaas.portal.map.routes import event_stream
from slurm_gpuaas.portal.map.words import _TEXTS, Language, texts
from tests.unit.portal_map.fleets import NOW, Stopped, cluster, frame, job

STATIC = Path(__file__).parents[3] / "slurm_gpuaas/portal/map/static"
TEMPLATES = STATIC.parent / "templates"


@pytest.fixture
def live(tmp_path: Path) -> LiveMap:
    live = LiveMap(Stopped(), history=MapHistory(tmp_path))
    live.introduce(cluster())
    push(live, 0)
    return live


def push(live: LiveMap, seconds: int) -> None:
    moment = NOW + timedelta(seconds=seconds)
    live.take(frame(cluster(), {job(1): range(8), job(2, "baekdu-lab"): range(8, 16)}, moment=moment, use=seconds))
    live.publish()


@pytest.fixture
def client(live: LiveMap) -> Iterator[TestClient]:
    app = FastAPI()

    def viewer(request: Request) -> MapViewer:
        who = request.headers.get("who", "auditor")
        if who == "nobody":
            raise Refused("Sign in first.")
        return EVERYTHING if who == "auditor" else MapViewer(organisation=OrganisationName(who))

    app.include_router(map_routes(live, viewer))
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(("lang", "title"), [("ko", "클러스터 지도"), ("en", "Cluster map")])
def test_the_page_is_in_the_language_asked_for_and_runs_no_script_of_its_own(
    client: TestClient, lang: str, title: str
) -> None:
    page = client.get("/map", params={"lang": lang})
    assert f'<html lang="{lang}">' in page.text
    assert f"<title>{title}</title>" in page.text
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", page.text)


def test_scripts_are_found_at_the_addresses_that_the_page_names_and_nothing_else_is(client: TestClient) -> None:
    page = client.get("/map").text
    addresses = re.findall(r'(?:src|href)="(/map/static/[^"]+)"', page)
    assert len(addresses) == 2
    for address in addresses:
        assert client.get(address).headers["cache-control"].endswith("immutable")
    folder = addresses[0].rpartition("/")[0]
    for name in ("words.py", "none.js"):
        with pytest.raises(NotFound, match="has no file"):
            client.get(f"{folder}/{name}")
    assert client.get(f"{folder}/..%2froutes.py").status_code == 404


def test_who_may_not_look_gets_nothing_at_all(client: TestClient) -> None:
    span = {"begin": NOW.isoformat(), "end": (NOW + timedelta(hours=1)).isoformat()}
    for path in ("", "/opening", "/picture", "/events", "/history", "/past", "/nodes/alpha/alpha-000", "/jobs/1"):
        with pytest.raises(Refused):
            client.get(f"/map{path}", params=span, headers={"who": "nobody"})


def test_a_tenant_gets_the_tenants_picture(client: TestClient) -> None:
    picture = read(client.get("/map/picture", headers={"who": "baekdu-lab"}).content)
    assert [row["id"] for row in picture.table["jobs"].values()] == [2]


def test_the_past_comes_as_pictures_with_their_lengths(client: TestClient, live: LiveMap) -> None:
    for minute in (1, 2, 3):
        live._clock.at = NOW + timedelta(minutes=minute)  # type: ignore[attr-defined]
        push(live, 60 * minute)
    span = {"begin": NOW.isoformat(), "end": (NOW + timedelta(hours=1)).isoformat(), "limit": "3"}
    data, uses = client.get("/map/history", params=span).content, []
    picture: Picture | None = None
    while data:
        (length,) = struct.unpack_from("<I", data)
        picture = read(data[4 : 4 + length], picture)
        uses.append(int(picture.cells.use[0]))
        data = data[4 + length :]
    assert uses == [0, 60, 120]


@pytest.mark.parametrize(
    "query",
    [
        {"begin": "2026-11-28T05:00:00Z", "end": "2026-11-28T05:00:00Z"},
        {"begin": "2026-11-01T05:00:00Z", "end": "2026-11-28T05:00:00Z"},
    ],
)
def test_a_span_that_is_empty_or_too_long_is_refused(client: TestClient, query: dict[str, str]) -> None:
    for path in ("history", "past"):
        with pytest.raises(ValueError, match="at most 8 days"):
            client.get(f"/map/{path}", params=query)


def test_a_span_without_time_zone_or_a_limit_without_end_is_invalid(client: TestClient) -> None:
    assert (
        client.get("/map/past", params={"begin": "2026-11-28T05:00:00", "end": "2026-11-28T06:00:00"}).status_code
        == 422
    )
    span = {"begin": NOW.isoformat(), "end": (NOW + timedelta(hours=1)).isoformat(), "limit": "10000"}
    assert client.get("/map/history", params=span).status_code == 422
    assert client.get("/map/events", params={"after": 2**32}).status_code == 422


def test_events_begin_after_the_picture_that_the_page_has_and_follow_each_change(live: LiveMap) -> None:
    async def story() -> None:
        before = read(live.whole(EVERYTHING))
        stream = event_stream(live, EVERYTHING, before.sequence)
        assert await anext(stream) == b"retry: 2000\n\n"
        coming = asyncio.create_task(_next(stream))
        await asyncio.sleep(0)
        assert not coming.done()
        push(live, 5)
        after = _picture(await coming, before)
        assert int(after.cells.use[0]) == 5
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_page_that_knows_nothing_or_another_past_gets_a_whole_picture(live: LiveMap) -> None:
    async def story() -> None:
        for after in (0, 12_345):
            stream = event_stream(live, EVERYTHING, after)
            await anext(stream)
            assert _picture(await anext(stream), None).sequence > 0

    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_stream_ends_so_that_who_may_look_is_asked_again(live: LiveMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "STREAM_S", 0.0)

    async def story() -> list[bytes]:
        return [event async for event in event_stream(live, EVERYTHING, 0)]

    assert asyncio.run(story()) == [b"retry: 2000\n\n"]


async def _next(stream: AsyncIterator[bytes]) -> bytes:
    return await anext(stream)


def _picture(event: bytes, base: Picture | None) -> Picture:
    name, number, data = event.split(b"\n")[:3]
    assert name == b"event: picture"
    picture = read(base64.b64decode(data.removeprefix(b"data: ")), base)
    assert number == b"id: %d" % picture.sequence
    return picture


# -- Texts -------------------------------------------------------------------------------------------------------------


def test_every_text_is_there_in_both_languages_with_the_same_blanks() -> None:
    for word, both in _TEXTS.items():
        assert all(both), word
        assert set(re.findall(r"\{(\w+)\}", both[0])) == set(re.findall(r"\{(\w+)\}", both[1])), word
        assert re.search("[가-힣]", both[0]) or both[0] == both[1] or "{n}" in both[0] or "{won}" in both[0], word


def test_every_word_that_page_and_scripts_use_has_a_text_and_no_text_is_left_over() -> None:
    scripts = "".join(path.read_text() for path in (*STATIC.glob("*.js"), *TEMPLATES.rglob("*.html")))
    calls = r"(?:\bt\(|words\[|SearchError\(|word: |section\(|line\(|one\(|turn\(|\[)"
    used = set(re.findall(calls + r"""\s*['"]([a-z]\w*(?:\.\w+)?)['"]""", scripts))
    known = texts(Language.EN)
    prefixes = ("layer.", "question.", "state.", "severity.", "share.", "service.", "stage.", "reason.")
    missing = {word for word in used if "." in word and word not in known}
    assert not missing, missing
    quoted = set(re.findall(r"""['"]([a-z]\w*(?:\.\w+)?)['"]""", scripts))
    assert not {word for word in known if word not in quoted and not word.startswith(prefixes)}
