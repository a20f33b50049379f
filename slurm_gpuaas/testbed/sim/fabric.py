"""The profile's InfiniBand fabric: cabled as a rail-optimised SuperPOD, simulated by ibsim, read by the real tools.

A node has eight rails, one adapter each; a scalable unit has one leaf switch a rail. Up to 64 leaves, every leaf meets
every spine. Beyond, four units are a pod with spines of its own, and the spines of equal number meet in a plane of core
switches. Cables in parallel are drawn as one. Counts follow NVIDIA's DGX B200 SuperPOD reference architecture; see
docs/guides/topology.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.testbed.profiles import Cluster
from slurm_gpuaas.topology import ibnetdiscover, slurm_conf, slurm_yaml
from slurm_gpuaas.topology.fabric import Fabric

if TYPE_CHECKING:
    from slurm_gpuaas.testbed.instance import Instance

RAILS: Final = 8
SWITCH_PORTS: Final = 64
UNITS_PER_POD: Final = 4
NET_FILE: Final = "/etc/gpuaas-sim/fabric.net"
LOG: Final = "/var/log/gpuaas/ibsim.log"
PID_FILE: Final = "/run/gpuaas-testbed/ibsim.pid"
READY: Final = "Network simulator ready."

SWITCH_ID, ADAPTER_ID = "vendid=0x2c9\ndevid=0xd2f2", "vendid=0x2c9\ndevid=0x1021"
"""As Quantum-2 switches and ConnectX-7 adapters call themselves."""


@dataclass(frozen=True)
class Device:
    """A switch or an adapter, with its ports by number: the device and port at the other end of each cable."""

    guid: int
    name: str
    ports: dict[int, tuple[Device, int]]
    is_switch: bool

    @property
    def id(self) -> str:
        return f'"{"S" if self.is_switch else "H"}-{self.guid:016x}"'

    def port_guid(self) -> str:
        """Adapters here have one port, and its GUID follows the adapter's."""
        return "" if self.is_switch else f"({self.guid + 1:016x})"

    def record(self) -> Iterator[str]:
        """The device's lines, as ibnetdiscover writes them and ibsim reads them."""
        if self.is_switch:
            yield f"{SWITCH_ID}\nsysimgguid=0x{self.guid:016x}\nswitchguid=0x{self.guid:016x}({self.guid:016x})"
            yield f'Switch\t{SWITCH_PORTS} {self.id}\t# "{self.name}" enhanced port 0 lid 0 lmc 0'
        else:
            yield f"{ADAPTER_ID}\nsysimgguid=0x{self.guid:016x}\ncaguid=0x{self.guid:016x}"
            yield f'Ca\t1 {self.id}\t# "{self.name}"'
        for number, (other, port) in sorted(self.ports.items()):
            local = f"[{number}]{self.port_guid()}"
            yield (
                f'{local}\t{other.id}[{port}]{other.port_guid()}\t# lid 0 lmc 0 "{other.name}" lid 0 4xNDR'
                if (not self.is_switch)
                else f'{local}\t{other.id}[{port}]{other.port_guid()}\t# "{other.name}" lid 0 4xNDR'
            )
        yield ""


def devices(cluster: Cluster) -> list[Device]:
    """All switches and adapters, cabled. GUIDs follow from the position, so they survive a restart."""
    made: list[Device] = []
    used: dict[int, int] = defaultdict(int)

    def device(kind: int, number: int, name: str) -> Device:
        made.append(Device(0xB83F_D203_0000_0000 | kind << 24 | number << 4, name, {}, is_switch=kind > 0))
        return made[-1]

    def cable(lower: Device, upper: Device) -> None:
        ends = []
        for end in (lower, upper):
            used[end.guid] += 1
            ends.append(used[end.guid])
        lower.ports[ends[0]] = (upper, ends[1])
        upper.ports[ends[1]] = (lower, ends[0])

    names = list(cluster.node_names())
    units = [names[first : first + cluster.group] for first in range(0, len(names), cluster.group)]
    leaves = [
        [device(1, unit * RAILS + rail, f"leaf-{unit + 1:02d}-{rail + 1}") for rail in range(RAILS)]
        for unit in range(len(units))
    ]
    for unit, members in enumerate(units):
        for place, node in enumerate(members):
            for rail in range(RAILS):
                cable(
                    device(0, (unit * cluster.group + place) * RAILS + rail, f"{node} mlx5_{rail}"), leaves[unit][rail]
                )
    two_levels = len(units) * RAILS <= SWITCH_PORTS
    per_pod = len(units) if two_levels else UNITS_PER_POD
    pods = range(-(-len(units) // per_pod))
    spines = [
        [device(2, pod * cluster.group + n, f"spine-{pod + 1:02d}-{n + 1:02d}") for n in range(cluster.group)]
        for pod in pods
    ]
    for unit, rails in enumerate(leaves):
        for leaf in rails:
            for spine in spines[unit // per_pod]:
                cable(leaf, spine)
    if not two_levels:
        per_plane = -(-len(pods) // 2)
        for plane in range(cluster.group):
            for n in range(per_plane):
                core = device(3, plane * per_plane + n, f"core-{plane + 1:02d}-{n + 1:02d}")
                for pod in pods:
                    cable(spines[pod][plane], core)
    return made


def net_file(cluster: Cluster) -> str:
    """The fabric as ibsim's net file, which has ibnetdiscover's form."""
    # The first device is where the tools attach: a switch, as it can never be unplugged from itself.
    ordered = sorted(devices(cluster), key=lambda device: not device.is_switch)
    return "\n".join(line for device in ordered for line in device.record())


def fabric_of(cluster: Cluster) -> Fabric:
    """The fabric as our own reader understands the net file, without running a simulator."""
    nodes = tuple(NodeName(name) for name in cluster.node_names())
    return ibnetdiscover.parse(net_file(cluster), nodes=nodes, source=f"testbed profile {cluster.name}")


def topology_for(cluster: Cluster) -> str:
    """topology.yaml of the profile."""
    return slurm_yaml.render(fabric_of(cluster))


def topology_conf_for(cluster: Cluster) -> str:
    """topology.conf of the profile, for releases that do not read the other."""
    return slurm_conf.render(fabric_of(cluster))


def start_fabric(instance: Instance, *, cluster: Cluster | None = None, net: str | None = None) -> None:
    """Run ibsim with a fabric inside the instance and let opensm bring it up; the same again is without effect.

    Args:
        cluster: whose fabric; the instance's own unless told otherwise.
        net: its net file, where it is not `net_file(cluster)` (damaged).

    Raises:
        CommandFailed, ServiceFailed: ibsim or opensm did not do it.
    """
    cluster = cluster or instance.cluster
    net = net or net_file(cluster)
    path = instance.path(NET_FILE)
    if not path.exists() or path.read_text() != net:
        stop_fabric(instance)
        instance.write(NET_FILE, net)
    ports = 2 * sum(len(device.ports) for device in devices(cluster)) + 10_000
    instance.exec(
        [
            *("start-stop-daemon", "--start", "--quiet", "--oknodo", "--background", "--make-pidfile"),
            *("--pidfile", PID_FILE, "--output", LOG, "--startas", "/usr/bin/ibsim", "--"),
            *("-s", "-n", "-N", "32768", "-S", "4096", "-P", str(ports), NET_FILE),
        ],
        cwd="/",
    )
    log = instance.path(LOG)  # start-stop-daemon returns before it is there
    instance.wait_for("Readiness of ibsim", lambda: log.exists() and READY in log.read_text(errors="replace"))
    _with_fabric(instance, "opensm", "--once", "--log_file", "/var/log/gpuaas/opensm.log", "--erase_log_file")


def stop_fabric(instance: Instance) -> None:
    """Nothing simulates a fabric any more."""
    stop = ["start-stop-daemon", "--stop", "--quiet", "--oknodo", "--retry", "TERM/10/KILL/5", "--pidfile", PID_FILE]
    instance.exec([*stop, "--exec", "/usr/bin/ibsim"], cwd="/")
    instance.path(LOG).unlink(missing_ok=True)


def discover(instance: Instance, *tool: str) -> str:
    """What the real ibnetdiscover, or the tool named instead, prints of the running fabric."""
    return _with_fabric(instance, *(tool or ("ibnetdiscover",)))


def _with_fabric(instance: Instance, *argv: str) -> str:
    """Run a program of the InfiniBand stack with its device interface led to ibsim."""
    (library,) = instance.path("/usr/lib").glob("*/umad2sim/libumad2sim.so")
    preload = f"LD_PRELOAD=/{library.relative_to(instance.root)}"
    # `env` inside: outside, the loader would look for the library on this machine.
    return instance.exec(["env", preload, *argv], cwd="/", timeout=600).stdout
