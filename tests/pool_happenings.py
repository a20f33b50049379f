"""What else happened in `tests.pool_world`: jobs and faults that sites told of, money, leases, appeals, tokens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from slurm_gpuaas.api.pool_sites import PicturePush
from slurm_gpuaas.domain.accounts import Office
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.fleet_map import Cells, CellState, MapUnit, SiteLayout
from slurm_gpuaas.domain.idle import IdleStanding
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.jobs import JobId, ServiceClass
from slurm_gpuaas.domain.ledger import EntryKind, RateRequest, WonRequest
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    NodeName,
    OrganisationName,
    PartitionName,
    PersonId,
    ProviderName,
    QosName,
    ShareName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.people import NOWHERE, PortalRole
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.site_frame import HitJob, SiteFrame, SiteIncident, SiteJob, SiteStep
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.pool.idle_rules import Rung
from slurm_gpuaas.portal.map.view import EVERYTHING
from slurm_gpuaas.portal.rights import Action, Owned
from tests.things import Thing
from tests.unit.metering.books import pool_rate

if TYPE_CHECKING:
    from tests.pool_world import World

RAN, ENDED, PROPOSED = 1, 2, 3
"""Numbers: of the job that runs, of the one that has ended, of the day of March from which a rate is proposed."""
MARKED: Final = "q7z"


@dataclass(frozen=True)
class Place:
    """A grant with its people, and the cluster where it is; everything here happens once at each."""

    world: World
    of: str
    grant: PoolGrant
    cluster: str
    model: str

    @property
    def tenant(self) -> OrganisationName:
        return OrganisationName(self.of)

    @property
    def provider(self) -> ProviderName:
        return ProviderName(self.cluster)

    @property
    def user(self) -> UserName:
        return UserName(f"login-{self.of}")

    def owned(self, *people: str) -> tuple[Owned, ...]:
        numbers = frozenset(self.world.person(login).id for login in people)
        return (Owned(people=numbers, organisation=self.tenant, provider=self.provider),)

    @property
    def by_provider(self) -> tuple[Owned, ...]:
        return (Owned(provider=self.provider),)

    def mark(self, what: str) -> str:
        return f"{what}-{self.of}-{MARKED}"

    def put(self, kind: str, value: object, owners: tuple[Owned, ...], mark: str = "", *shown_by: Action) -> None:
        self.world.things.setdefault(kind, []).append(Thing(str(value), owners, mark, frozenset(shown_by)))


def happen(world: World, grants: dict[str, PoolGrant], newcomers: dict[str, PersonId]) -> None:
    """Goes on to 2 March 2027, when February is closed.

    Args:
        newcomers: by organisation, a researcher who is to become a tenant admin.
    """
    places = [Place(world, of, grant, *str(grant.share).split(".")[:2]) for of, grant in grants.items()]
    for place in places:
        _ask_for_a_role(place, newcomers[place.of])
        _make_a_token(place)
        _appeal(place)
    _pay(world, places)
    for place in places:
        _lease(place)
        _tell_of_jobs(place)
    for place in places:
        _collect_map(place)
    _solve(world)


def _ask_for_a_role(place: Place, newcomer: PersonId) -> None:
    world, reason = place.world, place.mark("reason-role")
    office = Office(role=PortalRole.TENANT_ADMIN, organisation=place.tenant)
    world.accounts.change_office(world.person("second"), newcomer, office, reason=reason, source=NOWHERE)
    (change,) = [one for one in world.store.people.open_changes() if one.person == newcomer]
    whose = (Owned(people=frozenset({newcomer}), organisation=place.tenant),)
    place.put("people/changes", change.id, whose, reason, Action.PEOPLE_READ, Action.AUDIT_READ)


def _make_a_token(place: Place) -> None:
    researcher, name = place.world.person(f"researcher-{place.of}"), place.mark("token")
    scopes = (Action.TOKEN_MANAGE,)
    token, _ = place.world.accounts.make_token(researcher, name=name, scopes=scopes, days=300, source=NOWHERE)
    whose = (Owned(people=frozenset({researcher.id})),)
    place.put("tokens", token.id, whose, name, Action.TOKEN_MANAGE, Action.AUDIT_READ)


def _appeal(place: Place) -> None:
    """After a notice, which is written down as if the ladder had come to it."""
    world, grant, reason = place.world, place.grant, place.mark("reason-appeal")
    today = korean_day(world.clock.now())
    world.store.register.standings.put(
        IdleStanding(grant=grant.id, rung=Rung.NOTICE, gpus=grant.gpus, since=today, climbed=today, stepped=today)
    )
    appeal = world.pool.idle.appeal(world.command, world.actor(f"admin-{place.of}"), grant.id, reason)
    place.put("appeals", appeal.id, place.owned(*_members(place)), reason, Action.GRANT_READ, Action.AUDIT_READ)


def _members(place: Place) -> tuple[str, ...]:
    return (f"researcher-{place.of}",)


def _pay(world: World, places: list[Place]) -> None:
    """Both ran in February; what they owe is on a statement, and their providers' billing wants to give some back and
    to ask for more next year."""
    keeper, begun = world.pool.keeper, world.clock.now()
    for place in places:
        keeper.add_rate(pool_rate(name=f"{place.model}-2027", model=place.model, basis="공고 2027"))
    world.clock.forward(timedelta(hours=2))
    world.pool.turn()  # the accounts learn what the grants cost
    for place in places:
        record = UsageRecord(
            cluster=ClusterName(place.cluster),
            job_id=JobId(ENDED),
            user=place.user,
            account=AccountName(place.grant.project),
            qos=QosName(f"guaranteed-{place.grant.project}"),
            partition=PartitionName("government"),
            model=GpuModel(place.model),
            gpus=8,
            started=begun,
            ended=begun + timedelta(hours=1),
            gpu_seconds=8 * 3_600,
            state="COMPLETED",
        )
        keeper.take([UsageChange(number=1, record=record)])
    world.clock.forward(timedelta(days=29))
    keeper.book()
    heads = {head.organisation: head for head in keeper.close(Month(2027, 2), world.pool.titles())}
    for place in places:
        head, billing = heads[place.tenant], world.actor(f"billing-{place.cluster}")
        place.put("statements", head.number, place.owned())
        reason, basis = place.mark("reason-credit"), place.mark("basis")
        credit = WonRequest(
            command=world.command,
            kind=EntryKind.CREDIT,
            organisation=place.tenant,
            provider=place.provider,
            won=-1,
            reason=reason,
        )
        keeper.ask(credit, billing)
        place.put("ledger/corrections", credit.command, place.by_provider, reason, Action.LEDGER_READ)
        starts = date(2028, 3, PROPOSED)
        rate = pool_rate(name=f"{place.model}-2028", model=place.model, starts=starts, basis=basis)
        proposal = RateRequest(command=world.command, rate=rate, provider=place.provider)
        keeper.propose_rate(proposal, billing)
        place.put("rates/proposals", proposal.command, place.by_provider, basis, Action.RATE_READ)


def _lease(place: Place) -> None:
    world, reason, today = place.world, place.mark("reason-lease"), korean_day(place.world.clock.now())
    until, operator = today + timedelta(days=9), world.actor(f"operator-{place.cluster}")
    lease = world.pool.leases.ask(world.command, operator, place.grant.share, 8, today, until, reason, ())
    place.put("leases", lease.id, place.by_provider, reason, Action.LEASE_READ, Action.AUDIT_READ)


def _tell_of_jobs(place: Place) -> None:
    """Its site shows one node with one job, which a fault of the node has hit."""
    world, now = place.world, place.world.clock.now()
    node = NodeName(f"{place.cluster}-1")
    unit = MapUnit(name="leaf-1", nodes=(node,), shares=(ShareName("government"),))
    layout = SiteLayout(name=ClusterName(place.cluster), model=GpuModel(place.model), gpus_per_node=8, units=(unit,))
    job = SiteJob(
        id=RAN,
        name=place.mark("job"),
        user=place.user,
        tenant=place.tenant,
        project=place.grant.project,
        share=ShareName("government"),
        service=ServiceClass.GUARANTEED,
        since=now - timedelta(hours=1),
        until=now + timedelta(hours=3),
    )
    fault = SiteIncident(
        id="inc-1",
        node=node,
        gpu=2,
        xid=79,
        headline=place.mark("headline"),
        rule="drain now",
        steps=(SiteStep(state=IncidentState.SUSPECT, at=now - timedelta(minutes=9)),),
        hit=(HitJob(id=RAN, tenant=place.tenant, user=place.user),),
    )
    cells = Cells.unknown(8)
    cells.state[:], cells.job[:], cells.use[:], cells.idle[:] = CellState.BUSY, 1, 80, 0
    frame = SiteFrame.of(layout, now, cells, jobs=(job,), queue=(), incidents=(fault,))
    site = world.store.sites.find(SiteName(place.cluster))
    assert site is not None
    asyncio.run(world.pool.pictures.take(site, PicturePush(layout=layout, frame=frame)))
    mine, ours = place.owned(*_members(place)), place.owned(*_people(place))
    place.put("jobs", place.cluster, mine)
    place.put("jobs/*", RAN, mine, job.name, Action.JOB_READ)
    place.put("jobs/ended", place.cluster, mine)
    place.put("jobs/ended/*", ENDED, mine)
    # On the map a researcher sees what their organisation runs, and the fault of its jobs.
    place.put("incidents", f"{place.cluster}:inc-1", mine, fault.headline, Action.INCIDENT_READ)
    place.put("marks-of-the-map", "", ours, job.name, Action.MAP_READ)
    place.put("marks-of-the-map", "", ours, fault.headline, Action.MAP_READ)


def _people(place: Place) -> list[str]:
    return [
        str(one.login) for one in place.world.store.people.all() if one.office.organisation == place.of and one.login
    ]


def _collect_map(place: Place) -> None:
    """Nodes are shown to all who may look at the map: what runs on them is not."""
    table = place.world.pool.pictures.live.picture(EVERYTHING).table
    (slot,) = [slot for slot, job in table["jobs"].items() if job["tenant"] == place.of]
    place.put("map/jobs", slot, place.owned(*_people(place)))
    everybody = frozenset(one.id for one in place.world.store.people.all())
    public = (Owned(people=everybody), *(one for of in place.world.things["organisations"] for one in of.owners))
    providers = tuple(Owned(provider=one.provider) for one in place.world.store.sites.all())
    place.put("map/nodes", place.cluster, (*public, *providers))
    place.put("map/nodes/*", f"{place.cluster}-1", (*public, *providers))


def _solve(world: World) -> None:
    """A run of the award's solver, which nobody but the government and the auditor may see."""
    asked = world.caller("second").ask("POST", "/awards/programmes/national/solve")
    assert asked.status == 303, asked.text
    run = Thing(asked.headers["location"].rpartition("/")[2], (Owned(),))
    world.things["runs"] = world.things["what-if"] = [run]
