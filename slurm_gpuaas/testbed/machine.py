"""A machine of the testbed: processes in namespaces of their own, with a root folder that lies in memory.

The host holds nothing of it but processes: its files lie in memory, its state in its own /run, and it is found by a
marker in the command line of its first process. Ending that process ends all of it: nothing is left to tidy up.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound, Refused
from slurm_gpuaas.testbed import sandbox
from slurm_gpuaas.testbed.cache import Cache
from slurm_gpuaas.testbed.errors import CommandFailed, ServiceFailed, TestbedError
from slurm_gpuaas.testbed.releases import DEFAULT
from slurm_gpuaas.testbed.rootfs import PATH_INSIDE, Artifacts
from slurm_gpuaas.testbed.sandbox import Spec
from slurm_gpuaas.testbed.sim import build as nvml

T = TypeVar("T")
_SECONDS: Final = struct.Struct("=q")

MARKER: Final = "gpuaas-testbed:"
STATE_FILE: Final = "/run/gpuaas-testbed/state.json"
PID_FOLDER: Final = "/run/gpuaas-testbed"
CLOCK_FILE: Final = "/run/gpuaas-clock"
CLOCK_LIBRARY: Final = f"/opt/gpuaas/sim/{nvml.CLOCK_LIBRARY}"


@dataclass(frozen=True, kw_only=True)
class Service:
    """A process that a machine keeps running.

    Args:
        argv: command that stays in the foreground (unless `forks`).
        ready: tells whether it answers yet.
        pidfile: where its process number stands.
        forks: it goes to the background by itself.
    """

    name: str
    argv: tuple[str, ...]
    user: str
    log: str
    ready: Callable[[Machine], bool]
    pidfile: str = ""
    forks: bool = False

    @property
    def matching(self) -> tuple[str, ...]:
        """How start-stop-daemon knows its process. slurmctld gives its pid file to SlurmUser, and a file that is not
        root's is not believed alone: the process must run the program, too."""
        return ("--pidfile", self.pid_path, *(("--exec", self.argv[0]) if self.forks else ()))

    @property
    def pid_path(self) -> str:
        return self.pidfile or f"{PID_FOLDER}/{self.name}.pid"


@dataclass(frozen=True)
class State:
    """What an instance remembers of its boot; written last, so an instance without it never finished booting."""

    profile: str
    cluster: str
    boot_seconds: float = 0
    slurm: str = DEFAULT
    """Release, e.g. `24.11`."""

    def same(self, other: State) -> bool:
        """But for the seconds."""
        return replace(self, boot_seconds=0) == replace(other, boot_seconds=0)

    @classmethod
    def read(cls, text: str) -> State:
        """What another version wrote beside it is left out: instances of several checkouts may stand on a host."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


@dataclass(frozen=True)
class Machine:
    """One that is up.

    Args:
        name: unique on the host.
        pid: its first process, as the host numbers it.
    """

    name: str
    pid: int

    def down(self) -> None:
        """Ends it and everything in it."""
        end(self.name)

    @property
    def state(self) -> State:
        """What it remembers of its boot."""
        return State.read(self.path(STATE_FILE).read_text())

    def services(self) -> Sequence[Service]:
        """What it can run."""
        return ()

    # ---------------------------------------------------------------- clock

    def make_clock(self) -> None:
        """Everything that starts from now on sees a wall clock of the machine's own, which can be set ahead."""
        self.path(CLOCK_FILE).write_bytes(_SECONDS.pack(0))
        self.write("/etc/ld.so.preload", f"{CLOCK_LIBRARY}\n")

    @property
    def ahead(self) -> int:
        """Seconds by which its wall clock is ahead of the host's."""
        file = self.path(CLOCK_FILE)
        return int(_SECONDS.unpack(file.read_bytes())[0]) if file.is_file() else 0

    def set_ahead(self, seconds: int) -> None:
        """Set its wall clock to the host's and so many seconds, for all its programs at once.

        Raises:
            InvalidInput: it has no clock of its own, or it would go back.
        """
        file = self.path(CLOCK_FILE)
        if not file.is_file() or seconds < self.ahead:
            raise InvalidInput(f"The clock of {self.name} cannot be set {seconds} s ahead.", way_out="Boot it anew.")
        with file.open("r+b") as mapped:
            mapped.write(_SECONDS.pack(seconds))

    # ---------------------------------------------------------------- files

    def keep_logs(self, target: Path) -> Path:
        """Copies its logs to a folder of the host, which then holds nothing else."""
        shutil.rmtree(target, ignore_errors=True)
        return shutil.copytree(self.path("/var/log"), target, symlinks=True)

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def path(self, inside: str) -> Path:
        """The host's path of an absolute path inside. Links are followed as the instance sees them."""
        resolved = self.root
        parts = list(Path(inside).parts[1:])[::-1]
        for _ in range(1000):
            if not parts:
                return resolved
            step = resolved / parts.pop()
            if step.is_symlink():
                target = step.readlink()
                parts.extend([part for part in target.parts if part != "/"][::-1])
                resolved = self.root if target.is_absolute() else resolved
            else:
                resolved = resolved.parent if step.name == ".." else step
        raise InvalidInput(f"{inside} has a loop of symbolic links.")

    def write(self, inside: str, text: str, *, owner: str = "root", mode: int = 0o644) -> None:
        """Writes a file inside and makes its folders."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        self.own(inside, owner, mode)

    def make_folder(self, inside: str, *, owner: str = "root", mode: int = 0o755) -> None:
        self.path(inside).mkdir(parents=True, exist_ok=True)
        self.own(inside, owner, mode)

    def own(self, inside: str, owner: str, mode: int) -> None:
        account = self.account(owner)
        os.chown(self.path(inside), account.pw_uid, account.pw_gid)
        self.path(inside).chmod(mode)

    def account(self, user: str) -> pwd.struct_passwd:
        """The UNIX user as the instance knows it.

        Raises:
            NotFound: there is no such user inside.
        """
        for line in self.path("/etc/passwd").read_text().splitlines():
            name, password, uid, gid, *rest = line.split(":")
            if name == user:
                return pwd.struct_passwd((name, password, int(uid), int(gid), *rest))
        raise NotFound(
            f"There is no user {user} in testbed {self.name}.",
            way_out=f"gpuaas testbed adduser {user} --name {self.name}",
        )

    def add_users(self, names: Sequence[str]) -> None:
        """Makes UNIX users with a home folder; those that exist are left as they are."""
        known = {line.split(":")[0] for line in self.path("/etc/passwd").read_text().splitlines()}
        for name in names:
            if name not in known:
                self.exec(["useradd", "--create-home", "--shell", "/bin/bash", "--", name])

    # ---------------------------------------------------------------- processes

    def command(self, argv: Sequence[str], user: str = "root", cwd: str | None = None) -> list[str]:
        """The host's command line that runs `argv` inside as `user`; give it `environment(user)`."""
        account = self.account(user)
        return [
            *(
                host_tool("nsenter"),
                f"--target={self.pid}",
                "--mount",
                "--pid",
                "--net",
                "--uts",
                "--ipc",
                "--root",
                "--wd",
            ),
            *("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "--pdeathsig=KILL"),
            *("env", f"--chdir={cwd or self._home(account)}", *argv),
        ]

    def environment(self, user: str = "root", extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """A clean environment for `user`."""
        account = self.account(user)
        return {
            "PATH": PATH_INSIDE,
            "HOME": account.pw_dir,
            "USER": user,
            "LOGNAME": user,
            "SHELL": account.pw_shell,
            "LANG": "C.UTF-8",
            **(extra or {}),
        }

    def _home(self, account: pwd.struct_passwd) -> str:
        return account.pw_dir if self.path(account.pw_dir).is_dir() else "/"

    def exec(
        self,
        argv: Sequence[str],
        user: str = "root",
        *,
        check: bool = True,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside to its end and returns its output as text.

        Raises:
            CommandFailed: its exit status was not 0 (with `check`), or it took longer than `timeout` seconds.
        """
        try:
            done = subprocess.run(
                self.command(argv, user, cwd),
                env=self.environment(user, env),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as late:
            raise CommandFailed(argv, 124, "", f"took longer than {late.timeout:g} s") from late
        if check and done.returncode:
            raise CommandFailed(argv, done.returncode, done.stdout, done.stderr)
        return done

    def popen(
        self,
        argv: Sequence[str],
        user: str = "root",
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        text: bool = True,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Starts a command inside; `options` go to subprocess.Popen. It is killed when the returned process ends."""
        command = self.command(argv, user, cwd)
        return subprocess.Popen(command, env=self.environment(user, env), text=text, **options)

    def processes(self) -> Iterator[int]:
        """All its processes, as the host numbers them."""
        own = Path(f"/proc/{self.pid}/ns/pid").readlink()
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and (folder / "ns/pid").readlink() == own:
                    yield int(folder.name)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended meanwhile, or is a host's own that even root may not look at

    def runs(self, command: str) -> bool:
        """Whether a process inside has this name (as the kernel keeps it, 15 characters)."""
        return any(_read(f"/proc/{pid}/comm").strip() == command[:15] for pid in self.processes())

    def listening(self, port: int) -> bool:
        """Whether something inside listens on this TCP port."""
        for table in ("tcp", "tcp6"):
            for row in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, status, *_ = row.split()
                if status == "0A" and int(local.rsplit(":", 1)[1], 16) == port:
                    return True
        return False

    def wait_for(self, what: str, condition: Callable[[], T | None], *, seconds: float = 60, every: float = 0.05) -> T:
        """The first true value of `condition`.

        Raises:
            ServiceFailed: it did not come true in `seconds`.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(every)
        raise ServiceFailed(
            f"{what} did not happen within {seconds:g} s.", way_out=f"Look at `gpuaas testbed logs --name {self.name}`."
        )

    # ---------------------------------------------------------------- services

    def alive(self, service: Service) -> bool:
        """Whether the process that the service's pid file names exists inside."""
        path = self.path(service.pid_path)
        number = path.read_text().strip() if path.is_file() else ""
        return number.isdigit() and self.path(f"/proc/{number}").exists()

    def start(self, service: Service) -> None:
        """Starts the service unless it runs, and waits until it is ready.

        Raises:
            ServiceFailed: it ended, or was not ready in 60 s; the message has the last lines of its log.
        """
        if not self.alive(service):
            program, *arguments = service.argv
            background = () if service.forks else ("--background", "--make-pidfile", "--output", service.log)
            self.exec(
                [
                    *("start-stop-daemon", "--start", "--quiet", *service.matching, "--chuid", service.user),
                    *(*background, "--startas", program, "--", *arguments),
                ],
                cwd="/",
            )

        def ready() -> bool:
            return self.alive(service) and service.ready(self)

        def dead() -> bool:
            # one that forks is started before its pid file says so
            return not self.alive(service) and not (service.forks and self.runs(Path(service.argv[0]).name))

        self.wait_for(f"Readiness of {service.name}", lambda: ready() or dead(), seconds=60, every=0.02)
        if not ready():
            log = self.path(service.log)
            lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
            raise ServiceFailed(f"{service.name} ended as it started: {' | '.join(lines[-5:]) or 'it wrote no log'}.")

    def stop(self, service: Service, *, signal_name: str = "TERM") -> None:
        """Stops a service and waits until it is gone; `signal_name` KILL for a crash."""
        arguments = ["start-stop-daemon", "--stop", "--quiet", "--oknodo", *service.matching]
        self.exec([*arguments, "--retry", f"{signal_name}/30"], cwd="/")
        # One that is only just dying has no program any more but is there still, and would be taken for running.
        self.wait_for(f"The end of {service.name}", lambda: not self.alive(service), seconds=30, every=0.01)

    def log_files(self, what: str | None = None) -> list[str]:
        """Log files (paths inside) of a service or a node; without `what`, of every service.

        Raises:
            NotFound: there is no such log.
        """
        found = [service.log for service in self.services() if what in (None, service.name)]
        found += [f"/var/log/slurm/slurmd.{what}.log"] if what else []
        existing = [log for log in found if self.path(log).is_file()]
        if not existing:
            known = ", ".join(service.name for service in self.services())
            raise NotFound(f"There is no log of {what}.", way_out=f"Name one of {known}, or a node.")
        return existing


@dataclass(frozen=True)
class Running:
    """First process of an instance, and its state once booted."""

    pid: int
    state: State | None


M = TypeVar("M", bound=Machine)


def bring_up(wanted: State, name: str, artifacts: Artifacts, make: Callable[[int], M], boot: Callable[[M], None]) -> M:
    """Boots a machine; one of that name that is up with the same state is returned as it is, another is ended.

    Args:
        make: from the number of its first process.

    Raises:
        TestbedError: it could not be booted; what was started of it is gone again, its logs are kept.
    """
    cache = Cache.default()
    with cache.lock(f"instance-{name}"):
        found = running().get(name)
        if found and found.state and found.state.same(wanted):
            return make(found.pid)
        end(name)  # another one, or its boot was cut short
        started = time.monotonic()
        machine = make(launch(cache, name, artifacts))
        try:
            boot(machine)
        except BaseException as error:
            if isinstance(error, GpuaasError):
                error.way_out = f"Its logs were kept in {machine.keep_logs(cache.logs / name)}."
            machine.down()
            raise
        machine.write(STATE_FILE, json.dumps(vars(replace(wanted, boot_seconds=time.monotonic() - started))))
    return machine


def running() -> dict[str, Running]:
    """Every instance on this host, booted or not."""
    found = {}
    for pid, name in _marked():
        status = _read(f"/proc/{pid}/status")
        numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
        if len(numbers) > 1 and numbers[-1] == "1":
            text = _read(f"/proc/{pid}/root{STATE_FILE}")
            found[name] = Running(pid, State.read(text) if text else None)
    return found


def end(name: str) -> None:
    """Ends every process of the instance and returns when they and their mounts are gone."""
    deadline = time.monotonic() + 30
    while marked := [pid for pid, owner in _marked() if owner == name]:
        first = running().get(name)
        for pid in [first.pid] if first else marked:  # with its first process the kernel ends all others
            _kill(pid)
        if time.monotonic() > deadline:
            raise TestbedError(
                f"Processes {marked} of testbed {name} did not end within 30 s.", way_out="Look at `ps`."
            )
        time.sleep(0.02)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _marked() -> Iterator[tuple[int, str]]:
    """Processes that carry the marker: the first one of each instance and the `unshare` above it."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            for word in _read(f"{folder}/cmdline").split("\0"):
                if word.startswith(MARKER) and _is_roots(folder):
                    yield int(folder.name), word.removeprefix(MARKER)


def _is_roots(process: Path) -> bool:
    """Whether it is a process of root in our own user namespace. Any user can write our marker into a command line, and
    be process 1 and root in namespaces of their own; what they put there must never be entered."""
    uids = next((line.split()[1:] for line in _read(f"{process}/status").splitlines() if line.startswith("Uid:")), [])
    try:
        return set(uids) == {"0"} and (process / "ns/user").readlink() == Path("/proc/self/ns/user").readlink()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # it ended meanwhile, or may not be looked at


def _read(path: str) -> str:
    """A file's text, or nothing when it or its process is gone."""
    try:
        return Path(path).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def launch(cache: Cache, name: str, artifacts: Artifacts) -> int:
    """Starts the first process; returns its number once its root folder is mounted."""
    spec = Spec(
        lower=str(artifacts.root),
        mount_point=str(cache.mount_point),
        hostname=host_name(name),
        binds=artifacts.binds(),
    )
    command = [
        *("setsid", "--fork", "unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"),
        *("--propagation", "slave", sys.executable, sandbox.__file__, f"{MARKER}{name}", spec.to_json()),
    ]
    output: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/") as process:
        stream: IO[str] = process.stdout  # type: ignore[assignment]
        for line in stream:
            if line == "ready\n":
                return running()[name].pid
            output.append(line)
    raise TestbedError(
        f"The namespaces of testbed {name} could not be made: {''.join(output).strip().splitlines()[-1:]}.",
        way_out="It needs root with the right to mount (in a container: --privileged).",
    )


def host_name(name: str) -> str:
    return f"testbed-{name}"


def host_tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise TestbedError(f"{name} is missing on this machine.", way_out="Install util-linux.")
    return found


def require_root() -> None:
    if os.geteuid() != 0:
        raise Refused("The testbed needs root: it mounts and makes namespaces.", way_out="Run it with sudo.")
