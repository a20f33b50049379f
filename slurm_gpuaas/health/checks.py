"""Health checks as data: numbers that a node's readers took, held against limits with a verdict each. Pure.

Which check looks at what, in which context, and what follows stands in `data/checks.yaml`, each limit with its reason
and source; a site's file lies over it. A number that could not be read is UNKNOWN, never OK. Nothing here reads a
sensor or acts on a node.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import CheckStatus, Drain
from slurm_gpuaas.domain.words import plural


class Context(StrEnum):
    """When checks run: before and after a job, by themselves, and before a repaired node is given back."""

    PROLOG = "prolog"
    EPILOG = "epilog"
    PERIODIC = "periodic"
    RETURN = "return"


_WORSE: Final = (CheckStatus.OK, CheckStatus.UNKNOWN, CheckStatus.WARNING, CheckStatus.CRITICAL)
"""What could not be read must not hide what was found."""
_STRONGER: Final = (Drain.NO, Drain.REVIEW, Drain.WHEN_IDLE, Drain.NOW)


class Measure(StrEnum):
    """What readers count. All are numbers; flags are 0 or 1, 1 being the bad one. Rates are mean values since the
    reading before, or since the boot when there is none."""

    GPUS_MISSING = "gpus_missing"
    NVML_FAILS = "nvml_fails"
    NVML_SILENT = "nvml_silent"
    """NVML did not answer in time: a driver that hangs."""
    DRIVER_DIFFERS = "driver_differs"
    PERSISTENCE_OFF = "persistence_off"
    ECC_OFF = "ecc_off"
    ECC_UNCORRECTABLE_VOLATILE = "ecc_uncorrectable_volatile"
    ECC_UNCORRECTABLE_AGGREGATE = "ecc_uncorrectable_aggregate"
    SRAM_THRESHOLD_EXCEEDED = "sram_threshold_exceeded"
    REMAP_FAILURE = "remap_failure"
    REMAP_PENDING = "remap_pending"
    REMAPPED_UNCORRECTABLE = "remapped_uncorrectable"
    REMAPPED_CORRECTABLE = "remapped_correctable"
    BANKS_EXHAUSTED = "banks_exhausted"
    """Memory banks without a spare row left."""
    NVLINKS_DOWN = "nvlinks_down"
    NVLINK_RECOVERIES_PER_MINUTE = "nvlink_recoveries_per_minute"
    NVLINK_CRC_ERRORS_PER_MINUTE = "nvlink_crc_errors_per_minute"
    NVLINK_REPLAYS_PER_MINUTE = "nvlink_replays_per_minute"
    FABRIC_INCOMPLETE = "fabric_incomplete"
    FABRIC_DEGRADED = "fabric_degraded"
    PCIE_LANES_MISSING = "pcie_lanes_missing"
    PCIE_GENERATIONS_MISSING = "pcie_generations_missing"
    PCIE_REPLAYS_PER_MINUTE = "pcie_replays_per_minute"
    THERMAL_SLOWDOWN_HARDWARE = "thermal_slowdown_hardware"
    THERMAL_SLOWDOWN_SOFTWARE = "thermal_slowdown_software"
    DEGREES_TO_SLOWDOWN = "degrees_to_slowdown"
    POWER_BRAKE = "power_brake"
    ORPHANED_MIB = "orphaned_mib"
    """Device memory in use while no process is on the GPU."""
    PORTS_DOWN = "ports_down"
    PORTS_MISSING = "ports_missing"
    RATE_MISSING_GBPS = "rate_missing_gbps"
    LINK_DOWNED_PER_MINUTE = "link_downed_per_minute"
    SYMBOL_ERRORS_PER_MINUTE = "symbol_errors_per_minute"
    NOT_MOUNTED = "not_mounted"
    READ_ONLY = "read_only"
    SILENT = "silent"
    """A file system that did not answer in time."""
    FREE_PERCENT = "free_percent"
    CLOCK_OFFSET_SECONDS = "clock_offset_seconds"
    CLOCK_UNSYNCHRONISED = "clock_unsynchronised"
    DCGM_TESTS_FAILED = "dcgm_tests_failed"

    @property
    def words(self) -> str:
        return self.value.replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One number of one thing. `value` is None when it could not be read; `detail` says more, or why not.

    `subject` names the thing (`GPU 3 (0000:61:00)`, `mlx5_0/1`, `/home`), empty for the node.
    """

    measure: Measure
    value: float | None
    subject: str = ""
    gpu: GpuIdentity | None = None
    detail: str = ""


class Limit(BaseModel):
    """From which number on something is wrong, and what then follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: Measure
    above: float | None = Field(default=None, description="Wrong above this.")
    below: float | None = Field(default=None, description="Wrong below this.")
    status: Literal[CheckStatus.WARNING, CheckStatus.CRITICAL]
    drain: Drain
    rounds: int = Field(
        default=1, ge=1, le=60, description="Rounds of the agent in a row before it is told of; elsewhere one counts."
    )
    required: bool = Field(
        default=True, description="Whether a missing number is UNKNOWN. False where not every GPU or driver has it."
    )
    why: str = Field(max_length=200)
    source: str = Field(max_length=200)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("give one of `above` and `below`")
        if self.status is CheckStatus.WARNING and self.drain in {Drain.WHEN_IDLE, Drain.NOW}:
            raise ValueError("a warning asks for a review at most; what drains is critical")
        return self

    def broken_by(self, value: float) -> bool:
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)

    def words(self, reading: Reading) -> str:
        side = f"over {self.above:g}" if self.above is not None else f"under {self.below:g}"
        detail = f" ({reading.detail})" if reading.detail else ""
        return f"{self.measure.words} {reading.value:g}{detail}, {side}: {self.why}"


class Check(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    enabled: bool = True
    contexts: frozenset[Context]
    limits: tuple[Limit, ...] = Field(min_length=1)

    @property
    def measures(self) -> frozenset[Measure]:
        return frozenset(limit.measure for limit in self.limits)


class Checks(BaseModel):
    """All checks. `version` is the day the shipped limits were last looked over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    checks: Mapping[str, Check]

    def of(self, context: Context, only: Sequence[str] = ()) -> Mapping[str, Check]:
        """The checks that run in a context, or those of them that are named.

        Raises:
            InvalidInput: a name that is no check.
        """
        for name in only:
            if name not in self.checks:
                raise InvalidInput(f"There is no check {name!r:.60}.", way_out=f"Use one of {', '.join(self.checks)}.")
        return {
            name: check
            for name, check in self.checks.items()
            if check.enabled and context in check.contexts and (not only or name in only)
        }


class _SiteLimit(BaseModel):
    """Changes the shipped limit of the same measure and status."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: Measure
    status: Literal[CheckStatus.WARNING, CheckStatus.CRITICAL]
    above: float | None = None
    below: float | None = None
    drain: Drain | None = None
    rounds: int | None = None
    why: str | None = None


class _SiteCheck(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool | None = None
    contexts: frozenset[Context] | None = None
    limits: tuple[_SiteLimit, ...] = ()


class _Site(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    checks: Mapping[str, _SiteCheck] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with one thing. `rule` says which limits decided and where they come from."""

    subject: str
    gpu: GpuIdentity | None
    status: CheckStatus
    drain: Drain
    message: str
    rule: str
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    name: str
    findings: tuple[Finding, ...]
    readings: tuple[Reading, ...]

    @property
    def status(self) -> CheckStatus:
        return worst(finding.status for finding in self.findings)

    @property
    def drain(self) -> Drain:
        return max((finding.drain for finding in self.findings), key=_STRONGER.index, default=Drain.NO)

    @property
    def message(self) -> str:
        """What is wrong, the worst first; or how much was looked at."""
        if not self.findings:
            unread = sorted({one.measure.words for one in self.readings if one.value is None})
            without = f", without {', '.join(unread)}" if unread else ""
            return f"{plural(sum(one.value is not None for one in self.readings), 'reading')} within limits{without}"
        ordered = sorted(self.findings, key=lambda finding: -_WORSE.index(finding.status))
        return "; ".join(f"{one.subject}: {one.message}" if one.subject else one.message for one in ordered)


def worst(statuses: Iterable[CheckStatus]) -> CheckStatus:
    """CRITICAL before WARNING before UNKNOWN before OK."""
    return max(statuses, key=_WORSE.index, default=CheckStatus.OK)


def exit_code(status: CheckStatus) -> int:
    """What a Nagios plugin exits with."""
    return list(CheckStatus).index(status)


def judge(name: str, check: Check, readings: Sequence[Reading]) -> CheckResult:
    """Hold the readings against the check's limits; readings of other measures are passed over."""
    mine = tuple(reading for reading in readings if reading.measure in check.measures)
    wrong: dict[str, list[Finding]] = defaultdict(list)
    for finding in _wrong(check, mine):
        wrong[finding.subject].append(finding)
    if not wrong and all(reading.value is None for reading in mine):
        wrong[""].append(_unknown("nothing could be read"))
    return CheckResult(name=name, findings=tuple(map(_as_one, wrong.values())), readings=mine)


def _wrong(check: Check, readings: Sequence[Reading]) -> Iterator[Finding]:
    for measure in sorted(check.measures):
        limits = [limit for limit in check.limits if limit.measure is measure]
        required = any(limit.required for limit in limits)
        found = [reading for reading in readings if reading.measure is measure]
        if not found and required:
            yield _unknown(f"{measure.words} unknown (nobody read it)")
        for reading in found:
            if reading.value is not None:
                broken = [limit for limit in limits if limit.broken_by(reading.value)]
                if broken:
                    yield _broken(max(broken, key=lambda limit: _WORSE.index(limit.status)), reading)
            elif required:
                why = reading.detail or "not readable"
                yield _unknown(f"{measure.words} unknown ({why})", reading.subject, reading.gpu)


def _unknown(message: str, subject: str = "", gpu: GpuIdentity | None = None) -> Finding:
    return Finding(
        subject=subject,
        gpu=gpu,
        status=CheckStatus.UNKNOWN,
        drain=Drain.NO,
        message=message,
        rule="no number",
        rounds=1,
    )


def _broken(limit: Limit, reading: Reading) -> Finding:
    return Finding(
        subject=reading.subject,
        gpu=reading.gpu,
        status=limit.status,
        drain=limit.drain,
        message=limit.words(reading),
        rule=f"limit of {limit.measure.value}: {limit.source}",
        rounds=limit.rounds,
    )


def _as_one(findings: Sequence[Finding]) -> Finding:
    """What several limits say of one thing."""
    status = worst(finding.status for finding in findings)
    return replace(
        findings[0],
        status=status,
        drain=max((finding.drain for finding in findings), key=_STRONGER.index),
        message="; ".join(finding.message for finding in findings),
        rule="; ".join(dict.fromkeys(finding.rule for finding in findings)),
        rounds=min(finding.rounds for finding in findings if finding.status is status),
    )


@cache
def shipped_checks() -> Checks:
    """The checks that ship with this version."""
    return Checks.model_validate(
        yaml.safe_load(files("slurm_gpuaas.health").joinpath("data/checks.yaml").read_text("utf-8"))
    )


def load_checks(site: Path | None) -> Checks:
    """The shipped checks with a site's file over them.

    Raises:
        InvalidInput: the file cannot be read, is no YAML, or names a check or limit that does not exist.
    """
    if site is None:
        return shipped_checks()
    try:
        content = yaml.safe_load(site.read_text(encoding="utf-8")) or {}
        changes = _Site.model_validate(content)
    except OSError as error:
        raise InvalidInput(
            f"Checks {site} cannot be read: {os.strerror(error.errno or 0)}.", way_out="etc/checks.yaml is an example."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Checks {site} are not YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InvalidInput(f"Checks {site}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.") from None
    checks = dict(shipped_checks().checks)
    for name, change in changes.checks.items():
        if name not in checks:
            raise InvalidInput(f"Checks {site}: no check {name!r:.60}.", way_out=f"Use one of {', '.join(checks)}.")
        checks[name] = _changed(site, name, checks[name], change)
    return shipped_checks().model_copy(update={"checks": checks})


def _changed(site: Path, name: str, check: Check, change: _SiteCheck) -> Check:
    limits = {(limit.measure, limit.status): limit for limit in check.limits}
    for over in change.limits:
        known = limits.get((over.measure, over.status))
        if known is None:
            raise InvalidInput(
                f"Checks {site}: {name} has no limit of {over.measure.value} with status {over.status.value}.",
                way_out="`gpuaas-agent check --list` shows the limits.",
            )
        given = over.model_dump(exclude_unset=True)
        values = {**known.model_dump(), **given, "source": str(site)[-200:]}
        if "above" in given or "below" in given:
            values |= {"above": given.get("above"), "below": given.get("below")}
        try:
            limits[over.measure, over.status] = Limit.model_validate(values)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise InvalidInput(f"Checks {site}: {name}, {over.measure.value}: {fault['msg']}.") from None
    changes: dict[str, object] = {"limits": tuple(limits.values())}
    if change.enabled is not None:
        changes["enabled"] = change.enabled
    if change.contexts is not None:
        changes["contexts"] = change.contexts
    return check.model_copy(update=changes)
