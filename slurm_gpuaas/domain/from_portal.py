"""Which documents of the portal's are in force on a site: those that do not contradict the site's own.

A site takes no order, it takes offers within terms of its own: only organisations, projects, members and grants, only
into shares that it names, never beyond a share's capacity, and nothing that touches what the site declares itself. What
does not fit is left out with its reason, and everything else is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Annotated, Final, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter

from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GrantName,
    OrganisationName,
    PoolName,
    ProjectName,
    ShareName,
    UserName,
)
from slurm_gpuaas.domain.policy import Grant, Member, Organisation, Policy, PolicyDocument, Project
from slurm_gpuaas.domain.slurm_accounts import ROOT, organisation_account, share_account
from slurm_gpuaas.domain.told import told

PortalDocument = Annotated[Organisation | Project | Member | Grant, Field(discriminator="kind")]
_Document = Organisation | Project | Member | Grant
PORTAL_DOCUMENT: Final[TypeAdapter[_Document]] = TypeAdapter(PortalDocument)
PORTAL_DOCUMENTS: Final[TypeAdapter[tuple[_Document, ...]]] = TypeAdapter(tuple[PortalDocument, ...])
MOST_DOCUMENTS: Final = 50_000
"""Of one site's set: ten times what 957 nodes in grants of one node with ten members each need."""
MOST_GRANTS_OF_A_PROJECT: Final = 100
"""They are compared pair by pair."""
NO_REFUSALS: Final[Mapping[ProjectName, str]] = {}

D = TypeVar("D", Organisation, Project, Member, Grant)
_Place = tuple[PoolName, ShareName]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a site takes from the portal.

    Attributes:
        shares: of its pools in `cluster`, into which grants may go.
        reserved: users that no document of the portal may name: the site's administrators and services.
    """

    cluster: ClusterName
    shares: frozenset[ShareName]
    reserved: frozenset[UserName] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A document of the portal's that is not in force here."""

    kind: str
    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalSet:
    """All that the portal says to one site, under a revision that only grows.

    Attributes:
        unreadable: what came with it and is nothing that this site could take.
        as_of: Korean day from which capacity is looked at: what is over takes no room.
    """

    revision: int
    documents: tuple[_Document, ...]
    people: tuple[Login, ...] = ()
    unreadable: tuple[LeftOut, ...] = ()
    received_at: datetime
    as_of: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """`policy` is in force: the site's `own` documents and those `taken` from the portal."""

    policy: Policy
    own: Policy
    taken: tuple[_Document, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def title(document: PolicyDocument) -> tuple[str, str]:
    """Kind and name of a document, as people are told them."""
    name = f"{document.user} in {document.project}" if isinstance(document, Member) else str(document.name)
    return document.kind, name


def merged(
    own: Policy,
    from_portal: Iterable[_Document],
    terms: Terms,
    as_of: date,
    *,
    refused: Mapping[ProjectName, str] = NO_REFUSALS,
) -> Merged:
    """The policy in force.

    Args:
        own: the site's documents. All of them are in force, whatever the portal says.
        from_portal: in any order; of two with one name the first in order of content stands.
        as_of: Korean day from which capacity is looked at.
        refused: the portal's projects that the site cannot hold, and why: Slurm has something else of that name.
    """
    taking = _Taking(own, terms, as_of, refused)
    # Sorted, so that the same documents give the same policy in whatever order they came; grants oldest first, so that
    # those that run already stay where not all fit.
    documents = sorted(from_portal, key=_order)
    taking.each(Organisation, documents, taking.organisation)
    taking.each(Project, documents, taking.project)
    taking.each(Member, documents, taking.member)
    taking.each(Grant, documents, taking.grant)
    policy = Policy.of((*own.documents, *taking.taken)) if taking.taken else own
    return Merged(policy=policy, own=own, taken=tuple(taking.taken), left_out=tuple(taking.left_out))


def _order(document: _Document) -> tuple[str, ...]:
    first = document.starts.isoformat() if isinstance(document, Grant) else ""
    return (first, *title(document), document.model_dump_json())


@dataclass(slots=True)
class _Taking:
    """Documents taken so far, and what the next one is compared with. Each rule answers why one is left out: None = it
    is taken, empty = the site says the same."""

    own: Policy
    terms: Terms
    today: date
    refused: Mapping[ProjectName, str]
    taken: list[_Document] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    own_organisations: Mapping[OrganisationName, Organisation] = field(init=False)
    organisations: set[OrganisationName] = field(init=False)
    projects: dict[ProjectName, Project] = field(default_factory=dict)
    grants: dict[ProjectName, list[Grant]] = field(default_factory=lambda: defaultdict(list))
    calendars: dict[_Place, _Calendar] = field(default_factory=dict)
    accounts: dict[AccountName, tuple[str, ...]] = field(init=False)
    own_users: frozenset[UserName] = field(init=False)
    own_grants: frozenset[GrantName] = field(init=False)

    def __post_init__(self) -> None:
        self.own_organisations = {one.name: one for one in self.own.organisations}
        self.organisations = set(self.own_organisations)
        self.own_users = frozenset(member.user for member in self.own.members)
        self.own_grants = frozenset(grant.name for grant in self.own.grants)
        # Names in Slurm's one space of accounts, and what each is needed for: two needs of one name stop everything.
        self.accounts = {ROOT: (ROOT,)}
        for project in self.own.projects:
            self.accounts[AccountName(project.name)] = (project.name,)
        for pool in self.own.pools:
            for share in pool.shares:
                self.accounts[share_account(pool.name, share.name)] = (pool.name, share.name)
        for grant in self.own.grants:
            organisation = self.own.project_by_name[grant.project].organisation
            name = organisation_account(grant.pool, grant.share, organisation)
            self.accounts[name] = (grant.pool, grant.share, organisation)

    def each(self, kind: type[D], documents: Iterable[_Document], refusal: Callable[[D], str | None]) -> None:
        for document in documents:
            if not isinstance(document, kind):
                continue
            key = title(document)
            if key in self.seen:
                why: str | None = told("The set has another {kind} {name}.", kind=key[0], name=key[1])
            else:
                why = refusal(document)
            self.seen.add(key)
            if why is None:
                self.taken.append(document)
            elif why:
                self.left_out.append(LeftOut(kind=key[0], name=key[1], why=why))

    def organisation(self, one: Organisation) -> str | None:
        self.organisations.add(one.name)
        if (declared := self.own_organisations.get(one.name)) is None:
            return None
        return (
            ""
            if declared == one
            else told("The site's own policy declares organisation {name} otherwise, and that stands.", name=one.name)
        )

    def project(self, one: Project) -> str | None:
        if one.name in self.own.project_by_name:
            return told("Project {name} is the site's own.", name=one.name)
        if one.name in self.refused:
            return self.refused[one.name]
        if one.organisation not in self.organisations:
            return told("It names organisation {name}, which the set does not declare.", name=one.organisation)
        account = AccountName(one.name)
        stems = (share_account(pool.name, share.name) for pool in self.own.pools for share in pool.shares)
        if account in self.accounts or any(account.startswith(f"{stem}-") for stem in stems):
            return told("The site's Slurm needs the account {name} for something else.", name=account)
        self.accounts[account] = (one.name,)
        self.projects[one.name] = one
        return None

    def member(self, one: Member) -> str | None:
        if one.project not in self.projects:
            return self._no_project(one.project)
        if one.user in self.terms.reserved:
            return told("User {user} is reserved by the site.", user=one.user)
        if one.user in self.own_users:
            return told("The site's own policy has a user {user}, who may be somebody else.", user=one.user)
        return None

    def grant(self, one: Grant) -> str | None:
        if one.project not in self.projects:
            return self._no_project(one.project)
        if one.name in self.own_grants:
            return told("Grant {name} is the site's own.", name=one.name)
        why = self._out_of_place(one) or self._clashing(one) or self._nameless(one) or self._full(one)
        if why is None:
            self.grants[one.project].append(one)
        return why

    def _no_project(self, name: ProjectName) -> str:
        if name in self.own.project_by_name:
            return told("Project {name} is the site's own.", name=name)
        return told("It names project {name}, which is not taken.", name=name)

    def _out_of_place(self, one: Grant) -> str | None:
        pool = self.own.pool_by_name.get(one.pool)
        if pool is None or pool.cluster != self.terms.cluster:
            return told("Cluster {cluster} has no pool {pool}.", cluster=self.terms.cluster, pool=one.pool)
        if one.share not in {share.name for share in pool.shares}:
            return told("Pool {pool} has no share {share}.", pool=one.pool, share=one.share)
        if one.share not in self.terms.shares:
            return told("The site takes no grant of the portal's in share {share}.", share=one.share)
        if one.budget_won is not None and self.own.rate_at(pool.model, one.starts_at) is None:
            return told("It has a budget in Won, but {model} has no rate on {day}.", model=pool.model, day=one.starts)
        return None

    def _clashing(self, one: Grant) -> str | None:
        others = self.grants[one.project]
        if len(others) >= MOST_GRANTS_OF_A_PROJECT:
            return told("Project {project} has {most} grants here already.", project=one.project, most=len(others))
        return next((fault for other in others for fault in self.own.clashes(other, one)), None)

    def _nameless(self, one: Grant) -> str | None:
        """Its organisation's account in the share may be named like another one."""
        organisation = self.projects[one.project].organisation
        need = (one.pool, one.share, organisation)
        name = organisation_account(*need)
        if self.accounts.setdefault(name, need) != need:
            return told("The site's Slurm needs the account {name} for something else.", name=name)
        return None

    def _full(self, one: Grant) -> str | None:
        place = (one.pool, one.share)
        if place not in self.calendars:
            self.calendars[place] = _Calendar.of(self.own, place, self.today)
        calendar = self.calendars[place]
        most = calendar.most(one)
        capacity = self.own.pool_by_name[one.pool].capacity(one.share)
        if one.gpus and most + one.gpus > capacity:
            return told(
                "Share {share} of pool {pool} has {capacity} GPUs; with it {promised} would be guaranteed.",
                share=one.share,
                pool=one.pool,
                capacity=capacity,
                promised=most + one.gpus,
            )
        calendar.add(one)
        return None


_HORIZON: Final = timedelta(days=36_525)
"""A century: days after it count as its last one."""


@dataclass(frozen=True, slots=True)
class _Calendar:
    """GPUs guaranteed in one share, day by day. `days`: int64, shape (days of the horizon,)."""

    today: date
    days: np.ndarray[tuple[int], np.dtype[np.int64]]

    @classmethod
    def of(cls, own: Policy, place: _Place, today: date) -> _Calendar:
        calendar = cls(today, np.zeros(_HORIZON.days, dtype=np.int64))
        for grant in own.grants:
            if (grant.pool, grant.share) == place:
                calendar.add(grant)
        return calendar

    def most(self, grant: Grant) -> int:
        """The most that is guaranteed on any day of the grant that is still to come."""
        return int(self.days[self._span(grant)].max(initial=0))

    def add(self, grant: Grant) -> None:
        self.days[self._span(grant)] += grant.gpus

    def _span(self, grant: Grant) -> slice:
        if grant.ends < self.today:
            return slice(0)
        last = _HORIZON.days - 1
        return slice(max(0, min((grant.starts - self.today).days, last)), min((grant.ends - self.today).days, last) + 1)
