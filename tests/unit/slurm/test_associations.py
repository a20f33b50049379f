"""What `sacctmgr show associations` prints, as rows and as JSON, read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slurm_gpuaas.slurm.associations import from_json, from_rows
from slurm_gpuaas.slurm.protocols import SlurmRefused

ROWS = """\
mini|1|0|root|||1|||normal|
mini|2|1|root|root||1||||
mini|7|1|own|||parent||||
mini|8|7|vision|||100|gres/gpu=8,gres/gpu:b200=8,mem=4096|gres/gpu=60000||
mini|9|8|vision|alice||1|||burst-own,guaranteed-vision|guaranteed-vision
mini|10|8|vision|alice|debug|1|||+night|
kakao|7|0|other|||1||||
kakao|8|7|vision|||1||||
kakao|9|8|vision|alice||1||||
"""


def test_parents_are_found_by_number_within_their_cluster() -> None:
    rows = from_rows(ROWS, "mini|9\n") or []
    assert [(row.cluster, row.account, row.parent) for row in rows if not row.user] == [
        ("mini", "root", ""),
        ("mini", "own", "root"),
        ("mini", "vision", "own"),
        ("kakao", "other", ""),
        ("kakao", "vision", "other"),
    ]


def test_limits_shares_and_qos_are_the_rows_own() -> None:
    own, vision, alice, debug = (from_rows(ROWS, "mini|9\n") or [])[2:6]
    assert own.fairshare == 2**31 - 1, "printed as 'parent'"
    assert vision.grp_tres == {"gres/gpu": 8, "gres/gpu:b200": 8, "mem": 4096}
    assert (vision.grp_tres_mins, vision.fairshare, len(vision.qos)) == ({"gres/gpu": 60000}, 100, 0)
    assert (set(alice.qos), alice.default_qos) == ({"burst-own", "guaranteed-vision"}, "guaranteed-vision")
    assert (debug.partition, set(debug.qos), debug.default_qos) == ("debug", {"+night"}, "")


def test_the_default_association_is_told_by_cluster_and_number() -> None:
    rows = from_rows(ROWS, "mini|9\nkakao|7\n") or []
    assert [(row.cluster, row.account) for row in rows if row.is_default] == [("mini", "vision"), ("kakao", "other")]


@pytest.mark.parametrize(
    ("case", "line", "defaults"),
    [
        ("too few fields", "mini|11|1|a|||1|||", ""),
        ("a | in a name", "mini|11|1|a|b|||1||||", ""),
        ("a line break in a name", "mini|11|1|a\nb|||1||||", ""),
        ("a name that pretends to be another's row", "mini|11|1|x|||1||||\nmini|9|8|vision|alice||1|||normal|", ""),
        ("the same with a number of its own", "mini|11|1|x|||1||||\nmini|12|8|vision|alice||1|||normal|", ""),
        ("a name that takes another's number", "mini|11|1|x|||1||||\nmini|9|8|y|||1||||", ""),
        ("a number that is none", "mini|eleven|1|a|||1||||", ""),
        ("a digit that is not ASCII", "mini|1\u0661|1|a|||1||||", ""),
        ("a share that is none", "mini|11|1|a|||many||||", ""),
        ("a limit with a unit", "mini|11|1|a|||1|mem=4G|||", ""),
        ("a limit that is none", "mini|11|1|a|||1|gres/gpu=NONE|||", ""),
        ("a parent that is not there", "mini|11|99|a|||1||||", ""),
        ("a default that is not there", "", "mini|99\n"),
        ("sacctmgr's words", "sacctmgr: error: no", ""),
    ],
)
def test_what_is_not_plain_is_not_believed(case: str, line: str, defaults: str) -> None:
    assert from_rows(ROWS + line + "\n" * bool(line), defaults) is None, case


def test_nothing_is_nothing() -> None:
    assert from_rows("", "") == []
    assert from_json(printed()) == []


def printed(*rows: dict[str, Any]) -> str:
    return json.dumps({"associations": rows, "meta": {"slurm": {"cluster": "mini"}}, "errors": [], "warnings": []})


def row(account: str, lineage: str, **fields: Any) -> dict[str, Any]:
    return {"cluster": "mini", "account": account, "lineage": lineage, **fields}


@pytest.mark.parametrize(
    ("case", "account", "lineage", "parent"),
    [
        ("root", "root", "/", ""),
        ("below root", "own", "/own/", "root"),
        ("below another", "vision", "/own/vision/", "own"),
        ("deep", "vision", "/own/kaist/vision/", "kaist"),
        ("a name within a name", "own", "/own-lab/own/", "own-lab"),
        ("made without a parent by slurmrestd", "vision", "", ""),
        ("a name with a slash", "a/b", "/own/a/b/", "own"),
    ],
)
def test_in_json_the_parent_of_an_account_is_in_its_lineage(case: str, account: str, lineage: str, parent: str) -> None:
    assert from_json(printed(row(account, lineage)))[0].parent == parent, case


def test_json_says_the_same_as_rows() -> None:
    limits = {
        "total": [
            {"type": "gres", "name": "gpu", "count": 8},
            {"type": "gres", "name": "gpu:b200", "count": 8},
            {"type": "mem", "name": None, "count": 4096},
        ],
        "group": {"minutes": [{"type": "gres", "name": "gpu", "count": 60000}]},
    }
    qos = {"qos": ["burst-own", "guaranteed-vision"], "default": {"qos": "guaranteed-vision"}, "is_default": True}
    said = from_json(
        printed(
            row("root", "/", qos=["normal"]),
            row("root", "/0-root/", user="root"),
            row("own", "/own/", shares_raw=2**31 - 1),
            row("vision", "/own/vision/", shares_raw=100, max={"tres": limits}),
            row("vision", "/own/vision/0-alice/", user="alice", **qos),
            row("vision", "/own/vision/0-alice/debug/", user="alice", partition="debug", qos=["+night"]),
        )
    )
    assert said == (from_rows(ROWS, "mini|9\n") or [])[:6]


def test_in_json_a_name_that_looks_like_rows_is_a_name() -> None:
    name = "x|||1||||\nmini|9|8|vision|alice||1|||guaranteed-vision|"
    assert [one.account for one in from_json(printed(row(name, f"/{name}/")))] == [name]


@pytest.mark.parametrize("text", ["", "sacctmgr: error: no", '{"associations": [{"account": "a"}]}', "[]"])
def test_anything_else_than_json_is_refused(text: str) -> None:
    with pytest.raises(SlurmRefused, match="not understood"):
        from_json(text)
