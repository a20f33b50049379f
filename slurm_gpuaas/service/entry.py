"""How a program ends: failures become one sentence on stderr and a documented exit code."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click
import structlog

from slurm_gpuaas.domain.errors import ExitCode, GpuaasError

log = structlog.get_logger(__name__)


def run(command: click.Command, name: str) -> NoReturn:
    """Run a program's command and end with its exit code.

    Raises:
        Exception: what was not expected, with GPUAAS_DEBUG set; without it one sentence tells of it.
    """
    try:
        sys.exit(command.main(prog_name=name, standalone_mode=False))
    except GpuaasError as error:
        click.echo(f"{name}: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.INVALID)
    except Exception as error:
        if os.environ.get("GPUAAS_DEBUG"):
            raise
        if structlog.is_configured():
            log.critical("crashed", exc_info=True)  # systemd starts us again, so the log must say why
        click.echo(
            f"{name}: It met an error it did not expect ({type(error).__name__}: {error}). "
            "Run it again with GPUAAS_DEBUG=1 and report what it prints.",
            err=True,
        )
        sys.exit(ExitCode.FAILED)
