"""The portal's parts over the pool, in the order of their routes."""

from __future__ import annotations

from collections.abc import Sequence

from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.routes.applications import applications_feature
from slurm_gpuaas.portal.routes.awards import awards_feature
from slurm_gpuaas.portal.routes.grants import grants_feature
from slurm_gpuaas.portal.routes.identity import identity_feature
from slurm_gpuaas.portal.routes.idle import idle_feature
from slurm_gpuaas.portal.routes.incidents import incidents_feature
from slurm_gpuaas.portal.routes.jobs import jobs_feature
from slurm_gpuaas.portal.routes.leases import leases_feature
from slurm_gpuaas.portal.routes.ledger import ledger_feature
from slurm_gpuaas.portal.routes.map import map_feature
from slurm_gpuaas.portal.routes.messages import messages_feature
from slurm_gpuaas.portal.routes.offers import offers_feature
from slurm_gpuaas.portal.routes.organisations import organisations_feature
from slurm_gpuaas.portal.routes.programmes import programmes_feature
from slurm_gpuaas.portal.routes.rates import rates_feature
from slurm_gpuaas.portal.routes.reports import reports_feature
from slurm_gpuaas.portal.routes.reviews import reviews_feature
from slurm_gpuaas.portal.routes.site_pages import site_pages_feature
from slurm_gpuaas.portal.routes.statements import statements_feature
from slurm_gpuaas.portal.routes.usage import usage_feature


def pool_features(pool: PoolServer) -> Sequence[Feature]:
    """Each part's pages and API."""
    return (
        applications_feature(pool),
        awards_feature(pool),
        grants_feature(pool),
        identity_feature(pool),
        idle_feature(pool),
        incidents_feature(pool),
        jobs_feature(pool),
        leases_feature(pool),
        ledger_feature(pool),
        map_feature(pool),
        messages_feature(),
        offers_feature(pool),
        organisations_feature(pool),
        programmes_feature(pool),
        rates_feature(pool),
        reports_feature(pool),
        reviews_feature(pool),
        site_pages_feature(pool),
        statements_feature(pool),
        usage_feature(pool),
    )
