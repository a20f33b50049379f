"""A testbed's gpuaasd under another configuration for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from slurm_gpuaas.testbed.boot import GPUAASD
from slurm_gpuaas.testbed.instance import Instance

CONFIG = "/etc/gpuaas/gpuaasd.yaml"


@contextmanager
def configured(instance: Instance, section: str, **change: object) -> Iterator[None]:
    """Restart gpuaasd with these keys of a section, and afterwards with what it had."""
    before = instance.path(CONFIG).read_text()
    whole = yaml.safe_load(before)
    _restart(instance, yaml.safe_dump(whole | {section: whole.get(section, {}) | change}))
    try:
        yield
    finally:
        _restart(instance, before)


def _restart(instance: Instance, config: str) -> None:
    instance.stop(GPUAASD)
    instance.path(CONFIG).write_text(config)
    instance.start(GPUAASD)
