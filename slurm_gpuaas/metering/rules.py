"""What a run of a job counts and costs, in which month, and for whom. Pure: values in, values out.

A run is one stay of a job on its nodes. A requeued job has several, told apart by their start, and each counts by
itself. GPU-seconds are allocated GPUs x whole seconds of wall time (Slurm's times are whole seconds), so windows that
tile a period add up to the period exactly. A suspended job keeps its GPUs and goes on counting.

It never asks Slurm or the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final

from slurm_gpuaas.domain.jobs import JobState, ServiceClass
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.policy import KST, Policy
from slurm_gpuaas.domain.usage import UsageRecord, Window, service_class

VANISHED: Final = "VANISHED"
"""State of a run that we saw running and that accounting no longer knows (purged, or its record was lost)."""


# -- Runs --------------------------------------------------------------------------------------------------------------


def metered_until(record: UsageRecord) -> datetime:
    """The moment up to which `gpu_seconds` counts."""
    return record.ended or record.started + timedelta(seconds=record.gpu_seconds // record.gpus)


def close_vanished(record: UsageRecord) -> UsageRecord:
    """End a run that accounting no longer knows where we last saw it running: nobody pays for what nobody can show."""
    return replace(record, ended=metered_until(record), state=VANISHED)


def whole_seconds(span: timedelta) -> int:
    """0 for a negative span: Slurm's clock may be ahead of ours by a moment."""
    return max(span // timedelta(seconds=1), 0)


# -- Windows -----------------------------------------------------------------------------------------------------------


def day(of: date) -> Window:
    """A Korean day."""
    return Window(_midnight(of), _midnight(of + timedelta(days=1)))


def month(year: int, number: int) -> Window:
    """A Korean month; `number` from 1."""
    return Month(year, number).window


def _midnight(of: date) -> datetime:
    return datetime.combine(of, time(), KST)


def gpu_seconds_in(record: UsageRecord, window: Window) -> int:
    """The part of a run's GPU-seconds that falls into the window."""
    start = max(record.started, window.start)
    return record.gpus * whole_seconds(min(metered_until(record), window.end) - start)


# -- Totals ------------------------------------------------------------------------------------------------------------


class Dimension(StrEnum):
    """What totals can be split by. The project of a run is its Slurm account."""

    PROJECT = "project"
    USER = "user"
    MODEL = "model"
    QOS = "qos"
    CLUSTER = "cluster"


LOST_TO_PREEMPTION: Final = frozenset({JobState.PREEMPTED})
LOST_TO_FAULTS: Final = frozenset({JobState.NODE_FAIL, JobState.BOOT_FAIL})


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotal:
    """GPU-seconds of one group in a window; `guaranteed` + `burst` = all of it.

    `guaranteed_won` and `burst_won` are what the two cost, exactly; `unpriced` are GPU-seconds of either for whose
    model no rate was in force. `preempted` and `node_failed` are the parts whose run ended so (whatever was not
    checkpointed then is lost).
    """

    key: tuple[str, ...]
    runs: int
    guaranteed: int
    burst: int
    guaranteed_won: Fraction
    burst_won: Fraction
    unpriced: int
    preempted: int
    node_failed: int

    @property
    def gpu_seconds(self) -> int:
        return self.guaranteed + self.burst


Pricing = Callable[[UsageRecord], Fraction | None]
"""Won per GPU-second of a run; None where no rate was in force."""


def pricing(policy: Policy) -> Pricing:
    """Every run at the price of the moment when it started (docs/design/0013-awarded-and-written.md).

    A run for which Slurm names no single model has that of its partition.
    """
    models = {
        (pool.cluster, pool.partition_of(share.name)): pool.model for pool in policy.pools for share in pool.shares
    }

    def price(record: UsageRecord) -> Fraction | None:
        model = record.model or models.get((record.cluster, record.partition))
        # An account that is no project of ours has no grants, and pays the whole price.
        found = model and policy.price_at(record.account, record.cluster, model, record.started)
        return found.of_class(service_class(record.qos)) if found else None

    return price


def totals(
    records: Iterable[UsageRecord],
    window: Window,
    *,
    by: Sequence[Dimension] = (Dimension.PROJECT,),
    price: Pricing = lambda record: None,
) -> list[UsageTotal]:
    """Totals of the window, one for each combination of `by` that used anything, sorted by key."""
    groups: dict[tuple[str, ...], list[tuple[UsageRecord, int]]] = defaultdict(list)
    for record in records:
        if used := gpu_seconds_in(record, window):
            groups[tuple(_value(record, dimension) for dimension in by)].append((record, used))
    return [_total(key, group, price) for key, group in sorted(groups.items())]


def _total(key: tuple[str, ...], group: Sequence[tuple[UsageRecord, int]], price: Pricing) -> UsageTotal:
    burst = sum(used for record, used in group if service_class(record.qos) is ServiceClass.BURST)
    won = {service: Fraction(0) for service in ServiceClass}
    unpriced = 0
    for record, used in group:
        if (each := price(record)) is None:
            unpriced += used
        else:
            won[service_class(record.qos)] += used * each
    return UsageTotal(
        key=key,
        runs=len(group),
        guaranteed=sum(used for _, used in group) - burst,
        burst=burst,
        guaranteed_won=won[ServiceClass.GUARANTEED],
        burst_won=won[ServiceClass.BURST],
        unpriced=unpriced,
        preempted=sum(used for record, used in group if record.state in LOST_TO_PREEMPTION),
        node_failed=sum(used for record, used in group if record.state in LOST_TO_FAULTS),
    )


def _value(record: UsageRecord, dimension: Dimension) -> str:
    match dimension:
        case Dimension.PROJECT:
            return record.account
        case Dimension.USER:
            return record.user
        case Dimension.MODEL:
            return record.model or "mixed"
        case Dimension.QOS:
            return record.qos
        case Dimension.CLUSTER:
            return record.cluster
