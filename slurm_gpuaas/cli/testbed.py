"""`gpuaas testbed`: real Slurm on this machine, on simulated GPUs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import click
from rich.console import Console

from slurm_gpuaas.cli.chaos import chaos
from slurm_gpuaas.cli.demo import demo
from slurm_gpuaas.cli.demo_national import demo_national
from slurm_gpuaas.cli.fabric import fabric
from slurm_gpuaas.cli.inject import group as inject
from slurm_gpuaas.cli.output import print_table
from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.testbed import rootfs
from slurm_gpuaas.testbed.cache import Cache
from slurm_gpuaas.testbed.instance import Instance, up_all
from slurm_gpuaas.testbed.machine import Machine, end, require_root, running
from slurm_gpuaas.testbed.portal import PROFILE as PORTAL_PROFILE
from slurm_gpuaas.testbed.portal import PortalMachine
from slurm_gpuaas.testbed.profiles import PROFILES
from slurm_gpuaas.testbed.progress import shown
from slurm_gpuaas.testbed.releases import DEFAULT, RELEASES
from slurm_gpuaas.testbed.status import Status, status_of

SLURM = click.option(
    "--slurm", type=click.Choice(sorted(RELEASES)), default=DEFAULT, show_default=True, help="Release of Slurm."
)
NAME = click.option("--name", metavar="NAME", help="Which testbed; not needed while only one is up.")


@click.group()
def group() -> None:
    """Real Slurm with simulated GPUs on one machine, in namespaces of its own (root).

    \b
    Examples:
      gpuaas testbed up --profile haein              129 nodes, 1,032 GPUs
      gpuaas testbed exec --user alice -- sinfo
      gpuaas testbed logs slurmctld --follow
      gpuaas testbed down
    """


@group.command()
@click.option(
    "--profile", type=click.Choice(sorted(PROFILES)), default="mini", show_default=True, help="What to imitate."
)
@click.option(
    "--name", metavar="NAME", help="Its name on this host.  [default: the profile's; a cluster's each for several]"
)
@SLURM
@click.option(
    "--with-daemon/--no-daemon", "daemon", default=True, show_default=True, help="Start gpuaasd and gpuaas-agent."
)
def up(profile: str, name: str | None, slurm: str, daemon: bool) -> None:
    """Bring a testbed up; one that is up already stays as it is.

    The first run builds a Debian root folder, a pyslurm wheel and a Python environment into the cache
    ($GPUAAS_CACHE, else ~/.cache/slurm-gpuaas): three minutes or so, for each release of Slurm.
    24.11 runs without pyslurm, which does not build against it.

    \b
    Examples:
      gpuaas testbed up
      gpuaas testbed up --slurm 24.11 --name old     Debian stable's Slurm
      gpuaas testbed up --profile national           three clusters: naver, kakao, nhn
      gpuaas testbed up --profile mini --name mine
    """
    console = Console(stderr=True)
    with shown(console) as progress:
        instances = up_all(profile, name, slurm=slurm, daemon=daemon, progress=progress)
    for instance in instances:
        click.echo(
            f"Testbed {instance.name} is up: {instance.cluster.nodes} nodes, "
            f"{instance.cluster.nodes * instance.cluster.gpus:,} GPUs, {instance.state.boot_seconds:.1f} s to boot.\n"
            f"  gpuaas testbed exec --name {instance.name} --user alice -- sinfo\n"
            f"  gpuaas testbed down --name {instance.name}"
        )


@group.command()
@NAME
@click.option("--json", "as_json", is_flag=True, help="One JSON document: a list of testbeds.")
def status(name: str | None, as_json: bool) -> None:
    """Show services, nodes by state and memory of what is up.

    \b
    Examples:
      gpuaas testbed status
      gpuaas testbed status --name mine --json
    """
    require_root()
    # Others may come and go while we look: only a testbed that was named must be there.
    names = [name] if name else sorted(name for name, found in running().items() if found.state)
    states = [status_of(machine(each)) for each in names if name or each in running()]
    if as_json:
        click.echo(json.dumps([asdict(state) for state in states], indent=2))
        return
    print_table(
        ("name", "profile", "cluster", "nodes", "services", "#memory", "#boot"),
        [_row(state) for state in states],
        empty="No testbed is up. Start one: gpuaas testbed up --profile mini",
    )


def _row(state: Status) -> tuple[str, ...]:
    return (
        state.name,
        state.profile,
        state.cluster or "-",
        ", ".join(f"{count} {kind}" for kind, count in sorted(state.nodes.items()))
        or ("slurmctld is down" if state.cluster else "-"),
        ", ".join(service if alive else f"{service} is down" for service, alive in state.services.items()),
        f"{state.memory_mib:,} MiB",
        f"{state.boot_seconds} s",
    )


@group.command(name="exec", context_settings={"ignore_unknown_options": True})
@NAME
@click.option("--user", default="root", show_default=True, help="UNIX user inside.")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str | None, user: str, argv: tuple[str, ...]) -> None:
    """Run a command inside, as a user of the testbed; its exit status becomes this one's.

    \b
    Examples:
      gpuaas testbed exec -- sinfo
      gpuaas testbed exec --user alice -- sbatch --gpus=8 --wrap 'sleep 60'
    """
    instance = chosen(name)
    command = instance.command(argv, user)
    os.execve(command[0], command, instance.environment(user, {"TERM": os.environ.get("TERM", "dumb")}))  # noqa: S606


@group.command()
@click.option("--name", "names", multiple=True, metavar="NAME", help="Which testbed; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Every testbed on this host.")
def down(names: tuple[str, ...], everything: bool) -> None:
    """End a testbed: no process, mount or file of it stays, apart from the cache.

    \b
    Examples:
      gpuaas testbed down
      gpuaas testbed down --name mine --name naver
      gpuaas testbed down --all
    """
    require_root()
    up_now = sorted(running())
    if not names and not everything and len(up_now) > 1:
        raise NotFound(f"{len(up_now)} testbeds are up: {', '.join(up_now)}.", way_out="Say --name NAME or --all.")
    for name in names or up_now:
        end(name)
        click.echo(f"Testbed {name} is down.")


@group.command()
@NAME
@click.argument("what", required=False)
@click.option("--lines", "-n", default=20, show_default=True, help="Last lines of each log.")
@click.option("--follow", "-f", is_flag=True, help="Go on showing what is added.")
def logs(name: str | None, what: str | None, lines: int, follow: bool) -> None:
    """Show the logs of WHAT: a service (slurmctld, slurmdbd, gpuaasd ...) or a node; without it, of all services.

    \b
    Examples:
      gpuaas testbed logs slurmctld --follow
      gpuaas testbed logs b200-07 -n 100
    """
    instance = chosen(name)
    files = instance.log_files(what)
    command = instance.command(["tail", f"--lines={lines}", *(["--follow"] if follow else []), *files])
    os.execve(command[0], command, instance.environment())  # noqa: S606


@group.command()
@NAME
@click.argument("users", nargs=-1, required=True, metavar="USER...")
def adduser(name: str | None, users: tuple[str, ...]) -> None:
    """Make UNIX users inside, as researchers' accounts would come from a directory service.

    \b
    Example:
      gpuaas testbed adduser minji jihoon --name mine
    """
    instance = chosen(name)
    instance.add_users(users)
    click.echo(f"Testbed {instance.name} knows {', '.join(users)}.")


@group.command()
@click.option("--update", is_flag=True, help="Take the archive's versions of today.")
@SLURM
def lock(update: bool, slurm: str) -> None:
    """Show the locked package versions, or renew them from the archive.

    \b
    Examples:
      gpuaas testbed lock
      gpuaas testbed lock --update
      gpuaas testbed lock --update --slurm 24.11
    """
    release = RELEASES[slurm]
    old = rootfs.locked_versions(release.suite)
    if update:
        require_root()
        with shown(Console(stderr=True)) as progress:
            new = rootfs.Builder(Cache.default(), release, progress).update_lock()
        for package, version in sorted(new.items()):
            if old.get(package) != version:
                click.echo(f"{package}: {old.get(package, 'not locked')} -> {version}")
        click.echo(
            f"{sum(old.get(package) != version for package, version in new.items())} of {len(new)} versions changed."
        )
    else:
        for package, version in sorted(old.items()):
            click.echo(f"{package} {version}")


def chosen(name: str | None) -> Machine:
    """The named testbed or portal, or the only one that is up."""
    require_root()
    up_now = sorted(running())
    if name is None and len(up_now) > 1:
        raise NotFound(f"{len(up_now)} testbeds are up: {', '.join(up_now)}.", way_out="Say --name NAME.")
    return machine(name or (up_now[0] if up_now else "mini"))


def machine(name: str) -> Machine:
    """The testbed or portal of that name.

    Raises:
        NotFound: it is not up.
    """
    found = running().get(name)
    if found is not None and found.state is not None and found.state.profile == PORTAL_PROFILE:
        return PortalMachine.attach(name)
    return Instance.attach(name)


group.add_command(inject)
group.add_command(demo)
group.add_command(demo_national)
group.add_command(chaos)
group.add_command(fabric)
