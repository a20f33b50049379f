"""Signing in with a password, sessions, invitations, roles under two people: through the portal's own pages."""

from __future__ import annotations

import base64
import re
from datetime import timedelta

import pytest

from slurm_gpuaas.domain.audit_chain import AuditResult
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.portal.routes.account import browser_of
from slurm_gpuaas.portal.routes.sign_in import local_path
from tests.pools import PASSWORD, Browser, TestPortal

GOVERNMENT, AUDITOR = PortalRole.GOVERNMENT, PortalRole.AUDITOR


def test_a_session_is_in_a_cookie_that_only_this_host_gets_over_tls(portal: TestPortal) -> None:
    answer = portal.browser().sign_in("government")
    session = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("__Host-gpuaas="))
    assert {part.strip().lower() for part in session.split(";")[1:]} == {"httponly", "path=/", "samesite=lax", "secure"}
    secret = session.split(";")[0].partition("=")[2]
    with (portal.folder / "pool.db").open("rb") as file:
        assert secret.encode() not in file.read()


def test_signing_in_never_takes_over_a_session_number_that_was_there(portal: TestPortal) -> None:
    browser = portal.browser()
    browser.set_cookie("__Host-gpuaas", "f" * 43)
    browser.sign_in("government")
    assert browser.client.cookies["__Host-gpuaas"] != "f" * 43
    first = browser.client.cookies["__Host-gpuaas"]
    other = portal.browser(GOVERNMENT)
    assert other.client.cookies["__Host-gpuaas"] != first


@pytest.mark.parametrize(
    ("login", "password"),
    [("government", "wrong password here"), ("nobody", PASSWORD), ("government", "x" * 900), ("", "")],
)
def test_what_is_wrong_is_not_told(portal: TestPortal, login: str, password: str) -> None:
    browser = portal.browser()
    browser.get("/sign-in")
    answer = browser.post("/sign-in", login=login, password=password)
    assert answer.status_code in {401, 422}
    assert "__Host-gpuaas=" not in answer.headers.get("set-cookie", "")
    if answer.status_code == 401:
        assert re.sub(r'value="[^"]*"', "", portal_page(portal, "x", "y")) == re.sub(r'value="[^"]*"', "", answer.text)


def portal_page(portal: TestPortal, login: str, password: str) -> str:
    browser = portal.browser()
    browser.get("/sign-in")
    return browser.post("/sign-in", login=login, password=password).text


def test_five_wrong_passwords_lock_the_account_for_a_quarter_of_an_hour(portal: TestPortal) -> None:
    for _ in range(5):
        assert portal.browser().sign_in("government", "wrong password").status_code == 401
        portal.seconds += 60
    assert portal.browser().sign_in("government").status_code == 401
    assert portal.browser().sign_in("auditor").status_code == 303
    portal.clock.forward(timedelta(minutes=14, seconds=59))
    assert portal.browser().sign_in("government").status_code == 401
    portal.clock.forward(timedelta(seconds=1))
    assert portal.browser().sign_in("government").status_code == 303
    refused = portal.store.audit.newest(limit=50, action="session.open", result=AuditResult.REFUSED)
    assert [entry.reason for entry in refused] == ["locked"] * 2 + ["wrong password, now locked"] + [
        "wrong password"
    ] * 4


def test_a_right_password_forgets_the_wrong_ones_before(portal: TestPortal) -> None:
    for _ in range(3):
        for _ in range(4):
            portal.browser().sign_in("government", "wrong password")
        portal.seconds += 60
        assert portal.browser().sign_in("government").status_code == 303


def test_tries_from_one_address_are_few(portal: TestPortal) -> None:
    answers = [portal.browser().sign_in("nobody", "wrong password").status_code for _ in range(22)]
    assert answers == [401] * 20 + [429] * 2
    browser = portal.browser()
    browser.get("/sign-in")
    refused = browser.post("/sign-in", login="nobody", password="x")
    assert refused.headers["retry-after"] == "3"
    portal.seconds += 3
    assert portal.browser().sign_in("auditor").status_code == 303


def test_an_unused_session_ends_and_so_does_every_old_one(portal: TestPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    portal.clock.forward(timedelta(minutes=29))
    assert browser.get("/").status_code == 200
    portal.clock.forward(timedelta(minutes=30))
    assert browser.get("/").headers["location"] == "/sign-in?back=%2F"
    browser = portal.browser(GOVERNMENT)
    for _ in range(29):
        portal.clock.forward(timedelta(minutes=20))
        assert browser.get("/").status_code == 200
    portal.clock.forward(timedelta(minutes=20))
    assert browser.get("/").status_code == 303


def test_who_signs_out_is_out_with_that_cookie_too(portal: TestPortal) -> None:
    browser = portal.browser(GOVERNMENT)
    kept = browser.client.cookies["__Host-gpuaas"]
    assert browser.post("/sign-out").headers["location"] == "/sign-in?said=signed-out"
    browser.set_cookie("__Host-gpuaas", kept)
    assert browser.get("/").status_code == 303


def test_one_sees_and_closes_ones_own_sessions_only(portal: TestPortal) -> None:
    here, elsewhere, stranger = portal.browser(GOVERNMENT), portal.browser(GOVERNMENT), portal.browser(AUDITOR)
    page = here.get("/sessions").text
    (other,) = re.findall(r'name="session" value="([0-9a-f]{64})"', page)
    stranger.get("/sessions")
    assert stranger.post("/sessions/close", session=other).status_code == 404
    assert here.post("/sessions/close", session=other).status_code == 303
    assert elsewhere.get("/").status_code == 303
    assert here.get("/").status_code == 200


def test_a_new_password_ends_the_other_sessions(portal: TestPortal) -> None:
    here, elsewhere = portal.browser(GOVERNMENT), portal.browser(GOVERNMENT)
    new = "another long sentence"
    for old, first, second in (("wrong", new, new), (PASSWORD, new, "different one"), (PASSWORD, "short", "short")):
        assert here.post("/profile/password", old=old, new=first, again=second).status_code == 422
    assert here.post("/profile/password", old=PASSWORD, new=new, again=new).status_code == 303
    assert (here.get("/").status_code, elsewhere.get("/").status_code) == (200, 303)
    assert portal.browser().sign_in("government").status_code == 401
    assert portal.browser().sign_in("government", new).status_code == 303


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil",
        "javascript:alert(1)",
        "/a\nb",
        "evil",
        "",
        "/" + "a" * 600,
    ],
)
def test_after_signing_in_one_never_lands_on_another_site(portal: TestPortal, back: str) -> None:
    assert local_path(back) == "/"
    browser = portal.browser()
    browser.get("/sign-in")
    answer = browser.post("/sign-in", login="government", password=PASSWORD, back=back)
    assert answer.status_code == 422 or answer.headers["location"] == "/"


def test_one_lands_where_one_wanted_to_go(portal: TestPortal) -> None:
    browser = portal.browser()
    asked = browser.get("/audit?actor=p-000001")
    page = browser.get(asked.headers["location"]).text
    back = re.search(r'name="back" value="([^"]*)"', page)
    assert back is not None
    assert (
        browser.post("/sign-in", login="auditor", password=PASSWORD, back=back[1]).headers["location"]
        == "/audit?actor=p-000001"
    )


# -- Invitations and roles ---------------------------------------------------------------------------------------------


def invite(browser: Browser, role: PortalRole, **fields: str) -> str:
    browser.get("/people")
    answer = browser.post("/people/invite", name="새 사람", email="new@example.org", role=str(role), **fields)
    assert answer.status_code == 200, answer.text
    link = re.search(r"/invitations/([\w-]{43})", answer.text)
    assert link is not None
    return link[1]


def take_up(portal: TestPortal, secret: str, **fields: str) -> int:
    browser = portal.browser()
    browser.get("/sign-in")  # for its CSRF token: there is no form where the invitation is not valid
    browser.get(f"/invitations/{secret}")
    given = {"name": "새 사람", "login": "new", "password": PASSWORD, "again": PASSWORD} | fields
    return browser.post(f"/invitations/{secret}", **given).status_code


def test_a_tenant_admin_invites_a_researcher_who_comes_once(portal: TestPortal) -> None:
    secret = invite(portal.browser(PortalRole.TENANT_ADMIN), PortalRole.RESEARCHER)
    assert take_up(portal, secret, again="other") == 422
    assert take_up(portal, secret, login="government") == 422  # somebody has it
    assert take_up(portal, secret) == 303
    assert take_up(portal, secret, login="new2") == 404
    assert portal.browser().sign_in("new").status_code == 303


def test_an_invitation_ends(portal: TestPortal) -> None:
    secret = invite(portal.browser(PortalRole.TENANT_ADMIN), PortalRole.RESEARCHER)
    portal.clock.forward(timedelta(days=7))
    assert take_up(portal, secret) == 404


def test_a_tenant_admin_gives_no_role_outside_their_organisation(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.TENANT_ADMIN)
    for fields in (
        {"role": "government"},
        {"role": "auditor"},
        {"role": "provider-operator", "provider": "naver"},
        {"role": "researcher", "organisation": "kaist"},
    ):
        answer = browser.post("/people/invite", name="x", email="x@example.org", **fields)
        assert answer.status_code == 422, fields
        assert "/invitations/" not in answer.text
    assert len(portal.store.people.all()) == len(PortalRole)


def second_government(portal: TestPortal) -> Browser:
    portal.accounts.create(
        login=UserName("second"),
        name="두나",
        email="second@example.org",
        office=portal.people[GOVERNMENT].office,
        password=PASSWORD,
    )
    browser = portal.browser()
    assert browser.sign_in("second").status_code == 303
    return browser


def test_a_powerful_role_waits_for_a_second_person(portal: TestPortal) -> None:
    first = portal.browser(GOVERNMENT)
    secret = invite(first, GOVERNMENT, reason="new colleague")
    assert take_up(portal, secret) == 404
    assert first.post("/people/changes/1/approve").status_code == 403
    assert portal.browser(AUDITOR).post("/people/changes/1/approve").status_code == 403
    assert take_up(portal, secret) == 404
    second = second_government(portal)
    assert second.post("/people/changes/1/approve").status_code == 303
    assert second.post("/people/changes/1/approve").status_code == 409
    assert take_up(portal, secret) == 303
    entry = portal.store.audit.newest(limit=1, action="people.change.approve")[0]
    assert portal.people[GOVERNMENT].id in entry.evidence


def test_a_refused_role_stays_closed(portal: TestPortal) -> None:
    secret = invite(portal.browser(GOVERNMENT), AUDITOR)
    assert second_government(portal).post("/people/changes/1/refuse").status_code == 303
    assert take_up(portal, secret) == 404


def test_nobody_approves_a_role_for_themselves(portal: TestPortal) -> None:
    researcher, admin = portal.people[PortalRole.RESEARCHER], portal.browser(PortalRole.TENANT_ADMIN)
    path = f"/people/{researcher.id}/role"
    assert admin.post(path, role="tenant-admin", reason="vacation").headers["location"].endswith("said=role-asked")
    assert portal.store.people.person(researcher.id).office.role is PortalRole.RESEARCHER
    assert admin.post("/people/changes/1/approve").status_code == 403
    assert (
        admin.post(
            f"/people/{portal.people[PortalRole.TENANT_ADMIN].id}/role", role="researcher", reason="x"
        ).status_code
        == 403
    )
    old = portal.browser(PortalRole.RESEARCHER)
    assert portal.browser(GOVERNMENT).post("/people/changes/1/approve").status_code == 303
    assert portal.store.people.person(researcher.id).office.role is PortalRole.TENANT_ADMIN
    assert old.get("/").status_code == 303  # a new role begins with a new session


def test_who_is_suspended_is_out_at_once(portal: TestPortal) -> None:
    researcher = portal.people[PortalRole.RESEARCHER]
    theirs = portal.browser(PortalRole.RESEARCHER)
    admin = portal.browser(PortalRole.TENANT_ADMIN)
    assert admin.post(f"/people/{researcher.id}/suspend", reason="left").status_code == 303
    assert theirs.get("/").status_code == 303
    assert portal.browser().sign_in("researcher").status_code == 401
    assert admin.post(f"/people/{researcher.id}/resume", reason="back").status_code == 303
    assert portal.browser().sign_in("researcher").status_code == 303


def test_people_of_other_organisations_are_not_shown(portal: TestPortal) -> None:
    admin = portal.browser(PortalRole.TENANT_ADMIN)
    page = admin.get("/people").text
    assert "정연구" in page
    assert "김정부" not in page
    assert admin.get(f"/people/{portal.people[GOVERNMENT].id}").status_code == 404
    assert admin.get("/people/p-000000nobody").status_code == 404
    assert admin.get("/people/..%2f..%2fx").status_code == 404


# -- Profile -----------------------------------------------------------------------------------------------------------

KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + b"k" * 32).decode() + " kim@laptop"


def test_a_profile_is_saved_or_says_what_is_wrong(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.RESEARCHER)
    assert browser.post("/profile", name="정새롬", language="en").status_code == 303
    assert portal.store.people.person(portal.people[PortalRole.RESEARCHER].id).name == "정새롬"
    wrong = browser.post("/profile", name="")
    assert wrong.status_code == 422
    assert wrong.text.count('aria-invalid="true"') == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-dss " + KEY.split()[1],
        "ssh-rsa " + KEY.split()[1],
        'command="x" ' + KEY,
        KEY + "\nx",
        KEY + " " + "x" * 9_000,
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    assert SshKey(KEY) == KEY
    with pytest.raises(InvalidInput):
        SshKey(text)


def test_names_are_shown_as_text_not_as_markup(portal: TestPortal) -> None:
    browser = portal.browser(PortalRole.RESEARCHER)
    attack = "<script>alert(1)</script>{{ 7*7 }}{name}"
    assert browser.post("/profile", name=attack).status_code == 303
    for path in ("/", "/profile"):
        page = browser.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7*7 }}{name}" in page


@pytest.mark.parametrize(
    ("agent", "told"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 "
         "Whale/4.33.325.17 Safari/537.36", "Whale · Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 "
         "Safari/605.1.15", "Safari · macOS"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
         "CriOS/138.0 Mobile/15E148 Safari/604.1", "Chrome · iPhone"),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 "
         "Mobile Safari/537.36", "Samsung Internet · Android"),
        ("curl/8.14", "curl/8.14"),
        ("", ""),
    ],
)  # fmt: skip
def test_sessions_name_browsers_as_people_know_them(agent: str, told: str) -> None:
    assert browser_of(agent) == told
