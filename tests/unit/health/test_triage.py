from __future__ import annotations

import pytest

from slurm_gpuaas.domain.incidents import CheckStatus, Drain, EventKind, EventSource, NodeEvent
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.catalogue import FaultClass
from slurm_gpuaas.health.triage import strength, triage
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


def test_the_headline_of_a_check_is_its_finding() -> None:
    found = event(0, kind=EventKind.CHECK, evidence="GPU 3 (0000:61:00): remap failure 1, over 0").model_copy(
        update={"check": "row-remap", "status": CheckStatus.CRITICAL, "drain": Drain.NOW}
    )
    assert triage(found).headline == "check row-remap critical: GPU 3 (0000:61:00): remap failure 1, over 0"


def test_evidence_about_another_code_does_not_count() -> None:
    line = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
    assert triage(event(31, evidence=line)).drain is Drain.NO


def test_154_is_mended_as_the_driver_asks() -> None:
    assert triage(event(154, action="GPU Reset Required")).fault_class == "hw_reset"
    assert triage(event(154, action="Node Reboot Required")).fault_class == "hw_reboot"
    line = "NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
    verdict = triage(event(154, evidence=line))
    assert (verdict.drain, verdict.fault_class, verdict.by_driver) == (Drain.NOW, "hw_reboot", True)


@pytest.mark.parametrize(
    ("status", "asked", "drain"),
    [
        (CheckStatus.CRITICAL, Drain.NOW, Drain.NOW),
        (CheckStatus.CRITICAL, Drain.NO, Drain.NO),
        (CheckStatus.CRITICAL, None, Drain.REVIEW),
        (CheckStatus.WARNING, Drain.NOW, Drain.REVIEW),
        (CheckStatus.WARNING, Drain.NO, Drain.NO),
        (CheckStatus.UNKNOWN, None, Drain.REVIEW),
        (CheckStatus.OK, Drain.NOW, Drain.NO),
        (CheckStatus.OK, None, Drain.NO),
        (None, None, Drain.REVIEW),
    ],
)
def test_what_a_check_may_ask_for(status: CheckStatus | None, asked: Drain | None, drain: Drain) -> None:
    found = triage(
        NodeEvent(
            event_id="n/b/check/1",
            node=NodeName("n1"),
            kind=EventKind.CHECK,
            code=0,
            source=EventSource.CHECK,
            seen_at=EPOCH,
            check="nic",
            status=status,
            drain=asked,
            evidence="mlx5_0: down",
        )
    )
    assert found.drain is drain
    assert found.headline.startswith("check nic ")
    assert found.headline.endswith(": mlx5_0: down")


def test_every_class_of_fault_has_its_rank() -> None:
    assert len({strength(Drain.NOW, one) for one in FaultClass}) == len(FaultClass)
    assert strength(Drain.NOW, "of a newer version") < strength(Drain.NOW, FaultClass.INFO)
    assert strength(Drain.WHEN_IDLE, FaultClass.HW_SUPPORT) < strength(Drain.NOW, FaultClass.CONTAINED)
