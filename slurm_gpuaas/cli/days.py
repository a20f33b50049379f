"""Days that a command is given: Korean ones."""

from __future__ import annotations

from datetime import date, datetime, time

from slurm_gpuaas.cli.output import SEOUL
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.policy import FIRST_DAY, LAST_DAY


def day(text: str | None) -> date | None:
    """
    Raises:
        InvalidInput: it is no day, or out of reach.
    """
    if not text:
        return None
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r:.40} is not a day.", way_out="Write e.g. 2027-01-31.") from None
    if not FIRST_DAY <= found <= LAST_DAY:
        raise InvalidInput(f"{found} is not between {FIRST_DAY} and {LAST_DAY}.", way_out="Write e.g. 2027-01-31.")
    return found


def midnight(of: date) -> datetime:
    """Begin of a Korean day."""
    return datetime.combine(of, time(), SEOUL)
