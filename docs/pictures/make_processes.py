"""Draws docs/pictures/processes.svg: processes, the hosts they run on, and what passes between them."""

from __future__ import annotations

from html import escape
from pathlib import Path

from make_loop import style

PICTURE = Path(__file__).with_name("processes.svg")
WIDTH, HEIGHT = 1080, 530


def panel(x: int, y: int, w: int, h: int, title: str) -> str:
    return (
        f'\n  <rect class="band" x="{x}" y="{y}" width="{w}" height="{h}" rx="12"/>'
        f'\n  <text class="text" x="{x + 20}" y="{y + h - 14}">{escape(title)}</text>'
    )


def card(x: int, y: int, w: int, h: int, colour: str, title: str, *lines: str) -> str:
    texts = "".join(
        f'\n  <text class="text" x="{x + 18}" y="{y + 48 + 20 * n}">{escape(line)}</text>'
        for n, line in enumerate(lines)
    )
    return (
        f'\n  <rect class="card" x="{x}" y="{y}" width="{w}" height="{h}" rx="10"/>'
        f'\n  <rect class="{colour}" x="{x}" y="{y + 10}" width="4" height="{h - 20}" rx="2"/>'
        f'\n  <text class="title" x="{x + 18}" y="{y + 27}">{escape(title)}</text>{texts}'
    )


def flow(path: str, label: str = "", at: tuple[int, int] = (0, 0)) -> str:
    line = f'\n  <path class="flow" marker-end="url(#tip)" d="{path}"/>'
    return line + (
        f'\n  <text class="text" x="{at[0]}" y="{at[1]}" text-anchor="middle">{escape(label)}</text>' if label else ""
    )


PARTS = (
    panel(292, 104, 404, 394, "beside slurmctld, user gpuaas (Slurm Administrator)"),
    panel(752, 104, 294, 266, "Slurm, user slurm"),
    panel(752, 384, 294, 114, "every node, root"),
    card(36, 126, 176, 92, "b", "Researcher", "sbatch, squeue", "gpuaas job, usage"),
    card(36, 244, 176, 92, "a", "Administrator", "gpuaas policy", "gpuaas incident, node"),
    card(312, 126, 172, 210, "a", "gpuaasd", "HTTP API", "one leader", "quota", "placement gate", "health", "metering"),
    card(312, 392, 132, 64, "d", "Store", "what should be"),
    card(510, 126, 174, 62, "a", "Snapshot", "a file, replaced"),
    card(510, 200, 174, 62, "b", "pyslurm worker", "reads, drains"),
    card(510, 274, 174, 62, "b", "slurmrestd", "bulk writes"),
    card(
        772,
        126,
        254,
        124,
        "b",
        "slurmctld",
        "job_submit.lua decides from",
        "the snapshot, calls nobody;",
        "jobs, nodes, limits",
    ),
    card(772, 274, 254, 62, "d", "slurmdbd", "accounts, QOS, runs of jobs"),
    card(772, 396, 150, 64, "c", "gpuaas-agent", "NVML, kernel log"),
    card(938, 396, 88, 64, "b", "slurmd", "jobs"),
    flow("M124 122 V84 H899 V120", "submission", (510, 76)),
    flow("M216 172 H306"),
    flow("M216 290 H306", "UNIX socket", (252, 236)),
    flow("M378 340 V386"),
    flow("M488 157 H504"),
    flow("M488 231 H504"),
    flow("M488 305 H504"),
    flow("M688 157 H766"),
    flow("M688 220 H766"),
    flow("M688 290 L766 240"),
    flow("M688 305 H766"),
    flow("M768 428 H464 V342", "signed events", (606, 420)),
)


def picture() -> str:
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="name">
  <title id="name">Processes: people, gpuaasd and its helpers, Slurm, nodes</title>
  <style>{style()}</style>
  <defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">
    <path class="tip" d="M0 0 L8 4 L0 8 Z"/></marker></defs>
  <rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="14"/>
  <text class="headline" x="36" y="46">Who speaks to whom</text>{"".join(PARTS)}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
