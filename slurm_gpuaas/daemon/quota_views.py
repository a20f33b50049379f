"""What the API says of quotas: the quota core's values for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from slurm_gpuaas.api.models import LimitBite, LimitHidden, QuotaExplanation, QuotaShare, QuotaSide, TenantShare
from slurm_gpuaas.daemon.identity import Identity
from slurm_gpuaas.domain.names import OrganisationName, ProjectName
from slurm_gpuaas.quota.capacity import organisation_tenant
from slurm_gpuaas.quota.decide import Ruling
from slurm_gpuaas.quota.explain import Explanation, Side
from slurm_gpuaas.quota.live import LiveShare
from slurm_gpuaas.quota.tree import TenantName


def quota_share(share: LiveShare, ruling: Ruling, visible: set[ProjectName], who: Identity) -> QuotaShare:
    one = next(iter(share.entitled.values()))
    return QuotaShare(
        pool=one.pool.name,
        share=one.share.name,
        partition=share.partition,
        model=one.pool.model,
        capacity=share.capacity,
        tenants=tuple(_tenant_shares(share, ruling, visible, who)),
    )


def _tenant_shares(share: LiveShare, ruling: Ruling, visible: set[ProjectName], who: Identity) -> Iterator[TenantShare]:
    """Each organisation, and below it its projects; an organisation's sum is for administrators."""
    by_organisation: dict[OrganisationName, list[ProjectName]] = defaultdict(list)
    for name, one in share.entitled.items():
        by_organisation[one.project.organisation].append(name)
    for organisation, projects in sorted(by_organisation.items()):
        if who.administrator:
            yield _tenant_share(share, ruling, organisation_tenant(organisation), organisation, None)
        for project in sorted(set(projects) & visible):
            yield _tenant_share(share, ruling, TenantName(project), organisation, project)


def _tenant_share(
    share: LiveShare, ruling: Ruling, tenant: TenantName, organisation: OrganisationName, project: ProjectName | None
) -> TenantShare:
    standing = ruling.standings[tenant]
    return TenantShare(
        name=project or organisation,
        organisation=organisation,
        project=project,
        guaranteed=sum(
            one.gpus
            for one in share.entitled.values()
            if one.name == project or (project is None and one.project.organisation == organisation)
        ),
        honoured=share.tree.subtree[tenant],
        fair_share=standing.fair_share,
        in_use=standing.in_use,
        borrowed=standing.borrowed,
        lent=standing.lent,
        may_borrow=standing.may_borrow,
    )


def explanation_view(found: Explanation) -> QuotaExplanation:
    question = found.question
    return QuotaExplanation(
        user=question.user,
        project=ProjectName(question.account),
        partition=question.partition,
        gpus=question.gpus,
        model=question.model,
        nodes=found.nodes,
        minutes=question.minutes,
        sides=tuple(map(_side, found.sides)),
    )


def _side(side: Side) -> QuotaSide:
    said = side.prediction
    return QuotaSide(
        qos=side.qos,
        outcome=said.outcome,
        reason=said.reason,
        bites=tuple(
            LimitBite(
                level=bite.level,
                holder=bite.holder,
                kind=bite.kind or "",
                tres=bite.tres,
                limit=bite.limit,
                in_use=bite.in_use,
                asked=bite.asked,
                reason=bite.reason,
            )
            for bite in said.bites
        ),
        hidden=tuple(
            LimitHidden(level=one.level, holder=one.holder, kind=one.kind, tres=one.tres, limit=one.limit, why=one.why)
            for one in said.hidden
        ),
        unjudged=said.unjudged,
        largest=side.largest,
        preempts=side.preempts,
    )
