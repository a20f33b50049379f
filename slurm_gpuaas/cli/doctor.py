"""`gpuaas doctor`: what is found of Slurm and of us, and what to do about each problem."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.domain.errors import ExitCode

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option(
    "--rest-socket",
    type=click.Path(path_type=Path),
    default=Path("/run/slurmrestd/slurmrestd.sock"),
    show_default=True,
    help="UNIX socket of slurmrestd.",
)
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path),
    default=Path("/run/gpuaas/snapshot"),
    show_default=True,
    help="The hook's snapshot.",
)
@as_json
@pass_session
def doctor(session: Session, rest_socket: Path, snapshot: Path, as_json: bool) -> None:
    """Check drivers, versions, permissions and plugins, and say what to do about each problem.

    Run it on slurmctld's host, as gpuaasd's user or as root. Exit code 1 when something failed.

    \b
    Examples:
      gpuaas doctor
      sudo -u gpuaas gpuaas doctor --json | jq '.findings[] | select(.level != "ok")'
    """
    from slurm_gpuaas.slurm import doctor as checks

    def daemon() -> checks.DaemonSeen:
        with session.connect() as client:
            status = client.status()
        driver = status.driver
        return checks.DaemonSeen(
            version=status.version, driver=driver.name, fallback=driver.fallback, reason=driver.reason
        )

    facts = checks.examine(rest_socket, snapshot=snapshot, now=datetime.now(UTC), daemon=daemon)
    found = checks.findings(facts)
    if as_json:
        document = {"sound": checks.sound(found), "findings": [asdict(finding) for finding in found]}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        widest = max(len(finding.check) for finding in found)
        for finding in found:
            level = click.style(f"{finding.level:<4}", fg=_COLOURS[finding.level], bold=True)
            click.echo(f"{level}  {finding.check:<{widest}}  {finding.says}")
            if finding.way_out:
                click.echo(f"{'':<{widest + 8}}-> {finding.way_out}")
    if not checks.sound(found):
        sys.exit(ExitCode.FAILED)
