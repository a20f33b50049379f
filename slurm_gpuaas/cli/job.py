"""`gpuaas job`: submits templates as the caller, with Slurm's commands; says why a job waits, which gpuaasd knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_facts, print_json, shown
from slurm_gpuaas.cli.template_options import TemplateGroup
from slurm_gpuaas.jobs.submission import submit
from slurm_gpuaas.jobs.templates import Template


@click.group()
def group() -> None:
    """Submit jobs from templates, and ask why one waits.

    \b
    Examples:
      gpuaas job submit torchrun --script train.py --nodes 4
      gpuaas job submit single-node --command "python3 eval.py" --gpus 2 --qos burst
      gpuaas job submit torchrun --script train.py --dry-run     print the script, submit nothing
      gpuaas job why 1234
    """


@group.command()
@click.argument("job", metavar="JOBID", type=click.IntRange(1, 2**31))
@as_json
@pass_session
def why(session: Session, job: int, as_json: bool) -> None:
    """Say why a job waits, or where it runs and why there: Slurm's reason in words and the way out, what the placement
    gate decided, how many nodes it lacks and when enough are free by time limits, and which limit holds it.

    Asks gpuaasd. Researchers ask about their own jobs, administrators about all. Room is judged by nodes and GPUs, not
    by CPUs, memory or features.

    \b
    Examples:
      gpuaas job why 1234
      gpuaas job why 1234 --json | jq .room
    """
    with session.connect() as client:
        found = client.job_why(job)
    if as_json:
        print_json(found)
        return
    from slurm_gpuaas.cli.quota import explained  # which takes longer to import than most commands to run

    for line in (*found.says, *(explained(found.quota) if found.quota else ()), found.way_out):
        if line:
            click.echo(shown(line))


def _submit(template: Template, given: Mapping[str, str], *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        script = template.render(given)
        click.echo(json.dumps({"template": template.name, "script": script}) if as_json else script, nl=as_json)
        return
    submission = submit(template, given)
    if as_json:
        click.echo(json.dumps({"job_id": submission.job, "template": template.name, **asdict(submission.decided)}))
        return
    decided = asdict(submission.decided)
    print_facts([("job", str(submission.job)), *((name.replace("_", " "), value) for name, value in decided.items())])


group.add_command(
    TemplateGroup(
        "submit",
        action=_submit,
        extra=(
            click.Option(["--dry-run"], is_flag=True, help="Print the script and submit nothing."),
            click.Option(["--json", "as_json"], is_flag=True, help="One JSON document."),
        ),
        help="""Render TEMPLATE and submit it as you; shows the job's id and what was decided about it.

        \b
        Examples:
          gpuaas job submit torchrun --script train.py --nodes 4
          gpuaas job submit single-node --command "python3 eval.py" --gpus 2 --json""",
    )
)
