"""The portal's parts over the pool, in the order of their routes."""

from __future__ import annotations

from collections.abc import Sequence

from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.pool import PoolServer


def pool_features(pool: PoolServer) -> Sequence[Feature]:
    """Each part's pages and API."""
    return ()
