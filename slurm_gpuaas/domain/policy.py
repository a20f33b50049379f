"""The declared state: organisations, projects, members, pools and grants, as documents a person writes in YAML.

Documents are validated one by one (shape) by pydantic and together (references, sums) by `Policy.of`. Quantities keep
three different things apart everywhere: *absent* (`None`: not said), *zero* (nothing) and a number.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from itertools import combinations, pairwise
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    field_validator,
    model_validator,
)

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.money import Price
from slurm_gpuaas.domain.names import (
    ClusterName,
    GpuModel,
    GrantName,
    NodeName,
    OrganisationName,
    PartitionName,
    PoolName,
    ProjectName,
    RateName,
    ShareName,
    UserName,
)

KST = ZoneInfo("Asia/Seoul")
"""Days of grants and months of statements are Korean days and months."""

FIRST_DAY = date(2000, 1, 1)
LAST_DAY = date(9999, 12, 30)
"""The calendar ends a day later; a grant to 9999-12-31, which people write for no end, is in force until then."""
SHORTEST_JOB = timedelta(minutes=1)
LONGEST_JOB = timedelta(days=366)
LONGEST_GRACE = timedelta(hours=1)
LONGEST_MIN_RUN = timedelta(days=7)
MOST_WEIGHT = 1_000_000
MOST_PRIORITY = 1_000
MOST_GPUS = 100_000
MOST_GPU_HOURS = 1_000_000_000
MOST_WON = 1_000_000_000_000_000
MOST_WON_PER_GPU_HOUR = 10_000_000


def _wall_time(value: timedelta) -> timedelta:
    if not SHORTEST_JOB <= value <= LONGEST_JOB:
        raise InvalidInput(
            f"{value} is no wall time of a job: it is from 1 minute to {LONGEST_JOB.days} days.",
            way_out="Write P2D or PT12H (ISO 8601); a bare number counts seconds.",
        )
    return value


def _span_up_to(most: timedelta) -> AfterValidator:
    def check(value: timedelta) -> timedelta:
        if not timedelta(0) <= value <= most or value % timedelta(seconds=1):
            raise InvalidInput(
                f"{value} is not from 0 to {most} in whole seconds.", way_out="Write e.g. PT30S or PT10M."
            )
        return value

    return AfterValidator(check)


def _day(value: date) -> date:
    if value < FIRST_DAY:
        raise InvalidInput(f"{value} is before {FIRST_DAY}.", way_out="Write a day such as 2027-01-31.")
    return value


Weight = Annotated[int, Field(ge=0, le=MOST_WEIGHT, description="Part of idle GPUs among equals in priority.")]
Priority = Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="Higher gets idle GPUs first.")]
WallTime = Annotated[timedelta, AfterValidator(_wall_time)]
Day = Annotated[date, AfterValidator(_day)]


def _hundredths(value: Decimal) -> Decimal:
    """One spelling for one number: 2.50 is 2.5."""
    return Decimal(int(value * 100)) / 100


def _as_number(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)


Percent = Annotated[
    Decimal,
    Field(ge=0, le=100, decimal_places=2),
    AfterValidator(_hundredths),
    PlainSerializer(_as_number, return_type=int | float, when_used="json"),
]
"""0 to 100; hundredths, because half of 5 % is 2.5 %."""


class Document(BaseModel):
    """A policy document: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Organisation(Document):
    kind: Literal["Organisation"] = "Organisation"
    name: OrganisationName
    title: str = Field(default="", max_length=200, description="Name for people, any script.")
    weight: Weight = 1
    priority: Priority = 0


class Project(Document):
    kind: Literal["Project"] = "Project"
    name: ProjectName
    organisation: OrganisationName
    title: str = Field(default="", max_length=200)


class Role(StrEnum):
    RESEARCHER = "researcher"
    TENANT_ADMIN = "tenant-admin"


class Member(Document):
    """A user of a project."""

    kind: Literal["Member"] = "Member"
    project: ProjectName
    user: UserName
    role: Role = Role.RESEARCHER


class Share(Document):
    """Part of a pool under one owner; becomes one Slurm partition.

    `nodes` is a folded node list as Slurm writes it, e.g. `b200-[001-096]`.
    """

    name: ShareName
    nodes: str = Field(max_length=10_000)
    partition: PartitionName | None = Field(default=None, description="Partition name; by default `<pool>-<share>`.")
    spares: int = Field(default=0, ge=0, le=MOST_GPUS, description="Nodes that stand in for failed ones; not granted.")

    @field_validator("nodes")
    @classmethod
    def _is_node_list(cls, value: str) -> str:
        expand_nodes(value)
        return value

    @cached_property
    def node_names(self) -> tuple[NodeName, ...]:
        return expand_nodes(self.nodes)


class Pool(Document):
    """GPUs of one model in one cluster, split into shares."""

    kind: Literal["Pool"] = "Pool"
    name: PoolName
    cluster: ClusterName
    model: GpuModel
    gpus_per_node: int = Field(default=8, ge=1, le=64)
    max_time: WallTime = Field(default=timedelta(days=7), description="Longest wall time of a job.")
    min_run: Annotated[timedelta, _span_up_to(LONGEST_MIN_RUN)] = Field(
        default=timedelta(0), description="A burst job keeps its GPUs at least so long."
    )
    grace: Annotated[timedelta, _span_up_to(LONGEST_GRACE)] = Field(
        default=timedelta(seconds=20), description="From a burst job's signal to its end: time for a checkpoint."
    )
    shares: tuple[Share, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _shares_are_disjoint(self) -> Self:
        seen: dict[NodeName, ShareName] = {}
        for share in self.shares:
            if [other.name for other in self.shares].count(share.name) > 1:
                raise InvalidInput(f"Pool {self.name} has two shares named {share.name}.", way_out="Rename one.")
            for node in share.node_names:
                if node in seen:
                    raise InvalidInput(
                        f"Node {node} is in share {seen[node]} and in share {share.name} of pool {self.name}.",
                        way_out="A node belongs to one share: take it out of one of them.",
                    )
                seen[node] = share.name
        return self

    def share(self, name: ShareName) -> Share:
        return next(share for share in self.shares if share.name == name)

    def capacity(self, share: ShareName) -> int:
        """GPUs of the share that can be granted: every node healthy, less spares."""
        there = self.share(share)
        return max(0, len(there.node_names) - there.spares) * self.gpus_per_node

    def partition_of(self, share: ShareName) -> PartitionName:
        return self.share(share).partition or PartitionName(f"{self.name}-{share}")


class Rate(Document):
    """Market price of a GPU-hour of one model, from a Korean day until the next rate of that model.

    `basis` says what the price rests on (notice, contract, decision): no rate of a public programme is known by itself.
    """

    kind: Literal["Rate"] = "Rate"
    name: RateName
    model: GpuModel
    won_per_gpu_hour: int = Field(ge=0, le=MOST_WON_PER_GPU_HOUR)
    burst_discount: Percent = Field(default=Decimal(0), description="Percent off for borrowed GPUs.")
    starts: Day
    basis: str = Field(min_length=1, max_length=500)

    @property
    def starts_at(self) -> datetime:
        return datetime.combine(self.starts, time(), KST)


class BudgetPeriod(StrEnum):
    """How long a budget lasts: the grant, or each Korean calendar month or quarter of it."""

    GRANT = "grant"
    MONTH = "month"
    QUARTER = "quarter"


class Grant(Document):
    """GPUs of one model, in one pool share, for a project, from a day to a day (both included, Korean days).

    `gpus` are guaranteed. `borrow_limit` bounds what is used on top of them, `lend_limit` what others may use of them
    while they are idle: absent = no bound, 0 = none.
    """

    kind: Literal["Grant"] = "Grant"
    name: GrantName
    project: ProjectName
    pool: PoolName
    share: ShareName
    gpus: int = Field(ge=0, le=MOST_GPUS)
    borrow_limit: int | None = Field(default=None, ge=0, le=MOST_GPUS)
    lend_limit: int | None = Field(default=None, ge=0, le=MOST_GPUS)
    weight: Weight = 1
    priority: Priority = 0
    starts: Day
    ends: Day
    budget_gpu_hours: int | None = Field(default=None, ge=0, le=MOST_GPU_HOURS, description="Absent = no budget.")
    budget_won: int | None = Field(default=None, ge=0, le=MOST_WON, description="Absent = no budget in Won.")
    budget_period: BudgetPeriod = Field(default=BudgetPeriod.GRANT, description="What the budgets are for.")
    carry_over: int = Field(
        default=0, ge=0, le=100, description="Percent of a period's budget that may go over unused."
    )
    grace: int = Field(default=0, ge=0, le=100, description="Percent above the budget that may still be used.")
    price_percent: Percent = Field(default=Decimal(100), description="Part of the market price that is charged.")
    max_gpus_per_job: int | None = Field(default=None, ge=1, le=MOST_GPUS)
    max_time: WallTime | None = Field(default=None, description="Longest wall time of a job; absent = the pool's.")

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        if self.ends < self.starts:
            raise InvalidInput(
                f"Grant {self.name} ends {self.ends}, before it starts {self.starts}.", way_out="Swap the days."
            )
        return self

    @model_validator(mode="after")
    def _budget_rules_have_a_budget(self) -> Self:
        if not self.has_budget and self.budget_rules != NO_BUDGET_RULES:
            raise InvalidInput(
                f"Grant {self.name} has budget_period, carry_over or grace and no budget.",
                way_out="Add budget_gpu_hours or budget_won, or take them out.",
            )
        if self.carry_over and self.budget_period is BudgetPeriod.GRANT:
            raise InvalidInput(
                f"Grant {self.name} carries {self.carry_over} % over, but its budget is for the whole grant.",
                way_out="Give it budget_period month or quarter.",
            )
        return self

    @property
    def has_budget(self) -> bool:
        return self.budget_gpu_hours is not None or self.budget_won is not None

    @property
    def budget_rules(self) -> tuple[BudgetPeriod, int, int]:
        return self.budget_period, self.carry_over, self.grace

    def overlaps(self, other: Grant) -> bool:
        return self.starts <= other.ends and other.starts <= self.ends

    def active_at(self, moment: datetime) -> bool:
        return self.starts_at <= moment < self.ends_at

    @property
    def starts_at(self) -> datetime:
        return datetime.combine(self.starts, time(), KST)

    @property
    def ends_at(self) -> datetime:
        """First moment after the grant."""
        return datetime.combine(min(self.ends, LAST_DAY) + timedelta(days=1), time(), KST)


NO_BUDGET_RULES = (BudgetPeriod.GRANT, 0, 0)

PolicyDocument = Annotated[Organisation | Project | Member | Pool | Rate | Grant, Field(discriminator="kind")]
DOCUMENT: TypeAdapter[Organisation | Project | Member | Pool | Rate | Grant] = TypeAdapter(PolicyDocument)


class Policy(BaseModel):
    """A whole, consistent policy. Build it with `Policy.of`; its tuples are sorted, so equal policies compare equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    organisations: tuple[Organisation, ...] = ()
    projects: tuple[Project, ...] = ()
    members: tuple[Member, ...] = ()
    pools: tuple[Pool, ...] = ()
    rates: tuple[Rate, ...] = ()
    grants: tuple[Grant, ...] = ()

    @classmethod
    def of(cls, documents: Iterable[PolicyDocument]) -> Policy:
        """Sort documents into a policy and check references.

        Raises:
            InvalidInput: two documents of one name, or one that names what does not exist; all faults in one message.
        """
        documents = sorted(documents, key=_key)
        policy = cls.model_construct(
            organisations=tuple(d for d in documents if isinstance(d, Organisation)),
            projects=tuple(d for d in documents if isinstance(d, Project)),
            members=tuple(d for d in documents if isinstance(d, Member)),
            pools=tuple(d for d in documents if isinstance(d, Pool)),
            rates=tuple(d for d in documents if isinstance(d, Rate)),
            grants=tuple(d for d in documents if isinstance(d, Grant)),
        )
        faults = [*policy._duplicates(), *policy._dangling(), *policy._conflicts()]
        if faults:
            raise InvalidInput(" ".join(faults), way_out="Nothing was changed; correct the documents and apply again.")
        return policy

    @property
    def documents(self) -> tuple[PolicyDocument, ...]:
        return (*self.organisations, *self.projects, *self.members, *self.pools, *self.rates, *self.grants)

    @cached_property
    def pool_by_name(self) -> Mapping[PoolName, Pool]:
        return {pool.name: pool for pool in self.pools}

    @cached_property
    def project_by_name(self) -> Mapping[ProjectName, Project]:
        return {project.name: project for project in self.projects}

    def members_of(self, project: ProjectName) -> tuple[Member, ...]:
        return self._members_by_project.get(project, ())

    def grants_of(self, project: ProjectName) -> tuple[Grant, ...]:
        return self._grants_by_project.get(project, ())

    @cached_property
    def _members_by_project(self) -> Mapping[ProjectName, tuple[Member, ...]]:
        grouped: dict[ProjectName, list[Member]] = defaultdict(list)
        for member in self.members:
            grouped[member.project].append(member)
        return {project: tuple(members) for project, members in grouped.items()}

    @cached_property
    def _grants_by_project(self) -> Mapping[ProjectName, tuple[Grant, ...]]:
        grouped: dict[ProjectName, list[Grant]] = defaultdict(list)
        for grant in self.grants:
            grouped[grant.project].append(grant)
        return {project: tuple(grants) for project, grants in grouped.items()}

    def rate_at(self, model: GpuModel, moment: datetime) -> Rate | None:
        """The newest rate of the model that has begun."""
        begun = [rate for rate in self._rates_by_model.get(model, ()) if rate.starts_at <= moment]
        return begun[-1] if begun else None

    def price_at(self, account: str, cluster: ClusterName, model: GpuModel, moment: datetime) -> Price | None:
        """What a run of the account that starts then costs; None where the model has no rate.

        The percentage is that of the project's newest grant on the cluster that has begun; without one, all of it.
        """
        rate = self.rate_at(model, moment)
        if rate is None:
            return None
        project = ProjectName.as_slurm_says(account)
        begun = [g for g in self.grants_of(project) if g.starts_at <= moment and self._cluster_of(g) == cluster]
        newest = max(begun, key=lambda grant: (grant.starts, grant.ends), default=None)
        return Price.of(
            rate.won_per_gpu_hour,
            burst_discount=rate.burst_discount,
            price_percent=Decimal(100) if newest is None else newest.price_percent,
        )

    @cached_property
    def _rates_by_model(self) -> Mapping[GpuModel, tuple[Rate, ...]]:
        grouped: dict[GpuModel, list[Rate]] = defaultdict(list)
        for rate in sorted(self.rates, key=lambda rate: rate.starts):
            grouped[rate.model].append(rate)
        return {model: tuple(rates) for model, rates in grouped.items()}

    def overcommitted(self, moment: datetime) -> tuple[str, ...]:
        """Shares whose guarantees pass their capacity now or at the start of a later grant, one sentence each."""
        grants: dict[tuple[PoolName, ShareName], list[Grant]] = defaultdict(list)
        for grant in self.grants:
            if grant.ends_at > moment:
                grants[grant.pool, grant.share].append(grant)
        return tuple(
            sentence
            for (pool, share), given in sorted(grants.items())
            if (sentence := self._overcommitted(self.pool_by_name[pool], share, given, moment)) is not None
        )

    def _overcommitted(self, pool: Pool, share: ShareName, grants: list[Grant], moment: datetime) -> str | None:
        """The sum rises only where a grant starts, so those moments are enough. O(grants x log grants)."""
        changes = [(max(grant.starts_at, moment), grant.gpus) for grant in grants]
        changes += [(grant.ends_at, -grant.gpus) for grant in grants]
        promised = 0
        for at, gpus in sorted(changes):  # at one moment, what ends goes first
            promised += gpus
            if promised > pool.capacity(share):
                spares = pool.share(share).spares
                less = f" (without {spares} spare nodes)" if spares else ""
                when = "now" if at == moment else f"from {at.astimezone(KST).date()} on"
                return (
                    f"Share {share} of pool {pool.name} has {pool.capacity(share)} GPUs{less}; "
                    f"{promised} are guaranteed {when}."
                )
        return None

    def _duplicates(self) -> list[str]:
        keys = Counter((d.kind, *_key(d)) for d in self.documents)
        return [f"{kind} {'/'.join(key)} is declared {n} times." for (kind, *key), n in sorted(keys.items()) if n > 1]

    def _dangling(self) -> list[str]:
        organisations = {organisation.name for organisation in self.organisations}
        faults = [
            f"Project {p.name} names organisation {p.organisation}, which is not declared."
            for p in self.projects
            if p.organisation not in organisations
        ]
        faults += [
            f"Member {m.user} names project {m.project}, which is not declared."
            for m in self.members
            if m.project not in self.project_by_name
        ]
        for grant in self.grants:
            if grant.project not in self.project_by_name:
                faults.append(f"Grant {grant.name} names project {grant.project}, which is not declared.")
            pool = self.pool_by_name.get(grant.pool)
            if pool is None:
                faults.append(f"Grant {grant.name} names pool {grant.pool}, which is not declared.")
            elif grant.share not in {share.name for share in pool.shares}:
                names = ", ".join(share.name for share in pool.shares)
                faults.append(f"Grant {grant.name} names share {grant.share}; pool {pool.name} has {names}.")
            if pool and grant.budget_won is not None and self.rate_at(pool.model, grant.starts_at) is None:
                faults.append(
                    f"Grant {grant.name} has a budget in Won, but model {pool.model} has no Rate on {grant.starts}."
                )
        return faults

    def _conflicts(self) -> list[str]:
        """Grants of one project that cannot be told apart in Slurm."""
        faults: list[str] = []
        partitions: Counter[tuple[ClusterName, PartitionName]] = Counter(
            (pool.cluster, pool.partition_of(share.name)) for pool in self.pools for share in pool.shares
        )
        faults += [
            f"Partition {p} of cluster {c} is used by {n} shares." for (c, p), n in sorted(partitions.items()) if n > 1
        ]
        owner: dict[tuple[ClusterName, NodeName], PoolName] = {}
        for pool in self.pools:
            for share in pool.shares:
                for node in share.node_names:
                    other = owner.setdefault((pool.cluster, node), pool.name)
                    if other != pool.name:
                        faults.append(f"Node {node} of cluster {pool.cluster} is in pools {other} and {pool.name}.")
        faults += [
            f"Rates {one.name} and {two.name} of model {model} both start on {one.starts}."
            for model, rates in sorted(self._rates_by_model.items())
            for one, two in pairwise(rates)
            if one.starts == two.starts
        ]
        faults += [
            fault
            for project in self.projects
            for one, two in combinations(self.grants_of(project.name), 2)
            for fault in self.clashes(one, two)
        ]
        return faults

    def clashes(self, one: Grant, two: Grant) -> list[str]:
        """Why two grants of one project cannot stand side by side: its Slurm account stands under one share, and it is
        charged at one price and under one set of rules at a time. Empty = they can."""
        cluster = self._cluster_of(one)
        if cluster is None or cluster != self._cluster_of(two) or not one.overlaps(two):
            return []
        faults = []
        if (one.pool, one.share) != (two.pool, two.share):
            faults.append(
                f"Grants {one.name} and {two.name} give project {one.project} two shares of cluster {cluster} at once; "
                "its Slurm account can stand under one share only."
            )
        if one.price_percent != two.price_percent:
            faults.append(
                f"Grants {one.name} and {two.name} of project {one.project} overlap and differ in price_percent."
            )
        if one.has_budget and two.has_budget and one.budget_rules != two.budget_rules:
            faults.append(
                f"Grants {one.name} and {two.name} of project {one.project} overlap and differ in budget_period, "
                "carry_over or grace; their budgets are one."
            )
        return faults

    def _cluster_of(self, grant: Grant) -> ClusterName | None:
        pool = self.pool_by_name.get(grant.pool)
        return pool.cluster if pool else None


def _key(document: PolicyDocument) -> tuple[str, ...]:
    return (document.project, document.user) if isinstance(document, Member) else (document.name,)


MOST_NODES = 100_000
"""A node list may name no more: it may come from anybody, and a few characters could name a billion."""


def _largest_size(folded: str) -> int:
    """How many names a node list has at most, without unfolding it."""
    total, product, ranges = 0, 1, 0
    for part in re.split(r"([\[\],])", folded):
        if part == "[":
            ranges = 1
        elif part == "]":
            product, ranges = min(product * ranges, MOST_NODES + 1), 0
        elif part == "," and ranges:
            ranges += 1
        elif part == ",":
            total, product = total + product, 1
        elif ranges and (found := re.match(r"\s*(\d+)\s*-\s*(\d+)", part)):
            long = len(found[1]) > 18 or len(found[2]) > 18
            ranges += MOST_NODES if long else min(abs(int(found[2]) - int(found[1])), MOST_NODES)
    return total + product


def expand_nodes(folded: str) -> tuple[NodeName, ...]:
    """Unfold a node list such as `b200-[001-003]`; node groups (`@group`) are off, since the text may be a user's.

    Raises:
        InvalidInput: not a node list, or it names a group.
    """
    if "@" in folded or "*" in folded:
        raise InvalidInput(f"{folded!r:.80} uses a node group.", way_out="Name the nodes, e.g. b200-[001-008].")
    if _largest_size(folded) > MOST_NODES:
        raise InvalidInput(f"{folded!r:.80} names more than {MOST_NODES:,} nodes.", way_out="Name fewer.")
    try:
        names = tuple(NodeSet(folded, resolver=RESOLVER_NOGROUP))
    except NodeSetException as error:
        raise InvalidInput(
            f"{folded!r:.80} is not a node list: {error}.", way_out="Write e.g. b200-[001-008]."
        ) from None
    if not names:
        raise InvalidInput("The node list is empty.", way_out="Name at least one node.")
    return tuple(NodeName(name) for name in names)


def fold_nodes(names: Iterable[str]) -> str:
    """Fold node names as Slurm writes them: `b200-[001-003,007]`."""
    nodes = NodeSet(resolver=RESOLVER_NOGROUP)
    nodes.updaten(list(names))
    return str(nodes)
