"""Who is offered GPUs that became free: the waiting list, in its order. Pure.

The rule, as it is published: the higher score first, of equal scores who waits longer, then the lower number. Each in
turn is offered as much as it asked for, as far as one pool and the caps have it, in whole servers (or single GPUs,
where its programme offers these) and not under its minimum. Whom too little is free for is passed over, keeps its
place, and is told why. So nobody gets less because somebody behind gets something, and giving in turn is itself the
optimum of that order: no search can do better for the first without worse for nobody before.

Of pools that hold the whole request the fullest is taken, so that large pieces stay; else the one with most room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import ApplicationId, GpuModel, OrganisationName
from slurm_gpuaas.domain.policy import MOST_GPUS
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.domain.words import plural

SERVER = 8


@dataclass(frozen=True, slots=True, order=True)
class PoolShare:
    """A share of a pool; `name` is the pool's, unique over all sites."""

    name: str
    share: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """GPUs of a share that are free over the whole time that grants from it would last."""

    where: PoolShare
    model: GpuModel
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An application without a grant.

    Attributes:
        model: None: any.
        unit: it takes multiples of it: whole servers, or 1 in the small tier.

    Raises:
        InvalidInput: counts that contradict each other.
    """

    id: ApplicationId
    organisation: OrganisationName
    score: float
    since: date
    gpus: int
    min_gpus: int
    model: GpuModel | None = None
    unit: int = SERVER

    def __post_init__(self) -> None:
        if not 1 <= self.min_gpus <= self.gpus <= MOST_GPUS or not 1 <= self.unit <= self.gpus:
            raise InvalidInput(
                f"Application {self.id} asks for {self.gpus} GPUs, {self.min_gpus} at least, in pieces of {self.unit}.",
                way_out="Ask for at least one piece, and for no less than the minimum.",
            )
        if not self.score == self.score:
            raise InvalidInput(f"Application {self.id} has no score.", way_out="Score it first.")

    @property
    def order(self) -> tuple[float, date, ApplicationId]:
        return -self.score, self.since, self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    id: ApplicationId
    where: PoolShare
    gpus: int
    why: Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Not offered anything this time; it keeps its place."""

    id: ApplicationId
    why: Told


def offers(
    freed: Iterable[Freed],
    waiting: Iterable[Waiting],
    *,
    cap: int | None = None,
    held: Mapping[OrganisationName, int] | None = None,
) -> tuple[list[Offering], list[Passed]]:
    """
    Args:
        cap: GPUs that one organisation may hold in all; None: no cap.
        held: GPUs that organisations hold already, offers included.

    Returns:
        Offers and those passed over, each in the order of the list.

    Raises:
        InvalidInput: a share or an application is there twice, or a share has less than nothing.
    """
    room = _room(freed)
    has = dict(held or {})
    made: list[Offering] = []
    passed: list[Passed] = []
    for one in _in_order(waiting):
        allowed = one.gpus if cap is None else min(one.gpus, cap - has.get(one.organisation, 0))
        if _whole(allowed, one) < one.min_gpus:
            passed.append(
                Passed(
                    id=one.id,
                    why=told(
                        "{organisation} holds {held} of at most {cap} GPUs; it asks for {least} or more.",
                        organisation=one.organisation,
                        held=has.get(one.organisation, 0),
                        cap=cap or 0,
                        least=one.min_gpus,
                    ),
                )
            )
            continue
        best = _best(one, allowed, room.values())
        gives = _whole(min(allowed, best.gpus), one) if best else 0
        if best is None or gives < one.min_gpus:
            passed.append(
                Passed(
                    id=one.id,
                    why=told(
                        "It asks for {least} GPUs or more; the most in one share is {most}.",
                        least=one.min_gpus,
                        most=best.gpus if best else 0,
                    ),
                )
            )
            continue
        room[best.where] = Freed(where=best.where, model=best.model, gpus=best.gpus - gives)
        has[one.organisation] = has.get(one.organisation, 0) + gives
        why = told(
            "{gpus} of {asked} GPUs: score {score}, waiting since {since}.",
            gpus=gives,
            asked=one.gpus,
            score=one.score,
            since=one.since,
        )
        made.append(Offering(id=one.id, where=best.where, gpus=gives, why=why))
    return made, passed


def _whole(gpus: int, one: Waiting) -> int:
    return max(gpus, 0) // one.unit * one.unit


def _best(one: Waiting, allowed: int, room: Iterable[Freed]) -> Freed | None:
    fitting = [there for there in room if one.model is None or there.model == one.model]
    wanted = _whole(allowed, one)
    return min(
        fitting,
        key=lambda there: (
            there.gpus < wanted,
            there.gpus if there.gpus >= wanted else -there.gpus,
            there.where,
        ),
        default=None,
    )


def _room(freed: Iterable[Freed]) -> dict[PoolShare, Freed]:
    room: dict[PoolShare, Freed] = {}
    for one in freed:
        if one.where in room:
            raise InvalidInput(f"{one.where.name} {one.where.share} is there twice.", way_out="Give its sum once.")
        if not 0 <= one.gpus <= MOST_GPUS:
            raise InvalidInput(f"{one.where.name} {one.where.share} has {plural(one.gpus, 'GPU')} free.")
        room[one.where] = one
    return room


def _in_order(waiting: Iterable[Waiting]) -> list[Waiting]:
    ordered = sorted(waiting, key=lambda one: one.order)
    seen: set[ApplicationId] = set()
    for one in ordered:
        if one.id in seen:
            raise InvalidInput(f"Application {one.id} waits twice.", way_out="Give each once.")
        seen.add(one.id)
    return ordered
