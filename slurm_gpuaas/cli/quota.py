"""`gpuaas quota`: what quotas allow, why, and what would happen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click
from pydantic import BaseModel

from slurm_gpuaas.api.models import QuotaExplanation
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.documents import read_one
from slurm_gpuaas.cli.output import print_facts, print_json, print_table, shown
from slurm_gpuaas.domain.errors import ExitCode
from slurm_gpuaas.quota.scenario import Scenario, ShareAnswer, rows_of
from slurm_gpuaas.quota.scenario import simulate as simulate_scenario

if TYPE_CHECKING:
    from slurm_gpuaas.quota.replay import MinuteTable
    from slurm_gpuaas.quota.replay_jobs import TraceJob

TEXT = click.File("r", encoding="utf-8")


@click.group()
def group() -> None:
    """Quotas: what they allow, why, and what would happen.

    \b
    Examples:
      gpuaas quota shares
      gpuaas quota explain --gpus 16 --time 4:00:00
      gpuaas quota simulate scenario.yaml
    """


class SlurmTime(click.ParamType[int]):
    """A time limit as sbatch takes it, in whole minutes (seconds count as one more)."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _TIME.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no time; write minutes, hours:minutes:seconds or days-hours:minutes.", param, ctx)
        days, first, second, third = (int(part or 0) for part in found.groups())
        if found[1] is not None:
            seconds = ((days * 24 + first) * 60 + second) * 60 + third
        elif found[4] is not None:
            seconds = (first * 60 + second) * 60 + third
        else:
            seconds = first * 60 + second
        if not seconds:
            self.fail("A job needs at least a second.", param, ctx)
        return ceil(seconds / 60)


_TIME: Final = re.compile(r"(?:(\d{1,4})-)?(\d{1,7})(?::(\d{1,2}))?(?::(\d{1,2}))?")


@group.command()
@click.option("--user", help="Whose job; by default yours. Others: administrators.")
@click.option("--project", help="Slurm account; by default the user's own default.")
@click.option("--gpus", type=click.IntRange(1, 1_000_000), required=True, help="GPUs in all.")
@click.option("--model", help="GPU model; by default the share's.")
@click.option("--time", "minutes", type=SlurmTime(), help="Time limit as for sbatch: 30, 4:00:00, 2-0.")
@click.option("--nodes", type=click.IntRange(1, 1_000_000), help="By default as few as hold the GPUs.")
@click.option("--qos", help="By default the user's own default.")
@as_json
@pass_session
def explain(
    session: Session,
    user: str | None,
    project: str | None,
    gpus: int,
    model: str | None,
    minutes: int | None,
    nodes: int | None,
    qos: str | None,
    as_json: bool,
) -> None:
    """Say what limits in Slurm would make of a job now: whether it starts, waits or is refused, and why.

    Evaluates Slurm's order of precedence over what stands in Slurm: limits of the partition's QOS, the job's QOS, the
    user and the accounts above, and what is in use. The reason is the word that squeue prints. Also says which limits
    are set and do not hold, and what would start. Nothing is submitted.

    \b
    Examples:
      gpuaas quota explain --gpus 16 --time 4:00:00
      gpuaas quota explain --user alice --project vision --gpus 64 --qos burst-haein-own
      gpuaas quota explain --gpus 8 --json | jq '.sides[0].bites'
    """
    with session.connect() as client:
        found = client.quota_explain(
            user=user, project=project, gpus=gpus, model=model, nodes=nodes, minutes=minutes, qos=qos
        )
    if as_json:
        print_json(found)
        return
    for line in explained(found):
        click.echo(line)
    side = found.sides[0]
    if side.bites:
        click.echo()
        print_table(
            ("limit", "of", "#is", "#in use", "#asked", "reason"),
            (
                (_limit(bite.kind, bite.tres), bite.holder, bite.limit, bite.in_use, bite.asked, bite.reason)
                for bite in side.bites
            ),
            empty="",
        )
    if side.hidden:
        click.echo()
        print_table(
            ("set, and not held", "of", "#is", "why"),
            ((_limit(one.kind, one.tres), one.holder, one.limit, one.why) for one in side.hidden),
            empty="",
        )
    for one in side.unjudged:
        click.echo(f"Not judged: {shown(one)}")


def explained(found: QuotaExplanation) -> Iterator[str]:
    """The verdict in sentences, and the way out."""
    side, others = found.sides[0], found.sides[1:]
    job = f"{found.gpus} GPUs on {found.nodes} node{'s' if found.nodes > 1 else ''} as {side.qos}"
    match side.outcome:
        case "start":
            yield f"{job}: starts now{', and preemptible jobs give way' if side.preempts else ''}."
        case "refuse":
            yield f"{job}: is refused at submission with {side.reason}."
        case _ if side.reason == "Resources":
            yield f"{job}: waits for GPUs (Resources or Priority); no limit stands in the way."
        case _:
            yield f"{job}: waits with {side.reason}."
    if side.bites:
        bite = side.bites[0]
        use = "" if bite.in_use is None else f", {bite.in_use:,} in use"
        what = _limit(bite.kind, bite.tres)
        if what:
            yield f"{bite.holder} has {what}={bite.limit:,}{use}; the job asks for {bite.asked:,}."
        yield (
            f"As {side.qos} at most {side.largest:,} GPUs would start now."
            if side.largest
            else (f"As {side.qos} nothing of this shape would start now.")
        )
    for other in others:
        if side.outcome != "start" and other.outcome == "start":
            yield f"As {other.qos} it would start now: --qos={other.qos}."


def _limit(kind: str, tres: str) -> str:
    return " ".join(filter(None, (kind, tres)))


@group.command()
@as_json
@pass_session
def check(session: Session, as_json: bool) -> None:
    """Check that limits in Slurm do what the policy relies on, for all projects that you may see.

    Finds limits that are missing or looser than the policy, limits that another one hides, ceilings that do not hold
    in every order of jobs, and guarantees above the GPUs in service. Exits with 1 when anything is found.

    \b
    Examples:
      gpuaas quota check
      gpuaas quota check --json | jq '.[] | select(.fault == "hidden")'
    """
    with session.connect() as client:
        found = client.quota_check()
    if as_json:
        print_json(found)
    else:
        print_table(
            ("fault", "where", "what", "way out"),
            ((one.fault, one.where, one.what, one.way_out) for one in found),
            empty="Every limit that the policy relies on stands in Slurm and holds.",
        )
    if found:
        raise SystemExit(ExitCode.FAILED)


@group.command()
@as_json
@pass_session
def shares(session: Session, as_json: bool) -> None:
    """Show who is guaranteed, uses, borrows and lends how many GPUs now.

    Researchers see their own projects. `fair share` is what a tenant should have now, of its guarantee and of what
    others leave idle; `may borrow` is what it could start as burst right now.

    \b
    Examples:
      gpuaas quota shares
      gpuaas quota shares --json | jq '.[].tenants[] | select(.borrowed > 0)'
    """
    with session.connect() as client:
        found = client.quota_shares()
    if as_json:
        print_json(found)
        return
    columns = ("guaranteed", "honoured", "fair_share", "in_use", "borrowed", "lent", "may_borrow")
    print_table(
        ("share", "tenant", *(f"#{name.replace('_', ' ')}" for name in columns)),
        (
            (
                f"{share.pool}/{share.share}",
                f"  {tenant.name}" if tenant.project else tenant.name,
                *(getattr(tenant, name) for name in columns),
            )
            for share in found
            for tenant in share.tenants
        ),
        empty="No project of yours has a grant on this cluster.",
    )


@group.command()
@click.argument("scenario", type=TEXT)
@as_json
def simulate(scenario: IO[str], as_json: bool) -> None:
    """Decide on the waiting jobs of a SCENARIO (YAML or JSON; - for standard input) as the daemon would.

    Needs no Slurm and changes nothing. Shares are of the moment before the decisions. docs/guides/quota.md
    explains the fields and the rules.

    \b
    Example scenario:
      capacity: {b200: 32}
      tenants:
        - {name: vision, guaranteed: 16}
        - {name: speech, guaranteed: 8, borrow_limit: 8}
        - {name: robots, guaranteed: 8, weight: 2}
      options: {min_run_s: 60}
      running:
        - {id: a, tenant: speech, gpus: 16, as: burst, age_s: 600}
        - {id: b, tenant: robots, gpus: 8, age_s: 90}
      pending:
        - {id: c, tenant: vision, gpus: 16}

    \b
    Examples:
      gpuaas quota simulate scenario.yaml
      gpuaas quota simulate scenario.yaml --json | jq .decisions
    """
    answer = simulate_scenario(read_one(scenario, Scenario))
    if as_json:
        print_json(answer)
        return
    columns = (f"#{name.replace('_', ' ')}" for name in ShareAnswer.model_fields)
    print_table(["tenant", *columns], rows_of(answer), empty="No tenant.")
    click.echo()
    print_table(
        ["job", "action", "as", "preempts", "why"],
        ((one.job, one.action, one.service, " ".join(one.preempts) or None, one.why) for one in answer.decisions),
        empty="No job waits.",
    )
    for alert in answer.alerts:
        click.echo(f"! {alert.why}", err=True)


class ReplayAnswer(BaseModel):
    """What `replay` prints; GPU-hours where nothing else is said (see `quota.replay.Recovery`)."""

    interval_min: int
    reclaim_s: int
    pending: float
    own_idle: float
    bound: float
    recovered: float
    lending_recovered_share: float
    evicted: float
    reclaimed_gpus: int
    owner_wait: float
    longest_owner_wait_s: int
    churn_gpus: int
    changed_limits_a_day: float


class TenantAnswer(BaseModel):
    """Mean seconds that its jobs waited (see `quota.replay_jobs.TenantReplay`)."""

    tenant: str
    guaranteed: int
    jobs: int
    fixed_s: float
    lending_s: float
    worse: bool


class JobsReplayAnswer(BaseModel):
    """What `replay` prints for jobs; GPU-hours where nothing else is said (see `quota.replay_jobs.JobsReplay`)."""

    interval_min: int
    reclaim_s: int
    checkpoint_min: int | None
    percentile: int
    gpus: int
    fixed: float
    lending: float
    pooled: float
    bound: float
    recovered: float
    lending_recovered_share: float
    evicted: float
    evictions: int
    longest_owner_wait_s: int
    tenants_worse: int
    jobs_worse: int
    longest_worse_s: int
    churn_gpus: int
    changed_limits_a_day: float
    tenants: list[TenantAnswer]


@group.command()
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--interval",
    "interval_min",
    type=click.IntRange(1, 10_080),
    default=5,
    show_default=True,
    help="Minutes between decisions.",
)
@click.option(
    "--reclaim-time",
    "reclaim_s",
    type=click.IntRange(0, 60),
    default=60,
    show_default=True,
    help="Seconds until an owner has its lent GPUs back.",
)
@click.option(
    "--checkpoint",
    "checkpoint_min",
    type=click.IntRange(1, 10_080),
    default=None,
    help="Jobs: minutes between checkpoints.  [default: none is written]",
)
@click.option(
    "--percentile",
    type=click.IntRange(1, 100),
    default=None,
    help="Jobs: % of the time that a guarantee covers its virtual cluster's demand.  [default: 95]",
)
@as_json
def replay(
    trace: Path,
    interval_min: int,
    reclaim_s: int,
    checkpoint_min: int | None,
    percentile: int | None,
    as_json: bool,
) -> None:
    """Say how many waiting GPU-hours of a TRACE lending would have recovered against fixed quotas.

    TRACE is a CSV or CSV.GZ table with a row for each minute and virtual cluster, or for each job. Needs no Slurm.
    Figures are GPU-hours. docs/guides/quota-replay.md explains them, and what the replay leaves out.

    \b
    Examples:
      gpuaas quota replay helios_earth_vc_minutes.csv.gz
      gpuaas quota replay helios_earth_vc_minutes.csv.gz --interval 60 --json
      gpuaas quota replay philly_jobs.csv.gz --percentile 90
    """
    # numpy takes longer to import than most commands to run
    from slurm_gpuaas.quota.replay import MinuteTable
    from slurm_gpuaas.quota.replay_jobs import COVERED
    from slurm_gpuaas.quota.replay_trace import read_trace

    click.echo(f"Reading {trace} ...", err=True)
    read = read_trace(trace)
    if isinstance(read, MinuteTable):
        if checkpoint_min is not None or percentile is not None:
            raise click.UsageError("--checkpoint and --percentile are for lists of jobs; TRACE is a table of minutes.")
        _replay_minutes(read, interval_min, reclaim_s, as_json=as_json)
    else:
        _replay_jobs(read, interval_min, reclaim_s, checkpoint_min, percentile or COVERED, as_json=as_json)


def _replay_minutes(table: MinuteTable, interval_min: int, reclaim_s: int, *, as_json: bool) -> None:
    from slurm_gpuaas.quota.replay import replay as replay_table

    click.echo(f"Replaying {len(table.running):,} minutes of {len(table.tenants)} tenants ...", err=True)
    found = replay_table(table, interval_min=interval_min, reclaim_s=reclaim_s)
    answer = ReplayAnswer(
        interval_min=interval_min,
        reclaim_s=reclaim_s,
        pending=found.pending,
        own_idle=found.own_idle,
        bound=found.bound,
        recovered=found.recovered,
        lending_recovered_share=found.lending_recovered_share,
        evicted=found.evicted,
        reclaimed_gpus=found.reclaimed,
        owner_wait=found.owner_wait,
        longest_owner_wait_s=reclaim_s if found.owner_wait else 0,
        churn_gpus=found.churn_gpus,
        changed_limits_a_day=found.changed_limits_a_day,
    )
    if as_json:
        print_json(answer)
        return
    _print_figures(answer)


def _replay_jobs(
    jobs: Sequence[TraceJob],
    interval_min: int,
    reclaim_s: int,
    checkpoint_min: int | None,
    percentile: int,
    *,
    as_json: bool,
) -> None:
    from slurm_gpuaas.quota.replay_jobs import Rules, replay_jobs

    click.echo(f"Replaying {len(jobs):,} jobs; this can take minutes ...", err=True)
    rules = Rules(
        interval_s=interval_min * 60,
        reclaim_s=reclaim_s,
        checkpoint_s=None if checkpoint_min is None else checkpoint_min * 60,
        percentile=percentile,
    )
    found = replay_jobs(jobs, rules)
    answer = JobsReplayAnswer(
        interval_min=interval_min,
        reclaim_s=reclaim_s,
        checkpoint_min=checkpoint_min,
        percentile=percentile,
        gpus=sum(one.guaranteed for one in found.tenants),
        fixed=found.fixed,
        lending=found.lending,
        pooled=found.pooled,
        bound=found.bound,
        recovered=found.recovered,
        lending_recovered_share=found.lending_recovered_share,
        evicted=found.evicted,
        evictions=found.evictions,
        longest_owner_wait_s=found.longest_owner_wait_s,
        tenants_worse=found.tenants_worse,
        jobs_worse=found.jobs_worse,
        longest_worse_s=found.longest_worse_s,
        churn_gpus=found.churn_gpus,
        changed_limits_a_day=found.changed_limits_a_day,
        tenants=[TenantAnswer.model_validate(one, from_attributes=True) for one in found.tenants],
    )
    if as_json:
        print_json(answer)
        return
    _print_figures(answer)
    click.echo()
    print_table(
        ("tenant", "#guaranteed", "#jobs", "#fixed_s", "#lending_s", "worse"),
        ((one.tenant, one.guaranteed, one.jobs, one.fixed_s, one.lending_s, one.worse) for one in answer.tenants),
        empty="No tenants.",
    )


def _print_figures(answer: ReplayAnswer | JobsReplayAnswer) -> None:
    print_facts(
        (name, f"{value:.4f}" if name == "lending_recovered_share" else value)
        for name, value in answer
        if name != "tenants"
    )
