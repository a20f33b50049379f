"""`gpuaas template`: what can be submitted, and what would be. Needs neither Slurm nor gpuaasd."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click

from slurm_gpuaas.cli.output import print_table
from slurm_gpuaas.cli.template_options import TemplateGroup, library, usable
from slurm_gpuaas.jobs.templates import Template, option_of

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.group()
def group() -> None:
    """Job templates: list, show and render them.

    \b
    Examples:
      gpuaas template list
      gpuaas template show torchrun
      gpuaas template render torchrun --script train.py --nodes 4 > job.sh && sbatch job.sh
    """


@group.command("list")
@JSON
def list_templates(as_json: bool) -> None:
    """Names and titles.

    \b
    Examples:
      gpuaas template list
      gpuaas template list --json | jq -r '.[].name'
    """
    templates, faults = usable()
    for fault in faults:
        click.echo(f"! {fault}", err=True)
    if as_json:
        click.echo(json.dumps([{"name": t.name, "title": t.manifest.title} for t in templates], indent=2))
        return
    print_table(("template", "what it does"), [(t.name, t.manifest.title) for t in templates], empty="No template.")


@group.command()
@click.argument("template", shell_complete=lambda ctx, param, incomplete: library().names())
@JSON
def show(template: str, as_json: bool) -> None:
    """What TEMPLATE does and which parameters it takes.

    \b
    Examples:
      gpuaas template show torchrun
      gpuaas template show torchrun --json | jq .parameters.nodes
    """
    found = library().get(template)
    if as_json:
        document = {"name": found.name, **found.manifest.model_dump(exclude_unset=True)}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    click.echo(f"{found.name}: {found.manifest.title}\n\n{found.manifest.description}\n")
    print_table(
        ("option", "default", "value", "what it is"),
        (
            (
                option_of(name),
                "(required)" if parameter.required else None if parameter.default is None else str(parameter.default),
                parameter.wants,
                parameter.help,
            )
            for name, parameter in found.manifest.parameters.items()
        ),
        empty="It takes no option.",
    )


def _render(template: Template, given: Mapping[str, str]) -> None:
    click.echo(template.render(given), nl=False)


group.add_command(
    TemplateGroup(
        "render",
        action=_render,
        help="""Print the script of TEMPLATE, ready for sbatch; submit nothing.

        \b
        Example:
          gpuaas template render torchrun --script train.py --nodes 4 > job.sh && sbatch job.sh""",
    )
)
