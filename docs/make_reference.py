"""Writes the reference pages that the code itself knows best: commands from click, configuration from pydantic.

Sphinx runs it before each build (conf.py); its output is never committed, so it cannot fall behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from slurm_gpuaas.agent.config import Config as AgentConfig
from slurm_gpuaas.agent.main import command as agent
from slurm_gpuaas.cli.main import cli
from slurm_gpuaas.daemon.config import Config as DaemonConfig
from slurm_gpuaas.people.main import Config as PeopleConfig
from slurm_gpuaas.people.main import command as people
from slurm_gpuaas.portal.config import Config as PortalConfig
from slurm_gpuaas.portal.main import command as portal

FOLDER = Path(__file__).with_name("reference") / "generated"


def commands() -> str:
    parts = ["# Commands\n\nEvery command says the same under `--help`.\n"]
    programs = (
        click.Context(cli, info_name="gpuaas"),
        click.Context(agent, info_name="gpuaas-agent"),
        click.Context(people, info_name="gpuaas-people"),
        click.Context(portal, info_name="gpuaas-portal"),
    )
    for context in (one for program in programs for one in _walk(program)):
        command = context.command
        if not isinstance(command, click.Group) or context.parent is None or command.invoke_without_command:
            level = "##" if context.parent is None or context.parent.parent is None else "###"
            parts.append(f"{level} `{context.command_path}`\n\n```text\n{context.get_help()}\n```\n")
        else:
            parts.append(f"## `{context.command_path}`\n\n{_paragraph(context.command.help)}\n")
    return "\n".join(parts)


def _walk(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command and not command.hidden:
                yield from _walk(click.Context(command, info_name=name, parent=context))


def _paragraph(text: str | None) -> str:
    return (text or "").split("\n\n")[0].replace("\n", " ").strip()


def configuration(program: str, file: str, config: type[BaseModel]) -> str:
    return (
        f"# {program} configuration\n\n{program} reads `{file}`. A key it does not know is an error.\n\n"
        "| key | default | meaning |\n| --- | --- | --- |\n" + "".join(_rows(config, ""))
    )


def _rows(config: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in config.model_fields.items():
        choices = get_args(field.annotation) or (field.annotation,)
        section = next((one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)), None)
        if section is None or section is not field.annotation:  # an optional section is a field as well
            meaning = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
            yield f"| `{prefix}{name}` | {_default(field.get_default(call_default_factory=True))} | {meaning} |\n"
        if section is not None:
            yield from _rows(section, f"{prefix}{name}.")


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), [], {}):
        return "none"
    shown = ", ".join(map(str, value)) if isinstance(value, tuple | list | frozenset) else str(value)
    return f"`{shown}`"


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in (
        ("commands", commands()),
        ("gpuaasd", configuration("gpuaasd", "/etc/gpuaas/gpuaasd.yaml", DaemonConfig)),
        ("gpuaas-people", configuration("gpuaas-people", "/etc/gpuaas-people.yaml", PeopleConfig)),
        ("gpuaas-portal", configuration("gpuaas-portal", "/etc/gpuaas/gpuaas-portal.yaml", PortalConfig)),
        ("gpuaas-agent", configuration("gpuaas-agent", "/etc/gpuaas/agent.yaml", AgentConfig)),
    ):
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
