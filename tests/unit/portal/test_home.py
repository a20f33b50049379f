"""The home page: what waits for its reader comes first, and what they did is said in words."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import slurm_gpuaas.pool
from slurm_gpuaas.domain.names import CommandId
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.deeds import DEEDS, MAY
from slurm_gpuaas.portal.rights import Action
from tests.pools import PoolPortal
from tests.unit.pool.scene import request


def asks(page: str) -> str:
    found = re.search(r'<section aria-labelledby="asks">.*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def test_what_waits_for_somebody_comes_first_and_nothing_of_which_there_is_none(tmp_path: Path) -> None:
    portal = PoolPortal(tmp_path)
    officer = portal.browser(PortalRole.GOVERNMENT)
    before = officer.get("/", **{"Accept-Language": "en"}).text
    assert "Nothing waits for you." in asks(before)
    assert "To be checked" not in before
    assert "no site has reported yet" in before, "which is not the same as nothing running"
    portal.pool.service.submit(CommandId(str(uuid4())), portal.person("admin-snu").actor, request("snu"))
    after = officer.get("/", **{"Accept-Language": "en"}).text
    assert "To be checked" in asks(after)
    assert after.index("To be checked") < after.index("At a glance") < after.index("Your sessions")
    assert "Signed in" in after
    assert "session.open" not in after
    portal.store.close()


def test_every_command_of_the_pool_has_words() -> None:
    sources = Path(slurm_gpuaas.pool.__file__).parent.glob("*.py")
    commands = {name for file in sources for name in re.findall(r'(?:@command|\bwork)\("([a-z.-]+)"', file.read_text())}
    assert len(commands) > 30
    assert "offer.lapse" in commands, "what the pool does by itself is among them"
    assert not commands - DEEDS.keys()


def test_every_right_has_words_for_tokens_and_refusals() -> None:
    assert set(MAY) == set(Action)
    assert len(set(MAY.values())) == len(MAY)


def test_what_was_refused_is_told_in_words(tmp_path: Path) -> None:
    portal = PoolPortal(tmp_path)
    billing = portal.browser(PortalRole.PROVIDER_BILLING)
    assert billing.get("/applications/a2026-00001").status_code == 403
    page = billing.get("/", **{"Accept-Language": "en"}).text
    assert "See applications" in page and "application.read" not in page
    portal.store.close()


def test_an_overview_without_reports_does_not_say_that_nothing_runs(tmp_path: Path) -> None:
    portal = PoolPortal(tmp_path)
    page = portal.browser(PortalRole.GOVERNMENT).get("/overview", **{"Accept-Language": "en"}).text
    assert "no site has reported yet" in page
    assert re.findall(r"<dt>(Running|Idle|Out of service)</dt><dd><span class=\"number\">([^<]+)<", page) == [
        ("Running", "–"), ("Idle", "–"), ("Out of service", "–"),
    ]  # fmt: skip
    portal.store.close()


def test_a_token_form_that_is_wrong_keeps_what_was_chosen(tmp_path: Path) -> None:
    portal = PoolPortal(tmp_path)
    researcher = portal.browser(PortalRole.RESEARCHER)
    page = researcher.get("/tokens").text
    assert "작업 보기" in page, "scopes are told in words"
    answer = researcher.post("/tokens", name="", days="365", scopes=["job.read", "map.read"])
    assert answer.status_code == 422
    assert re.findall(r'value="([a-z.]+)" checked', answer.text) == ["job.read", "map.read"]
    assert re.search(r'<option value="365" selected', answer.text)
    portal.store.close()
