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
from slurm_gpuaas.slurm.doctor import (
    NOT_OFFERED,
    DaemonSeen,
    Facts,
    Finding,
    Level,
    Seen,
    examine,
    findings,
    parse_config,
    sound,
)
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


def problems_of(facts: Facts) -> list[Finding]:
    """What the site can mend itself: not Slurm's own bugs."""
    problems = (finding for finding in findings(facts) if finding.level is not Level.OK)
    return [finding for finding in problems if not finding.check.startswith("Slurm bug ")]


def only_problem(facts: Facts) -> Finding:
    problems = problems_of(facts)
    assert len(problems) == 1, problems
    assert problems[0].way_out, "a problem comes with what to do"
    return problems[0]


def test_a_snapshot_that_the_daemon_had_no_reason_to_write_again_is_well() -> None:
    assert problems_of(replace(SOUND, snapshot_age=timedelta(seconds=90))) == []


def test_a_sound_site_has_nothing_to_do() -> None:
    assert problems_of(SOUND) == []
    assert not any(finding.way_out for finding in findings(SOUND) if finding.level is Level.OK)
    assert sound(findings(SOUND))


@pytest.mark.parametrize(
    ("key", "value", "level", "way_out"),
    [
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
        ({"rest_reservations": Seen(problem="It is gone.")}, "slurmrestd reservations", Level.WARN),
        ({"rest_requeue": Seen(problem="It is gone.")}, "slurmrestd requeue", Level.WARN),
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


@pytest.mark.parametrize(
    ("pyslurm", "requeues"),
    [(SOUND.pyslurm, "pyslurm does it"), (Seen(problem="pyslurm is not installed."), "scontrol does it")],
)
def test_what_slurmrestd_does_not_offer_another_does(pyslurm: Seen[PyslurmVersions], requeues: str) -> None:
    older = replace(SOUND, pyslurm=pyslurm, rest_requeue=Seen(NOT_OFFERED), rest_reservations=Seen(NOT_OFFERED))
    said = {finding.check: (finding.level, finding.says) for finding in findings(older)}
    assert said["slurmrestd requeue"] == (Level.OK, f"not offered by this Slurm; {requeues}")
    assert said["slurmrestd reservations"] == (Level.OK, "not offered by this Slurm; scontrol does it")
    assert not sound(findings(replace(older, rest=Seen(problem="It does not answer."))))


def test_a_slurm_that_is_too_old_is_refused() -> None:
    old = {one.check: one for one in findings(replace(SOUND, config=Seen({**CONFIG, "SLURM_VERSION": "23.11.4"})))}
    assert (old["Slurm version"].level, old["Slurm version"].way_out) == (Level.FAIL, "Upgrade to 24.11 or newer.")


def on_24_11(**config: str) -> dict[str, Finding]:
    """Findings on Debian stable, by check."""
    plain = {key: value for key, value in CONFIG.items() if key != "SchedulerParameters"}
    facts = replace(
        SOUND,
        pyslurm=Seen(problem="pyslurm is not installed."),
        rest=Seen("24.11.5"),
        rest_requeue=Seen(NOT_OFFERED),
        rest_reservations=Seen(NOT_OFFERED),
        config=Seen({**plain, "SLURM_VERSION": "24.11.5", **config}),
    )
    return {finding.check: finding for finding in findings(facts)}


def test_nobody_is_told_to_build_a_pyslurm_that_cannot_be_built() -> None:
    assert on_24_11()["pyslurm"].level is Level.OK


@pytest.mark.parametrize(
    ("config", "level", "says", "way_out"),
    [
        ({}, Level.WARN, "about 120 s", "AuthInfo=cred_expire=10"),
        ({"AuthInfo": "cred_expire=60"}, Level.WARN, "60 s", "AuthInfo=cred_expire=10"),
        ({"AuthInfo": "cred_expire=5"}, Level.OK, "5 s, by cred_expire", ""),
        ({"SchedulerParameters": "requeue_delay=1"}, Level.WARN, "about 120 s", "25.11"),
    ],
)
def test_before_25_11_a_requeued_job_waits_for_its_credential(
    config: dict[str, str], level: Level, says: str, way_out: str
) -> None:
    found = on_24_11(**config)["requeue_delay"]
    assert found.level is level
    assert says in found.says
    assert way_out in found.way_out


def test_bugs_of_the_running_slurm_are_warnings_with_the_version_that_has_the_fix() -> None:
    found = on_24_11()
    bug = found["Slurm bug start-before-slurmdbd"]
    assert (bug.level, bug.says) == (
        Level.WARN,
        "In 24.11.5 slurmctld ends when it is started before slurmdbd, since every partition of ours has AllowQos.",
    )
    assert bug.way_out.startswith("Upgrade to 24.11.6 or newer. Until then: Start slurmdbd first")
    assert sound(list(found.values()))


def test_a_bug_without_a_known_fix_comes_with_what_to_avoid() -> None:
    (bug,) = (finding for finding in findings(SOUND) if finding.level is not Level.OK)
    assert bug.check == "Slurm bug qos-of-partition-deleted"
    assert bug.way_out == (
        "No release with a fix is known. Take a QOS out of every AllowQos before you delete it, as gpuaasd does."
    )


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
