"""Checkpoints of the torchrun template: the newest whose content is what was written, whatever happened meanwhile."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from slurm_gpuaas.jobs.templates import SHIPPED


@pytest.fixture(scope="module")
def checkpoints() -> ModuleType:
    """The module as a training script finds it: beside itself, not in a package."""
    spec = importlib.util.spec_from_file_location("checkpoints", SHIPPED / "torchrun" / "checkpoints.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_to_resume_from(checkpoints: ModuleType, tmp_path: Path) -> None:
    assert checkpoints.newest_valid(tmp_path / "none") is None


def test_resumes_from_the_newest(checkpoints: ModuleType, tmp_path: Path) -> None:
    for step in (5, 100, 20):
        checkpoints.save(tmp_path, step, f"state {step}".encode())
    assert checkpoints.newest_valid(tmp_path) == (100, b"state 100")


@pytest.mark.parametrize("damage", [b"", b"state 1", b"state 200 and more"])
def test_a_damaged_one_is_passed_over(
    checkpoints: ModuleType, tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.save(tmp_path, 100, b"state 100")
    newest = checkpoints.save(tmp_path, 200, b"state 200")
    newest.write_bytes(damage)
    assert checkpoints.newest_valid(tmp_path) == (100, b"state 100")
    assert "is damaged" in capsys.readouterr().out


def test_a_crash_before_the_rename_leaves_the_last_one(
    checkpoints: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(tmp_path, 100, b"state 100")

    def crash(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(tmp_path, 200, b"state 200")
    assert checkpoints.newest_valid(tmp_path) == (100, b"state 100")


def test_old_ones_are_removed_and_foreign_files_stay(checkpoints: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "step-notes.txt").write_text("mine")
    for step in range(5):
        checkpoints.save(tmp_path, step, b"x%d" % step)
    names = sorted(path.name[:17] for path in tmp_path.iterdir())
    assert names == ["step-000000000003", "step-000000000004", "step-notes.txt"]
