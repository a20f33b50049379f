"""`gpuaas testbed chaos`: a fault-injection campaign on real Slurm, with our layer and without it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict

import click
from rich.console import Console

from slurm_gpuaas.cli.output import print_facts, print_table
from slurm_gpuaas.domain.errors import ExitCode
from slurm_gpuaas.testbed.chaos import Result, campaign
from slurm_gpuaas.testbed.chaos_plan import PUBLISHED_RATE, Plan, make_plan
from slurm_gpuaas.testbed.machine import require_root
from slurm_gpuaas.testbed.profiles import PROFILES
from slurm_gpuaas.testbed.progress import shown

SINGLE = sorted(name for name, profile in PROFILES.items() if len(profile.clusters) == 1)


@click.command()
@click.option("--profile", type=click.Choice(SINGLE), default="haein", show_default=True, help="What to imitate.")
@click.option("--name", default="chaos", show_default=True, metavar="NAME", help="Its name on this host.")
@click.option("--hours", type=click.FloatRange(0.1, 240), default=2.5, show_default=True, help="Simulated hours.")
@click.option("--seed", type=int, default=1, show_default=True, help="Decides jobs, faults and kills.")
@click.option(
    "--compress",
    type=click.FloatRange(1, 600),
    default=60.0,
    show_default=True,
    help="Simulated seconds in a real one.",
)
@click.option(
    "--intensity",
    type=click.FloatRange(0, 100_000, min_open=True),
    default=600.0,
    show_default=True,
    help="How many times as often as published faults come.",
)
@click.option("--kill", is_flag=True, help="Also kill -9 daemons of Slurm and ours, at random.")
@click.option("--no-layer", is_flag=True, help="Only the run without the layer.")
@click.option("--dry-run", is_flag=True, help="Show the plan and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def chaos(
    profile: str,
    name: str,
    hours: float,
    seed: int,
    compress: float,
    intensity: float,
    kill: bool,
    no_layer: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Break simulated hardware under a job mix at published rates, with gpuaasd and then without, and compare.

    The seed decides everything; the faults are those of Llama 3's training, the lemons those of a B200 fleet. Without
    the layer, plain Slurm has a check every five minutes that drains. Ends with exit status 1 when a job was lost, a
    node was left drained or the ledger does not add up.

    \b
    Examples:
      gpuaas testbed chaos --profile haein --hours 2.5 --seed 7
      gpuaas testbed chaos --seed 7 --kill --json > chaos.json
      gpuaas testbed chaos --seed 7 --dry-run
    """
    cluster = PROFILES[profile].clusters[0]
    plan = make_plan(seed=seed, hours=hours, nodes=cluster.nodes, leaf=cluster.group, intensity=intensity, kill=kill)
    if dry_run:
        _print_plan(plan, tuple(cluster.node_names()), as_json)
        return
    require_root()
    with shown(Console(stderr=True)) as progress:
        results = [
            campaign(plan, profile=profile, name=name, layer=layer, compress=compress, progress=progress)
            for layer in ((False,) if no_layer else (True, False))
        ]
    if as_json:
        document = {
            "seed": seed,
            "hours": hours,
            "compress": compress,
            "intensity": intensity,
            "failures_per_1000_node_days": PUBLISHED_RATE,
            "results": [asdict(result) for result in results],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        _print_results(results)
    if any(result.layer and not result.good for result in results):
        sys.exit(ExitCode.FAILED)


def _print_plan(plan: Plan, names: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(plan), indent=2))
        return
    print_facts(
        [
            ("jobs", f"{len(plan.jobs)} of {sum(work.nodes for work in plan.jobs)} nodes in all"),
            (
                "faults",
                ", ".join(f"{n} {cause}" for cause, n in Counter(f.cause.name for f in plan.faults).most_common()),
            ),
            (
                "kills",
                ", ".join(f"{n} {service}" for service, n in Counter(k.service for k in plan.kills).items()) or "-",
            ),
            ("lemons", ", ".join(names[number] for number in plan.lemons)),
        ]
    )
    print_table(
        ("#minute", "cause", "nodes", "xids", "harm", "#repair min"),
        [
            (
                f"{fault.at / 60:.1f}",
                fault.cause.name,
                ", ".join(names[number] for number in fault.nodes),
                ", ".join(map(str, fault.signal.xids)) + (f" x{fault.lines}" if fault.lines > 1 else ""),
                fault.signal.harm.value,
                f"{fault.repair / 60:.0f}",
            )
            for fault in plan.faults
        ],
        empty="No fault in so short a time.",
    )


def _print_results(results: list[Result]) -> None:
    def hours(value: float) -> str:
        return f"{value:,.1f} GPU-h"

    rows: list[tuple[str, list[str]]] = [
        ("ETTR", [f"{one.ettr:.3f}" for one in results]),
        ("ETTR of a job on all nodes at the published rate", [f"{one.ettr_expected:.3f}" for one in results]),
        ("cost of a fault to all jobs", [f"{one.minutes_per_fault:.1f} min" for one in results]),
        ("jobs complete", [f"{one.complete} of {one.jobs}" for one in results]),
        ("jobs lost or stuck", [str(len({*one.lost_jobs, *one.stuck_jobs})) for one in results]),
        ("runs cut short", [str(one.restarts) for one in results]),
        ("productive", [hours(one.productive) for one in results]),
        ("lost on GPUs", [hours(one.lost) for one in results]),
        ("waited between runs", [hours(one.waiting) for one in results]),
        ("nodes out of service", [hours(one.out_of_service) for one in results]),
        ("faults (met a node already out)", [f"{one.faults} ({one.skipped})" for one in results]),
        ("services killed", [str(one.kills) for one in results]),
        ("ends that slurmctld forgot", [str(one.silent) for one in results]),
        ("nodes left drained", [", ".join(one.left_drained) or "none" for one in results]),
        ("healthy nodes drained", [", ".join(one.drained_healthy) or "none" if one.layer else "" for one in results]),
        ("incidents", [str(one.incidents) if one.layer else "" for one in results]),
        ("ledger", ["; ".join(one.ledger_faults) or "adds up" if one.layer else "" for one in results]),
        ("took", [f"{one.seconds:.0f} s" for one in results]),
    ]
    print_table(
        ("", *("#with the layer" if one.layer else "#without" for one in results)),
        [(title, *cells) for title, cells in rows],
        empty="",
    )
    if len(results) == 2:
        ours, plain = results
        click.echo(
            f"\nETTR {ours.ettr:.3f} against {plain.ettr:.3f}: {ours.ettr - plain.ettr:+.3f}; "
            f"GPU-hours lost and waited {ours.lost + ours.waiting:,.1f} against {plain.lost + plain.waiting:,.1f}."
        )
