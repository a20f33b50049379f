"""`gpuaas completion`: shell completion scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from slurm_gpuaas.domain.errors import InvalidInput


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      gpuaas completion bash > /etc/bash_completion.d/gpuaas
      gpuaas completion zsh > "${fpath[1]}/_gpuaas"
      gpuaas completion fish > ~/.config/fish/completions/gpuaas.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise InvalidInput(f"There is no completion for {shell}.")
    click.echo(kind(ctx.find_root().command, {}, "gpuaas", "_GPUAAS_COMPLETE").source())
