"""What pages of what runs, ran and broke share: who looks, and how old what is shown is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import Query

from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.running import Onlooker
from slurm_gpuaas.portal.visit import Visit

ClusterText = Annotated[str, Query(max_length=30, description="Only of this cluster.")]


def onlooker(pool: PoolServer, visit: Visit, action: Action) -> Onlooker:
    """Who looks at what runs; whose role does not reach there sees nothing."""
    identity = pool.store.register.identities.find(visit.person.id)
    office = visit.person.office
    return Onlooker(
        scope=visit.require(action),
        organisation=office.organisation,
        provider=office.provider,
        login=None if identity is None else identity.login,
    )


def ages(pool: PoolServer) -> Sequence[tuple[str, datetime | None]]:
    """Clusters and when each was last told of, by name."""
    return [
        (name, None if site.frame is None else site.frame.moment) for name, site in pool.pictures.live.known.items()
    ]
