"""gpuaas-agent: watches the GPUs of its node and reports hardware events to gpuaasd."""

from __future__ import annotations

import logging
import os
import resource
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click
import structlog

from slurm_gpuaas import __version__
from slurm_gpuaas.agent.config import DEFAULT_CONFIG, Config, Site
from slurm_gpuaas.agent.delivery import DaemonClient, Delivery
from slurm_gpuaas.agent.inotify import Inotify
from slurm_gpuaas.agent.kmsg import KernelLog, KmsgDevice, KmsgFile, open_kernel_log
from slurm_gpuaas.agent.node import NodeAgent, read_boot_id
from slurm_gpuaas.api.keyfile import read_master_key
from slurm_gpuaas.api.signing import node_key
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import ExitCode, GpuaasError
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes

if TYPE_CHECKING:
    from slurm_gpuaas.agent.checks.periodic import Periodic
    from slurm_gpuaas.agent.journal import JournalSource
    from slurm_gpuaas.agent.nvml import NvmlSource
    from slurm_gpuaas.agent.sampler import Sampler

STACK_BYTES: Final = 512 << 10
"""Of the threads that wait in NVML; the default of 8 MiB is for programs that recurse."""
NVML_START_S: Final = 10.0
NVML_END_S: Final = 0.5
"""For a look at the GPUs that is under way; a thread that waits in NVML by then tells nothing any more."""
NAGIOS_UNKNOWN: Final = 3

log = structlog.get_logger(__name__)


class Agent:
    """The process: nodes (one, but on a testbed), their sources, and delivery."""

    def __init__(self, config: Config, nodes: Sequence[NodeName]) -> None:
        self._config = config
        clock = SystemClock()
        client = DaemonClient(
            config.daemon,
            ca=str(config.ca) if config.ca else None,
            timeout=config.timeout.total_seconds(),
            clock=clock,
        )
        keys: Callable[[NodeName], bytes] = cache(config.key_of)
        self._delivery = Delivery(
            client, key_of=lambda agent: keys(agent.node), heartbeat=config.heartbeat.total_seconds()
        )
        for node in nodes:
            keys(node)
        self._agents = [
            NodeAgent(
                node,
                folder=config.for_node(config.spool, node),
                spool_max_bytes=config.spool_max_bytes,
                same_within=config.same_within,
                boot_id=partial(read_boot_id, config.hardware(node, "boot_id", config.boot_id)),
                clock=clock,
                on_event=self._delivery.hurry,
            )
            for node in nodes
        ]
        self._delivery.add(self._agents)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def once(self) -> bool:
        """Read what the kernel log holds, look at the GPUs, run the periodic checks, deliver what was found, and end.
        False when something could not be delivered.

        Raises:
            InvalidInput: the kernel log cannot be read.
        """
        for source in self._start_nvml():
            source.stop()  # it has looked at the GPUs
            source.join(NVML_END_S)
        for agent, kernel_log in self._kernel_logs():
            _read(agent, kernel_log)
        for journal in self._journals():
            journal.read_all()
        if (periodic := self._periodic()) is not None:
            periodic.look()
        self._settle()
        return self._delivery.flush()

    def run(self) -> None:
        """Watch until `stop`."""
        nvml = self._start_nvml()
        self._delivery.start()
        log.info("agent.ready", version=__version__, nodes=len(self._agents), daemon=self._config.daemon)
        later: list[JournalSource | Periodic | Sampler] = [*self._journals()]
        later.extend(one for one in (self._periodic(), self._sampler()) if one is not None)
        for source in later:
            source.start()
        self._follow(self._kernel_logs())
        for one in (*nvml, *later):
            one.stop()
        self._delivery.stop(self._config.timeout.total_seconds())
        self._settle()

    def _settle(self) -> None:
        for agent in self._agents:
            agent.settle()

    def stop(self) -> None:
        """Safe in a signal handler."""
        os.write(self._wake_write, b"x")

    def _start_nvml(self) -> Sequence[NvmlSource]:
        if not self._config.nvml:
            return ()
        from slurm_gpuaas.agent.nvml import NvmlSource, prepare_nvml  # needed only where NVML is watched

        threading.stack_size(STACK_BYTES)
        sources = [NvmlSource(agent, prepare=prepare_nvml(self._config, agent.node)) for agent in self._agents]
        for source in sources:
            source.start()
        threading.stack_size(0)
        # Kernel-log lines name PCI addresses; read them when it is known which GPU is where.
        for source in sources:
            source.wait_until_listed(NVML_START_S)
        return sources

    def _sampler(self) -> Sampler | None:
        if not self._config.nvml or not self._config.sample_every:
            return None
        from slurm_gpuaas.agent.nvml import prepare_nvml
        from slurm_gpuaas.agent.sampler import NvmlGpus, Sampler

        return Sampler(
            [(agent, NvmlGpus(prepare_nvml(self._config, agent.node))) for agent in self._agents],
            every=self._config.sample_every,
            clock=SystemClock(),
        )

    def _kernel_logs(self) -> list[tuple[NodeAgent, KmsgDevice | KmsgFile]]:
        if self._config.kernel_log is None or self._config.journald:
            return []
        paths = [self._config.hardware(agent.node, "kmsg", self._config.kernel_log) for agent in self._agents]
        return [(agent, open_kernel_log(path)) for agent, path in zip(self._agents, paths, strict=True)]

    def _journals(self) -> list[JournalSource]:
        if not self._config.journald:
            return []
        from slurm_gpuaas.agent.journal import JournalSource

        boot_id = read_boot_id(self._config.boot_id)
        return [JournalSource(agent, boot_id=boot_id) for agent in self._agents]

    def _periodic(self) -> Periodic | None:
        if self._config.check_every is None:
            return None
        from slurm_gpuaas.agent.checks.periodic import Periodic

        return Periodic(self._config, self._agents)

    def _follow(self, logs: Sequence[tuple[NodeAgent, KernelLog]]) -> None:
        """Read each log when it has something new, until told to stop. Waits in the kernel, never polls."""
        inotify = Inotify()
        files: dict[int, tuple[NodeAgent, KernelLog]] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.register(inotify, selectors.EVENT_READ)
            for agent, kernel_log in logs:
                # Watched before it is read for the first time: nothing falls between.
                if isinstance(kernel_log, KmsgFile):
                    files[inotify.watch(kernel_log.path)] = (agent, kernel_log)
                elif isinstance(kernel_log, KmsgDevice):
                    selector.register(kernel_log, selectors.EVENT_READ, (agent, kernel_log))
                _read(agent, kernel_log)
            while True:
                for key, _events in selector.select():
                    if key.fd == self._wake_read:
                        return
                    if key.data is not None:
                        _read(*key.data)
                    else:
                        _read_written(inotify, files)


def _read_written(inotify: Inotify, files: Mapping[int, tuple[NodeAgent, KernelLog]]) -> None:
    written = inotify.read()
    for number in files if written is None else written:
        if number in files:
            _read(*files[number])


def _read(agent: NodeAgent, kernel_log: KernelLog) -> None:
    for record in kernel_log.read():
        agent.see_record(record)


class _Commands(click.Group):
    """Commands whose modules are loaded when they are called: the agent itself needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["check", "evidence"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "check":
            from slurm_gpuaas.agent.checks.command import check

            return check
        if cmd_name == "evidence":
            from slurm_gpuaas.agent.evidence import evidence

            return evidence
        return None


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="Configuration file.",
)
@click.option(
    "--nodes", help="Nodes to speak for, e.g. b200-[001-129]. Default: this host. More than one on a testbed."
)
@click.option("--once", is_flag=True, help="Report what the kernel log holds and the checks find, and end.")
@click.option("--print-key", metavar="NODE", help="Print the key of a node, made from the master key, and end.")
@click.option("--print-nvlink", is_flag=True, help="Print what each GPU says of its NVLink domain, and end.")
@click.version_option(__version__, prog_name="gpuaas-agent")
@click.pass_context
def command(
    context: click.Context, path: Path, nodes: str | None, once: bool, print_key: str | None, print_nvlink: bool
) -> None:
    """Watch this node's GPUs and report hardware events to gpuaasd.

    \b
    Examples:
      gpuaas-agent                                   watch this node
      gpuaas-agent --once                            report what happened since the last run, and end
      gpuaas-agent --print-key b200-001 | ssh b200-001 'umask 077; cat > /etc/gpuaas/agent.key'
      clush -aN gpuaas-agent --print-nvlink > nvlink.txt      for gpuaas topology import --nvlink
      gpuaas-agent check --context prolog --dry-run           what a prolog would find
      gpuaas-agent evidence --output b200-001.tar.gz          before a GPU is reset
    """
    if print_key is not None:
        click.echo(node_key(read_master_key(_master_key(path)), NodeName(print_key)).hex())
        return
    config = Config.load(path)
    names = expand_nodes(nodes) if nodes else (NodeName(socket.gethostname().partition(".")[0]),)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[config.log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if context.invoked_subcommand is not None:
        context.obj = Site(config, names)
    elif print_nvlink:
        from slurm_gpuaas.agent.nvml import nvlink_registrations, prepare_nvml

        for name in names:
            for registration in nvlink_registrations(prepare_nvml(config, name)):
                click.echo(f"{name}: {registration}")
    else:
        _watch(config, names, once=once)


def _watch(config: Config, names: Sequence[NodeName], *, once: bool) -> None:
    _raise_file_limit()
    agent = Agent(config, names)
    if once:
        sys.exit(ExitCode.OK if agent.once() else ExitCode.UNAVAILABLE)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        agent.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    agent.run()


def _master_key(path: Path) -> Path:
    """Where the master key is: as configured, else where gpuaasd has it by default."""
    if path.exists() and (configured := Config.load(path).master_key) is not None:
        return configured
    return Path("/etc/gpuaas/agents.key")


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Entry point: expected failures become one sentence on stderr and a documented exit code."""
    try:
        command.main(standalone_mode=False)
    except GpuaasError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.INVALID)
    except Exception as error:
        if os.environ.get("GPUAAS_DEBUG"):
            raise
        click.echo(
            f"Error: gpuaas-agent met an error it did not expect ({type(error).__name__}: {error}). "
            "Run it again with GPUAAS_DEBUG=1 and report what it prints.",
            err=True,
        )
        # To who reads a check's exit status as Nagios does, 1 is a warning.
        sys.exit(NAGIOS_UNKNOWN if "check" in sys.argv[1:] else ExitCode.FAILED)
