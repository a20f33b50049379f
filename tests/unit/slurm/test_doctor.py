"""Every check of the doctor, sound and not, with what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Unavailable
from slurm_gpuaas.domain.names import GpuModel
from slurm_gpuaas.slurm.connect import DoorSettings
from slurm_gpuaas.slurm.doctor import DaemonSeen, Facts, Finding, Level, Seen, examine, findings, parse_config, sound
from slurm_gpuaas.slurm.protocols import SlurmUnavailable
from slurm_gpuaas.slurm.pyslurm_driver import PyslurmVersions
from slurm_gpuaas.slurm.rest_wire import RestAddress

CONFIG: Mapping[str, str] = {
    "SLURM_VERSION": "26.05.5",
    "JobSubmitPlugins": "lua",
    "PreemptType": "preempt/qos",
    "PreemptMode": "REQUEUE",
    "SelectType": "select/cons_tres",
    "AccountingStorageEnforce": "associations,limits,qos,safe",
    "AccountingStorageTRES": "cpu,mem,gres/gpu,gres/gpu:b200",
    "PriorityDecayHalfLife": "00:00:00",
    "PriorityUsageResetPeriod": "NONE",
    "PriorityType": "priority/multifactor",
    "Licenses": "matlab:5,placement:1000000",
    "SchedulerParameters": "bf_interval=5,requeue_delay=1",
    "JobRequeue": "1",
}
SOUND = Facts(
    pyslurm=Seen(PyslurmVersions(pyslurm="25.11.2", slurm="26.05.5")),
    rest=Seen("26.05.5"),
    rest_requeue=Seen("v0.0.45"),
    rest_reservations=Seen("v0.0.43"),
    slurmdbd=Seen("mini"),
    config=Seen(CONFIG),
    rest_user="gpuaas",
    admin_level=Seen("Administrator"),
    models=frozenset({GpuModel("b200")}),
    snapshot_age=timedelta(seconds=3),
    daemon=Seen(DaemonSeen(version="0.1", driver="pyslurm", fallback=False, reason="")),
)


def only_problem(facts: Facts) -> Finding:
    problems = [finding for finding in findings(facts) if finding.level is not Level.OK]
    assert len(problems) == 1, problems
    assert problems[0].way_out, "a problem comes with what to do"
    return problems[0]


def test_a_snapshot_that_the_daemon_had_no_reason_to_write_again_is_well() -> None:
    assert all(one.level is Level.OK for one in findings(replace(SOUND, snapshot_age=timedelta(seconds=90))))


def test_a_sound_site_has_nothing_to_do() -> None:
    found = findings(SOUND)
    assert {finding.level for finding in found} == {Level.OK}
    assert not any(finding.way_out for finding in found)
    assert sound(found)


@pytest.mark.parametrize(
    ("key", "value", "level", "way_out"),
    [
        ("SLURM_VERSION", "23.11.4", Level.FAIL, "Upgrade"),
        ("JobSubmitPlugins", "", Level.FAIL, "JobSubmitPlugins=lua"),
        ("PreemptType", "preempt/none", Level.FAIL, "PreemptType=preempt/qos"),
        ("PreemptMode", "OFF", Level.FAIL, "PreemptMode=REQUEUE"),
        ("SelectType", "select/linear", Level.FAIL, "SelectType=select/cons_tres"),
        ("AccountingStorageEnforce", "associations,limits", Level.FAIL, "qos,safe"),
        ("AccountingStorageTRES", "cpu,gres/gpu", Level.FAIL, "gres/gpu:b200"),
        ("AccountingStorageTRES", "cpu,gres/gpu:b200", Level.FAIL, "gres/gpu,"),
        ("PriorityDecayHalfLife", "7-00:00:00", Level.WARN, "PriorityDecayHalfLife=00:00:00"),
        ("PriorityUsageResetPeriod", "MONTHLY", Level.WARN, "NONE"),
        ("PriorityType", "priority/basic", Level.WARN, "multifactor"),
        ("Licenses", "matlab:5", Level.WARN, "placement:1000000"),
        ("SchedulerParameters", "", Level.WARN, "requeue_delay=1"),
        ("SchedulerParameters", "requeue_delay=120", Level.WARN, "requeue_delay=1"),
        ("JobRequeue", "0", Level.WARN, "JobRequeue=1"),
    ],
)
def test_each_setting_that_is_not_right_is_one_finding(key: str, value: str, level: Level, way_out: str) -> None:
    problem = only_problem(replace(SOUND, config=Seen({**CONFIG, key: value})))
    assert problem.level is level
    assert way_out in problem.way_out


@pytest.mark.parametrize(
    ("change", "check", "level"),
    [
        ({"pyslurm": Seen(problem="pyslurm is not installed.")}, "pyslurm", Level.WARN),
        ({"pyslurm": Seen(PyslurmVersions(pyslurm="24.11", slurm="24.11.5"))}, "pyslurm", Level.WARN),
        ({"rest_reservations": Seen(problem="It cannot.")}, "slurmrestd reservations", Level.WARN),
        ({"slurmdbd": Seen(problem="It does not answer.")}, "slurmdbd", Level.FAIL),
        ({"admin_level": Seen("None")}, "AdminLevel", Level.FAIL),
        ({"admin_level": Seen("Operator")}, "AdminLevel", Level.FAIL),
        ({"config": Seen(problem="scontrol cannot be run.")}, "slurm.conf", Level.FAIL),
        ({"snapshot_age": None}, "hook snapshot", Level.WARN),
        ({"snapshot_age": timedelta(minutes=9)}, "hook snapshot", Level.WARN),
        ({"daemon": Seen(problem="It cannot be reached.")}, "gpuaasd", Level.FAIL),
        (
            {"daemon": Seen(DaemonSeen(version="0.1", driver="slurmrestd", fallback=True, reason="worker died"))},
            "gpuaasd",
            Level.WARN,
        ),
    ],
)
def test_each_part_that_is_missing_is_one_finding(change: dict[str, object], check: str, level: Level) -> None:
    problem = only_problem(replace(SOUND, **change))  # type: ignore[arg-type]
    assert (problem.check, problem.level) == (check, level)


def test_requeue_is_well_where_either_driver_can() -> None:
    without = replace(SOUND, rest_requeue=Seen(problem="It cannot."))
    assert all(finding.level is Level.OK for finding in findings(without))
    assert not sound(findings(replace(without, rest=Seen(problem="It does not answer."))))


def test_the_configuration_is_read_as_scontrol_shows_it() -> None:
    text = "Configuration data as of 2026-11-22T07:36:29\nMCSPlugin   = (null)\nLicenses = a:1,b:2\n\nx is UP\n"
    assert parse_config(text) == {"MCSPlugin": "", "Licenses": "a:1,b:2"}


def test_where_nothing_runs_everything_is_told_and_nothing_raises(tmp_path: Path) -> None:
    def no_daemon() -> DaemonSeen:
        raise Unavailable("gpuaasd cannot be reached.", way_out="Start it.")

    def no_program(argv: object, /, *, stdin: str = "") -> str:
        raise SlurmUnavailable("scontrol cannot be run.", way_out="Install it.")

    facts = examine(
        DoorSettings(rest=RestAddress(socket=tmp_path / "no.sock"), worker=["/nonexistent/python"]),
        snapshot=tmp_path / "snapshot",
        now=datetime(2027, 1, 1, tzinfo=UTC),
        daemon=no_daemon,
        programs=no_program,
    )
    problems = {finding.check: finding.level for finding in findings(facts) if finding.level is not Level.OK}
    assert problems == {
        "slurmrestd": Level.FAIL,
        "pyslurm": Level.WARN,
        "slurmdbd": Level.FAIL,
        "AdminLevel": Level.FAIL,
        "slurm.conf": Level.FAIL,
        "hook snapshot": Level.WARN,
        "gpuaasd": Level.FAIL,
    }
