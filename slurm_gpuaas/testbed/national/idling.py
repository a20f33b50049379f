"""Third part: days pass, one grant idles, is warned and taken back, and its GPUs reach the waiting list."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Any, Final

from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.national.calling import house_of, live, take
from slurm_gpuaas.testbed.national.running import has_login, idler_of, start
from slurm_gpuaas.testbed.national.story import DIRECTOR, OFFICER, Held, National, gpus_of

RULES: Final[Mapping[str, Any]] = {
    "basis": "데모: 하루 단위로 줄인 규칙",
    "mode": "act",
    "window_days": 1,
    "waits": {"warning": 1, "final-warning": 1, "recall": 1},
    "back_days": 1,
    "ramp_up_days": 0,
    "before_end_days": 0,
    "look_back_days": 7,
    "burst_days": 1,
}
"""Rules are data: the shortest ladder that there is. The defaults take five weeks and more."""
RUNGS: Final = ("notice", "warning", "final-warning", "recall")
BEFORE: Final = time(8, 0)
AFTER: Final = time(9, 30)
"""Steps are taken from nine in the morning on, Korean time; by then the sites have told of the day before."""
MOST_DAYS: Final = 14


def rules_are_set(story: National) -> None:
    with story.step("Rules for idle grants are put in force", "-") as done:
        put = story.visitor(DIRECTOR).tell("PUT", "/idle/rules", {"rules": RULES, "reason": "데모"})
        done(
            f"version {put['number']}, which acts: each step follows after one day; the defaults average 14 and wait 7"
        )


def days_pass(story: National) -> None:
    idle = idler_of(story)
    with story.step(f"Days pass; {idle.id} idles and is warned", "date; sacctmgr show qos; squeue") as done:
        rungs: list[str] = []
        for _ in range(MOST_DAYS):
            next_day(story)
            rung = _rung(story, idle)
            if rung not in ("regular", *rungs):
                rungs.append(rung)
                if rung == "warning":
                    story.picture("idle-warned", cast.login_of(house_of(idle.organisation), 0), f"/grants/{idle.id}")
                    story.picture("idle-grants", OFFICER, "/idle")
            if rung == RUNGS[-1]:
                break
        story.claim(tuple(rungs) == RUNGS, f"its steps were {', '.join(rungs) or 'none'}")
        others = [grant for grant in story.grants.values() if grant.id != idle.id and _rung(story, grant) != "regular"]
        story.claim(not others, f"{others and others[0].id} was warned, and its GPUs were held all the time")
        site = story.stage.sites[idle.cluster]
        left = story.until(
            lambda: gpus_of(story.limits(site).get(idle.qos, "")),
            lambda gpus: gpus < idle.gpus,
            f"the limit of {idle.qos} to shrink in Slurm",
            60,
        )
        today = story.ask(site, "date", "+%F").strip()
        done(f"{' -> '.join(rungs)}; on {today} Slurm's limit of {idle.qos} fell from {idle.gpus} to {left} GPUs")


def next_day(story: National) -> None:
    """The morning of the next day, in two steps, so that the sites have told of the day before when it is judged."""
    for hour in (BEFORE, AFTER):
        day = story.stage.today + timedelta(days=1) if hour == BEFORE else story.stage.today
        moment = datetime.combine(day, hour, KST)
        if moment > story.stage.now:
            story.stage.skip_to(moment)
        _settled(story, moment)


def _settled(story: National, since: datetime) -> None:
    """Every site has told its usage since then, and all jobs that ran still run."""
    for site in story.stage.sites.values():
        story.heard(site, since)
    for cluster, job in story.jobs.values():
        shown = story.job(story.stage.sites[cluster], job)
        story.claim(shown["JobState"] == "RUNNING", f"job {job} at {cluster} is {shown['JobState']}")


def _rung(story: National, grant: Held) -> str:
    """Where the grant stands on the ladder; at its top the GPUs are gone."""
    officer = story.visitor(OFFICER)
    if officer.ask(f"/grants/{grant.id}")["state"] != "active":
        return RUNGS[-1]
    for one in officer.all("/idle/grants"):
        if one["grant"] == grant.id:
            return str(one["rung"])
    return "regular"


def next_in_line(story: National) -> None:
    with story.step("Freed GPUs reach the waiting list", "sacctmgr show qos; squeue") as done:
        officer = story.visitor(OFFICER)
        offers = story.until(lambda: officer.all("/offers", state="made"), bool, "an offer to the waiting list", 60)
        told = []
        for offer in offers:
            held = take(story, offer)
            live(story, [held])
            has_login(story, story.stage.sites[held.cluster], held.login)
            start(story, held)
            told.append(
                f"{held.id} of {held.organisation} with {held.gpus} GPUs, its job {story.jobs[held.id][1]} runs"
            )
        story.picture("waiting-list", OFFICER, f"/awards/programmes/{cast.PROGRAMME}")
        done("; ".join(told))


CHAPTER = (rules_are_set, days_pass, next_in_line)
