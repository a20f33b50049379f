"""What `scontrol show assoc_mgr` prints, as recorded on Slurm 26.05.5 (some TRES left out)."""

from __future__ import annotations

import pytest

from slurm_gpuaas.domain.names import AccountName, UserName
from slurm_gpuaas.slurm.limit_reader import parse, weights
from slurm_gpuaas.slurm.limit_records import WHOLE, Kind
from slurm_gpuaas.slurm.protocols import SlurmRefused

RECORDED = """\
Current Association Manager state

Association Records

ClusterName=mini Account=lab UserName= Partition= Priority=0 ID=5
    SharesRaw/Norm/Level/Factor=1/1.00/1/0.00
    UsageRaw/Norm/Efctv=0.00/1.00/0.00
    ParentAccount=top(4) Lineage=/top/lab/ DefAssoc=No
    GrpJobs=N(3) GrpJobsAccrue=N(3)
    GrpSubmitJobs=40(6) GrpWall=N(7.59)
    GrpTRES=cpu=N(3),node=N(1),billing=40(8),gres/gpu=16(8),gres/gpu:b200=N(8)
    GrpTRESMins=cpu=N(0),node=N(0),billing=N(0),gres/gpu=10000(42),gres/gpu:b200=N(42)
    GrpTRESRunMins=cpu=N(30),node=N(10),billing=N(80),gres/gpu=N(80),gres/gpu:b200=N(80)
    MaxJobs=5(3) MaxJobsAccrue= MaxSubmitJobs= MaxWallPJ=1000
    MaxTRESPJ=gres/gpu=12
    MaxTRESPN=
    MaxTRESMinsPJ=
    MinPrioThresh=
    Comment=GrpTRES=gres/gpu=999
ClusterName=mini Account=lab UserName=alice(1000) Partition=pp Priority=0 ID=6
    ParentAccount= Lineage=/top/lab/0-alice/ DefAssoc=Yes
    GrpTRES=cpu=N(0),node=N(0),billing=N(0),gres/gpu=0(0),gres/gpu:b200=N(0)
    Comment=(null)

QOS Records

QOS=own(2)
    UsageRaw=0.000000
    GrpJobs=7(2) GrpJobsAccrue=N(0) GrpSubmitJobs=N(2) GrpWall=N(0.00)
    GrpTRES=cpu=N(2),node=N(1),billing=N(7),gres/gpu=8(7),gres/gpu:b200=8(7)
    MaxWallPJ=
    MinTRESPJ=gres/gpu=1
    PreemptMode=OFF
    Priority=0
    Account Limits
      lab
        MaxJobsPA=N(2) MaxJobsAccruePA=N(0) MaxSubmitJobsPA=9(2)
        MaxTRESPA=cpu=N(2),node=N(1),billing=N(7),gres/gpu=20(7),gres/gpu:b200=N(7)
        MaxTRESRunMinsPA=cpu=N(0),node=N(0),billing=N(0),gres/gpu=7777(70),gres/gpu:b200=N(0)
    User Limits
      alice(1000)
        MaxJobsPU=3(1) MaxJobsAccruePU=N(0) MaxSubmitJobsPU=N(4)
        MaxTRESPU=cpu=N(1),node=5(1),billing=N(4),gres/gpu=N(4),gres/gpu:b200=N(4)
"""


def test_limits_and_use_of_an_account() -> None:
    lab, _alice = parse(RECORDED).associations
    assert (lab.account, lab.user, lab.partition, lab.parent) == ("lab", None, None, "top")
    assert lab.limits == {
        Kind.GRP_SUBMIT: {WHOLE: 40},
        Kind.GRP_TRES: {"billing": 40, "gres/gpu": 16},
        Kind.GRP_TRES_MINS: {"gres/gpu": 10_000},
        Kind.MAX_JOBS: {WHOLE: 5},
        Kind.MAX_WALL: {WHOLE: 1_000},
        Kind.MAX_TRES: {"gres/gpu": 12},
    }
    assert lab.in_use.tres == {"cpu": 3, "node": 1, "billing": 8, "gres/gpu": 8, "gres/gpu:b200": 8}
    assert lab.in_use.minutes == {"gres/gpu": 42, "gres/gpu:b200": 42}
    assert lab.in_use.run_minutes["gres/gpu"] == 80
    assert (lab.in_use.jobs, lab.in_use.submitted, lab.in_use.wall) == (3, 6, 7)


def test_a_users_association_may_be_for_one_partition_and_zero_is_a_limit() -> None:
    _lab, alice = parse(RECORDED).associations
    assert (alice.account, alice.user, alice.partition, alice.parent) == ("lab", "alice", "pp", "lab")
    assert alice.limits == {Kind.GRP_TRES: {"gres/gpu": 0}}


def test_a_qos_tells_use_by_account_and_by_user() -> None:
    (own,) = parse(RECORDED).qos
    assert own.name == "own"
    assert own.limits[Kind.GRP_TRES] == {"gres/gpu": 8, "gres/gpu:b200": 8}
    assert own.limits[Kind.MIN_TRES] == {"gres/gpu": 1}
    assert Kind.MAX_TRES_PA not in own.limits, "a QOS's limits for accounts come from slurmdbd"
    assert own.in_use.jobs == 2
    lab = own.by_account[AccountName("lab")]
    assert (lab.tres["gres/gpu"], lab.run_minutes, lab.jobs, lab.submitted) == (7, {"gres/gpu": 70}, 2, 2)
    alice = own.by_user[UserName("alice")]
    assert (alice.tres["gres/gpu"], alice.jobs, alice.submitted) == (4, 1, 4)


def test_tres_are_in_slurms_order() -> None:
    assert parse(RECORDED).tres == ("cpu", "node", "billing", "gres/gpu", "gres/gpu:b200")


def test_nothing_cached_is_nothing() -> None:
    seen = parse("Current Association Manager state\n\nNo associations currently cached in Slurm.\n")
    assert (seen.associations, seen.qos) == ((), ())


def test_a_value_of_another_shape_is_refused_with_its_words() -> None:
    with pytest.raises(SlurmRefused, match=r"GrpJobs='seven'"):
        parse("QOS=own(2)\n    GrpJobs=seven\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("GRES/gpu=1", {"gres/gpu": 1.0}),
        ("CPU=1.5,GRES/gpu:b200=2", {"cpu": 1.5, "gres/gpu:b200": 2.0}),
        ("Mem=1G", {"mem": 1 / 1024}),
        ("Mem=0.5M", {"mem": 0.5}),
    ],
)
def test_billing_weights(text: str, expected: dict[str, float]) -> None:
    assert weights(text) == expected
