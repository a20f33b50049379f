"""`gpuaas testbed fabric`: the testbed's InfiniBand fabric, simulated by ibsim and read with the real tools."""

from __future__ import annotations

from typing import IO

import click
from rich.console import Console

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.machine import require_root
from slurm_gpuaas.testbed.progress import shown
from slurm_gpuaas.testbed.sim import damage
from slurm_gpuaas.testbed.sim.fabric import discover, net_file, start_fabric
from slurm_gpuaas.topology import ibnetdiscover


@click.command()
@click.option("--name", required=True, metavar="NAME", help="Which testbed.")
@click.option("--cut", "cuts", multiple=True, metavar="A,B", help="Pull the cables between two devices.")
@click.option("--slow", multiple=True, metavar="A,B=RATE", help="A link that trained at less, such as 1xNDR or 4xHDR.")
@click.option("--off", multiple=True, metavar="A", help="Switch a device off.")
@click.option("-o", "--output", type=click.File("w", lazy=True), default="-", help="File for it.  [default: stdout]")
def fabric(name: str, cuts: tuple[str, ...], slow: tuple[str, ...], off: tuple[str, ...], output: IO[str]) -> None:
    """Start the profile's fabric (ibsim, opensm) and print what the real ibnetdiscover reads of it.

    About 3 s for 129 nodes, 17 s for 957. Once started it runs until the testbed goes down. Devices to damage are named
    as the output names them; a run without damage mends all.

    \b
    Examples:
      gpuaas testbed fabric --name haein -o fabric.txt
      gpuaas topology import ibnetdiscover fabric.txt -o fabric.json
      gpuaas testbed fabric --name haein --cut 'b200-002 mlx5_3,leaf-01-4' --slow 'b200-001 mlx5_0,leaf-01-1=1xNDR'
    """
    require_root()
    instance = Instance.attach(name)
    net = sound = net_file(instance.cluster)
    for pair in cuts:
        one, other = _devices(sound, pair, 2)
        net = damage.cut(net, one, other)
    for wish in slow:
        pair, _, rate = wish.rpartition("=")
        if ibnetdiscover.rate_of(rate) is None:
            raise InvalidInput(f"{rate or wish!r:.40} is no rate.", way_out="Write A,B=RATE, such as 1xNDR or 4xHDR.")
        one, other = _devices(sound, pair, 2)
        net = damage.trained(net, one, other, rate)
    for device in off:
        net = damage.gone(net, *_devices(sound, device, 1))
    with shown(Console(stderr=True)) as progress, progress.step(f"{name}: ibsim, opensm, ibnetdiscover"):
        start_fabric(instance, net=net)
        text = discover(instance)
    output.write(text)


def _devices(net: str, words: str, number: int) -> list[str]:
    """Raises InvalidInput for other than so many devices of the fabric, separated by commas."""
    devices = [word.strip() for word in words.split(",")]
    unknown = [device for device in devices if device not in damage.names(net)]
    if len(devices) != number or unknown:
        what = f"There is no device {unknown[0]!r:.60}." if unknown else f"{words!r:.80} names {len(devices)} devices."
        raise InvalidInput(what, way_out="Name devices as the output does, such as 'b200-001 mlx5_0,leaf-01-1'.")
    return devices
