"""Whether the ledger holds what Slurm's accounting holds, to the GPU-second. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import Amounts, BookKey, Place, UseKey
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import AccountName, ClusterName
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.metering.ledger import use_of


class Cell(NamedTuple):
    """What is compared. Slurm's QOS decide the service class."""

    cluster: ClusterName
    month: Month
    account: AccountName
    service: ServiceClass

    @property
    def place(self) -> Place:
        """It is booked with."""
        return Place(self.cluster, self.account, self.month)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """GPU-seconds of one cell that are not the same everywhere.

    `slurm` and `reported` differ: the site has not reported all of it yet, or accounting lost something that it knew.
    `reported` and `booked` differ: a booking is due.
    """

    cell: Cell
    slurm: int
    reported: int
    booked: int

    def __str__(self) -> str:
        cluster, month, account, service = self.cell
        return (
            f"{cluster} {month} {account} {service}: Slurm {self.slurm:,} GPU-seconds, "
            f"reported {self.reported:,}, booked {self.booked:,}"
        )


def reconcile(
    cluster: ClusterName,
    runs: Iterable[UsageRecord],
    use: Mapping[UseKey, int],
    booked: Mapping[BookKey, Amounts],
    months: Collection[Month],
) -> list[Difference]:
    """Cells that differ, in order; empty when ledger, reports and accounting are equal.

    Args:
        runs: of Slurm's accounting, each once; those of other clusters are passed over.
        use, booked: of these months.
    """
    slurm: dict[Cell, int] = defaultdict(int)
    reported: dict[Cell, int] = defaultdict(int)
    entries: dict[Cell, int] = defaultdict(int)
    for record in runs:
        if record.cluster == cluster:
            for key, used in use_of(record).items():
                if key.month in months:
                    slurm[_cell(key)] += used
    for key, used in use.items():
        reported[_cell(key)] += used
    for of, amounts in booked.items():
        entries[_cell(of)] += amounts.gpu_seconds
    return [
        Difference(cell=cell, slurm=slurm[cell], reported=reported[cell], booked=entries[cell])
        for cell in sorted({*slurm, *reported, *entries})
        if not slurm[cell] == reported[cell] == entries[cell]
    ]


def _cell(key: UseKey | BookKey) -> Cell:
    return Cell(key.cluster, key.month, key.account, key.service)
