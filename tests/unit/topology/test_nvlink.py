"""NVLink domains, from what GPUs say of them in the words of nvidia-smi."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slurm_gpuaas.cli.topology import group
from slurm_gpuaas.topology.fabric import Fabric, Fault, LeafGroup, NvlinkDomain
from slurm_gpuaas.topology.nvlink import add, domain_of
from tests.unit.topology.test_iblinkinfo import NET

RACK = "9c6f5af3-53bf-49b5-a436-b66766c413c3"
OTHER = "d2be6fbd-9b6c-4ddb-8a17-2a3e3c6ea1f0"
ZEROS = "00000000-0000-0000-0000-000000000000"
FABRIC = Fabric(
    leaf_groups=(LeafGroup(name="a", pod="p", nodes="n[1-4]"), LeafGroup(name="b", pod="p", nodes="n[5-10]"))
)


def domains(text: str) -> list[tuple[str, str]]:
    return [(domain.name, domain.nodes) for domain in add(FABRIC, text).nvlink_domains]


def lines(*nodes: str, uuid: str = RACK, clique: str = "1", rest: str = ", Completed, Success") -> str:
    return "".join(f"{node}: {uuid}, {clique}{rest}\n" * 4 for node in nodes)


class TestOneGpu:
    def test_a_domain_is_cluster_and_clique(self) -> None:
        assert domain_of(RACK, "4026") == f"{RACK}.4026"
        assert domain_of(RACK.upper(), "04026") == f"{RACK}.4026"

    @pytest.mark.parametrize(
        ("uuid", "clique", "state", "status"),
        [
            (ZEROS, "0", "Completed", "Success"),
            (RACK, "1", "In Progress", "Success"),
            (RACK, "1", "Not Supported", "Success"),
            (RACK, "1", "Completed", "Error 999"),
            (RACK, "N/A", "Completed", "Success"),
            (RACK, "", "Completed", "Success"),
            (RACK, "9" * 5_000, "Completed", "Success"),
            ("N/A", "N/A", "N/A", "N/A"),
            ("[N/A]", "1", "Completed", "Success"),
        ],
    )
    def test_these_are_in_none(self, uuid: str, clique: str, state: str, status: str) -> None:
        assert domain_of(uuid, clique, state, status) is None


class TestText:
    def test_nodes_of_one_cluster_and_clique_share_a_domain(self) -> None:
        text = lines("n10", "n2", "n1") + lines("n3", clique="2") + lines("n4", uuid=OTHER)
        assert domains(text) == [(f"{RACK}.1", "n[1-2,10]"), (f"{RACK}.2", "n3"), (f"{OTHER}.1", "n4")]
        assert add(FABRIC, text).findings == ()

    @pytest.mark.parametrize("line", [f"n1 {RACK} 1", f"n1: {RACK}, 1", f"n1:\t{RACK},1", f"n1.hpc.example: {RACK}, 1"])
    def test_forms_of_a_line(self, line: str) -> None:
        assert domains(line) == [(f"{RACK}.1", "n1")]

    def test_gpus_without_a_domain_and_other_hosts_are_no_finding(self) -> None:
        text = (
            lines("n1", uuid=ZEROS) + "n2: [N/A], [N/A]\nn3: N/A, N/A, N/A, N/A\nn4: [Not Supported], [Not Supported]\n"
        )
        fabric = add(FABRIC, text + lines("login-1") + "n5: fabric.clusterUuid, fabric.cliqueId\n")
        assert fabric == FABRIC

    def test_a_gpu_that_is_not_in_its_nodes_domain_is_a_finding(self) -> None:
        text = lines("n1", "n2") + f"n2: {RACK}, 1, In Progress, Success\n"
        (finding,) = add(FABRIC, text).findings
        assert (finding.fault, finding.nodes) == (Fault.NVLINK_DOWN, "n2")
        assert finding.says == "4 of the 5 GPUs of n2 are in its NVLink domain."

    def test_other_lines_are_counted(self) -> None:
        (finding,) = add(FABRIC, f"clush: n9: exited with exit code 127\nn9\n\x00\n{lines('n1')}").findings
        assert finding.says == "3 lines about NVLink domains not understood."

    @given(st.text())
    def test_any_text_is_read(self, text: str) -> None:
        assert add(FABRIC, text).nvlink_domains == ()

    def test_long_lines_cost_nothing(self) -> None:
        began = time.process_time()
        for line in (f"n1: {RACK}, " + "1" * 100_000, "n" * 100_000, "n1: " + ", " * 50_000, "n1:" + " " * 100_000):
            add(FABRIC, "\n".join([line] * 100))
        assert time.process_time() - began < 1


def test_a_node_is_in_one_domain() -> None:
    twice = tuple(NvlinkDomain(name=name, nodes="n1") for name in ("x.1", "x.2"))
    with pytest.raises(ValidationError, match=r"n1 is in NVLink domains x\.1 and x\.2"):
        Fabric(leaf_groups=FABRIC.leaf_groups, nvlink_domains=twice)


def test_the_command_keeps_them_and_renders_them_as_blocks(tmp_path: Path) -> None:
    net, nvlink, json = tmp_path / "net.txt", tmp_path / "nvlink.txt", tmp_path / "fabric.json"
    net.write_text(NET)
    nvlink.write_text(lines("b200-01", "b200-02", "b200-05"))
    argv = ["import", "ibnetdiscover", str(net), "--nvlink", str(nvlink), "-o", str(json)]
    assert CliRunner().invoke(group, argv, catch_exceptions=False).output == ""
    assert f"NVLink domain {RACK}.1: b200-[01-02,05]" in CliRunner().invoke(group, ["show", str(json)]).output
    blocks = CliRunner().invoke(group, ["render", str(json), "--format", "topology.conf", "--plugin", "block"]).output
    assert blocks == (
        f"BlockName={RACK}.1 Nodes=b200-[01-02,05]\nBlockName=leaf-01 Nodes=b200-[03-04]\n"
        "BlockName=leaf-02 Nodes=b200-[06-08]\nBlockSizes=3\n"
    )
