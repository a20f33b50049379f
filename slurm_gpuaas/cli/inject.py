"""`gpuaas testbed inject`: break simulated hardware."""

from __future__ import annotations

import click

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed.sim import SimulatedNode

NAME = click.option("--name", metavar="NAME", help="Which testbed; not needed while only one is up.")
NODES = click.argument("nodes", metavar="NODES")
GPU = click.option("--gpu", type=click.IntRange(0, 7), default=0, show_default=True, help="NVML index on the node.")


@click.group("inject")
def group() -> None:
    """Break simulated hardware; what watches the node sees it as it would on real hardware.

    NODES is one node or a node list.

    \b
    Examples:
      gpuaas testbed inject xid b200-007 --xid 79 --gpu 3
      gpuaas testbed inject xid 'b200-[001-032]' --xid 31 --pid 4242 --process python3
      gpuaas testbed inject gpu b200-007 --gpu 3 --set temperature=90 --set nvlink.5.state=0
      gpuaas testbed inject reboot b200-007
    """


@group.command()
@NAME
@NODES
@GPU
@click.option("--xid", "code", type=click.IntRange(1, 999_999), required=True, help="XID code.")
@click.option("--pid", type=click.IntRange(1), help="Process that the line names.")
@click.option("--process", help="Name of that process.")
@click.option("--text", help="What follows it. Default: the driver's words for the code.")
def xid(
    name: str | None, nodes: str, gpu: int, code: int, pid: int | None, process: str | None, text: str | None
) -> None:
    """Raise an XID: kernel-log line, NVML event, and for 79 a GPU that no longer answers.

    \b
    Example:
      gpuaas testbed inject xid 'b200-[001-032]' --xid 31 --pid 4242 --process python3
    """
    for node in _nodes(name, nodes):
        click.echo(f"{node.folder.name}: {node.xid(code, gpu, text=text, pid=pid, process=process)}")


@group.command()
@NAME
@NODES
@GPU
@click.option("--set", "readings", metavar="KEY=VALUE", multiple=True, help="A reading, as in nvml.state.")
def gpu(name: str | None, nodes: str, gpu: int, readings: tuple[str, ...]) -> None:
    """Set readings of a GPU; without --set show them.

    \b
    Examples:
      gpuaas testbed inject gpu b200-007 --gpu 3
      gpuaas testbed inject gpu b200-007 --gpu 3 --set temperature=90 --set nvlink.5.state=0
    """
    pairs = [reading.partition("=") for reading in readings]
    if bad := [key for key, equals, _value in pairs if not equals]:
        raise InvalidInput(f"{bad[0]!r} is no reading.", way_out="Use KEY=VALUE, e.g. temperature=90.")
    for node in _nodes(name, nodes):
        if pairs:
            node.set(gpu, {key: value for key, _equals, value in pairs})
        else:
            prefix = f"gpu.{gpu}."
            for key, value in node.read_state().items():
                if key.startswith(prefix):
                    click.echo(f"{node.folder.name} {key.removeprefix(prefix)} {value}")


@group.command()
@NAME
@NODES
@click.argument("text")
@click.option(
    "--priority", type=click.IntRange(0, 191), default=3, help="Severity + 8 x facility.  [default: 3, kern.err]"
)
def log(name: str | None, nodes: str, text: str, priority: int) -> None:
    """Write TEXT to the kernel log.

    \b
    Example:
      gpuaas testbed inject log b200-007 'nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32'
    """
    for node in _nodes(name, nodes):
        click.echo(f"{node.folder.name}: record {node.log(text, priority)}")


@group.command()
@NAME
@NODES
def reboot(name: str | None, nodes: str) -> None:
    """Give the hardware a new boot: empty kernel log, lost GPUs back. Slurm and jobs are not touched.

    \b
    Example:
      gpuaas testbed inject reboot b200-007
    """
    for node in _nodes(name, nodes):
        node.reboot()
        click.echo(f"{node.folder.name}: rebooted")


def _nodes(name: str | None, nodes: str) -> list[SimulatedNode]:
    from slurm_gpuaas.cli.testbed import chosen  # it mounts this module

    instance = chosen(name)
    return [SimulatedNode(instance.path("/run/gpuaas-sim") / node) for node in expand_nodes(nodes)]
