"""The JSON API: tokens, problems in two languages, ETags, cursors; and what every answer carries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, Request
from fastapi.testclient import TestClient
from httpx2 import Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.guard import CSP, MAX_BODY_BYTES
from slurm_gpuaas.portal.http import PROBLEMS, IfMatch, cursor_of, key_of, refuse_outdated
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.visit import Needs
from tests.pools import ORIGIN, Browser, TestPortal

GOVERNMENT = PortalRole.GOVERNMENT


class Note(BaseModel):
    text: str


def make_token(browser: Browser, *scopes: Action, days: int = 30) -> str:
    answer = browser.post("/tokens", name="nightly report", days=days, scopes=[str(scope) for scope in scopes])
    found = re.search(r"gpuaas_[\w-]{43}", answer.text)
    assert found is not None, answer.text
    return found[0]


def ask(portal: TestPortal, path: str, token: str = "", method: str = "GET", **headers: str) -> Response:
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return TestClient(portal.app, base_url=ORIGIN, raise_server_exceptions=False).request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_a_token_does_what_it_was_made_for_and_no_more(portal: TestPortal) -> None:
    token = make_token(portal.browser(GOVERNMENT), Action.HOME_READ, Action.PEOPLE_READ)
    me = ask(portal, "/api/v1/me", token).json()
    assert (me["role"], me["rights"]) == ("government", {"home.read": "own", "people.read": "all"})
    assert ask(portal, "/api/v1/people", token).status_code == 200
    refused = ask(portal, "/api/v1/audit", token, Accept_Language="en")
    assert refused.status_code == 403
    assert refused.json()["detail"] == "This token was not made for this (audit.read)."


def test_a_token_is_stored_as_its_hash_and_shown_once(portal: TestPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    token = make_token(browser, Action.HOME_READ)
    assert token not in browser.get("/tokens").text
    for file in portal.folder.glob("pool.db*"):
        assert token.removeprefix("gpuaas_").encode() not in file.read_bytes()


def test_a_token_ends_by_its_day_by_revoking_and_with_its_person(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.RESEARCHER)
    tokens = [make_token(browser, Action.HOME_READ, days=days) for days in (30, 90, 365)]
    numbers = re.findall(r'name="token" value="(t-\w+)"', browser.get("/tokens").text)
    portal.clock.forward(timedelta(days=30))
    assert [ask(portal, "/api/v1/me", token).status_code for token in tokens] == [401, 200, 200]
    browser = portal.browser(PortalRole.RESEARCHER)
    used = [one["used_at"] for one in browser.get("/api/v1/tokens").json()["items"]]
    assert sum(at is not None for at in used) == 2
    for number in numbers:
        assert portal.browser(GOVERNMENT).post("/tokens/revoke", token=number).status_code == 404
    for token in portal.store.people.tokens(portal.people[PortalRole.RESEARCHER].id):
        if (token.expires_at - token.created_at).days == 90:
            assert browser.post("/tokens/revoke", token=token.id).status_code == 303
    assert [ask(portal, "/api/v1/me", token).status_code for token in tokens] == [401, 401, 200]
    admin = portal.browser(PortalRole.TENANT_ADMIN)
    admin.post(f"/people/{portal.people[PortalRole.RESEARCHER].id}/suspend", reason="left")
    assert ask(portal, "/api/v1/me", tokens[2]).status_code == 401


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer x", "Basic QTpC", "Bearer gpuaas_" + "A" * 43, "Bearer " + "é" * 9, "bearer\tx"]
)
def test_what_is_no_token_is_nobody(portal: TestPortal, header: str) -> None:
    answer = TestClient(portal.app, base_url=ORIGIN).get(
        "/api/v1/me", headers=[(b"authorization", header.encode("latin-1"))]
    )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_token_opens_no_page(portal: TestPortal) -> None:
    token = make_token(portal.browser(GOVERNMENT), Action.HOME_READ)
    client = TestClient(portal.app, base_url=ORIGIN, follow_redirects=False)
    assert client.get("/", headers={"Authorization": f"Bearer {token}"}).status_code == 303


def test_a_token_is_not_made_for_what_the_role_may_not(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.RESEARCHER)
    wrong: list[dict[str, Any]] = [
        {"scopes": ["audit.read"]},
        {"scopes": []},
        {"scopes": ["home.read"], "days": "366"},
        {"scopes": ["nonsense"]},
    ]
    for fields in wrong:
        answer = browser.post("/tokens", **{"name": "x", "days": "30"} | fields)
        assert answer.status_code == 422, fields
        assert "gpuaas_" not in answer.text


@pytest.mark.parametrize(
    ("language", "title", "detail"),
    [("ko", "찾을 수 없습니다", "그런 사용자가 없습니다."), ("en", "Not found", "There is no such person.")],
)
def test_problems_speak_the_callers_language(portal: TestPortal, language: str, title: str, detail: str) -> None:
    token = make_token(portal.browser(GOVERNMENT), Action.PEOPLE_READ)
    answer = ask(portal, "/api/v1/people/p-nobody000", token, Accept_Language=language)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.headers["content-language"] == language
    assert {"title": title, "detail": detail, "type": "urn:gpuaas:problem:NotFound"}.items() <= answer.json().items()


def test_what_has_not_changed_is_not_sent_again(portal: TestPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    first = browser.get("/api/v1/people")
    etag = first.headers["etag"]
    for known in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        again = browser.client.get("/api/v1/people", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert browser.client.get("/api/v1/people", headers={"If-None-Match": '"x"'}).status_code == 200
    browser.post("/profile", name="다른 이름")
    assert browser.client.get("/api/v1/people", headers={"If-None-Match": etag}).status_code == 200


def test_a_list_is_read_in_pages_without_missing_or_doubling(portal: TestPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    whole = [one["id"] for one in browser.get("/api/v1/people").json()["items"]]
    read: list[str] = []
    path = "/api/v1/people?limit=4"
    while path:
        page = browser.get(path).json()
        read += [one["id"] for one in page["items"]]
        path = f"/api/v1/people?limit=4&cursor={page['next']}" if page["next"] else ""
    assert read == whole
    assert len(whole) == len(PortalRole)


@given(st.text(max_size=60))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    if text != cursor_of("a", 1):
        with pytest.raises(InvalidInput):
            key_of(text, str, int)


@given(st.text(max_size=40), st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_cursor_gives_its_key_back(name: str, number: int) -> None:
    assert key_of(cursor_of(name, number), str, int) == (name, number)
    with pytest.raises(InvalidInput):
        key_of(cursor_of(name, number), int, str)


def test_reading_the_audit_trail_is_written_into_it(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.AUDITOR)
    browser.get("/audit?action=session&first=2026-11-28")
    browser.get("/api/v1/audit?limit=2")
    for path in ("/audit?first=x", "/audit?cursor=x", "/api/v1/audit?since=2026-11-28T00:00:00", "/audit?result=x"):
        assert browser.get(path).status_code == 422, path
    first, second = reversed(portal.store.audit.newest(limit=9, action="audit.read"))
    assert '"action":"session"' in first.evidence
    assert second.actor == portal.people[PortalRole.AUDITOR].id


def test_being_refused_for_the_role_is_written_down(portal: TestPortal) -> None:
    portal.browser(PortalRole.RESEARCHER).get("/audit")
    entry = portal.store.audit.newest(limit=1)[0]
    assert (entry.action, entry.subject, entry.result) == ("audit.read", "/audit", "refused")


# -- What every answer carries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/sign-in", "/", "/nowhere", "/api/v1/me", "/healthz", "/static/portal.css"])
def test_every_answer_is_guarded(portal: TestPortal, path: str) -> None:
    headers = portal.browser().get(path).headers
    assert headers["content-security-policy"] == CSP
    assert "unsafe" not in CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["referrer-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert re.fullmatch(r"[0-9a-f]{16}", headers["x-request-id"])
    assert "server" not in headers


def test_pages_have_no_script_or_style_of_their_own(portal: TestPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    for path in ("/", "/people", "/audit", "/tokens", "/profile", "/sessions", "/nowhere"):
        page = browser.get(path).text
        assert not re.search(r"<style|style=|\son\w+=|javascript:", page), path
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page)), path
        assert browser.get(path).headers["cache-control"] == "no-store"


def test_a_body_that_never_ends_is_cut_off(portal: TestPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    answer = browser.client.post(
        "/profile",
        content=iter([b"x" * 2**20] * (MAX_BODY_BYTES // 2**20 + 1)),
        headers={"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 413
    assert answer.headers["content-security-policy"] == CSP


def test_static_files_are_kept_by_name_with_hash_and_checked_without(portal: TestPortal) -> None:
    browser = portal.browser()
    (css,) = re.findall(r'href="(/static/portal\.[0-9a-f]{12}\.css)"', browser.get("/sign-in").text)
    assert "immutable" in browser.get(css).headers["cache-control"]
    plain = browser.get("/static/portal.css")
    assert plain.headers["cache-control"] == "no-cache"
    assert browser.client.get("/static/portal.css", headers={"If-None-Match": plain.headers["etag"]}).status_code == 304
    for path in ("/static/", "/static/../app.py", "/static/%2e%2e/app.py", "/static/NOTICE/x"):
        assert browser.get(path).status_code == 404


def test_one_person_cannot_take_all_of_the_server(tmp_path: Path) -> None:
    portal = TestPortal(tmp_path, settings={"limits": {"person": 10}})
    browser = portal.browser(GOVERNMENT)
    assert [browser.get("/api/v1/me").status_code for _ in range(12)] == [200] * 9 + [429] * 3  # one: the page before
    portal.seconds += 6
    assert browser.get("/api/v1/me").status_code == 200
    assert portal.browser(PortalRole.AUDITOR).get("/api/v1/me").status_code == 200


def test_a_mistake_of_ours_is_told_by_a_number_and_nothing_else(tmp_path: Path) -> None:
    router = APIRouter()

    @router.get("/broken", dependencies=[Depends(Needs(Action.HOME_READ))])
    @router.get("/api/v1/broken", dependencies=[Depends(Needs(Action.HOME_READ))])
    def broken() -> None:
        raise RuntimeError("a secret detail")

    portal = TestPortal(tmp_path, features=(Feature(name="broken", routes=lambda _: [router]),))
    browser = portal.browser(GOVERNMENT)
    for language, title in (("ko", "저희 쪽 오류입니다"), ("en", "Our mistake")):
        for path in ("/broken", "/api/v1/broken"):
            answer = browser.get(path, **{"Accept-Language": language})
            assert answer.status_code == 500
            assert title in answer.text
            assert "secret detail" not in answer.text
            assert answer.headers["content-security-policy"] == CSP


@pytest.mark.parametrize(
    ("status", "title"), [(403, "허용되지 않은"), (404, "찾을 수 없습니다"), (419, "양식을 다시"), (429, "천천히")]
)
def test_error_pages_are_pages(portal: TestPortal, status: int, title: str) -> None:
    browser = portal.browser(PortalRole.RESEARCHER)
    asked = {
        403: lambda: browser.get("/audit"),
        404: lambda: browser.get("/nowhere"),
        419: lambda: browser.client.post("/profile", data={"name": "x"}),
        429: lambda: [browser.post("/profile/password", old="x") for _ in range(25)][-1],
    }
    answer = asked[status]()
    assert answer.status_code == status
    assert '<html lang="ko">' in answer.text
    assert title in answer.text


JSON_ROUTER = APIRouter(prefix="/api/v1")


@JSON_ROUTER.put("/notes/{name}", dependencies=[Depends(Needs(Action.HOME_READ))], responses=PROBLEMS)
def put_note(request: Request, name: str, note: Note, match: IfMatch = None) -> Note:
    refuse_outdated(request, Note(text="old") if name == "there" else None)
    return note


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Browser]:
    portal = TestPortal(tmp_path, features=(Feature(name="notes", routes=lambda _: [JSON_ROUTER]),))
    yield portal.browser(GOVERNMENT)
    portal.store.close()


def put(notes: Browser, name: str = "there", content: str = '{"text":"new"}', **headers: str) -> Response:
    given = {"Origin": ORIGIN, "X-CSRF-Token": notes.csrf, "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return notes.client.put(f"/api/v1/notes/{name}", content=content, headers=given)


def test_a_change_meant_for_what_was_there_before_is_refused(notes: Browser) -> None:
    etag = '"' + hashlib.sha256(b'{"text":"old"}').hexdigest()[:24] + '"'
    cases = [
        ("there", {}, 200),
        ("there", {"If_Match": etag}, 200),
        ("there", {"If_Match": f'"x", W/{etag}'}, 200),
        ("there", {"If_Match": '"x"'}, 412),
        ("there", {"If_Match": "*"}, 200),
        ("new", {"If_Match": "*"}, 412),
        ("new", {"If_Match": etag}, 412),
        ("new", {"If_None_Match": "*"}, 200),
        ("there", {"If_None_Match": "*"}, 412),
    ]
    for name, headers, status in cases:
        assert put(notes, name, **headers).status_code == status, (name, headers)


@pytest.mark.parametrize(
    ("content", "kind", "status", "problem"),
    [
        ('{"text":', "application/json", 400, "_Unreadable"),
        ("text=new", "application/x-www-form-urlencoded", 415, "_NotJson"),
        ('{"text":"new"}', "text/plain", 415, "_NotJson"),
        ('{"text":7}', "application/json", 422, "InvalidInput"),
        ("[]", "application/json", 422, "InvalidInput"),
        ('{"text":"new"}', "application/json; charset=utf-8", 200, ""),
    ],
)
def test_a_body_that_is_not_taken_is_told_as_a_problem(
    notes: Browser, content: str, kind: str, status: int, problem: str
) -> None:
    answer = put(notes, content=content, Content_Type=kind)
    assert answer.status_code == status
    if problem:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == f"urn:gpuaas:problem:{problem}"
        assert answer.json()["way_out"]


def test_what_the_api_does_not_have_is_a_problem_too(portal: TestPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    for method, path, status in (("GET", "/api/v1/nothing", 404), ("PUT", "/api/v1/me", 405), ("GET", "/api/", 404)):
        answer = browser.client.request(method, path, headers={"Origin": ORIGIN, "X-CSRF-Token": browser.csrf})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
    assert answer.json()["status"] == 404


def test_who_asks_too_often_is_told_when_the_next_is_taken(tmp_path: Path) -> None:
    portal = TestPortal(tmp_path, settings={"limits": {"person": 10}})
    token = make_token(portal.browser(GOVERNMENT), Action.HOME_READ)
    answers = [ask(portal, "/api/v1/me", token) for _ in range(10)]
    assert answers[-1].status_code == 429
    wait = int(answers[-1].headers["retry-after"])
    portal.seconds += wait
    assert ask(portal, "/api/v1/me", token).status_code == 200
    portal.store.close()


def test_the_description_is_there_for_programs_and_for_people(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.RESEARCHER)
    described = browser.get("/api/v1/openapi.json")
    assert described.json()["openapi"].startswith("3.1")
    etag = described.headers["etag"]
    assert browser.client.get("/api/v1/openapi.json", headers={"If-None-Match": etag}).status_code == 304
    page = browser.get("/api-reference").text
    for path, item in described.json()["paths"].items():
        assert f"<code>{path}</code>" in page
        for operation in item.values():
            assert operation["x-gpuaas-gate"] in page
    for name in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{name}"' in page, name
