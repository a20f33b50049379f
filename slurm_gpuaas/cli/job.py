"""`gpuaas job`: submits templates as the caller. Needs Slurm's commands, not gpuaasd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import click

from slurm_gpuaas.cli.output import print_facts
from slurm_gpuaas.cli.template_options import TemplateGroup
from slurm_gpuaas.jobs.submission import submit
from slurm_gpuaas.jobs.templates import Template


@click.group()
def group() -> None:
    """Submit jobs from templates.

    \b
    Examples:
      gpuaas job submit torchrun --script train.py --nodes 4
      gpuaas job submit single-node --command "python3 eval.py" --gpus 2 --qos burst
      gpuaas job submit torchrun --script train.py --dry-run     print the script, submit nothing
    """


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
