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
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurm_gpuaas.testbed import slurmconf
from slurm_gpuaas.testbed.machine import PID_FOLDER, Machine, Service, host_name
from slurm_gpuaas.testbed.progress import Note, Progress
from slurm_gpuaas.testbed.rootfs import CHECKOUT, SOURCE, VENV, Artifacts
from slurm_gpuaas.testbed.sim import create_node_files
from slurm_gpuaas.testbed.sim.fabric import topology_conf_for, topology_for

if TYPE_CHECKING:
    from slurm_gpuaas.testbed.instance import Instance

ADMINISTRATOR: Final = "gpuaas"
RESEARCHERS: Final = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory")
DATABASE_FOLDER: Final = "/var/lib/mariadb"
OWN_ADDRESS: Final = "192.0.2.1"
"""An address for documentation (RFC 5737): it can be nobody's."""
WRAPPERS: Final = {
    "gpuaas": "slurm_gpuaas.cli",
    "gpuaasd": "slurm_gpuaas.daemon",
    "gpuaas-agent": "slurm_gpuaas.agent",
    "gpuaas-people": "slurm_gpuaas.people",
}


def _socket(path: str) -> Callable[[Machine], bool]:
    """Somebody listens there; a killed service leaves its socket behind."""

    def ready(machine: Machine) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(machine.path(path))) == 0

    return ready


def _port(port: int) -> Callable[[Machine], bool]:
    return lambda machine: machine.listening(port)


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
PEOPLE: Final = Service(
    name="gpuaas-people",
    argv=("/usr/local/bin/gpuaas-people",),
    user="root",
    log="/var/log/gpuaas/gpuaas-people.log",
    ready=lambda _machine: True,
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
    """What an instance can run; ours only where they were started."""
    slurm = (MUNGED, MARIADB, SLURMDBD, SLURMCTLD, SLURMRESTD)
    ours = (GPUAASD, agent(instance), PEOPLE)
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


def boot(instance: Instance, artifacts: Artifacts, *, daemon: bool, clock: bool, progress: Progress) -> None:
    """Takes an instance from bare namespaces to idle nodes."""
    cluster = instance.cluster
    if clock:
        instance.make_clock()
    with progress.step(f"{instance.name}: users, configuration, devices"):
        _network(instance)
        _users(instance)
        _configuration(instance)
        _hardware(instance)
    with progress.step(f"{instance.name}: MUNGE, MariaDB, slurmdbd"):
        _database(instance, artifacts)
        for service in (MUNGED, MARIADB, SLURMDBD):
            instance.start(service)
        _administrator(instance)
    with progress.step(f"{instance.name}: slurmctld and {cluster.nodes} slurmd") as note:
        instance.start(SLURMCTLD)
        start_nodes(instance, list(cluster.node_names()))
        wait_until_idle(instance, note)
    with progress.step(f"{instance.name}: slurmrestd"):
        instance.start(SLURMRESTD)
    if daemon:
        with progress.step(f"{instance.name}: gpuaasd and gpuaas-agent"):
            instance.start(GPUAASD)
            instance.start(agent(instance))


def _network(instance: Instance) -> None:
    instance.write("/etc/hosts", f"127.0.0.1 localhost {host_name(instance.name)}\n")
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
    instance.write("/etc/slurm/slurm.conf", slurmconf.slurm_conf(cluster, host_name(instance.name), hook=hook))
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
        write_wrapper(instance, name, module)


def write_wrapper(machine: Machine, name: str, module: str) -> None:
    """A program of ours, from the checkout."""
    text = (
        "#!/bin/sh\n"
        f"export PYTHONPATH={SOURCE} LD_LIBRARY_PATH=/opt/gpuaas/sim\n"
        f'exec {VENV}/bin/python -m {module} "$@"\n'
    )
    machine.write(f"/usr/local/bin/{name}", text, mode=0o755)


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


def node_states(instance: Machine) -> Counter[str]:
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
