"""The policy documents and the people that each site must have. Pure.

They follow from grants and leases as they stand and from nothing else, so that a site that has them works without the
portal: a grant's first and last day are in its document. A grant that is ending keeps its project and its members until
its grace is over, without GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from slurm_gpuaas.domain.leases import Lease, LeaseState
from slurm_gpuaas.domain.names import ClusterName, GrantName, OrganisationName, PersonId, PoolShareName, UserName
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
    leases: Iterable[Lease] = (),
) -> SiteDocuments:
    """
    Args:
        identities: a member without one is not at the site yet.
        grants: of any cluster; those that have ended give nothing.
        leases: of any cluster; those that are not approved, or have ended, give nothing.
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
    leased = [
        one for one in leases if one.state is LeaseState.APPROVED and shares[one.share].cluster == cluster and one.hold
    ]
    lessees = [(one, identities[person]) for one in leased for person in one.members if person in identities]
    people = {identity.login: identity for _, identity, _ in members}
    people |= {identity.login: identity for _, identity in lessees}
    titles = {grant.organisation: organisations[grant.organisation].title for grant in here}
    titles |= {one.organisation: str(one.provider) for one in leased}
    return SiteDocuments(
        organisations=tuple(Organisation(name=name, title=title) for name, title in sorted(titles.items())),
        projects=tuple(
            sorted(
                (
                    *(Project(name=one.project, organisation=one.organisation, title=one.title) for one in here),
                    *(Project(name=one.project, organisation=one.organisation, title=one.reason) for one in leased),
                ),
                key=lambda project: project.name,
            )
        ),
        members=tuple(
            sorted(
                (
                    *(_member(grant, identity, role) for grant, identity, role in members),
                    *(Member(project=lease.project, user=identity.login) for lease, identity in lessees),
                ),
                key=lambda member: (member.project, member.user),
            )
        ),
        grants=(
            *(_grant(grant, shares[grant.share]) for grant in here),
            *(_leased(lease, shares[lease.share]) for lease in sorted(leased, key=lambda one: one.id)),
        ),
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


def _leased(lease: Lease, share: PoolShare) -> Grant:
    """A grant like others: Slurm gives its GPUs to the provider's project, and takes them back on the day. Nothing is
    borrowed on top, and nobody is charged for the provider's own hardware."""
    assert lease.hold is not None
    return Grant(
        name=GrantName(lease.hold),
        project=lease.project,
        pool=share.pool,
        share=share.share,
        gpus=lease.gpus,
        borrow_limit=0,
        starts=lease.starts,
        ends=lease.ends,
        price_percent=Decimal(0),
    )
