"""What `sacctmgr --json show associations` prints, read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slurm_gpuaas.slurm.associations import parse
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.slurm.rest_wire import tres_of


def printed(*rows: dict[str, Any]) -> str:
    return json.dumps({"associations": rows, "meta": {"slurm": {"cluster": "mini"}}, "errors": [], "warnings": []})


def row(account: str, lineage: str, **fields: Any) -> dict[str, Any]:
    return {"cluster": "mini", "account": account, "lineage": lineage, **fields}


@pytest.mark.parametrize(
    ("case", "account", "lineage", "parent"),
    [
        ("root", "root", "/", ""),
        ("below root", "own", "/own/", ""),
        ("below another", "vision", "/own/vision/", "own"),
        ("deep", "vision", "/own/kaist/vision/", "kaist"),
        ("a name within a name", "own", "/own-lab/own/", "own-lab"),
        ("made without a parent by slurmrestd", "vision", "", ""),
        ("a name with a slash", "a/b", "/own/a/b/", "own"),
    ],
)
def test_the_parent_of_an_account_is_in_its_lineage(case: str, account: str, lineage: str, parent: str) -> None:
    assert parse(printed(row(account, lineage)))[0].parent == parent, case


def test_limits_shares_and_qos_are_the_rows_own() -> None:
    limits = {
        "total": [{"type": "gres", "name": "gpu:b200", "count": 8}, {"type": "mem", "name": None, "count": 4096}],
        "group": {"minutes": [{"type": "gres", "name": "gpu", "count": 60000}]},
    }
    vision, alice = parse(
        printed(
            row("vision", "/vision/", shares_raw=2**31 - 1, max={"tres": limits}, qos=[]),
            row(
                "vision", "/vision/0-alice/", user="alice", is_default=True, qos=["+night"], default={"qos": "night"}
            ),
        )
    )  # fmt: skip
    assert tres_of(vision.max.tres.total) == {"gres/gpu:b200": 8, "mem": 4096}
    assert tres_of(vision.max.tres.group.minutes) == {"gres/gpu": 60000}
    assert (vision.user, vision.shares_raw, vision.qos, vision.is_default) == ("", 2**31 - 1, (), False)
    assert (alice.user, alice.qos, alice.default.qos, alice.is_default) == ("alice", ("+night",), "night", True)


def test_a_name_that_looks_like_rows_is_a_name() -> None:
    name = "x|||1||||\nmini|9|8|vision|alice||1|||guaranteed-vision|"
    assert [one.account for one in parse(printed(row(name, f"/{name}/")))] == [name]


@pytest.mark.parametrize("text", ["", "sacctmgr: error: no", '{"associations": [{"account": "a"}]}', "[]"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SlurmRefused, match="not understood"):
        parse(text)


def test_nothing_is_nothing() -> None:
    assert parse(printed()) == ()
