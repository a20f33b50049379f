"""Sphinx configuration. `make docs` builds with warnings as errors."""

import sys
from pathlib import Path

from slurm_gpuaas import __version__

sys.path.insert(0, str(Path(__file__).parent))
import make_reference

make_reference.write()

project = "slurm-gpuaas"
copyright = "the slurm-gpuaas authors"
release = version = __version__

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"slurm-gpuaas {__version__}"
html_copy_source = False
