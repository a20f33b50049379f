"""`gpuaas project`: what a project may use, uses, and has left."""

from __future__ import annotations

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.output import print_json, print_table


@click.group()
def group() -> None:
    """Projects: limits, use and budget.

    \b
    Example:
      gpuaas project list
    """


@group.command("list")
@as_json
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List projects: researchers see their own, administrators all.

    \b
    Examples:
      gpuaas project list
      gpuaas project list --json | jq '.[].grants'
    """
    with session.connect() as client:
        projects = client.projects()
    if as_json:
        print_json(projects)
        return
    print_table(
        ("project", "organisation", "#guaranteed", "#in use", "#burst", "#pending jobs", "budget left (GPU-h)"),
        (
            (
                p.name,
                p.organisation,
                p.guaranteed_gpus,
                p.in_use_guaranteed,
                p.in_use_burst,
                p.pending_jobs,
                None if p.budget is None else (p.budget.budget - p.budget.used) / 3600,
            )
            for p in projects
        ),
        empty="You are in no project; ask a cluster administrator.",
    )
