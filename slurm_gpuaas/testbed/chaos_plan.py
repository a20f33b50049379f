"""What a fault-injection campaign does and when, from its seed alone. Pure; times are simulated seconds.

Rates are failures per 1,000 node-days as Llama 3's training met them (arXiv 2407.21783: 419 in 110,592 node-days of
8-GPU H100 hosts); the item list is that of glennklockwood.com/garden/component-reliability. Which signal stands for
which cause, what it does to the job, and how long its repair takes are our assumptions: nobody has published them. Half
of the hardware faults meet a lemon: the worst 3 of 63 B200 nodes caused over half of the exclusions (arXiv 2605.09370).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput

MINUTE: Final = 60.0
HOUR: Final = 3_600.0
DAY: Final = 86_400.0


class Harm(StrEnum):
    """What a fault does to jobs."""

    NONE = "none"
    CRASH = "crash"
    """Whatever uses the node ends with an error, now and at every later try, until it is repaired."""
    HANG = "hang"
    """Whatever uses the node stands still until it is repaired or the job's watchdog ends it."""
    JOB_CRASH = "job-crash"
    """One job of the node ends with an error, once; the node is fine."""
    JOB_HANG = "job-hang"
    """One job of the node stands still until its watchdog ends it; the node is fine."""


class Sign(StrEnum):
    """What NVML shows beside the XID."""

    GONE = "gone"
    """The GPU no longer answers."""
    ECC = "ecc"
    """Uncorrectable errors are counted."""
    HOT = "hot"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """How a fault shows itself: XIDs in order (none: nothing in any log) and what NVML says."""

    xids: tuple[int, ...] = ()
    sign: Sign | None = None
    harm: Harm = Harm.CRASH


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Args:
    rate: failures per 1,000 node-days.
    signals: one is drawn for each fault.
    repair: least and most minutes of the repair, from the moment that the node is empty; of what passes by itself, how
        long it lasts.
    passes: it passes by itself.
    network: it meets several nodes of a leaf at once.
    lemons: it prefers lemon nodes.
    down: the host is gone: Slurm gives the node up.
    planned: an operator drains the node; nothing is broken.
    """

    name: str
    rate: float
    signals: tuple[Signal, ...]
    repair: tuple[float, float] = (0, 0)
    passes: bool = False
    network: bool = False
    lemons: bool = False
    down: bool = False
    planned: bool = False


def _x(*xids: int, sign: Sign | None = None, harm: Harm = Harm.CRASH) -> Signal:
    return Signal(xids=xids, sign=sign, harm=harm)


RESET: Final = (8.0, 15.0)
"""Minutes: a GPU reset or a reboot with checks; pulling a node of 8 B200 in takes 450 s on GKE."""
BENCH: Final = (20.0, 40.0)
"""Minutes with a person's hands in it. Real ones take hours to days; these are cut to the campaign's length."""

CAUSES: Final = (
    Cause(
        name="faulty GPU",
        rate=1.34,
        signals=(
            _x(79, sign=Sign.GONE),
            _x(46, harm=Harm.HANG),
            _x(62, sign=Sign.GONE),
            _x(109, harm=Harm.HANG),
            _x(140, sign=Sign.ECC),
            _x(143),
            _x(158),
            _x(sign=Sign.GONE),
        ),
        repair=BENCH,
        lemons=True,
    ),
    Cause(
        name="HBM3",
        rate=0.65,
        signals=(
            _x(48, 45, sign=Sign.ECC),
            _x(63, harm=Harm.NONE),
            _x(64, sign=Sign.ECC),
            _x(94, 45, sign=Sign.ECC, harm=Harm.JOB_CRASH),
            _x(95, 45, sign=Sign.ECC),
        ),
        repair=RESET,
        lemons=True,
    ),
    Cause(
        name="software",
        rate=0.49,
        signals=(
            _x(13, 45, harm=Harm.JOB_CRASH),
            _x(31, 45, harm=Harm.JOB_CRASH),
            _x(43, harm=Harm.JOB_CRASH),
            _x(harm=Harm.JOB_CRASH),
        ),
    ),
    Cause(name="switch or cable", rate=0.32, signals=(_x(harm=Harm.HANG),), repair=(4, 20), passes=True, network=True),
    Cause(name="host maintenance", rate=0.29, signals=(_x(harm=Harm.NONE),), repair=BENCH, planned=True),
    Cause(name="GPU SRAM", rate=0.17, signals=(_x(48, 172, 45, sign=Sign.ECC),), repair=RESET, lemons=True),
    Cause(
        name="GSP",
        rate=0.15,
        signals=(_x(119, sign=Sign.GONE, harm=Harm.HANG), _x(120, sign=Sign.GONE, harm=Harm.HANG)),
        repair=RESET,
        lemons=True,
    ),
    Cause(name="NIC", rate=0.063, signals=(_x(harm=Harm.HANG),), repair=BENCH, lemons=True),
    Cause(name="NCCL watchdog", rate=0.063, signals=(_x(harm=Harm.JOB_HANG),)),
    Cause(name="silent corruption", rate=0.054, signals=(_x(harm=Harm.NONE),)),
    Cause(name="thermal", rate=0.054, signals=(_x(sign=Sign.HOT, harm=Harm.NONE),), repair=(10, 20), passes=True),
    Cause(name="host", rate=0.14, signals=(_x(harm=Harm.HANG),), repair=BENCH, lemons=True, down=True),
)
PUBLISHED_RATE: Final = sum(cause.rate for cause in CAUSES)
"""Failures per 1,000 node-days, of all causes."""

LEMON_FRACTION: Final = 3 / 63
LEMON_SHARE: Final = 0.5
"""Part of the faults that prefer lemons which meets one."""
STORM_SHARE: Final = 0.15
"""Part of the XIDs that is told again and again."""
STORM_LINES: Final = 200
WIDEST: Final = 8
"""Nodes that a network fault meets at most; at least two."""

SIZES: Final = ((1, 8), (2, 6), (4, 5), (8, 4), (16, 2), (24, 1))
"""Nodes of a job, and the weight of that size."""
WORK: Final = (20 * MINUTE, 50 * MINUTE)
LOAD: Final = 0.55
"""Part of the fleet's node-hours that the jobs need without any fault."""
ARRIVES_WITHIN: Final = 0.75
"""Jobs arrive in this part of the campaign, a third of them at once."""

KILL_EVERY: Final = 12 * MINUTE
VICTIMS: Final = ("gpuaasd", "gpuaas-agent", "slurmctld", "slurmdbd", "slurmrestd")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Args:
    nodes: indexes of the nodes that it meets.
    repair: seconds; see `Cause.repair`.
    lines: how often each of its XIDs is told.
    """

    at: float
    cause: Cause
    signal: Signal
    nodes: tuple[int, ...]
    gpu: int
    repair: float
    lines: int = 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """A job: `seconds` of progress on `nodes` nodes make it complete."""

    at: float
    nodes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Kill:
    at: float
    service: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Args:
    intensity: how many times as often as published faults come.
    lemons: indexes of the lemon nodes.
    """

    seed: int
    hours: float
    nodes: int
    intensity: float
    lemons: tuple[int, ...]
    faults: tuple[Fault, ...]
    jobs: tuple[Work, ...]
    kills: tuple[Kill, ...] = field(default=())


def make_plan(*, seed: int, hours: float, nodes: int, leaf: int, intensity: float, kill: bool = False) -> Plan:
    """The campaign of a seed; killing services changes neither its faults nor its jobs.

    Args:
        leaf: nodes under one leaf switch group.

    Raises:
        InvalidInput: fewer nodes than a network fault needs, or no time.
    """
    if hours <= 0 or nodes < 2 or intensity <= 0:
        raise InvalidInput(
            f"A campaign of {hours:g} hours on {nodes} nodes at {intensity:g} times the published rates is none.",
            way_out="Use more than 0 hours, an intensity above 0 and a profile of at least 2 nodes.",
        )
    chance = _chance(seed, "faults")
    lemons = tuple(sorted(chance.sample(range(nodes), math.ceil(nodes * LEMON_FRACTION))))
    faults = sorted(
        (
            _fault(chance, cause, at, nodes, leaf, lemons)
            for cause in CAUSES
            for at in _arrivals(chance, cause.rate * intensity / 1_000 / DAY * nodes, hours * HOUR)
        ),
        key=lambda fault: fault.at,
    )
    return Plan(
        seed=seed,
        hours=hours,
        nodes=nodes,
        intensity=intensity,
        lemons=lemons,
        faults=tuple(faults),
        jobs=tuple(_jobs(_chance(seed, "jobs"), hours * HOUR, nodes)),
        kills=tuple(_kills(_chance(seed, "kills"), hours * HOUR)) if kill else (),
    )


def _chance(seed: int, what: str) -> random.Random:
    return random.Random(f"{seed} {what}")  # noqa: S311  # nothing is secret


def _arrivals(chance: random.Random, per_second: float, until: float) -> Iterator[float]:
    """Moments of a Poisson process."""
    at = chance.expovariate(per_second)
    while at < until:
        yield at
        at += chance.expovariate(per_second)


def _fault(chance: random.Random, cause: Cause, at: float, nodes: int, leaf: int, lemons: Sequence[int]) -> Fault:
    lemon = cause.lemons and chance.random() < LEMON_SHARE
    node = chance.choice(lemons) if lemon else chance.randrange(nodes)
    signal = chance.choice(cause.signals)
    storm = bool(signal.xids) and chance.random() < STORM_SHARE
    return Fault(
        at=at,
        cause=cause,
        signal=signal,
        nodes=_neighbours(chance, node, nodes, leaf) if cause.network else (node,),
        gpu=chance.randrange(8),
        repair=chance.uniform(*cause.repair) * MINUTE,
        lines=STORM_LINES if storm else 1,
    )


def _neighbours(chance: random.Random, node: int, nodes: int, leaf: int) -> tuple[int, ...]:
    """Some nodes of the node's leaf group, itself among them; of a group of one, with those before it."""
    first = min(node // leaf * leaf, nodes - 2)
    group = range(first, min(first + leaf, nodes))
    return tuple(sorted(chance.sample(group, min(len(group), chance.randint(2, WIDEST)))))


def _jobs(chance: random.Random, until: float, nodes: int) -> Iterator[Work]:
    wanted = LOAD * nodes * until
    sizes = [(size, weight) for size, weight in SIZES if size <= max(1, nodes // 4)]
    while wanted > 0:
        at = 0.0 if chance.random() < 1 / 3 else chance.uniform(0, ARRIVES_WITHIN * until)
        (size,) = chance.choices([size for size, _ in sizes], [weight for _, weight in sizes])
        seconds = chance.uniform(*WORK)
        yield Work(at=at, nodes=size, seconds=seconds)
        wanted -= size * seconds


def _kills(chance: random.Random, until: float) -> Iterator[Kill]:
    """Every service in turn, in an order and at moments of chance."""
    at, queue = 0.0, list[str]()
    while True:
        at += chance.uniform(0.5, 1.5) * KILL_EVERY
        if at >= until:
            return
        queue = queue or chance.sample(VICTIMS, len(VICTIMS))
        yield Kill(at=at, service=queue.pop())
