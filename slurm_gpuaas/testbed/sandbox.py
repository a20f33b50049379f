"""First process of a testbed instance, or of a throwaway run, inside namespaces that `unshare` has just made.

Builds a root folder in memory over a read-only one (overlay with its upper part on tmpfs), so nothing it does reaches
the disk, and changes into it. Without a command it only reaps orphans until it is killed; the kernel then ends every
process and mount of the namespaces with it. Run as a script on the standard library alone: `sandbox.py MARKER SPEC`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
DEVICE_LINKS: Final = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A folder or file of the outside made visible at `target` (absolute, inside)."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to build and run.

    Args:
        lower: the read-only root folder.
        mount_point: an empty folder; only this mount namespace sees what is mounted on it.
        hostname: of the UTS namespace, or empty to leave it.
        argv: command to run; empty for an instance that waits.
        chdir: working directory of the command, inside.
    """

    lower: str
    mount_point: str
    hostname: str = ""
    binds: list[Bind] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)
    chdir: str = "/"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        fields = json.loads(text)
        fields["binds"] = [Bind(**bind) for bind in fields["binds"]]
        return cls(**fields)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", "--no-mtab", *arguments], check=True)  # else it notes it in the host's /run


def escaped(path: str) -> str:
    """`path` as an overlay mount option: commas and colons separate there."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def build_root(spec: Spec) -> Path:
    base = Path(spec.mount_point)
    mount("-t", "tmpfs", "-o", "mode=0755", "gpuaas-testbed", str(base))
    upper, work, root = (base / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    options = f"lowerdir={escaped(spec.lower)},upperdir={escaped(str(upper))},workdir={escaped(str(work))}"
    mount("-t", "overlay", "-o", options, "overlay", str(root))
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    mount("-t", "tmpfs", "-o", "mode=0755", "dev", str(root / "dev"))
    for name, numbers in DEVICES.items():
        os.mknod(root / "dev" / name, stat.S_IFCHR, os.makedev(*numbers))
        (root / "dev" / name).chmod(0o666)
    for name, target in DEVICE_LINKS.items():
        (root / "dev" / name).symlink_to(target)
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("shm", "tmpfs", "mode=1777"),
    ):
        (root / "dev" / name).mkdir()
        mount("-t", kind, "-o", options, name, str(root / "dev" / name))
    for bind in spec.binds:
        attach(root, bind)
    return root


def attach(root: Path, bind: Bind) -> None:
    target = root / bind.target.lstrip("/")
    if not target.exists():
        folder = target if Path(bind.source).is_dir() else target.parent
        folder.mkdir(parents=True, exist_ok=True)
        if folder != target:
            target.touch()
    mount("--bind", bind.source, str(target))
    if not bind.writable:
        mount("-o", "remount,bind,ro", str(target))


def reap_for_ever() -> None:
    """The one duty of a first process that runs nothing itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            continue


def run_to_end(argv: list[str]) -> int:
    """Runs the command, reaps whatever it leaves, and returns its exit status (128 + signal when killed)."""
    child = subprocess.Popen(argv)  # its output is ours
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> int:
    spec = Spec.from_json(sys.argv[2])
    os.umask(0o022)
    root = build_root(spec)
    if spec.hostname:
        socket.sethostname(spec.hostname)
    os.chroot(root)
    os.chdir(spec.chdir)
    if spec.argv:
        return run_to_end(spec.argv)
    print("ready", flush=True)
    silence = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    reap_for_ever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
