"""`gpuaas quota`: what quotas allow, why, and what would happen."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import click
from pydantic import BaseModel

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.documents import read_one
from slurm_gpuaas.cli.output import print_facts, print_json, print_table
from slurm_gpuaas.quota.scenario import Scenario, ShareAnswer, rows_of
from slurm_gpuaas.quota.scenario import simulate as simulate_scenario

TEXT = click.File("r", encoding="utf-8")


@click.group()
def group() -> None:
    """Quotas: what they allow, why, and what would happen.

    \b
    Examples:
      gpuaas quota shares
      gpuaas quota simulate scenario.yaml
    """


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
@as_json
def replay(trace: Path, interval_min: int, reclaim_s: int, as_json: bool) -> None:
    """Say how many waiting GPU-hours of a TRACE lending would have recovered against fixed quotas.

    TRACE is a CSV or CSV.GZ table with a row for each minute and virtual cluster. Needs no Slurm. Figures are
    GPU-hours. docs/guides/quota-replay.md explains them, and what the replay leaves out.

    \b
    Examples:
      gpuaas quota replay helios_earth_vc_minutes.csv.gz
      gpuaas quota replay helios_earth_vc_minutes.csv.gz --interval 60 --json
    """
    # numpy takes longer to import than most commands to run
    from slurm_gpuaas.quota.replay import replay as replay_table
    from slurm_gpuaas.quota.replay_trace import read_minutes

    click.echo(f"Reading {trace} ...", err=True)
    table = read_minutes(trace)
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
    share = f"{found.lending_recovered_share:.4f}"
    print_facts((name, share if name == "lending_recovered_share" else value) for name, value in answer)
