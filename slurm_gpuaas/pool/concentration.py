"""The caps of a programme: how many of its GPUs one organisation, one region or one award may have. Pure.

What counts is what is promised at one time: an organisation's offers and grants in the programme, those of earlier
calls included, on the day on which they are most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from slurm_gpuaas.domain.calendar import Commitment, overcommitted, room
from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.names import OrganisationName
from slurm_gpuaas.domain.programmes import PoolOrganisation, Programme, Region
from slurm_gpuaas.domain.told import Told, told


class Cap(StrEnum):
    ORGANISATION = "organisation"
    REGION = "region"


@dataclass(frozen=True, slots=True)
class Holding:
    """What somebody has, or would have, of the programme's GPUs."""

    organisation: OrganisationName
    region: Region
    commitment: Commitment


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """One cap that new awards would pass.

    Args:
        gpus: promised on `day`, the worst one.
        held: of these, before the new awards.
    """

    cap: Cap
    name: str
    limit: int
    gpus: int
    held: int
    day: date

    @property
    def told(self) -> Told:
        values: dict[str, str | int | date] = {
            "name": self.name,
            "limit": self.limit,
            "gpus": self.gpus,
            "held": self.held,
            "day": self.day,
        }
        if self.cap is Cap.REGION:
            return told(
                "Region {name} would have {gpus} GPUs on {day}, {held} of them already now; its cap is {limit}.",
                **values,
            )
        return told(
            "Organisation {name} would have {gpus} GPUs on {day}, {held} of them already now; its cap is {limit}.",
            **values,
        )


def over_caps(
    programme: Programme, new: Sequence[Holding], held: Iterable[Holding], *, since: date
) -> tuple[Over, ...]:
    """Every cap of an organisation or region that the new awards pass; none where they change nothing."""
    found = []
    every = list(held)
    for cap, limit in ((Cap.ORGANISATION, programme.caps.organisation), (Cap.REGION, programme.caps.region)):
        if limit is None:
            continue
        added, before = _grouped(cap, new), _grouped(cap, every)
        for name in sorted(added):
            worst = overcommitted(limit, [*before[name], *added[name]], since=since)
            if worst is not None:
                already = sum(one.gpus for one in before[name] if one.starts <= worst.day <= one.ends)
                found.append(Over(cap=cap, name=name, limit=limit, gpus=worst.gpus, held=already, day=worst.day))
    return tuple(found)


def check_caps(programme: Programme, new: Sequence[Holding], held: Iterable[Holding], *, since: date) -> None:
    """
    Raises:
        Refused: an award is above the cap of one, or a cap of an organisation or region would be passed.
    """
    most = programme.caps.per_project
    for one in new:
        if most is not None and one.commitment.gpus > most:
            raise Refused(
                told(
                    "{application} would have {gpus} GPUs; the programme's cap of one award is {limit}.",
                    application=one.commitment.holder,
                    gpus=one.commitment.gpus,
                    limit=most,
                ),
                way_out=told("Award fewer."),
            )
    for over in over_caps(programme, new, held, since=since):
        raise Refused(over.told, way_out=told("Award fewer there, or raise the programme's cap."))


def room_under_caps(
    programme: Programme, organisation: PoolOrganisation, held: Sequence[Holding], starts: date, ends: date
) -> int | None:
    """GPUs that one more award to the organisation may have on every day of the window; None: no cap."""
    caps = programme.caps
    left = [] if caps.per_project is None else [caps.per_project]
    for limit, mine in (
        (caps.organisation, [one.commitment for one in held if one.organisation == organisation.name]),
        (caps.region, [one.commitment for one in held if one.region == organisation.region]),
    ):
        if limit is not None:
            left.append(room(limit, mine, starts, ends))
    return min(left, default=None)


def _grouped(cap: Cap, holdings: Iterable[Holding]) -> defaultdict[str, list[Commitment]]:
    groups: defaultdict[str, list[Commitment]] = defaultdict(list)
    for one in holdings:
        groups[one.organisation if cap is Cap.ORGANISATION else one.region].append(one.commitment)
    return groups
