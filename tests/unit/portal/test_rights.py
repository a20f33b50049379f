"""The table of rights, and that every route is behind it: for each route and each role, what the table says is what
happens. Routes that are added later are in these tests by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.domain.errors import InvalidInput, Refused
from slurm_gpuaas.domain.names import OrganisationName, PersonId, ProviderName
from slurm_gpuaas.domain.people import Actor, PortalRole
from slurm_gpuaas.portal.app import make_app
from slurm_gpuaas.portal.description import gate_of, routes_of
from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.rights import RIGHTS, Action, Owned, Scope, allows, not_by_requester, require, scope_of
from slurm_gpuaas.portal.visit import Machine, Needs
from tests.pools import Browser, TestPortal

ONE, OTHER = PersonId("p-000001"), PersonId("p-000002")
SNU, KAIST = OrganisationName("snu"), OrganisationName("kaist")
NAVER, NHN = ProviderName("naver"), ProviderName("nhn")


def actor(role: PortalRole) -> Actor:
    return Actor(
        person=ONE,
        role=role,
        organisation=SNU if role in {PortalRole.TENANT_ADMIN, PortalRole.RESEARCHER} else None,
        provider=NAVER if role in {PortalRole.PROVIDER_OPERATOR, PortalRole.PROVIDER_BILLING} else None,
    )


WRITES = {action for action in Action if not action.endswith(".read")}


def test_an_auditor_only_reads_but_for_their_own_account() -> None:
    own = {Action.PROFILE_CHANGE, Action.SESSION_MANAGE, Action.TOKEN_MANAGE}
    assert set(RIGHTS[PortalRole.AUDITOR]) & WRITES == own


@pytest.mark.parametrize(
    ("role", "action"),
    [
        (PortalRole.GOVERNMENT, Action.JOB_READ),
        (PortalRole.PROVIDER_OPERATOR, Action.RATE_PROPOSE),
        (PortalRole.PROVIDER_OPERATOR, Action.PEOPLE_READ),
        (PortalRole.PROVIDER_BILLING, Action.RATE_APPROVE),
        (PortalRole.TENANT_ADMIN, Action.AWARD_READ),
        (PortalRole.TENANT_ADMIN, Action.REVIEW_READ),
        (PortalRole.RESEARCHER, Action.REVIEW_READ),
        (PortalRole.TENANT_ADMIN, Action.AUDIT_READ),
        (PortalRole.RESEARCHER, Action.PEOPLE_READ),
        (PortalRole.RESEARCHER, Action.STATEMENT_READ),
        (PortalRole.AUDITOR, Action.JOB_READ),
    ],
)
def test_what_a_role_must_not_do(role: PortalRole, action: Action) -> None:
    assert scope_of(role, action) is None
    with pytest.raises(Refused):
        require(actor(role), action)


def test_only_roles_over_all_reach_beyond_their_organisation_or_provider() -> None:
    for role, rights in RIGHTS.items():
        for action, scope in rights.items():
            if scope is Scope.ALL and action is not Action.PROGRAMME_READ:
                assert role in {PortalRole.GOVERNMENT, PortalRole.AUDITOR}, (role, action)


@given(
    role=st.sampled_from(PortalRole),
    action=st.sampled_from(Action),
    people=st.frozensets(st.sampled_from([ONE, OTHER])),
    organisation=st.sampled_from([SNU, KAIST, None]),
    provider=st.sampled_from([NAVER, NHN, None]),
)
def test_a_right_reaches_a_thing_exactly_when_its_scope_does(
    role: PortalRole,
    action: Action,
    people: frozenset[PersonId],
    organisation: OrganisationName | None,
    provider: ProviderName | None,
) -> None:
    reached = {
        None: False,
        Scope.OWN: ONE in people,
        Scope.ORGANISATION: organisation == SNU,
        Scope.PROVIDER: provider == NAVER,
        Scope.ALL: True,
    }[scope_of(role, action)]
    assert allows(actor(role), action, Owned(people=people, organisation=organisation, provider=provider)) is reached


def test_nobody_approves_their_own_request_whatever_their_role_has_become() -> None:
    with pytest.raises(Refused, match="does not approve"):
        not_by_requester(actor(PortalRole.GOVERNMENT), ONE)
    not_by_requester(actor(PortalRole.GOVERNMENT), OTHER)


# -- Routes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "router",
    [
        pytest.param("none", id="declares-nothing"),
        pytest.param("two", id="declares-twice"),
        pytest.param("mount", id="no-route-that-can"),
    ],
)
def test_the_portal_does_not_start_with_a_route_that_does_not_say_whom_it_is_for(
    portal: TestPortal, router: str
) -> None:
    made = APIRouter()
    gates = {"none": [], "two": [Depends(Machine("one")), Depends(Machine("two"))], "mount": []}[router]
    if router == "mount":
        made.mount("/x", FastAPI())
    else:
        made.add_api_route("/x", lambda: None, dependencies=gates)
    wiring = replace(portal.wiring, features=(Feature(name="x", routes=lambda _: [made]),))
    with pytest.raises(InvalidInput, match="/x"):
        make_app(wiring)


def calls(portal: TestPortal) -> Iterator[tuple[str, str, APIRoute]]:
    """Method, a path that fits, and the route."""
    for route in routes_of(make_app(portal.wiring)):
        for method in sorted(route.methods or ()):
            yield method, re.sub(r"\{number\}", "1", re.sub(r"\{[^}]*\}", "x", route.path)), route


def test_each_role_may_call_exactly_what_the_table_gives_it(portal: TestPortal) -> None:
    """Every endpoint times every role. Allowed = it is not refused for the role; forms are empty, so what is allowed
    mostly answers that something is missing."""
    seen = 0
    for role in PortalRole:
        browser = portal.browser(role)
        for method, path, route in calls(portal):
            gate = gate_of(route)
            if not isinstance(gate, Needs) or path == "/sign-out":  # it would be the last
                continue
            portal.seconds += 60
            answer = browser.client.request(
                method, path, headers={"Origin": browser.origin, "X-CSRF-Token": browser.csrf, "Accept-Language": "en"}
            )
            refused = answer.status_code == 403 and f"({gate.action})" in answer.text
            assert refused is (scope_of(role, gate.action) is None), (role, method, path, answer.status_code)
            assert answer.status_code < 500, (role, method, path, answer.text)
            seen += 1
    assert seen > 100


def test_without_signing_in_nothing_that_needs_a_person_answers(portal: TestPortal) -> None:
    for method, path, route in calls(portal):
        if not isinstance(gate_of(route), Needs):
            continue
        portal.seconds += 60
        answer = Browser(portal.app).client.request(method, path, headers={"Origin": "https://gpu.example.org"})
        if path.startswith("/api/") or method != "GET":
            assert answer.status_code == 401, (method, path)
        else:
            assert (answer.status_code, answer.headers["location"][:9]) == (303, "/sign-in?"), path


def test_every_unsafe_route_refuses_a_form_without_token_or_from_elsewhere(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.GOVERNMENT)
    for method, path, route in calls(portal):
        if method in {"GET", "HEAD"} or isinstance(gate_of(route), Machine):
            continue
        portal.seconds += 60
        for headers in (
            {"Origin": browser.origin},
            {"Origin": browser.origin, "X-CSRF-Token": "A" * 43},
            {"Origin": "https://evil.example", "X-CSRF-Token": browser.csrf},
            {"Origin": "null", "X-CSRF-Token": browser.csrf},
            {"X-CSRF-Token": browser.csrf},
        ):
            answer = browser.client.request(method, path, headers=headers)
            assert answer.status_code == 419, (method, path, headers, answer.status_code)
    assert portal.browser(PortalRole.GOVERNMENT).get("/").status_code == 200
