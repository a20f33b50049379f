"""What older releases of slurmrestd have no words for, said by scontrol: requeueing jobs, writing and deleting
reservations; and what none has: rebooting nodes.

Times go as `uts` and seconds since 1970, so that neither side's time zone matters. What to write, and whether, is the
caller's business.
"""

from __future__ import annotations

from slurm_gpuaas.slurm.programs import Program
from slurm_gpuaas.slurm.records import Reservation


class Scontrol:
    """Args:
    scontrol: runs scontrol with the given arguments.

    Raises (all methods): SlurmUnavailable where it cannot be run; SlurmRefused with its words when it says no.
    """

    def __init__(self, scontrol: Program) -> None:
        self._scontrol = scontrol

    def requeue(self, job: str) -> None:
        """`job` is an id, or `ARRAY_TASK`. One that is pending or has ended is left as it is, without a word."""
        self._scontrol(["requeue", "incomplete", job])

    def reboot(self, node: str, reason: str) -> None:
        """Without a next state Slurm would put the node back in service by itself."""
        self._scontrol(["reboot", "ASAP", "nextstate=DOWN", f"reason={reason}", node])

    def create_reservation(self, reservation: Reservation) -> None:
        self._scontrol(["create", *_words(reservation), _start(reservation)])

    def update_reservation(self, reservation: Reservation, *, moves: bool) -> None:
        """`moves`: whether its start changes, which Slurm refuses for one that has begun."""
        self._scontrol(["update", *_words(reservation), *([_start(reservation)] if moves else [])])

    def delete_reservation(self, name: str) -> None:
        self._scontrol(["delete", f"ReservationName={name}"])


def _start(reservation: Reservation) -> str:
    return f"StartTime=uts{int(reservation.start.timestamp())}"


def _words(reservation: Reservation) -> list[str]:
    end = int((reservation.start + reservation.duration).timestamp())
    optional = {
        "Users": ",".join(reservation.users),
        "QOS": ",".join(reservation.qos),
        "Nodes": reservation.nodes,
        "Licenses": reservation.licenses,
        "Flags": ",".join(sorted(reservation.flags)),
    }
    return [
        f"ReservationName={reservation.name}",
        f"EndTime=uts{end}",
        *(f"{key}={value}" for key, value in optional.items() if value),
    ]
