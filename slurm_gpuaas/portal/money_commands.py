"""`gpuaas-portal reconcile` and `close-month`: the accounts, on the portal's host."""

from __future__ import annotations

import click

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import ExitCode
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.pool.work import Program
from slurm_gpuaas.portal.accounts import SERVER
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.store.pool import PoolStore

StoreOption = click.option(
    "--store",
    "url",
    envvar="GPUAAS_PORTAL_STORE",
    required=True,
    help="The pool's store: sqlite:////PATH or postgresql://. By default that of the configuration.",
)


@click.command("reconcile")
@click.option("--month", "months", multiple=True, help="Korean month, YYYY-MM; absent = the present one and the last.")
@StoreOption
def reconcile(months: tuple[str, ...], url: str) -> None:
    """Cut all runs that sites reported by month anew and compare them with the ledger, to the GPU-second.

    Books what is due first. Exit 0 = equal, 1 = something differs. Whether a site has reported all that its Slurm's
    accounting holds, only the site can show.

    \b
    Examples:
      gpuaas-portal reconcile
      gpuaas-portal reconcile --month 2026-11
    """
    store = PoolStore.open(url)
    try:
        pool = PoolServer(store, SystemClock())
        pool.book()
        wanted = [Month.parse(month) for month in months] or pool.months_to_reconcile()
        found = pool.reconcile(wanted)
    finally:
        store.close()
    for one in found:
        result = "equal" if not one.different else f"{one.different} places differ"
        click.echo(f"{one.cluster} {one.month}: {one.runs:,} runs, {one.gpu_seconds:,} GPU-seconds, {result}")
        for text in one.differences:
            click.echo(f"  {text}", err=True)
    if not found:
        click.echo("There is no site yet; nothing was compared.")
    if any(one.different for one in found):
        raise click.exceptions.Exit(int(ExitCode.FAILED))


@click.command("close-month")
@click.argument("month")
@StoreOption
def close_month(month: str, url: str) -> None:
    """Close a Korean month that is over, and issue its statements, without waiting for sites that have not told their
    use. The portal does it by itself on the second of the next month, once all have. Months close in order, once and
    for good; use that comes later stands on the next statement as a correction.

    \b
    Examples:
      gpuaas-portal close-month 2026-11
    """
    store = PoolStore.open(url)
    try:
        heads = PoolServer(store, SystemClock()).close_month(Month.parse(month), Program(SERVER))
    finally:
        store.close()
    for head in heads:
        click.echo(f"{head.number}: {head.organisation}, due {head.due:,} Won")
    click.echo(f"{month} is closed: {len(heads)} statements.")
