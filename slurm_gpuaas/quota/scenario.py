"""A quota question as a document, and its answer: what `gpuaas quota simulate` reads and prints.

Quantities are GPUs by model. A bare number means the only model of `capacity`; a scenario whose capacity is a bare
number is answered in bare numbers. Models do not touch each other: each is decided by itself, by the code that the
daemon runs (`decide`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.quota.decide import Action, JobKey, Options, Pending, Running, Standing, decide
from slurm_gpuaas.quota.tree import Short, Tenant, TenantName, Tree

MOST_GPUS: Final = 10_000_000
MOST_ROWS: Final = 100_000
THE_MODEL: Final = "gpu"
"""Stands for the only model where the scenario names none."""

Count = Annotated[int, Field(ge=0, le=MOST_GPUS, strict=True)]


def _as_text(value: object) -> object:
    """YAML reads a name such as 17 as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, Field(min_length=1, max_length=100), BeforeValidator(_as_text)]


def _as_quantity(value: object) -> object:
    """One sentence for what is no quantity, instead of one for each form that it does not have."""
    for model, count in value.items() if isinstance(value, dict) else [(THE_MODEL, value)]:
        if isinstance(model, (bool, float)) or model is None:
            raise ValueError(f"{_shown_in_fault(model)} is no name of a model: write it in quotes")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_GPUS:
            raise ValueError(
                f"{_shown_in_fault(count)} is no number of GPUs: write a whole number from 0 to {MOST_GPUS:,}, or one "
                "for each model as in {b200: 8}; a limit that is left out is no limit"
            )
    return value


def _shown_in_fault(value: object) -> str:
    """Scalars alone: a few aliases in YAML can make a list that would fill the memory as text."""
    if value is None:
        return "null"
    return f"{value!r:.40}" if isinstance(value, (str, int, float)) else "this"


Quantity = Annotated[Count | dict[Name, Count], BeforeValidator(_as_quantity)]
Amount = int | dict[str, int]
"""A quantity in the answer: in the form of the scenario's capacity."""


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class TenantDocument(Document):
    """A tenant. An absent limit is no limit; 0 is nothing."""

    name: Name
    parent: Name | None = None
    guaranteed: Quantity = Field(default=0, description="Its own, in addition to its children's.")
    borrow_limit: Quantity | None = Field(default=None, description="How far its use may pass its guarantee.")
    lend_limit: Quantity | None = Field(default=None, description="Idle guaranteed GPUs that it lends at most.")
    weight: float = Field(default=1.0, ge=0, le=1e9, allow_inf_nan=False)
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000, description="Higher is served first.")
    past_use: float = Field(
        default=0.0, ge=0, le=1e12, allow_inf_nan=False, description="GPU-hours, decayed to this moment."
    )


class OptionsDocument(Document):
    half_life_h: float | None = Field(
        default=None, gt=0, le=1e6, allow_inf_nan=False, description="Memory of past use; absent = none."
    )
    min_run_s: int = Field(default=0, ge=0, le=10**9, description="Burst jobs younger than this keep their GPUs.")


class JobDocument(Document):
    id: Name
    tenant: Name
    gpus: int = Field(ge=1, le=MOST_GPUS, strict=True)
    model: Name | None = Field(default=None, description="May be left out where there is one model only.")
    preemptible: bool = True


class RunningDocument(JobDocument):
    service: ServiceClass | None = Field(
        default=None, alias="as", description="Absent: the oldest jobs fill the guarantee first."
    )
    age_s: int = Field(default=0, ge=0, le=10**10)


class Scenario(Document):
    capacity: Quantity = Field(description="Healthy GPUs.")
    tenants: tuple[TenantDocument, ...] = Field(max_length=MOST_ROWS)
    options: OptionsDocument = Field(default_factory=OptionsDocument)
    running: tuple[RunningDocument, ...] = Field(default=(), max_length=MOST_ROWS)
    pending: tuple[JobDocument, ...] = Field(default=(), max_length=MOST_ROWS)

    @model_validator(mode="before")
    @classmethod
    def _left_empty_is_absent(cls, fields: object) -> object:
        """`pending:` with nothing below it, as people leave it in a file."""
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Those of the capacity; where that is a bare number, the one that anything else names."""
        if isinstance(self.capacity, dict):
            return tuple(sorted(self.capacity))
        named = {job.model for job in (*self.running, *self.pending) if job.model is not None}
        for tenant in self.tenants:
            for quantity in (tenant.guaranteed, tenant.borrow_limit, tenant.lend_limit):
                named |= set(quantity) if isinstance(quantity, dict) else set()
        if len(named) > 1:
            raise InvalidInput(
                f"The capacity is a bare number, but there are {len(named)} models: {', '.join(sorted(named)):.200}.",
                way_out="Write the capacity by model, e.g. {b200: 64}.",
            )
        return tuple(named) or (THE_MODEL,)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not self.models:
            raise InvalidInput("The capacity names no model.", way_out="Write e.g. capacity: {b200: 64}.")
        Tree.of(self._tenants(self.models[0]))
        names = {tenant.name for tenant in self.tenants}
        for tenant in self.tenants:
            for what in ("guaranteed", "borrow_limit", "lend_limit"):
                self._check_models(getattr(tenant, what), f"{what} of tenant {tenant.name:.60}")
        ids = Counter(job.id for job in (*self.running, *self.pending))
        for job in (*self.running, *self.pending):
            if ids[job.id] > 1:
                raise InvalidInput(f"Job {job.id:.60} stands {ids[job.id]} times.", way_out="Give each its own id.")
            if job.tenant not in names:
                raise InvalidInput(
                    f"Job {job.id:.60} is of tenant {job.tenant:.60}, which is not declared.", way_out="Declare it."
                )
            self._model_of(job)
        for model in self.models:
            used = sum(job.gpus for job in self.running if self._model_of(job) == model)
            if used > MOST_GPUS:
                raise InvalidInput(f"Running jobs hold {used:,} GPUs.", way_out=f"At most {MOST_GPUS:,}.")
        return self

    def _check_models(self, quantity: object, what: str) -> None:
        if isinstance(quantity, dict):
            for model in quantity:
                if model not in self.models:
                    raise InvalidInput(
                        f"The {what} names model {model:.60}; the capacity has {', '.join(self.models):.200}.",
                        way_out="Name one of those.",
                    )
        elif quantity is not None and len(self.models) > 1 and quantity != 0:
            raise InvalidInput(
                f"The {what} is a bare number, but there are {len(self.models)} models.",
                way_out=f"Write {{{self.models[0]}: {quantity}}}.",
            )

    def _model_of(self, job: JobDocument) -> str:
        if job.model is None:
            if len(self.models) > 1:
                raise InvalidInput(
                    f"Job {job.id:.60} names no model, and there are {len(self.models)}.",
                    way_out=f"Add e.g. model: {self.models[0]}.",
                )
            return self.models[0]
        if job.model not in self.models:
            raise InvalidInput(
                f"Job {job.id:.60} asks for model {job.model:.60}; the capacity has {', '.join(self.models):.200}.",
                way_out="Name one of those.",
            )
        return job.model

    # -- One model's part

    def _tenants(self, model: str) -> Iterator[Tenant]:
        for one in self.tenants:
            yield Tenant(
                name=TenantName(one.name),
                parent=None if one.parent is None else TenantName(one.parent),
                guaranteed=_of(one.guaranteed, model) or 0,
                borrow_limit=_of(one.borrow_limit, model),
                lend_limit=_of(one.lend_limit, model),
                weight=Fraction(str(one.weight)),
                priority=one.priority,
                past_use=Fraction(str(one.past_use)),
            )

    def tree(self, model: str) -> Tree:
        return Tree.of(self._tenants(model))

    def capacity_of(self, model: str) -> int:
        return _of(self.capacity, model) or 0

    def running_of(self, model: str) -> Iterator[Running]:
        for job in self.running:
            if self._model_of(job) == model:
                yield Running(
                    id=JobKey(job.id),
                    tenant=TenantName(job.tenant),
                    gpus=job.gpus,
                    service=job.service,
                    age_s=job.age_s,
                    preemptible=job.preemptible,
                )

    def pending_of(self, model: str) -> Iterator[Pending]:
        for job in self.pending:
            if self._model_of(job) == model:
                yield Pending(
                    id=JobKey(job.id), tenant=TenantName(job.tenant), gpus=job.gpus, preemptible=job.preemptible
                )


def _of(quantity: int | Mapping[str, int] | None, model: str) -> int | None:
    return quantity.get(model) if isinstance(quantity, Mapping) else quantity


# -- The answer --------------------------------------------------------------------------------------------------------


class ShareAnswer(Document):
    """Where a tenant stands before the decisions; a parent's numbers hold its children's.

    `fair_share`: what it should have now, of its guarantee and of what is idle, bounded by what it has running and asks
    for. `borrowed`: in use beyond the guarantee. `lent`: of its guarantee, idle and used by others. `may_borrow`: what
    it could start as burst right now, without anybody giving way.
    """

    guaranteed: Amount
    fair_share: Amount
    in_use: Amount
    borrowed: Amount
    lent: Amount
    may_borrow: Amount


class DecisionAnswer(Document):
    job: str
    action: Action
    service: ServiceClass | None = Field(default=None, serialization_alias="as", description="null unless it starts.")
    preempts: tuple[str, ...] = ()
    why: str


class Alert(Document):
    """A guarantee that cannot be kept in full."""

    tenant: str
    model: str | None
    guaranteed: int
    honoured: int
    why: str


class Answer(Document):
    shares: dict[str, ShareAnswer]
    decisions: tuple[DecisionAnswer, ...]
    alerts: tuple[Alert, ...] = ()


def simulate(scenario: Scenario) -> Answer:
    """Decide on a scenario; the same whatever the order of its tenants and running jobs."""
    bare = not isinstance(scenario.capacity, dict)
    standings: dict[str, Mapping[TenantName, Standing]] = {}
    decisions: dict[str, DecisionAnswer] = {}
    alerts: list[Alert] = []
    for model in scenario.models:
        ruling = decide(
            scenario.tree(model),
            scenario.capacity_of(model),
            scenario.running_of(model),
            tuple(scenario.pending_of(model)),
            _options(scenario.options),
        )
        standings[model] = ruling.standings
        for one in ruling.decisions:
            decisions[one.job] = DecisionAnswer(
                job=one.job, action=one.action, service=one.service, preempts=one.preempts, why=one.why
            )
        alerts += (_alert(one, None if bare else model, scenario.capacity_of(model)) for one in ruling.short)

    def amount(name: TenantName, value: Callable[[Standing], int]) -> Amount:
        by_model = {model: value(standing[name]) for model, standing in standings.items()}
        return by_model[scenario.models[0]] if bare else by_model

    return Answer(
        shares={
            name: ShareAnswer(**{field: amount(name, _field(field)) for field in ShareAnswer.model_fields})
            for name in sorted(TenantName(tenant.name) for tenant in scenario.tenants)
        },
        decisions=tuple(decisions[job.id] for job in scenario.pending),
        alerts=tuple(alerts),
    )


def _field(name: str) -> Callable[[Standing], int]:
    def value(standing: Standing) -> int:
        found: int = getattr(standing, name)
        return found

    return value


def _options(options: OptionsDocument) -> Options:
    half_life = options.half_life_h
    return Options(half_life_h=None if half_life is None else Fraction(str(half_life)), min_run_s=options.min_run_s)


def _alert(short: Short, model: str | None, capacity: int) -> Alert:
    return Alert(
        tenant=short.tenant,
        model=model,
        guaranteed=short.guaranteed,
        honoured=short.honoured,
        why=f"{capacity} GPUs cannot keep all guarantees: {short.tenant} gets {short.honoured} of {short.guaranteed}; "
        "the lowest priority is shorted first, equal ones in proportion.",
    )


def rows_of(answer: Answer) -> Iterable[tuple[Any, ...]]:
    """Shares as rows for a table."""
    for name, share in answer.shares.items():
        yield (name, *(_shown(getattr(share, field)) for field in ShareAnswer.model_fields))


def _shown(amount: Amount) -> str:
    return f"{amount:,}" if isinstance(amount, int) else " ".join(f"{model}:{n:,}" for model, n in amount.items())
