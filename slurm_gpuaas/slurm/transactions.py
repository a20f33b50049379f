"""Slurm's transaction log: who changed accounting objects, and when. Pure: text of sacctmgr in, records out.

slurmdbd notes every change with its actor; the REST API (to v0.0.45) has no endpoint for it. The column `Info`, which
holds descriptions as people typed them, is never asked for. What is left holds names only; a name with a line break in
it could still pretend to be a row, so a number that comes twice tells nothing and both rows are dropped. Slurm writes
an apostrophe in a value as a backtick, so nobody can type the quotes that names stand in.

Seen on 26.05.5: deleting QOS and associations notes only their numbers, and moving an account below another parent
notes nothing at all.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from typing import Final

from slurm_gpuaas.slurm.records import Transaction

_ROW: Final = re.compile(
    r"(?P<number>\d+)\|(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\|(?P<actor>[^|\x00-\x1f\x7f]{0,100})"
    r"\|(?P<action>[A-Za-z ]{1,60})\|(?P<accounts>[^|]*)\|(?P<users>[^|]*)\|(?P<where>.*)"
)
_BY_NAME: Final = re.compile(r"\(?name\s*(?:=|in\b)")
_QUOTED: Final = re.compile(r"'([^']*)'")


def numbers_since(since: datetime) -> list[str]:
    """Arguments of sacctmgr: the numbers of all transactions since then."""
    return ["--noheader", "--parsable2", "list", "transactions", _start(since), "format=id"]


def rows_since(since: datetime) -> list[str]:
    """Arguments of sacctmgr: what `transactions` reads."""
    columns = "format=id,time,actor,action,account,user,where"
    return ["--noheader", "--parsable2", "list", "transactions", _start(since), "withassocinfo", columns]


def numbers(text: str) -> frozenset[int]:
    return frozenset(int(line) for line in text.split() if line.isdecimal())


def transactions(text: str) -> tuple[Transaction, ...]:
    """In their order; lines that are no rows are left out."""
    rows = [row for row in map(_ROW.fullmatch, text.split("\n")) if row]
    times = Counter(row["number"] for row in rows)
    return tuple(_transaction(row) for row in sorted(rows, key=_number) if times[row["number"]] == 1)


def _start(since: datetime) -> str:
    return f"start=uts{int(since.timestamp())}"


def _number(row: re.Match[str]) -> int:
    return int(row["number"])


def _transaction(row: re.Match[str]) -> Transaction:
    return Transaction(
        number=_number(row),
        # sacctmgr prints the time of the zone that it and we run in.
        at=datetime.fromisoformat(row["at"]).astimezone(UTC),
        actor=row["actor"],
        action=row["action"],
        accounts=frozenset(row["accounts"].split(",")) - {""},
        users=frozenset(row["users"].split(",")) - {""},
        names=_names(row["where"]),
    )


def _names(where: str) -> frozenset[str]:
    if _BY_NAME.match(where):
        return frozenset(_QUOTED.findall(where))
    return frozenset() if "=" in where else frozenset({where})
