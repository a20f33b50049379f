"""The portal's parts over the pool, in the order of their routes."""

from __future__ import annotations

from collections.abc import Sequence

from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.routes.idle import idle_feature
from slurm_gpuaas.portal.routes.leases import leases_feature
from slurm_gpuaas.portal.routes.messages import messages_feature


def pool_features(pool: PoolServer) -> Sequence[Feature]:
    """Each part's pages and API."""
    return (
        idle_feature(pool),
        leases_feature(pool),
        messages_feature(),
    )
