"""What a health report says. Spans are seconds, use is GPU-seconds, ratios are 0 to 1; None is "not known"."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName


class Figures(BaseModel):
    model_config = ConfigDict(frozen=True)


_Span = Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(days=7))]


class CheckpointTerms(Figures):
    """What is assumed of jobs where nobody measures it. Meta's ETTR needs the three (arXiv 2410.21680)."""

    model_config = ConfigDict(frozen=True, ser_json_timedelta="float")

    interval: _Span = Field(default=timedelta(hours=1), description="Between two checkpoints, in seconds.")
    write: _Span = Field(default=timedelta(seconds=30), description="That one checkpoint stops the job, in seconds.")
    restart: _Span = Field(
        default=timedelta(minutes=5), description="From the start of a run to its first new step, in seconds."
    )


class Spread(Figures):
    """How long a stage took, of those incidents of which both its ends are known."""

    known: int
    unknown: int = Field(description="Incidents whose stage is not over or was not seen.")
    mean_s: float | None = Field(description="Means of the stages add up where all of them are known.")
    median_s: float | None
    p90_s: float | None = Field(description="Nearest rank.")


class Stages(Figures):
    """Parts of the time to repair, by incident."""

    detect: Spread = Field(description="First event on the node to the incident.")
    drain: Spread = Field(description="Incident to the node out of service for new jobs.")
    empty: Spread = Field(description="From there until nothing ran on the node any more.")
    replace: Spread = Field(description="Node out of service to the last job that was requeued running again.")
    repair: Spread = Field(description="Nothing runs to the beginning of the verification that passed, or the return.")
    verify: Spread = Field(description="From there to the node back in service, on probation or for good.")
    whole: Spread = Field(description="First event to the node back in service: the time to repair.")


class Availability(Figures):
    """Node-seconds of the time in which nodes were watched."""

    since: AwareDatetime
    total: float
    fault: float
    person: float = Field(description="Drained by people.")
    planned: float = Field(description="Maintenance, reboots that were asked for, powered down.")
    ratio: float | None = Field(description="In service, of the total.")
    ratio_unplanned: float | None = Field(description="The same where only faults count as being out of service.")


class ClassFigures(Figures):
    fault_class: str
    incidents: int
    drained: int = Field(description="Of them, those that took their node out of service.")
    requeued: int = Field(description="Jobs that were requeued for them.")


class NodeFigures(Figures):
    node: NodeName
    faults: int
    out_s: float = Field(description="Out of service for faults.")


class FleetFigures(Figures):
    nodes: int = Field(description="With GPUs, as Slurm's inventory is now.")
    gpus: int
    incidents: int = Field(description="Opened in the time asked for.")
    faults: int = Field(description="That took a node out of service, with those that no event announced.")
    unannounced: int = Field(description="Of them: nodes that were down, or drained by Slurm, without an incident.")
    availability: Availability | None
    mtbf_s: float | None = Field(description="Node-seconds in service a fault.")
    failures_per_1000_node_days: float | None
    stages: Stages
    capacity_lost: float = Field(description="GPU-seconds of nodes out of service for faults.")
    by_class: tuple[ClassFigures, ...]
    worst_nodes: tuple[NodeFigures, ...]
    spares_used: int | None = Field(description="Nodes that took a failed one's place; null where none is recorded.")


class JobFigures(Figures):
    """A job that faults interrupted. The work lost lies between two bounds: nothing, when it had just written a
    checkpoint, and the whole interrupted run."""

    job: JobId
    project: str
    gpus: int
    interruptions: int
    ran: float = Field(description="GPU-seconds of its runs.")
    waited_s: float | None = Field(description="Between an interruption and the next run; null while it waits.")
    lost_expected: float = Field(description="GPU-seconds, by the assumptions on checkpoints.")
    lost_most: float
    ettr_least: float
    ettr_most: float
    ettr_expected: float | None = Field(description="Meta's formula for its size; null without a failure rate.")
    best_interval_s: float | None = Field(
        description="Checkpoint interval that would lose least at the measured failure rate."
    )


class TenantFigures(Figures):
    project: str
    used: float = Field(description="GPU-seconds of runs that overlap the time asked for; each counts whole.")
    interrupted_jobs: int
    interruptions: int
    lost_expected: float
    lost_most: float
    preempted: float = Field(description="GPU-seconds of own runs that ended to make room for a job that a fault hit.")
    ettr_expected: float | None = Field(
        description="Meta's formula over its runs, weighted by use; null without a failure rate."
    )


class HealthReport(Figures):
    start: AwareDatetime
    end: AwareDatetime
    as_of: datetime
    terms: CheckpointTerms
    fleet: FleetFigures | None = Field(description="For administrators.")
    tenants: tuple[TenantFigures, ...]
    jobs: tuple[JobFigures, ...] = Field(description="That lost most.")
    unknown: tuple[str, ...] = Field(description="What is not known, one sentence each.")
