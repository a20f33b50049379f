"""Sphinx configuration. `make docs` builds with warnings as errors."""

from slurm_gpuaas import __version__

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
