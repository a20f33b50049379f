from __future__ import annotations

import string
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.words import LOCALE, NAMES, Dictionary, preferred, read_catalogue
from tests.unit.portal.texts import texts

WORDS = Dictionary()
KO, EN = WORDS[Language.KOREAN], WORDS[Language.ENGLISH]


def placeholders(template: str) -> Counter[str]:
    return Counter(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)


def test_every_text_has_its_korean_with_the_same_values() -> None:
    known = read_catalogue(LOCALE / "ko")
    collected = {text: file for file, text in texts()}
    assert len(collected) > 200
    missing = {text: file for text, file in collected.items() if text not in known}
    assert not missing, "write these into locale/ko/*.po"
    for text in collected:
        assert placeholders(known[text]) == placeholders(text), text


def test_no_korean_is_kept_for_a_text_that_is_gone() -> None:
    assert not read_catalogue(LOCALE / "ko").keys() - {text for _, text in texts()}


def test_every_member_of_a_named_enumeration_has_a_name() -> None:
    for kind, names in NAMES.items():
        assert set(names) == set(kind)


def test_a_sentence_of_a_rule_is_told_in_korean_with_its_values() -> None:
    sentence = told(
        "The password has {length} characters; {least} to {most} are taken.", length=1032, least=12, most=200
    )
    assert KO.tell(sentence) == "비밀번호가 1,032자입니다. 12자에서 200자까지 쓸 수 있습니다."
    assert EN.tell(sentence) == "The password has 1,032 characters; 12 to 200 are taken."


def test_a_sentence_within_a_sentence_is_told_too() -> None:
    assert KO.say("last used {ago}", ago=told("{days} d ago", days=3)) == "마지막 사용 3일 전"


def test_what_the_catalogue_does_not_know_stays_english() -> None:
    assert KO.tell("Node n001 is drained.") == "Node n001 is drained."


@given(st.text(max_size=30))
def test_a_value_is_never_taken_for_a_template(value: str) -> None:
    assert value in KO.say("{name} fields", name=value)
    assert EN.tell(told("{name} fields", name=value)) == f"{value} fields"


MOMENT = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "korean", "english"),
    [
        (13_136, "13,136", "13,136"),
        (-1_000, "-1,000", "-1,000"),
        (0.5, "0.5", "0.5"),
        (MOMENT, "2026. 12. 1. 00:30", "1 Dec 2026 00:30 KST"),
        (date(2026, 1, 9), "2026. 1. 9.", "9 Jan 2026"),
        (PortalRole.TENANT_ADMIN, "기관 관리자", "Tenant admin"),
        ("{x}", "{x}", "{x}"),
    ],
)
def test_values_are_written_as_readers_write_them(value: object, korean: str, english: str) -> None:
    assert (KO.value(value), EN.value(value)) == (korean, english)


def test_money_gpus_and_ages() -> None:
    assert (KO.won(1_234_567), EN.won(1_234_567)) == ("1,234,567원", "₩1,234,567")
    assert [KO.gpus(n) for n in (0, 1, 8, 12, 1032)] == ["0장", "1장", "8장 (1대)", "12장", "1,032장 (129대)"]
    assert [EN.gpus(n) for n in (1, 8, 16)] == ["1 GPU", "8 GPUs (1 server)", "16 GPUs (2 servers)"]
    ages = {30: "방금", 120: "2분 전", 7_200: "2시간 전", 200_000: "2일 전"}
    for seconds, said in ages.items():
        assert KO.ago(MOMENT, MOMENT + timedelta(seconds=seconds)) == said
    assert KO.ago(MOMENT, MOMENT + timedelta(days=31)) == "2026. 12. 1. 00:30"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("ko-KR,ko;q=0.9,en;q=0.8", Language.KOREAN),
        ("en-US,en;q=0.9,ko;q=0.8", Language.ENGLISH),
        ("fr, ko;q=0.2, en;q=0.9", Language.ENGLISH),
        ("ko;q=0, en;q=0.1", Language.ENGLISH),
        ("fr", Language.KOREAN),
        ("", Language.KOREAN),
        (";;q=,,=;q=nan,\x00", Language.KOREAN),
    ],
)
def test_the_browsers_first_language_that_we_have_is_taken(header: str, language: Language) -> None:
    assert preferred(header, Language.KOREAN) is language


@given(st.text(max_size=300))
def test_no_header_is_too_odd(header: str) -> None:
    assert preferred(header, Language.KOREAN) in set(Language)


def test_two_catalogues_that_contradict_each_other_are_noticed(tmp_path: Path) -> None:
    for name, text in (("a.po", "하나"), ("b.po", "둘")):
        (tmp_path / name).write_text(
            f'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "One"\nmsgstr "{text}"\n'
        )
    with pytest.raises(InvalidInput, match="One"):
        read_catalogue(tmp_path)
