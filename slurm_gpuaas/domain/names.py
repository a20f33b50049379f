"""Names as types: what a name may look like is decided here, once, so that no string reaches Slurm unchecked.

Each type is a `str` (it prints, hashes and serialises as one) whose construction validates. pydantic models
validate fields of these types by themselves.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from slurm_gpuaas.domain.errors import InvalidInput


class Name(str):
    """A validated name. Subclasses say what it names and which shape it has.

    Raises:
        InvalidInput: the text does not have the shape; the message says which shape it needs.
    """

    __slots__ = ()

    what: ClassVar[str] = "name"
    shape: ClassVar[str] = "lower-case letters, digits and '-', starting with a letter, at most 30 characters"
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[a-z](?:[a-z0-9-]{0,28}[a-z0-9])?")

    def __new__(cls, value: str) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or not cls.pattern.fullmatch(value):
            raise InvalidInput(f"{value!r:.80} is not a valid {cls.what}.", way_out=f"Use {cls.shape}.")
        return super().__new__(cls, value)

    @classmethod
    def as_slurm_says(cls, value: str) -> Self:
        """A name that Slurm itself reported, unchecked: a site has names that we would never give (`GPU`, `a,b` for a
        job that waits in two partitions)."""
        return str.__new__(cls, value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )


class OrganisationName(Name):
    what = "organisation name"


class ProjectName(Name):
    """Also the name of the project's Slurm account."""

    what = "project name"


class GrantName(Name):
    what = "grant name"
    shape = "lower-case letters, digits, '-' and '.', starting with a letter, at most 60 characters"
    pattern = re.compile(r"[a-z](?:[a-z0-9.-]{0,58}[a-z0-9])?")


class RateName(Name):
    what = "rate name"
    shape = GrantName.shape
    pattern = GrantName.pattern


class ClusterName(Name):
    """Slurm's ClusterName."""

    what = "cluster name"


class PoolName(Name):
    what = "pool name"


class ShareName(Name):
    """A pool share (government, own, ...); also the stem of its partition's name."""

    what = "share name"


class GpuModel(Name):
    """Slurm's GRES type of a GPU model, e.g. `b200`."""

    what = "GPU model"


class UserName(Name):
    """A UNIX login name."""

    what = "user name"
    shape = (
        "a UNIX login: lower-case letters, digits, '_', '-', '.', starting with a letter or '_', at most 32 characters"
    )
    pattern = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")


class NodeName(Name):
    """Slurm's NodeName."""

    what = "node name"
    shape = "letters, digits, '-', '_' and '.', at most 64 characters"
    pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class HostName(Name):
    """A DNS name, without a port."""

    what = "host name"
    shape = "a DNS name, as in login.naver.example.org"
    pattern = re.compile(
        r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
    )


class AccountName(Name):
    """A Slurm account. Longer than a project's name: it also names shares and organisations in the tree."""

    what = "Slurm account name"
    shape = "lower-case letters, digits, '-', '_' and '.', at most 95 characters"
    pattern = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,94}")


class QosName(Name):
    what = "Slurm QOS name"
    shape = AccountName.shape
    pattern = AccountName.pattern


class PartitionName(Name):
    what = "Slurm partition name"
    shape = AccountName.shape
    pattern = AccountName.pattern


class ProviderName(Name):
    """Who runs a cluster of the pool: naver, kakao, nhn."""

    what = "provider name"


class SiteName(Name):
    """A cluster of the pool with its gpuaasd, as the portal knows it: naver-h200."""

    what = "site name"


class ProgrammeName(Name):
    what = "programme name"


class ApplicationId(Name):
    """Unique in the pool, in the order of submission: `a2026-00017`."""

    what = "application number"
    shape = "a, the year, '-' and five digits, as in a2026-00017"
    pattern = re.compile(r"a[0-9]{4}-[0-9]{5}")


class PersonId(Name):
    """A person of the portal, whatever they are called."""

    what = "person number"
    shape = "p- and 6 to 20 lower-case letters and digits"
    pattern = re.compile(r"p-[a-z0-9]{6,20}")


class PoolShareName(Name):
    """One share of one site's pool, as the whole pool calls it: `nhn.b200.government` is cluster, pool and share."""

    what = "name of a pool share"
    shape = "cluster, pool and share with '.' between them, as in nhn.b200.government"
    pattern = re.compile(r"[a-z][a-z0-9-]{0,29}\.[a-z][a-z0-9-]{0,29}\.[a-z][a-z0-9-]{0,29}")


class AwardId(Name):
    """One round of awards, from its draft on."""

    what = "award number"
    shape = "w, the year, '-' and five digits, as in w2026-00003"
    pattern = re.compile(r"w[0-9]{4}-[0-9]{5}")


class OfferId(Name):
    what = "offer number"
    shape = "o, the year, '-' and five digits, as in o2026-00017"
    pattern = re.compile(r"o[0-9]{4}-[0-9]{5}")


class PoolGrantId(Name):
    """Also the name of the grant's policy document at its site."""

    what = "grant number"
    shape = "g, the year, '-' and five digits, as in g2026-00017"
    pattern = re.compile(r"g[0-9]{4}-[0-9]{5}")


class ChangeId(Name):
    what = "number of a change"
    shape = "c, the year, '-' and five digits, as in c2026-00017"
    pattern = re.compile(r"c[0-9]{4}-[0-9]{5}")


class HoldId(Name):
    what = "number of a hold"
    shape = "h, the year, '-' and five digits, as in h2026-00017"
    pattern = re.compile(r"h[0-9]{4}-[0-9]{5}")


class AppealId(Name):
    """Of an appeal against what the rules for idle grants announced."""

    what = "number of an appeal"
    shape = "e, the year, '-' and five digits, as in e2026-00017"
    pattern = re.compile(r"e[0-9]{4}-[0-9]{5}")


class LeaseId(Name):
    """Of a provider's use of GPUs that nobody was awarded."""

    what = "number of a lease"
    shape = "l, the year, '-' and five digits, as in l2026-00017"
    pattern = re.compile(r"l[0-9]{4}-[0-9]{5}")


class CommandId(Name):
    """What a caller calls a command of its own, so that one sent twice is done once."""

    what = "command id"
    shape = "8 to 64 letters, digits and '-'"
    pattern = re.compile(r"[A-Za-z0-9-]{8,64}")
