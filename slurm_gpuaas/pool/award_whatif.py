"""What an award would be if something were otherwise, and who would gain and lose by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.pool.award import Award, Awarded
from slurm_gpuaas.pool.award_scenario import Scenario, order_of


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What is otherwise.

    Attributes:
        without: ids of applications that are left out.
        must: ids of applications that have to be awarded something.
        caps: by the name of the cap; None lifts it.
        capacities: GPUs by the name of the pool.
    """

    without: frozenset[str] = frozenset()
    must: frozenset[str] = frozenset()
    caps: Mapping[str, int | None] = field(default_factory=dict)
    capacities: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.without or self.must or self.caps or self.capacities)

    def of(self, scenario: Scenario) -> Scenario:
        """The scenario as it would be; `must` is for `award`.

        Raises:
            InvalidInput: it names an application or pool that there is not.
            pydantic.ValidationError: a number is out of bounds.
        """
        _check_known("application", self.without, (one.id for one in scenario.applications))
        _check_known("pool", self.capacities, (pool.name for pool in scenario.pools))
        changed = scenario.model_dump()
        changed["applications"] = [one for one in changed["applications"] if one["id"] not in self.without]
        changed["caps"] |= self.caps
        for pool in changed["pools"]:
            pool["capacity"] = self.capacities.get(pool["name"], pool["capacity"])
        return Scenario.model_validate(changed)


def _check_known(what: str, named: Iterable[str], known: Iterable[str]) -> None:
    unknown = set(named).difference(known)
    if unknown:
        raise InvalidInput(
            f"There is no {what} {min(unknown, key=order_of)}.", way_out=f"Name one of the scenario's {what}s."
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """What one application had and has; None is nothing."""

    id: str
    before: Awarded | None
    after: Awarded | None

    @property
    def gpus(self) -> int:
        """More, or fewer if below 0."""
        return (self.after.gpus if self.after else 0) - (self.before.gpus if self.before else 0)


def differences(base: Award, other: Award) -> list[Difference]:
    """Applications whose award differs in GPUs or pool, in the order of ids."""
    return [
        Difference(id_, before, after)
        for id_ in sorted({*base.awarded, *other.awarded}, key=order_of)
        if _where(before := base.awarded.get(id_)) != _where(after := other.awarded.get(id_))
    ]


def _where(one: Awarded | None) -> tuple[str, int] | None:
    return (one.pool.name, one.gpus) if one else None
