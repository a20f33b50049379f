"""Programmes that award GPUs, the shares they award from, and the organisations that may apply. Pure.

A programme's rules are data: who may apply, at which part of the price, in which sizes, for how long, judged by what.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.names import (
    ClusterName,
    GpuModel,
    OrganisationName,
    PersonId,
    PoolName,
    PoolShareName,
    ProgrammeName,
    ProviderName,
    ShareName,
    UserName,
)
from slurm_gpuaas.domain.policy import MOST_GPUS, MOST_WON, Percent, Role
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.domain.stages import Line, Noun, Text
from slurm_gpuaas.domain.told import told

GPUS_OF_A_SERVER: Final = 8
"""Partial awards come in whole servers of so many."""
MOST_POINTS: Final = 100
"""A reviewer gives each criterion 0 to so many points."""

FIRST_UID: Final = 200_000
LAST_UID: Final = 499_999
"""Numbers of people on all sites: above those of local users (60,000 in login.defs) and below systemd's container users
(524,288, systemd's UIDS-GIDS.md)."""
SHORTEST_LOGIN: Final = 3
# fmt: off
LOGINS_OF_SYSTEMS: Final = frozenset({
    "_apt", "adm", "admin", "administrator", "apache", "backup", "bin", "centos", "chrony", "cloud-user", "daemon",
    "dbus", "debian", "docker", "ec2-user", "ftp", "games", "gnats", "gpuaas", "gpuaas-agent", "gpuaas-portal",
    "gpuaasd", "grafana", "halt", "irc", "ldap", "list", "lp", "mail", "man", "messagebus", "munge", "mysql", "news",
    "nginx", "nobody", "nogroup", "nslcd", "ntp", "operator", "polkitd", "postfix", "postgres", "prometheus", "proxy",
    "redis", "rocky", "root", "rpc", "rpcuser", "shutdown", "slurm", "slurmd", "slurmrestd", "sshd", "sssd", "sudo",
    "sync", "sys", "tftp", "tss", "ubuntu", "uucp", "vagrant", "wheel", "www-data",
})
# fmt: on
"""Accounts of Debian's base-passwd, Red Hat's setup, cloud images, and of what runs beside Slurm. A site still refuses
a login that it has for somebody else."""

GpuCount = Annotated[int, Field(ge=1, le=MOST_GPUS)]


class OrganisationKind(StrEnum):
    UNIVERSITY = "university"
    RESEARCH_INSTITUTE = "research-institute"
    YOUNG_FIRM = "young-firm"
    FIRM = "firm"


class Region(StrEnum):
    """The provinces of Korea, as ISO 3166-2:KR divides it."""

    SEOUL = "seoul"
    BUSAN = "busan"
    DAEGU = "daegu"
    INCHEON = "incheon"
    GWANGJU = "gwangju"
    DAEJEON = "daejeon"
    ULSAN = "ulsan"
    SEJONG = "sejong"
    GYEONGGI = "gyeonggi"
    GANGWON = "gangwon"
    CHUNGBUK = "chungbuk"
    CHUNGNAM = "chungnam"
    JEONBUK = "jeonbuk"
    JEONNAM = "jeonnam"
    GYEONGBUK = "gyeongbuk"
    GYEONGNAM = "gyeongnam"
    JEJU = "jeju"


class Title(Noun):
    """One name in both languages of the portal."""

    ko: Line
    en: Line


class PoolOrganisation(Noun):
    """A university, institute or firm that applies."""

    name: OrganisationName
    kind: OrganisationKind
    region: Region
    title: Line


class Membership(Noun):
    """A person belongs to an organisation."""

    person: PersonId
    organisation: OrganisationName
    role: Role = Role.RESEARCHER


class UnixIdentity(Noun):
    """A person on all sites: one login and one number, the same everywhere, so that files keep their owner."""

    person: PersonId
    login: UserName
    uid: int = Field(ge=FIRST_UID, le=LAST_UID)
    ssh_keys: tuple[SshKey, ...] = Field(default=(), max_length=20)

    @model_validator(mode="after")
    def _login_is_a_persons(self) -> Self:
        check_login(self.login)
        return self


def check_login(login: UserName) -> None:
    """
    Raises:
        InvalidInput: the login may be one of a system.
    """
    if len(login) < SHORTEST_LOGIN or login in LOGINS_OF_SYSTEMS or not login[0].isalpha():
        raise InvalidInput(
            told("{login} may be a login of the system.", login=login),
            way_out=told("Choose another one of at least {least} letters and digits.", least=SHORTEST_LOGIN),
        )


class PoolShare(Noun):
    """GPUs of one model in one share of one site's pool. `capacity`: those that can be promised, spares left out."""

    provider: ProviderName
    cluster: ClusterName
    pool: PoolName
    share: ShareName
    model: GpuModel
    capacity: int = Field(ge=0, le=MOST_GPUS)

    @property
    def name(self) -> PoolShareName:
        return PoolShareName(f"{self.cluster}.{self.pool}.{self.share}")


class Criterion(Noun):
    """`weight` is relative to the other criteria's."""

    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,29}$")]
    title: Title
    weight: int = Field(ge=1, le=1_000)


class Call(Noun):
    """Applications are taken from `opens` until before `closes`."""

    number: int = Field(ge=1, le=10_000)
    opens: AwareDatetime
    closes: AwareDatetime

    @model_validator(mode="after")
    def _closes_after_it_opens(self) -> Self:
        if self.closes <= self.opens:
            raise InvalidInput(
                told("Call {number} closes {closes}, not after it opens.", number=self.number, closes=self.closes),
                way_out=told("Give it a later closing date."),
            )
        return self

    def open_at(self, moment: datetime) -> bool:
        return self.opens <= moment < self.closes


class Caps(Noun):
    """The most GPUs of the programme that one organisation or region may have at one time, offers and grants of all
    calls together, and that one award may have; absent: no bound."""

    organisation: GpuCount | None = None
    region: GpuCount | None = None
    per_project: GpuCount | None = None


class Programme(Noun):
    """
    Args:
        prices: percent of the market price that each eligible kind of organisation pays: 0 is free, what is less than
            100 is support. A kind that is not named cannot apply.
        shares: what is awarded from; only GPUs of `models`.
        sizes: GPU counts that can be applied for.
        beyond: above the largest size also multiples of this (beyond 64 in eights); absent: no more than the largest.
        cap_won: the most Won that the grants of one organisation may cost together in the programme; applications then
            say how much of it they ask for. Absent: no budget in Won.
        longest_days: of a grant, and of what one change may add to it.
        reviews_needed: so many reviews without conflict of interest come before an award.
        least_score: an application below it is not awarded.
        answer_days: an offer lapses when it is not answered by the end of so many Korean days after it is made.
        warn_days: so many days before a grant's last day its people are written to.
        grace_days: so long after a grant's end its members may still sign in and fetch their data, without GPUs.
    """

    name: ProgrammeName
    title: Title
    about: Text = ""
    calls: tuple[Call, ...] = Field(max_length=200)
    prices: Mapping[OrganisationKind, Percent] = Field(min_length=1)
    models: tuple[GpuModel, ...] = Field(min_length=1, max_length=20)
    shares: tuple[PoolShareName, ...] = Field(min_length=1, max_length=100)
    sizes: tuple[GpuCount, ...] = Field(min_length=1, max_length=50)
    beyond: GpuCount | None = None
    cap_won: int | None = Field(default=None, ge=1, le=MOST_WON)
    caps: Caps = Caps()
    longest_days: int = Field(ge=1, le=3_660)
    criteria: tuple[Criterion, ...] = Field(min_length=1, max_length=20)
    reviews_needed: int = Field(ge=1, le=20)
    least_score: int = Field(default=0, ge=0, le=MOST_POINTS)
    answer_days: int = Field(default=7, ge=1, le=90)
    warn_days: tuple[Annotated[int, Field(ge=1, le=365)], ...] = Field(default=(30, 14, 3), max_length=10)
    grace_days: int = Field(default=14, ge=0, le=365)

    @model_validator(mode="after")
    def _has_each_once(self) -> Self:
        numbers = [call.number for call in self.calls]
        keys = [criterion.key for criterion in self.criteria]
        for values in (numbers, keys, self.models, self.shares, self.sizes, self.warn_days):
            if len(set(values)) < len(values):
                raise InvalidInput(
                    told("Programme {name} names one of its calls, criteria or values twice.", name=self.name),
                    way_out=told("Take one of them out."),
                )
        return self

    def call(self, number: int) -> Call:
        """
        Raises:
            NotFound: the programme has no such call.
        """
        for call in self.calls:
            if call.number == number:
                return call
        raise NotFound(told("Programme {name} has no call {number}.", name=self.name, number=number))

    def offers_size(self, gpus: int) -> bool:
        largest = max(self.sizes)
        return gpus in self.sizes or (self.beyond is not None and gpus > largest and gpus % self.beyond == 0)

    @cached_property
    def weight(self) -> int:
        return sum(criterion.weight for criterion in self.criteria)
