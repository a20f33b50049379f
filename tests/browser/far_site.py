"""A site of four nodes that calls the portal as a gpuaasd does: signed, over TLS, with what its Slurm would have."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from slurm_gpuaas.api.pool_sites import (
    PicturePush,
    ShareReport,
    SiteReport,
    UsagePush,
    UsageRow,
    UseDayRow,
    UseDaysPush,
)
from slurm_gpuaas.api.signing import site_key
from slurm_gpuaas.daemon.portal_client import HttpPortal
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.fleet_map import Cells, CellState, MapUnit, SiteLayout
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.names import (
    ClusterName,
    GpuModel,
    GrantName,
    NodeName,
    OrganisationName,
    ShareName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.site_frame import (
    HitJob,
    SiteFrame,
    SiteIncident,
    SiteJob,
    SiteLimit,
    SiteQueued,
    SiteRoom,
    SiteStep,
    SiteWaiting,
)

SITE: Final = SiteName("naver-h200")
CLUSTER: Final = ClusterName("naver")
KEYS: Final = bytes(range(32))
"""The master key of sites."""
GPUS: Final = 32
_NODES: Final = tuple(NodeName(f"h200-{number:02}") for number in range(1, 5))
LAYOUT: Final = SiteLayout(
    name=CLUSTER,
    model=GpuModel("h200"),
    gpus_per_node=8,
    units=tuple(
        MapUnit(name=f"leaf-{number}", nodes=_NODES[2 * number - 2 : 2 * number], shares=(ShareName("government"),) * 2)
        for number in (1, 2)
    ),
)


class FarSite:
    def __init__(self, url: str, ca_file: Path, clock: Clock) -> None:
        self._clock = clock
        self._portal = HttpPortal(url, site=SITE, key=site_key(KEYS, SITE, 1), ca_file=ca_file, clock=clock)
        self._revision = 0
        self._usage = 0
        self.documents: tuple[Mapping[str, Any], ...] = ()
        self.people: tuple[Mapping[str, Any], ...] = ()

    def close(self) -> None:
        self._portal.close()

    def takes(self) -> None:
        """Takes the newest documents, and says by its next call that it has them."""
        while (told := self._portal.documents(revision=self._revision, wait=0)).changed:
            self._revision, self.documents, self.people = told.revision, told.documents, told.people

    def reports(self, *, granted: int, in_use: int) -> None:
        share = {"pool": "h200", "share": "government", "model": "h200", "capacity": GPUS, "healthy": 24}
        self._portal.report(
            SiteReport(
                sent_at=self._clock.now(),
                cluster=CLUSTER,
                version="1.0",
                slurm_version="26.05",
                revision=self._revision,
                shares=(ShareReport.model_validate(share | {"granted": granted, "guaranteed": in_use, "burst": 0}),),
                incidents=(),
                findings=(),
            )
        )

    def ran(self, grant: PoolGrant, login: str, started: datetime, hours: int, *, gpus: int) -> None:
        """A run that is over."""
        row = {
            "number": self._usage + 1,
            "job_id": 1_000 + self._usage,
            "user": login,
            "account": grant.project,
            "qos": f"guaranteed-{grant.project}",
            "partition": "h200-government",
            "model": "h200",
            "gpus": gpus,
            "started": started,
            "ended": started + timedelta(hours=hours),
            "gpu_seconds": gpus * hours * 3_600,
            "state": "COMPLETED",
            "nodes": _NODES[0],
        }
        pushed = UsagePush(after=self._usage, rows=(UsageRow.model_validate(row),))
        self._usage = self._portal.push(pushed).acknowledged

    def idled(self, grant: PoolGrant, day: date) -> None:
        """Nothing of the grant's was used on a day that is over."""
        row = UseDayRow(
            grant=GrantName(str(grant.id)),
            day=day,
            number=day.toordinal(),
            allocated=0,
            busy=0,
            loaded=0,
            lost=0,
            burst=0,
            peak=0,
        )
        assert self._portal.days(UseDaysPush(rows=(row,))).taken == 1

    def shows(self, grant: PoolGrant, login: str) -> None:
        """What runs: a job of `login` on two nodes, of which one GPU idles, another that waits for the grant's limit,
        and a node that a fault took out."""
        now = self._clock.now()
        whose: dict[str, Any] = {
            "user": UserName(login),
            "tenant": OrganisationName(grant.organisation),
            "project": grant.project,
            "share": ShareName("government"),
            "service": ServiceClass.GUARANTEED,
        }
        runs = SiteJob(
            id=4711, name="kollm-7b", since=now - timedelta(hours=2), until=now + timedelta(hours=6), **whose
        )
        waits = SiteQueued(
            id=4712,
            name="kollm-13b",
            gpus=24,
            submitted=now - timedelta(minutes=12),
            reason="QOSGrpGRES",
            room=SiteRoom(whole=True, nodes=3, gpus_per_node=8, free=1, enough_at=now + timedelta(hours=6)),
            limit=SiteLimit(limit=grant.gpus, in_use=16, below_at=now + timedelta(hours=6)),
            **whose,
        )
        sums = (SiteWaiting(reason=waits.reason, gpus=waits.gpus, minutes=(12,)),)
        cells = Cells.unknown(GPUS)
        cells.state[:], cells.use[:], cells.idle[:] = CellState.FREE, 0, 0
        cells.state[:16], cells.job[:16], cells.use[:16] = CellState.BUSY, 1, 88
        cells.use[3], cells.idle[3] = 0, 45
        cells.state[24:] = CellState.DOWN
        fault = SiteIncident(
            id="inc-1",
            node=_NODES[3],
            gpu=2,
            xid=79,
            headline="XID 79: GPU has fallen off the bus",
            rule="xid-79",
            steps=tuple(
                SiteStep(state=state, at=now - timedelta(minutes=minutes))
                for state, minutes in (
                    (IncidentState.SUSPECT, 50),
                    (IncidentState.DRAINING, 49),
                    (IncidentState.DRAINED, 20),
                    (IncidentState.REPAIRING, 5),
                )
            ),
            hit=(HitJob(id=4709, tenant=OrganisationName(grant.organisation), user=UserName(login)),),
        )
        frame = SiteFrame.of(LAYOUT, now, cells, jobs=(runs,), queue=(waits,), waiting=sums, incidents=(fault,))
        assert self._portal.picture(PicturePush(layout=LAYOUT, frame=frame)).knows_layout
