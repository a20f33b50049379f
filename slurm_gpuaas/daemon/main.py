"""`gpuaasd`: becomes leader or stands by, serves HTTP, runs the controllers, ends cleanly."""

from __future__ import annotations

import asyncio
import os
import pwd
import random
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
import structlog

from slurm_gpuaas import __version__
from slurm_gpuaas.api.keyfile import read_key
from slurm_gpuaas.api.models import DriverStatus
from slurm_gpuaas.daemon.app import Wiring, make_agents_api, make_api
from slurm_gpuaas.daemon.config import DEFAULT_CONFIG, Config
from slurm_gpuaas.daemon.identity import Identities
from slurm_gpuaas.daemon.leader import Leadership, leadership_for
from slurm_gpuaas.daemon.metrics import Metrics
from slurm_gpuaas.daemon.notify import Notifier
from slurm_gpuaas.daemon.operations import Operations
from slurm_gpuaas.daemon.portal_client import HttpPortal
from slurm_gpuaas.daemon.runtime import Runtime, compose
from slurm_gpuaas.daemon.server import Server, bind_tcp, bind_unix
from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.domain.errors import ExitCode, Unavailable
from slurm_gpuaas.domain.from_portal import Terms
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.quota.controller import Failpoint, no_failpoint
from slurm_gpuaas.service.entry import run
from slurm_gpuaas.service.log import set_up_log
from slurm_gpuaas.slurm.connect import Door, DoorSettings, connect
from slurm_gpuaas.slurm.failover import FailoverController
from slurm_gpuaas.slurm.rest_wire import RestAddress
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.backup_commands import add_backup
from slurm_gpuaas.store.engine import SITE, open_engine

LEADER_EVERY_S = 0.5
"""How often a stand-by tries to become leader, and a leader makes sure that it is."""
HUNG = timedelta(minutes=5)
"""A tick that takes longer is stuck: the watchdog is left to bite."""
STALE = timedelta(seconds=60)
"""Not ready when Slurm's nodes were not read for so long."""

SWITCH_S: Final = 0.0005
"""A report of an agent asks the store a dozen times, and each time may wait this long for a controller that computes;
with Python's own 5 ms, 150 nodes that fail at once took twice as long to drain."""

log = structlog.get_logger(__name__)


class LeadLost(Unavailable):
    """Another daemon may lead now."""


class Daemon:
    def __init__(
        self, config: Config, *, clock: Clock, leadership: Leadership, notifier: Notifier, failpoint: Failpoint
    ) -> None:
        self._config = config
        self._failpoint = failpoint
        self._clock = clock
        self._leadership = leadership
        self._notifier = notifier
        self._runtime: Runtime | None = None
        self._metrics = Metrics(self._operations)
        key = config.agents.master_key
        self._wiring = Wiring(
            operations=self._operations,
            identities=Identities(config.administrators),
            not_ready=self._not_ready,
            metrics=self._metrics.page,
            master_key=read_key(key) if key.exists() else None,
            clock=clock,
        )
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT.

        Raises:
            LeadLost: the lock is gone; whoever supervises us starts us again, as a stand-by.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        watchdog = asyncio.create_task(self._watchdog())
        try:
            if await self._become_leader():
                await self._lead()
        finally:
            self._notifier.stopping()
            watchdog.cancel()
            self._leadership.release()

    def _stop(self) -> None:
        self._stopping.set()
        # What hangs in Slurm must not hold us past the deadline: every effect is safe to be cut off.
        deadline = threading.Timer(self._config.stop_within.total_seconds(), os._exit, [int(ExitCode.FAILED)])
        deadline.daemon = True
        deadline.start()

    async def _become_leader(self) -> bool:
        """True when we lead; False when we are to stop. Meanwhile a socket of the stand-by's own answers probes."""
        if await asyncio.to_thread(self._leadership.acquire):
            return True
        socket = self._config.api.socket
        path = socket.with_name(f"{socket.name}.standby")
        async with Serving([Server(make_api(self._wiring), bind_unix(path))]):
            log.info("standby", reason="another gpuaasd leads")
            self._notifier.ready("standing by: another gpuaasd leads")
            while not await self._stops_within(LEADER_EVERY_S):
                if await asyncio.to_thread(self._leadership.acquire):
                    break
        path.unlink(missing_ok=True)
        return not self._stopping.is_set()

    async def _lead(self) -> None:
        config = self._config
        self._runtime = runtime = await asyncio.to_thread(self._open)
        try:
            servers = [Server(make_api(self._wiring), bind_unix(config.api.socket))]
            if (listener := config.agents.listener) is not None:
                servers.append(Server(make_agents_api(self._wiring), bind_tcp(listener), listener=listener))
            async with Serving(servers):
                runtime.loop.start()
                self._metrics.leader.set(1)
                self._notifier.ready("leading")
                log.info("leading", version=__version__, cluster=config.cluster, socket=str(config.api.socket))
                while not await self._stops_within(LEADER_EVERY_S):
                    if not await asyncio.to_thread(self._leadership.held):
                        raise LeadLost(
                            "The leader's lock is lost.", way_out="gpuaasd ends; let systemd start it again."
                        )
                log.info("stopping")
                self._notifier.stopping()
        finally:
            await asyncio.to_thread(runtime.stop, config.stop_within / 2)
        config.api.socket.unlink(missing_ok=True)

    def _open(self) -> Runtime:
        door = connect(
            DoorSettings(
                rest=RestAddress(socket=self._config.slurm.rest_socket),
                rest_timeout=self._config.slurm.timeout.total_seconds(),
                worker=self._config.slurm.worker,
                worker_timeout=self._config.slurm.worker_timeout.total_seconds(),
                sacctmgr=self._config.slurm.sacctmgr,
                scontrol=self._config.slurm.scontrol,
            ),
            clock=self._clock,
            on_change=lambda now: log.warning("slurm.driver", driver=now.driver, why=now.why),
        )
        portal = self._portal()

        def close() -> None:
            door.close()
            if portal is not None:
                portal.close()

        return compose(
            self._config,
            store=Store.open(self._config.store.url, terms=terms(self._config)),
            controller=door.controller,
            accounting=door.accounting,
            partitions=door.partitions,
            limits=door.limits,
            topologies=door.topologies,
            driver=lambda: driver_status(door),
            clock=self._clock,
            observe=self._metrics.observe_tick,
            failpoint=self._failpoint,
            close=close,
            portal=portal,
            jitter=lambda span: span * random.uniform(0.5, 1.0),  # noqa: S311
        )

    def _portal(self) -> HttpPortal | None:
        pool = self._config.pool
        if pool is None:
            return None
        key = read_key(
            pool.key_file, missing="`gpuaas-portal site key NAME --out FILE` on the portal's host writes one."
        )
        return HttpPortal(pool.url, site=pool.site, key=key, ca_file=pool.ca_file, clock=self._clock)

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _watchdog(self) -> None:
        if (every := self._notifier.watchdog_every) is None:
            return
        while True:
            if self._runtime is None or self._runtime.loop.longest_running() < HUNG:
                self._notifier.alive()
            await asyncio.sleep(every.total_seconds())

    def _operations(self) -> Operations:
        if self._runtime is None:
            raise Unavailable(
                "This gpuaasd stands by; another one leads.", way_out=f"Ask the leader at {self._config.api.socket}."
            )
        return self._runtime.operations

    def _not_ready(self) -> list[str]:
        if self._runtime is None:
            return ["Stands by: another gpuaasd leads."]
        read_at = self._runtime.operations.shared.read_at
        if read_at is None or self._clock.now() - read_at > STALE:
            return ["Slurm's nodes were not read within the last minute."]
        return []


def terms(config: Config) -> Terms | None:
    """What is taken from the portal."""
    if config.pool is None:
        return None
    services = (UserName("root"), UserName(config.slurm.user), UserName(pwd.getpwuid(os.getuid()).pw_name))
    return Terms(
        cluster=config.cluster,
        shares=frozenset(config.pool.shares),
        reserved=frozenset((*services, *config.administrators.users, *config.pool.reserved_users)),
    )


def driver_status(door: Door) -> DriverStatus:
    """What the door says of itself; the preferred driver is pyslurm where there is one."""
    if isinstance(door.controller, FailoverController):
        used = door.controller.in_use
        return DriverStatus(name=used.driver, fallback=bool(used.why), reason=used.why)
    return DriverStatus(name=door.driver, fallback=False, reason="")


class Serving:
    """Runs servers while the block runs."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(server.run_until_stopped()) for server in self._servers]

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._tasks)


def die_at(place: str) -> Failpoint:
    """For tests of crashes: the process is gone, as by kill -9, when it comes to that place."""

    def failpoint(here: str, /) -> None:
        if here == place:
            os.kill(os.getpid(), signal.SIGKILL)

    return failpoint


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="gpuaasd")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="Configuration file; etc/gpuaasd.yaml is an example with the defaults.",
)
@click.option("--check", is_flag=True, help="Read the configuration, say whether it is right, and end.")
@click.pass_context
def command(context: click.Context, path: Path, check: bool) -> None:
    """The policy daemon beside slurmctld. Without a command it runs.

    \b
    Examples:
      gpuaasd --config /etc/gpuaas/gpuaasd.yaml
      gpuaasd --config etc/gpuaasd.yaml --check
      gpuaasd backup /backup/gpuaas-2027-01-31
    """
    config = Config.load(path)
    context.obj = config
    if context.invoked_subcommand:
        return
    if check:
        open_engine(config.store.url).dispose()  # connects on first use only
        click.echo(f"{path} is right.")
        return
    set_up_log(config.log)

    async def serve() -> None:
        leadership = leadership_for(config.store.url, config.state_dir)
        failpoint = die_at(place) if (place := os.environ.get("GPUAAS_FAILPOINT")) else no_failpoint
        daemon = Daemon(config, clock=SystemClock(), leadership=leadership, notifier=Notifier(), failpoint=failpoint)
        await daemon.run()

    sys.setswitchinterval(SWITCH_S)
    asyncio.run(serve())


add_backup(command, SITE, lambda config: config.store.url)


def main() -> None:
    run(command, "gpuaasd")
