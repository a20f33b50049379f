"""`gpuaas-portal site`: the sites of the pool and their keys. Keys go into files alone, never into arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from slurm_gpuaas.api.keyfile import read_master_key
from slurm_gpuaas.api.signing import site_key
from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.names import ClusterName, HostName, ProviderName, SiteName
from slurm_gpuaas.store.pool import PoolStore

MASTER_KEY: Final = Path("/etc/gpuaas/sites.key")

StoreOption = click.option(
    "--store",
    "url",
    envvar="GPUAAS_PORTAL_STORE",
    required=True,
    help="The pool's store: sqlite:////PATH or postgresql://. By default that of the configuration.",
)
KeyOption = click.option(
    "--master-key",
    type=click.Path(path_type=Path),
    default=MASTER_KEY,
    show_default=True,
    help="File (0600) with the key from which those of sites are made; the configuration's.",
)
OutOption = click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="File for the key (0600), which must not exist."
)


@click.group("site")
def group() -> None:
    """Sites: the clusters whose gpuaasd asks the portal for its documents.

    \b
    Examples:
      gpuaas-portal site add naver-h200 --cluster naver --provider naver --out naver-h200.key
      gpuaas-portal site key naver-h200 --out naver-h200.key
      gpuaas-portal site login naver-h200 login.naver.example.org
      gpuaas-portal site list
    """


@group.command()
@click.argument("name")
@click.option("--cluster", required=True, help="Slurm's ClusterName.")
@click.option("--provider", required=True, help="Who runs it.")
@OutOption
@KeyOption
@StoreOption
def add(name: str, cluster: str, provider: str, out: Path, master_key: Path, url: str) -> None:
    """Add a site and write its key.

    \b
    Example:
      gpuaas-portal site add naver-h200 --cluster naver --provider naver --out naver-h200.key
    """
    site, master = SiteName(name), read_master_key(master_key)
    store = PoolStore.open(url)
    try:
        with store.transaction():
            store.sites.add(site, cluster=ClusterName(cluster), provider=ProviderName(provider))
            _write_key(out, site_key(master, site, 1))
    finally:
        store.close()
    click.echo(f"Site {site} is added. Bring {out} to its gpuaasd (pool.key_file), and remove it here.")


@group.command()
@click.argument("name")
@OutOption
@KeyOption
@StoreOption
def key(name: str, out: Path, master_key: Path, url: str) -> None:
    """Give a site a new key; the one it has opens nothing from now on.

    \b
    Example:
      gpuaas-portal site key naver-h200 --out naver-h200.key
    """
    site, master = SiteName(name), read_master_key(master_key)
    store = PoolStore.open(url)
    try:
        with store.transaction():
            number = store.sites.replace_key(site).key_number
            _write_key(out, site_key(master, site, number))
    finally:
        store.close()
    click.echo(f"Site {site} has a new key. Bring {out} to its gpuaasd (pool.key_file), and remove it here.")


@group.command()
@click.argument("name")
@click.argument("host", required=False)
@StoreOption
def login(name: str, host: str | None, url: str) -> None:
    """Say where people sign in to a site with SSH: the portal's pages name it. Without HOST it is forgotten.

    \b
    Examples:
      gpuaas-portal site login naver-h200 login.naver.example.org
      gpuaas-portal site login naver-h200
    """
    site, there = SiteName(name), None if host is None else HostName(host.lower())
    store = PoolStore.open(url)
    try:
        store.sites.set_login_host(site, there)
    finally:
        store.close()
    click.echo(f"People sign in to {site} at {there}." if there else f"Nobody is told where to sign in to {site}.")


@group.command("list")
@StoreOption
def list_sites(url: str) -> None:
    """List the sites and when each was last heard.

    \b
    Example:
      gpuaas-portal site list
    """
    store = PoolStore.open(url)
    try:
        found = store.sites.all()
    finally:
        store.close()
    if not found:
        raise NotFound("There is no site yet.", way_out="gpuaas-portal site add NAME makes one.")
    for site in found:
        seen = f"{site.seen_at:%Y-%m-%d %H:%M:%S} UTC" if site.seen_at else "never"
        host = site.login_host or "-"
        click.echo(f"{site.name}  cluster {site.cluster}  provider {site.provider}  login {host}  last heard {seen}")


def _write_key(file: Path, key: bytes) -> None:
    """Raises:
    InvalidInput: the file is there already, or cannot be made.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be made: {os.strerror(error.errno or 0)}.", way_out="Name a file that does not exist."
        ) from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{key.hex()}\n")
