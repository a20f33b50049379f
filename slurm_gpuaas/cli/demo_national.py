"""`gpuaas testbed demo-national`: three Slurm clusters and a portal, from application to statement."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import click
from rich.console import Console

from slurm_gpuaas.cli.demo import PLAIN_WIDTH
from slurm_gpuaas.testbed.machine import require_root
from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.national.pictures import chromium
from slurm_gpuaas.testbed.national.play import play
from slurm_gpuaas.testbed.national.stage import SIZES, Stage
from slurm_gpuaas.testbed.national.story import DIRECTOR, PASSWORD, National
from slurm_gpuaas.testbed.progress import shown


@click.command("demo-national")
@click.option("--name", default="national", show_default=True, metavar="NAME", help="Stem of its names on this host.")
@click.option(
    "--size",
    type=click.Choice(sorted(SIZES, reverse=True)),
    default="small",
    show_default=True,
    help="small: 80 nodes, 640 GPUs; full: all 1,642 nodes, 13,136 GPUs (about 10 GiB of memory).",
)
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/demo-national"),
    show_default=True,
    help="Folder for screenshots.",
)
@click.option("--no-pictures", is_flag=True, help="Take none; Chromium is not needed then.")
def demo_national(name: str, size: str, pictures: Path, no_pictures: bool) -> None:
    """Boot three Slurm clusters and a portal, and live through a programme: 40 applications, reviews, an award, grants
    in three Slurms, jobs, a site cut off, the portal killed, a grant that idles and whose GPUs reach the waiting list,
    the portal lost and restored from a backup, statements.

    Every step is verified by asking Slurm itself; one whose real state is not what it claims ends the demo with an
    error. Days are skipped by setting the clocks of all machines ahead together (the host's stays as it is); what runs
    then has run through these days, in Slurm's accounting too. What it starts stays up.

    \b
    Examples:
      gpuaas testbed demo-national
      gpuaas testbed demo-national --size full
      gpuaas testbed exec --name national-nhn -- squeue
      gpuaas testbed down --name national-portal --name national-naver --name national-kakao --name national-nhn
    """
    require_root()
    with shown(Console(stderr=True)) as progress:
        stage = Stage.up(name, size, progress)
    output = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    browser = nullcontext() if no_pictures else chromium(pictures, url=stage.portal.url, password=PASSWORD)
    with browser as taken:
        story = National(output, stage, taken)
        play(story)
    stage = story.stage  # with the machine that took the portal's place
    machines = " ".join(f"--name {machine.name}" for machine in stage.machines)
    inside = f"gpuaas testbed exec --name {name}-nhn"
    output.print(
        *(f"\n{len(taken.taken)} screenshots are in {pictures}." for taken in [taken] if taken),
        f"\nThe machines' clocks are {stage.portal.ahead / 86_400:.1f} days ahead of this host's.\n"
        f"Everything is still running. Go on with (gpuaas is .venv/bin/gpuaas):\n"
        f"  {stage.portal.url}   as {DIRECTOR}, officer, {cast.login_of(cast.HOUSES[0], 0)}, "
        f"{cast.login_of(cast.HOUSES[0], 1)}, auditor ...; password: {PASSWORD}\n"
        f"  {inside} -- squeue\n"
        f"  {inside} -- sacctmgr show assoc format=account,user,qos\n"
        f"  {inside} -- gpuaas status\n"
        f"  gpuaas testbed exec --name {name}-portal -- gpuaas-portal site list\n"
        f"Stop it with:\n"
        f"  gpuaas testbed down {machines}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
