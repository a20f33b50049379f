"""The kernel log through journald: whose word counts, what is never told twice, and a journalctl that ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.agent.journal import LINE_MAX, JournalSource, argv, entries, parse
from slurm_gpuaas.agent.node import NodeAgent
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.names import NodeName

BOOT = "0f3dcd7a-35e1-4bb0-9f5b-5f1b70c2f4a1"
XID_79 = "NVRM: Xid (PCI:0000:61:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def cursor(number: int) -> str:
    return f"s=9f8e7d6c5b4a39281706f5e4d3c2b1a0;i={number:x};b={BOOT.replace('-', '')};m=1f;t=5f;x=abc"


def entry(text: Any, number: int = 1, **changes: Any) -> bytes:
    fields = {
        "__CURSOR": cursor(number),
        "_BOOT_ID": BOOT.replace("-", ""),
        "_TRANSPORT": "kernel",
        "SYSLOG_FACILITY": "0",
        "PRIORITY": "3",
        "_SOURCE_MONOTONIC_TIMESTAMP": "4200000",
        "MESSAGE": text,
        **changes,
    }
    return json.dumps({key: value for key, value in fields.items() if value is not None}).encode() + b"\n"


# journalctl 252 on a real systemd-journald; the second was written with `echo > /dev/kmsg`.
REAL = (
    b'{"SYSLOG_FACILITY":"0","_TRANSPORT":"kernel","__MONOTONIC_TIMESTAMP":"38984883766","_HOSTNAME":"vm",'
    b'"_SOURCE_MONOTONIC_TIMESTAMP":"0","SYSLOG_IDENTIFIER":"kernel","__CURSOR":"s=1815f5357a0d44b280ece7af6b63ff3a;i=1;'
    b'b=0f3dcd7a35e14bb09f5b5f1b70c2f4a1;m=913adb71c;t=661489143a169;x=c35f1b73ce651926","PRIORITY":"5",'
    b'"__REALTIME_TIMESTAMP":"1795814162958467","_BOOT_ID":"0f3dcd7a35e14bb09f5b5f1b70c2f4a1",'
    b'"MESSAGE":"Linux version 6.18.44","_RUNTIME_SCOPE":"system"}\n'
    b'{"_RUNTIME_SCOPE":"system","_TRANSPORT":"kernel","MESSAGE":"a line from user space",'
    b'"__REALTIME_TIMESTAMP":"1795814165834884","_BOOT_ID":"0f3dcd7a35e14bb09f5b5f1b70c2f4a1","PRIORITY":"3",'
    b'"__CURSOR":"s=1815f5357a0d44b280ece7af6b63ff3a;i=177;b=0f3dcd7a35e14bb09f5b5f1b70c2f4a1;m=913da0238;'
    b't=66148916fec84;x=672aaae7a693ecbd","__MONOTONIC_TIMESTAMP":"38987760184","SYSLOG_IDENTIFIER":"gpuaas",'
    b'"_HOSTNAME":"vm","SYSLOG_FACILITY":"1","_SOURCE_MONOTONIC_TIMESTAMP":"38987728480"}\n'
)


def test_of_a_real_journal_only_the_kernels_own_lines_count() -> None:
    assert [record.text for record in entries(io.BytesIO(REAL), BOOT)] == ["Linux version 6.18.44"]


def test_an_entry_of_the_kernel_is_a_record() -> None:
    record = parse(entry(XID_79), BOOT)
    assert record is not None
    assert (record.text, record.microseconds, record.priority) == (XID_79, 4_200_000, 3)
    assert (record.from_kernel, record.cursor) == (True, cursor(1))


def test_bytes_that_are_no_utf_8_are_read_all_the_same() -> None:
    record = parse(entry([*XID_79.encode(), 0xFF]), BOOT)
    assert record is not None
    assert record.text == f"{XID_79}\N{REPLACEMENT CHARACTER}"


def test_a_line_within_a_message_of_the_driver_is_no_message_of_its_own(started: Callable[[], NodeAgent]) -> None:
    """The version that a client says it has is any user's to choose; journald gives line ends as they were."""
    agent = started()
    for number, text in enumerate(
        (
            f"NVRM: API mismatch: the client has the version \n{XID_79}\nNVRM: this kernel module has the version 580",
            "NVRM: The NVIDIA GPU 0000:18:00.0\nNVRM: (PCI ID: 10de:2901) installed in this system has\n"
            "NVRM: fallen off the bus and is not responding to commands.",
        ),
        start=1,
    ):
        record = parse(entry(text, number), BOOT)
        assert record is not None
        agent.see_record(record)
    assert [(event.kind, event.pci) for event in agent.spool.head(9)] == [("fallen", "0000:18:00")]


@pytest.mark.parametrize(
    "line",
    [
        entry(XID_79, _TRANSPORT="syslog"),
        entry(XID_79, _TRANSPORT="journal"),
        entry(XID_79, _TRANSPORT=["kernel", "syslog"]),
        entry(XID_79, SYSLOG_FACILITY="1"),  # written to /dev/kmsg by a program; journald calls that kernel, too
        entry(XID_79, SYSLOG_FACILITY=None),
        entry(XID_79, SYSLOG_FACILITY=["0", "1"]),
        entry(XID_79, _BOOT_ID="f" * 32),
        entry(XID_79, __CURSOR=None),
        entry(XID_79, __CURSOR="--output=/etc/passwd"),
        entry(None),
        entry(["x"]),
        entry([300]),
        entry({"a": 1}),
        b'"kernel"\n',
        b'["kernel"]\n',
        b'{"kernel"\n',
        b"\xff\xfe\x00kernel\n",
        b'{"kernel": ' + b"[" * 50_000 + b"\n",
        b"",
    ],
)
def test_what_is_not_the_kernels_own_word_of_this_boot_is_nothing(line: bytes) -> None:
    assert parse(line, BOOT) is None


def test_a_line_without_end_is_passed_over() -> None:
    stream = io.BytesIO(entry("x" * LINE_MAX * 3) + entry(XID_79, 2) + b'{"torn": "kernel')
    assert [record.cursor for record in entries(stream, BOOT)] == [cursor(2)]


def test_journalctl_is_asked_for_what_came_after_the_last_event() -> None:
    assert argv("", follow=True)[1:] == [
        "-k",
        "-o",
        "json",
        "--no-pager",
        "--quiet",
        "--boot",
        "--follow",
        "--no-tail",
    ]
    assert f"--after-cursor={cursor(7)}" in argv(cursor(7), follow=False)
    assert "--follow" not in argv(cursor(7), follow=False)
    assert not any("passwd" in word for word in argv("x --file=/etc/passwd", follow=True))


@pytest.fixture
def journalctl(tmp_path: Path) -> Path:
    """A journalctl that knows cursors as the real one does, over `journal` in the same folder."""
    program = tmp_path / "journalctl"
    program.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case "$word" in --after-cursor=*) after="${word#--after-cursor=}";; esac; done\n'
        f'[ -e {tmp_path}/fails ] && [ -n "$after" ] && exit 1\n'
        f'if [ -n "$after" ]; then grep -A 9999 -F "$after" {tmp_path}/journal | tail -n +2\n'
        f"else cat {tmp_path}/journal; fi\n"
    )
    program.chmod(0o755)
    (tmp_path / "journal").write_bytes(b"")
    return program


@pytest.fixture
def started(tmp_path: Path) -> Callable[[], NodeAgent]:
    """An agent that begins, as after a restart."""

    def start(boot: str = BOOT) -> NodeAgent:
        return NodeAgent(
            NodeName("b200-001"),
            folder=tmp_path / "spool",
            spool_max_bytes=1 << 20,
            same_within=timedelta(seconds=5),
            boot_id=lambda: boot,
            clock=SystemClock(),
            on_event=lambda _agent: None,
        )

    return start


def codes(agent: NodeAgent) -> list[int]:
    return [event.code for event in agent.spool.head(99)]


def test_what_came_while_the_agent_was_down_is_told_and_what_was_told_is_not(
    journalctl: Path, started: Callable[..., NodeAgent]
) -> None:
    journal = journalctl.parent / "journal"
    journal.write_bytes(entry("usb 1-1: new device", 1) + entry(XID_79, 2) + entry("NVRM: loading", 3))
    agent = started()
    JournalSource(agent, boot_id=BOOT, program=str(journalctl)).read_all()
    assert codes(agent) == [79]
    (event,) = agent.spool.head(9)
    assert event.event_id.startswith(f"b200-001/{BOOT}/journal/")
    assert event.evidence == XID_79
    with journal.open("ab") as file:
        file.write(entry(XID_79.replace("79,", "48,"), 4))
    agent.sent(1)
    agent.spool.close()
    again = started()
    JournalSource(again, boot_id=BOOT, program=str(journalctl)).read_all()
    assert codes(again) == [48]


def test_a_cursor_that_journald_does_not_take_costs_no_event_and_makes_none_twice(
    journalctl: Path, started: Callable[..., NodeAgent]
) -> None:
    (journalctl.parent / "journal").write_bytes(entry(XID_79, 2))
    agent = started()
    JournalSource(agent, boot_id=BOOT, program=str(journalctl)).read_all()
    (first,) = agent.spool.head(9)
    agent.sent(1)
    (journalctl.parent / "fails").touch()
    again = started()
    JournalSource(again, boot_id=BOOT, program=str(journalctl)).read_all()
    (second,) = again.spool.head(9)
    assert second.event_id == first.event_id, "gpuaasd takes them as one"


def test_a_new_boot_begins_anew(journalctl: Path, started: Callable[..., NodeAgent]) -> None:
    (journalctl.parent / "journal").write_bytes(entry(XID_79, 2))
    agent = started()
    JournalSource(agent, boot_id=BOOT, program=str(journalctl)).read_all()
    assert agent.cursor == cursor(2)
    assert started("another").cursor == ""


def test_a_journal_without_end_stops_with_the_agent(tmp_path: Path, started: Callable[..., NodeAgent]) -> None:
    program = tmp_path / "journalctl"
    (tmp_path / "line").write_bytes(entry(XID_79))
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/line\nexec sleep 600\n")
    program.chmod(0o755)
    agent = started()
    source = JournalSource(agent, boot_id=BOOT, program=str(program))
    source.start()
    source.stop()
    assert not source._thread.is_alive()


def test_without_journalctl_nothing_is_read_and_it_is_said(started: Callable[..., NodeAgent]) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        JournalSource(started(), boot_id=BOOT, program="/no/such/journalctl").read_all()
