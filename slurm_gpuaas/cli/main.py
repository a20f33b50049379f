"""`gpuaas`: one click group a file, imported only when it is called, so that `gpuaas --help` stays quick and commands
that need no daemon import nothing of it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from slurm_gpuaas import __version__
from slurm_gpuaas.api import DEFAULT_SOCKET
from slurm_gpuaas.cli.context import Session
from slurm_gpuaas.domain.errors import ExitCode, GpuaasError

GROUPS: Final[dict[str, tuple[str, str]]] = {
    "audit": ("slurm_gpuaas.cli.audit:group", "Who did what, why, with which evidence."),
    "budget": ("slurm_gpuaas.cli.budget:budget", "Budgets: awarded, used, left, and when they run dry."),
    "completion": ("slurm_gpuaas.cli.completion:completion", "Print the completion script of a shell."),
    "doctor": (
        "slurm_gpuaas.cli.doctor:doctor",
        "Which drivers, versions, permissions and plugins are found; what to do.",
    ),
    "health": ("slurm_gpuaas.cli.health:group", "What health policy does, would do, and how well it works."),
    "incident": (
        "slurm_gpuaas.cli.incident:group",
        "Hardware incidents: what happened, what was done, on which evidence.",
    ),
    "job": ("slurm_gpuaas.cli.job:group", "Submit jobs from templates; why a job waits."),
    "node": ("slurm_gpuaas.cli.node:group", "Nodes as Slurm and the health controller see them."),
    "placement": ("slurm_gpuaas.cli.placement:group", "Where the placement gate put jobs, and why there."),
    "policy": (
        "slurm_gpuaas.cli.policy:group",
        "Plan, apply and export the policy: organisations to grants.",
    ),
    "pool": (
        "slurm_gpuaas.cli.pool:group",
        "The pool: applications, offers, grants; what to award, what lies idle.",
    ),
    "project": ("slurm_gpuaas.cli.project:group", "Projects: limits, use and budget."),
    "quota": ("slurm_gpuaas.cli.quota:group", "Quotas: what they allow, why, and what would happen."),
    "rma": ("slurm_gpuaas.cli.rma:group", "Parts on their way to the manufacturer and back."),
    "spare": ("slurm_gpuaas.cli.spare:group", "Spare nodes: which, why so many, and who got some."),
    "status": ("slurm_gpuaas.cli.status:status", "Is gpuaasd well, and how does it reach Slurm."),
    "template": ("slurm_gpuaas.cli.template:group", "List, show and render sbatch templates."),
    "testbed": ("slurm_gpuaas.cli.testbed:group", "Real Slurm with simulated GPUs on one machine."),
    "topology": ("slurm_gpuaas.cli.topology:group", "The fabric: import, check, render; what could start now."),
    "usage": ("slurm_gpuaas.cli.usage:usage", "GPU-hours used, by project; how busy the GPUs were."),
    "xid": ("slurm_gpuaas.cli.xid:group", "Decode XID and SXid lines; the catalogue that decides."),
}
"""Command to (module:object, one line of help)."""


class LazyGroup(click.Group):
    """Loads a subcommand's module when it is used; its help line needs no import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        module, _, attribute = GROUPS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, GROUPS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpuaas")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="GPUAAS_SOCKET",
    default=DEFAULT_SOCKET,
    show_default=True,
    show_envvar=True,
    help="gpuaasd's socket.",
)
@click.option("--site", metavar="URL", envvar="GPUAAS_SITE", show_envvar=True, help="The pool's portal.")
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="GPUAAS_CA",
    show_envvar=True,
    help="Authorities that vouch for the portal (PEM), instead of the system's.",
)
@click.pass_context
def cli(ctx: click.Context, socket: Path, site: str | None, ca: Path | None) -> None:
    """GPU-as-a-Service on Slurm.

    \b
    Examples:
      gpuaas policy plan -f policy.yaml       what would change in Slurm
      gpuaas job submit torchrun --nodes 4 --script train.py
      gpuaas incident list --json
      gpuaas --site https://gpu.example.org pool grants
    """
    if ctx.obj is None:
        ctx.obj = Session.at(socket, site, ca)


def main(args: Sequence[str] | None = None, *, session: Session | None = None) -> None:
    """Entry point: failures become one sentence on stderr and a documented exit code.

    Args:
        args: the command line without the program's name; absent = the process's own.
        session: what commands work with; absent = gpuaasd at --socket.
    """
    try:
        # click hands back the code of `ctx.exit(code)`; what a command returns is of no interest.
        code = cli.main(args, prog_name="gpuaas", standalone_mode=False, obj=session)
        sys.stdout.flush()  # here, where a full disk is still a sentence
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except GpuaasError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.INVALID)
    except OSError as error:
        if os.environ.get("GPUAAS_DEBUG"):
            raise
        where = f"{error.filename}: " if error.filename else "A file or the output: "
        click.echo(f"Error: {where}{error.strerror or error}.", err=True)
        _drop_output()
        sys.exit(ExitCode.FAILED)
    except Exception as error:
        if os.environ.get("GPUAAS_DEBUG"):
            raise
        click.echo(
            f"Error: gpuaas met an error it did not expect ({type(error).__name__}: {error}). "
            "Run it again with GPUAAS_DEBUG=1 and report what it prints.",
            err=True,
        )
        sys.exit(ExitCode.FAILED)


def _drop_output() -> None:
    """What could not be written is not tried again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
