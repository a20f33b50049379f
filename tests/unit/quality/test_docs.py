"""What the documentation names exists: files behind links, commands and options of `gpuaas`, targets of make."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from slurm_gpuaas.agent.main import command as agent
from slurm_gpuaas.cli.main import cli

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in ROOT.glob("docs/**/*.md") if "_build" not in page.parts)])
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)")
FENCE = re.compile(r"^ *```(\S*)\n(.*?)^ *```", re.M | re.S)
SHELLS = {"", "sh", "bash", "console"}
SHELL_ENDS = {"|", "||", "&&", ";", ">", ">>", "<", "&"}

PROGRAMS: dict[str, click.Command] = {"gpuaas": cli, "gpuaas-agent": agent}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def command_lines(page: Path, program: str) -> Iterator[list[str]]:
    """Words of each line in the page's code blocks that runs the program, without `sudo`, prompt and folder."""
    blocks = [block for language, block in FENCE.findall(page.read_text()) if language in SHELLS]
    for block in blocks:
        for line in map(str.strip, block.replace("\\\n", " ").splitlines()):
            words = shlex.split(line.removeprefix("$ "), comments=True) if program in line else []
            if words[:1] == ["sudo"]:
                words = words[1:]
            if words and words[0].rpartition("/")[2] == program:
                ends = [index for index, word in enumerate(words) if word in SHELL_ENDS]
                yield words[1 : ends[0] if ends else None]


def unknown_part(words: list[str], program: str = "gpuaas") -> str | None:
    """The first word that no command of the program knows, given its words after the program's name."""
    command: click.Command = PROGRAMS[program]
    context = click.Context(command, info_name=program)
    is_value = False
    for index, word in enumerate(words):
        if is_value:
            is_value = False
            continue
        if word == "--":
            inner = words[index + 1 :]
            return unknown_part(inner[1:], inner[0]) if inner and inner[0] in PROGRAMS else None
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(context, word)
            if found is None:
                return " ".join(words[: index + 1])
            command, context = found, click.Context(found, parent=context, info_name=word)
        elif word.startswith("--"):
            options = {name: parameter for parameter in command.get_params(context) for name in parameter.opts}
            option = options.get(word)
            is_value = isinstance(option, click.Option) and not option.is_flag
            passes_on = command.context_settings.get("ignore_unknown_options", False)
            if word.partition("=")[0] not in options and not passes_on:
                return f"{context.command_path} {word}"
    return None


@each_page
def test_relative_links_lead_to_files(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing, f"{page.relative_to(ROOT)} links to what does not exist: {missing}"


@each_page
@pytest.mark.parametrize("program", PROGRAMS)
def test_commands_in_code_blocks_exist(page: Path, program: str) -> None:
    unknown = [part for words in command_lines(page, program) if (part := unknown_part(words, program))]
    assert not unknown, f"{page.relative_to(ROOT)} shows commands that do not exist: {unknown}"


@each_page
def test_make_targets_in_code_blocks_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    used = {word for words in command_lines(page, "make") for word in words if "=" not in word}
    assert used <= targets, f"{page.relative_to(ROOT)} names make targets that do not exist: {sorted(used - targets)}"


def test_pages_that_the_code_refers_to_exist() -> None:
    sources = [file for folder in ("slurm_gpuaas", "plugins", "etc", "tests") for file in (ROOT / folder).rglob("*.*")]
    named = {
        (page, str(file.relative_to(ROOT)))
        for file in sources
        if file.suffix in {".py", ".lua", ".c", ".yaml", ".j2"}
        for page in re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text())
    }
    missing = sorted(f"{file}: {page}" for page, file in named if not (ROOT / page).is_file())
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("name", ["loop", "processes", "fabric"])
def test_a_picture_is_what_its_script_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = ROOT / "docs" / "pictures"
    monkeypatch.syspath_prepend(str(pictures))
    drawn = runpy.run_path(str(pictures / f"make_{name}.py"))["picture"]()
    assert drawn == (pictures / f"{name}.svg").read_text(), f"Run docs/pictures/make_{name}.py."
