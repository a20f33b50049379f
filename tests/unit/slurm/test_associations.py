"""What `sacctmgr show associations` prints, read."""

from __future__ import annotations

import pytest

from slurm_gpuaas.slurm.associations import associations
from slurm_gpuaas.slurm.protocols import SlurmRefused

ROWS = """\
mini|1|0|root|||1|||normal|
mini|2|1|root|root||1||||
mini|7|1|own|||parent||||
mini|8|7|vision|||100|gres/gpu=8,gres/gpu:b200=8,mem=4G|gres/gpu=60000||
mini|9|8|vision|alice||1|||burst-own,guaranteed-vision|guaranteed-vision
mini|10|8|vision|alice|debug|1||||
kakao|7|1|other|||1||||
kakao|8|7|vision|||1||||
kakao|9|8|vision|alice||1|||+night|
"""


def test_parents_are_found_by_number_within_their_cluster() -> None:
    rows = associations(ROWS, "mini|9\n")
    accounts = [(row.cluster, row.account, row.parent) for row in rows if not row.user]
    assert accounts == [
        ("mini", "root", ""),
        ("mini", "own", "root"),
        ("mini", "vision", "own"),
        ("kakao", "other", ""),
        ("kakao", "vision", "other"),
    ]


def test_limits_shares_and_qos_are_the_rows_own() -> None:
    own, vision, alice, debug = associations(ROWS, "mini|9\n")[2:6]
    assert own.fairshare == 2**31 - 1, "printed as 'parent'"
    assert vision.grp_tres == {"gres/gpu": 8, "gres/gpu:b200": 8, "mem": 4096}
    assert (vision.grp_tres_mins, vision.fairshare, vision.qos) == ({"gres/gpu": 60000}, 100, frozenset())
    assert (set(alice.qos), alice.default_qos) == ({"burst-own", "guaranteed-vision"}, "guaranteed-vision")
    assert (debug.partition, debug.default_qos) == ("debug", "")


def test_the_default_association_is_told_by_cluster_and_number() -> None:
    rows = associations(ROWS, "mini|9\nkakao|7\n")
    assert [(row.cluster, row.account) for row in rows if row.is_default] == [("mini", "vision"), ("kakao", "other")]


@pytest.mark.parametrize("line", ["mini|1|0|root|||1|||normal", "mini|1|0|a|b|c|||1|||normal|", "sacctmgr: error"])
def test_a_row_of_another_width_is_refused(line: str) -> None:
    with pytest.raises(SlurmRefused, match=r"sacctmgr printed \d+ fields"):
        associations(ROWS + line, "")


def test_nothing_is_nothing() -> None:
    assert associations("", "") == []
