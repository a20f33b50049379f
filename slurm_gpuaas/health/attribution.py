"""Whose fault: the hardware's, or that of one job that meets the same error wherever it runs. Pure.

An agent cannot say which job a process belonged to, so an event carries all jobs that ran on its node. A job is named
only when there is no doubt: it was alone on the nodes, or it is the only job that all of them have in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.catalogue import FaultClass
from slurm_gpuaas.health.triage import DRAINING_VERDICTS, Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class AtFault:
    """One job that `nodes` have in common, the events that say so, and their codes."""

    job: JobId
    codes: tuple[int, ...]
    nodes: tuple[NodeName, ...]
    event_ids: frozenset[str]


def jobs_at_fault(sightings: Iterable[Sighting], nodes: int) -> Sequence[AtFault]:
    """Jobs that met the same application error on so many nodes or more, one entry a job and code."""
    by_code: defaultdict[int, list[Sighting]] = defaultdict(list)
    for one in sightings:
        if one.verdict.fault_class is FaultClass.APP and not one.verdict.by_driver:
            by_code[one.event.code].append(one)
    return tuple(found for code in sorted(by_code) for found in _in_common(by_code[code], nodes))


def jobs_that_kill_nodes(sightings: Iterable[Sighting], nodes: int) -> Sequence[AtFault]:
    """Jobs under which the hardware of so many nodes or more failed. Which is to blame is for a person to say."""
    return _in_common([one for one in sightings if one.verdict.drain in DRAINING_VERDICTS], nodes)


def _in_common(sightings: Sequence[Sighting], nodes: int) -> Sequence[AtFault]:
    with_job: defaultdict[JobId, list[Sighting]] = defaultdict(list)
    for one in sightings:
        for job in one.jobs:
            with_job[job].append(one)
    found = []
    for job, theirs in sorted(with_job.items()):
        certain = [one for one in theirs if one.jobs == (job,)]
        if len({one.event.node for one in certain}) < nodes:
            common = set.intersection(*({*one.jobs} for one in theirs))
            certain = theirs if common == {job} else []
        names = sorted({one.event.node for one in certain})
        if len(names) >= nodes:
            found.append(
                AtFault(
                    job=job,
                    codes=tuple(sorted({one.event.code for one in certain})),
                    nodes=tuple(names),
                    event_ids=frozenset(one.event.event_id for one in certain),
                )
            )
    return found
