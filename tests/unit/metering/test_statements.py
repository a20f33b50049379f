"""Statements and reports on paper: exact sums, harmless cells, Korean first."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import Conflict, Unavailable
from slurm_gpuaas.domain.ledger import Payment, Titles, Verdict, WonRequest
from slurm_gpuaas.domain.money import Won
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.metering.papers import csv_of, gpu_hours, harmless, servers, unit_price
from slurm_gpuaas.metering.statement_pdf import Fonts, find_fonts, statement_pdf
from slurm_gpuaas.metering.statements import HEADINGS, Statement, statement_of
from tests.unit.metering.books import ASKER, NAVER, OTHER, SNU, Books, kst, pool_rate, run, terms

EVIL = '=HYPERLINK("http://x","<script>alert(1)</script>")'
TITLES = Titles.model_validate(
    {
        "organisations": {"snu": "서울대학교", "kaist": "다른 기관"},
        "providers": {"naver": "네이버클라우드"},
        "programmes": {"call-2026": "2026년 1차 공모"},
        "projects": {"vision": EVIL, "speech": "다른 과제"},
    }
)


@pytest.fixture(scope="module")
def statement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Statement]:
    """October with use of all kinds, a correction of September, a credit and a payment."""
    books = Books.new(tmp_path_factory.mktemp("books"), kst(2026, 10, 2))
    books.keeper.add_rate(pool_rate())
    books.keeper.set_terms(terms())
    books.take(run(1, kst(2026, 9, 10), 7))
    books.keeper.close(Month(2026, 9))
    books.take(
        run(2, kst(2026, 9, 11), 3601),
        run(3, kst(2026, 10, 1), 3600),
        run(4, kst(2026, 10, 1), 7201, burst=True, state="PREEMPTED"),
        run(5, kst(2026, 10, 1), 1800, state="NODE_FAIL"),
    )
    asked = WonRequest.model_validate(
        {
            "command": "credit-0001",
            "kind": "credit",
            "organisation": SNU,
            "provider": NAVER,
            "won": -333,
            "reason": "+82 <b>link</b> failed",
        }
    )
    books.keeper.ask(asked, ASKER)
    books.keeper.decide(asked.command, Verdict.APPROVED, OTHER)
    books.keeper.pay(
        Payment.model_validate({"command": "bank-00001", "organisation": SNU, "provider": NAVER, "won": 5}), ASKER
    )
    books.clock.at = kst(2026, 11, 2)
    (head,) = books.keeper.close(Month(2026, 10), TITLES)
    yield books.keeper.statement(head.number)
    books.pool.close()


def test_lines_add_up_to_every_sum(statement: Statement) -> None:
    head = statement.head
    assert len(statement.lines) == 5
    assert sum(line.amounts.won for line in statement.lines) == head.supply
    assert all(line.amounts.list_won - line.discount == line.amounts.won for line in statement.lines)
    assert statement.list_won - statement.discount == head.supply
    assert head.total == head.supply + head.supply * 10 // 100
    assert (head.paid, head.due) == (5, head.carried + head.total - 5)
    assert head.carried == 28 + 2  # 56 GPU-seconds at half of 3,601 Won an hour, and VAT


def test_entries_that_do_not_add_up_to_what_was_issued_are_no_statement(tmp_path: Path, statement: Statement) -> None:
    books = Books.new(tmp_path, kst(2026, 11, 2))
    with pytest.raises(Conflict, match="its entries say 0 and 0"):
        statement_of(statement.head, [], books.keeper.tariff())
    unpaid = replace(statement.head, supply=Won(0), paid=Won(0))
    assert statement_of(unpaid, [], books.keeper.tariff()).lines == ()
    books.pool.close()


def test_csv_is_for_excel_and_harmless(statement: Statement) -> None:
    raw = statement.csv()
    assert raw.startswith(b"\xef\xbb\xbf")
    heading, *rows = csv.reader(io.StringIO(raw.decode("utf-8-sig")))
    assert heading == list(HEADINGS)
    won = heading.index("공급가액 Supply Won")
    assert sum(int(row[won]) for row in rows[:-1]) == statement.head.supply
    assert int(rows[-1][won]) == -statement.head.paid
    assert rows[0][heading.index("과제 Project")] == "'" + EVIL
    reasons = [row[heading.index("사유 Reason")] for row in rows]
    assert "'+82 <b>link</b> failed" in reasons
    assert rows[0][heading.index("할인율 Discount %")] == "50"


@given(st.text(max_size=30))
def test_no_text_becomes_a_formula(text: str) -> None:
    (written,) = list(csv.reader(io.StringIO(csv_of([], [[text, 1]]).decode("utf-8-sig"), newline="")))[1:]
    assert written[0][:1] not in {"=", "+", "-", "@", "\t", "\r", "\n"}
    assert written[0].removeprefix("'") == text.removeprefix("'") or written[0] == text


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "\n@x", "＝1"])
def test_what_a_spreadsheet_would_reckon_gets_an_apostrophe(text: str) -> None:
    assert harmless(text) == "'" + text
    assert harmless("x" + text) == "x" + text


def test_html_is_korean_first_and_escapes_what_people_wrote(statement: Statement) -> None:
    page = statement.html(nonce="abc")
    assert '<html lang="ko">' in page
    assert '<style nonce="abc">' in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>link" not in page
    for words in ("서울대학교", "네이버클라우드", "2026년 1차 공모", "2026-10-01 ~ 2026-10-31", "2026-11-02"):
        assert words in page
    assert f"{statement.head.due:,}" in page
    assert "다른" not in page
    assert not re.search(r"(?:href|src)=", page), "nothing is fetched"


def test_other_peoples_titles_are_not_kept_with_a_statement(statement: Statement) -> None:
    assert statement.head.titles.organisations == {"snu": "서울대학교"}
    assert statement.head.titles.projects == {"vision": EVIL}


def test_pdf_embeds_a_korean_font_and_is_the_same_each_time(statement: Statement) -> None:
    try:
        fonts = find_fonts()
    except Unavailable:
        pytest.skip("no Korean font on this machine")
    made = statement_pdf(statement, fonts)
    assert made.startswith(b"%PDF-")
    assert b"/FontFile2" in made
    assert statement_pdf(statement, fonts) == made


def test_without_a_korean_font_it_says_so_and_offers_html(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"No Korean font.*HTML") as refused:
        find_fonts([tmp_path])
    assert "fonts-nanum" in refused.value.way_out
    for name in ("NanumBarunGothic.ttf", "NanumBarunGothicBold.ttf"):
        (tmp_path / name).touch()
    assert find_fonts([tmp_path]) == Fonts(tmp_path / "NanumBarunGothic.ttf", tmp_path / "NanumBarunGothicBold.ttf")


def test_the_report_is_a_page_and_a_table(tmp_path: Path) -> None:
    books = Books.new(tmp_path, kst(2026, 11, 1) + timedelta(days=1))
    empty = books.keeper.report(Month(2026, 11), Month(2026, 11))
    assert "배분도 이용도 없습니다" in empty.html()
    books.keeper.set_terms(terms())
    books.take(run(1, kst(2026, 11, 1), 3600, account="foreign"))
    books.keeper.book()
    report = books.keeper.report(Month(2026, 10), Month(2026, 11))
    page = report.html()
    assert "16장(2대)" in page
    assert "모름" in page
    heading, *rows = csv.reader(io.StringIO(report.csv().decode("utf-8-sig")))
    assert [row[0] for row in rows] == ["배분 없음 No grant", "call-2026"]
    assert {len(row) for row in rows} == {len(heading)}
    books.pool.close()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(-(10**12), 10**12))
def test_gpu_hours_are_cut_off_towards_nothing(seconds: int) -> None:
    assert abs(Fraction(gpu_hours(seconds))) <= abs(Fraction(seconds, 3600))
    assert abs(Fraction(seconds, 3600) - Fraction(gpu_hours(seconds))) < Fraction(1, 100)


def test_figures_are_written_as_people_expect() -> None:
    assert [servers(gpus) for gpus in (0, 4, 8, 1_032)] == ["0장", "4장", "8장(1대)", "1,032장(129대)"]
    assert unit_price(Fraction(6_000)) == "6,000"
    assert unit_price(Fraction(36_015, 10)) == "3,601.50"
