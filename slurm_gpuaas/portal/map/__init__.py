"""The cluster map: one page for all GPUs of a fleet, live and back in time.

`source` says what a map is drawn from, `live` is that source made of what sites push, `view` is what one viewer may
see, `rail` the sums beside the map, `history` keeps pictures for days, `routes` serves the page and its data. The page
itself is static/ (JavaScript modules and a style sheet) and templates/.
"""

from pathlib import Path
from typing import Final

from slurm_gpuaas.portal.map.live import LiveMap
from slurm_gpuaas.portal.map.routes import map_data, map_files, map_routes
from slurm_gpuaas.portal.map.source import MapSource
from slurm_gpuaas.portal.map.view import EVERYTHING, MapViewer, viewer_of

__all__ = [
    "EVERYTHING",
    "FOLDER",
    "LiveMap",
    "MapSource",
    "MapViewer",
    "map_data",
    "map_files",
    "map_routes",
    "viewer_of",
]

FOLDER: Final = Path(__file__).parent
