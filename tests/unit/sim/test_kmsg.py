from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from slurm_gpuaas.agent.kmsg import parse
from slurm_gpuaas.testbed.sim import SimulatedNode


def test_records_have_the_devices_format(node: SimulatedNode) -> None:
    node.xid(79, 3, pid=42, process="python3")
    records = [parse(line) for line in (node.folder / "kmsg").read_bytes().splitlines()]
    assert all(records)
    last = [record for record in records if record][-2:]
    assert last[0].text == "NVRM: Xid (PCI:0000:61:00): 79, pid=42, name=python3, GPU has fallen off the bus."
    assert last[0].from_kernel
    assert last[1].sequence == last[0].sequence + 1
    assert last[1].microseconds >= last[0].microseconds


def test_writers_at_the_same_time_get_numbers_without_gap(node: SimulatedNode) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda n: SimulatedNode(node.folder).log(f"line {n}"), range(200)))
    records = [parse(line) for line in (node.folder / "kmsg").read_bytes().splitlines()]
    assert [record.sequence for record in records if record] == list(range(1, 202))
    assert sorted(numbers) == list(range(2, 202))


def test_text_cannot_forge_a_record(node: SimulatedNode) -> None:
    node.log("first\n3,999,1,-;NVRM: Xid (PCI:0000:61:00): 79")
    lines = (node.folder / "kmsg").read_text().splitlines()
    assert len(lines) == 2
    assert r"\x0a" in lines[1]
