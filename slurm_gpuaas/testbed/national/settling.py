"""Last part: jobs and the month end, statements come, and every GPU-second of them is one of Slurm's."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.national.calling import house_of
from slurm_gpuaas.testbed.national.story import AUDITOR, DIRECTOR, National, gpus_of, spread

MORNING: Final = time(10, 0)
SINCE: Final = timedelta(days=90)
BOOKED_WITHIN_S: Final = 120.0


def work_ends(story: National) -> None:
    with story.step("The jobs end", "scancel; sacct") as done:
        for grant, (cluster, job) in story.jobs.items():
            story.ask(story.stage.sites[cluster], "scancel", str(job), user=story.grants[grant].login)
        for cluster, job in story.jobs.values():
            _over(story, story.stage.sites[cluster], job)
        over = story.stage.now
        for site in story.stage.sites.values():
            story.heard(site, over)
        hours = sum(seconds_of_slurm(story, site).total() for site in story.stage.sites.values()) / 3600
        done(f"{len(story.jobs)} jobs are over; sacct has {hours:,.0f} GPU-hours of all grants")
        story.jobs.clear()


def _over(story: National, site: Instance, job: int) -> None:
    story.until(
        lambda: story.ask(site, "sacct", "-nXP", "-j", str(job), "-o", "State,End"),
        lambda row: bool(row) and "Unknown" not in row,
        f"the end of job {job} in Slurm's accounting",
        60,
    )


def month_ends(story: National) -> None:
    with story.step("The month ends; statements equal Slurm's accounting", "sacct -aX") as done:
        first = (story.stage.today.replace(day=1) + timedelta(days=32)).replace(day=1)
        story.stage.skip_to(datetime.combine(first, MORNING, KST))
        wanted = {cluster: seconds_of_slurm(story, site) for cluster, site in story.stage.sites.items()}
        stated = story.until(
            lambda: stated_seconds(story), lambda found: found == wanted, "statements to equal sacct", BOOKED_WITHIN_S
        )
        total = sum(one.total() for one in stated.values())
        for month in sorted({head["month"] for head in story.visitor(DIRECTOR).all("/statements/drafts")}):
            story.stage.portal.command_line("close-month", month)  # earlier ones the portal has closed by itself
        story.until(lambda: stated_seconds(story), lambda found: found == wanted, "closed months to say the same")
        heads = story.visitor(DIRECTOR).all("/statements")
        months = sorted({head["month"] for head in heads})
        won = sum(head["supply"] for head in heads)
        dearest = max(heads, key=lambda head: (head["supply"], head["number"]))
        payer = cast.login_of(house_of(dearest["organisation"]), 0)
        story.picture("statements", payer, "/statements")
        story.picture("statement", payer, f"/statements/{dearest['number']}")
        story.picture("statement-en", payer, f"/statements/{dearest['number']}", language="en")
        story.picture("reports", DIRECTOR, "/reports")
        counts = Counter({cluster: one.total() for cluster, one in wanted.items()})
        done(
            f"{len(heads)} statements of {', '.join(months)} with {total:,} GPU-seconds, sacct has the same by cluster "
            f"and account ({spread(counts)}); {won:,} Won of supply value"
        )


def statements(story: National) -> list[dict[str, Any]]:
    """Heads of all, issued or not yet."""
    director = story.visitor(DIRECTOR)
    return [*director.all("/statements"), *director.all("/statements/drafts")]


def stated_seconds(story: National) -> dict[str, Counter[str]]:
    """GPU-seconds by cluster and project, as all statements say together; none at all where a month was closed
    meanwhile: what was a draft when it was listed is a statement of another number then."""
    director = story.visitor(DIRECTOR)
    found: dict[str, Counter[str]] = {cluster: Counter() for cluster in story.stage.sites}
    for head in statements(story):
        statement = director.find(f"/statements/{head['number']}")
        if statement is None:
            return {}
        for line in statement["lines"]:
            if line["gpu_seconds"]:
                found[head["provider"]][line["project"]] += line["gpu_seconds"]
    return found


def seconds_of_slurm(story: National, site: Instance) -> Counter[str]:
    """GPU-seconds by account of all jobs of grants, by `sacct`, each requeue by itself."""
    projects = {grant.project for grant in story.grants.values() if grant.cluster == site.cluster.name}
    since = (datetime.now(UTC) - SINCE).strftime("%Y-%m-%d")
    found: Counter[str] = Counter()
    for account, elapsed, tres in story.rows(
        site, "sacct", "-nPDXa", "-S", since, "-o", "Account,ElapsedRaw,AllocTRES"
    ):
        if account in projects and int(elapsed):
            found[account] += int(elapsed) * gpus_of(tres)
    return found


def audit_is_whole(story: National) -> None:
    with story.step("The audit trail is whole", "-") as done:
        said = story.stage.portal.command_line("audit", "verify")
        story.picture("audit", AUDITOR, "/audit")
        done(" ".join(said.split()))


CHAPTER = (month_ends, audit_is_whole)
