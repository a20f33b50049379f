"""Events as sources tell of them, for the tests of what events mean together."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count

from slurm_gpuaas.domain.incidents import CheckStatus, Drain, EventKind, EventSource, NodeEvent
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.triage import Sighting
from tests.fakes import EPOCH

NODE, OTHER, THIRD = NodeName("b200-001"), NodeName("b200-002"), NodeName("b200-003")
_numbers = count(1)


def after(**span: float) -> datetime:
    return EPOCH + timedelta(**span)


def xid(
    code: int,
    at: datetime = EPOCH,
    *,
    node: NodeName = NODE,
    gpu: int = 3,
    text: str = "text",
    action: str | None = None,
    jobs: tuple[int, ...] = (),
    boot: str = "boot-1",
    source: EventSource = EventSource.KERNEL_LOG,
    serial: str | None = None,
) -> Sighting:
    pci = f"0000:{gpu:02x}:00"
    event = NodeEvent(
        event_id=f"{node}/{boot}/{source.value}/{next(_numbers):06d}",
        node=node,
        kind=EventKind.XID,
        code=code,
        source=source,
        seen_at=at,
        pci=pci,
        gpu=gpu,
        serial=serial,
        evidence=f"NVRM: Xid (PCI:{pci}): {code}, pid=1, name=python3, {text}",
        boot_id=boot,
        recovery_action=action,
    )
    return Sighting(event=event, jobs=tuple(JobId(job) for job in jobs))


def sm_exception(at: datetime = EPOCH, *, tpc: int = 1, gpu: int = 3, jobs: tuple[int, ...] = ()) -> Sighting:
    text = f"Graphics SM Warp Exception on (GPC 5, TPC {tpc}, SM 0): Illegal Instruction Encoding"
    return xid(13, at, gpu=gpu, text=text, jobs=jobs)


def check(
    status: CheckStatus | None,
    at: datetime = EPOCH,
    *,
    name: str = "nic",
    drain: Drain | None = None,
    text: str = "mlx5_0: link is down [link-down]",
    node: NodeName = NODE,
) -> Sighting:
    if status is CheckStatus.OK:
        text = f"{text.partition(': ')[0]}: well again"
    event = NodeEvent(
        event_id=f"{node}/boot-1/check/{next(_numbers):06d}",
        node=node,
        kind=EventKind.CHECK,
        code=0,
        source=EventSource.CHECK,
        seen_at=at,
        check=name,
        status=status,
        drain=drain,
        evidence=text,
        boot_id="boot-1",
    )
    return Sighting(event=event)
