"""Turns the templates' manifests into click commands: `--help`, completion and checks come from the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.jobs.templates import SHIPPED, ChoiceParameter, Library, Template, option_of

FOLDER_VARIABLE = "GPUAAS_JOB_TEMPLATES"


def library() -> Library:
    """The site's templates where the environment names a folder of them, the shipped ones otherwise."""
    return Library(Path(os.environ.get(FOLDER_VARIABLE) or SHIPPED))


def usable() -> tuple[list[Template], list[InvalidInput]]:
    """The library's templates, and what is wrong with those that cannot be used."""
    found: list[Template] = []
    faults: list[InvalidInput] = []
    chosen = library()
    for name in chosen.names():
        try:
            found.append(chosen.get(name))
        except InvalidInput as error:
            faults.append(error)
    return found, faults


class TemplateGroup(click.Group):
    """One subcommand a template, with an option for each of its parameters.

    Args:
        action: called with the template, the texts of the options that were given, and the values of `extra`.
        extra: options that every subcommand takes beside the template's own.
    """

    def __init__(
        self, name: str, *, action: Callable[..., None], extra: Sequence[click.Option] = (), help: str = ""
    ) -> None:
        super().__init__(name, subcommand_metavar="TEMPLATE [OPTIONS]", help=help)
        self._action = action
        self._extra = extra

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [template.name for template in usable()[0]]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # raises NotFound with the names there are, where click would only say "no such command"
        template = library().get(cmd_name)
        extra = {option.name for option in self._extra}

        def callback(**values: Any) -> None:
            own = {name: value for name, value in values.items() if name not in extra and value is not None}
            self._action(template, own, **{name: value for name, value in values.items() if name in extra})

        return click.Command(
            cmd_name,
            params=[*_options(template), *self._extra],
            callback=callback,
            help=f"{template.manifest.title}.\n\n{template.manifest.description}\n\n"
            f"\b\nExample:\n  {_example(ctx.command_path, template)}",
            short_help=template.manifest.title,
        )


def _example(command: str, template: Template) -> str:
    words = [command, template.name]
    for name, parameter in template.manifest.parameters.items():
        if parameter.required:
            words += [option_of(name), parameter.example]
    return " ".join(words)


def _options(template: Template) -> list[click.Option]:
    """Texts only: the manifest checks them, here as everywhere."""
    options = []
    for name, parameter in template.manifest.parameters.items():
        said = "required" if parameter.required else f"default: {parameter.default}" if parameter.default else ""
        choices = parameter.choices if isinstance(parameter, ChoiceParameter) else ()
        options.append(
            click.Option(
                [option_of(name), name],
                metavar="|".join(choices) or parameter.metavar,
                help=parameter.help + (f"  [{said}]" if said else ""),
                shell_complete=_completion(choices),
            )
        )
    return options


def _completion(choices: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    return lambda ctx, parameter, incomplete: [choice for choice in choices if choice.startswith(incomplete)]
