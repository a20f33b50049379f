"""Last uses are written down together, and none is lost on the way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.last_uses import WRITTEN_EVERY, LastUses
from tests.pools import TestPortal

NOW = datetime(2026, 11, 28, 9, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_what_is_noted_while_it_is_written_stays_for_the_next_time() -> None:
    written: list[Mapping[str, datetime]] = []

    def write(uses: Mapping[str, datetime]) -> None:
        written.append(uses)
        if len(written) == 1:
            held.note("a", NOW + SECOND)

    held = LastUses(write)
    held.note("a", NOW)
    held.note("b", NOW)
    held.write_down(NOW)
    assert held.last("a", NOW - SECOND) == NOW + SECOND
    assert held.last("b", NOW - SECOND) == NOW - SECOND, "the store knows it now"
    held.write_down(NOW + WRITTEN_EVERY)
    assert written == [{"a": NOW, "b": NOW}, {"a": NOW + SECOND}]


def test_they_are_due_at_first_and_once_a_minute() -> None:
    held = LastUses(lambda uses: None)
    assert held.due(NOW)
    held.write_down(NOW)
    assert [held.due(NOW + WRITTEN_EVERY - SECOND), held.due(NOW + WRITTEN_EVERY)] == [False, True]


def test_a_session_in_use_lasts_though_its_uses_are_written_down_once_a_minute(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.AUDITOR)
    person = portal.people[PortalRole.AUDITOR].id
    browser.get("/")
    (before,) = portal.store.people.sessions(person)
    portal.clock.forward(WRITTEN_EVERY / 2)
    browser.get("/")
    assert portal.store.people.sessions(person) == (before,)
    portal.clock.forward(WRITTEN_EVERY)
    browser.get("/")
    (after,) = portal.store.people.sessions(person)
    assert after.seen_at == before.seen_at + 1.5 * WRITTEN_EVERY
