"""What `sacctmgr load` is given."""

from __future__ import annotations

from slurm_gpuaas.domain.names import AccountName, QosName, UserName
from slurm_gpuaas.slurm import loading
from slurm_gpuaas.slurm.records import Account, UserAssociation


def account(name: str, parent: str | None = None, **fields: object) -> Account:
    values: dict[str, object] = {"description": f"gpuaas:project:{name}", "organization": "snu", **fields}
    above = None if parent is None else AccountName(parent)
    return Account(name=AccountName(name), parent=above, **values)  # type: ignore[arg-type]


def test_entries_stand_below_their_parents_in_their_order() -> None:
    alice = UserAssociation(
        user=UserName("alice"),
        account=AccountName("vision"),
        qos=frozenset({QosName("guaranteed-vision"), QosName("burst-8")}),
        default_qos=QosName("guaranteed-vision"),
        is_default=True,
    )
    entries = [
        loading.account(account("own")),
        loading.account(account("vision", "own", grp_tres_mins={"gres/gpu": 60})),
        loading.account(account("audio", "own")),
        loading.member(alice),
    ]
    assert loading.text("mini", entries).splitlines() == [
        "Cluster - 'mini'",
        "Parent - 'root'",
        "Account - 'own':Description='gpuaas:project:own':Organization='snu':Fairshare=1",
        "Parent - 'own'",
        "Account - 'vision':Description='gpuaas:project:vision':Organization='snu':Fairshare=1:GrpTRESMins=gres/gpu=60",
        "Account - 'audio':Description='gpuaas:project:audio':Organization='snu':Fairshare=1",
        "Parent - 'vision'",
        "User - 'alice':DefaultAccount='vision':DefaultQOS='guaranteed-vision':Fairshare=1:"
        "QOS='burst-8,guaranteed-vision'",
    ]


def test_what_cannot_be_quoted_is_left_for_later() -> None:
    for one in (
        account("vision", description="it's:GrpTRES=node=0"),
        account("vision", description="two\nlines"),
        account("vision", organization="서울대학교"),
        account("vision", grp_tres={"gres/gpu:b200": 8}),
    ):
        assert not loading.is_plain(one)
        assert loading.account(one).line == "Account - 'vision'"
