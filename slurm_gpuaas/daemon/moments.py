"""Moments that a request names."""

from __future__ import annotations

from datetime import datetime

from slurm_gpuaas.domain.errors import InvalidInput


def aware(moment: datetime | None) -> datetime | None:
    """
    Raises:
        InvalidInput: it has no time zone, or lies where no time zone can say it.
    """
    if moment is not None and moment.tzinfo is None:
        raise InvalidInput(f"{moment} has no time zone.", way_out="Write e.g. 2027-01-31T00:00:00+09:00.")
    # Near the ends of what a datetime holds no other time zone can say it.
    if moment is not None and not 1970 < moment.year < 9999:
        raise InvalidInput(f"The year {moment.year} is out of reach.", way_out="Ask for a year from 1971 to 9998.")
    return moment
