"""The policy documents and the people that each site must have. Pure.

They follow from the grants as they stand and from nothing else, so that a site that has them works without the portal:
a grant's first and last day are in its document. A grant that is ending keeps its project and its members until its
grace is over, without GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slurm_gpuaas.domain.names import ClusterName, OrganisationName, PersonId, PoolShareName, UserName
from slurm_gpuaas.domain.policy import Grant, Member, Organisation, Project, Role
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState
from slurm_gpuaas.domain.programmes import Membership, PoolOrganisation, PoolShare, UnixIdentity
from slurm_gpuaas.domain.ssh_keys import SshKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePerson:
    """Somebody who signs in at a site."""

    login: UserName
    uid: int
    ssh_keys: tuple[SshKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDocuments:
    """The whole set of one site, sorted: equal sets compare equal."""

    organisations: tuple[Organisation, ...]
    projects: tuple[Project, ...]
    members: tuple[Member, ...]
    grants: tuple[Grant, ...]
    people: tuple[SitePerson, ...]


def site_documents(
    cluster: ClusterName,
    *,
    shares: Mapping[PoolShareName, PoolShare],
    organisations: Mapping[OrganisationName, PoolOrganisation],
    memberships: Iterable[Membership],
    identities: Mapping[PersonId, UnixIdentity],
    grants: Iterable[PoolGrant],
) -> SiteDocuments:
    """
    Args:
        identities: a member without one is not at the site yet.
        grants: of any cluster; those that have ended give nothing.
    """
    here = sorted(
        (
            grant
            for grant in grants
            if grant.state is not PoolGrantState.ENDED and shares[grant.share].cluster == cluster
        ),
        key=lambda grant: grant.id,
    )
    roles = {(one.person, one.organisation): one.role for one in memberships}
    members = [
        (grant, identities[person], roles[person, grant.organisation])
        for grant in here
        for person in grant.members
        # Who has left the organisation has left its grants.
        if person in identities and (person, grant.organisation) in roles
    ]
    people = {identity.login: identity for _, identity, _ in members}
    return SiteDocuments(
        organisations=tuple(
            Organisation(name=name, title=organisations[name].title)
            for name in sorted({grant.organisation for grant in here})
        ),
        projects=tuple(
            sorted(
                (Project(name=one.project, organisation=one.organisation, title=one.title) for one in here),
                key=lambda project: project.name,
            )
        ),
        members=tuple(
            sorted(
                (_member(grant, identity, role) for grant, identity, role in members),
                key=lambda member: (member.project, member.user),
            )
        ),
        grants=tuple(_grant(grant, shares[grant.share]) for grant in here),
        people=tuple(
            SitePerson(login=login, uid=one.uid, ssh_keys=one.ssh_keys) for login, one in sorted(people.items())
        ),
    )


def _member(grant: PoolGrant, identity: UnixIdentity, role: Role) -> Member:
    return Member(project=grant.project, user=identity.login, role=role)


def _grant(grant: PoolGrant, share: PoolShare) -> Grant:
    gone = grant.grace_until if grant.state is PoolGrantState.ENDING else None
    return Grant(
        name=grant.id,
        project=grant.project,
        pool=share.pool,
        share=share.share,
        gpus=0 if gone else grant.gpus,
        borrow_limit=0 if gone else None,
        starts=min(grant.starts, gone) if gone else grant.starts,
        ends=gone or grant.ends,
        budget_won=grant.budget_won,
        price_percent=grant.price_percent,
    )
