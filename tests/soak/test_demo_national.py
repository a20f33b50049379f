"""`make demo-national` at the size that a laptop carries, without pictures; and nothing is left of it afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console

from slurm_gpuaas.testbed.machine import running
from slurm_gpuaas.testbed.national.play import play
from slurm_gpuaas.testbed.national.stage import Stage, take_down
from slurm_gpuaas.testbed.national.story import National
from slurm_gpuaas.testbed.progress import PlainProgress

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

NAME = "soak-national"


@pytest.fixture
def stage() -> Iterator[Stage]:
    yield Stage.up(NAME, "small", PlainProgress(Console()))
    take_down(NAME)
    assert not [name for name in running() if name.startswith(NAME)]


def test_every_step_of_the_national_demo_is_confirmed_by_slurm(stage: Stage) -> None:
    story = National(Console(width=150), stage, None)
    play(story)
    assert all(outcome.ok for outcome in story.outcomes)
    assert len(story.outcomes) == 23
