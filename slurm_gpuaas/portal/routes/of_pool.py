"""The portal's parts over the pool, in the order of their routes."""

from __future__ import annotations

from collections.abc import Sequence

from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.routes.applications import applications_feature
from slurm_gpuaas.portal.routes.organisations import organisations_feature
from slurm_gpuaas.portal.routes.programmes import programmes_feature


def pool_features(pool: PoolServer) -> Sequence[Feature]:
    """Each part's pages and API."""
    return (
        applications_feature(pool),
        organisations_feature(pool),
        programmes_feature(pool),
    )
