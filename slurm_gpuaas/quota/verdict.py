"""What the job_submit hook may decide from: the policy of this moment as lines of text. Pure.

Format (read by `plugins/job_submit.lua`): a first line `gpuaas-snapshot 3 <written, epoch seconds> <SHA-256 of the
rest>`, then records of tab-separated fields, `-` for what is not limited or does not exist:

    cluster    name, GPUs of a node (of the first pool)
    partition  name, GPU model, GPUs of a node, longest wall time in minutes, GPUs
    gate       licence that guaranteed jobs get, so that gpuaasd decides who gives way for them (absent: no gate), and
               `segments` where Slurm takes a given set of nodes only with --segment
    bypass     user whom the hook lets pass
    limited    most nodes of a job that gets one of these nodes, and their names (comma-separated)

and then what the hook looks up by name, in as many buckets as a last line of the head says:

    index      buckets

followed by one line of nine digits for each bucket, and one more: where in the records its own begin, in bytes from the
first record on. The records of a bucket are sorted as lines:

    member     user, default project, all projects of this user (comma-separated)
    project    name, guaranteed QOS, burst QOS, partition, GPU model, guaranteed GPUs, borrow limit, most GPUs of a job,
               longest wall time in minutes, GPU-minutes of the budget left, begin and end of the grant (epoch seconds),
               active | expired | future, and where the daemon knows: GPUs in use as guaranteed, GPUs in use as burst,
               GPUs it may start as burst now

A name's bucket is `bucket_of`: a lookup costs the hook one short read at any number of projects. Writing is linear in
projects and members.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from types import MappingProxyType
from typing import Final

from slurm_gpuaas.domain.names import ClusterName, NodeName, ProjectName, UserName
from slurm_gpuaas.domain.node_life import NodeLimit, smallest
from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.slurm_accounts import guaranteed_qos
from slurm_gpuaas.quota.desired import NO_BUDGETS, burst_of, default_projects
from slurm_gpuaas.quota.entitlement import Entitlement, entitlements

ADMINISTRATORS = (UserName("root"), UserName("slurm"), UserName("gpuaas"))
"""Users whom the hook lets pass: Slurm's, ours and root."""

RECORDS_IN_A_BUCKET: Final = 2
"""On average: fewer make the index longer than what it saves to read."""
HASH_PRIME: Final = 2**31 - 1
HASH_FACTOR: Final = 1_000_003
"""Mixes all characters into all bits: 256 is a power of two modulo this prime, so that without it a bucket number with
many factors of two would hang on a few characters. This times any number below the prime is one that a double holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a project has in use now, in GPUs, and how many it may start as burst right now."""

    guaranteed_in_use: int
    burst_in_use: int
    may_borrow: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The placement gate: its licence, and whether jobs that are given nodes there must name segments
    (topology/block refuses sets of nodes without)."""

    license: str
    segments: bool = False


NOBODY_KNOWS: Final[Mapping[ProjectName, Standing]] = MappingProxyType({})


def body(
    policy: Policy,
    cluster: ClusterName,
    moment: datetime,
    *,
    left: Mapping[ProjectName, int | None] = NO_BUDGETS,
    bypass: Iterable[UserName] = ADMINISTRATORS,
    gate: Gate | None = None,
    standing: Mapping[ProjectName, Standing] = NOBODY_KNOWS,
    limits: Iterable[NodeLimit] = (),
) -> str:
    """All records.

    Args:
        left: GPU-minutes that a new job of each project with a budget may ask for
            (`domain.budgets.Budget.startable_minutes`).
        gate: None sends no job there.
        standing: what projects use now; no advice is given to jobs of a project that is absent.
        limits: of nodes that are kept from large jobs.
    """
    entitled = entitlements(policy, cluster, moment)
    looked_up = (*_members(policy, entitled), *(_project(one, left, standing) for one in entitled))
    return laid_out((*_head(policy, cluster, bypass, gate), *_limited(limits)), looked_up)


def laid_out(head: Iterable[Sequence[str]], looked_up: Iterable[Sequence[str]]) -> str:
    """The text of records: the head as given, an index, and what it leads to by the first two fields."""
    lines = sorted(("\t".join(record), f"{record[0]}\t{record[1]}") for record in looked_up)
    buckets: list[list[str]] = [[] for _ in range(len(lines) // RECORDS_IN_A_BUCKET + 1)]
    for line, key in lines:
        buckets[bucket_of(key, len(buckets))].append(f"{line}\n")
    texts = ["".join(bucket) for bucket in buckets]
    ends = accumulate((len(text.encode()) for text in texts), initial=0)
    first = "".join("\t".join(record) + "\n" for record in (*head, ("index", str(len(buckets)))))
    return first + "".join(f"{end:09d}\n" for end in ends) + "".join(texts)


def bucket_of(key: str, buckets: int) -> int:
    """Bucket of a key, `kind<tab>name`: its bytes as one number, in a way that Lua's doubles can go too."""
    return int.from_bytes(key.encode()) % HASH_PRIME * HASH_FACTOR % HASH_PRIME % buckets


def stamped(text: str, written: datetime) -> str:
    """The whole file: first line and body."""
    return f"gpuaas-snapshot 3 {_epoch(written)} {_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _head(
    policy: Policy, cluster: ClusterName, bypass: Iterable[UserName], gate: Gate | None
) -> Iterator[tuple[str, ...]]:
    pools = [pool for pool in policy.pools if pool.cluster == cluster]
    yield "cluster", cluster, str(pools[0].gpus_per_node if pools else 0)
    for pool in pools:
        for share in pool.shares:
            gpus = len(share.node_names) * pool.gpus_per_node
            name = pool.partition_of(share.name)
            yield "partition", name, pool.model, str(pool.gpus_per_node), _minutes(pool.max_time), str(gpus)
    if gate is not None:
        yield ("gate", gate.license, "segments") if gate.segments else ("gate", gate.license)
    for user in sorted(set(bypass)):
        yield "bypass", user


def _limited(limits: Iterable[NodeLimit]) -> Iterator[tuple[str, ...]]:
    names = defaultdict[int, list[NodeName]](list)
    for limit in smallest(limits).values():
        names[limit.largest_job].append(limit.node)
    for largest, nodes in sorted(names.items()):
        yield "limited", str(largest), ",".join(sorted(nodes))


def _members(policy: Policy, entitled: Sequence[Entitlement]) -> Iterator[tuple[str, ...]]:
    projects = defaultdict[UserName, list[ProjectName]](list)
    for one in entitled:
        for member in policy.members_of(one.name):
            projects[member.user].append(one.name)
    for user, default in default_projects(policy, entitled).items():
        yield "member", user, default, ",".join(sorted(set(projects[user])))


def _project(
    one: Entitlement, left: Mapping[ProjectName, int | None], standing: Mapping[ProjectName, Standing]
) -> tuple[str, ...]:
    return (
        "project",
        one.name,
        guaranteed_qos(one.name),
        burst_of(one) if one.may_borrow else "-",
        one.partition,
        one.pool.model,
        str(one.gpus),
        _limit(one.borrow_limit),
        _limit(one.max_gpus_per_job),
        "-" if one.max_time is None else _minutes(min(one.max_time, one.pool.max_time)),
        _limit(left.get(one.name)),
        _epoch(one.starts_at),
        _epoch(one.ends_at),
        one.state.value,
        *_standing(standing.get(one.name)),
    )


def _standing(now: Standing | None) -> tuple[str, ...]:
    return () if now is None else (str(now.guaranteed_in_use), str(now.burst_in_use), str(now.may_borrow))


def _limit(limit: int | None) -> str:
    return "-" if limit is None else str(limit)


def _minutes(span: timedelta) -> str:
    return str(int(span.total_seconds() // 60))


def _epoch(moment: datetime) -> str:
    return str(int(moment.timestamp()))
