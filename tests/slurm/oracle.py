"""A real slurmctld that only says where a job would go: no slurmd, no accounting, nodes that are in its files alone.

Nodes are `State=CLOUD`, so that it takes them for startable without hearing of them; those in use are drained.
`sbatch --test-only` then says which nodes a job would get, in some milliseconds. It runs inside a testbed, beside its
Slurm.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes, fold_nodes
from slurm_gpuaas.testbed.instance import Instance

FOLDER: Final = "/etc/oracle"
CONF: Final = f"{FOLDER}/slurm.conf"
STATE: Final = "/var/spool/oracle"
LOG: Final = "/var/log/slurm/oracle.log"
PORT: Final = 6900
ON_NODES: Final = re.compile(r"on nodes (\S+) in partition")


class Oracle:
    """Answers of one slurmctld. Nodes not in `busy` are free."""

    def __init__(self, instance: Instance, nodes: str) -> None:
        self._instance = instance
        self._nodes = frozenset(expand_nodes(nodes))
        self._busy: frozenset[NodeName] = frozenset()

    def ask(self, *options: str) -> tuple[NodeName, ...] | None:
        """Nodes that a job with these options would start on now; None where it would not."""
        done = self.run("sbatch", "--test-only", "--wrap=true", *options)
        found = ON_NODES.search(done.stderr)
        if found is None:
            return None
        nodes = expand_nodes(found[1])
        return nodes if not self._busy & set(nodes) else None

    def set_busy(self, nodes: Collection[NodeName]) -> None:
        """Exactly these are in use from now on."""
        wanted = frozenset(nodes)
        for names, change in (
            (wanted - self._busy, ("state=drain", "reason=busy")),
            (self._busy - wanted, ("state=resume",)),
        ):
            if names:
                self.run("scontrol", "update", f"nodename={fold_nodes(sorted(names))}", *change, check=True)
        self._busy = wanted

    def run(self, *argv: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        return self._instance.exec(argv, check=check, env={"SLURM_CONF": CONF})


@contextmanager
def oracle(instance: Instance, nodes: str, topology: str) -> Iterator[Oracle]:
    """One that is up, with this topology.yaml.

    Raises ServiceFailed when slurmctld does not come up with it.
    """
    process = start(instance, nodes, topology)
    try:
        asked = Oracle(instance, nodes)
        instance.wait_for("The oracle", lambda: asked.run("scontrol", "ping").returncode == 0 or None)
        yield asked
    finally:
        stop(process)


def start(instance: Instance, nodes: str, topology: str, *, form: str = "topology.yaml") -> subprocess.Popen[Any]:
    """slurmctld in the foreground with these files and no memory of an earlier one; `form` is the file's name."""
    instance.exec(["rm", "-rf", STATE])
    for folder in (STATE, FOLDER):
        instance.make_folder(folder, owner="slurm")
    host = instance.exec(["hostname"]).stdout.strip()
    plugin = "" if form == "topology.yaml" else f"topology/{'block' if 'BlockName' in topology else 'tree'}"
    instance.write(CONF, _slurm_conf(host, nodes, plugin))
    for other in ("topology.yaml", "topology.conf"):
        instance.path(f"{FOLDER}/{other}").unlink(missing_ok=True)
    instance.write(f"{FOLDER}/{form}", topology)
    argv = ["slurmctld", "-D", "-c", "-f", CONF]
    return instance.popen(
        argv,
        "slurm",
        env={"SLURM_CONF": CONF},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def stop(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _slurm_conf(host: str, nodes: str, plugin: str) -> str:
    return f"""\
ClusterName=oracle
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={PORT}
SlurmUser=slurm
AuthType=auth/munge
StateSaveLocation={STATE}
SlurmctldPidFile=/run/slurm/oracle.pid
SlurmctldLogFile={LOG}
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
{f"TopologyPlugin={plugin}" if plugin else ""}
SuspendProgram=/bin/true
ResumeProgram=/bin/true
MaxNodeCount={len(expand_nodes(nodes))}
NodeName={nodes} CPUs=1 State=CLOUD
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
