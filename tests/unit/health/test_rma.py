"""The RMA ledger: which cases open by themselves, what may follow what, and what the manufacturer is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.gpus import GpuStay
from slurm_gpuaas.domain.incidents import (
    Drain,
    EventKind,
    EventSource,
    Incident,
    IncidentState,
    NodeEvent,
    Remedy,
    RepairAttempt,
    RepairOutcome,
)
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.rma import RmaState
from slurm_gpuaas.health.rma import RmaKeeper, advanced, cases_for, new_case, ticket
from tests.fakes import EPOCH, FakeClock
from tests.stores import new_store

NODE = NodeName("b200-007")


def incident(*serials: str, state: IncidentState = IncidentState.RMA, number: int = 1) -> Incident:
    return Incident(
        id=f"i{number}", node=NODE, state=state, drain=Drain.NOW, rule="catalogue: RESET_GPU", headline="XID 64, GPU 3",
        opened_at=EPOCH, updated_at=EPOCH, event_ids=("e1",), serials=serials,
        attempts=(
            RepairAttempt(remedy=Remedy.RESET, begun_at=EPOCH, outcome=RepairOutcome.FAILED, detail="exit code 1"),
        ),
    )  # fmt: skip


def test_each_card_of_an_incident_in_rma_gets_one_case_however_often_one_looks(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store.db")
    keeper = RmaKeeper(store, FakeClock())
    store.put_incident(incident("1", "2"))
    assert (keeper.tick(), keeper.tick()) == (2, 0)
    assert {case.serial for case in store.rma.find()} == {"1", "2"}
    assert len(store.audit.newest(action="rma.open")) == 2
    store.close()


def test_without_a_serial_number_the_case_is_about_the_node() -> None:
    (case,) = cases_for(incident(), (), EPOCH)
    assert (case.serial, case.node, case.incident) == (None, NODE, "i1")


def test_an_incident_that_is_not_in_rma_needs_no_case() -> None:
    assert cases_for(incident("1", state=IncidentState.REPAIRING), (), EPOCH) == []


def test_a_card_that_is_on_its_way_gets_no_second_case() -> None:
    (first,) = cases_for(incident("1"), (), EPOCH)
    assert cases_for(incident("1", number=2), [first], EPOCH) == []
    closed = first.model_copy(update={"state": RmaState.CLOSED})
    assert len(cases_for(incident("1", number=2), [closed], EPOCH)) == 1
    assert cases_for(incident("1"), [closed], EPOCH) == [], "a person closed the case of this very incident"


def test_a_case_goes_its_way_and_says_what_may_follow() -> None:
    case = new_case(NODE, "1", incident=None, why="fan", actor="root", now=EPOCH)
    with pytest.raises(Conflict, match="opened, which replaced does not follow; what follows is closed, sent"):
        advanced(case, actor="root", now=EPOCH, state=RmaState.REPLACED)
    sent = advanced(case, actor="root", now=EPOCH, state=RmaState.SENT, vendor_case="4711", text="by post")
    refused = advanced(sent, actor="root", now=EPOCH, state=RmaState.REFUSED)
    again = advanced(refused, actor="root", now=EPOCH, state=RmaState.SENT)
    done = advanced(again, actor="root", now=EPOCH, state=RmaState.REPLACED, new_serial="2")
    assert (done.vendor_case, done.new_serial, len(done.notes)) == ("4711", "2", 5)


def test_a_note_alone_changes_no_state() -> None:
    case = new_case(NODE, "1", incident=None, why="fan", actor="root", now=EPOCH)
    assert advanced(case, actor="root", now=EPOCH, text="called them").state is RmaState.OPENED


def test_the_ticket_holds_evidence_slot_and_what_was_tried() -> None:
    event = NodeEvent(
        event_id="e1", node=NODE, kind=EventKind.XID, code=64, source=EventSource.KERNEL_LOG, seen_at=EPOCH,
        pci="0000:61:00", gpu=3, serial="1", evidence="NVRM: Xid (PCI:0000:61:00): 64\x1b[31m\n, row remap failed",
    )  # fmt: skip
    other = event.model_copy(update={"event_id": "e2", "serial": "2", "evidence": "of another card"})
    stay = GpuStay(
        serial="1", node=NodeName("b200-001"), index=3, pci="0000:61:00", uuid="GPU-1", first_seen=EPOCH,
        last_seen=EPOCH + timedelta(days=1),
    )  # fmt: skip
    (case,) = cases_for(incident("1"), (), EPOCH)
    text = ticket(case, incident("1"), [event, other], (), [stay])
    for part in (
        "Serial number  : 1", "GPU 3, PCI 0000:61:00", "64 [31m , row remap failed", "reset: failed (exit code 1)",
        "b200-001 GPU 3", "Driver         : not known",
    ):  # fmt: skip
        assert part in text, text
    assert "of another card" not in text
    assert text.replace("\n", "").isprintable()


def test_a_ticket_without_an_incident_says_what_its_opener_said() -> None:
    case = new_case(NODE, None, incident=None, why="fan does not turn", actor="root", now=EPOCH)
    text = ticket(case, None, (), (), ())
    assert "fan does not turn" in text and "Serial number  : not known" in text
