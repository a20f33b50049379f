"""The releases of Slurm that a testbed can run, each with the Debian suite that carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_EVERYWHERE: Final = (
    *("slurmctld", "slurmd", "slurmdbd", "slurm-client", "slurmrestd", "libslurm-dev"),
    *("slurm-wlm-basic-plugins", "slurm-wlm-mysql-plugin", "slurm-wlm-jwt-plugin"),
    *("munge", "mariadb-server", "slapd", "python3", "python3-dev", "python3-venv"),
    *("gcc", "ibsim-utils", "opensm", "infiniband-diags", "shellcheck", "lua5.4"),
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release of Slurm.

    Args:
        slurm: as people call it, e.g. `26.05`.
        suite: Debian suite that carries it.
        own: packages whose names tell their version, so that they differ from suite to suite.
        pyslurm: whether pyslurm can be built against it; without it everything goes over slurmrestd.
    """

    slurm: str
    suite: str
    own: tuple[str, ...]
    pyslurm: bool

    @property
    def locked(self) -> tuple[str, ...]:
        """Packages whose versions matter to results: installed at exactly the version that packages.lock names."""
        return (*_EVERYWHERE, *self.own)

    @property
    def number(self) -> tuple[int, int]:
        """`26.05` as (26, 5), to compare."""
        year, month = self.slurm.split(".")
        return int(year), int(month)

    @property
    def reads_topology_yaml(self) -> bool:
        """Older releases have topology.conf alone."""
        return self.number >= (25, 5)


RELEASES: Final = {
    release.slurm: release
    for release in (
        Release(slurm="26.05", suite="forky", own=("postgresql-18", "python3.14"), pyslurm=True),
        # pyslurm 25.11 needs declarations that the headers of 24.11 do not have
        Release(slurm="24.11", suite="trixie", own=("postgresql-17", "python3.13"), pyslurm=False),
    )
}
DEFAULT: Final = "26.05"
