"""Slurm's spellings, as real slurmctld and slurmrestd wrote them."""

from __future__ import annotations

import pytest

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.nodes import NodeBase, NodeFlag
from slurm_gpuaas.slurm import translate
from slurm_gpuaas.slurm.protocols import SlurmRefused
from tests.fakes import make_node


@pytest.mark.parametrize(
    ("gres", "model", "count"),
    [
        ("gpu:b200:8", "b200", 8),
        ("gpu:b200:8(S:0-1)", "b200", 8),
        ("gpu:b200:2(IDX:0,3)", "b200", 2),
        ("gpu:b200:0(IDX:N/A)", "b200", 0),
        ("gpu:8", None, 8),
        ("gpu:h200:4,gpu:b200:4,shard:h200:16", "h200", 8),
        ("shard:16,gpu:b200:1(IDX:7)", "b200", 1),
        ("nic:2", None, 0),
        ("", None, 0),
        ("(null)", None, 0),
    ],
)
def test_gpus_are_read_from_a_gres_text(gres: str, model: str | None, count: int) -> None:
    assert translate.gpu_gres(gres) == (model, count)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("cpu=2,mem=4000000M,node=2,billing=2,gres/gpu=16,gres/gpu:b200=16",
         {"cpu": 2, "mem": 4_000_000, "node": 2, "billing": 2, "gres/gpu": 16, "gres/gpu:b200": 16}),
        ("mem=1.5T", {"mem": 1_572_864}),
        ("cpu=2K", {"cpu": 2048}),
        ("cpu=N/A,gres/gpu=", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_tres_counts_are_numbers_and_memory_is_mebibytes(text: str, counts: dict[str, int]) -> None:
    assert translate.tres_counts(text) == counts


@pytest.mark.parametrize(
    ("tres", "model", "gpus"),
    [
        ({"gres/gpu": 16, "gres/gpu:b200": 16}, "b200", 16),
        ({"gres/gpu": 8}, None, 8),
        ({"gres/gpu:b200": 8, "gres/gpu:h200": 8}, "b200", 16),
        ({"cpu": 1}, None, 0),
    ],
)
def test_typed_gpus_add_up_where_untyped_ones_are_not_tracked(
    tres: dict[str, int], model: str | None, gpus: int
) -> None:
    assert translate.gpu_tres(tres) == (model, gpus)


@pytest.mark.parametrize(
    ("words", "base", "flags"),
    [
        (["IDLE"], NodeBase.IDLE, NodeFlag.NONE),
        (["MIXED", "DRAIN"], NodeBase.MIXED, NodeFlag.DRAIN),
        (["DOWN", "NOT_RESPONDING", "DRAIN"], NodeBase.DOWN, NodeFlag.NOT_RESPONDING | NodeFlag.DRAIN),
        (["IDLE", "REBOOT_ISSUED", "PLANNED"], NodeBase.IDLE, NodeFlag.REBOOT),
        (["IDLE", "CLOUD", "POWERING_UP"], NodeBase.IDLE, NodeFlag.POWERED_DOWN),
        (["SOMETHING_NEW"], NodeBase.UNKNOWN, NodeFlag.NONE),
    ],
)
def test_state_words_are_a_base_and_flags(words: list[str], base: NodeBase, flags: NodeFlag) -> None:
    node = translate.node(name="n1", state=words, reason="", gres="gpu:b200:8", gpus_allocated=0)
    assert (node.base, node.flags) == (base, flags)


@pytest.mark.parametrize(
    ("folded", "names"),
    [
        ("b200-[01-03,07]", ("b200-01", "b200-02", "b200-03", "b200-07")),
        ("b200-01,h200-2", ("b200-01", "h200-2")),
        ("b200-01", ("b200-01",)),
        ("", ()),
        ("(null)", ()),
    ],
)
def test_host_lists_unfold(folded: str, names: tuple[str, ...]) -> None:
    assert translate.node_names(folded) == names


def test_a_resume_asks_only_for_nodes_that_are_out_of_service() -> None:
    nodes = [
        make_node("drained", flags=NodeFlag.DRAIN),
        make_node("down", base=NodeBase.DOWN),
        make_node("well", base=NodeBase.MIXED),
    ]
    wanted = [NodeName(name) for name in ("well", "drained", "down", "drained")]
    assert translate.out_of_service(wanted, nodes) == ("drained", "down")
    with pytest.raises(SlurmRefused, match=r"nix \(1 of 2 unknown\)"):
        translate.out_of_service([NodeName("well"), NodeName("nix")], nodes)


def test_names_that_we_would_never_give_are_read_as_slurm_says_them() -> None:
    job = translate.job(
        job_id=7, name="x", user="Bob.Smith", account="Physics", qos="own,burst", partition="GPU,Debug",
        state=("PENDING",), reason="Priority", nodes="", node_count=1, tres_requested="cpu=1", tres_allocated="",
        licenses="", priority=1, submitted=1, eligible=None, started=1_900_000_000, time_limit_minutes=None,
        requeue=True, restarts=0, admin_comment="", array_job_id=None, required_nodes="", reservation="",
        excluded_nodes="", features="", comment="",
    )  # fmt: skip
    assert (job.user, job.account, job.qos, job.partition) == ("Bob.Smith", "Physics", "own,burst", "GPU,Debug")
    assert job.started is None, "a pending job's start is an estimate"
