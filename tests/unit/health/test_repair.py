"""Repair shops: programs, Slurm's reboot, tickets; evidence before all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from slurm_gpuaas.domain.incidents import Drain, Incident, IncidentState, Remedy, RepairAttempt, RepairOutcome
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import NodeFlag
from slurm_gpuaas.health.incidents import drain_reason
from slurm_gpuaas.health.repair import (
    ASK_AGAIN,
    CommandShop,
    Ended,
    Errands,
    Order,
    Report,
    SlurmReboot,
    TicketShop,
    Workshop,
    run_program,
)
from tests.fakes import EPOCH, FakeClock, FakeController, make_node

DONE, FAILED, RUNNING = RepairOutcome.DONE, RepairOutcome.FAILED, RepairOutcome.RUNNING
NODE = NodeName("b200-001")
INCIDENT = Incident(
    id="i1",
    node=NODE,
    state=IncidentState.REPAIRING,
    drain=Drain.NOW,
    fault_class="hw_reset",
    rule="catalogue: RESET_GPU",
    headline="XID 95 Uncontained memory error, GPU 3",
    opened_at=EPOCH,
    updated_at=EPOCH,
    serials=("1650000000001",),
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def order(
    remedy: Remedy = Remedy.RESET, *, detail: str = "", slurm: FakeController | None = None, number: int = 1
) -> Order:
    attempt = RepairAttempt(remedy=remedy, begun_at=EPOCH, detail=detail)
    node = slurm.node_by_name[NODE] if slurm else make_node(NODE)
    incident = INCIDENT.model_copy(update={"attempts": (attempt,)})
    return Order(incident=incident, attempt=attempt, number=number, node=node, gpus="3")


class Later:
    """Work that is done when the test says so."""

    def __init__(self) -> None:
        self.work: list[object] = []

    def __call__(self, work: object) -> None:
        self.work.append(work)

    def all(self) -> None:
        while self.work:
            self.work.pop(0)()  # type: ignore[operator]


class Programs:
    """Answers in turn, and what was run."""

    def __init__(self, *answers: Ended) -> None:
        self.answers = list(answers)
        self.ran: list[list[str]] = []

    def __call__(self, argv: Sequence[str], limit: timedelta) -> Ended:
        self.ran.append(list(argv))
        return self.answers.pop(0)


def test_a_command_runs_in_the_background_with_its_words_filled_in(clock: FakeClock) -> None:
    later, programs = Later(), Programs(Ended(0, "8 GPUs reset"))
    argv = ("reset", "--node={node}", "{gpu}", "{attempt}", "{remedy}", "$(id)")
    shop = CommandShop(argv, limit=timedelta(minutes=5), errands=Errands(spawn=later), clock=clock, run=programs)
    assert shop.ask(order()) == Report(RUNNING)
    assert shop.ask(order()) == Report(RUNNING)
    assert programs.ran == []
    later.all()
    assert shop.ask(order()) == Report(DONE, "8 GPUs reset")
    assert programs.ran == [["reset", "--node=b200-001", "3", "i1-1", "reset", "$(id)"]]


def test_exit_75_is_asked_again_after_a_while(clock: FakeClock) -> None:
    later, programs = Later(), Programs(Ended(75, "power is off"), Ended(0, "up"))
    shop = CommandShop(("bmc",), limit=timedelta(minutes=5), errands=Errands(spawn=later), clock=clock, run=programs)
    shop.ask(order())
    later.all()
    assert shop.ask(order()) == Report(RUNNING, "power is off")
    assert shop.ask(order()) == Report(RUNNING)
    assert len(programs.ran) == 1
    clock.forward(ASK_AGAIN)
    shop.ask(order())
    later.all()
    assert shop.ask(order()) == Report(DONE, "up")


@pytest.mark.parametrize(
    ("ended", "detail"),
    [(Ended(3, "no such GPU"), "exit 3: no such GPU"), (Ended(None, "bmc cannot be run"), "bmc cannot be run")],
)
def test_any_other_end_is_a_failure_that_says_why(clock: FakeClock, ended: Ended, detail: str) -> None:
    later = Later()
    shop = CommandShop(
        ("bmc",), limit=timedelta(minutes=5), errands=Errands(spawn=later), clock=clock, run=Programs(ended)
    )
    shop.ask(order())
    later.all()
    assert shop.ask(order()) == Report(FAILED, detail)


def test_a_command_that_never_ends_has_failed_at_its_limit(clock: FakeClock) -> None:
    shop = CommandShop(("bmc",), limit=timedelta(minutes=5), errands=Errands(spawn=Later()), clock=clock)
    shop.ask(order())
    clock.forward(timedelta(minutes=5))
    assert shop.ask(order()) == Report(FAILED, "not done within 300 s")


def test_after_a_restart_the_program_is_run_again_with_the_same_attempt(clock: FakeClock) -> None:
    programs = Programs(Ended(0, ""), Ended(0, ""))
    for _daemon in range(2):
        later = Later()
        shop = CommandShop(
            ("x", "{attempt}"), limit=timedelta(minutes=5), errands=Errands(spawn=later), clock=clock, run=programs
        )
        shop.ask(order())
        later.all()
    assert programs.ran == [["x", "i1-1"], ["x", "i1-1"]]


def test_evidence_is_taken_before_anything_touches_the_node_and_noted(clock: FakeClock) -> None:
    later, programs = Later(), Programs(Ended(0, "/var/evidence/i1-1.tar"), Ended(0, "reset"))
    errands = Errands(spawn=later)
    shop = CommandShop(("reset",), limit=timedelta(minutes=5), errands=errands, clock=clock, run=programs)
    workshop = Workshop({Remedy.RESET: shop}, evidence=("take", "{node}"), errands=errands, run=programs)
    assert workshop.ask(order()) == Report(RUNNING)
    later.all()
    taken = workshop.ask(order())
    assert taken == Report(RUNNING, "evidence: /var/evidence/i1-1.tar")
    assert programs.ran == [["take", "b200-001"]]
    # It is written down now, so another daemon does not take it of a node that was reset already.
    noted = order(detail=taken.detail)
    workshop.ask(noted)
    later.all()
    assert workshop.ask(noted) == Report(DONE, "evidence: /var/evidence/i1-1.tar; reset")
    assert programs.ran == [["take", "b200-001"], ["reset"]]


def test_failing_evidence_is_noted_and_holds_nothing_up(clock: FakeClock) -> None:
    later, programs = Later(), Programs(Ended(None, "not done within 120 s"), Ended(0, "reset"))
    errands = Errands(spawn=later)
    shop = CommandShop(("reset",), limit=timedelta(minutes=5), errands=errands, clock=clock, run=programs)
    workshop = Workshop({Remedy.RESET: shop}, evidence=("take",), errands=errands, run=programs)
    workshop.ask(order())
    later.all()
    noted = order(detail=workshop.ask(order()).detail)
    workshop.ask(noted)
    later.all()
    assert workshop.ask(noted) == Report(DONE, "evidence: failed, not done within 120 s; reset")


def test_slurm_reboots_once_and_the_later_boot_is_the_proof(clock: FakeClock) -> None:
    slurm = FakeController([make_node(NODE)], clock=clock)
    slurm.reboots_at_once = False
    slurm.drain([NODE], drain_reason(INCIDENT))
    shop = SlurmReboot(slurm, limit=timedelta(minutes=30), clock=clock)
    clock.forward(timedelta(seconds=10))
    asked = shop.ask(order(Remedy.REBOOT, slurm=slurm))
    assert asked == Report(RUNNING, "asked Slurm to reboot")
    assert shop.ask(order(Remedy.REBOOT, slurm=slurm)).outcome is RUNNING, "the note was lost: its state tells"
    assert shop.ask(order(Remedy.REBOOT, slurm=slurm, detail=asked.detail)).outcome is RUNNING
    assert slurm.calls.count("reboot") == 1
    assert NodeFlag.REBOOT in slurm.node_by_name[NODE].flags
    slurm.boot(NODE)
    assert shop.ask(order(Remedy.REBOOT, slurm=slurm)) == Report(DONE, "booted 2027-01-04 09:00:10 UTC")
    assert slurm.calls.count("reboot") == 1


def test_a_reboot_that_slurmctld_forgot_is_asked_for_again(clock: FakeClock) -> None:
    slurm = FakeController([make_node(NODE)], clock=clock)
    slurm.reboots_at_once = False
    slurm.drain([NODE], drain_reason(INCIDENT))
    before = slurm.node_by_name[NODE]
    shop = SlurmReboot(slurm, limit=timedelta(minutes=30), clock=clock)
    clock.forward(timedelta(seconds=10))
    asked = shop.ask(order(Remedy.REBOOT, slurm=slurm))
    slurm.node_by_name[NODE] = before
    shop.ask(order(Remedy.REBOOT, slurm=slurm, detail=asked.detail))
    assert slurm.calls.count("reboot") == 2


def test_a_node_that_does_not_come_back_is_a_failed_reboot(clock: FakeClock) -> None:
    slurm = FakeController([make_node(NODE)], clock=clock)
    slurm.reboots_at_once = False
    shop = SlurmReboot(slurm, limit=timedelta(minutes=30), clock=clock)
    shop.ask(order(Remedy.REBOOT, slurm=slurm))
    clock.forward(timedelta(minutes=30))
    assert shop.ask(order(Remedy.REBOOT, slurm=slurm)) == Report(FAILED, "not back within 1800 s")


def test_a_ticket_is_posted_until_somebody_takes_it(clock: FakeClock) -> None:
    later, seen = Later(), list[httpx2.Request]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(503 if len(seen) == 1 else 201, text="RMA-4711")

    shop = TicketShop(
        "https://tickets.example.org/hook",
        token=lambda: "secret",
        limit=timedelta(days=1),
        errands=Errands(spawn=later),
        clock=clock,
        transport=httpx2.MockTransport(answer),
    )
    outcomes = []
    for _ in range(4):
        outcomes.append(shop.ask(order(Remedy.REPLACE)))
        later.all()
    assert [one.outcome for one in outcomes] == [RUNNING, RUNNING, RUNNING, DONE]
    assert outcomes[-1].detail == "HTTP 201 RMA-4711"
    assert {request.headers["Idempotency-Key"] for request in seen} == {"i1-1"}
    assert seen[0].headers["Authorization"] == "Bearer secret"
    body = json.loads(seen[0].content)
    assert (body["node"], body["serials"]) == ("b200-001", ["1650000000001"])
    assert "Fault: XID 95 Uncontained memory error, GPU 3." in body["text"]


def test_a_token_that_cannot_be_read_is_said_and_tried_again(clock: FakeClock, tmp_path: Path) -> None:
    later = Later()
    shop = TicketShop(
        "https://tickets.example.org/hook",
        token=lambda: (tmp_path / "token").read_text(),
        limit=timedelta(days=1),
        errands=Errands(spawn=later),
        clock=clock,
    )
    shop.ask(order(Remedy.REPLACE))
    later.all()
    report = shop.ask(order(Remedy.REPLACE))
    assert report.outcome is RUNNING
    assert report.detail.startswith("FileNotFoundError")


def test_a_real_program_is_run_without_a_shell_and_its_last_line_kept(tmp_path: Path) -> None:
    program = tmp_path / "say"
    program.write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x\necho; printf '\\033[31mred\\n\\n'; exit 4\n")
    program.chmod(0o755)
    assert run_program([str(program)], timedelta(seconds=20)) == Ended(4, "[31mred")
    assert run_program([str(tmp_path / "none")], timedelta(seconds=20)).status is None


def test_a_real_program_that_takes_too_long_is_ended_with_all_it_started() -> None:
    ended = run_program(["/bin/sh", "-c", "sleep 60 & wait"], timedelta(seconds=0.2))
    assert ended.status is None
    assert "not done within 0.2 s" in ended.said
