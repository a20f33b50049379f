"""Korean public holidays: days on which nobody is expected to work. Data.

Public holidays, substitutes and days of elections as the package `holidays` (0.109, read 2026-11-28) has them for South
Korea; no dependency on it, since a day that the government adds at short notice comes through the rules anyway.
"""

from __future__ import annotations

from datetime import date
from typing import Final

_DAYS: Final = {
    2025: "01-01 01-27 01-28 01-29 01-30 03-01 03-03 05-05 05-06 06-03 06-06 08-15 10-03 10-05 10-06 10-07 10-08 10-09 "
    "12-25",
    2026: "01-01 02-16 02-17 02-18 03-01 03-02 05-01 05-05 05-24 05-25 06-03 06-06 07-17 08-15 08-17 09-24 09-25 09-26 "
    "10-03 10-05 10-09 12-25",
    2027: "01-01 02-06 02-07 02-08 02-09 03-01 05-01 05-03 05-05 05-13 06-06 07-17 07-19 08-15 08-16 09-14 09-15 09-16 "
    "10-03 10-04 10-09 10-11 12-25 12-27",
    2028: "01-01 01-26 01-27 01-28 03-01 04-12 05-01 05-02 05-05 06-06 07-17 08-15 10-02 10-03 10-04 10-05 10-09 12-25",
    2029: "01-01 02-12 02-13 02-14 03-01 05-01 05-05 05-07 05-20 05-21 06-06 07-17 08-15 09-21 09-22 09-23 09-24 10-03 "
    "10-09 12-25",
    2030: "01-01 02-02 02-03 02-04 02-05 03-01 03-27 05-01 05-05 05-06 05-09 06-06 06-12 07-17 08-15 09-11 09-12 09-13 "
    "10-03 10-09 12-25",
}
HOLIDAYS: Final = frozenset(date.fromisoformat(f"{year}-{day}") for year, days in _DAYS.items() for day in days.split())
FIRST_KNOWN: Final = date(min(_DAYS), 1, 1)
LAST_KNOWN: Final = date(max(_DAYS), 12, 31)
"""Days outside are not known: nothing may be concluded from idleness there."""
