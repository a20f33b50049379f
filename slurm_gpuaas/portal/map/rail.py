"""The sums beside the map, reckoned from a picture as its viewer may see it. Pure.

A job runs in one share of one cluster, so "the largest job that could start now" is reckoned for each (cluster, share).
A *segment* is the wholly free nodes of one share under one unit: below one leaf switch any node is as near as another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from statistics import median_high
from typing import Any, Final

import numpy as np

from slurm_gpuaas.domain.fleet_map import UNKNOWN_IDLE, Cells, CellState, FleetLayout, MapCluster
from slurm_gpuaas.domain.names import ShareName

SEGMENTS: Final = (1, 2, 4, 8, 16, 32)
"""A segment counts under the largest of these that it can hold."""
IDLE_MINUTES: Final = 10
"""A GPU that a job holds and has not used for so long counts as held but idle."""
RELEASE_HOURS: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What could start now in one share of one cluster. `unit_name` is where `unit_nodes` are ("" for none)."""

    cluster: MapCluster
    share: ShareName
    nodes: int
    unit_nodes: int
    unit_name: str
    node_gpus: int
    segments: tuple[int, ...]

    def told(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster.name,
            "share": self.share,
            "model": self.cluster.model,
            "per_node": self.cluster.gpus_per_node,
            "nodes": self.nodes,
            "unit_nodes": self.unit_nodes,
            "unit": self.unit_name,
            "gpus": self.node_gpus,
        }


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs of one site that wait for one reason; `since` are minutes of the epoch."""

    reason: str
    gpus: int
    since: tuple[int, ...]


def rooms(layout: FleetLayout, cells: Cells) -> list[Room]:
    """Of each (cluster, share), in the order of the layout."""
    return list(chain.from_iterable(_rooms(one, cells.state[layout.part(one)]) for one in layout.clusters))


def _rooms(cluster: MapCluster, state: np.ndarray[Any, np.dtype[np.uint8]]) -> Iterable[Room]:
    free_gpus = (state == CellState.FREE).reshape(-1, cluster.gpus_per_node).sum(axis=1)
    whole = free_gpus == cluster.gpus_per_node
    share_of = np.array([share for unit in cluster.units for share in unit.shares])
    unit_of = np.repeat(np.arange(len(cluster.units)), [len(unit.nodes) for unit in cluster.units])
    for share in dict.fromkeys(share_of.tolist()):
        mine = share_of == share
        by_unit = np.bincount(unit_of[mine & whole], minlength=len(cluster.units))
        best = int(by_unit.argmax())
        held = by_unit[by_unit > 0]
        # The largest of SEGMENTS not above each: their exponents are those of powers of two.
        classes = np.minimum(np.log2(held).astype(np.int64), len(SEGMENTS) - 1)
        yield Room(
            cluster=cluster,
            share=ShareName.as_slurm_says(share),
            nodes=int(by_unit.sum()),
            unit_nodes=int(by_unit[best]),
            unit_name=cluster.units[best].name if by_unit[best] else "",
            node_gpus=int(free_gpus[mine].max(initial=0)),
            segments=tuple(np.bincount(classes, minlength=len(SEGMENTS)).tolist()),
        )


def rail(
    layout: FleetLayout,
    cells: Cells,
    jobs: Mapping[str, Mapping[str, Any]],
    waiting: Iterable[Waiting],
    moment: datetime,
) -> dict[str, Any]:
    """Everything beside the map as JSON.

    Keys: `rooms`; `segments` (counts by `SEGMENTS`); `models` ([model, free, all GPUs]); `states` (count by `CellState`
    value); `idle` (GPUs held but idle), `won` (what they cost an hour; absent where a price is not known); `waiting`
    ([reason, jobs, GPUs, median wait in minutes], most jobs first); `releases` (GPUs whose job ends in each of the next
    24 hours, at its limit).
    """
    return {**alike(layout, cells, waiting, moment), **of_viewer(layout, cells, jobs, moment)}


def alike(layout: FleetLayout, cells: Cells, waiting: Iterable[Waiting], moment: datetime) -> dict[str, Any]:
    """The part of the rail that follows from what is free and what waits: all viewers see the same of that."""
    found = rooms(layout, cells)
    return {
        "rooms": [room.told() for room in found],
        "segments": [sum(counts) for counts in zip(*(room.segments for room in found), strict=True)],
        "models": _models(layout, cells),
        "waiting": _waiting(waiting, int(moment.timestamp()) // 60),
    }


def of_viewer(
    layout: FleetLayout, cells: Cells, jobs: Mapping[str, Mapping[str, Any]], moment: datetime
) -> dict[str, Any]:
    """The part of the rail that follows from whose jobs a viewer sees."""
    held = (cells.state == CellState.BUSY) | (cells.state == CellState.DRAINING)
    held_idle = held & (cells.idle >= IDLE_MINUTES) & (cells.idle != UNKNOWN_IDLE)
    told: dict[str, Any] = {
        "states": np.bincount(cells.state, minlength=len(CellState)).tolist(),
        "idle": int(held_idle.sum()),
        "releases": _releases(jobs, moment),
    }
    prices = {one.name: one.won_per_gpu_hour for one in layout.clusters}
    if None not in prices.values():
        idle_of = {one.name: int(held_idle[layout.part(one)].sum()) for one in layout.clusters}
        told["won"] = sum((prices[name] or 0) * count for name, count in idle_of.items())
    return told


def _models(layout: FleetLayout, cells: Cells) -> list[list[Any]]:
    free: Counter[str] = Counter()
    everything: Counter[str] = Counter()
    for cluster in layout.clusters:
        free[cluster.model] += int((cells.state[layout.part(cluster)] == CellState.FREE).sum())
        everything[cluster.model] += cluster.cells
    return [[model, free[model], everything[model]] for model in everything]


def _waiting(waiting: Iterable[Waiting], now: int) -> list[list[Any]]:
    since: dict[str, list[int]] = {}
    gpus: Counter[str] = Counter()
    for one in waiting:
        since.setdefault(one.reason, []).extend(one.since)
        gpus[one.reason] += one.gpus
    rows = [
        [reason, len(all_), gpus[reason], max(0, now - median_high(all_))] for reason, all_ in since.items() if all_
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _releases(jobs: Mapping[str, Mapping[str, Any]], moment: datetime) -> list[int]:
    hours = [0] * RELEASE_HOURS
    now = moment.timestamp()
    for job in jobs.values():
        if "until" in job:
            hour = int((job["until"] - now) // 3600)
            if 0 <= hour < RELEASE_HOURS:
                hours[hour] += job["gpus"]
    return hours
