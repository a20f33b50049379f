from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from slurm_gpuaas.domain.audit_chain import (
    BEGINNING,
    CUT,
    Anchor,
    AuditEvent,
    AuditResult,
    Entry,
    FaultKind,
    digest,
    link,
    verify,
)
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.portal.main import read_anchors, write_anchor
from tests.fakes import FakeClock
from tests.stores import new_pool_store

AT = datetime(2026, 11, 28, 0, 30, tzinfo=UTC)


def event(number: int) -> AuditEvent:
    return AuditEvent(
        at=AT + timedelta(seconds=number),
        actor="p-000001",
        action="people.invite",
        subject=f"p-{number:06}",
        evidence={"n": number},
    )


def chain(length: int) -> list[Entry]:
    entries: list[Entry] = []
    last = Anchor(0, BEGINNING)
    for number in range(length):
        entries.append(link(event(number), last))
        last = Anchor(entries[-1].seq, entries[-1].hash)
    return entries


def rehashed(entry: Entry) -> Entry:
    return entry._replace(hash=digest(entry[:-1]))


Forge = Callable[[list[Entry]], list[Entry]]

FORGERIES: dict[str, tuple[Forge, FaultKind]] = {
    "edited": (lambda e: [*e[:4], e[4]._replace(reason="other"), *e[5:]], FaultKind.EDITED),
    "edited, hash too": (lambda e: [*e[:4], rehashed(e[4]._replace(reason="other")), *e[5:]], FaultKind.OUT_OF_CHAIN),
    "taken out": (lambda e: e[:4] + e[5:], FaultKind.MISSING),
    "taken out, numbers closed up": (
        lambda e: e[:4] + [rehashed(one._replace(seq=one.seq - 1)) for one in e[5:]],
        FaultKind.OUT_OF_CHAIN,
    ),
    "first taken out": (lambda e: e[1:], FaultKind.MISSING),
    "put in": (lambda e: [*e[:4], e[3], *e[4:]], FaultKind.MISSING),
    "swapped": (lambda e: [*e[:3], e[4], e[3], *e[5:]], FaultKind.MISSING),
    "swapped, numbers kept": (
        lambda e: [*e[:3], e[4]._replace(seq=4), e[3]._replace(seq=5), *e[5:]],
        FaultKind.OUT_OF_CHAIN,
    ),
    "cut off": (lambda e: e[:6], FaultKind.CUT_OFF),
    "all gone": (lambda e: [], FaultKind.CUT_OFF),
    "made anew": (lambda e: _anew(e), FaultKind.OTHER_THAN_ANCHOR),
}


def _anew(entries: list[Entry]) -> list[Entry]:
    """The same trail with one thing less in it, every hash right."""
    made: list[Entry] = []
    last = Anchor(0, BEGINNING)
    for number in range(len(entries)):
        made.append(link(event(number + (number > 2)), last))
        last = Anchor(made[-1].seq, made[-1].hash)
    return made


def test_an_honest_trail_is_whole() -> None:
    entries = chain(10)
    verdict = verify(entries, [Anchor(3, entries[2].hash), Anchor(10, entries[9].hash)])
    assert (verdict.faults, verdict.entries, verdict.last) == ((), 10, Anchor(10, entries[9].hash))
    assert verify([]).faults == ()


@pytest.mark.parametrize("forgery", FORGERIES)
def test_every_forgery_is_noticed(forgery: str) -> None:
    entries = chain(10)
    forge, first = FORGERIES[forgery]
    verdict = verify(forge(list(entries)), [Anchor(8, entries[7].hash)])
    assert verdict.faults
    assert verdict.faults[0].kind is first


def test_without_anchors_a_missing_end_is_not_noticed() -> None:
    assert verify(chain(10)[:6]).faults == ()


@given(place=st.integers(0, 7), column=st.sampled_from(Entry._fields), data=st.data())
def test_any_change_of_any_field_is_noticed(place: int, column: str, data: st.DataObject) -> None:
    entries = chain(8)
    before = getattr(entries[place], column)
    other = data.draw(
        (st.integers(0, 20) if isinstance(before, int) else st.text(max_size=70)).filter(lambda new: new != before)
    )
    changed: dict[str, Any] = {column: other}
    entries[place] = entries[place]._replace(**changed)
    assert verify(entries).faults


@given(st.text(), st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.none()), max_size=5))
def test_whatever_is_written_is_kept_within_its_bounds_and_verifies(
    anything: str, evidence: dict[str, str | int | bool | None]
) -> None:
    entry = link(
        AuditEvent(at=AT, actor=anything, action=anything, subject=anything, reason=anything, evidence=evidence),
        Anchor(0, BEGINNING),
    )
    assert len(entry.subject) <= CUT.subject
    entry.subject.encode()
    assert "\0" not in entry.subject
    assert verify([entry]).faults == ()


def test_a_number_that_is_none_is_refused_rather_than_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        link(AuditEvent(at=AT, actor="a", action="b", subject="c", evidence={"x": float("nan")}), Anchor(0, BEGINNING))


# -- In the store ------------------------------------------------------------------------------------------------------


def test_the_stores_trail_is_that_chain(tmp_path: Path) -> None:
    store = new_pool_store(tmp_path / "pool.db")
    store.audit.append(event(0), event(1))
    with store.transaction():
        store.audit.append(event(2))
        store.audit.append(event(3))
    assert [(e.seq, e.subject) for e in store.audit.newest(limit=9)] == [
        (4, "p-000003"),
        (3, "p-000002"),
        (2, "p-000001"),
        (1, "p-000000"),
    ]
    assert store.audit.verify([store.audit.last()]).faults == ()
    assert store.audit.newest(limit=9) == tuple(reversed(chain(4)))


def test_what_rolls_back_leaves_no_gap(tmp_path: Path) -> None:
    store = new_pool_store(tmp_path / "pool.db")
    store.audit.append(event(0))
    with pytest.raises(RuntimeError), store.transaction():
        store.audit.append(event(1))
        raise RuntimeError
    store.audit.append(event(2))
    assert [e.subject for e in store.audit.newest(limit=9)] == ["p-000002", "p-000000"]
    assert store.audit.verify().faults == ()


@pytest.mark.parametrize("statement", ["UPDATE audit_entry SET reason = 'x'", "DELETE FROM audit_entry WHERE seq = 1"])
def test_the_database_itself_refuses_to_change_the_trail(tmp_path: Path, statement: str) -> None:
    store = new_pool_store(tmp_path / "pool.db")
    store.audit.append(event(0))
    with pytest.raises(DatabaseError, match="append only"), store.transaction() as session:
        session.execute(text(statement))  # type: ignore[attr-defined]
    assert len(store.audit.newest(limit=9)) == 1


def test_who_goes_past_the_triggers_is_noticed(tmp_path: Path) -> None:
    store = new_pool_store(tmp_path / "pool.db")
    store.audit.append(*(event(number) for number in range(5)))
    with sqlite3.connect(tmp_path / "pool.db") as connection:
        connection.execute("DROP TRIGGER audit_entry_no_update")
        connection.execute("UPDATE audit_entry SET actor = 'p-000009' WHERE seq = 3")
    assert [(fault.seq, fault.kind) for fault in store.audit.verify().faults] == [(3, FaultKind.EDITED)]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"action": "people"}, [4, 3, 1]),
        ({"action": "people.invite"}, [3, 1]),
        ({"action": "peopl"}, []),
        ({"actor": "p-000002"}, [2]),
        ({"subject": "x"}, [4]),
        ({"result": AuditResult.REFUSED}, [3]),
        ({"before": 3}, [2, 1]),
        ({"limit": 2}, [4, 3]),
        ({"since": AT + timedelta(seconds=2), "until": AT + timedelta(seconds=4)}, [3, 2]),
    ],
)
def test_the_trail_is_searched(tmp_path: Path, wanted: dict[str, object], found: list[int]) -> None:
    store = new_pool_store(tmp_path / "pool.db")
    acts = ("people.invite", "peoplex.invite", "people.invite", "people")
    for number, action in enumerate(acts, 1):
        store.audit.append(
            AuditEvent(
                at=AT + timedelta(seconds=number),
                actor="p-000002" if number == 2 else "p-000001",
                action=action,
                subject="x" if number == 4 else "y",
                result=AuditResult.REFUSED if number == 3 else AuditResult.DONE,
            )
        )
    assert [e.seq for e in store.audit.newest(**{"limit": 9, **wanted})] == found  # type: ignore[arg-type]


def test_anchors_are_written_and_read_again(tmp_path: Path) -> None:
    store, file = new_pool_store(tmp_path / "pool.db"), tmp_path / "anchors.jsonl"
    write_anchor(store, FakeClock(AT), file)
    for number in range(3):
        store.audit.append(event(number))
        write_anchor(store, FakeClock(AT), file)
    anchors = read_anchors(file)
    assert [anchor.seq for anchor in anchors] == [1, 2, 3]
    assert store.audit.verify(anchors).faults == ()


@pytest.mark.parametrize("line", ["x", "[]", '{"seq": 1}', '{"seq": "a", "hash": "b"}', "[" * 5_000])
def test_a_broken_anchor_file_is_no_proof(tmp_path: Path, line: str) -> None:
    file = tmp_path / "anchors.jsonl"
    file.write_text(json.dumps({"seq": 1, "hash": "a"}) + "\n" + line + "\n")
    with pytest.raises(InvalidInput, match="Line 2"):
        read_anchors(file)
