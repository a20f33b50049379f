"""InfiniBand ports as the kernel shows them: /sys/class/infiniband/DEVICE/ports/PORT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from slurm_gpuaas.agent.checks import Rates
from slurm_gpuaas.health.checks import Measure, Reading

_RATE: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) Gb/sec")
_COUNTERS: Final = {
    "link_downed": Measure.LINK_DOWNED_PER_MINUTE,
    "symbol_error": Measure.SYMBOL_ERRORS_PER_MINUTE,
}


class InfiniBandReader:
    """Args:
    root: /sys/class/infiniband.
    ports: ports that must be up, as `mlx5_0` or `mlx5_0/1`; none: every port that speaks InfiniBand.
    rate: Gb/s that each must have; None: any.
    """

    name = "InfiniBand"
    measures = frozenset({Measure.PORTS_DOWN, Measure.PORTS_MISSING, Measure.RATE_MISSING_GBPS, *_COUNTERS.values()})
    seconds = 10.0

    def __init__(self, root: Path, *, ports: Sequence[str], rate: float | None, rates: Rates) -> None:
        self._root = root
        self._ports = ports
        self._rate = rate
        self._rates = rates

    def read(self) -> Iterator[Reading]:
        for device, number in self._wanted() if self._ports else self._present():
            yield from self._port(f"{device}/{number}", self._root / device / "ports" / number)

    def _wanted(self) -> Iterator[tuple[str, str]]:
        for port in self._ports:
            device, _slash, number = port.partition("/")
            yield device, number or "1"

    def _present(self) -> Iterator[tuple[str, str]]:
        for folder in sorted(self._root.glob("*/ports/*")):
            if _text(folder / "link_layer") in {"InfiniBand", None}:  # old kernels do not say; Ethernet ones do
                yield folder.parent.parent.name, folder.name

    def _port(self, subject: str, folder: Path) -> Iterator[Reading]:
        missing = not folder.is_dir()
        yield Reading(measure=Measure.PORTS_MISSING, value=float(missing), subject=subject)
        if missing:
            yield Reading(measure=Measure.PORTS_DOWN, value=1, subject=subject, detail="not there")
            return
        state, physical = _text(folder / "state"), _text(folder / "phys_state")
        known = state is not None and physical is not None
        down = not (known and "ACTIVE" in str(state) and "LinkUp" in str(physical))
        yield Reading(
            measure=Measure.PORTS_DOWN,
            value=float(down) if known else None,
            subject=subject,
            detail=f"{state}, {physical}" if known else "no state in sysfs",
        )
        if self._rate is not None:
            found = _RATE.match(_text(folder / "rate") or "")
            lacks = max(0.0, self._rate - float(found[1])) if found else None
            detail = f"{found[1]} of {self._rate:g} Gb/s" if found else "no rate in sysfs"
            yield Reading(measure=Measure.RATE_MISSING_GBPS, value=lacks, subject=subject, detail=detail)
        for file, measure in _COUNTERS.items():
            total = _text(folder / "counters" / file) or ""
            if total.isascii() and total.isdigit() and len(total) < 20:
                rate = self._rates.per_minute(subject, file, float(total))
                yield Reading(measure=measure, value=rate, subject=subject, detail=f"{total} in all")


def _text(path: Path) -> str | None:
    """A short file's text; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(200).decode("ascii", "replace").strip()
    except OSError:
        return None
