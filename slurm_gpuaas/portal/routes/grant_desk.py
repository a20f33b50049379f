"""What the routes that do something with a grant share."""

from __future__ import annotations

from datetime import date
from typing import Any, Final

from fastapi import Request, Response

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.names import ChangeId, PoolGrantId
from slurm_gpuaas.domain.pool_grants import GrantChange, PoolGrant
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.portal.feature import Portal
from slurm_gpuaas.portal.grant_figures import GrantReader
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.fields import number
from slurm_gpuaas.portal.routes.grant_views import (
    GrantView,
    grant_fields,
    grant_owner,
)
from slurm_gpuaas.portal.visit import Visit

MOST_REASON: Final = 200
"""Characters of a `Line` of the domain."""


class Desk:
    """What these routes share."""

    def __init__(self, portal: Portal, pool: PoolServer, reader: GrantReader) -> None:
        self.portal = portal
        self.pool = pool
        self.reader = reader
        self.service = pool.service
        self.register = pool.store.register

    def found(self, visit: Visit, text: str, action: Action) -> tuple[PoolGrant, PoolShare]:
        """
        Raises:
            NotFound: there is no such grant.
            Refused: it is not within what the visitor may do.
        """
        grant = self.register.grants.get(number(PoolGrantId, text))
        share = self.reader.share_of(grant)
        visit.require(action, grant_owner(grant, share))
        return grant, share

    def change(self, visit: Visit, text: str, action: Action) -> GrantChange:
        change = self.register.changes.get(number(ChangeId, text))
        self.found(visit, change.grant, action)
        return change

    @property
    def today(self) -> date:
        return korean_day(self.portal.clock.now())

    def view(self, grant: PoolGrant) -> GrantView:
        figures = self.reader.figures([grant])[grant.id]
        return GrantView.model_validate(
            grant_fields(grant, self.reader.share_of(grant), figures, self.portal.clock.now())
        )

    def confirm(self, request: Request, visit: Visit, grant: PoolGrant, **values: Any) -> Response:
        """The page that says what follows, before it is done."""
        return self.portal.page(request, visit, "grant-confirm.html", grant=grant, **values)


def sentence(visit: Visit, error: GpuaasError) -> str:
    return f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}".strip()
