"""What a site's gpuaasd and the portal say to each other, v1: documents down, usage, reports and pictures up.

The site always calls. Each request is signed with the site's key (`api.signing`), may be lost, repeated or come late,
and changes nothing a second time. Requests forbid unknown fields; of answers the site ignores what it does not know.
"""

from __future__ import annotations

import zlib
from datetime import UTC
from itertools import pairwise
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, Field, JsonValue, model_validator

from slurm_gpuaas.api.models import API, Answer, Request
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.fleet_map import SiteLayout
from slurm_gpuaas.domain.from_portal import MOST_DOCUMENTS
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.logins import MOST_PEOPLE
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    GrantName,
    NodeName,
    PartitionName,
    PoolName,
    QosName,
    ShareName,
    SiteName,
    UserName,
)
from slurm_gpuaas.domain.policy import MOST_GPUS, Day
from slurm_gpuaas.domain.site_frame import SiteFrame
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord

SITES_PATH: Final = f"{API}/sites"
LONGEST_WAIT_S: Final = 55
"""Of a long poll: proxies commonly give up after a minute."""
MOST_ROWS: Final = 1_000
"""Of usage in one request: half a megabyte."""
MOST_NUMBER: Final = 2**53
"""Greatest number that every JSON reader keeps exact."""
MOST_REVISION: Final = 2**40
"""Revisions are seconds since 1970, so none comes near; a site that claims a greater one does not push the portal's to
its end."""
MOST_FINDINGS: Final = 1_000
MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Of a whole set of documents; a site reads no more."""
MAX_REQUEST_BYTES: Final = 4 * 2**20
MAX_PICTURE_BYTES: Final = 32 * 2**20
"""Of a picture once it is unpacked; 957 nodes full of jobs make a third of a megabyte."""
PICTURE_CODING: Final = "deflate"
"""The HTTP content coding of pictures: RFC 9110 means zlib's format by it."""

Number = Annotated[int, Field(ge=0, le=MOST_NUMBER)]
Count = Annotated[int, Field(ge=0, le=MOST_GPUS)]


def documents_path(site: SiteName, *, revision: int, wait: int) -> str:
    return f"{SITES_PATH}/{site}/documents?revision={revision}&wait={wait}"


def usage_path(site: SiteName) -> str:
    return f"{SITES_PATH}/{site}/usage"


def reports_path(site: SiteName) -> str:
    return f"{SITES_PATH}/{site}/reports"


def picture_path(site: SiteName) -> str:
    return f"{SITES_PATH}/{site}/picture"


def days_path(site: SiteName) -> str:
    return f"{SITES_PATH}/{site}/days"


# -- Down --------------------------------------------------------------------------------------------------------------


class SiteDocuments(Answer):
    """The whole newest set, or that the site has it.

    Documents and people are checked one by one by the site, so that one that it cannot read costs only itself.
    """

    revision: int = Field(ge=0, le=MOST_NUMBER, description="0 = nothing was ever said to this site.")
    changed: bool = Field(description="False: the site has this revision, and neither documents nor people follow.")
    documents: tuple[dict[str, JsonValue], ...] = Field(default=(), max_length=MOST_DOCUMENTS)
    people: tuple[dict[str, JsonValue], ...] = Field(default=(), max_length=MOST_PEOPLE)
    now: AwareDatetime = Field(description="The portal's clock.")


# -- Up ----------------------------------------------------------------------------------------------------------------


class UsageRow(Request):
    """A run of a job as the site's accounting has it. The cluster is the site's, which the portal knows by itself."""

    number: int = Field(ge=1, le=MOST_NUMBER, description="Grows with every change of any row of the site.")
    job_id: int = Field(ge=1, le=2**32)
    user: UserName
    account: AccountName
    qos: QosName
    partition: PartitionName
    model: GpuModel | None
    gpus: int = Field(ge=0, le=MOST_GPUS)
    started: AwareDatetime
    ended: AwareDatetime | None
    gpu_seconds: int = Field(ge=0, le=MOST_NUMBER)
    state: str = Field(max_length=40, pattern=r"^[^\x00-\x1f]*$")
    nodes: str = Field(max_length=65_536, pattern=r"^[^\x00-\x20]*$", description="Slurm's host list.")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.ended is not None and self.ended < self.started:
            raise InvalidInput(f"The run of job {self.job_id} ends before it starts.")
        if self.ended is not None and self.gpu_seconds > self.gpus * (self.ended - self.started).total_seconds():
            raise InvalidInput(f"The run of job {self.job_id} has more GPU-seconds than GPUs times seconds.")
        return self

    @classmethod
    def of(cls, change: UsageChange) -> Self:
        one = change.record
        return cls(
            number=change.number,
            job_id=one.job_id,
            user=one.user,
            account=one.account,
            qos=one.qos,
            partition=one.partition,
            model=one.model,
            gpus=one.gpus,
            started=one.started,
            ended=one.ended,
            gpu_seconds=one.gpu_seconds,
            state=one.state,
            nodes=one.nodes,
        )

    def change(self, cluster: ClusterName) -> UsageChange:
        """The change, with the portal's own word on which cluster the site is."""
        record = UsageRecord(
            cluster=cluster,
            job_id=JobId(self.job_id),
            user=self.user,
            account=self.account,
            qos=self.qos,
            partition=self.partition,
            model=self.model,
            gpus=self.gpus,
            started=self.started.astimezone(UTC),
            ended=None if self.ended is None else self.ended.astimezone(UTC),
            gpu_seconds=self.gpu_seconds,
            state=self.state,
            nodes=self.nodes,
        )
        return UsageChange(number=self.number, record=record)


class UsagePush(Request):
    """The site's oldest changes after the one that the portal acknowledged."""

    after: Number = Field(description="What the site takes for acknowledged.")
    rows: tuple[UsageRow, ...] = Field(max_length=MOST_ROWS)

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        numbers = [self.after, *(row.number for row in self.rows)]
        if any(one >= other for one, other in pairwise(numbers)):
            raise InvalidInput("Numbers of usage rows ascend from `after`.")
        return self


class UsageTaken(Answer):
    acknowledged: int = Field(ge=0, le=MOST_NUMBER, description="The site goes on after this change, whatever it sent.")


class UseDayRow(Request):
    """What jobs of a grant did on a Korean day that is over, in GPU-seconds. Told again, the greater number stands."""

    grant: GrantName
    day: Day
    number: Number = Field(description="Of the site's newest change of usage when it was measured.")
    allocated: Number = Field(description="Held by jobs on the grant's own GPUs.")
    busy: Number | None = Field(description="Of it, GPUs that computed; null: too little is known.")
    loaded: Number = Field(description="Of it, GPUs that did not compute and had their memory full.")
    lost: Number = Field(description="What faults and maintenance took of the grant's GPUs.")
    burst: Number = Field(description="Borrowed, beside all that.")
    peak: Count = Field(description="GPUs in use in the busiest hour.")


class UseDaysPush(Request):
    """A grant of which a day is not told was not measured on it."""

    rows: tuple[UseDayRow, ...] = Field(max_length=MOST_ROWS)


class UseDaysTaken(Answer):
    taken: int = Field(ge=0, description="Rows of grants at this site; others are not kept.")


class ShareReport(Request):
    """GPUs of one pool share now. `healthy`: on nodes that can run jobs; the rest is broken, drained or spare."""

    pool: PoolName
    share: ShareName
    model: GpuModel
    granted: Count = Field(description="Guaranteed by grants in force.")
    capacity: Count = Field(description="Every node healthy, less spares.")
    healthy: Count
    guaranteed: Count = Field(description="In use, guaranteed.")
    burst: Count = Field(description="In use, borrowed.")


class IncidentReport(Request):
    """An incident that is open, or was closed in the last days."""

    id: str = Field(max_length=40, pattern=r"^[A-Za-z0-9._:-]+$")
    node: NodeName
    state: IncidentState
    opened_at: AwareDatetime
    closed_at: AwareDatetime | None
    title: str = Field(max_length=200)


class Finding(Request):
    """Something of the portal's that the site did not take, and why."""

    kind: str = Field(max_length=40)
    name: str = Field(max_length=200)
    why: str = Field(max_length=500)


class SiteReport(Request):
    """How the site is now. The newest one stands; `sent_at` is the site's clock."""

    sent_at: AwareDatetime
    cluster: ClusterName
    version: str = Field(max_length=40)
    slurm_version: str = Field(max_length=40)
    revision: Number = Field(description="Of the documents that the site holds.")
    used_through: AwareDatetime | None = Field(
        default=None, description="All runs up to then are in the usage that the portal has; null: not known."
    )
    shares: tuple[ShareReport, ...] = Field(max_length=200)
    incidents: tuple[IncidentReport, ...] = Field(max_length=MOST_FINDINGS)
    findings: tuple[Finding, ...] = Field(max_length=MOST_FINDINGS)


class ReportTaken(Answer):
    now: AwareDatetime = Field(description="The portal's clock.")


class PicturePush(Request):
    """What runs at the site now (`domain.site_frame`). The newest frame stands; one that is sent again, or comes after
    a newer one, changes nothing. The layout goes with it until the portal has said that it knows it."""

    layout: SiteLayout | None = None
    frame: SiteFrame

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.layout is not None and (self.layout.name, self.layout.number) != (self.frame.site, self.frame.layout):
            raise InvalidInput("The frame is not of the layout that comes with it.")
        return self

    def packed(self) -> bytes:
        return zlib.compress(self.model_dump_json(exclude_defaults=True).encode(), 6)

    @classmethod
    def unpacked(cls, data: bytes) -> Self:
        """
        Raises:
            InvalidInput: it is not packed like that, or unpacks to more than `MAX_PICTURE_BYTES`.
            ValidationError: it is no such push.
        """
        unpacking = zlib.decompressobj()
        try:
            text = unpacking.decompress(data, MAX_PICTURE_BYTES)
        except zlib.error as error:
            raise InvalidInput(f"The picture cannot be unpacked: {error}.") from None
        if not unpacking.eof:
            raise InvalidInput(f"The picture is cut off, or larger than {MAX_PICTURE_BYTES} bytes.")
        return cls.model_validate_json(text)


class PictureTaken(Answer):
    knows_layout: bool = Field(description="False: nothing was taken; send the frame again with its layout.")
    newest: AwareDatetime | None = Field(description="Moment of the newest frame that the portal has.")
    now: AwareDatetime = Field(description="The portal's clock.")
