"""What the story plays on: three testbeds, a portal, wires between them, and one clock for all."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import yaml

from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.testbed.instance import Instance, up_all
from slurm_gpuaas.testbed.machine import Machine, end, running
from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.portal import CERTIFICATE, PortalMachine
from slurm_gpuaas.testbed.progress import Progress

SIZES: Final = {"small": "national-small", "full": "national"}
SCALES: Final = {"small": 1, "full": 20}
"""Times as many GPUs for who asks for whole servers."""
SETTINGS: Final = {
    "name": "National GPU Pool",
    "name_ko": "국가 GPU 풀",
    # all people of the demo sit behind one address
    "limits": {"sign_in": 100_000, "address": 100_000, "person": 100_000},
}


@dataclass(frozen=True)
class Stage:
    name: str
    size: str
    portal: PortalMachine
    sites: Mapping[str, Instance]

    @classmethod
    def up(cls, name: str, size: str, progress: Progress) -> Stage:
        """Boots everything anew; what of that name is up ends first."""
        take_down(name)
        portal = PortalMachine.up(f"{name}-portal", settings=SETTINGS, clock=True, progress=progress)
        try:
            sites = up_all(SIZES[size], name, daemon=False, clock=True, progress=progress)
            for site in sites:
                with progress.step(f"{site.name}: gpuaasd, gpuaas-agent and gpuaas-people, a site of {portal.name}"):
                    portal.join(site, provider=site.cluster.name, shares=["government"])
        except BaseException:
            take_down(name)
            raise
        return cls(name, size, portal, {site.cluster.name: site for site in sites})

    @property
    def scale(self) -> int:
        return SCALES[self.size]

    @property
    def machines(self) -> Iterator[Machine]:
        yield self.portal
        yield from self.sites.values()

    def trust(self) -> ssl.SSLContext:
        """For who speaks to the portal from here."""
        return ssl.create_default_context(cadata=self.portal.path(CERTIFICATE).read_text())

    # -- Time

    @property
    def now(self) -> datetime:
        """By the clock of the machines."""
        return datetime.now(UTC) + timedelta(seconds=self.portal.ahead)

    @property
    def today(self) -> date:
        return self.now.astimezone(KST).date()

    def skip_to(self, moment: datetime) -> None:
        """Set the clocks of all machines ahead, to `moment` (at once; nothing runs in between)."""
        seconds = math.ceil(moment.timestamp() - time.time())
        for machine in self.machines:
            machine.set_ahead(seconds)

    def apply_own_policy(self, site: Instance) -> None:
        """What the site's operator declares."""
        text = yaml.safe_dump_all(cast.own_policy(site.cluster), allow_unicode=True)
        site.exec(["gpuaas", "policy", "apply", "--yes", "-f", "-"], stdin=text)


def take_down(name: str) -> None:
    """Ends everything of that name."""
    for machine in (f"{name}-{part}" for part in ("portal", *cast.PROVIDERS)):
        if machine in running():
            end(machine)
