"""Limits as a table: a number in, status and drain out."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import CheckStatus, Drain
from slurm_gpuaas.health.checks import (
    Checks,
    Context,
    Limit,
    Measure,
    Reading,
    exit_code,
    judge,
    load_checks,
    shipped_checks,
    worst,
)

GPU = GpuIdentity(index=3, uuid="GPU-3", serial="1650", pci="0000:61:00", name="NVIDIA B200")
OK, WARNING, CRITICAL, UNKNOWN = CheckStatus


def healthy(name: str, *instead: Reading) -> list[Reading]:
    """A good reading of each measure of a check; of some measures another one."""
    good = {limit.measure: 0.0 if limit.above is not None else 100.0 for limit in shipped_checks().checks[name].limits}
    changed = {reading.measure for reading in instead}
    subject = "GPU 3 (0000:61:00)"
    return [
        *(Reading(measure=m, value=v, subject=subject, gpu=GPU) for m, v in good.items() if m not in changed),
        *instead,
    ]


@pytest.mark.parametrize(
    ("check", "measure", "value", "status", "drain"),
    [
        ("gpu-count", Measure.GPUS_MISSING, 1, CRITICAL, Drain.NOW),
        ("driver", Measure.NVML_FAILS, 1, CRITICAL, Drain.WHEN_IDLE),
        ("driver", Measure.DRIVER_DIFFERS, 1, WARNING, Drain.REVIEW),
        ("ecc", Measure.ECC_UNCORRECTABLE_VOLATILE, 1, CRITICAL, Drain.WHEN_IDLE),
        ("ecc", Measure.ECC_UNCORRECTABLE_AGGREGATE, 7, WARNING, Drain.NO),
        ("ecc", Measure.SRAM_THRESHOLD_EXCEEDED, 1, CRITICAL, Drain.WHEN_IDLE),
        ("ecc", Measure.SRAM_THRESHOLD_EXCEEDED, None, OK, Drain.NO),
        ("ecc", Measure.ECC_UNCORRECTABLE_VOLATILE, None, UNKNOWN, Drain.NO),
        ("row-remap", Measure.REMAP_FAILURE, 1, CRITICAL, Drain.WHEN_IDLE),
        ("row-remap-pending", Measure.REMAP_PENDING, 1, CRITICAL, Drain.WHEN_IDLE),
        ("row-remap", Measure.REMAPPED_UNCORRECTABLE, 511, OK, Drain.NO),
        ("row-remap", Measure.REMAPPED_UNCORRECTABLE, 512, CRITICAL, Drain.WHEN_IDLE),
        ("row-remap", Measure.BANKS_EXHAUSTED, 1, CRITICAL, Drain.WHEN_IDLE),
        ("nvlink", Measure.NVLINKS_DOWN, 1, CRITICAL, Drain.WHEN_IDLE),
        ("nvlink", Measure.NVLINK_CRC_ERRORS_PER_MINUTE, 6000, OK, Drain.NO),
        ("nvlink", Measure.NVLINK_CRC_ERRORS_PER_MINUTE, 6001, WARNING, Drain.REVIEW),
        ("pcie", Measure.PCIE_LANES_MISSING, 8, CRITICAL, Drain.WHEN_IDLE),
        ("pcie", Measure.PCIE_REPLAYS_PER_MINUTE, 8, OK, Drain.NO),
        ("pcie", Measure.PCIE_REPLAYS_PER_MINUTE, 8.1, WARNING, Drain.REVIEW),
        ("thermal", Measure.THERMAL_SLOWDOWN_SOFTWARE, 1, WARNING, Drain.NO),
        ("thermal", Measure.DEGREES_TO_SLOWDOWN, 2, WARNING, Drain.NO),
        ("processes", Measure.ORPHANED_MIB, 1025, CRITICAL, Drain.WHEN_IDLE),
        ("infiniband", Measure.PORTS_DOWN, 1, CRITICAL, Drain.WHEN_IDLE),
        ("infiniband", Measure.PORTS_DOWN, None, UNKNOWN, Drain.NO),
        ("file-systems", Measure.FREE_PERCENT, 9.9, WARNING, Drain.NO),
        ("file-systems", Measure.FREE_PERCENT, 1.9, CRITICAL, Drain.REVIEW),
        ("clock", Measure.CLOCK_OFFSET_SECONDS, 61, CRITICAL, Drain.REVIEW),
        ("dcgm", Measure.DCGM_TESTS_FAILED, 1, CRITICAL, Drain.WHEN_IDLE),
    ],
)
def test_a_number_over_its_limit_has_a_status_and_a_drain(
    check: str, measure: Measure, value: float | None, status: CheckStatus, drain: Drain
) -> None:
    reading = Reading(measure=measure, value=value, subject="GPU 3 (0000:61:00)", gpu=GPU)
    result = judge(check, shipped_checks().checks[check], healthy(check, reading))
    assert (result.status, result.drain) == (status, drain)


@pytest.mark.parametrize("name", shipped_checks().checks)
def test_what_nobody_read_is_unknown_and_never_ok(name: str) -> None:
    result = judge(name, shipped_checks().checks[name], [])
    assert result.status is UNKNOWN
    assert result.drain is Drain.NO


def test_the_message_has_the_thing_the_number_and_the_limit() -> None:
    reading = Reading(
        measure=Measure.PCIE_LANES_MISSING, value=8, subject="GPU 3 (0000:61:00)", gpu=GPU, detail="8 of 16"
    )
    result = judge("pcie", shipped_checks().checks["pcie"], healthy("pcie", reading))
    assert result.message.startswith("GPU 3 (0000:61:00): pcie lanes missing 8 (8 of 16), over 0: ")
    (finding,) = result.findings
    assert finding.gpu == GPU
    assert finding.rule.startswith("limit of pcie_lanes_missing: ")


def test_several_faults_of_one_gpu_are_one_finding_with_the_worst_of_each() -> None:
    exhausted = Reading(measure=Measure.BANKS_EXHAUSTED, value=1, subject="GPU 3", gpu=GPU)
    many = Reading(measure=Measure.REMAPPED_CORRECTABLE, value=300, subject="GPU 3", gpu=GPU)
    failed = Reading(measure=Measure.REMAP_FAILURE, value=1, subject="GPU 4")
    result = judge("row-remap", shipped_checks().checks["row-remap"], healthy("row-remap", exhausted, many, failed))
    assert {one.subject: (one.status, one.drain) for one in result.findings} == {
        "GPU 3": (CRITICAL, Drain.WHEN_IDLE),
        "GPU 4": (CRITICAL, Drain.WHEN_IDLE),
    }
    assert "banks exhausted 1, over 0" in result.message
    assert "; remapped correctable 300, over 100" in result.message


def test_what_could_not_be_read_hides_no_fault() -> None:
    assert worst([OK, UNKNOWN, WARNING]) is WARNING
    assert worst([UNKNOWN, OK]) is UNKNOWN
    assert worst([WARNING, CRITICAL, UNKNOWN]) is CRITICAL
    assert worst([]) is OK


def test_statuses_are_the_exit_codes_of_nagios() -> None:
    assert [exit_code(status) for status in (OK, WARNING, CRITICAL, UNKNOWN)] == [0, 1, 2, 3]


def test_every_shipped_limit_says_why_and_where_it_comes_from() -> None:
    limits = [limit for check in shipped_checks().checks.values() for limit in check.limits]
    assert all(limit.why and limit.source for limit in limits)
    assert {limit.measure for limit in limits} == set(Measure)


@pytest.mark.parametrize(
    ("context", "has", "has_not"),
    [
        (Context.PROLOG, "gpu-count", "dcgm"),
        (Context.EPILOG, "processes", "thermal"),
        (Context.PERIODIC, "thermal", "processes"),
        (Context.RETURN, "dcgm", ""),
    ],
)
def test_a_context_has_its_checks(context: Context, has: str, has_not: str) -> None:
    checks = shipped_checks().of(context)
    assert has in checks
    assert has_not not in checks


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"no check 'eccc'.*ecc, row-remap"):
        shipped_checks().of(Context.PROLOG, ["eccc"])


def site(tmp_path: Path, text: str) -> Checks:
    path = tmp_path / "checks.yaml"
    path.write_text(text)
    return load_checks(path)


def test_a_site_can_switch_a_check_off_and_move_it(tmp_path: Path) -> None:
    checks = site(tmp_path, "checks:\n  thermal: {enabled: false}\n  ecc: {contexts: [return]}\n")
    assert "thermal" not in checks.of(Context.PERIODIC)
    assert "ecc" not in checks.of(Context.PROLOG)
    assert "ecc" in checks.of(Context.RETURN)
    assert "thermal" in shipped_checks().of(Context.PERIODIC)


def test_a_site_changes_a_limit_and_the_verdict_says_so(tmp_path: Path) -> None:
    checks = site(
        tmp_path,
        "checks:\n  thermal:\n    limits:\n"
        "      - {measure: degrees_to_slowdown, status: warning, below: 10, drain: review}\n",
    )
    reading = Reading(measure=Measure.DEGREES_TO_SLOWDOWN, value=5)
    (finding,) = judge("thermal", checks.checks["thermal"], healthy("thermal", reading)).findings
    assert finding.drain is Drain.REVIEW
    assert finding.rule.endswith("checks.yaml")
    assert len(checks.checks["thermal"].limits) == len(shipped_checks().checks["thermal"].limits)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("checks: {eccc: {enabled: false}}", "no check 'eccc'"),
        ("checks: {ecc: {enable: false}}", "Extra inputs are not permitted"),
        ("checks: {ecc: {limits: [{measure: remap_failure, status: critical}]}}", "ecc has no limit of remap_failure"),
        (
            "checks: {ecc: {limits: [{measure: ecc_off, status: critical, above: 1, below: 2}]}}",
            "give one of `above` and `below`",
        ),
        (
            "checks: {ecc: {limits: [{measure: ecc_uncorrectable_aggregate, status: warning, drain: now}]}}",
            "a warning asks for a review at most",
        ),
        ("checks: {ecc: {limits: [{measure: ecc_off, status: ok}]}}", "Input should be"),
        ("checks: [", "are not YAML"),
        ("- ecc\n", "should be a valid dict"),
        ("checks: {ecc: {contexts: [lunch]}}", "Input should be 'prolog'"),
    ],
)
def test_a_faulty_site_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=r"^Checks ") as told:
        site(tmp_path, text)
    assert said in str(told.value)


def test_a_missing_site_file_is_an_error_and_not_the_shipped_checks(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml cannot be read: No such file"):
        load_checks(tmp_path / "none.yaml")


def test_the_example_of_a_site_file_is_right() -> None:
    assert load_checks(Path(__file__).parents[3] / "etc" / "checks.yaml") != shipped_checks()


def test_a_limit_has_one_side() -> None:
    with pytest.raises(ValueError, match="give one of"):
        Limit(measure=Measure.ECC_OFF, status=CRITICAL, drain=Drain.NO, why="x", source="y")
