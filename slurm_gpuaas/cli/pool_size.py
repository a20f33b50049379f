"""`gpuaas pool size`: how many GPUs a declared workload needs."""

from __future__ import annotations

from typing import IO

import click
from pydantic import BaseModel, ConfigDict

from slurm_gpuaas.cli.context import as_json
from slurm_gpuaas.cli.documents import read_one
from slurm_gpuaas.cli.output import print_facts, print_json, print_table
from slurm_gpuaas.pool.sizing import Figure, Origin, SizingQuestion
from slurm_gpuaas.pool.sizing import size as right_size


class FigureAnswer(BaseModel):
    """`low` and `high` equal `value` where it is taken for exact."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    name: str
    value: float
    low: float
    high: float
    unit: str
    origin: Origin
    source: str


class SizingAnswer(BaseModel):
    """`exact`: GPUs before rounding, at best, likely and at worst."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    gpus: int
    low: int
    high: int
    least: int
    exact: tuple[float, float, float]
    formula: str
    figures: tuple[FigureAnswer, ...]
    steps: tuple[str, ...]
    cautions: tuple[str, ...]


@click.command()
@click.option(
    "--file",
    "file",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="Workload (YAML or JSON; - for stdin).",
)
@as_json
def size(file: IO[str], as_json: bool) -> None:
    """Propose GPUs for a declared workload, and say how: formula, each factor with its source, an interval.

    Needs no Slurm and changes nothing. docs/guides/sizing.md explains the fields.

    \b
    Example workload:
      kind: pre-training
      model: b200
      parameters: 8.0e+9
      tokens: 200.0e+9
      precision: bf16
      period_days: 60
      measured:
        - {grant: speech-2026, gpu_hours: 20000, mfu: 0.31, allocated: 0.6}

    \b
    Examples:
      gpuaas pool size --file workload.yaml
      gpuaas pool size --file workload.yaml --json | jq .gpus
    """
    answer = right_size(read_one(file, SizingQuestion))
    if as_json:
        print_json(SizingAnswer.model_validate(answer))
        return
    print_facts(
        [
            ("proposed", f"{answer.gpus:,} GPUs ({answer.low:,} to {answer.high:,})"),
            ("memory needs", f"{answer.least:,} GPUs at least"),
            ("formula", answer.formula),
        ]
    )
    click.echo()
    for step in answer.steps:
        click.echo(f"- {step}")
    for caution in answer.cautions:
        click.echo(f"! {caution}")
    click.echo()
    print_table(
        ["factor", "#value", "range", "unit", "origin", "source"],
        ((one.name, f"{one.value:.4g}", _range(one), one.unit, one.origin.value, one.source) for one in answer.figures),
        empty="No factors.",
    )


def _range(figure: Figure) -> str:
    return "" if figure.low == figure.high else f"{figure.low:.3g} to {figure.high:.3g}"
