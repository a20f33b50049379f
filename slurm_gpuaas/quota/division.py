"""Divides whole GPUs among those who claim them: weighted max-min, bucket by bucket of priority. Pure and exact.

A claim never gets more than it asks. Within a bucket everybody's part grows in proportion to weight until the claim is
met; what is left over goes on growing the others. Parts are whole: the fractions are cut off, and the GPUs that this
leaves go one by one to the largest fraction, then by name. All arithmetic is in fractions, so that equal questions have
equal answers whatever their order, and no share is lost to rounding (a part of 3/10 GPU is still first in line for
the next one).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Final

ONE: Final = Fraction(1)
LN_2: Final = Fraction(6931471805599453, 10**16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """GPUs that `name` could use. Higher `priority` is served first; weight 0 is served last in its bucket."""

    name: str
    asked: int
    weight: Fraction = ONE
    priority: int = 0


def divide(gpus: int, claims: Iterable[Claim]) -> Mapping[str, int]:
    """Each claim's whole GPUs; together min(gpus, all that is asked). O(claims x log claims) in a bucket."""
    parts: dict[str, int] = {}
    left = max(gpus, 0)
    # weightless claims come after the weighted ones of their bucket and share equally
    ordered = sorted(claims, key=lambda one: (-one.priority, one.weight <= 0, one.name))
    for (_, weightless), bucket in groupby(ordered, key=lambda one: (one.priority, one.weight <= 0)):
        given = _bucket(left, [(one.name, one.asked, ONE if weightless else one.weight) for one in bucket])
        parts |= given
        left -= sum(given.values())
    return parts


def _bucket(gpus: int, claims: list[tuple[str, int, Fraction]]) -> dict[str, int]:
    level = _level(gpus, claims)
    if level is None:
        return {name: asked for name, asked, _ in claims}
    exact = {name: min(Fraction(asked), weight * level) for name, asked, weight in claims}
    parts = {name: int(part) for name, part in exact.items()}
    left = gpus - sum(parts.values())
    # a fraction above 0 means that the claim is not met, so one more GPU never passes it
    for name in sorted(exact, key=lambda name: (parts[name] - exact[name], name))[:left]:
        parts[name] += 1
    return parts


def _level(gpus: int, claims: list[tuple[str, int, Fraction]]) -> Fraction | None:
    """GPUs for each unit of weight at which everything is given away; None when all claims can be met."""
    left, weights = Fraction(gpus), sum((weight for _, _, weight in claims), Fraction(0))
    for _, asked, weight in sorted(claims, key=lambda one: one[1] / one[2]):
        if asked * weights > left * weight:  # the claim ends above the level
            return left / weights
        left -= asked
        weights -= weight
    return None


def remembering(
    weights: Mapping[str, Fraction], past_use: Mapping[str, Fraction], *, capacity: int, half_life_h: Fraction
) -> Mapping[str, Fraction]:
    """Weights that remember past use: who used more than the weight's part gets less of what is idle now.

    With weights W normalised to sum 1 and U = past use / what the cluster can give within the memory, the weight
    becomes max(0, W + (W - U)): the time-based fair share of KAI-Scheduler (docs/time-based-fairshare, k = 1).

    Args:
        past_use: GPU-hours of each name, already decayed with the half-life to this moment.
        capacity: GPUs; within the memory they give capacity x half-life / ln 2 GPU-hours.
    """
    total = sum(weights.values(), Fraction(0))
    if total == 0 or capacity <= 0:
        return weights
    window = capacity * half_life_h / LN_2
    shares = {name: weight / total for name, weight in weights.items()}
    changed = {name: max(Fraction(0), 2 * part - past_use[name] / window) for name, part in shares.items()}
    # everybody far above: nobody is told from the others by memory any more
    return changed if any(changed.values()) else weights
