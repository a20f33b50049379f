"""The whole story, in order."""

from __future__ import annotations

from slurm_gpuaas.testbed.national import calling, idling, running, settling, surviving
from slurm_gpuaas.testbed.national.story import National


def play(story: National) -> None:
    """Run every step.

    Raises:
        StepFailed: at the first step whose claim Slurm does not confirm; the table up to it is printed before.
    """
    try:
        for chapter in (
            *calling.CHAPTER,
            *running.CHAPTER,
            *idling.CHAPTER,
            *surviving.CHAPTER,
            *settling.CHAPTER,
        ):
            chapter(story)
    finally:
        story.print_table()
        for visitor in story.visitors.values():
            visitor.close()
