"""The cluster map within the portal, and the state of all clusters for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.domain.fleet_map import CellState, Picture
from slurm_gpuaas.portal import map as fleet_map
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal
from slurm_gpuaas.portal.http import API, NOT_MODIFIED, PROBLEMS, Answer, with_etag
from slurm_gpuaas.portal.map.routes import version
from slurm_gpuaas.portal.map.view import MapViewer, viewer_of
from slurm_gpuaas.portal.map.words import Language as MapLanguage
from slurm_gpuaas.portal.map.words import texts
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.visit import Machine, Needs, Visit
from slurm_gpuaas.portal.words import noted

Looks = Annotated[Visit, Depends(Needs(Action.MAP_READ))]


class Room(Answer):
    """The largest job that could start now in one share.

    Args:
        nodes: wholly free ones, of the whole cluster.
        unit_nodes: of these the most below one leaf switch.
        node_gpus: the most free GPUs of one node.
    """

    share: str
    nodes: int
    unit_nodes: int
    node_gpus: int


class ClusterNow(Answer):
    """A cluster as its site last told of it; `as_of` null = never yet.

    Args:
        states: GPUs by state; `taken` are in use by somebody whom you may not know.
    """

    name: str
    provider: str
    model: str
    nodes: int
    gpus: int
    as_of: datetime | None
    states: dict[str, int]
    rooms: tuple[Room, ...]


class FleetNow(Answer):
    clusters: tuple[ClusterNow, ...]


def map_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> Sequence[APIRouter]:
        live = pool.pictures.live
        pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["map"], responses=PROBLEMS)

        @pages.get("/map")
        def page(request: Request, visit: Looks) -> Response:
            language = MapLanguage(str(visit.words.language))
            return portal.page(
                request,
                visit,
                "map/page.html",
                base="layout.html",
                framed=True,
                simulated=False,
                version=version(),
                map_words=texts(language),
            )

        @api.get("/map", response_model=FleetNow, responses=NOT_MODIFIED)
        async def fleet(request: Request, visit: Looks) -> Response:
            """The state of all clusters, as you may see it."""
            return with_etag(request, _fleet(live, live.picture(viewer_of(visit.actor))))

        data = fleet_map.map_data(live, _viewer, [Depends(Needs(Action.MAP_READ))])
        files = fleet_map.map_files([Depends(Machine("scripts and style of the map", limited=False))])
        return (pages, api, data, files)

    return Feature(
        name="map",
        routes=routes,
        nav=(NavEntry("/map", noted("Cluster map"), "map", Action.MAP_READ, 20),),
        templates=fleet_map.FOLDER / "templates",
    )


def _viewer(request: Request) -> MapViewer:
    visit: Visit = request.state.visit
    return viewer_of(visit.actor)


def _fleet(live: fleet_map.LiveMap, picture: Picture) -> FleetNow:
    layout, rooms = live.layout(), picture.table["rail"]["rooms"]
    return FleetNow(
        clusters=tuple(
            ClusterNow(
                name=cluster.name,
                provider=cluster.provider,
                model=cluster.model,
                nodes=len(cluster.nodes),
                gpus=cluster.cells,
                as_of=None if (known := live.known[cluster.name].frame) is None else known.moment,
                states={
                    CellState(state).name.lower(): count
                    for state, count in enumerate(np.bincount(picture.cells.state[layout.part(cluster)]).tolist())
                    if count
                },
                rooms=tuple(
                    Room(share=row["share"], nodes=row["nodes"], unit_nodes=row["unit_nodes"], node_gpus=row["gpus"])
                    for row in rooms
                    if row["cluster"] == cluster.name
                ),
            )
            for cluster in layout.clusters
        )
    )
