"""Fourth part: after a backup jobs end and the portal's machine is lost; a clean one takes its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slurm_gpuaas.testbed.national.running import admin_joins, members_of
from slurm_gpuaas.testbed.national.settling import work_ends
from slurm_gpuaas.testbed.national.story import DIRECTOR, National
from slurm_gpuaas.testbed.portal import PortalMachine

AGAIN_WITHIN_S = 120.0


def portal_is_backed_up(story: National) -> None:
    with story.step("The portal's store is backed up while it runs", "-") as done:
        story.entries = story.visitor(DIRECTOR).all("/ledger")
        story.kept = story.stage.portal.keep()
        done(f"{story.kept.said} Beside it /etc/gpuaas: configuration, certificate, keys")


def portal_is_lost(story: National) -> None:
    with story.step("The portal's machine is lost, and restored on a clean one", "sacctmgr show qos, assoc") as done:
        assert story.kept is not None
        stage, director = story.stage, story.visitor(DIRECTOR)
        limits = {name: story.limits(site) for name, site in stage.sites.items()}
        grants, equal = grants_of(story), reconciled(story)
        ahead = stage.portal.ahead
        stage.portal.down()
        began = story.monotonic()
        portal = PortalMachine.restored(stage.portal.name, story.kept, ahead=ahead)
        story.stage = replace(stage, portal=portal)
        up = story.monotonic() - began
        whole = portal.command_line("audit", "verify").partition(" entries")[0]
        kept = director.all("/ledger")
        story.claim(grants_of(story) == grants, "grants are others than they were")
        story.claim(kept[-len(story.entries) :] == story.entries, "entries of the ledger are others than they were")
        behind = reconciled(story)
        story.claim(behind != equal, f"the backup has what came after it: {behind}")
        for site in stage.sites.values():
            portal.wire(site)
        story.until(lambda: reconciled(story), lambda found: found == equal, "usage to be told again", AGAIN_WITHIN_S)
        for site in stage.sites.values():
            story.heard(site, story.stage.now)
        member = new_member(story)
        story.claim(
            limits == {name: story.limits(site) for name, site in stage.sites.items()}, "limits in Slurm are others"
        )
        story.visitor(DIRECTOR).sign_in()
        done(
            f"serves {up:.0f} s later at the same address: {len(grants)} grants, {len(kept)} entries of the ledger, "
            f"{whole} of the audit trail whole; sites told again what the backup did not have, once ({equal}); "
            f"{member}; limits in Slurm are what they were"
        )


def grants_of(story: National) -> list[tuple[Any, ...]]:
    """What was promised to whom; how much of it is used is told by the sites."""
    promised = ("id", "state", "organisation", "project", "share", "gpus", "starts", "ends")
    return [tuple(one[name] for name in promised) for one in story.visitor(DIRECTOR).all("/grants")]


def reconciled(story: National) -> str:
    """Runs and GPU-seconds that the portal has, by site and month."""
    return "; ".join(story.stage.portal.command_line("reconcile").splitlines())


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
