"""The sites' API as a part of the portal."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Depends

from slurm_gpuaas.api.signing import Nonces
from slurm_gpuaas.portal.feature import Feature, Portal
from slurm_gpuaas.portal.pool import PoolServer, ReportedDays, ReportedUse
from slurm_gpuaas.portal.sites import Polls, site_routes
from slurm_gpuaas.portal.visit import Machine


def sites_feature(pool: PoolServer, master_key: bytes) -> Feature:
    """Serves sites, and wakes their long polls when there are new documents."""
    polls = Polls()
    pool.store.sites.on_documents(polls.changed)

    def routes(portal: Portal) -> Sequence[APIRouter]:
        # Not limited by address: who has no site's key gets no further than its signature.
        signed = Depends(Machine("each request is signed with the site's key", limited=False))
        return (
            site_routes(
                pool.store.sites,
                ReportedUse(pool.keeper),
                ReportedDays(pool.store, portal.clock),
                pool.pictures,
                polls=polls,
                master_key=master_key,
                clock=portal.clock,
                nonces=Nonces(),
                dependencies=[signed],
            ),
        )

    return Feature(name="sites", routes=routes)
