"""What readers tell of a node: simulated GPUs through the real NVML binding, a sysfs of files, programs' output."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pynvml
import pytest
import yaml
from click.testing import CliRunner, Result

from slurm_gpuaas.agent import main
from slurm_gpuaas.agent.checks import Checker, Rates, file_systems
from slurm_gpuaas.agent.checks import gpus as gpu_checks
from slurm_gpuaas.agent.checks.clock import ClockReader, of_kernel, of_tracking
from slurm_gpuaas.agent.checks.dcgm import DcgmReader, failed_tests
from slurm_gpuaas.agent.checks.file_systems import FileSystemReader, mounts
from slurm_gpuaas.agent.checks.gpus import GpuReader
from slurm_gpuaas.agent.checks.infiniband import InfiniBandReader
from slurm_gpuaas.agent.checks.periodic import Strikes, readers_of
from slurm_gpuaas.agent.config import Config, FileSystem
from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import CheckStatus, Drain, EventKind, EventSource
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.checks import CheckResult, Context, Finding, Measure, Reading, shipped_checks
from slurm_gpuaas.testbed.sim import SimulatedNode
from slurm_gpuaas.testbed.sim.hardware import pci_address
from tests.simulated import NODES
from tests.unit.agent.daemon import Daemon

OK, WARNING, CRITICAL, UNKNOWN = CheckStatus
NODE = NodeName(NODES[0])


def look(config: Config, context: Context, known: Sequence[GpuIdentity] = ()) -> dict[str, CheckResult]:
    checker = Checker(readers_of(config, NODE, lambda: known))
    return {result.name: result for result in checker.run(shipped_checks().of(context))}


@pytest.fixture
def gpus(config: Config) -> Config:
    """The configuration of an agent that watches NVML."""
    return config.model_copy(update={"nvml": True})


@pytest.mark.parametrize(
    ("readings", "check", "status", "drain"),
    [
        ({"ecc_volatile_uncorrected": "2"}, "ecc", CRITICAL, Drain.WHEN_IDLE),
        ({"sram_threshold": "1"}, "ecc", CRITICAL, Drain.WHEN_IDLE),
        ({"ecc_enabled": "0"}, "ecc", CRITICAL, Drain.REVIEW),
        ({"remap_failure": "1"}, "row-remap", CRITICAL, Drain.WHEN_IDLE),
        ({"remap_pending": "1"}, "row-remap-pending", CRITICAL, Drain.WHEN_IDLE),
        ({"banks_exhausted": "1"}, "row-remap", CRITICAL, Drain.WHEN_IDLE),
        ({"nvlink.5.state": "0", "nvlink.17.state": "0"}, "nvlink", CRITICAL, Drain.WHEN_IDLE),
        ({"field.162": "4000000000"}, "nvlink", WARNING, Drain.REVIEW),
        ({"fabric_state": "2"}, "fabric", CRITICAL, Drain.WHEN_IDLE),
        ({"fabric_health_mask": "1"}, "fabric", WARNING, Drain.REVIEW),
        ({"fabric_health_mask": "2"}, "fabric", OK, Drain.NO),
        ({"pcie_width": "8"}, "pcie", CRITICAL, Drain.WHEN_IDLE),
        ({"pcie_generation": "4"}, "pcie", WARNING, Drain.NO),
        ({"clocks_event_reasons": "64"}, "thermal", CRITICAL, Drain.REVIEW),
        ({"clocks_event_reasons": "32"}, "thermal", WARNING, Drain.NO),
        ({"clocks_event_reasons": "5"}, "thermal", OK, Drain.NO),
        ({"temperature": "91"}, "thermal", WARNING, Drain.NO),
        ({"clocks_event_reasons": "128"}, "power", CRITICAL, Drain.REVIEW),
        ({"persistence": "0"}, "persistence", WARNING, Drain.NO),
        ({"memory_used": str(2 << 30)}, "processes", CRITICAL, Drain.WHEN_IDLE),
        ({"memory_used": str(2 << 30), "process.4242": str(2 << 30)}, "processes", OK, Drain.NO),
    ],
)
def test_nvml_shows_what_is_wrong_with_a_gpu(
    nvml: ctypes.CDLL,
    gpus: Config,
    node: SimulatedNode,
    readings: dict[str, str],
    check: str,
    status: CheckStatus,
    drain: Drain,
) -> None:
    node.set(3, readings)
    result = look(gpus, Context.RETURN)[check]
    assert (result.status, result.drain) == (status, drain), result.message
    assert {finding.gpu.pci for finding in result.findings if finding.gpu} <= {"0000:61:00"}


def test_memory_of_a_process_that_draws_is_not_orphaned(
    nvml: ctypes.CDLL, gpus: Config, node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.set(3, {"memory_used": str(2 << 30)})
    monkeypatch.setattr(gpu_checks, "_OTHER_KINDS", (lambda _handle: ["Xorg"],))
    assert look(gpus, Context.EPILOG)["processes"].status is OK


def test_a_healthy_node_is_ok_in_every_context(nvml: ctypes.CDLL, gpus: Config, node: SimulatedNode) -> None:
    node.set_port("mlx5_0", {})
    for context in Context:
        results = look(gpus, context)
        assert {name: result.message for name, result in results.items() if result.status is not OK} == {}
        assert results


def test_a_gpu_that_the_node_had_and_that_does_not_answer_is_missing(
    nvml: ctypes.CDLL, gpus: Config, node: SimulatedNode
) -> None:
    known = tuple(
        GpuIdentity(index=index, uuid=f"GPU-{index}", serial=f"165{index}", pci=pci)
        for index, pci in enumerate(("0000:1b:00", "0000:43:00", "0000:52:00", "0000:61:00"))
    )
    node.set(3, {"lost": "1"})
    assert look(gpus, Context.PERIODIC, known)["gpu-count"].status is OK, "seven answer, four were known"
    eight = (*known, *(GpuIdentity(index=i, uuid="", serial=None, pci=f"0000:{i}d:00") for i in range(4, 8)))
    result = look(gpus, Context.PERIODIC, eight)["gpu-count"]
    assert (result.status, result.drain) == (CRITICAL, Drain.NOW)
    assert "GPU 3 (0000:61:00): gpus missing 1 (7 answer, 8 expected; serial 1653)" in result.message


def test_a_gpu_that_fails_to_answer_once_is_not_missing(
    nvml: ctypes.CDLL, gpus: Config, node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, failures = pynvml.nvmlDeviceGetPciInfo, iter([True])

    def fails_once(handle: object) -> object:
        if next(failures, False):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
        return ask(handle)

    known = [GpuIdentity(index=index, uuid="", serial=None, pci=pci_address(index)) for index in range(8)]
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPciInfo", fails_once)
    assert look(gpus, Context.PERIODIC, known)["gpu-count"].status is OK


def test_the_expected_number_of_gpus_and_the_driver_are_the_sites(
    nvml: ctypes.CDLL, gpus: Config, node: SimulatedNode
) -> None:
    wanted = gpus.model_copy(update={"gpus": 9, "driver": "575"})
    results = look(wanted, Context.PERIODIC)
    assert "gpus missing 1 (8 answer, 9 expected)" in results["gpu-count"].message
    assert "580.95.05, expected 575" in results["driver"].message
    right = gpus.model_copy(update={"gpus": 8, "driver": "580"})
    assert {look(right, Context.PERIODIC)[name].status for name in ("gpu-count", "driver")} == {OK}
    assert look(gpus.model_copy(update={"driver": "58"}), Context.PERIODIC)["driver"].status is WARNING


def test_without_nvml_gpu_checks_are_unknown_and_the_driver_is_critical(nvml: ctypes.CDLL, gpus: Config) -> None:
    assert gpus.simulated_hardware is not None
    (gpus.simulated_hardware / NODES[0] / "nvml.state").unlink()
    results = look(gpus, Context.PERIODIC)
    assert results.pop("driver").status is CRITICAL
    assert {result.status for result in results.values()} == {UNKNOWN}


@pytest.mark.parametrize(
    ("files", "rate", "status", "said"),
    [
        ({}, None, OK, ""),
        ({"state": "1: DOWN", "phys_state": "3: Disabled"}, None, CRITICAL, "1: DOWN, 3: Disabled"),
        ({"state": "2: INIT"}, None, CRITICAL, "2: INIT, 5: LinkUp"),
        ({"rate": "200 Gb/sec (4X HDR)"}, None, OK, ""),
        ({"rate": "200 Gb/sec (4X HDR)"}, 400.0, CRITICAL, "200 of 400 Gb/s"),
        ({"rate": "fast"}, 400.0, OK, "without rate missing gbps"),
        ({"counters/link_downed": "90000000000"}, None, WARNING, "90000000000 in all"),
        ({"counters/symbol_error": "9" * 400}, None, OK, ""),
        ({"link_layer": "Ethernet", "state": "1: DOWN"}, None, OK, ""),
    ],
)
def test_an_infiniband_port_is_judged_by_what_sysfs_says(
    config: Config, node: SimulatedNode, files: dict[str, str], rate: float | None, status: CheckStatus, said: str
) -> None:
    node.set_port("mlx5_2", files)
    result = look(config.model_copy(update={"infiniband_rate": rate}), Context.PERIODIC)["infiniband"]
    assert result.status is status, result.message
    assert said in result.message
    assert {finding.subject for finding in result.findings} <= {"mlx5_2/1"}


def test_a_port_that_should_be_there_and_is_not_is_missing(tmp_path: Path) -> None:
    reader = InfiniBandReader(tmp_path / "none", ports=("mlx5_7",), rate=None, rates=Rates())
    assert {(one.measure, one.value, one.subject) for one in reader.read()} == {
        (Measure.PORTS_MISSING, 1, "mlx5_7/1"),
        (Measure.PORTS_DOWN, 1, "mlx5_7/1"),
    }


def test_unreadable_state_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "mlx5_0" / "ports" / "1").mkdir(parents=True)
    (tmp_path / "mlx5_0" / "ports" / "1" / "state").write_bytes(b"\xff\xfe" * 5000)
    reader = InfiniBandReader(tmp_path, ports=(), rate=None, rates=Rates())
    assert {one.measure: one.value for one in reader.read()} == {Measure.PORTS_MISSING: 0, Measure.PORTS_DOWN: None}


def test_counters_are_rates_since_the_boot_and_then_since_the_last_look() -> None:
    now = 600.0
    rates = Rates(lambda: now)
    assert rates.per_minute("mlx5_0", "errors", 50) == 5
    now = 660.0
    assert rates.per_minute("mlx5_0", "errors", 52) == 2
    now = 720.0
    assert rates.per_minute("mlx5_0", "errors", 3) == 3, "the driver was loaded again"


MOUNTINFO = (
    b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
    b"30 22 0:40 / /home ro,nosuid shared:9 - nfs4 srv:/home rw,vers=4.2\n"
    b"31 22 0:41 / /data\\040set rw - lustre mds:/d ro,flock\n"
    b"garbage\n\xff\xfe - - -\n\n1 2 3 - x\n"
)


def test_a_mount_is_read_only_when_its_superblock_is() -> None:
    assert mounts(MOUNTINFO) == {"/": False, "/home": False, "/data set": True}


def test_file_systems_are_asked_for_mount_room_and_writing(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"1 2 0:1 / {tmp_path} rw - tmpfs tmpfs rw\n2 2 0:1 / /dev/null rw - tmpfs tmpfs rw\n")
    wanted = [FileSystem(path=Path(path)) for path in (tmp_path, "/not/mounted", "/dev/null")]
    found = {
        (one.subject, one.measure): one for one in FileSystemReader(wanted, seconds=20, mountinfo=mountinfo).read()
    }
    assert found["/not/mounted", Measure.NOT_MOUNTED].value == 1
    assert found[str(tmp_path), Measure.READ_ONLY].value == 0
    assert 0 <= (found[str(tmp_path), Measure.FREE_PERCENT].value or 0) <= 100
    assert found["/dev/null", Measure.READ_ONLY].value == 1, "nothing can be made in it"
    assert list(tmp_path.iterdir()) == [mountinfo], "the probe leaves nothing behind"


@pytest.mark.parametrize(
    ("error", "read_only", "full"),
    [("ENOSPC", 0, True), ("EDQUOT", 0, True), ("EACCES", 0, False), ("EIO", 1, False), ("EROFS", 1, False)],
)
def test_a_file_system_that_users_filled_is_full_and_not_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, read_only: int, full: bool
) -> None:
    fails = f"import errno, os\ndef fail(*_):\n raise OSError(errno.{error}, 'x')\nos.write = fail\n"
    monkeypatch.setattr(file_systems, "_PROBE", fails + file_systems._PROBE)
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"1 2 0:1 / {tmp_path} rw - tmpfs tmpfs rw\n")
    reader = FileSystemReader([FileSystem(path=tmp_path)], seconds=20, mountinfo=mountinfo)
    found = {one.measure: one.value for one in reader.read()}
    assert found[Measure.READ_ONLY] == read_only
    assert (found[Measure.FREE_PERCENT] == 0) is full


def test_a_file_system_that_does_not_answer_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm_gpuaas.agent.checks.file_systems._PROBE", "import time; time.sleep(60)")
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"1 2 0:1 / {tmp_path} rw - nfs srv:/ rw\n")
    reader = FileSystemReader([FileSystem(path=tmp_path)], seconds=0.01, mountinfo=mountinfo)
    assert [(one.measure, one.value) for one in reader.read()] == [(Measure.NOT_MOUNTED, 0), (Measure.SILENT, 1)]


@pytest.mark.parametrize(
    ("text", "offset", "lost"),
    [
        ("A29FC87B,162.159.200.123,4,1700000000.1,-0.000012,0.1,0.1,1.1,0.1,0.1,0.1,0.1,64.1,Normal", 0.000012, 0),
        ("7F7F0101,,10,0.0,75.5,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,Not synchronised", 75.5, 1),
        ("506 Cannot talk to daemon", None, None),
        ("", None, None),
        (",".join("x" * 14), None, None),
        ("9" * 100_000, None, None),
    ],
)
def test_chrony_tells_offset_and_leap_status(text: str, offset: float | None, lost: float | None) -> None:
    assert of_tracking(text)[:2] == (offset, lost)
    assert [one.value for one in ClockReader(lambda: text).read()] == [offset, lost]


def test_the_kernel_tells_of_the_clock_where_chrony_is_not() -> None:
    offset, lost, _detail = of_kernel()
    assert (offset is None) == (lost is None)


DCGM_4 = (
    b'Successfully ran diagnostic\n{"DCGM Diagnostic": {"test_categories": [{"category": "Deployment", "tests": ['
    b'{"name": "software", "results": [{"entity_id": 0, "status": "Pass"}], "test_summary": {"status": "Pass"}}]},'
    b'{"category": "Hardware", "tests": [{"name": "memory", "results": [{"entity_id": 0, "status": "Fail"},'
    b'{"entity_id": 1, "status": "Fail"}]}, {"name": "pcie", "results": [{"status": "Skip"}]}]}]}}'
)


@pytest.mark.parametrize(
    ("output", "failed"),
    [
        (DCGM_4, ["memory"]),
        (DCGM_4.replace(b"Fail", b"Pass"), []),
        (b'{"a": {"tests": []}}', None),
        (b"error: no GPUs", None),
        (b"", None),
        (b'{"a": ' * 100_000, None),
        (b"[" * 100_000 + b"{", None),
    ],
)
def test_dcgm_names_the_tests_that_failed(output: bytes, failed: list[str] | None) -> None:
    assert failed_tests(output) == failed


def test_dcgm_that_cannot_be_run_is_unknown() -> None:
    (reading,) = DcgmReader("/no/such/dcgmi", level=1).read()
    assert reading.value is None


class Stuck:
    name = "stuck"
    measures = frozenset({Measure.SILENT, Measure.NOT_MOUNTED})
    seconds = 0.01

    def __init__(self) -> None:
        self.asked = 0
        self.go = threading.Event()

    def read(self) -> Iterator[Reading]:
        self.asked += 1
        self.go.wait(30)
        yield Reading(measure=Measure.SILENT, value=0)
        yield Reading(measure=Measure.NOT_MOUNTED, value=0)


def test_a_reader_that_hangs_is_unknown_and_not_asked_again_before_it_answers() -> None:
    stuck = Stuck()
    checker = Checker([stuck])
    checks = {"file-systems": shipped_checks().checks["file-systems"]}
    for said in ("no answer within 0.01 s", "still no answer to the last question"):
        (result,) = checker.run(checks)
        assert result.status is UNKNOWN
        assert said in result.message
    assert stuck.asked == 1
    stuck.go.set()
    checker._busy["stuck"].join(10)
    stuck.seconds = 10
    (result,) = checker.run(checks)
    assert (result.status, stuck.asked) == (OK, 2)


class StuckNvml(Stuck):
    measures = GpuReader.measures


def test_a_driver_that_hangs_is_for_a_person() -> None:
    result = Checker([StuckNvml()]).run(shipped_checks().of(Context.PERIODIC))
    (driver,) = (one for one in result if one.name == "driver")
    assert (driver.status, driver.drain) == (CRITICAL, Drain.REVIEW)
    assert {one.status for one in result if one.name != "driver"} == {UNKNOWN}


def test_checks_of_what_a_node_does_not_have_are_left_out(config: Config) -> None:
    assert look(config, Context.RETURN) == {}, "no GPUs, no InfiniBand, and the rest is not the simulated node's"


def test_what_must_be_found_some_rounds_in_a_row_is_pending_until_then() -> None:
    def found(status: CheckStatus, rounds: int) -> list[CheckResult]:
        one = Finding(subject="GPU 3", gpu=None, status=status, drain=Drain.NO, message="", rule="", rounds=rounds)
        return [CheckResult(name="thermal", findings=(one,), readings=())]

    strikes, pending = Strikes(), {("thermal", "GPU 3")}
    assert strikes.pending(found(WARNING, 3)) == pending
    assert strikes.pending(found(WARNING, 3)) == pending
    assert strikes.pending(found(WARNING, 3)) == set()
    assert strikes.pending([CheckResult(name="thermal", findings=(), readings=())]) == set()
    assert strikes.pending(found(WARNING, 3)) == pending
    assert strikes.pending(found(CRITICAL, 1)) == set(), "what is worse need not wait"


def test_every_measure_has_a_reader() -> None:
    readers = (GpuReader, InfiniBandReader, FileSystemReader, ClockReader, DcgmReader)
    assert frozenset().union(*(reader.measures for reader in readers)) == set(Measure)


# -- the command


@pytest.fixture
def run(nvml: ctypes.CDLL, tmp_path: Path, gpus: Config) -> Callable[..., Result]:
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(json.loads(gpus.model_dump_json(exclude={"checks", "key"}, exclude_none=True))))

    def command(*options: str) -> Result:
        return CliRunner().invoke(main.command, ["--config", str(path), "--nodes", NODES[0], *options])

    return command


@pytest.mark.parametrize(
    ("readings", "code"), [({}, 0), ({"ecc_aggregate_uncorrected": "1"}, 1), ({"pcie_width": "8"}, 2)]
)
def test_the_command_exits_as_a_nagios_plugin(
    run: Callable[..., Result], node: SimulatedNode, readings: dict[str, str], code: int
) -> None:
    if readings:
        node.set(3, readings)
    result = run("check", "--once", "--dry-run", "--context", "prolog")
    assert result.exit_code == code, result.output


def test_without_nvml_the_command_exits_with_unknown(run: Callable[..., Result], node: SimulatedNode) -> None:
    (node.folder / "nvml.state").unlink()
    assert run("check", "--once", "--dry-run", "--only", "ecc").exit_code == 3


def test_the_command_prints_a_line_a_check_with_numbers(run: Callable[..., Result], node: SimulatedNode) -> None:
    node.set(3, {"pcie_width": "8"})
    lines = run("check", "--once", "--dry-run", "--only", "pcie,persistence").output.splitlines()
    persistence, pcie, report = lines
    assert persistence.startswith("persistence OK - 8 readings within limits | 'gpu0.persistence_off'=0;0 ")
    assert pcie.startswith("pcie CRITICAL - GPU 3 (0000:61:00): pcie lanes missing 8, over 0: ")
    assert " 'gpu3.pcie_lanes_missing'=8;;0 " in pcie
    assert report.startswith("would report pcie critical, drain when_idle: GPU 3 (0000:61:00): pcie lanes missing 8")


def test_a_finding_is_reported_signed_unless_it_is_a_dry_run(
    run: Callable[..., Result], daemon: Daemon, node: SimulatedNode
) -> None:
    node.set(3, {"remap_failure": "1", "persistence": "0"})
    assert run("check", "--once", "--dry-run").exit_code == 2
    assert daemon.batches == []
    assert run("check", "--once").exit_code == 2
    (event,) = daemon.events
    assert (event.kind, event.source, event.code) == (EventKind.CHECK, EventSource.CHECK, 0)
    assert (event.check, event.status, event.drain) == ("row-remap", CRITICAL, Drain.WHEN_IDLE)
    assert (event.gpu, event.serial) == (3, node.read_state()["gpu.3.serial"])
    assert event.product == "b200"


def test_a_daemon_that_is_away_changes_no_exit_code(
    run: Callable[..., Result], daemon: Daemon, node: SimulatedNode
) -> None:
    daemon.stop()
    node.set(3, {"remap_failure": "1"})
    result = run("check", "--once")
    assert result.exit_code == 2
    assert "b200-001: not reported: " in result.stderr


def test_the_command_prints_json(run: Callable[..., Result], node: SimulatedNode) -> None:
    node.set(3, {"pcie_width": "8"})
    document = json.loads(run("check", "--once", "--dry-run", "--json", "--only", "pcie").output)
    assert (document["node"], document["status"], document["reported"]) == (NODES[0], "critical", False)
    (check,) = document["checks"]
    (finding,) = check["findings"]
    assert (finding["gpu"], finding["drain"], finding["serial"]) == (
        3,
        "when_idle",
        node.read_state()["gpu.3.serial"],
    )


def test_the_command_lists_checks_with_their_limits(run: Callable[..., Result]) -> None:
    output = run("check", "--list", "--context", "return").output
    assert "row-remap (periodic, prolog, return): " in output
    assert "  remap_failure above 0: critical, drain when_idle: " in output
    assert "infiniband (periodic, prolog, return), not on this node: " in output


def test_an_unknown_check_is_refused(run: Callable[..., Result]) -> None:
    assert "There is no check 'eccc'" in str(run("check", "--only", "eccc").exception)


@pytest.mark.parametrize(
    ("program", "readings", "code"),
    [
        ("prolog_health", {}, 0),
        ("prolog_health", {"ecc_aggregate_uncorrected": "1"}, 0),
        ("prolog_health", {"remap_pending": "1"}, 0),
        ("prolog_health", {"pcie_width": "8"}, 1),
        ("prolog_health", {"ecc_enabled": "0"}, 0),
        ("epilog_health", {"memory_used": str(4 << 30)}, 1),
        ("health_check", {"memory_used": str(4 << 30)}, 0),
    ],
)
def test_a_program_of_slurmd_fails_on_what_must_leave_service_alone(
    nvml: ctypes.CDLL,
    tmp_path: Path,
    run: Callable[..., Result],
    daemon: Daemon,
    node: SimulatedNode,
    program: str,
    readings: dict[str, str],
    code: int,
) -> None:
    if readings:
        node.set(3, readings)
    context = {"prolog_health": "prolog", "epilog_health": "epilog", "health_check": "periodic"}[program]
    said = run("check", "--once", "--json", "--context", context).output
    (tmp_path / "said").write_text(said)
    agent = tmp_path / "gpuaas-agent"
    agent.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {tmp_path}/said\n')
    agent.chmod(0o755)
    source = (Path(__file__).parents[3] / "plugins" / program).read_text()
    script = tmp_path / program
    script.write_text(source.replace("/opt/gpuaas/venv/bin/gpuaas-agent", str(agent)))
    script.chmod(0o755)
    assert os.waitstatus_to_exitcode(os.system(f"SLURMD_NODENAME=b200-001 {script} 2>/dev/null")) == code
    assert (tmp_path / "asked").read_text().strip() == f"--nodes b200-001 check --once --json --context {context}"


@pytest.mark.parametrize("said", ["not json", '{"checks": [{}]}', "[]", '"x"', ""])
def test_a_program_of_slurmd_lets_jobs_go_on_when_it_is_answered_nonsense(tmp_path: Path, said: str) -> None:
    (tmp_path / "said").write_text(said)
    agent = tmp_path / "gpuaas-agent"
    agent.write_text(f"#!/bin/sh\ncat {tmp_path}/said\n")
    agent.chmod(0o755)
    source = (Path(__file__).parents[3] / "plugins" / "prolog_health").read_text()
    script = tmp_path / "prolog_health"
    script.write_text(source.replace("/opt/gpuaas/venv/bin/gpuaas-agent", str(agent)))
    script.chmod(0o755)
    assert os.system(f"{script} 2>/dev/null") == 0


def test_the_deadline_of_a_check_is_the_sites(config: Config) -> None:
    quick = config.model_copy(update={"nvml": True, "check_deadline": timedelta(seconds=3)})
    (reader,) = readers_of(quick, NODE, tuple)
    assert reader.seconds == 3
