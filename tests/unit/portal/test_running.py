"""Map, jobs, incidents and sites at the portal: who sees what, and in which words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.api.pool_sites import PicturePush, picture_path
from slurm_gpuaas.domain.fleet_map import Cells, CellState, MapUnit, SiteLayout, read
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.names import (
    ClusterName,
    CommandId,
    GpuModel,
    NodeName,
    OrganisationName,
    ProjectName,
    ProviderName,
    ShareName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.site_frame import (
    AtGate,
    HitJob,
    SiteFrame,
    SiteIncident,
    SiteJob,
    SiteLimit,
    SiteQueued,
    SiteRoom,
    SiteStep,
)
from slurm_gpuaas.domain.told import Told
from slurm_gpuaas.pool.work import Program
from slurm_gpuaas.portal.app import make_app
from slurm_gpuaas.portal.description import gate_of, routes_of
from slurm_gpuaas.portal.map.live import Held
from slurm_gpuaas.portal.rights import Action, Scope, scope_of
from slurm_gpuaas.portal.running import NoteKind, Onlooker, efficiency, may_start, waiting_for, why
from slurm_gpuaas.portal.visit import Needs
from slurm_gpuaas.store.pool.sites import Site
from tests.pools import AT, PoolPortal

SNU, POSTECH = OrganisationName("snu"), OrganisationName("postech")
NAVER, NHN = SiteName("naver-h200"), SiteName("nhn-b200")
RESEARCHER = UserName("researcher")
STATES = "state=running"


def layout(site: Site) -> SiteLayout:
    nodes = tuple(NodeName(f"{site.provider}-{number}") for number in range(4))
    unit = MapUnit(name="leaf-1", nodes=nodes, shares=(ShareName("government"),) * 4)
    return SiteLayout(name=site.cluster, model=GpuModel("h200"), gpus_per_node=8, units=(unit,))


def run(number: int, tenant: str | None = "snu", user: str | None = "researcher") -> SiteJob:
    return SiteJob(
        id=number,
        name=f"train-{number}" if tenant else "",
        user=UserName(user) if user else None,
        tenant=OrganisationName(tenant) if tenant else None,
        project=ProjectName(f"{tenant}-g1") if tenant else None,
        share=ShareName("government"),
        service=ServiceClass.GUARANTEED,
        since=AT - timedelta(hours=1),
        until=AT + timedelta(hours=3),
    )


def queued(number: int, tenant: str | None = "snu", user: str | None = "researcher", **more: Any) -> SiteQueued:
    fields: dict[str, Any] = {"reason": "Resources", "gpus": 16, "submitted": AT - timedelta(minutes=5)} | more
    who = run(number, tenant, user)
    return SiteQueued(
        **{name: getattr(who, name) for name in set(SiteQueued.model_fields) & set(SiteJob.model_fields)}, **fields
    )


FAULT = SiteIncident(
    id="inc-1",
    node=NodeName("naver-3"),
    gpu=2,
    xid=79,
    headline="XID 79: GPU has fallen off the bus",
    rule="drain now",
    steps=(
        SiteStep(state=IncidentState.SUSPECT, at=AT - timedelta(hours=2)),
        SiteStep(state=IncidentState.DRAINING, at=AT - timedelta(minutes=110)),
        SiteStep(state=IncidentState.PROBATION, at=AT - timedelta(minutes=30)),
    ),
    hit=(HitJob(id=1, tenant=SNU, user=RESEARCHER), HitJob(id=2, tenant=POSTECH), HitJob(id=99)),
)


def frame(site: Site, seconds: int = 0, **parts: Any) -> SiteFrame:
    """Jobs 1 (snu's researcher), 2 (postech), 3 (the provider's own) and 4 (snu, somebody else) on a node each."""
    runs = (run(1), run(2, "postech", None), run(3, None, None), run(4, "snu", "admin"))
    cells = Cells.unknown(32)
    for number in range(4):
        part = slice(8 * number, 8 * number + 8)
        cells.state[part], cells.job[part], cells.use[part], cells.idle[part] = CellState.BUSY, number + 1, 80, 0
    cells.use[:3], cells.idle[:3] = 0, 45
    waits = (queued(5), queued(6, "postech", None), queued(7, None, None, reason="Priority"))
    fields: dict[str, Any] = {"jobs": runs, "queue": waits, "incidents": (FAULT,)} | parts
    return SiteFrame.of(layout(site), AT + timedelta(seconds=seconds), cells, **fields)


class Running(PoolPortal):
    """With two sites that have told of themselves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, provider in ((NAVER, "naver"), (NHN, "nhn")):
            self.store.sites.add(name, cluster=ClusterName(name), provider=ProviderName(provider))
            self.show(name)
        person = self.people[PortalRole.RESEARCHER]
        self.pool.service.put_identity(
            CommandId("5a8c4c0e-0000-4000-8000-000000000001"), Program("tests"), person.id, RESEARCHER, (),
        )  # fmt: skip

    def site(self, name: SiteName) -> Site:
        found = self.store.sites.find(name)
        assert found is not None
        return found

    def show(self, name: SiteName, seconds: int = 0, **parts: Any) -> None:
        site = self.site(name)
        push = PicturePush(layout=layout(site), frame=frame(site, seconds, **parts))
        asyncio.run(self.pool.pictures.take(site, push))


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    portal = Running(tmp_path_factory.mktemp("running"))
    yield portal
    portal.store.close()


@pytest.fixture
def own_portal(tmp_path: Path) -> Iterator[Running]:
    portal = Running(tmp_path)
    yield portal
    portal.store.close()


# -- Who sees what -----------------------------------------------------------------------------------------------------

JOBS = {
    PortalRole.PROVIDER_OPERATOR: {(NAVER, number) for number in range(1, 8)},
    PortalRole.TENANT_ADMIN: {(site, number) for site in (NAVER, NHN) for number in (1, 4, 5)},
    PortalRole.RESEARCHER: {(site, number) for site in (NAVER, NHN) for number in (1, 5)},
}
HIT = {
    PortalRole.GOVERNMENT: {f"{NAVER}:inc-1": [1, 2, 99], f"{NHN}:inc-1": [1, 2, 99]},
    PortalRole.AUDITOR: {f"{NAVER}:inc-1": [1, 2, 99], f"{NHN}:inc-1": [1, 2, 99]},
    PortalRole.PROVIDER_OPERATOR: {f"{NAVER}:inc-1": [1, 2, 99]},
    PortalRole.TENANT_ADMIN: {f"{NAVER}:inc-1": [1], f"{NHN}:inc-1": [1]},
    PortalRole.RESEARCHER: {f"{NAVER}:inc-1": [1], f"{NHN}:inc-1": [1]},
}


@pytest.mark.parametrize("role", JOBS)
def test_each_role_sees_the_jobs_of_its_scope_and_no_other_page(portal: Running, role: PortalRole) -> None:
    browser = portal.browser(role)
    items = browser.get("/api/v1/jobs").json()["items"]
    assert {(item["cluster"], item["id"]) for item in items} == JOBS[role]
    for site in (NAVER, NHN):
        for number in range(1, 8):
            wanted = 200 if (site, number) in JOBS[role] else 404
            assert browser.get(f"/jobs/{site}/{number}").status_code == wanted, (role, site, number)
            assert browser.get(f"/api/v1/jobs/{site}/{number}").status_code == wanted, (role, site, number)


@pytest.mark.parametrize("role", HIT)
def test_each_role_sees_the_incidents_of_its_scope_and_of_hit_jobs_its_own(portal: Running, role: PortalRole) -> None:
    browser = portal.browser(role)
    items = browser.get("/api/v1/incidents").json()["items"]
    assert {item["id"]: item["jobs"] for item in items} == HIT[role]
    for number in (f"{NAVER}:inc-1", f"{NHN}:inc-1", "x"):
        wanted = 200 if number in HIT[role] else 404
        assert browser.get(f"/incidents/{number}").status_code == wanted
        assert browser.get(f"/api/v1/incidents/{number}").status_code == wanted


def test_a_researcher_without_a_login_or_of_another_organisation_sees_nothing(portal: Running) -> None:
    browser = portal.browser("researcher-kaist")
    assert browser.get("/api/v1/jobs").json() == {"items": [], "next": None}
    assert browser.get("/api/v1/incidents").json()["items"] == []


def test_a_tenant_meets_no_name_of_others_on_any_page_or_picture(portal: Running) -> None:
    browser = portal.browser(PortalRole.TENANT_ADMIN)
    for path in ("/jobs", "/incidents", f"/jobs/{NAVER}/1", f"/incidents/{NAVER}:inc-1", "/api/v1/map", "/map/opening"):
        text = browser.get(path).text
        assert "postech" not in text, path
        assert "train-2" not in text, path
    picture = read(browser.get("/map/picture").content)
    assert {job["id"] for job in picture.table["jobs"].values()} == {1, 4}
    assert [one["jobs"] for one in picture.table["incidents"].values()] == [[1], [1]]
    assert "postech" not in str(picture.table)
    assert set(picture.cells.state[8:24].tolist()) == {CellState.TAKEN}


def test_the_map_api_counts_what_its_reader_may_know(portal: Running) -> None:
    states = {
        role: {one["name"]: one["states"] for one in portal.browser(role).get("/api/v1/map").json()["clusters"]}
        for role in (PortalRole.GOVERNMENT, PortalRole.PROVIDER_OPERATOR, PortalRole.TENANT_ADMIN)
    }
    assert states[PortalRole.GOVERNMENT] == {NAVER: {"busy": 32}, NHN: {"busy": 32}}
    assert states[PortalRole.PROVIDER_OPERATOR] == {NAVER: {"busy": 32}, NHN: {"taken": 32}}
    assert states[PortalRole.TENANT_ADMIN] == {NAVER: {"busy": 16, "taken": 16}, NHN: {"busy": 16, "taken": 16}}


def test_sites_are_shown_to_the_government_and_their_own_provider(portal: Running) -> None:
    assert portal.browser(PortalRole.GOVERNMENT).get(f"/sites/{NHN}").status_code == 200
    operator = portal.browser(PortalRole.PROVIDER_OPERATOR)
    assert NHN not in operator.get("/sites").text
    assert operator.get(f"/sites/{NHN}").status_code == 404
    assert operator.get(f"/sites/{NAVER}").status_code == 200
    assert portal.browser(PortalRole.RESEARCHER).get("/sites").status_code == 403


def test_every_endpoint_times_every_role(portal: Running) -> None:
    seen = 0
    for role in PortalRole:
        browser = portal.browser(role)
        for route in routes_of(make_app(portal.wiring)):
            gate = gate_of(route)
            if not isinstance(gate, Needs) or gate.action not in {
                Action.MAP_READ, Action.JOB_READ, Action.INCIDENT_READ, Action.SITE_READ,
            } or route.path == "/map/events":  # fmt: skip
                continue
            portal.seconds += 60
            path = re.sub(r"\{[^}]*\}", "1", route.path)
            answer = browser.get(path, **{"Accept-Language": "en"})
            refused = answer.status_code == 403 and f"({gate.action})" in answer.text
            assert refused is (scope_of(role, gate.action) is None), (role, path, answer.status_code)
            assert answer.status_code < 500, (role, path, answer.text)
            seen += 1
    assert seen > 80


# -- Lists -------------------------------------------------------------------------------------------------------------


def test_a_list_of_jobs_is_filtered_and_read_in_pages_without_missing_or_doubling(portal: Running) -> None:
    browser = portal.browser(PortalRole.PROVIDER_OPERATOR)
    assert {one["id"] for one in browser.get("/api/v1/jobs?state=waiting").json()["items"]} == {5, 6, 7}
    assert browser.get(f"/api/v1/jobs?cluster={NHN}").json()["items"] == []
    seen: list[int] = []
    cursor = ""
    while True:
        page = browser.get(f"/api/v1/jobs?limit=2{cursor}").json()
        seen += [one["id"] for one in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == [5, 6, 7, 1, 2, 3, 4]
    assert browser.get("/api/v1/jobs?cursor=nonsense").status_code == 422
    assert browser.get("/jobs?state=nonsense&cluster=%3Cscript%3E").status_code == 200


def test_incidents_are_filtered_by_state_cluster_and_node(portal: Running) -> None:
    browser = portal.browser(PortalRole.GOVERNMENT)

    def found(query: str) -> int:
        return len(browser.get(f"/api/v1/incidents?{query}").json()["items"])

    assert [found(query) for query in ("state=open", "state=closed", f"cluster={NHN}", "node=naver-3", "node=zz")] == [
        2, 0, 1, 2, 0,
    ]  # fmt: skip
    page = browser.get("/api/v1/incidents?limit=1").json()
    (rest,) = browser.get(f"/api/v1/incidents?limit=1&cursor={page['next']}").json()["items"]
    assert {page["items"][0]["id"], rest["id"]} == {f"{NAVER}:inc-1", f"{NHN}:inc-1"}
    assert rest["back_at"] == (AT - timedelta(minutes=30)).isoformat().replace("+00:00", "Z")


def test_what_has_not_changed_is_not_sent_again(own_portal: Running) -> None:
    browser = own_portal.browser(PortalRole.TENANT_ADMIN)
    for path in ("/api/v1/map", "/api/v1/jobs", "/api/v1/incidents", f"/api/v1/jobs/{NAVER}/1"):
        etag = browser.get(path).headers["etag"]
        assert browser.get(path, **{"If-None-Match": etag}).status_code == 304
        own_portal.show(NAVER, int(own_portal.seconds) + 5)
        own_portal.seconds += 60
        assert browser.get(path, **{"If-None-Match": etag}).status_code == 200, path


# -- Age ---------------------------------------------------------------------------------------------------------------


def test_a_site_that_is_cut_off_is_shown_as_it_was_with_its_age(own_portal: Running) -> None:
    own_portal.clock.forward(timedelta(minutes=10))
    own_portal.show(NHN, 595)
    browser = own_portal.browser(PortalRole.TENANT_ADMIN)
    for path in ("/jobs", "/incidents", f"/jobs/{NAVER}/1", f"/incidents/{NAVER}:inc-1"):
        text = browser.get(path).text
        assert text.count('class="state stale"') == 1, path
        assert re.search(r"naver-h200.*10분 전", text), path
    assert len(browser.get("/api/v1/jobs").json()["items"]) == 6


# -- The wire ----------------------------------------------------------------------------------------------------------


def test_a_picture_without_the_sites_key_is_not_taken(portal: Running) -> None:
    push = PicturePush(frame=frame(portal.site(NAVER), 60)).packed()
    answer = portal.browser().client.post(picture_path(NAVER), content=push, headers={"Content-Encoding": "deflate"})
    assert answer.status_code in {401, 403, 404}


# -- Words -------------------------------------------------------------------------------------------------------------


def test_why_and_when_is_told_in_both_languages(portal: Running) -> None:
    browser = portal.browser(PortalRole.RESEARCHER)
    korean = browser.get(f"/jobs/{NAVER}/5", **{"Accept-Language": "ko"}).text
    english = browser.get(f"/jobs/{NAVER}/5", **{"Accept-Language": "en"}).text
    assert "It waits: what it asks for is not free now." in english
    assert "지금 비어 있지 않" in korean
    assert "It waits" not in korean


ROOM = SiteRoom(whole=True, nodes=2, gpus_per_node=8, free=1, enough_at=AT)
NO_TIME = ROOM.model_copy(update={"enough_at": None})


@pytest.mark.parametrize(
    ("more", "start", "words"),
    [
        pytest.param({"room": ROOM}, AT, ["needs 2 whole nodes", "there is room at"], id="room"),
        pytest.param({"room": ROOM.model_copy(update={"free": 2})}, AT, ["2 whole", "room for it now"], id="room-now"),
        pytest.param({"room": NO_TIME}, None, ["2 whole", "do not tell"], id="none"),
        pytest.param({"room": ROOM, "reason": "JobHeldUser"}, None, [], id="held-jobs-do-not-start-by-room"),
        pytest.param(
            {"reason": "QOSGrpGRES", "room": ROOM, "limit": SiteLimit(limit=32, in_use=24, below_at=AT)},
            AT, ["guarantees 32 GPUs at once, 24 are in use and it asks for 16", "fits below"], id="limit",
        ),
        pytest.param(
            {"reason": "QOSGrpGRES", "limit": SiteLimit(limit=8, in_use=0)},
            None, ["guarantees 8", "larger than the guarantee"], id="never",
        ),
    ],
)  # fmt: skip
def test_when_it_may_start_follows_from_what_holds_it(more: dict[str, Any], start: Any, words: list[str]) -> None:
    job = queued(1, **more)
    assert may_start(job) == start
    said = list(waiting_for(job))
    assert len(said) == len(words)
    assert all(word in text for word, text in zip(words, said, strict=True)), said


def test_the_gate_speaks_before_slurms_word() -> None:
    said = {gate: why(queued(1, gate=gate, reason="Licenses")).says for gate in (*AtGate, None)}
    assert len(set(said.values())) == 4


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (Held(gpus=8, use=None, idle=0, idle_minutes=0), NoteKind.UNKNOWN),
        (Held(gpus=8, use=0.0, idle=8, idle_minutes=44), NoteKind.IDLE),
        (Held(gpus=8, use=60.0, idle=3, idle_minutes=0), NoteKind.IDLE),
        (Held(gpus=8, use=29.0, idle=0, idle_minutes=0), NoteKind.LOW),
        (Held(gpus=8, use=30.0, idle=0, idle_minutes=0), NoteKind.GOOD),
    ],
)
def test_efficiency_is_judged_by_what_is_held_and_not_used(held: Held, kind: NoteKind) -> None:
    note = efficiency(held)
    assert note.kind is kind
    assert isinstance(note.text, Told)
    assert bool(note.way_out) is (kind in {NoteKind.IDLE, NoteKind.LOW})


def test_an_own_scope_needs_login_and_organisation() -> None:
    own = Onlooker(scope=Scope.OWN, organisation=SNU, login=RESEARCHER)
    assert own.sees(ProviderName("naver"), SNU, RESEARCHER)
    assert not own.sees(ProviderName("naver"), POSTECH, RESEARCHER)
    assert not own.sees(ProviderName("naver"), SNU, None)
    assert not Onlooker(scope=Scope.OWN).sees(ProviderName("naver"), None, None)
    assert not Onlooker(scope=Scope.ORGANISATION).sees(ProviderName("naver"), None, None)
