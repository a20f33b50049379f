"""Renders the configuration files of an instance; pure text from a cluster's profile."""

from __future__ import annotations

from typing import Final

from slurm_gpuaas.testbed.profiles import Cluster
from slurm_gpuaas.testbed.releases import Release

CONTROLLER_PORT: Final = 6817
DATABASE_PORT: Final = 6819
AGENTS_PORT: Final = 6880
FIRST_NODE_PORT: Final = 20001
CPUS_PER_NODE: Final = 224
MEMORY_MIB: Final = 2_000_000
CREDENTIAL_S: Final = 5
"""The shortest lifetime of a credential that Slurm takes, seconds; every clock of a testbed is this machine's."""
LUA_PLUGINS: Final = "JobSubmitPlugins=lua\nCliFilterPlugins=lua"
REBOOT_PROGRAM: Final = "/usr/local/sbin/gpuaas-sim-reboot"
DEVICES: Final = "/dev/gpuaas-sim"


def slurm_conf(cluster: Cluster, host: str, *, hook: bool) -> str:
    """slurm.conf for the cluster's release of Slurm; `hook` tells whether the checkout has our Lua plugins."""
    release = cluster.release
    requeue, scheduler = requeue_options(release)
    topology = "" if release.reads_topology_yaml else "TopologyPlugin=topology/tree\n"
    last_port = FIRST_NODE_PORT + cluster.nodes - 1
    return f"""\
ClusterName={cluster.name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={CONTROLLER_PORT}
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd.%n
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info

# many nodes on one machine, with hardware it does not have
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=0
RebootProgram={REBOOT_PROGRAM}
# programs that ignore SIGTERM while they start (torchrun) hold their nodes no longer than this
KillWait=5
MessageTimeout=60
SlurmdTimeout=600
TCPTimeout=10
MaxNodeCount={cluster.nodes}

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
Licenses=placement:1000000
JobRequeue=1
PreemptType=preempt/qos
PreemptMode=REQUEUE
PreemptParameters=send_user_signal
{requeue}
# ranks of a job follow the leaf groups or blocks of the topology; without it they follow node names
{topology}TopologyParam=SwitchAsNodeRank,BlockAsNodeRank
SchedulerType=sched/backfill
SchedulerParameters={scheduler},batch_sched_delay=1,bf_interval=5,bf_window=11520,bf_resolution=300
{LUA_PLUGINS if hook else "# no plugins in this checkout: native limits alone"}

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={DATABASE_PORT}
AccountingStorageTRES=gres/gpu,gres/gpu:{cluster.model}
AccountingStorageEnforce=associations,limits,qos,safe
AccountingStoreFlags=job_comment
PriorityType=priority/multifactor
PriorityDecayHalfLife=0
PriorityUsageResetPeriod=NONE
PriorityWeightQOS=100000
PriorityWeightFairshare=10000
PriorityWeightAge=1000

NodeName={cluster.hostlist} NodeHostname=localhost Port=[{FIRST_NODE_PORT}-{last_port}] \
CPUs={CPUS_PER_NODE} RealMemory={MEMORY_MIB} Gres=gpu:{cluster.model}:{cluster.gpus} State=UNKNOWN
PartitionName=gpuaas-verify Nodes=ALL Hidden=YES AllowQos=normal ReqResv=YES State=UP
include /etc/slurm/gpuaas/partitions.conf
"""


def requeue_options(release: Release) -> tuple[str, str]:
    """A line, and words of SchedulerParameters, that let a requeued job start soon.

    25.11 brought requeue_delay and enable_expedited_requeue; 24.11.5 takes them without a word and does nothing. There
    a requeued job waits for its credential's life and a second, and then for the scheduler's next round.
    """
    if release.number >= (25, 11):
        return "SlurmctldParameters=enable_expedited_requeue", "requeue_delay=1"
    return f"AuthInfo=cred_expire={CREDENTIAL_S}", "sched_interval=1"


def bootstrap_partitions() -> str:
    """What stands in the include file until gpuaasd writes it: a partition for the QOS `normal` only."""
    return (
        "PartitionName=all Nodes=ALL AllowAccounts=root AllowQos=normal TRESBillingWeights=GRES/gpu=1 "
        "MaxTime=INFINITE State=UP\n"
    )


def gres_conf(cluster: Cluster) -> str:
    """A device file for each simulated GPU; Slurm ignores GPUs without one."""
    files = f"nvidia[0-{cluster.gpus - 1}]"
    lines = (
        f"NodeName={node} Name=gpu Type={cluster.model} File={DEVICES}/{node}/{files}" for node in cluster.node_names()
    )
    return "\n".join(("AutoDetect=off", *lines)) + "\n"


def cgroup_conf() -> str:
    return "CgroupPlugin=disabled\n"


def slurmdbd_conf() -> str:
    return f"""\
AuthType=auth/munge
DbdHost=localhost
DbdPort={DATABASE_PORT}
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
PidFile=/run/slurm/slurmdbd.pid
LogFile=/var/log/slurm/slurmdbd.log
DebugLevel=info
"""


def gpuaasd_yaml(cluster: Cluster) -> str:
    """The daemon's configuration: defaults, a loopback listener for the agents, usage that one can watch grow, and a
    circuit breaker that lets a few nodes be broken of few."""
    return f"""\
cluster: {cluster.name}
agents:
  listener:
    port: {AGENTS_PORT}
metering:
  interval: 2
health:
  breaker: {{share: 100, per_leaf: 16}}
"""


def reboot_program(checkout: str, python: str) -> str:
    """RebootProgram of simulated nodes: hardware as after a boot, and a slurmd that says it has just booted."""
    return f"""\
#!/bin/sh
# 24.11 does not say which node; the slurmd that runs this was started with its name
node=${{SLURM_NODE_NAME:-$(tr '\\0' ' ' </proc/$PPID/cmdline | sed 's/.*-N *//; s/ .*//')}}
PYTHONPATH={checkout} {python} -c 'import pathlib, sys
from slurm_gpuaas.testbed.sim import SimulatedNode
SimulatedNode(pathlib.Path("/run/gpuaas-sim", sys.argv[1])).reboot()' "$node"
setsid sh -c 'start-stop-daemon --stop --quiet --oknodo --pidfile "/run/slurm/slurmd.$1.pid" --retry TERM/10
slurmd -b -N "$1"' reboot "$node" >/dev/null 2>&1 &
sleep 1 # slurmd ends what is of this process group when this ends; by then that is not
"""


MANY_NODES: Final = 200
"""From here on each is sampled once a minute and runs no periodic checks: one agent plays them all. A sample of 1,642
nodes every 15 s is a fifth of a core, a round of checks costs 16 ms a node."""


def agent_yaml(cluster: Cluster) -> str:
    """The agent's configuration: it speaks for simulated nodes, so it may derive every node's key."""
    many = cluster.nodes >= MANY_NODES
    return f"""\
daemon: http://127.0.0.1:{AGENTS_PORT}
master_key: /etc/gpuaas/agents.key
simulated_hardware: /run/gpuaas-sim
check_every: {"null" if many else 60}
sample_every: {60 if many else 15}
"""
