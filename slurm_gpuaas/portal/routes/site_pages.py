"""Sites as people see them: when each was heard, what it took and refused, its capacity and health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.api.pool_sites import SiteReport
from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import noted
from slurm_gpuaas.store.pool.sites import ReceivedReport, Site

Looks = Annotated[Visit, Depends(Needs(Action.SITE_READ))]
SILENT_AFTER: Final = timedelta(minutes=2)
"""A site polls once a minute at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNow:
    """
    Args:
        said: revision of the documents that the portal has for it.
        picture_at: moment of its newest picture.
    """

    site: Site
    said: int
    received: ReceivedReport | None
    report: SiteReport | None
    picture_at: datetime | None

    def silent(self, now: datetime) -> bool:
        return self.site.seen_at is None or now - self.site.seen_at > SILENT_AFTER


def site_pages_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> Sequence[APIRouter]:
        pages = APIRouter(include_in_schema=False)

        @pages.get("/sites")
        def sites(request: Request, visit: Looks) -> Response:
            return portal.page(request, visit, "sites.html", sites=[_now(pool, site) for site in _seen(pool, visit)])

        @pages.get("/sites/{name}")
        def site(request: Request, visit: Looks, name: str) -> Response:
            found = next((one for one in _seen(pool, visit) if one.name == name), None)
            if found is None:
                raise NotFound(
                    told("There is no such site, or it is another provider's."), way_out=told("Choose one of the list.")
                )
            return portal.page(request, visit, "site.html", one=_now(pool, found))

        return (pages,)

    return Feature(
        name="site-pages",
        routes=routes,
        nav=(NavEntry("/sites", noted("Sites"), "site", Action.SITE_READ, 26),),
    )


def _seen(pool: PoolServer, visit: Visit) -> Sequence[Site]:
    return [site for site in pool.store.sites.all() if visit.allows(Action.SITE_READ, Owned(provider=site.provider))]


def _now(pool: PoolServer, site: Site) -> SiteNow:
    received = pool.store.sites.report(site.name)
    shown = pool.pictures.live.known.get(site.cluster)
    return SiteNow(
        site=site,
        said=pool.store.sites.revision(site.name),
        received=received,
        report=None if received is None else SiteReport.model_validate(received.report),
        picture_at=None if shown is None or shown.frame is None else shown.frame.moment,
    )
