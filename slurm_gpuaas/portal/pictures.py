"""What sites push of what runs goes into the live map. The newest of each site is also kept in a file, so that after a
restart the portal shows a site that is cut off as it was, with its age, rather than nothing."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from slurm_gpuaas.api.pool_sites import PicturePush, PictureTaken
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, GpuaasError
from slurm_gpuaas.domain.fleet_map import MapCluster, SiteLayout
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.portal.map.history import MapHistory
from slurm_gpuaas.portal.map.live import LiveMap
from slurm_gpuaas.store.pool.sites import Site, Sites

KEEP_EVERY: Final = timedelta(minutes=1)
"""Of each site; a changed layout is kept at once."""

log = structlog.get_logger(__name__)


class Pictures:
    """
    Args:
        folder: of the past and of the newest pictures; None = nothing outlives the process.
    """

    def __init__(self, sites: Sites, clock: Clock, folder: Path | None = None) -> None:
        self._clock = clock
        self._folder = folder
        self._layouts: dict[ClusterName, SiteLayout] = {}
        self._kept: dict[ClusterName, tuple[int, datetime]] = {}
        self._files = threading.Lock()
        self.live = LiveMap(clock, history=None if folder is None else MapHistory(folder / "past"))
        if folder is not None:
            for site in sites.all():
                self._recall(site, folder / _file_of(site.cluster))
        self.live.publish()

    async def take(self, site: Site, push: PicturePush) -> PictureTaken:
        """Show a picture, unless it is older than what is shown. Called in the event loop of the open maps.

        Raises:
            Conflict: it is of another cluster than the site's.
            Refused: its moment is in the future.
            InvalidInput: its cells make no sense.
        """
        if push.frame.site != site.cluster:
            raise Conflict(
                f"Site {site.name} has cluster {site.cluster}, and {push.frame.site} was pushed under its name.",
                way_out="Give each gpuaasd the key of its own site.",
            )
        known = self._show(site, push)
        self.live.publish()
        shown = self.live.known.get(site.cluster)
        newest = None if shown is None or shown.frame is None else shown.frame.moment
        layout = self._layouts.get(site.cluster)
        if known and layout is not None and newest == push.frame.moment and self._is_due(site.cluster, layout.number):
            await run_in_threadpool(self._keep, push.model_copy(update={"layout": layout}))
        return PictureTaken(knows_layout=known, newest=newest, now=self._clock.now())

    def _show(self, site: Site, push: PicturePush) -> bool:
        """Whether its layout is known, so that it was taken."""
        layout = push.layout
        if layout is not None and self._is_new(push):
            self.live.introduce(MapCluster.of(layout, provider=site.provider))
            self._layouts[site.cluster] = layout
        known = self._layouts.get(site.cluster)
        if known is None or known.number != push.frame.layout:
            return False
        self.live.take(push.frame)
        return True

    def _is_new(self, push: PicturePush) -> bool:
        """A layout that comes late must not take the place of a newer one."""
        shown = self.live.known.get(push.frame.site)
        return shown is None or shown.frame is None or push.frame.moment > shown.frame.moment

    # -- Files

    def _is_due(self, cluster: ClusterName, layout: int) -> bool:
        now, kept = self._clock.now(), self._kept.get(cluster)
        if self._folder is None or (kept is not None and kept[0] == layout and now - kept[1] < KEEP_EVERY):
            return False
        self._kept[cluster] = (layout, now)
        return True

    def _keep(self, push: PicturePush) -> None:
        """A full disk stops the record, not the map."""
        assert self._folder is not None
        file = self._folder / _file_of(push.frame.site)
        aside = file.with_suffix(".new")
        try:
            with self._files:
                aside.write_bytes(push.packed())
                aside.replace(file)
        except OSError as error:
            log.error("picture.not-kept", file=str(file), error=str(error))  # noqa: TRY400  # the text says all

    def _recall(self, site: Site, file: Path) -> None:
        try:
            self._show(site, PicturePush.unpacked(file.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValidationError, GpuaasError) as error:  # the site pushes another one in a moment
            log.warning("picture.not-recalled", file=str(file), error=str(error)[:200])


def _file_of(cluster: ClusterName) -> str:
    return f"{cluster}.picture"
