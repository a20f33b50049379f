"""The testbed itself: real services, clean exits, and no trace of a kill."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.testbed import boot, rootfs
from slurm_gpuaas.testbed.cache import Cache
from slurm_gpuaas.testbed.errors import CommandFailed
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.machine import end, running
from slurm_gpuaas.testbed.status import status_of

pytestmark = pytest.mark.slurm

GPUAAS = [sys.executable, "-m", "slurm_gpuaas.cli", "testbed"]


def until(what: str, condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


@pytest.fixture
def name() -> Iterator[str]:
    """Name of an instance that is gone after the test."""
    own = f"pytest-{os.getpid()}-own"
    yield own
    end(own)


def test_every_service_runs_and_every_node_is_idle(mini: Instance) -> None:
    status = status_of(mini)
    assert status.nodes == {"idle": 8}
    assert status.services == dict.fromkeys(("munged", "mariadb", "slurmdbd", "slurmctld", "slurmrestd"), True)


def test_a_second_up_returns_the_same_instance(mini: Instance) -> None:
    assert Instance.up("mini", mini.name) == mini


def test_a_job_gets_the_gpus_it_asks_for_on_the_nodes_it_asks_for(mini: Instance) -> None:
    script = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    job = ["srun", "--partition=all", "--nodelist=b200-[04-05]", "--gpus-per-node=b200:3", "sh", "-c", script]
    assert sorted(mini.exec(job).stdout.splitlines()) == ["b200-04 0,1,2", "b200-05 0,1,2"]


def test_slurm_knows_the_leaf_groups(mini: Instance) -> None:
    listing = mini.exec(["scontrol", "show", "topology"]).stdout
    assert re.search(r"SwitchName=\S+ Level=0 \S+ Nodes=b200-\[01-04\]", listing)
    assert re.search(r"SwitchName=\S+ Level=0 \S+ Nodes=b200-\[05-08\]", listing)


def test_researchers_are_unix_users_and_run_as_themselves(mini: Instance) -> None:
    script = "id -un; id -gn; pwd; echo $HOME; env | sort | cut -d= -f1 | tr '\\n' ' '"
    user, group, folder, home, variables = mini.exec(["sh", "-c", script], user="alice").stdout.splitlines()
    assert (user, group, folder, home) == ("alice", "alice", "/home/alice", "/home/alice")
    assert not {"GPUAAS_CACHE", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"} & set(variables.split()), "the host's environment"


def test_new_users_can_be_made_and_old_ones_stay(mini: Instance) -> None:
    mini.add_users(["olivia", "alice"])
    mini.add_users(["olivia"])
    assert mini.exec(["id", "-un"], user="olivia").stdout == "olivia\n"


def test_a_failing_command_raises_with_its_output(mini: Instance) -> None:
    with pytest.raises(CommandFailed, match=r"exit 3\): oh no") as caught:
        mini.exec(["sh", "-c", "echo oh no >&2; exit 3"])
    assert caught.value.returncode == 3
    assert mini.exec(["sh", "-c", "exit 3"], check=False).returncode == 3


def test_a_command_that_takes_too_long_is_ended_inside_too(mini: Instance) -> None:
    with pytest.raises(CommandFailed, match="took longer than"):
        mini.exec(["sleep", "7777"], timeout=0.3)
    until("the end of sleep", lambda: mini.exec(["pgrep", "-fx", "sleep 7777"], check=False).returncode == 1)


def test_commands_read_what_they_are_given(mini: Instance) -> None:
    assert mini.exec(["tr", "a-z", "A-Z"], stdin="text").stdout == "TEXT"
    assert mini.exec(["cat"]).stdout == ""


def test_links_inside_lead_inside(mini: Instance) -> None:
    mini.exec(["ln", "-sfn", "/etc/../etc/hostname", "/tmp/absolute"])
    mini.exec(["ln", "-sfn", "absolute", "/tmp/relative"])
    mini.write("/etc/hostname", "inside\n")
    assert mini.path("/tmp/relative").read_text() == "inside\n"
    assert mini.path("/etc/slurm/topology.yaml").name == "topology.yaml"


def test_the_checkout_and_the_environment_cannot_be_changed_from_inside(mini: Instance) -> None:
    for target in ("/opt/gpuaas/src/x", "/opt/gpuaas/venv/x", "/opt/gpuaas/sim/x"):
        with pytest.raises(CommandFailed, match="Read-only file system"):
            mini.exec(["touch", target])


def test_the_environment_inside_has_our_dependencies_and_pyslurm(mini: Instance) -> None:
    script = "import pyslurm, fastapi, sqlmodel, pynvml; print(len(pyslurm.Nodes.load()))"
    assert mini.exec(["/opt/gpuaas/venv/bin/python", "-c", script], user="gpuaas").stdout == "8\n"


def test_training_jobs_find_pytorch_where_this_machine_can_install_it(mini: Instance) -> None:
    python = f"{rootfs.TORCH_INSIDE}/bin/python"
    if not mini.path(python).is_file():
        pytest.skip(f"this machine cannot install {rootfs.TORCH}: see torch.log in the cache")
    script = "import torch; import torch.distributed as d; print(torch.ones(3).sum().item(), d.is_gloo_available())"
    assert mini.exec([python, "-c", script], user="alice").stdout == "3.0 True\n"


def test_a_real_postgres_answers_on_the_host(mini: Instance) -> None:
    url = mini.start_postgres()
    assert url == mini.start_postgres(), "one server, however often it is asked for"
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        (version,) = connection.execute("show server_version").fetchone() or ("",)
    assert version.startswith("18")


def test_a_service_can_be_killed_and_started_again(mini: Instance) -> None:
    mini.stop(boot.SLURMRESTD, signal_name="KILL")
    assert not mini.alive(boot.SLURMRESTD)
    mini.path("/run/slurmrestd/slurmrestd.sock").unlink(missing_ok=True)
    mini.start(boot.SLURMRESTD)
    assert mini.alive(boot.SLURMRESTD)


def test_the_root_folder_runs_tools_without_booting() -> None:
    script = "#!/bin/bash\ncd $1\n"
    done = rootfs.run(["shellcheck", "--format=gcc", "-"], stdin=script, check=False)
    assert "SC2086" in done.stdout
    assert done.returncode == 1


def test_two_testbeds_share_nothing(mini: Instance, name: str) -> None:
    other = Instance.up("mini", name, daemon=False)
    other.exec(["scontrol", "update", "NodeName=b200-01", "State=DRAIN", "Reason=other"])
    assert boot.node_states(other)["drained"] == 1
    assert boot.node_states(mini) == {"idle": 8}
    assert other.exec(["hostname"]).stdout != mini.exec(["hostname"]).stdout


def test_gpuaasd_and_its_agent_run_unless_told_not_to(name: str) -> None:
    status = status_of(Instance.up("mini", name))
    assert status.services["gpuaasd"]
    assert status.services["gpuaas-agent"]
    assert 50 < status.memory_mib < 1000


def test_down_leaves_nothing(name: str) -> None:
    before = set(Path("/run").iterdir()) | set(Path("/tmp").iterdir()) | set(Path("/dev").iterdir())
    instance = Instance.up("mini", name, daemon=False)
    sleeper = instance.popen(["sleep", "1000"], user="alice", stdin=subprocess.DEVNULL)
    inside = list(instance.processes())
    instance.down()
    sleeper.wait(10)
    assert not [pid for pid in inside if _is_running(pid)]
    assert name not in running()
    assert str(Cache.default().root) not in Path("/proc/self/mounts").read_text()
    assert list(Cache.default().mount_point.iterdir()) == []
    after = set(Path("/run").iterdir()) | set(Path("/tmp").iterdir()) | set(Path("/dev").iterdir())
    assert not [path for path in after - before if "gpuaas" in path.name or "slurm" in path.name]


def _is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("moment", ["namespaces", "configuration", "MUNGE", "slurmctld", "slurmrestd"])
def test_up_works_again_after_a_kill_at_any_moment(name: str, moment: str) -> None:
    up = [*GPUAAS, "up", "--profile", "mini", "--no-daemon", "--name", name]
    with subprocess.Popen(up, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as first:
        assert first.stderr
        if moment == "namespaces":
            until("a first process", lambda: name in running() or first.poll() is not None)
        else:
            for line in first.stderr:
                if moment in line:
                    break
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL, "it should have been killed before it was done"
    subprocess.run(up, check=True, capture_output=True)
    assert boot.node_states(Instance.attach(name)) == {"idle": 8}


def command_lines() -> Iterator[list[str]]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield file.read_text(errors="replace").rstrip("\0").split("\0")


def test_a_killed_build_ends_what_it_started() -> None:
    seconds = str(100_000 + os.getpid())
    script = f"from slurm_gpuaas.testbed import rootfs; rootfs.run(['sleep', '{seconds}'])"

    def sleeping() -> bool:
        return any(words == ["sleep", seconds] for words in command_lines())

    with subprocess.Popen([sys.executable, "-c", script]) as builder:
        try:
            until("sleep", sleeping)
        finally:
            builder.send_signal(signal.SIGKILL)
    until("the end of sleep", lambda: not sleeping())


def test_what_is_not_up_is_named_with_what_is(mini: Instance) -> None:
    with pytest.raises(NotFound, match=f"No testbed named nowhere is up .*{mini.name}"):
        Instance.attach("nowhere")


class TestCommands:
    def test_exec_passes_the_exit_status_and_the_user(self, mini: Instance) -> None:
        command = [*GPUAAS, "exec", "--name", mini.name, "--user", "bob", "--", "sh", "-c", "id -un; exit 7"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("bob\n", 7)

    def test_status_speaks_json(self, mini: Instance) -> None:
        done = subprocess.run([*GPUAAS, "status", "--name", mini.name, "--json"], capture_output=True, text=True)
        assert f'"name": "{mini.name}"' in done.stdout

    def test_logs_of_a_node_and_of_a_service(self, mini: Instance) -> None:
        for what in ("b200-03", "slurmctld"):
            done = subprocess.run([*GPUAAS, "logs", what, "--name", mini.name], capture_output=True, text=True)
            assert done.returncode == 0
            assert "[20" in done.stdout

    def test_an_unknown_log_is_an_error_with_the_known_ones(self, mini: Instance) -> None:
        done = subprocess.run([*GPUAAS, "logs", "nothing", "--name", mini.name], capture_output=True, text=True)
        assert done.returncode == 3
        assert "munged, mariadb" in done.stderr
        assert "Traceback" not in done.stderr
