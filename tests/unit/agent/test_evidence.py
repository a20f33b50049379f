"""The evidence bundle: whole where it can be, and honest where it cannot."""

from __future__ import annotations

import ctypes
import io
import json
import tarfile
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from slurm_gpuaas.agent import evidence, main
from slurm_gpuaas.agent.config import Config
from slurm_gpuaas.agent.evidence import Failed, Part, write_bundle
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.testbed.sim import SimulatedNode
from tests.fakes import EPOCH
from tests.simulated import NODES

NODE = NodeName(NODES[0])


def bundle(*parts: Part) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and manifest of a bundle of these parts."""
    out = io.BytesIO()
    write_bundle(out, parts, node=NODE, incident="i7", boot_id="b", at=EPOCH)
    return unpacked(out.getvalue())


def unpacked(archive: bytes) -> tuple[dict[str, bytes], dict[str, Any]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None}
    return files, json.loads(files.pop("manifest.json"))


def failing(error: Exception) -> Callable[[], bytes]:
    def make() -> bytes:
        raise error

    return make


def test_a_part_that_fails_is_noted_and_the_others_are_there() -> None:
    files, manifest = bundle(
        Part(file="a.txt", make=lambda: b"all", seconds=5),
        Part(file="b.txt", make=failing(Failed("dcgmi took too long")), seconds=5),
        Part(file="c.txt", make=failing(PermissionError(13, "Permission denied")), seconds=5),
        Part(file="d.txt", make=lambda: b"", seconds=5),
    )
    assert files == {"a.txt": b"all", "d.txt": b""}
    assert {part["file"]: part["failed"] for part in manifest["parts"]} == {
        "a.txt": None,
        "b.txt": "dcgmi took too long",
        "c.txt": "[Errno 13] Permission denied",
        "d.txt": None,
    }
    assert (manifest["node"], manifest["incident"], manifest["boot_id"]) == (NODE, "i7", "b")


def test_a_part_that_hangs_is_left_behind() -> None:
    never = threading.Event()

    def wait() -> bytes:
        never.wait(30)
        return b""

    _files, manifest = bundle(Part(file="a.txt", make=wait, seconds=0.01))
    assert manifest["parts"][0]["failed"] == "no answer within 0.01 s"
    never.set()


def test_parts_and_bundle_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "PART_MAX", 100)
    monkeypatch.setattr(evidence, "BUNDLE_MAX", 150)
    files, manifest = bundle(
        Part(file="a.txt", make=lambda: b"a" * 101, seconds=5),
        Part(file="b.txt", make=lambda: b"b" * 60, seconds=5),
        Part(file="c.txt", make=lambda: b"c", seconds=5),
    )
    assert {name: len(content) for name, content in files.items()} == {"a.txt": 100, "b.txt": 50, "c.txt": 0}
    assert [part["cut"] for part in manifest["parts"]] == [True, True, True]


@pytest.fixture
def taken(nvml: ctypes.CDLL, tmp_path: Path, config: Config) -> Callable[..., tuple[dict[str, bytes], dict[str, Any]]]:
    def take(**changes: object) -> tuple[dict[str, bytes], dict[str, Any]]:
        settings = config.model_copy(update={"nvml": True, "evidence_commands": (), **changes})
        path, output = tmp_path / "agent.yaml", tmp_path / "evidence.tar.gz"
        path.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude={"key"}, exclude_none=True))))
        argv = ["--config", str(path), "--nodes", NODE, "evidence", "--incident", "i7", "--output", str(output)]
        result = CliRunner().invoke(main.command, argv)
        assert result.exit_code == 0, result.output
        assert output.stat().st_mode & 0o777 == 0o600
        return unpacked(output.read_bytes())

    return take


def test_counters_that_a_reset_clears_are_in_it(
    taken: Callable[..., tuple[dict[str, bytes], dict[str, Any]]], node: SimulatedNode
) -> None:
    node.set(3, {"ecc_volatile_uncorrected": "5", "remap_pending": "1", "recovery_action": "1", "process.77": "4096"})
    line = node.xid(48, 3)
    node.log("NVRM: forged by a user", priority=3 + 8)
    node.log("usb 1-1: not of the driver")
    files, manifest = taken()
    facts = json.loads(files["gpus.json"])
    gpu = facts["gpus"][3]
    assert facts["driver_version"] == "580.95.05"
    assert (gpu["ecc"]["uncorrected_volatile"], gpu["remapped_rows"]["pending"]) == (5, 1)
    assert (gpu["recovery_action"], gpu["pci"]) == ("GPU Reset", "0000:61:00")
    assert gpu["serial"] == node.read_state()["gpu.3.serial"]
    assert gpu["processes"] == [{"pid": 77, "memory_bytes": 4096}]
    assert len(gpu["nvlinks"]) == 18
    assert gpu["inforom"] == {"error": "Function Not Found"}, "what a GPU does not answer is evidence, too"
    log = files["kernel-log.txt"].decode()
    assert line in log
    assert "forged" not in log
    assert "usb" not in log
    assert manifest["boot_id"] == (node.folder / "boot_id").read_text().strip()


def test_programs_add_their_output_or_their_file(
    taken: Callable[..., tuple[dict[str, bytes], dict[str, Any]]],
) -> None:
    files, manifest = taken(
        evidence_commands=(
            ("echo", "said; $(id)"),
            ("sh", "-c", "echo written > $0.gz", "{file}"),
            ("/no/such/program",),
            ("sleep", "60"),
            ("true", "{file}"),
        ),
        evidence_seconds=timedelta(seconds=3),
    )
    (echoed,) = (content for name, content in files.items() if name.startswith("echo_said"))
    assert echoed == b"said; $(id)\n", "no shell looked at it"
    assert b"written\n" in files.values()
    failed = {part["file"].partition("_")[0]: part["failed"] for part in manifest["parts"] if part["failed"]}
    assert failed == {
        "": "/no/such/program is not installed",
        "sleep": "sleep took more than 3 s",
        "true": "true wrote no file",
    }


def test_without_nvml_the_rest_is_taken(
    taken: Callable[..., tuple[dict[str, bytes], dict[str, Any]]], node: SimulatedNode
) -> None:
    (node.folder / "nvml.state").unlink()
    files, manifest = taken()
    assert set(files) == {"kernel-log.txt"}
    assert manifest["parts"][0]["failed"].startswith("NVML does not work here")


def test_evidence_is_of_one_node(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"simulated_hardware: {config.simulated_hardware}\n")
    result = CliRunner().invoke(main.command, ["--config", str(path), "--nodes", ",".join(NODES), "evidence"])
    assert "Evidence is of one node, not of 2." in str(result.exception)
