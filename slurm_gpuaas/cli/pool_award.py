"""`gpuaas pool award`: who gets how many GPUs in which pool, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Final

import click
from pydantic import ValidationError

from slurm_gpuaas.cli.context import as_json
from slurm_gpuaas.cli.documents import read_one
from slurm_gpuaas.cli.output import print_facts, print_json, print_table
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.faults import faults_of
from slurm_gpuaas.domain.words import plural

if TYPE_CHECKING:
    from slurm_gpuaas.pool.award_answer import AwardAnswer, ChangeRow, HeldRow, WhatIfAnswer
    from slurm_gpuaas.pool.award_scenario import Scenario
    from slurm_gpuaas.pool.award_whatif import WhatIf

CAPS: Final = ("organisation", "region", "per_project")


class Setting(click.ParamType[tuple[str, int | None]]):
    """NAME=GPUS. `lifts`: none instead of a number takes the limit away."""

    name = "setting"

    def __init__(self, *, lifts: bool = False) -> None:
        self._lifts = lifts

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        name, separator, number = str(value).rpartition("=")
        if name and separator and self._lifts and number == "none":
            return name, None
        if not name or not number.isascii() or not number.isdigit() or len(number) > 9:
            self.fail(f"{value!r} is not NAME=GPUS{' or NAME=none' if self._lifts else ''}.", param, ctx)
        return name, int(number)


@click.command()
@click.option(
    "--scenario",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="YAML or JSON with pools, applications and caps; - for standard input.",
)
@click.option("--without", multiple=True, metavar="ID", help="What if this application were not there. Repeatable.")
@click.option("--must", multiple=True, metavar="ID", help="What if this application had to get something. Repeatable.")
@click.option(
    "--cap",
    "caps",
    type=Setting(lifts=True),
    multiple=True,
    metavar="CAP=GPUS",
    help=f"What if a cap ({', '.join(CAPS)}) were so many GPUs, or none. Repeatable.",
)
@click.option(
    "--capacity",
    "capacities",
    type=Setting(),
    multiple=True,
    metavar="POOL=GPUS",
    help="What if a pool had so many GPUs. Repeatable.",
)
@click.option(
    "--time-limit",
    "time_limit_s",
    type=click.IntRange(1, 86_400),
    default=300,
    show_default=True,
    help="Seconds; what is not proven by then is an error.",
)
@as_json
def award(
    scenario: IO[str],
    without: Sequence[str],
    must: Sequence[str],
    caps: Sequence[tuple[str, int | None]],
    capacities: Sequence[tuple[str, int]],
    time_limit_s: int,
    as_json: bool,
) -> None:
    """Decide who gets how many GPUs in which pool: the best award there is, proven, and why.

    First counts the sum of score times GPUs, then fewer partial awards, then the earlier id (a2 before a10). Partial
    awards are whole servers of 8 GPUs, not under min_gpus. Changes nothing anywhere. docs/guides/award.md has the
    fields and the rules.

    \b
    Example scenario:
      pools:
        - {name: kakao-gov, provider: kakao, share: government, model: b200, capacity: 64}
      applications:
        - {id: a1, organisation: snu, region: seoul, model: b200, gpus: 64, min_gpus: 32, score: 91.5}
        - {id: a2, organisation: unist, region: ulsan, model: any, gpus: 16, min_gpus: 16, score: 88}
      caps: {organisation: 48}

    \b
    Examples:
      gpuaas pool award --scenario call.yaml
      gpuaas pool award --scenario call.yaml --json | jq .refused
      gpuaas pool award --scenario call.yaml --cap organisation=256 --without a17
      gpuaas pool award --scenario call.yaml --must a42
    """
    from slurm_gpuaas.pool.award import award as decide  # with the solver, longer to import than most commands to run
    from slurm_gpuaas.pool.award_answer import answer, what_if_answer
    from slurm_gpuaas.pool.award_scenario import Scenario
    from slurm_gpuaas.pool.award_whatif import WhatIf

    for name, _ in caps:
        if name not in CAPS:
            raise click.UsageError(f"There is no cap {name}; use one of {', '.join(CAPS)}.")
    read = read_one(scenario, Scenario)
    what_if = WhatIf(without=frozenset(without), must=frozenset(must), caps=dict(caps), capacities=dict(capacities))
    otherwise = _otherwise(what_if, read)
    base = decide(read, time_limit_s=time_limit_s)
    if not what_if:
        found = answer(base)
        _print_award(found) if not as_json else print_json(found)
        return
    compared = what_if_answer(base, decide(otherwise, must=what_if.must, time_limit_s=time_limit_s))
    if as_json:
        print_json(compared)
        return
    _print_award(compared)
    click.echo()
    _print_changes(compared)


def _otherwise(what_if: WhatIf, scenario: Scenario) -> Scenario:
    try:
        return what_if.of(scenario)
    except ValidationError as error:
        place, fault = next(faults_of(error))
        raise InvalidInput(
            f"What is otherwise has a fault: {'.'.join(map(str, place))}: {fault}.", way_out="Correct the option."
        ) from error


def _print_award(found: AwardAnswer) -> None:
    asked = {one.id: one.asked for one in found.partial}
    print_table(
        ("id", "pool", "#gpus", "#asked"),
        ((one.id, one.pool, one.gpus, asked.get(one.id, one.gpus)) for one in found.awards),
        empty="Nobody is awarded anything.",
    )
    for title, rows in (
        ("partial", ((one.id, one.why) for one in found.partial)),
        ("refused", ((one.id, one.why) for one in found.refused)),
    ):
        click.echo()
        print_table((title, "why"), rows, empty=f"Nobody is {'awarded a part' if title == 'partial' else 'refused'}.")
    click.echo()
    print_table(
        ("pool", "model", "#capacity", "#awarded", "#free", "#awards"),
        ((one.name, one.model, one.capacity, one.awarded, one.free, one.awards) for one in found.pools),
        empty="There is no pool.",
    )
    if found.caps:
        click.echo()
        print_table(
            ("cap", "of", "#gpus", "#awarded"),
            ((one.cap, one.name, one.limit, one.awarded) for one in found.caps),
            empty="",
        )
    click.echo()
    print_facts(
        (
            ("objective", _exactly(found.objective)),
            ("awarded", plural(len(found.awards), "application")),
            ("refused", plural(len(found.refused), "application")),
        )
    )


def _print_changes(found: WhatIfAnswer) -> None:
    def held(one: HeldRow | None) -> str | None:
        return f"{one.gpus} in {one.pool}" if one else None

    def effect(one: ChangeRow) -> str:
        return "gains" if one.gpus > 0 else "loses" if one.gpus < 0 else "moves"

    print_table(
        ("differs", "before", "after", "effect", "#gpus"),
        ((one.id, held(one.before), held(one.after), effect(one), f"{one.gpus:+,}") for one in found.changes),
        empty="Nobody's award differs.",
    )
    click.echo()
    print_facts(
        (
            ("objective before", _exactly(found.base_objective)),
            ("difference", _exactly(round(found.objective - found.base_objective, 6), signed=True)),
        )
    )


def _exactly(value: float, *, signed: bool = False) -> str:
    return format(value, "+,.6f" if signed else ",.6f").rstrip("0").rstrip(".")
