"""Fourth part: after a backup jobs end and the portal's machine is lost; a clean one takes its place."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any, Final

from slurm_gpuaas.testbed.national.running import admin_joins, members_of
from slurm_gpuaas.testbed.national.settling import seconds_of_slurm, work_ends
from slurm_gpuaas.testbed.national.story import AUDITOR, DIRECTOR, National
from slurm_gpuaas.testbed.portal import PortalMachine

TOLD_WITHIN_S: Final = 120.0


def portal_is_backed_up(story: National) -> None:
    with story.step("The portal's store is backed up while it runs", "-") as done:
        story.entries = story.visitor(AUDITOR).all("/ledger")
        story.kept = story.stage.portal.keep()
        done(f"{story.kept.said} Beside it /etc/gpuaas: configuration, certificate, keys")


def portal_is_lost(story: National) -> None:
    with story.step("The portal's machine is lost, and restored on a clean one", "sacctmgr show qos, assoc") as done:
        assert story.kept is not None
        stage = story.stage
        limits = {name: story.limits(site) for name, site in stage.sites.items()}
        grants = grants_of(story)
        wanted = {name: seconds_of_slurm(story, site).total() for name, site in stage.sites.items()}
        story.until(lambda: reported(story), lambda found: found == wanted, "all usage to be told", TOLD_WITHIN_S)
        ahead = stage.portal.ahead
        stage.portal.down()
        began = story.monotonic()
        portal = PortalMachine.restored(stage.portal.name, story.kept, ahead=ahead)
        story.stage = replace(stage, portal=portal)
        up = story.monotonic() - began
        whole = portal.command_line("audit", "verify").partition(" entries")[0]
        kept = story.visitor(AUDITOR).all("/ledger")
        story.claim(grants_of(story) == grants, "grants are others than they were")
        story.claim(kept[-len(story.entries) :] == story.entries, "entries of the ledger are others than they were")
        missing = sum(wanted.values()) - sum(reported(story).values())
        story.claim(missing > 0, "the backup has what came after it")
        for site in stage.sites.values():
            portal.wire(site)
        story.until(lambda: reported(story), lambda found: found == wanted, "usage to be told again", TOLD_WITHIN_S)
        for site in stage.sites.values():
            story.heard(site, story.stage.now)
        member = new_member(story)
        story.claim(
            limits == {name: story.limits(site) for name, site in stage.sites.items()}, "limits in Slurm are others"
        )
        story.visitor(DIRECTOR).sign_in()
        done(
            f"serves {up:.0f} s later at the same address: {len(grants)} grants, {len(kept)} entries of the ledger, "
            f"{whole} of the audit trail whole; {missing:,} GPU-seconds that the backup did not have were told again, "
            f"all {sum(wanted.values()):,} are those of sacct; {member}; limits in Slurm are what they were"
        )


def grants_of(story: National) -> list[tuple[Any, ...]]:
    """What was promised to whom; how much of it is used is told by the sites."""
    promised = ("id", "state", "organisation", "project", "share", "gpus", "starts", "ends")
    return [tuple(one[name] for name in promised) for one in story.visitor(DIRECTOR).all("/grants")]


def reported(story: National) -> dict[str, int]:
    """GPU-seconds of the runs that the portal has, by cluster, which its ledger has too, or the command would fail."""
    told: Counter[str] = Counter()
    said = story.stage.portal.command_line("reconcile")
    for cluster, seconds in re.findall(r"^(\S+) .* ([0-9,]+) GPU-seconds", said, re.MULTILINE):
        told[cluster] += int(seconds.replace(",", ""))
    return dict(told)


def new_member(story: National) -> str:
    """An administrator becomes a member at the restored portal, and is one in Slurm."""
    active = (story.grants[one["id"]] for one in story.visitor(DIRECTOR).all("/grants", state="active"))
    without = (one for one in active if story.admin_of(one.organisation).login not in members_of(story, one))
    grant = next(without)
    login = story.admin_of(grant.organisation).login
    admin_joins(story, grant)
    story.until(lambda: members_of(story, grant), lambda found: login in found, f"{login} at {grant.cluster}", 120)
    return f"{login} joined {grant.id} there and is in Slurm"


CHAPTER = (portal_is_backed_up, work_ends, portal_is_lost)
