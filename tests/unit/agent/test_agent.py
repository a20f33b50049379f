"""The whole agent against a small gpuaasd of the test, on simulated hardware through the real NVML binding."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pynvml
import pytest
import yaml
from click.testing import CliRunner
from pydantic import ValidationError

from slurm_gpuaas.agent import main
from slurm_gpuaas.agent.config import Config
from slurm_gpuaas.agent.main import Agent
from slurm_gpuaas.agent.node import Progress
from slurm_gpuaas.agent.nvml import nvlink_registrations, prepare_nvml
from slurm_gpuaas.api.signing import node_key
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import InvalidInput, Unavailable
from slurm_gpuaas.domain.incidents import EventSource, NodeEvent
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.testbed.sim import SimulatedNode, create_node_files
from slurm_gpuaas.topology import nvlink
from slurm_gpuaas.topology.fabric import Fabric, LeafGroup, NvlinkDomain
from tests.simulated import NODES
from tests.unit.agent.daemon import MASTER, Daemon, Running, once


def test_an_xid_in_the_kernel_log_arrives_signed_and_whole(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    with Running(config, *NODES):
        line = node.xid(79, 3)
        daemon.wait_for(lambda: bool(daemon.events))
    (event,) = daemon.events
    assert (event.node, event.code, event.pci, event.evidence) == ("b200-001", 79, "0000:61:00", line)
    assert event.boot_id == (node.folder / "boot_id").read_text().strip()
    assert event.event_id == f"b200-001/{event.boot_id}/kmsg/2"
    assert abs((SystemClock().now() - event.seen_at).total_seconds()) < 30


def test_a_fault_is_told_by_the_kernel_log_and_at_most_once_by_nvml_before_it(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    with Running(config.model_copy(update={"nvml": True}), *NODES):
        deadline = time.monotonic() + 10
        while not daemon.events and time.monotonic() < deadline:
            node.xid(31, 2)  # until the event set is registered only the kernel log tells
            with daemon._arrived:
                daemon._arrived.wait(0.1)
        node.xid(79, 3)
        daemon.wait_for(lambda: (EventSource.KERNEL_LOG, 79) in [(event.source, event.code) for event in daemon.events])
        node.xid(48, 4)
        daemon.wait_for(lambda: (EventSource.KERNEL_LOG, 48) in [(event.source, event.code) for event in daemon.events])
    for code in (31, 79, 48):
        told = [event.source for event in daemon.events if event.code == code]
        assert told in ([EventSource.KERNEL_LOG], [EventSource.NVML, EventSource.KERNEL_LOG])
    by_code = {event.code: event for event in daemon.events}
    assert by_code[79].gpu == 3
    assert by_code[79].serial == SimulatedNode(node.folder).read_state()["gpu.3.serial"]


def test_nvml_alone_is_a_source(nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    settings = config.model_copy(update={"nvml": True, "kernel_log": None})
    node.set(5, {"recovery_action": "1"})
    agent = Agent(settings, [NodeName(NODES[0])])
    (source,) = agent._start_nvml()
    agent._delivery.start()
    assert source.wait_until_listening(10)
    node.xid(119, 5)
    node.xid(79, 3)
    daemon.wait_for(lambda: len(daemon.events) == 3)
    assert [(event.source, event.code, event.gpu) for event in daemon.events] == [
        (EventSource.NVML, 154, 5),
        (EventSource.NVML, 119, 5),
        (EventSource.NVML, 79, 3),
    ]
    assert daemon.events[1].recovery_action == "GPU Reset"
    assert daemon.events[2].recovery_action in {None, "None"}, (
        "GPU 3 is just falling off: asked a moment early it answers"
    )
    # GPU 3 is lost now; the others are watched on.
    deadline = time.monotonic() + 10
    while len(daemon.events) < 4 and time.monotonic() < deadline:
        node.xid(48, 6)
        with daemon._arrived:
            daemon._arrived.wait(0.1)
    assert daemon.events[3].code == 48
    source.stop()
    agent._delivery.stop(5)


def test_what_happened_while_the_agent_was_down_is_told_once(
    config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    node.xid(48, 1)
    assert once(config)
    assert once(config)
    assert [event.code for event in daemon.events] == [48]
    node.xid(79, 3)
    assert once(config)
    assert [event.code for event in daemon.events] == [48, 79]


def test_what_happened_while_the_daemon_was_down_arrives_in_order(
    config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    daemon.stop()
    for gpu, code in enumerate((13, 31, 48, 79)):
        node.xid(code, gpu)
    assert not once(config)
    with Running(config, NODES[0]):
        node.xid(94, 5)
        daemon.start()
        daemon.wait_for(lambda: len(daemon.events) == 5, seconds=30)
    assert [event.code for event in daemon.events] == [13, 31, 48, 79, 94]
    assert (config.for_node(config.spool, NodeName(NODES[0])) / "events.jsonl").read_bytes() == b""


@pytest.mark.parametrize("status", [401, 409, 500, 503])
def test_what_the_daemon_does_not_take_now_is_kept(
    config: Config, daemon: Daemon, node: SimulatedNode, status: int
) -> None:
    daemon.answer = status
    node.xid(79, 3)
    assert not once(config)
    daemon.answer = 200
    assert once(config)
    assert [event.code for event in daemon.events] == [79]


def test_what_the_daemon_will_never_take_is_set_aside_and_does_not_block(
    config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    daemon.answer = 422
    node.xid(79, 3)
    assert once(config)
    rejected = config.for_node(config.spool, NodeName(NODES[0])) / "rejected.jsonl"
    assert "the test answers 422" in rejected.read_text()
    daemon.answer = 200
    node.xid(48, 4)
    assert once(config)
    assert [event.code for event in daemon.events] == [48]


def test_one_rejected_event_costs_no_other(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    daemon.refused = frozenset({31, 45})
    for gpu, code in enumerate((48, 31, 79, 45, 94)):
        node.xid(code, gpu)
    assert once(config)
    assert [event.code for event in daemon.events] == [48, 79, 94]
    rejected = config.for_node(config.spool, NodeName(NODES[0])) / "rejected.jsonl"
    assert [json.loads(line)["event"]["code"] for line in rejected.read_text().splitlines()] == [31, 45]
    node.xid(62, 5)
    node.xid(95, 6)
    assert once(config)
    assert len(daemon.batches[-1].events) == 2


def test_a_full_disk_hides_no_fault(
    config: Config, daemon: Daemon, node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    daemon.stop()
    with monkeypatch.context() as disk, Running(config, NODES[0]):
        disk.setattr(os, "pwrite", full)
        disk.setattr(Progress, "save", full)
        node.xid(79, 3)
        daemon.start()
        daemon.wait_for(lambda: len(daemon.events) == 1, seconds=30)
        node.xid(48, 4)
        daemon.wait_for(lambda: len(daemon.events) == 2)
    # Nothing of it could be noted, so it is told again, as the same events.
    assert once(config)
    assert len({event.event_id for event in daemon.events}) == 2


def test_a_node_whose_clock_is_lost_still_tells(
    config: Config, daemon: Daemon, node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.stop()
    monkeypatch.setattr(SystemClock, "now", lambda _self: datetime(1970, 1, 1, tzinfo=UTC))
    node.xid(79, 3)
    assert not once(config)
    monkeypatch.undo()
    daemon.start()
    assert once(config)
    assert [event.code for event in daemon.events] == [79]


@pytest.mark.parametrize("at", ["2026-11-22T00:00:00", "0001-01-01T00:00:00+09:00", "9999-12-31T23:59:59-09:00"])
def test_a_moment_that_no_database_keeps_is_no_event(at: str) -> None:
    whole = {"event_id": "x", "node": "b200-001", "kind": "xid", "code": 79, "source": "nvml"}
    NodeEvent.model_validate_json(json.dumps({**whole, "seen_at": "2026-11-22T00:00:00Z"}))
    with pytest.raises(ValidationError, match="seen_at"):
        NodeEvent.model_validate_json(json.dumps({**whole, "seen_at": at}))


def test_a_connection_that_the_daemon_closed_costs_nothing(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    with Running(config, NODES[0]):
        node.xid(31, 1)
        daemon.wait_for(lambda: len(daemon.events) == 1)
        daemon.stop()
        daemon.start()
        node.xid(79, 3)
        daemon.wait_for(lambda: len(daemon.events) == 2)


def test_events_travel_over_one_connection(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    with Running(config, *NODES):
        for gpu in range(8):
            node.xid(31, gpu)
            daemon.wait_for(lambda wanted=gpu + 1: len(daemon.events) == wanted)  # type: ignore[misc]
    assert daemon.connections == 1


def test_a_silent_node_says_that_it_lives(config: Config, daemon: Daemon) -> None:
    with Running(config.model_copy(update={"heartbeat": timedelta(seconds=0.05)}), *NODES):
        daemon.wait_for(lambda: {batch.node for batch in daemon.batches} == set(NODES))
    assert daemon.events == []


def test_user_space_cannot_forge_a_driver_line(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    forged = "NVRM: Xid (PCI:0000:61:00): 79, GPU has fallen off the bus."
    node.log(forged, priority=3 + 8 * 1)
    node.log(f"python3[77]: {forged}")
    node.log(f"NVRM: API mismatch: the client has the version {forged}, but")
    assert once(config)
    assert daemon.batches == []


def test_a_new_boot_begins_anew(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    with Running(config, NODES[0]):
        node.xid(79, 3)
        daemon.wait_for(lambda: len(daemon.events) == 1)
        node.reboot()
        node.xid(48, 3)
        daemon.wait_for(lambda: len(daemon.events) == 2)
    boots = [event.boot_id for event in daemon.events]
    assert boots[0] != boots[1]
    assert boots[1] == (node.folder / "boot_id").read_text().strip()


def test_a_storm_of_one_line_is_one_event(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    for _ in range(500):
        node.xid(95, 2)
    assert once(config)
    assert len(daemon.events) == 1


def test_a_storm_of_one_line_does_not_write_a_file_a_line(
    config: Config, daemon: Daemon, node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = Progress.save

    def counted(progress: Progress, path: Path) -> None:
        saved.append(progress.sequence)
        save(progress, path)

    monkeypatch.setattr(Progress, "save", counted)
    for _ in range(500):
        node.xid(95, 2)
    assert once(config)
    assert len(saved) < 20
    assert once(config)
    assert len(daemon.events) == 1, "how far it was read is noted in the end"


def test_a_line_that_means_more_than_the_one_before_is_told_however_soon(
    config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    for status in ("0x00000100", "0x00000100", "0x00000040", "0x00000100", "0x00000040"):
        node.log(f"NVRM: Xid (PCI:0000:61:00): 145, RLW_REMAP Nonfatal XC0 i0 Link 10 (0x00000004 {status} 0x00000000)")
    for severity in ("Non-fatal", "Fatal", "Non-fatal"):
        node.log(f"nvidia-nvswitch0: SXid (PCI:0000:07:00.0): 20034, {severity}, Link 30 LTSSM Fault Up")
    assert once(config)
    assert ["0x00000040" in event.evidence for event in daemon.events if event.code == 145] == [False, True]
    assert [", Fatal" in event.evidence for event in daemon.events if event.code == 20034] == [False, True]


def test_a_full_spool_keeps_the_first_events_and_says_so(
    config: Config, daemon: Daemon, node: SimulatedNode, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.stop()
    for code in range(1, 173):
        node.xid(code, code % 8)
    settings = config.model_copy(update={"spool_max_bytes": 4096})
    assert not once(settings)
    daemon.start()
    assert once(settings)
    assert [event.code for event in daemon.events] == list(range(1, len(daemon.events) + 1))
    assert 3 < len(daemon.events) < 20
    assert capsys.readouterr().out.count("spool.full") == 1


def test_a_torn_line_in_the_spool_is_dropped(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    daemon.stop()
    node.xid(48, 1)
    assert not once(config)
    spool = config.for_node(config.spool, NodeName(NODES[0])) / "events.jsonl"
    with spool.open("ab") as file:
        file.write(b'{"event_id": "b200-001/x')
    daemon.start()
    node.xid(79, 3)
    assert once(config)
    assert [event.code for event in daemon.events] == [48, 79]


def test_the_wrong_key_is_refused_and_nothing_is_lost(
    config: Config, daemon: Daemon, node: SimulatedNode, tmp_path: Path
) -> None:
    own = tmp_path / "agent.key"
    own.touch(0o600)
    own.write_text(node_key(MASTER, NodeName(NODES[1])).hex())
    node.xid(79, 3)
    wrong = config.model_copy(update={"master_key": None, "key": own})
    assert not once(wrong)
    assert daemon.events == []
    own.write_text(node_key(MASTER, NodeName(NODES[0])).hex())
    assert once(wrong)
    assert [event.code for event in daemon.events] == [79]


def test_a_key_that_others_can_read_is_refused(config: Config) -> None:
    assert config.master_key is not None
    config.master_key.chmod(0o644)
    with pytest.raises(InvalidInput, match="mode 0644: others can read it"):
        once(config)


def test_the_command_prints_what_gpus_say_of_their_nvlink_domain(
    nvml: ctypes.CDLL, tmp_path: Path, config: Config, node: SimulatedNode
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump({"simulated_hardware": str(config.simulated_hardware)}))
    rack = "9c6f5af3-53bf-49b5-a436-b66766c413c3"
    for gpu in range(8):
        node.set(gpu, {"fabric_clique": "4026", "fabric_uuid": rack})
    node.set(1, {"fabric_state": "2"})
    result = CliRunner().invoke(main.command, ["--config", str(path), "--nodes", ",".join(NODES), "--print-nvlink"])
    lines = result.output.splitlines()
    assert lines[:2] == [f"b200-001: {rack}, 4026, Completed, Success", f"b200-001: {rack}, 4026, In Progress, Success"]
    assert [line[:8] for line in lines] == ["b200-001"] * 8 + ["b200-002"] * 8
    fabric = nvlink.add(Fabric(leaf_groups=(LeafGroup(name="a", pod="p", nodes="b200-[001-002]"),)), result.output)
    (domain, other) = fabric.nvlink_domains
    assert domain == NvlinkDomain(name=f"{rack}.4026", nodes="b200-001")
    assert other.nodes == "b200-002"
    assert [finding.says for finding in fabric.findings] == ["7 of the 8 GPUs of b200-001 are in its NVLink domain."]


def test_without_nvml_the_command_says_so(nvml: ctypes.CDLL, tmp_path: Path, config: Config) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump({"simulated_hardware": str(config.simulated_hardware)}))
    result = CliRunner().invoke(main.command, ["--config", str(path), "--nodes", "b200-999", "--print-nvlink"])
    assert isinstance(result.exception, Unavailable)


def test_nvml_is_left_also_where_a_question_fails(
    nvml: ctypes.CDLL, node: SimulatedNode, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    with suppress(pynvml.NVMLError_Uninitialized):
        while True:
            pynvml.nvmlShutdown()
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", fail)
    with pytest.raises(Unavailable):
        nvlink_registrations(prepare_nvml(config, NodeName(NODES[0])))
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlShutdown()


def test_the_command_prints_a_nodes_key(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump({"master_key": str(config.master_key)}))
    result = CliRunner().invoke(main.command, ["--config", str(path), "--print-key", "b200-007"])
    assert result.output.strip() == node_key(MASTER, NodeName("b200-007")).hex()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kernellog: /dev/kmsg\n", "kernellog: Extra inputs are not permitted"),
        ("daemon: tcp:1.2.3.4\n", "use unix:PATH"),
        ("- a\n", "is not a mapping"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_a_faulty_configuration_is_told_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        Config.load(path)


def test_a_hundred_waiting_nodes_cost_no_processor_time(config: Config, daemon: Daemon, hardware: Path) -> None:
    names = [f"b200-{number:03d}" for number in range(1, 101)]
    create_node_files(hardware, names, "b200", "test")
    with Running(config, *names):
        SimulatedNode(hardware / names[-1]).xid(79, 0)
        daemon.wait_for(lambda: bool(daemon.events))
        daemon.stop()  # its own processor time must not count
        taken = [_processor_time(0.5) for _ in range(4)]
    assert min(taken) < 0.1, "of each half second"


def _processor_time(seconds: float) -> float:
    """Of this process while it does nothing else for so long."""
    before = os.times()
    threading.Event().wait(seconds)
    after = os.times()
    return after.user + after.system - before.user - before.system


def test_the_environment_stands_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("daemon: unix:/run/a.sock\nheartbeat: 30\n")
    monkeypatch.setenv("GPUAAS_AGENT_DAEMON", "https://slurm.example.org:6880")
    config = Config.load(path)
    assert (config.daemon, config.heartbeat.total_seconds()) == ("https://slurm.example.org:6880", 30)


def test_a_spool_that_cannot_be_used_costs_no_event(
    config: Config, daemon: Daemon, node: SimulatedNode, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    node.xid(79, 3)
    assert once(config.model_copy(update={"spool": tmp_path / "file" / "{node}"}))
    assert [event.code for event in daemon.events] == [79]


# -- what no event tells of


def looks(config: Config, **changes: object) -> Config:
    """An agent that watches NVML and runs its checks."""
    return config.model_copy(update={"nvml": True, "check_every": timedelta(minutes=1), **changes})


def test_a_recovery_action_that_nobody_saw_change_is_told_once_and_its_end_as_well(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    settings = config.model_copy(update={"nvml": True})
    node.set(3, {"recovery_action": "2"})
    assert once(settings)
    assert once(settings)
    (event,) = daemon.events
    assert (event.code, event.recovery_action, event.source) == (154, "Node Reboot", EventSource.NVML)
    assert event.serial == node.read_state()["gpu.3.serial"]
    assert (event.gpu, event.product, event.driver_version) == (3, "b200", "580.95.05")
    node.set(3, {"recovery_action": "0"})
    assert once(settings)
    assert [event.recovery_action for event in daemon.events] == ["Node Reboot", "None"]


def test_a_recovery_action_that_the_kernel_log_told_is_not_told_again(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    text = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
    node.xid(154, 3, text=text)
    assert once(config)
    node.set(3, {"recovery_action": "1"})
    assert once(config.model_copy(update={"nvml": True}))
    assert [event.source for event in daemon.events] == [EventSource.KERNEL_LOG]


def test_after_a_reboot_a_recovery_action_is_told_anew(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    settings = config.model_copy(update={"nvml": True})
    node.set(3, {"recovery_action": "2"})
    assert once(settings)
    node.reboot()
    node.set(3, {"recovery_action": "2"})
    assert once(settings)
    assert len({event.event_id for event in daemon.events}) == 2


def test_154_back_to_none_soon_after_is_news(config: Config, daemon: Daemon, node: SimulatedNode) -> None:
    node.xid(154, 3)
    node.xid(154, 3, text="GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)")
    node.xid(154, 3, text="GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)")
    assert once(config)
    assert [event.recovery_action for event in daemon.events] == ["Node Reboot Required", "None"]


def test_the_gpus_of_a_node_are_told_at_start_and_when_they_change(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    settings = config.model_copy(update={"nvml": True})
    assert once(settings)
    node.set(2, {"serial": "1659999999999", "vbios": "97.00.B1"})
    assert once(settings)
    first, second = [batch for batch in daemon.batches if batch.gpus is not None]
    assert first.gpus is not None
    assert second.gpus is not None
    assert [gpu.index for gpu in first.gpus] == list(range(8))
    assert {gpu.name for gpu in first.gpus} == {"NVIDIA B200"}
    assert (second.gpus[2].serial, second.gpus[2].vbios) == ("1659999999999", "97.00.B1")
    assert first.driver_version == "580.95.05"
    assert first.boot_id == (node.folder / "boot_id").read_text().strip()
    assert first.events == ()


def test_a_daemon_that_refuses_the_inventory_gets_the_events(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    daemon.refuses_inventory = True
    node.xid(79, 3)
    assert once(config.model_copy(update={"nvml": True}))
    assert [event.code for event in daemon.events] == [79]


def test_a_gpu_that_vanished_while_the_agent_was_down_is_missing(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    assert once(looks(config))
    node.set(5, {"lost": "1"})
    assert once(looks(config))
    assert once(looks(config))
    (event,) = daemon.events
    assert (event.kind, event.check, event.status, event.drain) == ("check", "gpu-count", "critical", "now")
    assert (event.gpu, event.pci, event.serial) == (5, "0000:c3:00", node.read_state()["gpu.5.serial"])
    node.set(5, {"lost": "0"})
    assert once(looks(config))
    assert (daemon.events[-1].status, daemon.events[-1].drain) == ("ok", "no")


def test_a_finding_is_told_when_it_changes_and_not_each_time(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    node.set(3, {"remap_correctable": "101"})
    assert once(looks(config))
    assert once(looks(config))
    node.set(3, {"remap_failure": "1"})
    assert once(looks(config))
    node.set(3, {"remap_failure": "0", "remap_correctable": "0"})
    assert once(looks(config))
    assert [(event.check, event.status, event.drain) for event in daemon.events] == [
        ("row-remap", "warning", "review"),
        ("row-remap", "critical", "when_idle"),
        ("row-remap", "ok", "no"),
    ]
    assert len({event.event_id for event in daemon.events}) == 3


def test_what_cannot_be_read_any_more_is_not_well_again(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    node.set(3, {"remap_failure": "1"})
    assert once(looks(config))
    state = (node.folder / "nvml.state").read_text()
    (node.folder / "nvml.state").unlink()
    assert once(looks(config))
    (node.folder / "nvml.state").write_text(state)
    assert once(looks(config))
    told = [(event.status, event.gpu) for event in daemon.events if event.check == "row-remap"]
    assert told == [("critical", 3), ("unknown", None), ("ok", None)], "the last is of the check, not of GPU 3"


def test_the_running_agent_checks_by_itself(
    nvml: ctypes.CDLL, config: Config, daemon: Daemon, node: SimulatedNode
) -> None:
    node.set(3, {"pcie_width": "4", "remap_failure": "1"})
    with Running(looks(config), *NODES):
        daemon.wait_for(lambda: any(event.check == "row-remap" for event in daemon.events))
    assert [event.check for event in daemon.events] == ["row-remap"], "PCIe must be narrow twice in a row"


@pytest.mark.parametrize("text", ['{"boot_id": 5}', '{"findings": [1]}', '{"actions": {"a": 1}}', "[]", "{", ""])
def test_broken_notes_of_an_earlier_run_are_begun_anew(
    config: Config, daemon: Daemon, node: SimulatedNode, text: str
) -> None:
    folder = config.for_node(config.spool, NodeName(NODES[0]))
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(text)
    (folder / "inventory.json").write_text(text)
    node.xid(79, 3)
    assert once(config)
    assert [event.code for event in daemon.events] == [79]
