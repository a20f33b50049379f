"""A picture of a fabric as SVG: core and spines, leaf groups in pods, nodes, and what the findings touch. Pure.

It follows the reader's light or dark scheme, needs no font but the system's own and runs no script. What is touched
differs in lightness and in shape as well as in colour; its tooltip says what was found. A finding that touches several
nodes is one of a switch that they share: they are only outlined.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, sqrt
from typing import Final

from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.topology.fabric import UNATTACHED, Fabric, LeafGroup, Switch

LEAST_WIDTH, MOST_WIDTH = 720, 1170
"""Of what is drawn, unless one leaf group is wider. Two pods of four leaf groups fit side by side."""
MARGIN: Final = 40
SIDE, STEP = 11, 14
"""Of a node's square, and from one to the next."""
PADDING: Final = 10
GUTTER: Final = 26
"""Between shelves of pods; the lines to them run there."""
BAND: Final = 42
"""Height of the box of a level of switches."""
LEVEL: Final = BAND + GUTTER
MOST_LINES: Final = 8
"""Findings told below the picture."""
CHARACTER: Final = 7.2
"""Width of one in the text's size, on the safe side."""

LIGHT: Final = {"paper": "#ffffff", "card": "#f6f8fa", "line": "#d0d7de", "ink": "#1f2328", "soft": "#57606a",
                "flow": "#8c959f", "node": "#9ec5f0", "switch": "#8c959f", "touched": "#c8102e"}  # fmt: skip
DARK: Final = {"paper": "#0d1117", "card": "#161b22", "line": "#30363d", "ink": "#e6edf3", "soft": "#9198a1",
               "flow": "#6e7681", "node": "#2f5f95", "switch": "#6e7681", "touched": "#ff9040"}  # fmt: skip

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class _Found:
    """A finding; `alone`: it touches one node."""

    says: str
    alone: bool


@dataclass(frozen=True, slots=True)
class _Card:
    """A leaf group with its place; all cards are of one size."""

    group: LeafGroup
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class _Pod:
    name: str
    x: int
    y: int
    width: int
    height: int
    cards: tuple[_Card, ...]


@dataclass(frozen=True, slots=True)
class _Size:
    """Of a card: nodes in a row, and its width and height."""

    columns: int
    width: int
    height: int


def draw(fabric: Fabric) -> str:
    """The SVG document."""
    touched = _touched(fabric)
    core = [switch for switch in fabric.spines if switch.level > 1]
    spines = [switch for switch in fabric.spines if switch.level == 1]
    levels = [(what, level) for what, level in (("core switch", core), ("spine", spines)) if level]
    size = _card_size(fabric)
    band_y = MARGIN + 64
    pods = _shelved(fabric, size, band_y + len(levels) * LEVEL)
    width = max(LEAST_WIDTH, *(pod.x + pod.width - MARGIN for pod in pods))
    bottom = max(pod.y + pod.height for pod in pods)
    notes = _notes(fabric)
    height = bottom + 30 + (10 + 24 * len(notes) if notes else 0) + MARGIN
    parts = [
        *_heading(fabric),
        *_links(pods, len(levels), band_y, width),
        *(part for number, (what, level) in enumerate(levels)
          for part in _band(what, level, touched, MARGIN, band_y + number * LEVEL, width)),
        *(part for pod in pods for part in _pod(pod, size, touched)),
        *_legend(bottom + 30),
        *(_text("soft", MARGIN, bottom + 64 + 24 * n, note, width) for n, note in enumerate(notes)),
    ]  # fmt: skip
    name = _clean(f"{_counts(fabric)}; {len(fabric.findings)} findings")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 2 * MARGIN} {height}" role="img" '
        f'aria-labelledby="name">\n<title id="name">{name}</title>\n<style>{_style()}</style>\n'
        f'<rect class="paper" width="{width + 2 * MARGIN}" height="{height}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


# -- Where things stand ------------------------------------------------------------------------------------------------


def _card_size(fabric: Fabric) -> _Size:
    most = max(max(len(group.node_names) for group in fabric.leaf_groups), 1)
    columns = 8 if most <= 64 else min(ceil(sqrt(1.8 * most)), MOST_WIDTH // STEP - 2)
    return _Size(columns, columns * STEP + 2 * PADDING, ceil(most / columns) * STEP + 62)


def _shelved(fabric: Fabric, size: _Size, top: int) -> list[_Pod]:
    """Pods from left to right on shelves, cards in each likewise."""
    pods: list[_Pod] = []
    x, y, shelf = MARGIN, top, 0
    most = max((MOST_WIDTH - PADDING) // (size.width + PADDING), 1)
    for name, groups in fabric.pods.items():
        rows = [groups[first : first + most] for first in range(0, len(groups), most)]
        wide = min(len(groups), most) * (size.width + PADDING) + PADDING
        high = len(rows) * (size.height + PADDING) + 30
        if x > MARGIN and x + wide > MARGIN + MOST_WIDTH:
            x, y, shelf = MARGIN, y + shelf + GUTTER, 0
        cards = tuple(
            _Card(group, x + PADDING + column * (size.width + PADDING), y + 30 + row * (size.height + PADDING))
            for row, members in enumerate(rows)
            for column, group in enumerate(members)
        )
        pods.append(_Pod(name, x, y, wide, high, cards))
        x, shelf = x + wide + PADDING, max(shelf, high)
    return pods


# -- What is drawn -----------------------------------------------------------------------------------------------------


def _heading(fabric: Fabric) -> Iterator[str]:
    yield f'<text class="headline" x="{MARGIN}" y="{MARGIN + 14}">{_clean(_counts(fabric))}</text>'
    if fabric.source:
        yield _text("soft", MARGIN, MARGIN + 38, fabric.source, LEAST_WIDTH)


def _counts(fabric: Fabric) -> str:
    attached = {pod: groups for pod, groups in fabric.pods.items() if pod != UNATTACHED}
    groups = sum(map(len, attached.values()))
    nodes = sum(len(group.node_names) for group in fabric.leaf_groups)
    return f"{_many(nodes, 'node')}, {_many(groups, 'leaf group')}, {_many(len(attached), 'pod')}"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('h') else 's'}"


def _links(pods: Sequence[_Pod], levels: int, band_y: int, width: int) -> Iterator[str]:
    """From the core to the spines, and from these through the gutters to each pod."""
    joined = [pod for pod in pods if pod.name != UNATTACHED]
    if not levels or not joined:
        return
    middle, bottom = MARGIN + width // 2, band_y + levels * LEVEL - GUTTER
    if levels > 1:
        yield f'<path class="flow" d="M{middle} {band_y + BAND} v{GUTTER}"/>'
    if len({pod.y for pod in joined}) > 1:
        yield f'<path class="flow" d="M{MARGIN // 2} {bottom + GUTTER // 2} V{joined[-1].y - GUTTER // 2}"/>'
    for y in sorted({pod.y for pod in joined}):
        ends = [pod.x + pod.width // 2 for pod in joined if pod.y == y]
        first = y == joined[0].y
        left = MARGIN // 2 if len({pod.y for pod in joined}) > 1 else min(*ends, middle)
        right = max(*ends, middle) if first else max(ends)
        yield f'<path class="flow" d="M{left} {y - GUTTER // 2} H{right}"/>'
        yield from (f'<path class="flow" d="M{end} {y - GUTTER // 2} V{y}"/>' for end in ends)
    yield f'<path class="flow" d="M{middle} {bottom} v{GUTTER // 2}"/>'


def _band(
    what: str, switches: Sequence[Switch], touched: Mapping[str, list[_Found]], x: int, y: int, width: int
) -> Iterator[str]:
    hit = [switch for switch in switches if switch.id in touched]
    told = _many(len(switches), what) + (f", {len(hit)} touched" if hit else "")
    tip = "\n".join(f"{switch.name}: {found.says}" for switch in hit for found in touched[switch.id])
    yield f'<rect class="card" x="{x}" y="{y}" width="{width}" height="{BAND}" rx="8">{_tip(tip)}</rect>'
    yield _text("touched" if hit else "ink", x + PADDING, y + 26, told, 200)
    if len(switches) * STEP <= width - 220:
        left = x + width - PADDING - len(switches) * STEP
        for n, switch in enumerate(switches):
            yield _square("switch", left + n * STEP, y + 15, switch.name, touched.get(switch.id, []))


def _pod(pod: _Pod, size: _Size, touched: Mapping[str, list[_Found]]) -> Iterator[str]:
    yield f'<rect class="pod" x="{pod.x}" y="{pod.y}" width="{pod.width}" height="{pod.height}" rx="10"/>'
    yield _text("soft", pod.x + PADDING, pod.y + 20, pod.name, pod.width - 2 * PADDING)
    for card in pod.cards:
        group, x, y = card.group, card.x, card.y
        yield f'<rect class="card" x="{x}" y="{y}" width="{size.width}" height="{size.height}" rx="8"/>'
        number = f"{len(group.node_names)}"
        yield _text("title", x + PADDING, y + 18, group.name, size.width - 3 * PADDING - ceil(len(number) * CHARACTER))
        yield f'<text class="soft end" x="{x + size.width - PADDING}" y="{y + 18}">{number}</text>'
        for n, switch in enumerate(group.switches if len(group.switches) <= size.columns else ()):
            yield _square("switch", x + PADDING + n * STEP, y + 27, switch, touched.get(switch, []))
        for n, node in enumerate(group.node_names):
            row, column = divmod(n, size.columns)
            yield _square("node", x + PADDING + column * STEP, y + 50 + row * STEP, node, touched.get(node, []))


def _square(kind: str, x: int, y: int, name: str, found: Sequence[_Found]) -> str:
    """A round switch or a square node; touched, it is larger, of a strong colour and without rounding."""
    touched = any(kind == "switch" or one.alone for one in found)
    mark = " touched" if touched else " behind" if found else ""
    return _marked(f"{kind}{mark}", x, y, "\n".join([name, *(one.says for one in found)]))


def _marked(kind: str, x: int, y: int, tip: str) -> str:
    out = 1 if kind.endswith("touched") else 0
    side = SIDE + 2 * out
    round_by = 0 if out else 2 if kind.startswith("node") else 5
    return (
        f'<rect class="{kind}" x="{x - out}" y="{y - out}" width="{side}" height="{side}" rx="{round_by}">'
        f"{_tip(tip)}</rect>"
    )


def _legend(y: int) -> Iterator[str]:
    x = MARGIN
    for kind, words in (
        ("node", "node"),
        ("switch", "switch"),
        ("node touched", "touched by a finding"),
        ("node behind", "behind a switch that is"),
    ):
        yield _marked(kind, x, y - 10, words)
        yield _text("soft", x + 20, y, words, 200)
        x += 40 + ceil(len(words) * CHARACTER)


def _notes(fabric: Fabric) -> list[str]:
    """The first findings; all are in the tooltips."""
    more = len(fabric.findings) - MOST_LINES
    return [
        *(f"! {finding.says}" for finding in fabric.findings[:MOST_LINES]),
        *([f"and {_many(more, 'finding')} more"] if more > 0 else []),
    ]


def _touched(fabric: Fabric) -> Mapping[str, list[_Found]]:
    """What was found at each node and device. Linear in what the findings name."""
    touched: dict[str, list[_Found]] = defaultdict(list)
    for finding in fabric.findings:
        nodes = expand_nodes(finding.nodes) if finding.nodes else ()
        found = _Found(finding.says, alone=len(nodes) == 1)
        for name in (*nodes, *finding.devices):
            touched[name].append(found)
    return touched


def _text(kind: str, x: int, y: int, words: str, width: int) -> str:
    """Cut to the width; the whole in a tooltip then."""
    room = max(int(width / CHARACTER), 2)
    if len(words) <= room:
        return f'<text class="{kind}" x="{x}" y="{y}">{_clean(words)}</text>'
    return f'<text class="{kind}" x="{x}" y="{y}">{_clean(words[: room - 1])}…{_tip(words)}</text>'


def _tip(words: str) -> str:
    return f"<title>{_clean(words)}</title>" if words else ""


def _clean(words: str) -> str:
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", words))


def _style() -> str:
    """Plain rules rather than CSS variables, which renderers other than browsers do not know."""

    def rules(of: Mapping[str, str]) -> str:
        return (
            f".paper {{ fill: {of['paper']} }} .card {{ fill: {of['card']}; stroke: {of['line']} }} "
            f".pod {{ stroke: {of['flow']} }} .flow {{ stroke: {of['flow']} }} "
            f"text {{ fill: {of['ink']} }} .soft {{ fill: {of['soft']} }} .node {{ fill: {of['node']} }} "
            f".switch {{ fill: {of['switch']} }} .touched {{ fill: {of['touched']} }} "
            f".behind {{ stroke: {of['touched']} }}"
        )

    return f"""
text {{ font: 12px system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif }}
.headline {{ font-size: 20px; font-weight: 700 }} .title {{ font-weight: 600 }} .end {{ text-anchor: end }}
.pod {{ fill: none; stroke-dasharray: 5 4 }} .behind {{ stroke-width: 1.5 }} .flow {{ fill: none; stroke-width: 2 }}
{rules(LIGHT)}
@media (prefers-color-scheme: dark) {{ {rules(DARK)} }}
"""
