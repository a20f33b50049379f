"""Every command of every program explains itself: what it does, each option, and an example."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from slurm_gpuaas.agent.main import command as agent
from slurm_gpuaas.cli.main import cli
from slurm_gpuaas.people.main import command as people
from slurm_gpuaas.portal.site_commands import group as sites


def leaves(context: click.Context) -> Iterator[click.Context]:
    command = context.command
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found, f"{context.command_path} lists {name}, which does not exist."
        if not found.hidden:
            yield from leaves(click.Context(found, parent=context, info_name=name))


PROGRAMS = (
    click.Context(cli, info_name="gpuaas"),
    click.Context(agent, info_name="gpuaas-agent"),
    click.Context(people, info_name="gpuaas-people"),
    click.Context(sites, info_name="gpuaas-portal site"),
)


@pytest.mark.parametrize(
    "leaf", [leaf for program in PROGRAMS for leaf in leaves(program)], ids=lambda leaf: leaf.command_path
)
def test_a_command_explains_itself(leaf: click.Context) -> None:
    command = leaf.command
    assert command.help, f"{leaf.command_path} has no help."
    silent = [p.opts[-1] for p in command.params if isinstance(p, click.Option) and not (p.help or p.hidden)]
    assert not silent, f"{leaf.command_path} does not say what {silent} do."
    assert "Example" in command.help, f"{leaf.command_path} has no example."
