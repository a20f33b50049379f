"""Boots a Slurm cluster in the namespaces of an instance, step by step from the host: errors show where they happen."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurm_gpuaas.testbed import slurmconf
from slurm_gpuaas.testbed.errors import ServiceFailed
from slurm_gpuaas.testbed.progress import Note, Progress
from slurm_gpuaas.testbed.rootfs import CHECKOUT, SOURCE, VENV, Artifacts
from slurm_gpuaas.testbed.sim import create_node_files
from slurm_gpuaas.testbed.sim.fabric import topology_conf_for, topology_for

if TYPE_CHECKING:
    from slurm_gpuaas.testbed.instance import Instance

ADMINISTRATOR: Final = "gpuaas"
RESEARCHERS: Final = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory")
DATABASE_FOLDER: Final = "/var/lib/mariadb"
PID_FOLDER: Final = "/run/gpuaas-testbed"
OWN_ADDRESS: Final = "192.0.2.1"
"""An address for documentation (RFC 5737): it can be nobody's."""
WRAPPERS: Final = {"gpuaas": "slurm_gpuaas.cli", "gpuaasd": "slurm_gpuaas.daemon", "gpuaas-agent": "slurm_gpuaas.agent"}


@dataclass(frozen=True, kw_only=True)
class Service:
    """A process that an instance keeps running.

    Args:
        argv: command that stays in the foreground (unless `forks`).
        ready: tells whether it answers yet.
        pidfile: where its process number stands.
        forks: it goes to the background by itself.
    """

    name: str
    argv: tuple[str, ...]
    user: str
    log: str
    ready: Callable[[Instance], bool]
    pidfile: str = ""
    forks: bool = False

    @property
    def matching(self) -> tuple[str, ...]:
        """How start-stop-daemon knows its process. slurmctld gives its pid file to SlurmUser, and a file that is not
        root's is not believed alone: the process must run the program, too."""
        return ("--pidfile", self.pid_path, *(("--exec", self.argv[0]) if self.forks else ()))

    @property
    def pid_path(self) -> str:
        return self.pidfile or f"{PID_FOLDER}/{self.name}.pid"


def _socket(path: str) -> Callable[[Instance], bool]:
    """Somebody listens there; a killed service leaves its socket behind."""

    def ready(instance: Instance) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(instance.path(path))) == 0

    return ready


def _port(port: int) -> Callable[[Instance], bool]:
    return lambda instance: instance.listening(port)


MUNGED: Final = Service(
    name="munged",
    argv=("/usr/sbin/munged", "--foreground", "--num-threads=4"),
    user="munge",
    log="/var/log/munge/munged.out",
    ready=_socket("/run/munge/munge.socket.2"),
)
MARIADB: Final = Service(
    name="mariadb",
    argv=("/usr/sbin/mariadbd", "--defaults-file=/etc/gpuaas-testbed/my.cnf", f"--datadir={DATABASE_FOLDER}"),
    user="mysql",
    log="/var/log/slurm/mariadb.log",
    ready=_socket("/run/mysqld/mysqld.sock"),
)
SLURMDBD: Final = Service(
    name="slurmdbd",
    argv=("/usr/sbin/slurmdbd", "-D"),
    user="slurm",
    log="/var/log/slurm/slurmdbd.out",
    ready=_port(slurmconf.DATABASE_PORT),
)
SLURMCTLD: Final = Service(
    name="slurmctld",
    argv=("/usr/sbin/slurmctld",),  # in the foreground it would end at a reconfigure that fails
    user="root",
    log="/var/log/slurm/slurmctld.log",
    ready=_port(slurmconf.CONTROLLER_PORT),
    pidfile="/run/slurm/slurmctld.pid",
    forks=True,
)
SLURMRESTD: Final = Service(
    name="slurmrestd",
    argv=(
        *("/usr/sbin/slurmrestd", "-a", "rest_auth/local", "-s", "slurmctld,slurmdbd"),
        "unix:/run/slurmrestd/slurmrestd.sock",
    ),
    user=ADMINISTRATOR,
    log="/var/log/slurm/slurmrestd.log",
    ready=_socket("/run/slurmrestd/slurmrestd.sock"),
)
GPUAASD: Final = Service(
    name="gpuaasd",
    argv=("/usr/local/bin/gpuaasd",),
    user=ADMINISTRATOR,
    log="/var/log/gpuaas/gpuaasd.log",
    ready=_socket("/run/gpuaas/gpuaasd.sock"),
)


def agent(instance: Instance) -> Service:
    """One gpuaas-agent that speaks for every simulated node."""
    log = "/var/log/gpuaas/gpuaas-agent.log"
    return Service(
        name="gpuaas-agent",
        argv=("/usr/local/bin/gpuaas-agent", "--nodes", instance.cluster.hostlist),
        user="root",
        log=log,
        ready=lambda it: it.path(log).is_file() and "agent.ready" in it.path(log).read_text(),
    )


def services(instance: Instance) -> tuple[Service, ...]:
    """What an instance can run; the last two only where they were started."""
    slurm = (MUNGED, MARIADB, SLURMDBD, SLURMCTLD, SLURMRESTD)
    ours = (GPUAASD, agent(instance))
    return (*slurm, *(service for service in ours if instance.path(service.pid_path).exists()))


def postgres(instance: Instance) -> Service:
    """The cluster that Debian's package made, with trust for local connections; it lies in memory like everything."""
    (binary,) = instance.path("/usr/lib/postgresql").glob("*/bin/postgres")
    version = binary.parents[1].name
    instance.write("/etc/gpuaas-testbed/pg_hba.conf", "local all all trust\n", owner="postgres")
    instance.make_folder("/run/postgresql", owner="postgres", mode=0o777)
    settings = (
        f"config_file=/etc/postgresql/{version}/main/postgresql.conf",
        *("hba_file=/etc/gpuaas-testbed/pg_hba.conf", "listen_addresses=", "unix_socket_directories=/run/postgresql"),
        *("fsync=off", "max_connections=200"),
    )
    return Service(
        name="postgres",
        argv=(
            *(f"/usr/lib/postgresql/{version}/bin/postgres", "-D", f"/var/lib/postgresql/{version}/main"),
            *(word for setting in settings for word in ("-c", setting)),
        ),
        user="postgres",
        log="/var/log/postgresql/postgres.log",
        ready=lambda it: it.exec(["pg_isready", "--quiet", "--host=/run/postgresql"], check=False).returncode == 0,
    )


def alive(instance: Instance, service: Service) -> bool:
    """Whether the process that the service's pid file names exists inside."""
    path = instance.path(service.pid_path)
    number = path.read_text().strip() if path.is_file() else ""
    return number.isdigit() and instance.path(f"/proc/{number}").exists()


def start(instance: Instance, service: Service) -> None:
    """Starts the service unless it runs, and waits until it is ready.

    Raises:
        ServiceFailed: it ended, or was not ready in 60 s; the message has the last line of its log.
    """
    if not alive(instance, service):
        program, *arguments = service.argv
        background = () if service.forks else ("--background", "--make-pidfile", "--output", service.log)
        instance.exec(
            [
                *("start-stop-daemon", "--start", "--quiet", *service.matching, "--chuid", service.user),
                *(*background, "--startas", program, "--", *arguments),
            ],
            cwd="/",
        )

    def ready() -> bool:
        return alive(instance, service) and service.ready(instance)

    def dead() -> bool:
        # one that forks is started before its pid file says so
        return not alive(instance, service) and not (service.forks and instance.runs(Path(service.argv[0]).name))

    instance.wait_for(f"Readiness of {service.name}", lambda: ready() or dead(), seconds=60, every=0.02)
    if not ready():
        log = instance.path(service.log)
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        raise ServiceFailed(f"{service.name} ended as it started: {' | '.join(lines[-5:]) or 'it wrote no log'}.")


def stop(instance: Instance, service: Service, signal_name: str) -> None:
    arguments = ["start-stop-daemon", "--stop", "--quiet", "--oknodo", *service.matching]
    instance.exec([*arguments, "--retry", f"{signal_name}/30"], cwd="/")
    # One that is only just dying has no program any more but is there still, and would be taken for running.
    instance.wait_for(f"The end of {service.name}", lambda: not alive(instance, service), seconds=30, every=0.01)


def boot(instance: Instance, artifacts: Artifacts, *, daemon: bool, progress: Progress) -> None:
    """Takes an instance from bare namespaces to idle nodes."""
    cluster = instance.cluster
    with progress.step(f"{instance.name}: users, configuration, devices"):
        _network(instance)
        _users(instance)
        _configuration(instance)
        _hardware(instance)
    with progress.step(f"{instance.name}: MUNGE, MariaDB, slurmdbd"):
        _database(instance, artifacts)
        for service in (MUNGED, MARIADB, SLURMDBD):
            start(instance, service)
        _administrator(instance)
    with progress.step(f"{instance.name}: slurmctld and {cluster.nodes} slurmd") as note:
        start(instance, SLURMCTLD)
        start_nodes(instance, list(cluster.node_names()))
        wait_until_idle(instance, note)
    with progress.step(f"{instance.name}: slurmrestd"):
        start(instance, SLURMRESTD)
    if daemon:
        with progress.step(f"{instance.name}: gpuaasd and gpuaas-agent"):
            start(instance, GPUAASD)
            start(instance, agent(instance))


def _network(instance: Instance) -> None:
    instance.write("/etc/hosts", f"127.0.0.1 localhost {instance.host_name}\n")
    instance.exec(["ip", "link", "set", "lo", "up"], cwd="/")
    # Slurm binds to addresses of configured families; the C library does not count 127.0.0.1 as configured
    instance.exec(["ip", "address", "add", f"{OWN_ADDRESS}/32", "dev", "lo"], cwd="/")


def _users(instance: Instance) -> None:
    instance.exec(
        ["useradd", "--system", "--home-dir", "/var/lib/gpuaas", "--shell", "/bin/bash", ADMINISTRATOR], cwd="/"
    )
    instance.exec(["usermod", "--append", "--groups", ADMINISTRATOR, "slurm"], cwd="/")
    instance.add_users(RESEARCHERS)
    for folder, owner in (
        ("/var/lib/gpuaas", ADMINISTRATOR),
        ("/var/log/gpuaas", ADMINISTRATOR),
        ("/run/gpuaas", ADMINISTRATOR),
        ("/etc/gpuaas", ADMINISTRATOR),
        ("/etc/slurm/gpuaas", ADMINISTRATOR),
        ("/run/slurmrestd", ADMINISTRATOR),
        ("/var/log/slurm", "slurm"),
        ("/var/spool/slurmctld", "slurm"),
        ("/run/slurm", "slurm"),
        ("/run/munge", "munge"),
        ("/run/mysqld", "mysql"),
        (PID_FOLDER, "root"),
    ):
        instance.make_folder(folder, owner=owner)


def _configuration(instance: Instance) -> None:
    cluster = instance.cluster
    hook = (CHECKOUT / "plugins").is_dir()
    instance.write("/etc/slurm/slurm.conf", slurmconf.slurm_conf(cluster, instance.host_name, hook=hook))
    instance.write("/etc/slurm/gres.conf", slurmconf.gres_conf(cluster))
    instance.write("/etc/slurm/cgroup.conf", slurmconf.cgroup_conf())
    instance.write("/etc/slurm/slurmdbd.conf", slurmconf.slurmdbd_conf(), owner="slurm", mode=0o600)
    instance.write("/etc/slurm/gpuaas/partitions.conf", slurmconf.bootstrap_partitions(), owner=ADMINISTRATOR)
    instance.write("/etc/slurm/gpuaas/topology.yaml", topology_for(cluster), owner=ADMINISTRATOR)
    if cluster.release.reads_topology_yaml:
        instance.path("/etc/slurm/topology.yaml").symlink_to("/etc/slurm/gpuaas/topology.yaml")
    else:
        instance.write("/etc/slurm/topology.conf", topology_conf_for(cluster))
    for plugin in ("job_submit.lua", "cli_filter.lua") if hook else ():
        instance.path(f"/etc/slurm/{plugin}").symlink_to(f"{SOURCE}/plugins/{plugin}")
    instance.write("/etc/munge/munge.key", secrets.token_hex(64), owner="munge", mode=0o400)
    instance.write("/etc/gpuaas/agents.key", f"{secrets.token_hex(32)}\n", owner=ADMINISTRATOR, mode=0o600)
    instance.write("/etc/gpuaas/gpuaasd.yaml", slurmconf.gpuaasd_yaml(cluster))
    instance.write("/etc/gpuaas/agent.yaml", slurmconf.agent_yaml(cluster))
    program = slurmconf.reboot_program(str(SOURCE), f"{VENV}/bin/python")
    instance.write(slurmconf.REBOOT_PROGRAM, program, mode=0o755)
    for name, module in WRAPPERS.items():
        text = (
            "#!/bin/sh\n"
            f"export PYTHONPATH={SOURCE} LD_LIBRARY_PATH=/opt/gpuaas/sim\n"
            f'exec {VENV}/bin/python -m {module} "$@"\n'
        )
        instance.write(f"/usr/local/bin/{name}", text, mode=0o755)


def _hardware(instance: Instance) -> None:
    """GPU device files (they behave as /dev/null), simulated NVML and kernel log, and a spool folder for each node."""
    cluster = instance.cluster
    devices, spool = instance.path(slurmconf.DEVICES), instance.path("/var/spool")
    for node in cluster.node_names():
        (devices / node).mkdir(parents=True)
        for gpu in range(cluster.gpus):
            os.mknod(devices / node / f"nvidia{gpu}", stat.S_IFCHR, os.makedev(1, 3))
            (devices / node / f"nvidia{gpu}").chmod(0o666)
        (spool / f"slurmd.{node}").mkdir()
    create_node_files(instance.path("/run") / "gpuaas-sim", cluster.node_names(), cluster.model, cluster.name)


def _database(instance: Instance, artifacts: Artifacts) -> None:
    shutil.copy(artifacts.database / "my.cnf", _parent(instance, "/etc/gpuaas-testbed/my.cnf"))
    seed = str(artifacts.database / "data")
    folder = instance.path(DATABASE_FOLDER)
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)
    subprocess.run(["cp", "--archive", seed, str(folder)], check=True)


def _parent(instance: Instance, inside: str) -> Path:
    path = instance.path(inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _administrator(instance: Instance) -> None:
    sacctmgr = ["sacctmgr", "--immediate", "--quiet", "add"]
    instance.exec([*sacctmgr, "cluster", instance.cluster.name], cwd="/")
    instance.exec([*sacctmgr, "user", ADMINISTRATOR, "account=root", "adminlevel=Administrator"], cwd="/")


def start_nodes(instance: Instance, nodes: Sequence[str]) -> None:
    """Starts a slurmd for each node; each goes to the background by itself."""
    names = "".join(f"{node}\n" for node in nodes)
    instance.exec(["xargs", "-P", "4", "-I{}", "slurmd", "-N", "{}"], stdin=names, cwd="/", timeout=600)


def node_states(instance: Instance) -> Counter[str]:
    """Number of nodes in each of Slurm's compact states, as sinfo says."""
    listing = instance.exec(["sinfo", "--noheader", "--Node", "--format=%N %T"], cwd="/").stdout
    return Counter(dict(line.split() for line in listing.splitlines()).values())


def wait_until_idle(instance: Instance, note: Note) -> None:
    total = instance.cluster.nodes

    def all_idle() -> bool:
        idle = node_states(instance)["idle"]
        note(f"{idle} of {total} idle")
        return idle == total

    seconds = 60 + total / 4
    instance.wait_for(f"{total} idle nodes", all_idle, seconds=seconds, every=0.1 if total < 200 else 1)
