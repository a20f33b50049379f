"""Rates, ledger, statements, usage and reports: what people of each role see and may do, to the Won."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from click.testing import CliRunner, Result
from httpx2 import Response
from hypothesis import given, settings
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from sqlalchemy import text

from slurm_gpuaas.domain.accounts import Office
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.ledger import EntryKind
from slurm_gpuaas.domain.money import Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import ProgrammeName, ProviderName, UserName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.pool.work import Program
from slurm_gpuaas.portal.app import make_app
from slurm_gpuaas.portal.description import describe, gate_of
from slurm_gpuaas.portal.main import command
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import scope_of
from slurm_gpuaas.portal.routes.usage import month_label
from slurm_gpuaas.portal.visit import Needs
from slurm_gpuaas.store.pool import PoolStore
from tests.money import CLUSTER, DECEMBER, JANUARY, MoneyPortal, command_id
from tests.pools import ORIGIN, PASSWORD, Browser
from tests.unit.metering.books import kst
from tests.unit.pool.ladder import grant_day
from tests.unit.pool.scene import NAVER, organisation, programme
from tests.unit.portal.test_rights import calls

GOVERNMENT, BILLING, ADMIN = PortalRole.GOVERNMENT, PortalRole.PROVIDER_BILLING, PortalRole.TENANT_ADMIN
RESEARCHER, AUDITOR = PortalRole.RESEARCHER, PortalRole.AUDITOR
OF_MINT, OF_SNU = "2026-12-naver-0001", "2026-12-naver-0002"
DRAFT = "2027-01.naver.snu"
PREFIXES = ("/rates", "/ledger", "/statements", "/usage", "/overview", "/reports")
RATE = {
    "name": "h200-2027",
    "model": "h200",
    "won_per_gpu_hour": "4,200",
    "burst_discount": "50",
    "starts": "2027-03-01",
    "basis": "Notice 2027-3",
}
CREDIT = {"kind": "credit", "organisation": "snu", "won": "-1,000", "reason": "Fabric was slow for a day"}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MoneyPortal]:
    """Of tests that only look."""
    portal = MoneyPortal(tmp_path_factory.mktemp("money"))
    yield portal
    portal.store.close()


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[MoneyPortal]:
    portal = MoneyPortal(tmp_path)
    yield portal
    portal.store.close()


def proposals(portal: MoneyPortal) -> list[str]:
    return [one.request.command for one in portal.store.ledger.rate_requests.all()]


def post(browser: Browser, path: str, body: Any = None, **headers: str) -> Response:
    """To the API, with a session."""
    sent = {"Origin": ORIGIN, "X-CSRF-Token": browser.csrf, "Accept-Language": "en"} | headers
    return browser.client.post(path, json=body, headers=sent)


# -- Rates -------------------------------------------------------------------------------------------------------------


def test_a_rate_needs_two_people_and_is_proposed_once_however_often_it_is_pressed(portal: MoneyPortal) -> None:
    billing = portal.browser(BILLING)
    for _ in range(2):
        assert billing.post("/rates/propose", command="press-0001", **RATE).status_code == 303
    assert proposals(portal) == ["press-0001"]
    page = billing.get("/rates").text
    assert "다른 사람이 결정" in page and "/approve" not in page
    assert billing.post("/rates/proposals/press-0001/approve").status_code == 403
    assert len(portal.store.ledger.rates()) == 1
    government = portal.browser(GOVERNMENT)
    assert "4,200원" in government.get("/rates").text
    for _ in range(2):
        assert government.post("/rates/proposals/press-0001/approve").status_code == 303
    assert ("h200-2027", 4_200) in {(rate.name, rate.won_per_gpu_hour) for rate in portal.store.ledger.rates()}
    done = [one.action for one in portal.store.audit.newest(limit=9, action="rate") if one.result == "done"]
    assert done == ["rate.approve", "rate.propose"]
    assert post(government, "/api/v1/rates/proposals/press-0001/refuse", {"why": "late"}).status_code == 409


def test_a_government_that_proposes_a_rate_needs_a_second_person_of_its_own(portal: MoneyPortal) -> None:
    first, second = portal.browser(GOVERNMENT), portal.browser("second")
    body = {"name": "b200-2027", "model": "b200", "won_per_gpu_hour": 5_000, "starts": "2027-02-01", "basis": "x"}
    made = post(first, "/api/v1/rates", body, **{"Idempotency-Key": "made-once"})
    assert (made.status_code, made.json()["verdict"]) == (201, "open")
    again = post(first, "/api/v1/rates", body, **{"Idempotency-Key": "made-once"})
    assert (again.status_code, proposals(portal)) == (201, ["made-once"])
    own = post(first, "/api/v1/rates/proposals/made-once/approve")
    assert (own.status_code, own.json()["detail"]) == (403, "Who asks for something does not approve it.")
    refused = post(second, "/api/v1/rates/proposals/made-once/refuse", {"why": "No notice yet"})
    assert (refused.json()["verdict"], refused.json()["why"]) == ("refused", "No notice yet")
    assert "No notice yet" in first.get("/rates").text
    assert {rate.name for rate in portal.store.ledger.rates()} == {"h200-2026"}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", "H 200"),
        ("name", "h200-2026"),
        ("model", "b200"),
        ("model", ""),
        ("won_per_gpu_hour", "-1"),
        ("won_per_gpu_hour", "1" * 300),
        ("won_per_gpu_hour", "４２００"),
        ("burst_discount", "100.01"),
        ("burst_discount", "NaN"),
        ("starts", "2026-12-31"),
        ("starts", "9999-12-31"),
        ("starts", "soon"),
        ("basis", ""),
        ("programme", "nowhere"),
        ("share", "nowhere"),
    ],
)
def test_a_wrong_proposal_is_told_beside_its_field_and_kept(seen: MoneyPortal, field: str, wrong: str) -> None:
    seen.seconds += 60
    answer = seen.browser(BILLING).post("/rates/propose", **RATE | {field: wrong})
    assert answer.status_code == 422
    assert ('class="fault"' in answer.text and 'value="Notice 2027-3"' in answer.text) or field == "basis"
    assert proposals(seen) == []


def test_what_is_proposed_is_seen_by_government_and_the_proposing_provider_alone(portal: MoneyPortal) -> None:
    portal.browser(BILLING).post("/rates/propose", command="press-0001", **RATE)
    seen_by = {
        who: len(portal.browser(who).get("/api/v1/rates/proposals").json()["items"])
        for who in (GOVERNMENT, AUDITOR, BILLING, "billing-nhn", ADMIN)
        if who != "billing-nhn" or _billing_of_nhn(portal)
    }
    assert seen_by == {GOVERNMENT: 1, AUDITOR: 1, BILLING: 1, "billing-nhn": 0, ADMIN: 0}
    assert [one["in_force"] for one in portal.browser(ADMIN).get("/api/v1/rates").json()["items"]] == [True]


def _billing_of_nhn(portal: MoneyPortal) -> bool:
    portal.accounts.create(
        login=UserName("billing-nhn"),
        name="다른정산",
        email="nhn@example.org",
        office=Office(role=BILLING, provider=ProviderName("nhn")),
        password=PASSWORD,
    )
    return True


# -- Ledger ------------------------------------------------------------------------------------------------------------


def by_hand(portal: MoneyPortal) -> list[tuple[EntryKind, int]]:
    return [(one.kind, one.amounts.won) for one in portal.store.ledger.entries() if one.used is None]


def test_a_correction_is_booked_when_a_second_person_of_the_provider_approves(portal: MoneyPortal) -> None:
    billing, second = portal.browser(BILLING), portal.browser("billing2")
    for _ in range(2):
        assert billing.post("/ledger/corrections", command="credit-001", **CREDIT).status_code == 303
    assert by_hand(portal) == []
    assert billing.post("/ledger/corrections/credit-001/approve").status_code == 403
    _billing_of_nhn(portal)
    other = portal.browser("billing-nhn")
    assert "credit-001" not in other.get("/ledger").text
    assert other.post("/ledger/corrections/credit-001/approve").status_code == 404
    for _ in range(2):
        assert second.post("/ledger/corrections/credit-001/approve").status_code == 303
    assert by_hand(portal) == [(EntryKind.CREDIT, -1_000)]
    assert "Fabric was slow for a day" in billing.get("/ledger").text
    assert {"ledger.ask", "ledger.approve"} <= set(portal.actions())
    draft = portal.pool.keeper.draft(DRAFT)
    assert draft.head.supply == 144_040 + 14_404 - 1_000


def test_a_payment_is_booked_once_and_lowers_what_is_due(portal: MoneyPortal) -> None:
    billing = portal.browser(BILLING)
    for _ in range(2):
        fields = {"pay_of": "snu", "pay_won": "153,162", "pay_refers": OF_SNU, "pay_reason": "KB 12"}
        assert billing.post("/ledger/payments", command="pay-00001", **fields).status_code == 303
    assert by_hand(portal) == [(EntryKind.PAYMENT, -153_162)]
    head = portal.pool.keeper.draft(DRAFT).head
    assert (head.carried, head.paid, head.due) == (153_162, 153_162, head.total)
    assert billing.post("/ledger/payments", pay_of="kaist", pay_won="1").status_code == 422


@pytest.mark.parametrize(
    ("field", "wrong"), [("kind", "charge"), ("won", "0"), ("won", "1e3"), ("won", "500"), ("organisation", "kaist"),
                         ("reason", "bad"), ("grant", "G 1"), ("organisation", "../x")]
)  # fmt: skip
def test_a_wrong_correction_is_told_and_nothing_is_asked(seen: MoneyPortal, field: str, wrong: str) -> None:
    seen.seconds += 60
    assert seen.browser(BILLING).post("/ledger/corrections", **CREDIT | {field: wrong}).status_code == 422
    assert seen.store.ledger.requests() == []


def test_entries_are_read_in_pages_without_missing_or_doubling(seen: MoneyPortal) -> None:
    browser = seen.browser(AUDITOR)
    whole = [one["seq"] for one in browser.get("/api/v1/ledger").json()["items"]]
    assert whole == sorted((entry.seq for entry in seen.store.ledger.entries()), reverse=True)
    read: list[int] = []
    path = "/api/v1/ledger?limit=3"
    while path:
        page = browser.get(path).json()
        read += [one["seq"] for one in page["items"]]
        path = f"/api/v1/ledger?limit=3&cursor={page['next']}" if page["next"] else ""
    assert read == whole
    (late,) = browser.get("/api/v1/ledger?kind=correction").json()["items"]
    assert (late["month"], late["used_in"], late["won"]) == ("2027-01", "2026-12", 14_404)
    assert {one["grant"] for one in browser.get("/api/v1/ledger?organisation=mint").json()["items"]} == {
        seen.money.mint.id
    }
    for wrong in ("month=2026-13", "kind=x", "organisation=A%20B", "grant=!", "cursor=x"):
        assert browser.get(f"/api/v1/ledger?{wrong}").status_code == 422, wrong


# -- Statements --------------------------------------------------------------------------------------------------------


def test_a_statement_says_what_is_due_and_where_its_month_was_corrected(seen: MoneyPortal) -> None:
    browser = seen.browser(ADMIN)
    found = browser.get(f"/api/v1/statements/{OF_SNU}").json()
    assert (found["head"]["supply"], found["head"]["vat"], found["head"]["due"]) == (139_239, 13_923, 153_162)
    assert sum(line["won"] for line in found["lines"]) == found["head"]["supply"]
    assert found["corrected_later"] == [{"month": "2027-01", "gpu_seconds": 28_800, "won": 14_404}]
    page = browser.get(f"/statements/{OF_SNU}").text
    assert f'href="/statements/{DRAFT}"' in page
    draft = browser.get(f"/api/v1/statements/{DRAFT}").json()
    assert (draft["head"]["provisional"], draft["head"]["carried"]) == (True, 153_162)
    assert sorted(line["kind"] for line in draft["lines"]) == ["charge", "charge", "correction"]
    assert "잠정" in browser.get(f"/statements/{DRAFT}").text


def test_what_a_draft_says_is_what_is_issued(portal: MoneyPortal) -> None:
    draft = portal.pool.keeper.draft(DRAFT)
    portal.clock.at = JANUARY.window.end
    portal.pool.keeper.close(JANUARY)
    issued = {head.organisation: head for head in portal.store.ledger.statements(month=JANUARY)}[
        draft.head.organisation
    ]
    assert (issued.supply, issued.vat, issued.carried, issued.due) == (
        draft.head.supply,
        draft.head.vat,
        draft.head.carried,
        draft.head.due,
    )
    (later,) = portal.pool.keeper.corrections(portal.store.ledger.statement(OF_SNU)).items()
    assert (later[0], later[1].won) == (JANUARY, 14_404)


def test_whoever_owes_sees_a_draft_without_any_use(portal: MoneyPortal) -> None:
    portal.clock.at = JANUARY.window.end
    portal.pool.keeper.close(JANUARY)
    drafts = portal.browser(ADMIN).get("/api/v1/statements/drafts").json()["items"]
    (issued,) = portal.store.ledger.statements(month=JANUARY, organisation=portal.money.snu.organisation)
    assert [(one["number"], one["supply"], one["due"]) for one in drafts] == [("2027-02.naver.snu", 0, issued.due)]
    assert portal.browser(ADMIN).get("/statements/2027-02.naver.snu").status_code == 200


@pytest.mark.parametrize("kind", ["", ".pdf", ".csv"])
@pytest.mark.parametrize("api", ["", "/api/v1"])
def test_nobody_reads_another_ones_statement(seen: MoneyPortal, api: str, kind: str) -> None:
    for number in (OF_MINT, "2027-01.naver.mint"):
        for who, status in ((ADMIN, 404), (RESEARCHER, 403), ("admin-mint", 200), (BILLING, 200), (GOVERNMENT, 200)):
            if kind == ".pdf" and status == 200:
                continue  # made in another test: it takes a second
            seen.seconds += 60
            answer = seen.browser(who).get(f"{api}/statements/{number}{kind}")
            assert answer.status_code == status, (number, who)
            if status != 200:
                assert "5,761" not in answer.text and "MINT" not in answer.text


def test_a_statement_is_a_file_with_a_plain_name(seen: MoneyPortal) -> None:
    browser = seen.browser(ADMIN)
    pdf = browser.get(f"/statements/{DRAFT}.pdf")
    assert (pdf.headers["content-type"], pdf.content[:5]) == ("application/pdf", b"%PDF-")
    assert pdf.headers["content-disposition"] == f'attachment; filename="statement-{DRAFT}.pdf"'
    table = browser.get(f"/statements/{OF_SNU}.csv")
    assert table.headers["content-disposition"] == f'attachment; filename="statement-{OF_SNU}.csv"'
    rows = list(csv.DictReader(io.StringIO(table.content.decode("utf-8-sig"))))
    assert sum(int(row["공급가액 Supply Won"]) for row in rows) == 139_239


@pytest.mark.parametrize(
    "number", ["2026-12-naver-0009", "2027-01.naver.kaist", "2026-12.naver.snu", "a.b", "..", "x" * 999]
)
def test_a_statement_that_is_not_there_is_not_found(seen: MoneyPortal, number: str) -> None:
    seen.seconds += 60
    assert seen.browser(GOVERNMENT).get(f"/api/v1/statements/{number}").status_code == 404


def test_statements_are_listed_in_pages_within_what_one_may_see(seen: MoneyPortal) -> None:
    mine = {
        who: [one["number"] for one in seen.browser(who).get("/api/v1/statements").json()["items"]]
        for who in (GOVERNMENT, BILLING, ADMIN, "admin-mint")
    }
    assert mine == {GOVERNMENT: [OF_SNU, OF_MINT], BILLING: [OF_SNU, OF_MINT], ADMIN: [OF_SNU], "admin-mint": [OF_MINT]}
    browser = seen.browser(GOVERNMENT)
    first = browser.get("/api/v1/statements?limit=1").json()
    second = browser.get(f"/api/v1/statements?limit=1&cursor={first['next']}").json()
    assert [first["items"][0]["number"], second["items"][0]["number"], second["next"]] == [OF_SNU, OF_MINT, None]
    drafts = browser.get("/api/v1/statements/drafts").json()["items"]
    assert [one["number"] for one in drafts] == ["2027-01.naver.mint", DRAFT]
    assert seen.browser(ADMIN).get("/api/v1/statements?organisation=mint").status_code == 404


# -- Usage -------------------------------------------------------------------------------------------------------------


def usage_of(
    portal: MoneyPortal, who: PortalRole | str, query: str
) -> dict[str, tuple[int, int, int, int, int | None]]:
    portal.seconds += 60
    answer = portal.browser(who).get(f"/api/v1/usage?{query}")
    assert answer.status_code == 200, answer.text
    names = ("guaranteed_gpu_seconds", "burst_gpu_seconds", "preempted_gpu_seconds", "faults_gpu_seconds", "won")
    return {one["key"]: tuple(one[name] for name in names) for one in answer.json()["items"]}


def test_usage_is_told_to_the_second_with_faults_and_preemption_apart(seen: MoneyPortal) -> None:
    hour = 8 * 3_600
    assert usage_of(seen, GOVERNMENT, "month=2027-01") == {
        "snu": (10 * hour, 0, 0, hour // 2, 144_040),
        "mint": (0, hour * 3 // 2, 0, 0, 2_880),
    }
    december = usage_of(seen, BILLING, "month=2026-12&by=model")
    assert december == {"h200": (12 * hour, hour, hour, 0, 129_636 + 9_603 + 14_404 + 5_761)}
    assert usage_of(seen, "researcher-snu", "month=2027-01") == {seen.money.snu.id: (10 * hour, 0, 0, hour // 2, None)}
    assert usage_of(seen, RESEARCHER, "month=2027-01") == {}


def test_the_people_of_a_grant_add_up_to_the_grant(seen: MoneyPortal) -> None:
    grant = seen.money.snu.id
    people = usage_of(seen, ADMIN, f"month=2026-12&grant={grant}&by=person")
    ((login, parts),) = people.items()
    assert login == "kim-snu"
    assert parts[:4] == usage_of(seen, ADMIN, "month=2026-12&by=grant")[grant][:4]
    assert "researcher-snu님" in seen.browser(ADMIN).get(f"/usage?month=2026-12&grant={grant}").text


@pytest.mark.parametrize(
    ("who", "query", "status"),
    [
        (ADMIN, "organisation=mint", 404),
        (ADMIN, "grant=g2026-00002", 404),
        (RESEARCHER, "grant=g2026-00001", 404),
        ("researcher-snu", "grant=g2026-00001", 200),
        (GOVERNMENT, "grant=g2026-00009", 404),
        (GOVERNMENT, "grant=x", 404),
        (GOVERNMENT, "by=person", 422),
        (GOVERNMENT, "by=organisation&grant=g2026-00001", 200),
        (ADMIN, "by=organisation", 422),
        (GOVERNMENT, "month=1-1", 422),
    ],
)
def test_usage_keeps_to_what_one_may_see(seen: MoneyPortal, who: PortalRole | str, query: str, status: int) -> None:
    for path in ("/api/v1/usage", "/usage", "/usage.csv"):
        seen.seconds += 60
        assert seen.browser(who).get(f"{path}?{query}").status_code == status, path


def test_usage_says_since_when_use_is_missing_in_it(portal: MoneyPortal) -> None:
    browsers = [portal.browser(who) for who in (GOVERNMENT, "admin-snu", "researcher-snu")]
    elsewhere = portal.browser("admin-kaist")  # which has no grant anywhere
    january, december = "/usage?month=2027-01", "/usage?month=2026-12"
    assert all("state stale" not in browser.get(january).text for browser in browsers)
    portal.clock.forward(timedelta(minutes=10))
    for browser in browsers:
        assert "naver의 마지막 보고는 10분 전입니다" in browser.get(january).text
        assert "state stale" not in browser.get(december).text, "it has reported since"
    assert "state stale" not in elsewhere.get(january).text


def test_no_name_becomes_a_formula_of_a_spreadsheet(portal: MoneyPortal) -> None:
    evil = organisation("snu").model_copy(update={"title": '=HYPERLINK("http://evil")'})
    portal.pool.service.put_organisation(command_id(), Program("tests"), evil)
    table = portal.browser(GOVERNMENT).get("/usage.csv?month=2027-01").content.decode("utf-8-sig")
    row = next(row for row in csv.reader(io.StringIO(table)) if row[0] == "snu")
    assert row[1].startswith("'=HYPERLINK")


# -- Reports -----------------------------------------------------------------------------------------------------------


def test_the_overview_says_what_there_is_who_has_it_what_runs_and_how_old_that_is(portal: MoneyPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    found = browser.get("/api/v1/reports/overview").json()
    naver, nhn = found["shares"]
    assert [naver[name] for name in ("capacity", "awarded", "guaranteed", "burst", "idle", "out", "late")] == [
        32, 32, 8, 4, 12, 8, False,
    ]  # fmt: skip
    assert [nhn[name] for name in ("capacity", "awarded", "guaranteed", "reported_at", "late")] == [
        64,
        0,
        None,
        None,
        True,
    ]
    paid = next(one for one in found["programmes"] if one["name"] == "paid")
    assert (paid["grants"], paid["organisations"], paid["gpus"], paid["budget"]) == (2, 2, 32, 100_000_000)
    booked = sum(entry.amounts.won for entry in portal.store.ledger.entries())
    assert paid["won"] == booked
    assert "2개 몫 가운데 1개" in browser.get("/overview").text
    portal.clock.forward(timedelta(minutes=11))
    assert "2개 몫 가운데 2개" in portal.browser(GOVERNMENT).get("/overview").text


def test_a_programmes_report_adds_up_to_the_ledger(seen: MoneyPortal) -> None:
    found = seen.browser(AUDITOR).get("/api/v1/reports/programmes/paid?first=2026-12&last=2027-01").json()
    entries = seen.store.ledger.entries()
    rows = {row["organisation"]: row for row in found["rows"]}
    assert sum(row["won"] for row in found["rows"]) == sum(entry.amounts.won for entry in entries)
    assert sum(row["guaranteed"] + row["burst"] for row in found["rows"]) == sum(
        entry.amounts.gpu_seconds for entry in entries
    )
    assert (rows["snu"]["faults"], rows["mint"]["faults"]) == (8 * 1_800, 0)
    since = 22 * 86_400 + 14 * 86_400 + 9 * 3_600  # from 10 December to 15 January, 9 in the morning
    assert rows["mint"]["awarded"] == 16 * since
    table = seen.browser(GOVERNMENT).get("/reports/programmes/paid.csv?first=2026-12&last=2027-01")
    assert len(table.text.splitlines()) == 3
    for path in ("/reports/programmes/x", "/reports/programmes/A", "/reports/programmes/x.csv"):
        assert seen.browser(GOVERNMENT).get(path).status_code == 404
    assert seen.browser(GOVERNMENT).get("/reports?first=2027-01&last=2026-12").status_code == 422
    assert seen.browser(GOVERNMENT).get("/reports?first=2020-01&last=2026-12").status_code == 422


def test_of_two_months_side_by_side_one_says_its_year() -> None:
    months = [Month(2025, 12), Month(2026, 1), Month(2026, 2)]
    assert [month_label(one, months[0]) for one in months] == ["12", "’26.1", "2"], "both years have no room"
    assert [month_label(one, months[2]) for one in months[1:]] == ["’26.1", "’26.2"]


def test_a_report_is_of_last_month_and_this_one_unless_others_are_asked_for(seen: MoneyPortal) -> None:
    browser = seen.browser(GOVERNMENT)
    for kind in ("pool", "programmes/paid"):
        assert browser.get(f"/api/v1/reports/{kind}").json() | {"as_of": ""} == browser.get(
            f"/api/v1/reports/{kind}?first=2026-12&last=2027-01"
        ).json() | {"as_of": ""}
    title = seen.store.register.programmes.get(ProgrammeName("paid")).title.ko
    (table,) = re.findall('<table class="stack dense">.*?</table>', browser.get("/reports").text, re.S)
    assert f">{title}</a>" in table, "people know a programme by its title"


def test_how_busy_gpus_were_is_said_as_far_as_it_was_measured(portal: MoneyPortal) -> None:
    grant, days = portal.money.snu, portal.store.register.days
    measured = [(date(2026, 12, 31), 0.9, 0.9), (date(2027, 1, 5), 0.5, 0.2), (date(2027, 1, 6), 0.5, None)]
    days.take(CLUSTER, [grant_day(grant, *one) for one in measured], at=portal.clock.now())
    browser, a_day = portal.browser(GOVERNMENT), 16 * 86_400
    (mint, snu) = browser.get("/api/v1/reports/programmes/paid?last=2027-01").json()["rows"]
    assert (snu["measured"], snu["busy"]) == (a_day // 2, a_day // 5), "of this month, and days on which it is known"
    assert (mint["measured"], mint["busy"]) == (0, 0)
    (row,) = browser.get("/api/v1/reports/pool?last=2027-01").json()["rows"]
    assert (row["measured"], row["busy"]) == (a_day // 2, a_day // 5)
    for path in ("/overview", "/reports?last=2027-01", "/reports/programmes/paid?last=2027-01"):
        said = browser.get(path, **{"Accept-Language": "en"}).text
        assert "40.0 %" in said and "measured: 192.00 GPU-hours" in said, path
    heading, *rows = csv.reader(io.StringIO(browser.get("/reports.csv?last=2027-01").content.decode("utf-8-sig")))
    assert rows[0][heading.index("GPU 가동 Busy GPU-h")] == "76.80"


def test_home_says_what_this_month_costs_and_what_is_left(seen: MoneyPortal) -> None:
    home = seen.browser(ADMIN).get("/").text
    assert "158,444원" in home  # 144,040 and a correction of 14,404
    spent = 129_636 + 9_603 + 14_404 + 144_040
    assert f"{Won(50_000_000 - spent):,}원" in home
    assert "161,324원" in seen.browser(BILLING).get("/").text


# -- Is it right -------------------------------------------------------------------------------------------------------


def run(portal: MoneyPortal, *arguments: str) -> Result:
    config = portal.folder / "portal.yaml"
    config.write_text(f"public_url: {ORIGIN}\nstore: {{url: 'sqlite:///{portal.folder}/pool.db'}}\n")
    return CliRunner().invoke(command, ["--config", str(config), *arguments])


def test_a_reconciliation_finds_a_lost_second_and_says_since_when(portal: MoneyPortal) -> None:
    (fine,) = portal.pool.reconcile([DECEMBER])
    assert (fine.different, fine.runs, fine.gpu_seconds) == (0, 4, 8 * 13 * 3_600)
    assert run(portal, "reconcile", "--month", "2026-12").exit_code == 0
    with portal.store.ledger.transaction() as session:
        session.execute(text("UPDATE use_sum SET gpu_seconds = gpu_seconds - 1 WHERE service = 'burst'"))
    broken = run(portal, "reconcile", "--month", "2026-12")
    assert broken.exit_code == 1
    assert "runs 28,800, sums 28,799, booked 28,800" in broken.stderr
    portal.clock.forward(timedelta(hours=2))
    portal.pool.reconcile([DECEMBER])
    (kept,) = [one for one in portal.store.ledger.reconciliations.newest([CLUSTER]) if one.month == DECEMBER]
    assert kept.different == 1 and kept.equal_at is not None and kept.at > kept.equal_at
    for who, path in ((GOVERNMENT, "/reports"), (BILLING, "/ledger")):
        assert "1곳 다름" in portal.browser(who).get(path).text


def test_use_that_came_since_the_last_booking_is_no_difference_as_long_as_its_booking_is_noted(
    portal: MoneyPortal,
) -> None:
    portal.money.take(portal.money.snu, kst(2027, 1, 8, 12), 3_600)
    (found,) = portal.pool.reconcile([JANUARY])
    assert found.different == 0
    with portal.store.ledger.transaction() as session:
        session.execute(text("DELETE FROM unbooked"))
    (found,) = portal.pool.reconcile([JANUARY])
    assert found.different == 1 and "booked" in found.differences[0]


def test_the_server_reconciles_by_itself_every_day(portal: MoneyPortal) -> None:
    portal.clock.forward(timedelta(days=1))
    portal.pool.turn()
    found = portal.browser(GOVERNMENT).get("/api/v1/reports/reconciliation").json()
    assert [(one["month"], one["equal"]) for one in found][:2] == [("2027-01", True), ("2026-12", True)]


def test_a_month_is_closed_on_the_host_once_it_is_over(tmp_path: Path) -> None:
    portal = MoneyPortal(tmp_path)
    early = run(portal, "close-month", "2027-01")  # by the real clock it is not over, whatever the tests' says
    assert early.exit_code != 0 and "2027-01 is not over" in str(early.exception)
    assert portal.store.ledger.closed_through() == DECEMBER
    portal.store.close()


def test_what_another_process_closed_is_seen_from_the_next_turn_on(tmp_path: Path) -> None:
    portal = MoneyPortal(tmp_path)
    portal.clock.at = JANUARY.window.end
    browser = portal.browser(GOVERNMENT)
    portal.pool.turn()
    assert browser.get(f"/api/v1/statements/{DRAFT}").status_code == 200
    assert closing_of(browser)["month"] == "2027-01"
    other = PoolStore.open(f"sqlite:///{tmp_path}/pool.db")
    PoolServer(other, portal.clock).close_month(JANUARY, Program("gpuaas-portal"))
    other.close()

    portal.pool.turn()
    assert "2027-01" in {one["month"] for one in browser.get("/api/v1/statements").json()["items"]}
    assert "2027-01" not in {one["month"] for one in browser.get("/api/v1/statements/drafts").json()["items"]}
    assert closing_of(browser)["month"] == "2027-02"
    portal.store.close()


def closing_of(browser: Browser) -> dict[str, Any]:
    return dict(browser.get("/api/v1/statements/closing").json())


def test_which_site_keeps_a_month_from_closing_is_told_to_who_can_see_to_it(portal: MoneyPortal) -> None:
    browsers = {role: portal.browser(role) for role in (GOVERNMENT, BILLING, ADMIN)}

    def said(role: PortalRole) -> str:
        return browsers[role].get("/statements", **{"Accept-Language": "en"}).text

    assert closing_of(browsers[BILLING]) == {
        "month": "2027-01",
        "state": "not due",
        "due": "2027-02-02T09:00:00+09:00",
        "waits_for": [],
    }
    portal.clock.at = kst(2027, 2, 5, 9)
    browsers = {role: portal.browser(role) for role in browsers}
    portal.pool.turn()
    assert portal.store.ledger.closed_through() == DECEMBER
    for role in (GOVERNMENT, BILLING):
        found = closing_of(browsers[role])
        assert (found["state"], found["waits_for"]) == ("late", [{"cluster": "naver", "through": None}])
        assert "has not come from naver" in said(role) and "gpuaas-portal close-month 2027-01" in said(role)
    assert (closing_of(browsers[ADMIN])["state"], closing_of(browsers[ADMIN])["waits_for"]) == ("late", [])
    assert "use is still missing" in said(ADMIN) and "naver." not in said(ADMIN).partition("<form")[0]
    portal.money.report(used_through=kst(2027, 2, 1))
    portal.clock.forward(timedelta(hours=1))
    portal.pool.turn()
    assert portal.store.ledger.closed_through() == JANUARY
    assert closing_of(portal.browser(BILLING))["month"] == "2027-02"
    closed = portal.store.audit.newest(limit=1, action="ledger.close-month")[0]
    assert (closed.actor, closed.subject) == ("gpuaas-portal/closing", "2027-01")


def test_no_site_tells_use_of_the_future(portal: MoneyPortal) -> None:
    portal.clock.at = kst(2027, 1, 31)
    portal.money.report(used_through=kst(2030, 1, 1))
    portal.clock.at = kst(2027, 2, 2, 9)
    portal.pool.turn()
    assert portal.store.ledger.closed_through() == DECEMBER


def test_what_a_provider_leased_stands_in_a_statement_and_costs_nothing(portal: MoneyPortal) -> None:
    operator, second = portal.person("provider-operator").actor, portal.person("second").actor
    share = portal.store.register.shares.get(NAVER).model_copy(update={"capacity": 48})
    portal.pool.service.put_share(command_id(), second, share)
    days = (date(2027, 1, 15), date(2027, 1, 30))
    lease = portal.pool.leases.ask(command_id(), operator, NAVER, 8, *days, "Own models", ())
    portal.pool.leases.approve(command_id(), second, lease.id)
    portal.money.take(lease, kst(2027, 1, 15, 1), 7_200)
    portal.clock.forward(timedelta(hours=1))
    portal.pool.turn()
    browser = portal.browser(BILLING)
    number = "2027-01.naver.naver-lease"
    found = browser.get(f"/api/v1/statements/{number}").json()
    (line,) = found["lines"]
    assert (line["gpu_seconds"], line["list_won"], line["won"]) == (8 * 7_200, 16 * 3_601, 0)
    assert (line["programme"], line["project"], found["head"]["due"]) == ("lease", lease.project, 0)
    said = browser.get(f"/statements/{number}").text
    assert "제공사 임차 (무상)" in said and "Own models" in said and f"/grants/{lease.hold}" not in said
    assert "naver 자체 이용 (own use)" in browser.get("/statements").text
    assert f"/grants/{line['grant']}" not in browser.get("/ledger").text
    assert portal.browser(ADMIN).get(f"/api/v1/statements/{number}").status_code == 404
    government = portal.browser(GOVERNMENT)
    rows = {one["programme"]: one for one in government.get("/api/v1/reports/pool").json()["rows"]}
    assert (rows["lease"]["guaranteed"], rows["lease"]["won"]) == (8 * 7_200, 0)
    for path in ("/overview", "/reports", "/usage?by=grant", "/usage?by=programme"):
        assert government.get(path).status_code == 200, path
    kept = "is kept for GPUs that providers lease"
    with pytest.raises(InvalidInput, match=kept):
        portal.pool.service.put_programme(command_id(), second, programme(name="lease"))
    with pytest.raises(InvalidInput, match=kept):
        portal.pool.service.put_organisation(command_id(), second, organisation("kakao-lease"))


# -- Every route -------------------------------------------------------------------------------------------------------


def test_each_role_may_call_exactly_what_the_table_gives_it(seen: MoneyPortal) -> None:
    looked = 0
    for role in PortalRole:
        browser = seen.browser(role)
        for method, path, route in calls(seen):
            gate = gate_of(route)
            if not path.removeprefix("/api/v1").startswith(PREFIXES) or not isinstance(gate, Needs):
                continue
            seen.seconds += 60
            answer = browser.client.request(
                method, path, headers={"Origin": ORIGIN, "X-CSRF-Token": browser.csrf, "Accept-Language": "en"}
            )
            refused = answer.status_code == 403 and f"({gate.action})" in answer.text
            assert refused is (scope_of(role, gate.action) is None), (role, method, path, answer.status_code)
            assert answer.status_code < 500, (role, method, path, answer.text)
            looked += 1
    assert looked > 200


def test_the_api_answers_as_described(portal: MoneyPortal) -> None:
    """schemathesis: no 5xx, no undeclared answer; as who may do most of it."""
    described = describe(make_app(portal.wiring))
    billing, government = portal.browser(BILLING), portal.browser(GOVERNMENT)
    schema = schemathesis.openapi.from_dict(described)
    tried = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if not operation.path.removeprefix("/api/v1").startswith(PREFIXES):
            continue
        _try(portal, operation, billing if "/ledger" in operation.path else government)
        tried += 1
    assert tried >= 18


def test_pages_have_no_script_or_style_of_their_own(seen: MoneyPortal) -> None:
    browser = seen.browser(GOVERNMENT)
    for path in ("/overview", "/usage", "/rates", "/reports", "/statements", f"/statements/{OF_SNU}"):
        seen.seconds += 60
        page = browser.get(path).text
        assert not re.search(r"<style|style=|\son\w+=|javascript:", page), path


def _try(portal: MoneyPortal, operation: APIOperation[Any, Any, Any, Any], browser: Browser) -> None:
    declared = operation.definition.raw["responses"]

    @settings(max_examples=3, deadline=None)
    @given(case=operation.as_strategy())
    def answers(case: schemathesis.Case[Any]) -> None:
        portal.seconds += 60
        arguments = case.as_transport_kwargs(base_url=ORIGIN)
        sent = {name: arguments[name] for name in ("method", "url", "params", "json", "data") if name in arguments}
        headers = dict(arguments.get("headers") or {}) | {"Origin": ORIGIN, "X-CSRF-Token": browser.csrf}
        answer = browser.client.request(**sent, headers=headers)
        assert str(answer.status_code) in declared, (case.method, case.path, answer.status_code, answer.text)
        assert answer.status_code < 500

    answers()
