"""What a site gets of the pool's grants is a policy that its gpuaasd takes."""

from __future__ import annotations

from datetime import date

import pytest

from slurm_gpuaas.domain.names import ClusterName, OrganisationName, PersonId, PoolGrantId
from slurm_gpuaas.domain.policy import Grant, Role
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState, project_name
from slurm_gpuaas.domain.programmes import Membership, OrganisationKind, UnixIdentity
from slurm_gpuaas.pool.documents import SiteDocuments, site_documents
from tests.unit.pool.scene import KIM, LEE, NAVER, NHN, organisation, share
from tests.unit.pool.sites import policy_of

SNU, MINT = OrganisationName("snu"), OrganisationName("mint")
SHARES = {NAVER: share(NAVER, 32), NHN: share(NHN, 64)}
ORGANISATIONS = {SNU: organisation("snu"), MINT: organisation("mint", OrganisationKind.YOUNG_FIRM)}


def grant(number: int, of: OrganisationName = SNU, **fields: object) -> PoolGrant:
    id = PoolGrantId(f"g2027-{number:05}")
    values: dict[str, object] = {
        "id": id,
        "offer": f"o2027-{number:05}",
        "application": f"a2027-{number:05}",
        "organisation": of,
        "programme": "national",
        "project": project_name(of, id),
        "title": "Model",
        "share": NAVER,
        "gpus": 8,
        "starts": date(2027, 2, 1),
        "ends": date(2027, 4, 30),
        "price_percent": "2.5",
        "grace_days": 14,
        "state": "active",
        "members": (KIM.person, LEE.person),
    }
    return PoolGrant.model_validate(values | fields)


def documents(*grants: PoolGrant, cluster: str = "naver") -> SiteDocuments:
    memberships = [
        Membership(person=KIM.person, organisation=SNU),
        Membership(person=LEE.person, organisation=SNU, role=Role.TENANT_ADMIN),
    ]
    identities = {
        person: UnixIdentity.model_validate({"person": person, "login": login, "uid": uid})
        for person, login, uid in ((KIM.person, "kim", 200_000), (LEE.person, "lee", 200_001))
    }
    return site_documents(
        ClusterName(cluster),
        shares=SHARES,
        organisations=ORGANISATIONS,
        memberships=memberships,
        identities=identities,
        grants=grants,
    )


def test_a_grant_is_a_project_with_its_members_and_terms() -> None:
    found = documents(grant(1, budget_won=1_000))
    assert [(one.name, one.organisation) for one in found.projects] == [("snu-2027-00001", "snu")]
    assert [(one.user, one.role) for one in found.members] == [("kim", "researcher"), ("lee", "tenant-admin")]
    assert found.grants == (
        Grant.model_validate(
            {
                "name": "g2027-00001",
                "project": "snu-2027-00001",
                "pool": "h200",
                "share": "government",
                "gpus": 8,
                "starts": "2027-02-01",
                "ends": "2027-04-30",
                "price_percent": 2.5,
                "budget_won": 1_000,
            }
        ),
    )
    assert [(one.login, one.uid) for one in found.people] == [("kim", 200_000), ("lee", 200_001)]


def test_a_site_gets_its_own_grants_and_none_that_ended() -> None:
    grants = (grant(1), grant(2, share=NHN), grant(3, state="ended"))
    assert [one.name for one in documents(*grants).grants] == ["g2027-00001"]
    assert [one.name for one in documents(*grants, cluster="nhn").grants] == ["g2027-00002"]
    assert documents(*grants, cluster="kakao").organisations == ()


@pytest.mark.parametrize("until", [date(2027, 3, 14), date(2027, 1, 14)])
def test_an_ending_grant_keeps_its_people_without_gpus_until_its_grace_is_over(until: date) -> None:
    """Also one that was returned before its first day."""
    found = documents(grant(1, state=PoolGrantState.ENDING, grace_until=until))
    (left,) = found.grants
    assert (left.gpus, left.borrow_limit, left.ends) == (0, 0, until)
    assert [one.user for one in found.members] == ["kim", "lee"]


def test_who_has_no_login_or_left_the_organisation_is_not_at_the_site() -> None:
    stranger = PersonId("p-nobody")
    assert documents(grant(1, members=(stranger,))).people == ()
    assert documents(grant(1, of=MINT)).members == ()


def test_the_order_of_what_is_read_does_not_matter() -> None:
    assert documents(grant(1), grant(2, of=MINT)) == documents(grant(2, of=MINT), grant(1))


def test_a_site_takes_them_as_its_policy() -> None:
    found = documents(grant(1), grant(2), grant(3, of=MINT, gpus=16, price_percent=5))
    assert policy_of(found, SHARES[NAVER]).grants == found.grants
