"""`gpuaas pool idle`: what the rules for unused grants would have done."""

from __future__ import annotations

from typing import IO

import click

from slurm_gpuaas.cli.context import as_json
from slurm_gpuaas.cli.documents import read_one
from slurm_gpuaas.cli.output import print_facts, print_json, print_table
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.pool.idle_rules import IdleRules, Rung


@click.command()
@click.option(
    "--uses",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="Days of use, one row a grant and day (CSV with a header, or JSON; - for stdin).",
)
@click.option(
    "--rules",
    type=click.File("r", encoding="utf-8"),
    help="Rules (YAML or JSON); without it the defaults, all of them.",
)
@click.option(
    "--dry-run", is_flag=True, help="Only say what would have happened; from files nothing else can be asked."
)
@as_json
def idle(uses: IO[str], rules: IO[str] | None, dry_run: bool, as_json: bool) -> None:
    """Replay days of use under the rules for unused grants: who is warned, what is freed, who is hit wrongly.

    Use goes on as recorded, as if nobody read the mails; so it counts too many recalls rather than too few.
    docs/guides/idle.md explains rows and rules.

    \b
    Example rows:
      grant,day,gpus,allocated_gpu_hours,busy_gpu_hours,peak_gpus
      vision,2026-05-06,32,120.5,80,16
      speech,2026-05-06,64,,,

    \b
    Examples:
      gpuaas pool idle --uses uses.csv --dry-run
      gpuaas pool idle --uses uses.csv --rules rules.yaml --dry-run --json | jq .hits
    """
    from slurm_gpuaas.pool.idle_file import answer_of, read_uses
    from slurm_gpuaas.pool.idle_replay import replay

    if not dry_run:
        raise InvalidInput("Files hold no grant that could be warned or recalled.", way_out="Add --dry-run.")
    found = replay(read_uses(uses), IdleRules() if rules is None else read_one(rules, IdleRules))
    answer = answer_of(found)
    if as_json:
        print_json(answer)
        return
    print_facts(
        [
            ("grants", answer.grants),
            ("days", answer.days),
            ("awarded", f"{answer.awarded_gpu_days:,} GPU-days"),
            ("unused", f"{answer.unused_gpu_days:,} GPU-days that no job held"),
            *((rung.value, answer.steps_by_rung.get(rung, 0)) for rung in Rung if rung is not Rung.REGULAR),
            ("let go", answer.steps_by_rung.get(Rung.REGULAR, 0)),
            ("freed", f"{answer.freed_gpu_days:,} GPU-days"),
            ("hit wrongly", f"{answer.wrongly} grants, {answer.wanted_gpu_days:,} GPU-days used later"),
        ]
    )
    click.echo()
    print_table(
        ["day", "grant", "#GPUs", "#keeps", "#freed GPU-days", "#used later", "wrongly", "why"],
        (
            (hit.day.isoformat(), hit.grant, hit.gpus, hit.keeps, hit.freed, hit.wanted, hit.wrongly, hit.why)
            for hit in answer.hits
        ),
        empty="Nothing would be taken from anybody.",
    )
