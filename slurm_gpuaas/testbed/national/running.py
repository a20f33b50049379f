"""Second part: researchers compute under their own logins; limits hold; a site is cut off and the portal killed
for a while."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from typing import Final

from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.national.story import (
    OFFICER,
    Held,
    National,
    gpus_of,
    grants_by_cluster,
    sbatch_options,
    spread,
)
from slurm_gpuaas.testbed.portal import PORTAL, PortalMachine
from slurm_gpuaas.testbed.sim import SimulatedNode

TRAINING: Final = "exec sleep 1000000"
SHORT: Final = "exec sleep 3"
BUSY: Final = {"utilisation": "93", "memory_used": str(150 * 2**30)}
CUT_OFF: Final = "naver"
AWAY_S: Final = 15.0
"""At least so long a site is cut off; longer where it takes longer until it is noticed."""


def logins_are_there(story: National) -> None:
    with story.step("Researchers have UNIX logins where their grants are", "getent passwd; ls -l") as done:
        counts: Counter[str] = Counter()
        for cluster, grants in grants_by_cluster(list(story.grants.values())).items():
            site = story.stage.sites[cluster]
            logins = {grant.login for grant in grants}
            for login in sorted(logins):
                has_login(story, site, login)
            counts[cluster] = len(logins)
        done(f"{spread(counts)}; each with the SSH key given in the portal, made by gpuaas-people")


def has_login(story: National, site: Instance, login: str) -> None:
    """Waits until a UNIX login is there, with its owner's key."""
    story.until(
        lambda: site.exec(["getent", "passwd", login], check=False).returncode,
        lambda status: status == 0,
        f"the login {login} at {site.cluster.name}",
        60,
    )
    key = site.path(f"/etc/ssh/gpuaas-keys/{login}")
    story.until(
        lambda: key.read_text() if key.exists() else "",
        lambda text: text == f"{cast.ssh_key(login)}\n",
        f"the SSH key of {login} at {site.cluster.name}",
    )


def idler_of(story: National) -> Held:
    """Who is awarded most and does nothing with it."""
    return max(story.grants.values(), key=lambda grant: (grant.gpus, grant.id))


def all_compute(story: National) -> None:
    idle = idler_of(story)
    with story.step("Researchers run jobs, all but one", "sbatch; scontrol show job; squeue") as done:
        for grant in story.grants.values():
            if grant.id != idle.id:
                start(story, grant)
        counts: Counter[str] = Counter()
        for cluster, site in story.stage.sites.items():
            for tres in story.ask(site, "squeue", "-h", "-t", "RUNNING", "-O", "tres-alloc:200").splitlines():
                counts[cluster] += gpus_of(tres)
        wanted: Counter[str] = Counter()
        for grant in story.grants.values():
            wanted[grant.cluster] += grant.gpus if grant.id != idle.id else 0
        story.claim(counts == wanted, f"squeue shows {spread(counts)} GPUs, granted are {spread(wanted)}")
        told = f"{len(story.jobs)} jobs on {counts.total():,} GPUs ({spread(counts)})"
        done(f"{told}; {idle.id} of {idle.organisation} with {idle.gpus} GPUs does nothing")


def start(story: National, grant: Held) -> None:
    """A job on all GPUs of the grant, as its researcher, whose simulated GPUs are busy from then on."""
    site = story.stage.sites[grant.cluster]
    job = story.submit(site, grant, grant.gpus, TRAINING)
    shown = story.job_until(site, job, "RUNNING")
    story.claim(shown["QOS"] == grant.qos, f"job {job} of {grant.login} runs under QOS {shown['QOS']}")
    story.claim(gpus_of(shown["AllocTRES"]) == grant.gpus, f"job {job} has {shown['AllocTRES']}")
    story.jobs[grant.id] = (grant.cluster, job)
    _make_busy(site, shown["NodeList"], grant.gpus)


def _make_busy(site: Instance, nodes: str, gpus: int) -> None:
    """What a training would do to the hardware. Which GPUs of a server a small job got does not matter here."""
    names = site.exec(["scontrol", "show", "hostnames", nodes]).stdout.split()
    for name in names:
        node = SimulatedNode(site.path(f"/run/gpuaas-sim/{name}"))
        for gpu in range(site.cluster.gpus):
            node.set(gpu, BUSY)


def beyond_is_refused(story: National) -> None:
    with story.step("Beyond its limit a grant is refused or waits", "sbatch; sacctmgr show qos") as done:
        grant = idler_of(story)
        site = story.stage.sites[grant.cluster]
        options = sbatch_options(grant, grant.gpus + cast.SERVER, TRAINING)
        answer = site.exec(["sbatch", f"--qos={grant.qos}", *options], user=grant.login, check=False)
        limit = gpus_of(story.limits(site)[grant.qos])
        story.claim(limit == grant.gpus, f"QOS {grant.qos} allows {limit} GPUs")
        story.claim(answer.returncode != 0, f"sbatch took a job of {grant.gpus + cast.SERVER} GPUs: {answer.stdout}")
        words = " ".join(answer.stderr.replace("sbatch: error:", "").split()).partition(" Batch job")[0]
        done(f'{grant.login} asks for {grant.gpus + cast.SERVER} of {limit} GPUs: "{words}"')


def start_pages(story: National) -> None:
    with story.step("What a researcher and others see", "squeue") as done:
        grant = max((one for one in story.grants.values() if one.id in story.jobs), key=lambda one: (one.gpus, one.id))
        story.picture("start-here", grant.login, f"/grants/{grant.id}/start")
        story.picture("grant", grant.login, f"/grants/{grant.id}")
        story.picture("grant-phone-en", grant.login, f"/grants/{grant.id}", phone=True, language="en")
        story.picture("map", OFFICER, "/map")
        story.picture("jobs", grant.login, "/jobs")
        story.picture("overview", OFFICER, "/overview")
        cluster, job = story.jobs[grant.id]
        shown = story.job(story.stage.sites[cluster], job)
        story.claim(shown["UserId"].startswith(f"{grant.login}("), f"job {job} is {shown['UserId']}'s")
        done(f"{grant.login}'s job {job} at {cluster} runs as {shown['UserId']}, account {shown['Account']}")


def site_is_cut_off(story: National) -> None:
    with story.step(f"{CUT_OFF} is cut off for a while", "squeue; sbatch; sacct") as done:
        site = story.stage.sites[CUT_OFF]
        before = running(story, site)
        here = [grant for grant in story.grants.values() if grant.cluster == CUT_OFF and grant.id in story.jobs]
        story.claim(bool(here), f"no grant runs at {CUT_OFF}")
        (grant, *_) = here
        admin = story.admin_of(grant.organisation)
        PortalMachine.cut(site)
        began = story.monotonic()
        try:
            # The portal goes on: a colleague becomes a member meanwhile. The site does not know it yet.
            admin_joins(story, grant)
            story.until(
                lambda: admin.ask(f"/grants/{grant.id}"),
                lambda shown: shown["stale"] or story.monotonic() - began > AWAY_S,
                "the portal to notice",
                120,
            )
            story.claim(running(story, site) == before, f"jobs of {CUT_OFF} did not go on")
            story.picture("site-away", OFFICER, "/sites")
            story.claim(admin.login not in members_of(story, grant), "the site knows what it could not be told")
        finally:
            PortalMachine.mend(site)
        away = story.monotonic() - began
        story.until(
            lambda: members_of(story, grant),
            lambda found: admin.login in found,
            f"the new member at {CUT_OFF}",
            120,
        )
        story.claim(running(story, site) == before, f"jobs of {CUT_OFF} did not go on")
        back = story.monotonic() - began - away
        done(
            f"{len(before)} jobs ran on for {away:.0f} s without the portal; {back:.0f} s after the wire was mended "
            f"{admin.login} is a member in Slurm"
        )


def admin_joins(story: National, grant: Held) -> None:
    """The organisation's administrator becomes a member, at the portal."""
    admin = story.admin_of(grant.organisation)
    members = [*admin.ask(f"/grants/{grant.id}")["members"], admin.ask("/me")["person"]]
    admin.tell("PUT", "/identity", {"login": admin.login, "ssh_keys": [cast.ssh_key(admin.login)]})
    admin.tell("PUT", f"/grants/{grant.id}/members", {"members": members})


def members_of(story: National, grant: Held) -> list[str]:
    """UNIX logins with an association of the grant's account."""
    site = story.stage.sites[grant.cluster]
    return story.ask(site, "sacctmgr", "-nP", "show", "assoc", f"account={grant.project}", "format=User").split()


def running(story: National, site: Instance) -> dict[int, str]:
    """Running jobs and when each started."""
    rows = story.rows(site, "squeue", "-h", "-t", "RUNNING", "-o", "%A|%S")
    return {int(job): start for job, start in rows}


def portal_is_killed(story: National) -> None:
    with story.step("The portal is killed; the sites go on", "squeue; sbatch; sacct; gpuaas status") as done:
        portal, grant = story.stage.portal, idler_of(story)
        before = {name: running(story, site) for name, site in story.stage.sites.items()}
        site = story.stage.sites[grant.cluster]
        portal.stop(PORTAL, signal_name="KILL")
        began = story.monotonic()
        try:
            job = story.submit(site, grant, cast.SERVER, SHORT)
            story.job_until(site, job, "RUNNING")
            story.job_until(site, job, "COMPLETED")
            for name, one in story.stage.sites.items():
                story.until(partial(misses_portal, story, one), bool, f"{name} to say that the portal is away")
        finally:
            portal.start(PORTAL)
        away, up = story.monotonic() - began, story.stage.now
        for name, one in story.stage.sites.items():
            story.heard(one, up)
            story.claim(running(story, one) == before[name], f"jobs of {name} did not go on")
        back = story.monotonic() - began - away
        grants = story.visitor(OFFICER).all("/grants", state="active")
        story.claim(len(grants) == len(story.grants), f"the portal knows {len(grants)} grants in force")
        done(
            f"{sum(map(len, before.values()))} jobs ran on for {away:.0f} s without it, job {job} of {grant.login} "
            f"began and ended; {back:.0f} s after its start it had heard all sites and all their usage"
        )


def misses_portal(story: National, site: Instance) -> bool:
    """Whether the site says that it cannot tell the portal."""
    controllers = json.loads(story.ask(site, "gpuaas", "status", "--json"))["controllers"]
    return any(one["failures"] for one in controllers if one["name"] == "pool-push")


CHAPTER = (logins_are_there, all_compute, beyond_is_refused, start_pages, site_is_cut_off, portal_is_killed)
