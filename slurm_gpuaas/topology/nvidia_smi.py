"""Reads `nvidia-smi topo -m`: which adapter is each GPU's, and between which GPUs NVLink is missing. Pure.

A rail's number is not the adapter's: on a host with storage adapters in between, GPU 0 to 7 have mlx5_0, 3, 4, 5, 6, 9,
10 and 11. Adapters that are no GPU's serve storage or management.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import combinations
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.topology.fabric import Fault, Finding

LONGEST_LINE: Final = 10_000
MOST_DEVICES: Final = 128
COLOUR: Final = re.compile(r"\x1b\[[0-9;]{0,8}m")
GPU: Final = re.compile(r"GPU\d{1,3}")
WORD: Final = re.compile(r"X|NV(\d{1,3})|PIX|PXB|PHB|NODE|SYS")
LEGEND: Final = re.compile(r"(NIC\d{1,3}): (\S{1,64})")
CPUS: Final = re.compile(r"\d[\d,-]*")


class Distance(IntEnum):
    """What a connection passes, the nearest first, as the tool's legend explains."""

    PIX = 0
    PXB = 1
    PHB = 2
    NODE = 3
    SYS = 4


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What joins the GPUs and adapters of one node.

    Args:
        gpus: GPU0, GPU1, ...
        adapters: mlx5_0, ...: as RDMA knows them, in the order of the columns.
        words: by GPU and device, such as NV18 or PIX.
        numa: NUMA node by GPU, where it is told.
    """

    gpus: tuple[str, ...]
    adapters: tuple[str, ...]
    words: Mapping[tuple[str, str], str]
    numa: Mapping[str, str]

    def rails(self) -> tuple[str, ...]:
        """Each GPU's nearest adapter, in the order of the GPUs; empty where the node has no adapters.

        Of several that are as near, GPUs take one each. A GPU to which none is nearer than its NUMA node takes one that
        is nearer to another GPU, rather than one that is nobody's.
        """
        if not self.adapters:
            return ()
        nearest = {gpu: min(self._distance(gpu, one) for one in self.adapters) for gpu in self.gpus}
        taken: dict[str, Distance] = {}
        rail: dict[str, str] = {}
        for gpu in sorted(self.gpus, key=nearest.__getitem__):
            here = nearest[gpu]
            near = [one for one in self.adapters if self._distance(gpu, one) == here]
            shared = [one for one in near if here >= Distance.NODE and taken.get(one, here) < here]
            rail[gpu] = next(iter([*shared, *(one for one in near if one not in taken), *near]))
            taken.setdefault(rail[gpu], here)
        return tuple(rail[gpu] for gpu in self.gpus)

    def findings(self) -> Iterator[Finding]:
        """GPUs with fewer NVLinks between them than most have, and those on one NUMA node that are as far apart as can
        be: a PCIe node shows less between them, so their NVLinks are down.
        """
        links = {pair: self._nvlinks(*pair) for pair in combinations(self.gpus, 2)}
        counts = Counter(links.values())
        usual = max(counts, key=lambda number: (counts[number], number), default=0)
        less = {pair for pair, number in links.items() if number < usual or (not usual and self._is_apart(*pair))}
        while less:
            times = Counter(gpu for pair in less for gpu in pair)
            worst = max(self.gpus, key=lambda gpu: times[gpu])
            peers = [gpu for gpu in self.gpus if less & {(worst, gpu), (gpu, worst)}]
            has = min(self._nvlinks(worst, gpu) for gpu in peers)
            where = f", where most have {usual}" if usual else ""
            yield Finding(
                fault=Fault.NVLINK_DOWN,
                says=f"{worst} has {has or 'no'} NVLinks to {', '.join(peers)}"[:900] + f"{where}.",
                devices=(worst,),
            )
            less = {pair for pair in less if worst not in pair}

    def _word(self, one: str, other: str) -> str:
        return self.words.get((one, other)) or self.words.get((other, one), "")

    def _distance(self, gpu: str, adapter: str) -> Distance:
        word = self._word(gpu, adapter)
        return Distance[word] if word in Distance.__members__ else Distance.SYS

    def _nvlinks(self, one: str, other: str) -> int:
        found = WORD.fullmatch(self._word(one, other))
        return int(found[1] or 0) if found else 0

    def _is_apart(self, one: str, other: str) -> bool:
        return self._word(one, other) == "SYS" and self.numa.get(one, "") == self.numa.get(other, "-")


def parse(text: str, *, source: str = "nvidia-smi topo -m") -> Matrix:
    """The matrix of the text. Linear in it.

    Raises:
        InvalidInput: no row of a GPU.
    """
    columns: list[str] = []
    rows: dict[str, list[str]] = {}
    numa: dict[str, str] = {}
    names: dict[str, str] = {}
    for raw in text.split("\n"):
        line = COLOUR.sub("", raw[:LONGEST_LINE])
        fields = line.split()
        if not columns and fields and GPU.fullmatch(fields[0]) and "X" not in fields:
            columns = line.partition("CPU Affinity")[0].split()[:MOST_DEVICES]
        elif fields and fields[0] in columns and all(map(WORD.fullmatch, fields[1 : len(columns) + 1])):
            rows.setdefault(fields[0], fields[1 : len(columns) + 1])
            rest = fields[len(columns) + 1 :]
            if len(rest) > 1 and CPUS.fullmatch(rest[0]) and rest[1].isdecimal():
                numa.setdefault(fields[0], rest[1])
        elif found := LEGEND.fullmatch(line.strip()):
            names.setdefault(found[1], found[2])
    gpus = tuple(dict.fromkeys(name for name in columns if name in rows and GPU.fullmatch(name)))
    if not gpus:
        raise InvalidInput(f"{source} holds no row of a GPU.", way_out="Give what `nvidia-smi topo -m` printed.")
    adapters = {name: names.get(name, name) for name in columns if not GPU.fullmatch(name)}
    words = {
        (row, adapters.get(column, column)): word
        for row in gpus
        for column, word in zip(columns, rows[row], strict=False)
    }
    return Matrix(gpus=gpus, adapters=tuple(dict.fromkeys(adapters.values())), words=words, numa=numa)
