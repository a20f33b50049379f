"""What a site takes of the portal's documents: never anything that touches what the site declares itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.from_portal import LeftOut, Merged, Terms, merged, title
from slurm_gpuaas.domain.names import ClusterName, ProjectName, ShareName, UserName
from slurm_gpuaas.domain.policy import DOCUMENT, Grant, Member, Organisation, Policy, Pool, Project
from slurm_gpuaas.quota.desired import wanted

TODAY = date(2027, 3, 1)
NOW = datetime(2027, 3, 1, 3, tzinfo=UTC)
CLUSTER = ClusterName("mini")
TERMS = Terms(cluster=CLUSTER, shares=frozenset({ShareName("government")}), reserved=frozenset({UserName("root")}))


def doc(kind: str, **fields: Any) -> Any:
    return DOCUMENT.validate_python({"kind": kind, **fields})


def grant(name: str = "g-1", project: str = "vision", gpus: int = 16, **more: Any) -> Grant:
    usual = {"pool": "mini", "share": "government", "starts": date(2027, 1, 1), "ends": date(2027, 12, 31)}
    found: Grant = doc("Grant", name=name, project=project, gpus=gpus, **(usual | more))
    return found


OWN = Policy.of(
    [
        doc("Organisation", name="naver", weight=3),
        doc("Project", name="search", organisation="naver"),
        doc("Member", project="search", user="alice"),
        doc(
            "Pool",
            name="mini",
            cluster="mini",
            model="b200",
            shares=[{"name": "government", "nodes": "b200-[1-5]"}, {"name": "own", "nodes": "b200-[6-8]"}],
        ),
        doc("Rate", name="r", model="b200", won_per_gpu_hour=4_000, starts=date(2027, 1, 1), basis="contract"),
        grant("g-search", "search", share="own"),
    ]
)
"""40 GPUs for the government."""
PORTAL = [
    doc("Organisation", name="kaist"),
    doc("Project", name="vision", organisation="kaist"),
    doc("Member", project="vision", user="bob"),
    grant(),
]


def take(*more: Any, own: Policy = OWN, documents: list[Any] = PORTAL, as_of: date = TODAY) -> Merged:
    return merged(own, [*documents, *more], TERMS, as_of)


def test_documents_of_the_portal_stand_beside_the_sites_own() -> None:
    found = take()
    assert not found.left_out
    assert set(found.policy.documents) == {*OWN.documents, *PORTAL}


def test_the_order_of_a_set_changes_nothing() -> None:
    more = [grant(f"g-{n}", gpus=16) for n in range(2, 5)]
    assert merged(OWN, [*PORTAL, *more], TERMS, TODAY) == merged(OWN, [*more[::-1], *PORTAL[::-1]], TERMS, TODAY)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (doc("Organisation", name="naver"), "declares organisation naver otherwise"),
        (doc("Project", name="search", organisation="kaist"), "Project search is the site's own"),
        (doc("Project", name="lost", organisation="nobody"), "organisation nobody"),
        (doc("Project", name="root", organisation="kaist"), "the account root for something else"),
        (doc("Project", name="mini-government", organisation="kaist"), "for something else"),
        (doc("Project", name="mini-own-naver", organisation="kaist"), "for something else"),
        (doc("Member", project="search", user="mallory"), "Project search is the site's own"),
        (doc("Member", project="vision", user="root"), "reserved"),
        (doc("Member", project="vision", user="alice"), "may be somebody else"),
        (grant("g-search"), "Grant g-search is the site's own"),
        (grant("g-2", "search"), "Project search is the site's own"),
        (grant("g-2", "nothing"), "project nothing, which is not taken"),
        (grant("g-2", share="own"), "takes no grant of the portal's in share own"),
        (grant("g-2", share="nowhere"), "no share nowhere"),
        (grant("g-2", pool="other"), "no pool other"),
        (grant("g-2", gpus=25), "has 40 GPUs; with it 41 would be guaranteed"),
        (grant("g-2", price_percent=50), "differ in price_percent"),
        (grant("g-0", starts=date(2026, 1, 1), budget_won=5, ends=date(2026, 2, 1)), "no rate on 2026-01-01"),
        (grant(gpus=8, starts=date(2027, 2, 1)), "another Grant g-1"),
    ],
)
def test_what_contradicts_the_site_is_left_out_with_its_reason(document: Any, why: str) -> None:
    found = take(document)
    assert set(found.policy.documents) == {*OWN.documents, *PORTAL}, "the others are taken"
    kind, name = title(document)
    (left,) = found.left_out
    assert (left.kind, left.name) == (kind, name)
    assert why in left.why


def test_a_project_that_slurm_has_no_room_for_goes_with_all_that_names_it() -> None:
    found = merged(OWN, PORTAL, TERMS, TODAY, refused={ProjectName("vision"): "Slurm has it."})
    assert found.left_out[0] == LeftOut(kind="Project", name="vision", why="Slurm has it.")
    assert [one.kind for one in found.left_out] == ["Project", "Member", "Grant"]


def test_grants_that_run_already_stay_where_not_all_fit() -> None:
    found = take(grant("a-late", gpus=32, starts=date(2027, 6, 1)))
    assert [one.name for one in found.left_out] == ["a-late"]


def test_grants_one_after_the_other_share_the_same_gpus() -> None:
    later = grant("g-2", gpus=40, starts=date(2028, 1, 1), ends=date(2028, 6, 1))
    assert not take(later).left_out


def test_what_is_over_takes_no_room() -> None:
    over = grant("g-0", gpus=40, starts=date(2027, 1, 1), ends=date(2027, 2, 28))
    assert not take(over).left_out
    assert take(over, as_of=TODAY - timedelta(days=1)).left_out


def test_a_share_that_the_site_makes_smaller_keeps_the_sites_own_grants_and_drops_the_portals() -> None:
    """40 GPUs to 16; the site's own 8 there stay."""
    small = Policy.of(
        [
            *(one for one in OWN.documents if not isinstance(one, Pool)),
            doc(
                "Pool",
                name="mini",
                cluster="mini",
                model="b200",
                shares=[{"name": "government", "nodes": "b200-[1-2]"}, {"name": "own", "nodes": "b200-[6-8]"}],
            ),
            doc("Project", name="maps", organisation="naver"),
            grant("g-maps", "maps", gpus=8),
        ]
    )
    found = take(own=small)
    assert [one.name for one in found.left_out] == ["g-1"]
    assert set(small.documents) <= set(found.policy.documents)


NAMES = st.sampled_from(["naver", "kaist", "search", "vision", "root", "mini-government", "own", "c-x", "x"])
DAYS = st.dates(date(2026, 6, 1), date(2028, 6, 1))


@st.composite
def hostile(draw: st.DrawFn) -> Any:
    match draw(st.integers(0, 3)):
        case 0:
            return Organisation.model_validate({"name": draw(NAMES), "weight": draw(st.integers(0, 2))})
        case 1:
            return Project.model_validate({"name": draw(NAMES), "organisation": draw(NAMES)})
        case 2:
            return Member.model_validate(
                {"project": draw(NAMES), "user": draw(st.sampled_from(["root", "alice", "z"]))}
            )
        case _:
            starts, ends = sorted((draw(DAYS), draw(DAYS)))
            return grant(
                draw(NAMES),
                draw(NAMES),
                draw(st.integers(0, 60)),
                pool=draw(st.sampled_from(["mini", "other"])),
                share=draw(st.sampled_from(["government", "government-c", "own", "none"])),
                starts=starts,
                ends=ends,
                price_percent=draw(st.sampled_from([0, 100])),
                budget_won=draw(st.sampled_from([None, 5])),
                budget_gpu_hours=draw(st.sampled_from([None, 5])),
                grace=0,
            )


WIDE = Policy.of(
    [
        *(one for one in OWN.documents if not isinstance(one, Pool)),
        doc(
            "Pool",
            name="mini",
            cluster="mini",
            model="b200",
            shares=[
                {"name": "government", "nodes": "b200-[1-4]"},
                {"name": "government-c", "nodes": "b200-5"},
                {"name": "own", "nodes": "b200-[6-8]"},
            ],
        ),
    ]
)
"""Two shares whose organisations' accounts may be named alike: government + c-x, government-c + x."""


@pytest.mark.parametrize(
    ("documents", "left_out"),
    [
        (
            [
                doc("Organisation", name="c-x"),
                doc("Organisation", name="x"),
                doc("Project", name="one", organisation="c-x"),
                doc("Project", name="two", organisation="x"),
                grant("g-1", "one", 8),
                grant("g-2", "two", 8, share="government-c"),
            ],
            "g-2",
        ),
        (
            [
                doc("Organisation", name="c"),
                doc("Project", name="one", organisation="c"),
                grant("g-1", "one", 8),
            ],
            "g-1",
        ),
    ],
    ids=["two organisations", "an organisation and a share"],
)
def test_two_things_that_need_one_account_are_not_both_taken(documents: list[Any], left_out: str) -> None:
    terms = Terms(cluster=CLUSTER, shares=frozenset(map(ShareName, ("government", "government-c"))))
    found = merged(WIDE, documents, terms, TODAY)
    (left,) = found.left_out
    assert (left.name, "for something else" in left.why) == (left_out, True)
    wanted(found.policy, CLUSTER, NOW)


@given(st.lists(hostile(), max_size=25))
def test_whatever_the_portal_sends_the_sites_own_stands_and_slurm_can_hold_the_rest(documents: list[Any]) -> None:
    terms = Terms(cluster=CLUSTER, shares=frozenset(map(ShareName, ("government", "government-c"))))
    found = merged(WIDE, documents, terms, TODAY)
    added = set(found.policy.documents) - set(WIDE.documents)
    assert set(WIDE.documents) <= set(found.policy.documents)
    assert added <= set(documents)
    assert found.policy.pools == WIDE.pools
    assert found.policy.rates == WIDE.rates
    assert found.policy.grants_of(ProjectName("search")) == WIDE.grants_of(ProjectName("search"))
    assert found.policy.members_of(ProjectName("search")) == WIDE.members_of(ProjectName("search"))
    assert {one.share for one in added if isinstance(one, Grant)} <= terms.shares
    assert found.policy.overcommitted(NOW) == ()
    for days in (0, 200, 400):
        wanted(found.policy, CLUSTER, NOW + timedelta(days=days))  # no two things need one name


@given(st.lists(hostile(), max_size=15))
def test_every_document_is_taken_or_left_out_with_a_reason(documents: list[Any]) -> None:
    found = merged(OWN, documents, TERMS, TODAY)
    told = {(one.kind, one.name) for one in found.left_out if one.why}
    same = {title(one) for one in OWN.documents}
    assert {title(one) for one in documents} <= told | {title(one) for one in found.taken} | same
