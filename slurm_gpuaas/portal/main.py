"""`gpuaas-portal`: serves the portal; commands of its host for the first account and the audit trail."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
import structlog
import uvicorn

from slurm_gpuaas import __version__
from slurm_gpuaas.api.keyfile import read_master_key
from slurm_gpuaas.domain.accounts import Office
from slurm_gpuaas.domain.audit_chain import Anchor, AuditEvent, iso
from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.domain.errors import ExitCode, GpuaasError, InvalidInput
from slurm_gpuaas.domain.names import OrganisationName, ProviderName, UserName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.accounts import SERVER, Accounts
from slurm_gpuaas.portal.app import Wiring, make_portal
from slurm_gpuaas.portal.config import DEFAULT_CONFIG, Config
from slurm_gpuaas.portal.mailing import Mailer
from slurm_gpuaas.portal.money_commands import close_month, reconcile
from slurm_gpuaas.portal.pool import PoolServer, PoolTurns
from slurm_gpuaas.portal.routes.fields import email, line
from slurm_gpuaas.portal.routes.of_pool import pool_features
from slurm_gpuaas.portal.routes.sites import sites_feature
from slurm_gpuaas.portal.site_commands import group as sites
from slurm_gpuaas.portal.words import Dictionary
from slurm_gpuaas.service.entry import run
from slurm_gpuaas.service.log import set_up_log
from slurm_gpuaas.service.password import read_password
from slurm_gpuaas.store.backup_commands import add_backup
from slurm_gpuaas.store.engine import POOL, open_engine
from slurm_gpuaas.store.pool import PoolStore

ANCHOR_EVERY: Final = timedelta(days=1)
GRACEFUL_S: Final = 10
"""Requests have so long to end; open streams are then cut."""
MOST_CONNECTIONS: Final = 2_000
MAIL_S: Final = 10.0
"""Between two looks at the outbox, and between two tries to reach a mail server that is away."""
REFUSALS_S: Final = 10.0
"""Between two looks whether counts of refusals are due."""
COLLECT_AT: Final = (50_000, 20, 50)
"""Thresholds of the collector's generations; the first is what some hundred pages leave behind."""
MOST_ANCHORS_BYTES: Final = 64 * 2**20

log = structlog.get_logger(__name__)


# -- Serving -----------------------------------------------------------------------------------------------------------


def uvicorn_config(config: Config, wiring: Wiring) -> uvicorn.Config:
    tls = config.listen.tls
    return uvicorn.Config(
        make_portal(wiring),
        host=config.listen.host,
        port=config.listen.port,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        proxy_headers=bool(config.listen.proxies),
        forwarded_allow_ips=[str(proxy) for proxy in config.listen.proxies],
        timeout_graceful_shutdown=GRACEFUL_S,
        limit_concurrency=MOST_CONNECTIONS,
        ssl_certfile=str(tls.certificate) if tls else None,
        ssl_keyfile=str(tls.key) if tls else None,
    )


async def serve(config: Config) -> None:
    """Until SIGTERM or SIGINT.

    Raises:
        InvalidInput: the certificate cannot be used.
        Unavailable, Conflict: as `PoolStore.open`.
    """
    store = PoolStore.open(config.store.url)
    clock = SystemClock()
    pool = PoolServer(store, clock, map_folder=config.map.folder)
    key = config.sites.master_key
    features = (*pool_features(pool), *([sites_feature(pool, read_master_key(key))] if key.exists() else []))
    wiring = Wiring(config=config, store=store, clock=clock, features=features)
    turns = [PoolTurns(pool)]
    if config.mail is not None:
        mailer = Mailer(
            store, clock, config.mail, url=config.public_url, dictionary=Dictionary(), metrics=wiring.metrics
        )
        turns.append(PoolTurns(mailer, name="mail", every_s=MAIL_S))
    turns.append(PoolTurns(wiring.refusals, name="refusals", every_s=REFUSALS_S))
    settings = uvicorn_config(config, wiring)
    try:
        settings.load()
    except (ssl.SSLError, OSError) as error:
        raise InvalidInput(
            f"The certificate or key of listen.tls cannot be used: {error}.",
            way_out="Give a PEM chain and its key, readable for gpuaas-portal's user.",
        ) from None
    if config.insecure_http:
        log.warning("INSECURE", reason="insecure_http is set: passwords and sessions travel in the clear")
    anchoring = asyncio.create_task(_anchor_daily(wiring)) if config.audit.anchor_file else None
    for each in turns:
        each.start()
    _settle()
    log.info("listening", host=config.listen.host, port=config.listen.port, tls=config.listen.tls is not None)
    try:
        await uvicorn.Server(settings).serve()
    finally:
        if anchoring is not None:
            anchoring.cancel()
        for each in turns:
            await asyncio.to_thread(each.stop)
        await asyncio.to_thread(wiring.refusals.write_all)
        store.close()


def _settle() -> None:
    """Spare the collector of cyclic rubbish what was made for the whole life of the process, some hundred thousand
    objects, and let it look less often: with the defaults of Python it takes a third of the time of a page."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)


async def _anchor_daily(wiring: Wiring) -> None:
    file = wiring.config.audit.anchor_file
    assert file is not None
    while True:
        try:
            await asyncio.to_thread(write_anchor, wiring.store, wiring.clock, file)
            wiring.metrics.anchored.set(wiring.clock.now().timestamp())
        except GpuaasError as error:
            log.error("audit.not-anchored", why=str(error))  # noqa: TRY400  # expected: one sentence says it
        await asyncio.sleep(ANCHOR_EVERY.total_seconds())


# -- Anchors -----------------------------------------------------------------------------------------------------------


def write_anchor(store: PoolStore, clock: Clock, file: Path) -> Anchor:
    """Add the newest entry's number and hash to a file, one JSON object a line.

    Raises:
        InvalidInput: the file cannot be written.
    """
    anchor = store.audit.last()
    text = json.dumps({"at": iso(clock.now()), "seq": anchor.seq, "hash": anchor.hash}) + "\n"
    try:
        with file.open("a", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise InvalidInput(f"Anchors cannot be written to {file}: {os.strerror(error.errno or 0)}.") from None
    return anchor


def read_anchors(file: Path) -> list[Anchor]:
    """Raises:
    InvalidInput: the file cannot be read, or a line of it is no anchor.
    """
    try:
        if file.stat().st_size > MOST_ANCHORS_BYTES:
            raise InvalidInput(f"Anchor file {file} is larger than {MOST_ANCHORS_BYTES} bytes.")
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Anchor file {file} cannot be read: {error}.") from None
    return list(_anchors(file, lines))


def _anchors(file: Path, lines: Iterable[str]) -> Iterator[Anchor]:
    for number, text in enumerate(lines, 1):
        try:
            read = json.loads(text)
            anchor = Anchor(int(read["seq"]), str(read["hash"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InvalidInput(
                f"Line {number} of anchor file {file} is no anchor.",
                way_out="A day whose anchor is broken proves nothing: look at a copy of the file.",
            ) from None
        if anchor.seq:  # an anchor of an empty trail says nothing
            yield anchor


# -- Commands ----------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpuaas-portal")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="Configuration file; etc/gpuaas-portal.yaml is an example with the defaults.",
)
@click.option("--check", is_flag=True, help="Read the configuration, say whether it is right, and end.")
@click.pass_context
def command(context: click.Context, path: Path, check: bool) -> None:
    """The pool's portal. Without a command it serves.

    \b
    Examples:
      gpuaas-portal --config /etc/gpuaas/gpuaas-portal.yaml
      gpuaas-portal create-admin --login kim --name '김하나' --email kim@example.org
      gpuaas-portal audit verify --anchors /srv/anchors/audit.jsonl
    """
    config = Config.load(path)
    context.obj = config
    known = {"url": config.store.url, "master_key": str(config.sites.master_key)}
    context.default_map = {
        "site": dict.fromkeys(sites.commands, known),
        "reconcile": {"url": config.store.url},
        "close-month": {"url": config.store.url},
    }
    if check:
        open_engine(config.store.url).dispose()  # connects on first use only
        click.echo(f"{path} is right.")
        context.exit()
    if context.invoked_subcommand is None:
        set_up_log(config.log)
        asyncio.run(serve(config))


@command.command("create-admin")
@click.option("--login", required=True, help="What the person signs in with.")
@click.option("--name", required=True, help="The person's name.")
@click.option("--email", "address", required=True, help="The person's e-mail address.")
@click.option(
    "--role",
    type=click.Choice([str(role) for role in PortalRole]),
    default=str(PortalRole.GOVERNMENT),
    show_default=True,
)
@click.option("--organisation", help="Of the roles tenant-admin and researcher.")
@click.option("--provider", help="Of the roles of providers.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read the password from here, mode 0600. Absent = it is asked for.",
)
@click.pass_obj
def create_admin(
    config: Config,
    login: str,
    name: str,
    address: str,
    role: str,
    organisation: str | None,
    provider: str | None,
    password_file: Path | None,
) -> None:
    """Make a local account, for the first start. Who can run this has the store anyway, so no second person is asked;
    the audit trail says so. Two accounts are needed where one must approve what the other asks for.

    \b
    Examples:
      gpuaas-portal create-admin --login kim --name '김하나' --email kim@example.org
      gpuaas-portal create-admin --login lee --name '이두나' --email lee@example.org --password-file /root/lee
    """
    office = Office(
        role=PortalRole(role),
        organisation=OrganisationName(organisation) if organisation else None,
        provider=ProviderName(provider) if provider else None,
    )
    user, shown, to = UserName(login), line(200)(name), email(address)
    password = (
        read_password(password_file)
        if password_file
        else click.prompt("Password", hide_input=True, confirmation_prompt="Password once more")
    )
    with open_store(config) as store:
        accounts = Accounts(store, SystemClock(), config.sessions)
        person = accounts.create(login=user, name=shown, email=to, office=office, password=password)
    click.echo(f"{shown} can sign in as {login} at {config.public_url} ({person.id}, {role}).")


@contextmanager
def open_store(config: Config) -> Iterator[PoolStore]:
    store = PoolStore.open(config.store.url)
    try:
        yield store
    finally:
        store.close()


command.add_command(sites)
command.add_command(reconcile)
command.add_command(close_month)
add_backup(command, POOL, lambda config: config.store.url)


@command.group("audit")
def audit() -> None:
    """The audit trail: recompute its chain, anchor its end."""


@audit.command("verify")
@click.option(
    "--anchors",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with anchors from outside this host; without it a trail whose end was cut off looks whole.",
)
@click.pass_obj
def verify(config: Config, anchors: Path | None) -> None:
    """Recompute every hash. Exit 0 = whole, 1 = something was edited, added, taken out, moved or cut off.

    \b
    Examples:
      gpuaas-portal audit verify
      gpuaas-portal audit verify --anchors /srv/anchors/audit.jsonl
    """
    known = read_anchors(anchors) if anchors else []
    with open_store(config) as store:
        verdict = store.audit.verify(known)
        store.audit.append(
            AuditEvent(
                at=SystemClock().now(),
                actor=SERVER,
                action="audit.verify",
                subject="audit",
                evidence={"entries": verdict.entries, "faults": len(verdict.faults), "anchors": verdict.anchors},
            )
        )
    for fault in verdict.faults:
        click.echo(f"{fault.kind}: {fault.text}", err=True)
    if verdict.faults:
        raise click.exceptions.Exit(int(ExitCode.FAILED))
    against = f"{verdict.anchors} anchors" if anchors else "no anchors: a missing end would not be noticed"
    click.echo(f"{verdict.entries:,} entries are whole, up to {verdict.last.hash} ({against}).")


@audit.command("anchor")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to add a line to.")
@click.pass_obj
def anchor(config: Config, to: Path) -> None:
    """Write down the newest entry's number and hash now. The server does so once a day by itself (audit.anchor_file).

    \b
    Examples:
      gpuaas-portal audit anchor --to /srv/anchors/audit.jsonl
    """
    with open_store(config) as store:
        written = write_anchor(store, SystemClock(), to)
    click.echo(f"Entry {written.seq}: {written.hash}")


def main() -> None:
    run(command, "gpuaas-portal")
