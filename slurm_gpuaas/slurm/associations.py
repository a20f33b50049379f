"""Associations as `sacctmgr show associations` prints them. Pure: text of sacctmgr in, records out.

Asked without what they inherit (`wopinfo`), slurmdbd answers with one query. Otherwise it calls a stored procedure once
an account, and slurmrestd cannot ask so (its parser splits the option's name, `Exclude parent id/name`, at the slash):
1,210 associations take it 0.4 s, sacctmgr's rows 0.04 s, sacctmgr's JSON 0.2 s (26.05.5).

Rows are plain text, and Slurm takes any text for a name, also one with a line break or a `|` in it, from everybody who
may add accounts. So rows are believed only where each is what a row can be and none stands twice, which a name that
pretends to be one cannot avoid where it matters; JSON, where names are quoted, says the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydantic import Field, ValidationError

from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.slurm.records import Tres
from slurm_gpuaas.slurm.rest_wire import API, Answer, Text, TresList, Wire, tres_of

_SHOW: Final = ("show", "associations", "wopinfo", "withrawqoslevel")
_COLUMNS: Final = "cluster,id,parentid,account,user,partition,fairshare,grptres,grptresmins,qos,defaultqos"
ROWS: Final = ("--noheader", "--parsable2", *_SHOW, f"format={_COLUMNS}")
"""Arguments of sacctmgr: all associations. QOS are as they were set: `+` or `-` changes what is inherited."""
DEFAULT_ROWS: Final = ("--noheader", "--parsable2", *_SHOW, "onlydefaults", "format=cluster,id")
"""Arguments of sacctmgr: which of them are their users' default ones."""
JSON: Final = (f"--json={API}", *_SHOW)
"""Arguments of sacctmgr: all associations, whatever their names are."""

_USE_PARENT: Final = 0x7FFFFFFF
"""SLURMDB_FS_USE_PARENT (slurmdb.h), printed as `parent`."""
_NUMBERS: Final = re.compile(r"[0-9]+\|[0-9]+\|(?:[0-9]+|parent)")
_LIMITS: Final = re.compile(r"(?:[^=,]+=[0-9]+(?:,|$))*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """An account's (`user` is empty) or a user's, with limits of its own only.

    Args:
        parent: the account above an account; empty at the top, and where Slurm does not know it.
        default_qos: empty where none is set.
    """

    cluster: str
    account: str
    user: str
    partition: str
    parent: str
    is_default: bool
    fairshare: int
    grp_tres: Tres
    grp_tres_mins: Tres
    qos: frozenset[str]
    default_qos: str


# -- Rows --------------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """The columns of `ROWS`."""

    cluster: str
    number: str
    parent: str
    account: str
    user: str
    partition: str
    fairshare: str
    grp_tres: str
    grp_tres_mins: str
    qos: str
    default_qos: str

    @property
    def is_plain(self) -> bool:
        """Numbers are numbers, and limits too: sacctmgr rounds memory to the unit that it prints."""
        return bool(
            _NUMBERS.fullmatch(f"{self.number}|{self.parent}|{self.fairshare}")
            and _LIMITS.fullmatch(self.grp_tres)
            and _LIMITS.fullmatch(self.grp_tres_mins)
        )


def from_rows(text: str, defaults: str) -> list[Association] | None:
    """From what is printed for `ROWS` and `DEFAULT_ROWS`, of all clusters; None where it is not plain enough to be
    believed, and what is printed for `JSON` must be read."""
    split = _split(text)
    if any(len(fields) != len(_Row._fields) for fields in split):
        return None
    rows = [_Row(*fields) for fields in split]
    are_default = {(fields[0], fields[-1]) for fields in _split(defaults)}
    account_of = {(row.cluster, row.number): row.account for row in rows}
    names = {(row.cluster, row.account, row.user, row.partition) for row in rows}
    if (
        not all(row.is_plain for row in rows)
        or len(account_of) < len(rows)
        or len(names) < len(rows)
        or not are_default <= account_of.keys()
        or any(row.parent != "0" and (row.cluster, row.parent) not in account_of for row in rows)
    ):
        return None
    return [
        Association(
            cluster=row.cluster,
            account=row.account,
            user=row.user,
            partition=row.partition,
            parent=account_of.get((row.cluster, row.parent), ""),
            is_default=(row.cluster, row.number) in are_default,
            fairshare=_USE_PARENT if row.fairshare == "parent" else int(row.fairshare),
            grp_tres=_limits(row.grp_tres),
            grp_tres_mins=_limits(row.grp_tres_mins),
            qos=frozenset(row.qos.split(",")) - {""},
            default_qos=row.default_qos,
        )
        for row in rows
    ]


def _split(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.removesuffix("\n").split("\n")] if text else []


def _limits(text: str) -> dict[str, int]:
    return {name: int(count) for name, _, count in (part.partition("=") for part in text.split(",") if part)}


# -- JSON --------------------------------------------------------------------------------------------------------------


class _Default(Wire):
    qos: Text = ""


class _GroupTres(Wire):
    minutes: TresList = ()


class _AssociationTres(Wire):
    total: TresList = ()
    group: _GroupTres = Field(default_factory=_GroupTres)


class _AssociationMax(Wire):
    tres: _AssociationTres = Field(default_factory=_AssociationTres)


class AssociationWire(Wire):
    """One of slurmrestd's and of sacctmgr's JSON."""

    cluster: str
    account: str
    user: Text = ""
    partition: Text = ""
    lineage: Text = ""
    shares_raw: int = 1
    is_default: bool = False
    default: _Default = Field(default_factory=_Default)
    qos: tuple[str, ...] = ()
    max: _AssociationMax = Field(default_factory=_AssociationMax)

    @property
    def parent(self) -> str:
        """Of an account `a` with the lineage `/p/q/a/`: `q`; root's children have no other."""
        if self.user or self.account == "root":
            return self.account if self.user else ""
        above, _, _ = self.lineage.rpartition(f"/{self.account}/")
        return above.rpartition("/")[2] or ("root" if self.lineage else "")


class AssociationsAnswer(Answer):
    associations: tuple[AssociationWire, ...] = ()


def from_json(text: str) -> list[Association]:
    """From what is printed for `JSON`. Raises SlurmRefused for anything else."""
    try:
        rows = AssociationsAnswer.model_validate_json(text).associations
    except ValidationError as error:
        raise SlurmRefused(
            f"sacctmgr's associations are not understood: {error.error_count()} faults, first "
            f"{error.errors(include_url=False)[0]['msg']}.",
            way_out=f"Check that sacctmgr prints {API}: `sacctmgr --json=list`.",
        ) from None
    return list(_converted(rows))


def _converted(rows: Sequence[AssociationWire]) -> Iterator[Association]:
    for row in rows:
        yield Association(
            cluster=row.cluster,
            account=row.account,
            user=row.user,
            partition=row.partition,
            parent=row.parent,
            is_default=row.is_default,
            fairshare=row.shares_raw,
            grp_tres=tres_of(row.max.tres.total),
            grp_tres_mins=tres_of(row.max.tres.group.minutes),
            qos=frozenset(row.qos),
            default_qos=row.default.qos,
        )
