"""Associations as `sacctmgr --json show associations` prints them. Pure: text of sacctmgr in, records out.

Asked without what they inherit (`wopinfo`), slurmdbd answers with one query. Otherwise it calls a stored procedure once
an account, and slurmrestd cannot ask so (its parser splits the option's name, `Exclude parent id/name`, at the slash):
1,210 associations in 0.2 s against 0.4 s (26.05.5). JSON, because Slurm takes any text for a name,
also one with a line break or a `|` in it.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field, ValidationError

from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.slurm.rest_wire import API, Answer, Text, TresList, Wire

SHOW: Final = (f"--json={API}", "show", "associations", "wopinfo", "withrawqoslevel")
"""Arguments of sacctmgr. QOS are as they were set: with `+` or `-` where they change what is inherited."""


class _Default(Wire):
    qos: Text = ""


class _GroupTres(Wire):
    minutes: TresList = ()


class _AssociationTres(Wire):
    total: TresList = ()
    group: _GroupTres = Field(default_factory=_GroupTres)


class _AssociationMax(Wire):
    tres: _AssociationTres = Field(default_factory=_AssociationTres)


class Association(Wire):
    """An account's (`user` is empty) or a user's, with limits of its own only."""

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
        """The account above an account; empty below root, and where Slurm does not know (it takes accounts without)."""
        above, _, _ = self.lineage.rpartition(f"/{self.account}/")
        return above.rpartition("/")[2]


class _Associations(Answer):
    associations: tuple[Association, ...] = ()


def parse(text: str) -> tuple[Association, ...]:
    """Of all clusters, in their order. Raises SlurmRefused for anything else than sacctmgr's JSON."""
    try:
        return _Associations.model_validate_json(text).associations
    except ValidationError as error:
        raise SlurmRefused(
            f"sacctmgr's associations are not understood: {error.error_count()} faults, first "
            f"{error.errors(include_url=False)[0]['msg']}.",
            way_out=f"Check that sacctmgr prints {API}: `sacctmgr --json=list`.",
        ) from None
