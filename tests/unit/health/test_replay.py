"""What policy would do to a recorded log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.incidents import EARLIEST_EVENT, Drain
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health import replay as module
from slurm_gpuaas.health.replay import Replay, ReplayReport


def run(*lines: str, max_drains: int = 16) -> ReplayReport:
    return Replay(node=NodeName("n1"), max_drains=max_drains).run(lines)


def xid(code: int, gpu: int = 3, text: str = "pid=7, name=python3, text") -> str:
    return f"NVRM: Xid (PCI:0000:{gpu:02x}:00): {code}, {text}"


def boot(seconds: float, code: int, gpu: int = 3, text: str = "pid=7, name=python3, text") -> str:
    return f"[{seconds:12.6f}] {xid(code, gpu, text)}"


def told(at: str, node: str, code: int, *jobs: int) -> str:
    return json.dumps({"at": at, "node": node, "line": xid(code), "jobs": jobs})


def opened(report: ReplayReport) -> Sequence[tuple[str, str, int]]:
    return [(i.node, i.drain.value, i.events) for i in report.incidents]


def test_a_log_becomes_incidents_with_what_would_be_done() -> None:
    report = run(boot(10, 94), boot(12, 48), boot(13, 45), "[   14.000000] usb 1-1: new device", boot(900, 79, gpu=5))
    (one,) = report.incidents
    assert (one.drain, one.fault_class) == (Drain.NOW, "hw_reboot")
    assert one.would == ("drain", "requeue its jobs", "reboot, verify")
    assert one.rule.startswith("catalogue of")
    assert (one.opened_at, one.drained_at) == (EARLIEST_EVENT + timedelta(seconds=10),) * 2
    assert (report.lines, report.events) == (5, 4)


@pytest.mark.parametrize(
    ("prefix", "at"),
    [
        ("[   12.500000] ", EARLIEST_EVENT + timedelta(seconds=12.5)),
        ("<3>[   12.500000] ", EARLIEST_EVENT + timedelta(seconds=12.5)),
        ("3,1234,12500000,-;", EARLIEST_EVENT + timedelta(seconds=12.5)),
        ("[Thu Nov 26 10:00:00 2026] ", datetime(2026, 11, 26, 10, tzinfo=UTC)),
        ("2026-11-26T10:00:00+0900 n1 kernel: ", datetime(2026, 11, 26, 1, tzinfo=UTC)),
        ("2026-11-26T10:00:00.25Z n1 kernel: ", datetime(2026, 11, 26, 10, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-26 10:00:00,123456+09:00 ", datetime(2026, 11, 26, 1, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-11-26 10:00:00 ", datetime(2026, 11, 26, 10, tzinfo=UTC)),
        ("", EARLIEST_EVENT + timedelta(seconds=1)),
        ("[Thu Nov 99 10:00:00 2026] ", EARLIEST_EVENT + timedelta(seconds=1)),
    ],
)
def test_the_time_of_a_line_is_read_as_tools_write_it(prefix: str, at: datetime) -> None:
    assert run(prefix + xid(79)).incidents[0].opened_at == at


def test_a_log_without_times_goes_by_its_order_and_says_so() -> None:
    report = run(xid(74), *["noise"] * 200, xid(48))
    assert opened(report) == [("n1", "review", 1), ("n1", "now", 1)]
    assert "Lines carry no time: each is taken to be one second after the one before." in report.assumptions


def test_a_new_boot_brings_the_node_back() -> None:
    report = run(boot(500, 79), boot(600, 48), boot(20, 48))
    assert opened(report) == [("n1", "now", 2), ("n1", "now", 1)]


def test_processes_stand_for_jobs_when_lines_name_none() -> None:
    report = run(boot(10, 31, text="pid=7, name=a"), boot(900, 31, text="pid=8, name=b"))
    assert opened(report) == [("n1", "when_idle", 1)]
    assert report.incidents[0].rule.startswith("repeat rule page-fault-on-one-gpu")
    assert report.incidents[0].jobs == ()
    assert any("each process stands for a job" in one for one in report.assumptions)


def test_a_line_that_is_no_text_is_read_all_the_same() -> None:
    assert opened(run(json.dumps({"line": f"\ud800\n{xid(79)}"}))) == [("n1", "now", 1)]


def test_a_job_at_fault_is_named_and_opens_nothing() -> None:
    lines = [told(f"2026-11-26T1{n}:00:00Z", node, 31, 7) for n, node in enumerate(("n1", "n2", "n3"))]
    report = run(*lines, *(told(f"2026-11-26T14:0{n}:00Z", "n1", 31, 8) for n in (0, 9)))
    assert report.incidents == ()
    assert report.jobs_at_fault == ("at fault: job 7 (XID 31) on n1, n2, n3",)


def test_the_circuit_breaker_trips_and_lets_no_node_go_by_itself() -> None:
    hours = ("10:00:00", "10:00:00", "10:00:01", "12:00:00")
    report = run(*(told(f"2026-11-26T{hour}Z", f"n{n}", 79) for n, hour in enumerate(hours)), max_drains=2)
    begin = datetime(2026, 11, 26, 10, tzinfo=UTC)
    assert [i.drained_at for i in report.incidents] == [begin, begin, None, None]
    assert report.breaker is not None
    assert (report.breaker.at, report.breaker.waiting) == (begin + timedelta(seconds=1), 2)
    assert any("leaf groups" in sentence for sentence in report.assumptions)


def test_the_circuit_breaker_forgets_what_is_older_than_its_window() -> None:
    hours = ("10:00:00", "10:00:00", "10:10:01", "10:10:01")
    report = run(*(told(f"2026-11-26T{hour}Z", f"n{n}", 79) for n, hour in enumerate(hours)), max_drains=2)
    assert report.breaker is None
    assert None not in [i.drained_at for i in report.incidents]


def test_a_storm_costs_little() -> None:
    report = run(*(boot(100 + n / 1000, 95) for n in range(20_000)))
    assert opened(report) == [("n1", "now", 20 + 3)]
    assert report.left_out == 20_000 - 23


def test_lines_that_are_no_such_object_are_left_out_and_counted() -> None:
    hostile = [
        "{", '{"line": 7}', '{"at": "x", "line": "a"}', '{"node": "a b", "line": "a"}', "[" * 10, "{" + "[" * 9_000,
        '{"jobs": 7, "line": "a"}', '{"at": "0001-01-01T00:00:00Z", "line": "a"}', '{"at": 1e400, "line": "a"}',
    ]  # fmt: skip
    report = run(*hostile, told("2026-11-26T10:00:00Z", "n1", 79))
    assert len(report.incidents) == 1
    assert any(one.startswith("8 lines are no such JSON object") for one in report.assumptions)


def test_a_log_that_opens_too_many_incidents_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INCIDENTS", 3)
    with pytest.raises(InvalidInput, match="more than 3 incidents"):
        run(*(told("2026-11-26T10:00:00Z", f"n{n}", 79) for n in range(5)))


@given(st.lists(st.text(max_size=60) | st.sampled_from([xid(79), boot(5, 48), boot(1e9, 31), "{}", "[9999999999.9]"])))
def test_no_text_is_too_hostile(lines: list[str]) -> None:
    run(*lines)
