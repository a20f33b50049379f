from __future__ import annotations

import pytest

from slurm_gpuaas.domain.incidents import CheckStatus, Drain, EventKind, EventSource, NodeEvent
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.triage import triage
from tests.fakes import EPOCH


def event(code: int, *, kind: EventKind = EventKind.XID, action: str | None = None, evidence: str = "") -> NodeEvent:
    return NodeEvent(
        event_id="n/b/kmsg/1",
        node=NodeName("n1"),
        kind=kind,
        code=code,
        source=EventSource.NVML,
        seen_at=EPOCH,
        pci="0000:3b:00",
        gpu=3,
        evidence=evidence,
        recovery_action=action,
    )


@pytest.mark.parametrize(
    ("code", "action", "drain", "rule"),
    [
        (79, None, Drain.NOW, "RESTART_BM"),
        (48, None, Drain.NOW, "WORKFLOW_XID_48"),
        (31, None, Drain.NO, "RESTART_APP"),
        (94, None, Drain.WHEN_IDLE, "RESTART_APP"),
        (45, None, Drain.NO, "WORKFLOW_XID_45"),
        (31, "GPU Reset", Drain.NOW, "driver's recovery action: GPU Reset"),
        (31, "Drain and Reset", Drain.WHEN_IDLE, "driver's recovery action"),
        (79, "None", Drain.NOW, "RESTART_BM"),
        (154, "None", Drain.NO, "driver's recovery action: None"),
        (154, None, Drain.REVIEW, "XID_154"),
        (777, None, Drain.REVIEW, "not in the catalogue"),
    ],
)
def test_the_verdict_names_the_rule_that_decided(code: int, action: str | None, drain: Drain, rule: str) -> None:
    verdict = triage(event(code, action=action))
    assert verdict.drain is drain
    assert rule in verdict.rule


def test_the_headline_names_code_meaning_gpu_and_address() -> None:
    assert triage(event(79)).headline == "XID 79 GPU has fallen off the bus, GPU 3 (0000:3b:00)"
    assert triage(event(20034, kind=EventKind.SXID)).headline == "SXid 20034, GPU 3 (0000:3b:00)"


def test_the_severity_in_an_sxid_line_decides() -> None:
    line = "nvidia-nvswitch0: SXid (PCI:0000:3b:00.0): 99999, Fatal, Link 3 new error"
    assert triage(event(99999, kind=EventKind.SXID, evidence=line)).drain is Drain.NOW


@pytest.mark.parametrize("drain", [*Drain, None])
def test_a_check_says_itself_what_it_asks_for(drain: Drain | None) -> None:
    found = event(
        0, kind=EventKind.CHECK, evidence="GPU 3 (0000:61:00): remap failure 1, over 0 [limit: RMA]"
    ).model_copy(update={"check": "row-remap", "status": CheckStatus.CRITICAL, "drain": drain})
    verdict = triage(found)
    assert verdict.drain is (drain or Drain.NO)
    assert verdict.headline == "row-remap critical, GPU 3 (0000:61:00): remap failure 1, over 0"
    assert verdict.rule.startswith("check row-remap: ")
    assert verdict.rule.endswith("[limit: RMA]")


def test_evidence_about_another_code_does_not_count() -> None:
    line = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
    assert triage(event(31, evidence=line)).drain is Drain.NO
