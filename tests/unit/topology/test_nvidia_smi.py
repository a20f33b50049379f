"""The reader of `nvidia-smi topo -m`. What is nearest to which GPU is as on real hosts, named with each case; the text
around it has the tool's form.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.cli.topology import group
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.nvidia_smi import parse
from tests.unit.topology.test_iblinkinfo import NET, groups
from tests.unit.topology.test_rails import with_storage

Word = Callable[[int, int], str]
NEAR, FAR = range(4), range(4, 8)


def halves(gpu: int, nic: int, nics: int = 8) -> str:
    """As GPU and adapter are on one NUMA node each of two."""
    return "NODE" if (gpu < 4) == (nic < nics / 2) else "SYS"


def text_of(
    near: Word, *, nics: int, nvlink: Word = lambda one, other: "NV18", numa: Sequence[int | str] = (0,) * 4 + (1,) * 4,
    tabs: bool = True, legend: bool = True,
) -> str:  # fmt: skip
    """What the tool prints of 8 GPUs."""
    gpus, names = [f"GPU{gpu}" for gpu in range(8)], [f"NIC{nic}" if legend else f"mlx5_{nic}" for nic in range(nics)]
    lines = [["", *gpus, *names, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"]]
    for gpu in range(8):
        words = [" X " if gpu == other else nvlink(gpu, other) for other in range(8)]
        cpus = f"{numa[gpu]}-55,112-167" if isinstance(numa[gpu], int) else ""
        lines.append([f"GPU{gpu}", *words, *(near(gpu, nic) for nic in range(nics)), cpus, f"{numa[gpu]}", "", "N/A"])
    for nic, name in enumerate(names):
        others = [" X " if nic == other else "SYS" for other in range(nics)]
        lines.append([name, *(near(gpu, nic) for gpu in range(8)), *others, "", ""])
    text = "\n".join("\t".join(line) if tabs else "  ".join(f"{word:6}" for word in line) for line in lines)
    text += "\n\nLegend:\n\n  X    = Self\n  SYS  = Connection traversing PCIe as well as the SMP interconnect\n"
    if legend:
        text += "\nNIC Legend:\n\n" + "".join(f"  {name}: mlx5_{nic}\n" for nic, name in enumerate(names))
    return text


def pix(*adapters: int, elsewhere: Word = halves) -> Word:
    """GPU n has this adapter on its PCIe switch."""
    return lambda gpu, nic: "PIX" if adapters[gpu] == nic else elsewhere(gpu, nic)


@pytest.mark.parametrize(
    ("host", "nics", "adapters"),
    [
        ("H200, storage on 1, 2, 7 and 8", 12, (0, 3, 4, 5, 6, 9, 10, 11)),
        ("A100 in odd order, NVIDIA/nccl issue 933", 9, (2, 4, 6, 8, 1, 3, 5, 7)),
        ("in reverse", 8, (7, 6, 5, 4, 3, 2, 1, 0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("tabs", [True, False], ids=["tabs", "spaces"])
def test_a_gpus_rail_is_the_nearest_adapter_whatever_its_number(
    host: str, nics: int, adapters: tuple[int, ...], tabs: bool
) -> None:
    matrix = parse(text_of(pix(*adapters), nics=nics, tabs=tabs))
    assert matrix.rails() == tuple(f"mlx5_{nic}" for nic in adapters)
    assert len(matrix.adapters) == nics
    assert list(matrix.findings()) == []


def test_without_numa_nodes_all_else_is_one_distance() -> None:
    near = pix(0, 1, 2, 5, 6, 7, 8, 11, elsewhere=lambda gpu, nic: "NODE")
    assert parse(text_of(near, nics=12)).rails() == tuple(f"mlx5_{nic}" for nic in (0, 1, 2, 5, 6, 7, 8, 11))


def test_older_releases_name_adapters_in_the_columns() -> None:
    assert parse(text_of(pix(*range(8)), nics=8, legend=False)).rails() == tuple(f"mlx5_{nic}" for nic in range(8))


def test_two_gpus_with_two_adapters_on_one_switch_take_one_each() -> None:
    """DGX A100: GPU 0 and 1, and adapters 0 and 1, are behind one pair of PCIe switches."""
    near: Word = lambda gpu, nic: "PXB" if gpu // 2 == nic // 2 else halves(gpu, nic)  # noqa: E731
    assert parse(text_of(near, nics=10)).rails() == tuple(f"mlx5_{nic}" for nic in range(8))


def test_fewer_adapters_than_gpus_are_shared_and_storage_stays_out() -> None:
    """Four adapters near to every other GPU, one more on each socket for storage."""
    near: Word = lambda gpu, nic: "PIX" if nic == gpu / 2 else halves(gpu, (0, 3, 4, 7, 1, 5)[nic])  # noqa: E731
    assert parse(text_of(near, nics=6)).rails() == tuple(f"mlx5_{nic}" for nic in (0, 0, 1, 0, 2, 2, 3, 2))


def test_a_gpu_without_a_near_adapter_takes_one_that_another_has() -> None:
    """vllm-project/vllm issue 25015: GPU 3 and 7 are far from all."""
    nearest = {0: (0, "PIX"), 1: (7, "PIX"), 2: (3, "PIX"), 4: (4, "PIX"), 5: (6, "NODE"), 6: (5, "PIX")}
    near: Word = lambda gpu, nic: nearest[gpu][1] if nearest.get(gpu, (-1,))[0] == nic else "SYS"  # noqa: E731
    rails = parse(text_of(near, nics=8)).rails()
    assert rails[:3] + rails[4:7] == ("mlx5_0", "mlx5_7", "mlx5_3", "mlx5_4", "mlx5_6", "mlx5_5")
    assert {rails[3], rails[7]} <= {*rails[:3], *rails[4:7]}
    assert not {"mlx5_1", "mlx5_2"} & {*rails}


def test_a_node_without_adapters_has_no_rails() -> None:
    assert parse(text_of(pix(*range(8)), nics=0)).rails() == ()


def nvlinks(text: str) -> list[str]:
    return [finding.says for finding in parse(text).findings()]


def test_a_gpu_whose_nvlinks_are_down() -> None:
    """vllm-project/vllm issue 16336: a B200 shows PCIe between GPU 2 and all others."""
    text = text_of(
        pix(*range(8)), nics=8, nvlink=lambda one, other: halves(one, other) if 2 in (one, other) else "NV18"
    )
    assert nvlinks(text) == ["GPU2 has no NVLinks to GPU0, GPU1, GPU3, GPU4, GPU5, GPU6, GPU7, where most have 18."]


def test_a_gpu_with_fewer_nvlinks_than_most() -> None:
    text = text_of(pix(*range(8)), nics=8, nvlink=lambda one, other: "NV17" if 5 in (one, other) else "NV18")
    assert nvlinks(text) == ["GPU5 has 17 NVLinks to GPU0, GPU1, GPU2, GPU3, GPU4, GPU6, GPU7, where most have 18."]


def test_gpus_as_far_apart_as_can_be_on_one_numa_node_have_lost_nvlink() -> None:
    """deepseek-ai/DeepEP issue 128: SYS between all eight."""
    found = nvlinks(text_of(pix(*range(8)), nics=10, nvlink=lambda one, other: "SYS"))
    assert found[0] == "GPU0 has no NVLinks to GPU1, GPU2, GPU3."
    assert len(found) == 6


def test_gpus_that_never_had_nvlink_are_no_finding() -> None:
    assert nvlinks(text_of(pix(*range(8)), nics=8, nvlink=halves)) == []
    assert nvlinks(text_of(pix(*range(8)), nics=8, nvlink=lambda one, other: "SYS", numa=["N/A"] * 8)) == []


class TestHostile:
    def test_text_without_a_matrix(self) -> None:
        with pytest.raises(InvalidInput, match="holds no row of a GPU"):
            parse("Failed to initialize NVML: Driver/library version mismatch\n")

    def test_colours_of_a_terminal(self) -> None:
        text = text_of(pix(*range(8)), nics=8)
        first = text.partition("\n")[0]
        assert parse(text.replace(first, f"\t\x1b[4m{first.strip()}\x1b[0m")) == parse(text)

    def test_cut_or_shuffled_text_is_read_or_refused(self) -> None:
        whole, draw = text_of(pix(0, 3, 4, 5, 6, 9, 10, 11), nics=12), random.Random(7)
        lines = whole.split("\n")
        for _ in range(50):
            draw.shuffle(lines)
            for text in (whole[draw.randrange(len(whole)) : draw.randrange(len(whole))], "\n".join(lines)):
                with suppress(InvalidInput):
                    matrix = parse(text)
                    assert len(matrix.rails()) in (0, len(matrix.gpus))
                    list(matrix.findings())

    @given(st.lists(st.lists(st.sampled_from(["GPU0", "GPU1", "NIC0", "X", "NV18", "PIX", "SYS", "\t", "0-3", "0"]))))
    def test_any_words_are_read_or_refused(self, lines: list[list[str]]) -> None:
        with suppress(InvalidInput):
            matrix = parse("\n".join(map(" ".join, lines)))
            matrix.rails()
            list(matrix.findings())

    def test_huge_matrices_and_lines_cost_little(self) -> None:
        began = time.process_time()
        names = [f"GPU{number}" for number in range(1000)]
        rows = [f"{name} " + "NV1 NV2 SYS " * 400 for name in names]
        matrix = parse("\n".join([" ".join(names), *rows]))
        list(matrix.findings())
        for line in ("GPU0" * 50_000, "NIC0: " + "x" * 100_000, "\x1b[" * 50_000):
            with suppress(InvalidInput):
                parse("\n".join([line] * 50))
        assert time.process_time() - began < 3


def test_the_command_takes_the_compute_adapters_from_it(tmp_path: Path) -> None:
    net, topo = tmp_path / "net.txt", tmp_path / "topo.txt"
    net.write_text(with_storage(NET))
    topo.write_text(text_of(pix(*range(8)), nics=9, nvlink=lambda one, other: "NV17" if 5 in (one, other) else "NV18"))
    argv = ["import", "ibnetdiscover", str(net), "--nodes", "b200-[01-08]", "--topo", str(topo)]
    ran = CliRunner().invoke(group, argv, catch_exceptions=False)
    assert groups(Fabric.model_validate_json(ran.stdout)) == [("b200-[01-04]", 8), ("b200-[05-08]", 8)]
    assert ran.stderr.startswith("! GPU5 has 17 NVLinks to GPU0")
    with pytest.raises(InvalidInput, match="both say which adapters count"):
        CliRunner().invoke(group, [*argv, "--rails", "mlx5_0"], catch_exceptions=False)
    topo.write_text(text_of(pix(*range(8)), nics=0))
    with pytest.raises(InvalidInput, match=r"topo\.txt holds no adapter"):
        CliRunner().invoke(group, argv, catch_exceptions=False)
