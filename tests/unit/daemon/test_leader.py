from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_gpuaas.daemon.leader import FileLeadership, PostgresLeadership, leadership_for
from slurm_gpuaas.domain.errors import InvalidInput

HOLD = """
import sys, time, pathlib
from slurm_gpuaas.daemon.leader import FileLeadership
assert FileLeadership(pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_one_leads_and_the_other_stands_by_until_it_is_released(tmp_path: Path) -> None:
    one, two = FileLeadership(tmp_path), FileLeadership(tmp_path)
    assert one.acquire()
    assert one.acquire(), "asking again must stay true"
    assert not two.acquire()
    one.release()
    assert two.acquire()
    assert two.held()
    assert not one.held()


def test_a_leader_that_is_killed_loses_the_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        successor = FileLeadership(tmp_path)
        assert not successor.acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        assert successor.acquire()


def test_a_missing_state_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="state_dir"):
        FileLeadership(tmp_path / "missing").acquire()


def test_the_lock_fits_the_store(tmp_path: Path) -> None:
    assert isinstance(leadership_for("sqlite:////var/lib/gpuaas/gpuaas.db", tmp_path), FileLeadership)
    assert isinstance(leadership_for("postgresql+psycopg://gpuaas@db/gpuaas", tmp_path), PostgresLeadership)
