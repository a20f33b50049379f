"""Programmes, organisations and shares: read by all or by whose they are, declared by the programme's office."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.names import ProgrammeName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.routes.programme_form import changes, filled, read_form, read_text, written
from tests.pools import Browser, PoolPortal
from tests.unit.pool.scene import NAVER, programme

GOVERNMENT = PortalRole.GOVERNMENT


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolPortal]:
    portal = PoolPortal(tmp_path)
    yield portal
    portal.store.close()


def hidden(page: str) -> dict[str, str]:
    """Fields of the preview's form."""
    found = re.findall(r'type="hidden" name="(document|seen|command)" value="([^"]*)"', page)
    return {name: unescape(value) for name, value in found}


def put(browser: Browser, path: str, document: Any, **headers: str) -> Any:
    signed = {"Origin": browser.origin, "X-CSRF-Token": browser.csrf, **headers}
    return browser.client.put(path, json=document, headers=signed)


# -- The form and the text, without a portal ---------------------------------------------------------------------------

RULES = (
    programme(),
    programme(cap_won=10**9, least_score=60, beyond=None, caps={"organisation": 64, "per_project": 16}, calls=()),
)


@pytest.mark.parametrize("rules", RULES)
def test_a_programme_survives_its_form_and_its_text(rules: Any) -> None:
    assert read_form(filled(rules)) == (rules, {})
    assert read_text(written(rules)) == (rules, [])
    assert read_text(rules.model_dump_json()) == (rules, [])
    assert changes(rules, rules) == []


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": ["A b"]}, "name"),
        ({"title_ko": [""]}, "title_ko"),
        ({"price_firm": ["101"]}, "price_firm"),
        ({"price_firm": ["NaN"]}, "price_firm"),
        ({"price_university": [], "price_young-firm": [], "price_firm": []}, "prices"),
        ({"shares": []}, "shares"),
        ({"shares": ["nowhere"]}, "shares"),
        ({"sizes": ["8, x"]}, "sizes"),
        ({"sizes": ["8, 8"]}, ""),
        ({"models": [""]}, "models"),
        ({"longest_days": ["0"]}, "longest_days"),
        ({"cap_won": ["-1"]}, "cap_won"),
        ({"call_closes": ["2026-01-01T00:00"]}, "calls"),
        ({"call_opens": ["soon"]}, "calls"),
        ({"criterion_weight": ["0", "1"]}, "criteria"),
        ({"criterion_key": ["plan", "plan"]}, ""),
    ],
)
def test_what_is_wrong_in_the_form_is_told_beside_its_field(changed: dict[str, list[str]], field: str) -> None:
    wanted, faults = read_form(filled(programme()) | changed)
    assert wanted is None
    assert list(faults) == [field], faults


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "mapping"),
        ("a: [1", "Line 1"),
        ("name: x\nname: y", "Line 2"),
        ("a: &a [x]\nb: *a", "references"),
        ("!!python/object/apply:os.system [id]", "Line 1"),
        ("[" * 1_000, "cannot be read"),
        ("x" * 50_001, "50000"),
        ("name: 0x_", "cannot be read"),
        ("nonsense: 1", "there is no such field"),
    ],
)
def test_what_is_wrong_in_the_text_is_told_with_its_place(text: str, part: str) -> None:
    wanted, faults = read_text(text)
    assert wanted is None
    assert any(part in fault for fault in faults), faults


@given(st.text("ab:[]{}&*!-#'\"0 \n\t\x00가", max_size=60))
def test_no_text_is_too_hostile_to_be_read(text: str) -> None:
    wanted, faults = read_text(text)
    assert wanted is None and faults


def test_changes_name_each_place_with_what_was_and_what_comes() -> None:
    before = programme()
    after = programme(longest_days=180, sizes=(8, 16), prices={"university": 0, "firm": 5})
    assert changes(before, after) == [
        ("sizes", "8, 16, 32, 64", "8, 16"),
        ("longest_days", "365", "180"),
        ("prices.young-firm", "2.5", ""),
    ]


# -- The portal --------------------------------------------------------------------------------------------------------


def test_readers_see_the_price_of_their_own_kind(pool: PoolPortal) -> None:
    prices = {"researcher-snu": "무상", "researcher-mint": "시장 가격의 2.5%"}
    for login, price in prices.items():
        page = pool.browser(login).get("/programmes").text
        assert re.search(rf"내 기관</dt><dd><strong>{price}</strong>", page), login
        assert 'href="/apply/national"' in page
    office = pool.browser(GOVERNMENT).get("/programmes").text
    assert "내 기관" not in office and "/apply/" not in office and "/programmes/-/form" in office
    assert ">국가 GPU 지원 변경</h1>" in pool.browser(GOVERNMENT).get("/programmes/-/form?name=national").text


def test_the_office_sees_what_changes_before_it_is_in_force(pool: PoolPortal) -> None:
    browser = pool.browser(GOVERNMENT)
    rules = pool.store.register.programmes.get(ProgrammeName("national"))
    typed: dict[str, Any] = filled(rules) | {"longest_days": ["180"]}
    preview = browser.post("/programmes/-/form", **typed)
    assert preview.status_code == 200
    assert "<del>365</del>" in preview.text and "<ins>180</ins>" in preview.text
    assert pool.store.register.programmes.get(ProgrammeName("national")) == rules, "nothing yet"
    for _ in range(2):  # pressed twice
        assert browser.post("/programmes/-/put", **hidden(preview.text)).status_code == 303
    assert pool.store.register.programmes.get(ProgrammeName("national")).longest_days == 180
    assert pool.actions().count("programme.put") == 2, "the first declaration and this one"


def test_what_somebody_changed_meanwhile_is_not_overwritten(pool: PoolPortal) -> None:
    browser = pool.browser(GOVERNMENT)
    rules = pool.store.register.programmes.get(ProgrammeName("national"))
    preview = browser.post(
        "/programmes/-/text", document=written(rules).replace("longest_days: 365", "longest_days: 90")
    )
    other = rules.model_copy(update={"grace_days": 7})
    second = pool.browser("second")
    assert put(second, "/api/v1/programmes/national", other.model_dump(mode="json")).status_code == 200
    answer = browser.post("/programmes/-/put", **hidden(preview.text))
    assert answer.status_code == 409 and "<ins>90</ins>" in answer.text
    assert pool.store.register.programmes.get(ProgrammeName("national")) == other
    assert browser.post("/programmes/-/put", **hidden(answer.text)).status_code == 303, "having seen it"


def test_put_replaces_only_what_was_read_and_a_repeat_is_answered_again(pool: PoolPortal) -> None:
    browser = pool.browser(GOVERNMENT)
    for path in ("/api/v1/programmes/national", "/api/v1/organisations/snu", f"/api/v1/shares/{NAVER}"):
        read = browser.get(path)
        document, etag = read.json(), read.headers["etag"]
        document = document.get("share", document)
        field = {"national": "grace_days", "snu": "title"}.get(path.rsplit("/", 1)[1], "capacity")
        changed = document | {field: {"grace_days": 9, "title": "Seoul", "capacity": 40}[field]}
        act = {"Idempotency-Key": f"put-{field.replace('_', '-')}-once"}
        assert put(browser, path, document, **{"If-None-Match": "*"}).status_code == 412
        assert put(browser, path, changed, **{"If-Match": '"another"'}).status_code == 412
        for _ in range(2):
            assert put(browser, path, changed, **{"If-Match": etag}, **act).status_code == 200
        answer = put(browser, path, document, **{"If-Match": etag})
        assert answer.status_code == 412 and answer.headers["content-type"] == "application/problem+json"
        assert browser.get(path).headers["etag"] != etag


def test_a_wrong_form_keeps_what_was_typed_and_a_new_programme_is_made(pool: PoolPortal) -> None:
    browser = pool.browser(GOVERNMENT)
    typed: dict[str, Any] = filled(programme()) | {"name": ["seoul"], "title_ko": ["서울 사업"], "cap_won": ["many"]}
    answer = browser.post("/programmes/-/form", **typed)
    assert answer.status_code == 422
    assert 'value="서울 사업"' in answer.text and 'id="f-cap_won-fault"' in answer.text
    preview = browser.post("/programmes/-/form", **typed | {"cap_won": ["30,000,000"]})
    assert browser.post("/programmes/-/put", **hidden(preview.text)).status_code == 303
    assert pool.store.register.programmes.get(ProgrammeName("seoul")).cap_won == 30_000_000


def test_a_share_that_does_not_exist_is_told_in_the_preview(pool: PoolPortal) -> None:
    browser = pool.browser(GOVERNMENT)
    typed: dict[str, Any] = filled(programme()) | {"shares": ["kakao.b200.government"]}
    preview = browser.post("/programmes/-/form", **typed)
    answer = browser.post("/programmes/-/put", **hidden(preview.text))
    assert answer.status_code == 404 and "kakao.b200.government" in answer.text


def test_only_the_office_declares(pool: PoolPortal) -> None:
    documents = {
        "/api/v1/programmes/national": programme().model_dump(mode="json"),
        "/api/v1/organisations/snu": {"name": "snu", "kind": "firm", "region": "seoul", "title": "SNU"},
        "/api/v1/shares/nhn.b200.government": {
            "provider": "nhn",
            "cluster": "nhn",
            "pool": "b200",
            "share": "government",
            "model": "b200",
            "capacity": 96,
        },
    }
    for who in ("admin-snu", PortalRole.PROVIDER_OPERATOR, PortalRole.AUDITOR, GOVERNMENT):
        browser = pool.browser(who)
        for path, document in documents.items():
            assert put(browser, path, document).status_code == (200 if who is GOVERNMENT else 403), (who, path)
            assert put(browser, path + "x", document).status_code == (422 if who is GOVERNMENT else 403), (who, path)
            if who is GOVERNMENT and "shares" not in path:
                assert browser.get(path).json().items() >= document.items()


def test_organisations_and_shares_are_read_by_whose_they_are(pool: PoolPortal) -> None:
    everything = ["kaist", "mint", "snu"], ["naver.h200.government", "nhn.b200.government"]
    sees: dict[PortalRole | str, tuple[list[str], list[str]]] = {
        GOVERNMENT: everything,
        PortalRole.AUDITOR: everything,
        "admin-snu": (["snu"], []),
        "researcher-mint": (["mint"], []),
        PortalRole.PROVIDER_OPERATOR: ([], ["naver.h200.government"]),
        PortalRole.PROVIDER_BILLING: ([], ["naver.h200.government"]),
    }
    for who, (organisations, shares) in sees.items():
        browser = pool.browser(who)
        unseen = 404 if organisations else 403
        for path, wanted in (("organisations", organisations), ("shares", shares)):
            answer = browser.get(f"/api/v1/{path}")
            assert answer.status_code == (200 if wanted else 403), (who, path)
            assert [one["name"] for one in answer.json().get("items", ())] == wanted, (who, path)
        for name in everything[0]:
            assert browser.get(f"/organisations/{name}").status_code == (200 if name in organisations else unseen), who
        for name in everything[1]:
            assert browser.get(f"/shares/{name}").status_code == (200 if name in shares else 404 if shares else 403), (
                who
            )


def test_the_office_registers_an_organisation_and_a_share_by_form(pool: PoolPortal) -> None:
    browser = pool.browser(GOVERNMENT)
    wrong = browser.post("/organisations", name="Po Stech", title="", kind="club", region="seoul")
    assert wrong.status_code == 422
    assert {f'id="f-{name}-fault"' for name in ("name", "title", "kind")} <= set(re.findall(r'id="[^"]*"', wrong.text))
    made = browser.post("/organisations", name="postech", title="포항공과대학교", kind="university", region="gyeongbuk")
    assert made.headers["location"] == "/organisations/postech?said=organisation-put"
    assert "경북" in browser.get("/organisations/postech").text
    share = {"provider": "kakao", "cluster": "kakao", "pool": "b200", "share": "government", "model": "b200"}
    assert browser.post("/shares", **share, capacity="many").status_code == 422
    assert browser.post("/shares", **share, capacity="2,040").status_code == 303
    assert "2,040" in browser.get("/shares/kakao.b200.government").text
    other = browser.post("/shares", **share | {"model": "h200"}, capacity="8")
    assert other.status_code == 409 and "b200" in other.text
