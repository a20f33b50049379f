"""Draws docs/pictures/loop.svg: what goes round in this product. Run it after changing a step; a test compares.

The drawing follows the reader's light or dark scheme and needs no font but the system's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURE = Path(__file__).with_name("loop.svg")


@dataclass(frozen=True)
class Step:
    """One card: its name, what happens, and what in Slurm or on the node holds it."""

    title: str
    lines: tuple[str, str]
    held_by: str
    colour: str = "a"


ROUND = (
    Step("Grant", ("GPUs of a model, from day", "to day, with a budget"), "policy.yaml", "a"),
    Step("Provision", ("plan, then apply: one diff,", "drift shown and corrected"), "accounts · QOS · partitions", "a"),
    Step("Submit", ("accepted, or refused with the", "limit and the way out"), "job_submit.lua", "b"),
    Step("Place", ("fewest leaf switches,", "ranks in fabric order"), "topology.yaml · gate", "b"),
    Step("Run", ("torchrun, checkpoints,", "signals, capped requeue"), "sbatch templates", "b"),
    Step("Watch", ("XID events, de-duplicated,", "decoded, signed"), "NVML · kernel log", "c"),
    Step("Drain, requeue", ("evidence in the reason; the", "job runs on without the node"), "drain · requeue", "c"),
    Step("Meter", ("GPU-seconds by project and", "user; what budget is left"), "slurmdbd", "d"),
)
"""Clockwise from the upper left: four on top, four below."""

PROMISE = "gpuaasd observes, plans and applies; Slurm holds every limit and goes on without it"
WIDTH, HEIGHT = 1080, 520
CARD_W, CARD_H = 222, 140
GAP, LEFT, TOP, BOTTOM = 36, 42, 92, 344
BAND_Y, BAND_H = 256, 64


LIGHT = {
    "paper": "#ffffff",
    "card": "#f6f8fa",
    "line": "#d0d7de",
    "ink": "#1f2328",
    "soft": "#57606a",
    "flow": "#8c959f",
    "a": "#0969da",
    "b": "#1a7f37",
    "c": "#bc4c00",
    "d": "#8250df",
}
DARK = {
    "paper": "#0d1117",
    "card": "#161b22",
    "line": "#30363d",
    "ink": "#e6edf3",
    "soft": "#9198a1",
    "flow": "#6e7681",
    "a": "#4493f8",
    "b": "#3fb950",
    "c": "#f0883e",
    "d": "#ab7df8",
}


def style() -> str:
    """Plain rules rather than CSS variables, which renderers other than browsers do not know."""

    def rules(of: dict[str, str]) -> str:
        return (
            f"text {{ fill: {of['ink']} }} .text {{ fill: {of['soft']} }} .number, .paper {{ fill: {of['paper']} }} "
            f".card {{ fill: {of['card']}; stroke: {of['line']} }} .band {{ stroke: {of['line']} }} "
            f".flow {{ stroke: {of['flow']} }} .tip {{ fill: {of['flow']} }} "
            + " ".join(f".{key} {{ fill: {of[key]} }}" for key in "abcd")
        )

    return f"""
    text {{ font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif }}
    .headline {{ font-size: 21px; font-weight: 700 }} .title {{ font-size: 16px; font-weight: 700 }}
    .text {{ font-size: 13px }} .held {{ font-size: 12px; font-weight: 600 }}
    .number {{ font-size: 13px; font-weight: 700 }}
    .flow {{ fill: none; stroke-width: 2 }} .band {{ fill: none; stroke-dasharray: 5 4 }}
    {rules(LIGHT)}
    @media (prefers-color-scheme: dark) {{ {rules(DARK)} }}
  """


def corner(index: int) -> tuple[int, int]:
    """Upper left corner of a card; the lower row runs from right to left."""
    column = index if index < 4 else 7 - index
    return LEFT + column * (CARD_W + GAP), TOP if index < 4 else BOTTOM


def card(index: int, step: Step) -> str:
    x, y = corner(index)
    return f"""
  <rect class="card" x="{x}" y="{y}" width="{CARD_W}" height="{CARD_H}" rx="10"/>
  <rect class="{step.colour}" x="{x}" y="{y + 14}" width="4" height="{CARD_H - 28}" rx="2"/>
  <circle class="{step.colour}" cx="{x + 30}" cy="{y + 31}" r="12"/>
  <text class="number" x="{x + 30}" y="{y + 35.5}" text-anchor="middle">{index + 1}</text>
  <text class="title" x="{x + 52}" y="{y + 37}">{escape(step.title)}</text>
  <text class="text" x="{x + 20}" y="{y + 68}">{escape(step.lines[0])}</text>
  <text class="text" x="{x + 20}" y="{y + 87}">{escape(step.lines[1])}</text>
  <text class="held {step.colour}" x="{x + 20}" y="{y + 119}">{escape(step.held_by)}</text>"""


def arrow(index: int) -> str:
    """From a card to the next one round."""
    x, y = corner(index)
    to_x, to_y = corner((index + 1) % len(ROUND))
    middle_x, middle_y = x + CARD_W // 2, y + CARD_H // 2
    if y != to_y:
        line = f"M{middle_x} {y + CARD_H + 4} V{to_y - 6}" if to_y > y else f"M{middle_x} {y - 4} V{to_y + CARD_H + 6}"
    else:
        line = f"M{x + CARD_W + 4} {middle_y} H{to_x - 6}" if to_x > x else f"M{x - 4} {middle_y} H{to_x + CARD_W + 6}"
    return f'\n  <path class="flow" marker-end="url(#tip)" d="{line}"/>'


def picture() -> str:
    band_x = LEFT + CARD_W // 2 + 32
    band_w = WIDTH - 2 * band_x
    cards = "".join(card(index, step) for index, step in enumerate(ROUND))
    arrows = "".join(arrow(index) for index in range(len(ROUND)))
    centre, line_1, line_2 = WIDTH // 2, BAND_Y + 28, BAND_Y + 48
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="name">
  <title id="name">The loop: {escape(", ".join(step.title.lower() for step in ROUND))}, and round again</title>
  <style>{style()}</style>
  <defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">
    <path class="tip" d="M0 0 L8 4 L0 8 Z"/></marker></defs>
  <rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="14"/>
  <text class="headline" x="{LEFT}" y="48">GPU as a service on Slurm</text>
  <text class="text" x="{LEFT}" y="71">{PROMISE}</text>
  <rect class="band" x="{band_x}" y="{BAND_Y}" width="{band_w}" height="{BAND_H}" rx="10"/>
  <text class="title" x="{centre}" y="{line_1}" text-anchor="middle">Slurm is the engine</text>
  <text class="text" x="{centre}" y="{line_2}" text-anchor="middle">slurmctld · slurmdbd · slurmd · slurmrestd</text>
{arrows}{cards}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
