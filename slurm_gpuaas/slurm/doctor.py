"""What a site's Slurm must have for us, as a list of checks: `examine` looks, `findings` judges (pure).

Every finding says what was seen and, unless all is well, what to do. `fail`: something of ours fails without it;
`warn`: it works, but worse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, Generic, TypeVar

from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.names import GpuModel
from slurm_gpuaas.domain.nodes import Node
from slurm_gpuaas.slurm.connect import DoorSettings, connect
from slurm_gpuaas.slurm.known_bugs import Version, known_bugs
from slurm_gpuaas.slurm.programs import Program, program
from slurm_gpuaas.slurm.pyslurm_driver import PyslurmVersions
from slurm_gpuaas.slurm.rest_driver import REQUEUE_SINCE, RESERVATIONS_SINCE, RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress

T = TypeVar("T")

OLDEST_SLURM: Final = (24, 11)
SNAPSHOT_STALE: Final = timedelta(minutes=3)
"""The daemon writes the hook's snapshot when it changed, or is a minute old."""
NOT_PRESENT: Final = "is not there"
PYSLURM_SINCE: Final = (25, 5)
"""pyslurm 25.11, for which our driver is written, does not build against the headers of 24.11."""
NOT_OFFERED: Final = "not offered by this Slurm"
EXPEDITED_SINCE: Final = (25, 11)
"""First release with requeue_delay and enable_expedited_requeue."""


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result. `way_out` is empty when all is well."""

    check: str
    level: Level
    says: str
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What a look found, or why it found nothing and the way out."""

    value: T | None = None
    problem: str = ""
    way_out: str = ""

    @classmethod
    def of(cls, look: Callable[[], T]) -> Seen[T]:
        try:
            return cls(look())
        except GpuaasError as error:
            return cls(problem=error.message, way_out=error.way_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSeen:
    """What gpuaasd says of itself."""

    version: str
    driver: str
    fallback: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the checks look at. `config` is what slurmctld runs with (`scontrol show config`)."""

    pyslurm: Seen[PyslurmVersions]
    rest: Seen[str]
    """slurmrestd's version."""
    rest_requeue: Seen[str]
    rest_reservations: Seen[str]
    slurmdbd: Seen[str]
    """The cluster it serves."""
    config: Seen[Mapping[str, str]]
    rest_user: str
    """Who Slurm sees: the token's user, or the owner of slurmrestd's socket."""
    admin_level: Seen[str]
    models: frozenset[GpuModel] = frozenset()
    snapshot_age: timedelta | None = None
    daemon: Seen[DaemonSeen] = field(default_factory=Seen)


def findings(facts: Facts) -> Sequence[Finding]:
    """Judge the facts, in the order one would repair things."""
    return tuple(_all(facts))


def sound(found: Sequence[Finding]) -> bool:
    """Nothing failed."""
    return not any(finding.level is Level.FAIL for finding in found)


def _all(facts: Facts) -> Iterator[Finding]:
    yield from _drivers(facts)
    if facts.config.value is None:
        yield Finding(
            "slurm.conf",
            Level.FAIL,
            f"slurmctld's configuration cannot be read: {facts.config.problem}",
            facts.config.way_out or "Run `gpuaas doctor` where slurm.conf is, with slurmctld running.",
        )
    else:
        yield from _configuration(facts.config.value, facts.models)
    yield from _daemon(facts)


def _drivers(facts: Facts) -> Iterator[Finding]:
    if facts.rest.value is None:
        yield Finding(
            "slurmrestd",
            Level.FAIL,
            facts.rest.problem,
            facts.rest.way_out or "Run `slurmrestd -s slurmctld,slurmdbd unix:PATH` as gpuaasd's user.",
        )
    else:
        yield Finding("slurmrestd", Level.OK, f"Slurm {facts.rest.value}, API v0.0.42")
        for check, seen, instead in (
            (
                "slurmrestd requeue",
                facts.rest_requeue,
                "pyslurm does it" if facts.pyslurm.value else "scontrol does it",
            ),
            ("slurmrestd reservations", facts.rest_reservations, "scontrol does it"),
        ):
            if seen.value is None:
                yield Finding(check, Level.WARN, seen.problem, seen.way_out or "See slurmrestd.")
            elif seen.value == NOT_OFFERED:
                yield Finding(check, Level.OK, f"{NOT_OFFERED}; {instead}")
            else:
                yield Finding(check, Level.OK, f"API {seen.value}")
    yield _pyslurm(facts)
    if facts.slurmdbd.value:
        yield Finding("slurmdbd", Level.OK, f"answers for cluster {facts.slurmdbd.value}")
    elif facts.rest.value:
        yield Finding("slurmdbd", Level.FAIL, facts.slurmdbd.problem, "Start slurmdbd and its database.")
    else:
        yield Finding("slurmdbd", Level.FAIL, "It was not asked: slurmrestd does not answer.", "See slurmrestd.")
    yield _administrator(facts)


def _pyslurm(facts: Facts) -> Finding:
    versions = facts.pyslurm.value
    if versions is None and facts.rest.value and _release(facts.rest.value) < PYSLURM_SINCE:
        return Finding("pyslurm", Level.OK, "none can be built against this Slurm: everything goes over slurmrestd")
    if versions is None:
        return Finding(
            "pyslurm",
            Level.WARN,
            f"{facts.pyslurm.problem} Everything goes over slurmrestd, with a few milliseconds more a call.",
            "Build pyslurm against this Slurm (docs/reference/slurm-door.md) to have it quicker.",
        )
    if facts.rest.value and _release(versions.slurm) != _release(facts.rest.value):
        return Finding(
            "pyslurm",
            Level.WARN,
            f"It speaks with Slurm {versions.slurm}, slurmrestd is of {facts.rest.value}.",
            "Let both be of slurmctld's release.",
        )
    return Finding("pyslurm", Level.OK, f"{versions.pyslurm}, speaks with Slurm {versions.slurm}")


def _administrator(facts: Facts) -> Finding:
    level, user = facts.admin_level.value, facts.rest_user or "slurmrestd's user"
    if level == "Administrator":
        return Finding("AdminLevel", Level.OK, f"{user} is Administrator")
    said = facts.admin_level.problem if level is None else f"{user} has AdminLevel {level or 'None'}."
    return Finding(
        "AdminLevel",
        Level.FAIL,
        said,
        facts.admin_level.way_out
        or f"sacctmgr add user {facts.rest_user or 'gpuaas'} account=root adminlevel=Administrator",
    )


def _configuration(config: Mapping[str, str], models: frozenset[GpuModel]) -> Iterator[Finding]:
    version = config.get("SLURM_VERSION", "")
    old = _release(version) < OLDEST_SLURM
    yield Finding(
        "Slurm version",
        Level.FAIL if old else Level.OK,
        f"slurmctld is {version or 'of unknown version'}",
        f"Upgrade to {OLDEST_SLURM[0]}.{OLDEST_SLURM[1]} or newer." if old else "",
    )
    yield from _bugs(version)
    yield _has(config, "JobSubmitPlugins", {"lua"}, "Set JobSubmitPlugins=lua and install plugins/job_submit.lua.")
    yield _is(config, "PreemptType", "preempt/qos", "guarantees are taken back from burst jobs by QOS")
    yield _has(config, "PreemptMode", {"REQUEUE"}, "Set PreemptMode=REQUEUE: burst jobs are queued again, not lost.")
    yield _is(config, "SelectType", "select/cons_tres", "GPUs are allocated one by one")
    yield _has(
        config,
        "AccountingStorageEnforce",
        {"associations", "limits", "qos", "safe"},
        "Set AccountingStorageEnforce=associations,limits,qos,safe: without it quotas are not enforced.",
    )
    yield _tracked(config, models)
    yield _is(config, "PriorityDecayHalfLife", "00:00:00", "a budget must not grow back", level=Level.WARN)
    yield _is(config, "PriorityUsageResetPeriod", "NONE", "a budget must not start anew", level=Level.WARN)
    yield _is(config, "PriorityType", "priority/multifactor", "budgets are counted by it", level=Level.WARN)
    licences = dict(one.partition(":")[::2] for one in config.get("Licenses", "").split(","))
    if "placement" in licences:
        yield Finding("Licenses", Level.OK, f"placement:{licences['placement']}")
    else:
        yield Finding(
            "Licenses",
            Level.WARN,
            "There is no license `placement`: jobs are not held for placement.",
            "Set Licenses=placement:1000000 and restart slurmctld.",
        )
    yield _requeue_delay(config)
    yield _is(config, "JobRequeue", "1", "a job that lost its node goes on elsewhere", level=Level.WARN)


def _bugs(version: str) -> Iterator[Finding]:
    """Slurm's own bugs in this version, from the table."""
    running = Version.of(version)
    if running is None:
        return
    for bug in known_bugs().of(running):
        span = bug.span_of(running)
        fixed = span.fixed if span else None
        upgrade = f"Upgrade to {fixed} or newer." if fixed else "No release with a fix is known."
        way_out = f"{upgrade} {'Until then: ' if fixed else ''}{bug.way_out}"
        yield Finding(f"Slurm bug {bug.name}", Level.WARN, f"In {running} {bug.effect}.", way_out.strip())


def _tracked(config: Mapping[str, str], models: frozenset[GpuModel]) -> Finding:
    wanted = {"gres/gpu", *(f"gres/gpu:{model}" for model in models)}
    missing = sorted(wanted - _words(config, "AccountingStorageTRES"))
    if not missing:
        return Finding("AccountingStorageTRES", Level.OK, ", ".join(sorted(wanted)))
    return Finding(
        "AccountingStorageTRES",
        Level.FAIL,
        f"Slurm does not count {', '.join(missing)}: limits on them are not enforced.",
        f"Set AccountingStorageTRES={','.join(sorted(wanted))} and restart slurmctld.",
    )


def _requeue_delay(config: Mapping[str, str]) -> Finding:
    """How long Slurm holds a requeued job: requeue_delay, else (and before 25.11 always) the life of a credential."""
    knows = _release(config.get("SLURM_VERSION", "")) >= EXPEDITED_SINCE
    delay = re.search(r"\brequeue_delay=(\d+)", config.get("SchedulerParameters", "")) if knows else None
    life = re.search(r"\bcred_expire=(\d+)", config.get("AuthInfo", ""))
    found = delay or life
    if found and int(found[1]) <= 10:
        return Finding("requeue_delay", Level.OK, f"{found[1]} s{'' if delay else ', by cred_expire'}")
    return Finding(
        "requeue_delay",
        Level.WARN,
        f"A requeued job waits {f'{found[1]} s' if found else 'about 120 s, the default,'} before it may start again; "
        "one that the placement gate places does not.",
        "Add requeue_delay=1 to SchedulerParameters."
        if knows
        else "Slurm 25.11 has requeue_delay for it. Before, AuthInfo=cred_expire=10 shortens it where all nodes' "
        "clocks agree to the second and no prolog takes that long.",
    )


def _daemon(facts: Facts) -> Iterator[Finding]:
    if facts.snapshot_age is None:
        yield Finding(
            "hook snapshot",
            Level.WARN,
            "There is none: the hook lets submissions pass and Slurm's own limits decide.",
            "Start gpuaasd and apply a policy.",
        )
    elif facts.snapshot_age > SNAPSHOT_STALE:
        yield Finding(
            "hook snapshot",
            Level.WARN,
            f"It is {facts.snapshot_age.total_seconds():.0f} s old: the hook stops trusting it after 15 minutes.",
            "Check that gpuaasd runs: `gpuaas status`.",
        )
    else:
        yield Finding("hook snapshot", Level.OK, f"{facts.snapshot_age.total_seconds():.0f} s old")
    daemon = facts.daemon.value
    if daemon is None:
        yield Finding("gpuaasd", Level.FAIL, facts.daemon.problem, facts.daemon.way_out or "Start gpuaasd.")
    elif daemon.fallback:
        yield Finding(
            "gpuaasd",
            Level.WARN,
            f"{daemon.version}; it carries on over {daemon.driver}: {daemon.reason}",
            "Correct what pyslurm misses; gpuaasd returns to it by itself.",
        )
    else:
        yield Finding("gpuaasd", Level.OK, f"{daemon.version}, uses {daemon.driver}")


def _is(config: Mapping[str, str], key: str, wanted: str, why: str, *, level: Level = Level.FAIL) -> Finding:
    value = config.get(key, NOT_PRESENT)
    if value == wanted:
        return Finding(key, Level.OK, value)
    return Finding(key, level, f"{key} is {value}, not {wanted}: {why}.", f"Set {key}={wanted} in slurm.conf.")


def _has(config: Mapping[str, str], key: str, wanted: set[str], way_out: str) -> Finding:
    missing = sorted(wanted - _words(config, key))
    if not missing:
        return Finding(key, Level.OK, config[key])
    return Finding(key, Level.FAIL, f"{key} is {config.get(key, NOT_PRESENT)}, without {', '.join(missing)}.", way_out)


def _words(config: Mapping[str, str], key: str) -> set[str]:
    return {word.strip() for word in config.get(key, "").split(",")}


def _release(version: str) -> tuple[int, int]:
    """`26.05.5` is of release (26, 5)."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


# ---------------------------------------------------------------------- looking


def examine(
    door_or_socket: DoorSettings | Path,
    *,
    snapshot: Path,
    now: datetime,
    daemon: Callable[[], DaemonSeen],
    programs: Program | None = None,
) -> Facts:
    """Look at everything once. Never raises for what it finds or misses.

    Args:
        door_or_socket: how to reach Slurm; a path is slurmrestd's socket and the rest as usual.
        snapshot: the hook's snapshot.
        daemon: asks gpuaasd about itself.
        programs: runs Slurm's programs; those on PATH unless told otherwise.
    """
    settings = (
        DoorSettings(rest=RestAddress(socket=door_or_socket)) if isinstance(door_or_socket, Path) else door_or_socket
    )
    run = programs or program(())
    user = settings.rest.user or _owner(settings.rest.socket)
    door = connect(settings)
    try:
        rest = RestController(door.wire)
        version = Seen.of(rest.version)
        nodes: Seen[Sequence[Node]] = Seen.of(rest.nodes) if version.value else Seen()
        return Facts(
            pyslurm=Seen.of(door.pyslurm.versions) if door.pyslurm else Seen(problem="pyslurm is not installed."),
            rest=version,
            rest_requeue=Seen.of(lambda: rest.api_for(REQUEUE_SINCE) or NOT_OFFERED),
            rest_reservations=Seen.of(lambda: rest.api_for(RESERVATIONS_SINCE) or NOT_OFFERED),
            slurmdbd=Seen.of(door.accounting.ping),
            config=Seen.of(lambda: parse_config(run(["scontrol", "show", "config"]))),
            rest_user=user,
            admin_level=Seen.of(lambda: _admin_level(run, user)),
            models=frozenset(node.model for node in nodes.value or () if node.model),
            snapshot_age=_age(snapshot, now),
            daemon=Seen.of(daemon),
        )
    finally:
        door.close()


def parse_config(text: str) -> Mapping[str, str]:
    """`scontrol show config` as a mapping; `(null)` is an empty value."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): "" if value.strip() == "(null)" else value.strip() for key, _, value in pairs}


def _admin_level(run: Program, user: str) -> str:
    argv = ["sacctmgr", "--noheader", "--parsable2", "show", "user", f"name={user}", "format=adminlevel"]
    return run(argv).strip()


def _owner(socket: Path | None) -> str:
    try:
        return socket.owner() if socket else ""
    except (OSError, KeyError):
        return ""


def _age(path: Path, now: datetime) -> timedelta | None:
    try:
        return now - datetime.fromtimestamp(path.stat().st_mtime, now.tzinfo)
    except OSError:
        return None
