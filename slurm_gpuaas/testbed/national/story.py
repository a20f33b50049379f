"""What happens: from three empty clusters to statements, each step confirmed by Slurm's own tools.

People do what they would do: over the API with tokens of theirs, or in the browser. Nothing of the portal is reached
any other way but for `gpuaas-portal` on its own host, by its administrator. Days are skipped by setting the clock of
all machines ahead together; what runs then has run through these days, and Slurm's accounting says so.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.national.cast import Wish
from slurm_gpuaas.testbed.national.pictures import Pictures
from slurm_gpuaas.testbed.national.stage import Stage
from slurm_gpuaas.testbed.national.visitor import Visitor
from slurm_gpuaas.testbed.portal import Kept
from slurm_gpuaas.testbed.story import Story, fields_of

PASSWORD: Final = "correct horse battery staple"  # noqa: S105  # of everybody in the demo
DIRECTOR: Final = "director"
OFFICER: Final = "officer"
AUDITOR: Final = "auditor"


@dataclass(frozen=True)
class Held:
    """A grant that is in force.

    Args:
        login: UNIX login of the researcher who has it.
    """

    id: str
    cluster: str
    share: str
    project: str
    qos: str
    gpus: int
    organisation: str
    login: str


@dataclass(slots=True)
class National(Story):
    """What the chapters share."""

    stage: Stage
    pictures: Pictures | None
    visitors: dict[str, Visitor] = field(default_factory=dict)
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    """By number of the application."""
    grants: dict[str, Held] = field(default_factory=dict)
    """By number of the grant."""
    jobs: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Grant to cluster and job."""
    kept: Kept | None = None
    """Of the portal, while it was well."""
    entries: Sequence[Any] = ()
    """Of the ledger, just before."""

    # -- People

    def visitor(self, login: str) -> Visitor:
        """Who is known already, or comes to the portal for the first time."""
        if login not in self.visitors:
            self.visitors[login] = Visitor(self.stage.portal.url, self.stage.trust(), login=login, password=PASSWORD)
        return self.visitors[login]

    def admin_of(self, organisation: str) -> Visitor:
        (house,) = (one for one in cast.HOUSES if one.name == organisation)
        return self.visitor(cast.login_of(house, 0))

    # -- Slurm

    def ask(self, site: Instance, *argv: str, user: str = "root") -> str:
        return site.exec(list(argv), user=user).stdout

    def rows(self, site: Instance, *argv: str) -> list[list[str]]:
        """Of a command that separates with `|`."""
        return [line.split("|") for line in self.ask(site, *argv).splitlines()]

    def job(self, site: Instance, job: int) -> Mapping[str, str]:
        return fields_of(self.ask(site, "scontrol", "show", "job", "--oneliner", str(job)))

    def job_until(self, site: Instance, job: int, state: str, seconds: float = 60) -> Mapping[str, str]:
        return self.until(
            lambda: self.job(site, job), lambda shown: shown["JobState"] == state, f"job {job} {state}", seconds
        )

    def submit(self, site: Instance, grant: Held, gpus: int, program: str) -> int:
        """Submits as the grant's researcher, in whole servers where it is more than one. Slurm's hook knows a new
        project some seconds after Slurm does; until then sbatch is tried again."""
        options = sbatch_options(grant, gpus, program)
        done = self.until(
            lambda: site.exec(["sbatch", "--parsable", *options], user=grant.login, check=False),
            lambda done: done.returncode == 0,
            f"sbatch of {grant.login}",
            20,
        )
        return int(done.stdout)

    def limits(self, site: Instance) -> dict[str, str]:
        """QOS to its GrpTRES."""
        rows = self.rows(site, "sacctmgr", "-nP", "show", "qos", "format=Name,GrpTRES")
        return {row[0]: row[1] for row in rows}

    def heard(self, site: Instance, since: datetime) -> None:
        """Waits until the site has told the portal all its usage, since then at the earliest."""
        self.until(
            lambda: json.loads(self.ask(site, "gpuaas", "status", "--json"))["portal"],
            lambda told: datetime.fromisoformat(told["heard_at"]) >= since and not told["usage_waits"],
            f"{site.cluster.name} to be heard",
            120,
        )

    # -- Pictures

    def picture(self, name: str, login: str, path: str, *, language: str = "ko", phone: bool = False) -> None:
        if self.pictures:
            self.pictures.take(name, login, path, language=language, phone=phone)


def sbatch_options(grant: Held, gpus: int, program: str) -> list[str]:
    shape = [f"--gpus-per-node={gpus}", "--nodes=1"]
    if gpus > cast.SERVER:
        shape = [f"--gpus-per-node={cast.SERVER}", f"--nodes={gpus // cast.SERVER}"]
    return ["--output=/dev/null", f"--account={grant.project}", "--time=7-0", *shape, "--wrap", program]


def gpus_of(tres: str) -> int:
    """GPUs of a list of TRES, e.g. `cpu=1,gres/gpu=8,gres/gpu:b200=8`."""
    found = re.search(r"gres/gpu=(\d+)", tres)
    return int(found[1]) if found else 0


def grants_by_cluster(grants: Sequence[Held]) -> Mapping[str, list[Held]]:
    found: dict[str, list[Held]] = defaultdict(list)
    for grant in grants:
        found[grant.cluster].append(grant)
    return found


def spread(counts: Counter[str]) -> str:
    """e.g. `naver 12, kakao 9`."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
