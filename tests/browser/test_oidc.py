"""Sign-in at a real OpenID Provider (npm's `oidc-provider`, which is OpenID certified and shares no code with ours),
in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit, urlunsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from playwright.sync_api import Browser, Page, expect

from slurm_gpuaas.domain.accounts import RoleSource
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.people import PortalRole, Source
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.config import OidcConfig
from slurm_gpuaas.portal.oidc import LOGOUT_EVENT, Oidc, SignInFailed, _Provider
from tests.browser.site import BrowserSite
from tests.fakes import FakeClock
from tests.pools import AT, OFFICES, WEAKEST

Start = Callable[..., AbstractContextManager[BrowserSite]]

RULES = [
    {"claim": "groups", "value": "gpu-government", "role": "government"},
    {"claim": "groups", "value": "researchers", "role": "researcher"},
]
ACCOUNTS = {
    "kim": {"name": "김하나", "email": "kim@example.org", "groups": ["x", "gpu-government"]},
    "lee": {"name": "이두나", "email": "lee@example.org", "groups": ["researchers"], "organisation": "kaist"},
    "odd": {"name": "<b>odd</b>", "groups": ["researchers"], "organisation": "No Name!"},
    "new": {"name": "새 사람", "email": "NEW@example.org", "email_verified": True},
    "unverified": {"name": "새 사람", "email": "new@example.org", "email_verified": False},
}


def at_provider(page: Page, site: BrowserSite, login: str) -> None:
    page.goto(f"{site.url}/sign-in?back=/profile")
    page.get_by_role("link", name="SSO").click()
    page.locator("input[name=login]").fill(login)
    page.locator("input[name=password]").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


@pytest.fixture
def page(chromium: Browser) -> Page:
    return chromium.new_context(ignore_https_errors=True, locale="en-US").new_page()


def test_claims_give_a_role_and_the_providers_logout_ends_the_session(page: Page, site_with_provider: Start) -> None:
    with site_with_provider(ACCOUNTS, roles=RULES) as site:
        at_provider(page, site, "kim")
        expect(page).to_have_url(f"{site.url}/profile")
        person = next(one for one in site.store.people.all() if one.name == "김하나")
        assert (person.office.role, person.role_from) == (PortalRole.GOVERNMENT, RoleSource.IDENTITY_PROVIDER)
        assert len(site.store.people.sessions(person.id)) == 1

        issuer = site.config.oidc.issuer  # type: ignore[union-attr]
        page.goto(f"{issuer}/session/end")
        with page.expect_response(f"{issuer}/session/end/success"):
            page.get_by_role("button", name="Yes").click()
        assert site.store.people.sessions(person.id) == ()
        page.goto(f"{site.url}/people")
        expect(page).to_have_url(f"{site.url}/sign-in?back=%2Fpeople")
        closed = site.store.audit.newest(limit=1, action="session.close")[0]
        assert closed.reason == "back-channel logout"


def test_a_researcher_comes_with_the_organisation_of_their_claim(page: Page, site_with_provider: Start) -> None:
    with site_with_provider(ACCOUNTS, roles=RULES) as site:
        at_provider(page, site, "lee")
        expect(page.locator("dl.facts")).to_contain_text("kaist")


class Walker:
    """Walks to the provider and back without a browser, stopping before the last step: browsers do not let a test
    change an address that they are redirected to."""

    def __init__(self, site: BrowserSite) -> None:
        self.site = site
        self.client = httpx2.Client(verify=False, headers={"Accept-Language": "en"})  # of this test

    def answer_for(self, login: str) -> str:
        """The address with the provider's answer."""
        at = self.client.get(f"{self.site.url}/sign-in/oidc").headers["location"]
        for form in ({"prompt": "login", "login": login, "password": "any"}, {"prompt": "consent"}):
            while "/interaction/" not in at:
                at = self._next(self.client.get(at), at)
            at = self._next(self.client.post(at, data=form), at)
        while not at.startswith(self.site.url):
            at = self._next(self.client.get(at), at)
        return at

    @staticmethod
    def _next(answer: httpx2.Response, at: str) -> str:
        return urljoin(at, answer.headers["location"])

    def comes_in(self, answer: str) -> bool:
        came = self.client.get(answer)
        inside = self.client.get(f"{self.site.url}/profile").status_code == 200
        assert came.status_code == 303 if inside else came.status_code in {400, 403}, came.status_code
        return inside


def test_who_has_no_role_does_not_come_in(site_with_provider: Start) -> None:
    with site_with_provider(ACCOUNTS, roles=RULES) as site:
        for login in ("odd", "new", "unverified"):
            walker = Walker(site)
            assert not walker.comes_in(walker.answer_for(login)), login
        assert len(site.store.people.all()) == len(PortalRole)
        walker = Walker(site)
        assert walker.comes_in(walker.answer_for("lee"))


def test_an_invitation_is_taken_up_by_a_verified_address_only(site_with_provider: Start) -> None:
    with site_with_provider(ACCOUNTS) as site:
        Accounts(site.store, SystemClock(), site.config.sessions, hasher=WEAKEST).invite(
            site.people[PortalRole.TENANT_ADMIN],
            name="누구",
            email="new@example.org",
            office=OFFICES[PortalRole.RESEARCHER],
            reason="",
            source=Source(),
        )
        for login, comes in (("unverified", False), ("new", True), ("unverified", False), ("new", True)):
            walker = Walker(site)
            assert walker.comes_in(walker.answer_for(login)) is comes, login


def test_an_answer_that_was_tampered_with_lets_nobody_in(site_with_provider: Start) -> None:
    with site_with_provider(ACCOUNTS, roles=RULES) as site:
        for change in (
            {"state": "A" * 43},
            {"state": ""},
            {"code": "wrong"},
            {"code": ""},
            {"iss": "https://evil.example"},
            {"iss": ""},
            {"error": "access_denied"},
        ):
            walker = Walker(site)
            parts = urlsplit(walker.answer_for("kim"))
            query = {name: values[0] for name, values in parse_qs(parts.query).items()} | change
            assert not walker.comes_in(urlunsplit(parts._replace(query=urlencode(query)))), change


def test_an_answer_works_once_and_only_in_the_browser_that_asked(site_with_provider: Start) -> None:
    with site_with_provider(ACCOUNTS, roles=RULES) as site:
        walker, thief = Walker(site), Walker(site)
        assert not thief.comes_in(walker.answer_for("kim"))
        walker = Walker(site)
        answer = walker.answer_for("kim")
        assert walker.comes_in(answer)
        walker.client.cookies.delete("__Host-gpuaas")
        assert not walker.comes_in(answer)


# -- Logout tokens: signed with a provider's keys, wrong in one thing each ---------------------------------------------

ISSUER = "http://127.0.0.1:1"


def oidc_with(key: RSAKey, clock: FakeClock) -> Oidc:
    oidc = Oidc(OidcConfig(issuer=ISSUER, client_id="gpuaas"), redirect="https://x/back", clock=clock)
    oidc._known = _Provider(
        authorize="",
        token="",
        keys=KeySet.import_key_set({"keys": [key.as_dict(private=False)]}),
        read_at=clock.now(),
        names_issuer=True,
    )
    return oidc


def logout_token(key: RSAKey, clock: FakeClock, **claims: object) -> str:
    now = int(clock.now().timestamp())
    right: dict[str, object] = {
        "iss": ISSUER,
        "aud": "gpuaas",
        "iat": now,
        "exp": now + 120,
        "jti": "1",
        "sid": "s1",
        "events": {LOGOUT_EVENT: {}},
    }
    kept = {name: value for name, value in (right | claims).items() if value is not None}
    return jwt.encode({"alg": "RS256", "kid": str(key.kid)}, kept, key)


@pytest.fixture(scope="module")
def key() -> RSAKey:
    return RSAKey.generate_key(2048, auto_kid=True)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": None},
        {"exp": None},
        {"iat": None},
        {"events": None},
        {"events": {}},
        {"events": []},
        {"sid": None},
        {"nonce": "n"},
        {"azp": "another"},
    ],
    ids=str,
)
def test_what_is_no_logout_token_for_us_closes_nothing(key: RSAKey, claims: dict[str, object]) -> None:
    clock = FakeClock(AT)
    assert oidc_with(key, clock).logged_out(logout_token(key, clock)).sid == "s1"
    with pytest.raises(SignInFailed):
        oidc_with(key, clock).logged_out(logout_token(key, clock, **claims))


def test_a_token_that_is_old_or_signed_by_another_is_not_believed(key: RSAKey) -> None:
    clock = FakeClock(AT)
    oidc, token = oidc_with(key, clock), logout_token(key, clock)
    other = RSAKey.generate_key(2048, {"kid": str(key.kid)})
    for wrong in (logout_token(other, clock), token[:-4] + "AAAA", "", "a.b.c", "é"):
        with pytest.raises(SignInFailed):
            oidc.logged_out(wrong)
    clock.forward(timedelta(seconds=181))
    with pytest.raises(SignInFailed):
        oidc_with(key, clock).logged_out(token)
