"""How busy each GPU is now and since when it has not been, from telemetry: memory for the present, and one look at the
files of two days after a start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from slurm_gpuaas.daemon.site_picture import Activity
from slurm_gpuaas.domain.fleet_map import UNKNOWN_BYTE, UNKNOWN_IDLE
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.telemetry import IDLE_BELOW_PERCENT, METRICS, STEP, UNKNOWN, Metric
from slurm_gpuaas.store.telemetry.telemetry import BusyDay, FloatCodes

IDLE_BELOW: Final = IDLE_BELOW_PERCENT / STEP[Metric.BUSY]
"""As a code."""
RECALLED: Final = timedelta(days=1)
"""How far back is looked after a start, from the present day's begin."""
UNKNOWN_MOMENT: Final = -1
LONGEST_IDLE: Final = UNKNOWN_IDLE - 1
_ROW: Final = {metric: number for number, metric in enumerate(METRICS)}

Seconds = NDArray[np.int64]


class Samples(Protocol):
    """Where samples are kept; `store.telemetry.Telemetry` has it and says what each gives."""

    def busy(self, day: date, nodes: Iterable[NodeName]) -> Iterator[tuple[NodeName, BusyDay]]: ...
    def recent(self, nodes: Iterable[NodeName], *, now: datetime) -> Iterator[tuple[NodeName, FloatCodes]]: ...


class GpuActivity:
    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._worked: dict[NodeName, Seconds] = {}
        """When each GPU last did work, seconds of the epoch; where it never did: when it was first seen idle."""
        self._recalled = False

    def now(self, nodes: Sequence[NodeName], at: datetime) -> Mapping[NodeName, Activity]:
        """Of the nodes that have told something within the last minutes. A GPU whose load is not known now keeps what
        is known of when it worked."""
        if not self._recalled:
            for day in (at - RECALLED, at):
                for node, told in self._samples.busy(day.date(), nodes):
                    self._recall(node, told, day)
            self._recalled = True
        alike: dict[int, list[tuple[NodeName, FloatCodes]]] = defaultdict(list)
        for node, codes in self._samples.recent(nodes, now=at):
            alike[codes.shape[1]].append((node, codes))
        activity: dict[NodeName, Activity] = {}
        for gpus, found in alike.items():
            names = [node for node, _ in found]
            activity.update(self._activities(names, np.stack([codes for _, codes in found]), gpus, int(at.timestamp())))
        return activity

    def _activities(
        self, names: Sequence[NodeName], codes: FloatCodes, gpus: int, now: int
    ) -> Iterator[tuple[NodeName, Activity]]:
        """Of nodes with as many GPUs each, all at once. `codes`: [nodes, metrics, gpus]; `now` in s of the epoch."""
        busy = codes[:, _ROW[Metric.BUSY]]
        worked = np.stack([self._of(node, gpus) for node in names])
        known = ~np.isnan(busy)
        worked[known & ((busy >= IDLE_BELOW) | (worked == UNKNOWN_MOMENT))] = now
        minutes = np.clip((now - worked) // 60, 0, LONGEST_IDLE)
        idle = np.where(known & (worked != UNKNOWN_MOMENT), minutes, UNKNOWN_IDLE).tolist()
        use = _codes(busy * STEP[Metric.BUSY])
        power, heat = (_codes(codes[:, _ROW[metric]]) for metric in (Metric.POWER, Metric.TEMPERATURE))
        for row, node in enumerate(names):
            self._of(node, gpus)[:] = worked[row]
            yield node, Activity(use=use[row], power=power[row], heat=heat[row], idle=idle[row])

    def _recall(self, node: NodeName, told: BusyDay, day: datetime) -> None:
        midnight = int(day.replace(hour=0, minute=0, second=0, microsecond=0).timestamp())
        known = told.busy != UNKNOWN
        worked = known & (told.busy >= IDLE_BELOW)
        moments = self._of(node, len(told.busy))
        last = midnight + 60 * (worked.shape[1] - 1 - worked[:, ::-1].argmax(axis=1))
        first = midnight + 60 * known.argmax(axis=1)
        never = (moments == UNKNOWN_MOMENT) & known.any(axis=1)
        moments[never] = first[never]
        moments[worked.any(axis=1)] = last[worked.any(axis=1)]

    def _of(self, node: NodeName, gpus: int) -> Seconds:
        moments = self._worked.get(node)
        if moments is None or len(moments) < gpus:
            longer = np.full(gpus, UNKNOWN_MOMENT, np.int64)
            longer[: 0 if moments is None else len(moments)] = () if moments is None else moments
            self._worked[node] = moments = longer
        return moments[:gpus]


def _codes(values: FloatCodes) -> list[list[int]]:
    """Rounded to whole steps; what is not known, or above what a plane holds, as that."""
    codes = np.where(np.isnan(values), UNKNOWN_BYTE, np.clip(np.rint(values), 0, UNKNOWN_BYTE - 1))
    rows: list[list[int]] = codes.astype(int).tolist()
    return rows
