"""Root folder, pyslurm wheel, Python environment and database seed: built once, then taken from the cache.

Each artifact's key is a hash of its inputs (package lock, dependency list, the recipe below), so a change of inputs
builds anew and nothing else does. Builds run in namespaces that end with this process, so a killed build leaves no
process and no mount.
"""

from __future__ import annotations

import configparser
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import slurm_gpuaas
from slurm_gpuaas.testbed import hostenv, sandbox
from slurm_gpuaas.testbed.cache import Cache, key_of
from slurm_gpuaas.testbed.errors import ArchiveMoved, TestbedError
from slurm_gpuaas.testbed.progress import Note, Progress, SilentProgress
from slurm_gpuaas.testbed.releases import DEFAULT, RELEASES, Release
from slurm_gpuaas.testbed.sandbox import Bind, Spec
from slurm_gpuaas.testbed.sim import build as nvml

CHECKOUT: Final = Path(slurm_gpuaas.__file__).parents[1]
LOCK_FILE: Final = Path(__file__).with_name("packages.lock")
UNLOCKED: Final = ("iproute2", "procps", "ca-certificates", "libc6-dev", "passwd", "util-linux", "slapd")
ROOT_OPTIONS: Final = (
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
)

SOURCE: Final = "/opt/gpuaas/src"
TORCH: Final = "torch==2.13.0+cpu"
TORCH_INSIDE: Final = "/opt/gpuaas/torch"
VENV: Final = "/opt/gpuaas/venv"
PYSLURM: Final = "pyslurm==25.11.2"
PYSLURM_FOR_SLURM: Final = "0x190b02"
"""The Slurm version (25.11.2) that this pyslurm insists on."""
PYSLURM_CFLAGS: Final = (
    # Slurm's own switch for callers of the older API, then one renamed function and one error number that went
    "-DSLURM_BACKWARD_COMPAT -Dslurm_free_ctl_conf=slurm_free_conf -DESLURM_ERROR_ON_DESC_TO_RECORD_COPY=2021"
)
PATH_INSIDE: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DATABASE_RECIPE: Final = """[mariadbd]
user=mysql
skip-networking
innodb_snapshot_isolation=OFF
innodb_buffer_pool_size=128M
innodb_log_file_size=8M
innodb_log_buffer_size=8M
innodb_flush_log_at_trx_commit=2
innodb_lock_wait_timeout=900
innodb_undo_tablespaces=0
innodb_temp_data_file_path=ibtmp1:4M:autoextend
aria_log_file_size=8M
aria_pagecache_buffer_size=8M
max_allowed_packet=64M
performance_schema=OFF
"""
"""MariaDB's settings; slurmdbd refuses snapshot isolation, and redo logs are small because all lies in memory."""


@dataclass(frozen=True)
class Artifacts:
    """Folders in the cache from which an instance is made."""

    root: Path
    venv: Path
    database: Path
    sim: Path
    torch: Path | None

    def binds(self) -> list[Bind]:
        """Where an instance finds them, and the checkout."""
        found = [
            Bind(source=str(CHECKOUT), target=SOURCE),
            Bind(source=str(self.venv), target=VENV),
            Bind(source=str(self.sim), target="/opt/gpuaas/sim"),
        ]
        return [*found, *torch_binds(self.torch)] if self.torch else found


def locked_versions(suite: str, text: str | None = None) -> dict[str, str]:
    """Package to version, as packages.lock has them for `suite`."""
    lines = (LOCK_FILE.read_text() if text is None else text).splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {package: version for row_suite, package, version in rows if row_suite == suite}


def sandboxed(spec: Spec, marker: str = "gpuaas-testbed-run") -> list[str]:
    """Command line of a throwaway root folder whose processes and mounts end with the calling process."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "slave"),
        *(sys.executable, sandbox.__file__, marker, spec.to_json()),
    ]


@dataclass(frozen=True)
class Builder:
    """Builds what is missing of the artifacts of a Slurm release.

    Raises (all methods):
        TestbedError: a build failed; the message carries its last line and where the whole output is.
        ArchiveMoved: the archive does not have the locked versions any more.
    """

    cache: Cache
    release: Release = RELEASES[DEFAULT]
    progress: Progress = field(default_factory=SilentProgress)

    @property
    def suite(self) -> str:
        return self.release.suite

    @property
    def _renewal(self) -> str:
        """Command that takes the archive's versions of today."""
        return f"gpuaas testbed lock --update --slurm {self.release.slurm}"

    def all(self) -> Artifacts:
        root = self.root()
        with ThreadPoolExecutor(2) as pool:
            database = pool.submit(self.database, root)
            venv = pool.submit(self.venv, root)
            sim = pool.submit(self.sim, root)
            torch = pool.submit(self.torch, root)
            pool.submit(self.bytecode, root).result()
            return Artifacts(
                root=root,
                venv=venv.result(),
                database=database.result(),
                sim=sim.result(),
                torch=torch.result(),
            )

    def root(self) -> Path:
        """The Debian root folder with everything an instance runs."""
        versions = locked_versions(self.suite)
        if not versions:
            raise TestbedError(
                f"{LOCK_FILE.name} has no versions for suite {self.suite}.",
                way_out=self._renewal,
            )
        pinned = [f"{package}={version}" for package, version in sorted(versions.items())]
        key = key_of(self.suite, platform.machine(), *pinned, *UNLOCKED, *ROOT_OPTIONS)
        return self._artifact(f"root-{self.suite}", key, lambda folder: self._debootstrap(folder, pinned)) / "root"

    def _artifact(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        def build_with_fresh_log(folder: Path) -> None:
            (self.cache.logs / f"{kind}.log").unlink(missing_ok=True)
            build(folder)

        return self.cache.artifact(kind, key, build_with_fresh_log)

    def update_lock(self) -> dict[str, str]:
        """Writes into packages.lock, and returns, the versions that the archive has now of the packages we lock."""
        with self.cache.scratch("newest") as folder:
            self._debootstrap(folder, self.release.locked)
            query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *self.release.locked]
            listing = self.run(query, root=folder / "root").stdout
        versions = dict(line.split() for line in listing.splitlines())
        LOCK_FILE.write_text(updated_lock(versions, self.suite, LOCK_FILE.read_text()))
        return versions

    def _debootstrap(self, folder: Path, packages: Sequence[str]) -> None:
        with self.progress.step(f"Debian {self.suite} root folder (Slurm, MariaDB, Python)") as note:
            hostenv.ensure_tools()
            mirror = hostenv.debian_mirror()
            command = [
                *(
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "unshare",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                ),
                *("mmdebstrap", "--verbose", *ROOT_OPTIONS, f"--include={','.join([*packages, *UNLOCKED])}"),
                *(f"--aptopt={option}" for option in hostenv.apt_options()),
                *(self.suite, str(folder / "root"), *([mirror] if mirror else [])),
            ]
            try:
                self._logged(f"root-{self.suite}", command, os.environ, note)
            except BuildFailed as failure:
                if gone := versions_gone(failure.output):
                    raise ArchiveMoved(
                        f"The Debian archive has moved on: it no longer has {', '.join(gone)} of suite {self.suite}.",
                        way_out=f"Take its newer versions with `{self._renewal}`, or point "
                        f"{hostenv.MIRROR_VARIABLE} at a mirror or snapshot that still has them.",
                    ) from failure
                raise
            # how this host reaches its archive is of no use inside, and may hold a proxy's password
            for leftover in ("apt/sources.list", "apt/apt.conf.d/99mmdebstrap", "resolv.conf", "hostname"):
                (folder / "root" / "etc" / leftover).unlink(missing_ok=True)

    def wheel(self, root: Path) -> Path:
        """Folder with the pyslurm wheel built against this root folder's Slurm."""
        key = key_of(root.parent.name, PYSLURM, PYSLURM_CFLAGS, PYSLURM_FOR_SLURM)
        return self._artifact("pyslurm", key, lambda folder: self._build_wheel(folder, root))

    def _build_wheel(self, folder: Path, root: Path) -> None:
        # pyslurm compares the headers' version with its own: give it a folder of links with a version file that agrees
        headers = folder / "include" / "slurm"
        headers.mkdir(parents=True)
        for header in (root / "usr/include/slurm").iterdir():
            (headers / header.name).symlink_to(f"/usr/include/slurm/{header.name}")
        version = headers / "slurm_version.h"
        text = re.sub(r"0x[0-9a-fA-F]{6}", PYSLURM_FOR_SLURM, (root / "usr/include/slurm/slurm_version.h").read_text())
        version.unlink()
        version.write_text(text)
        (library,) = (path.relative_to(root) for path in (root / "usr/lib").glob("*/slurm-wlm"))
        environment = {
            "SLURM_LIB_DIR": f"/{library}",
            "SLURM_INCLUDE_DIR": "/build/include",
            "CFLAGS": PYSLURM_CFLAGS,
        }
        with self.progress.step(f"{PYSLURM.replace('==', ' ')} wheel (compiled, about 100 s)") as note:
            self._inside(
                "pyslurm",
                [
                    "sh",
                    "-euc",
                    f"python3 -m venv /tmp/v && exec /tmp/v/bin/pip wheel --no-deps --wheel-dir /build {PYSLURM}",
                ],
                root,
                note,
                binds=[Bind(source=str(folder), target="/build", writable=True)],
                environment=environment,
            )

    def venv(self, root: Path) -> Path:
        """Python environment with our dependencies, and pyslurm where it can be built; it must be bound at `VENV`,
        where it was made."""
        requirements = dependencies((CHECKOUT / "setup.cfg").read_text(), ("daemon", "agent", "portal"))
        constraints = (CHECKOUT / "constraints.txt").read_text()
        pyslurm = (PYSLURM, PYSLURM_CFLAGS) if self.release.pyslurm else ()
        key = key_of(root.parent.name, *requirements, constraints, *pyslurm)
        return self._artifact("venv", key, lambda folder: self._build_venv(folder, root, requirements, constraints))

    def _build_venv(self, folder: Path, root: Path, requirements: Sequence[str], constraints: str) -> None:
        (folder / "requirements.txt").write_text("\n".join(requirements))
        (folder / "constraints.txt").write_text(constraints)
        bind = Bind(source=str(folder), target=VENV, writable=True)
        pip = [f"{VENV}/bin/pip", "install", "--no-warn-script-location"]
        with ThreadPoolExecutor(1) as pool:
            wheel = pool.submit(self.wheel, root) if self.release.pyslurm else None
            with self.progress.step("Python environment of the nodes") as note:
                self._inside("venv", ["python3", "-m", "venv", VENV], root, note, binds=[bind])
                ours = [*pip, "-r", f"{VENV}/requirements.txt", "-c", f"{VENV}/constraints.txt"]
                self._inside("venv", ours, root, note, binds=[bind])
            if wheel is None:
                return
            built = Bind(source=str(wheel.result()), target="/build")
        (file,) = Path(built.source).glob("pyslurm-*.whl")
        with self.progress.step("pyslurm into the environment") as note:
            self._inside("venv", [*pip, "--no-deps", f"/build/{file.name}"], root, note, binds=[bind, built])

    def bytecode(self, root: Path) -> None:
        """Compiles the checkout for the root folder's Python, as that Python would if the nodes could write there."""
        bind = Bind(source=str(CHECKOUT), target=SOURCE, writable=True)
        self.run(["python3", "-m", "compileall", "-q", f"{SOURCE}/slurm_gpuaas"], root=root, binds=[bind])

    def database(self, root: Path) -> Path:
        """MariaDB data folder with an empty accounting database, so that a boot need not make one."""
        key = key_of(root.parent.name, DATABASE_RECIPE)
        return self._artifact("database", key, lambda folder: self._build_database(folder, root))

    def _build_database(self, folder: Path, root: Path) -> None:
        (folder / "my.cnf").write_text(DATABASE_RECIPE)
        (folder / "data").mkdir()
        statements = (
            "FLUSH PRIVILEGES",  # the bootstrap mode knows no accounts before
            "CREATE DATABASE slurm_acct_db",
            "CREATE USER slurm@localhost IDENTIFIED VIA unix_socket",
            "GRANT ALL ON slurm_acct_db.* TO slurm@localhost",
        )
        (folder / "seed.sql").write_text("".join(f"{statement};\n" for statement in statements))
        bind = Bind(source=str(folder), target="/seed", writable=True)
        own = ["chown", "mysql:mysql", "/seed/data"]
        make = ["mariadb-install-db", "--defaults-file=/seed/my.cnf", "--datadir=/seed/data", "--skip-test-db"]
        seed = [
            *("mariadbd", "--defaults-file=/seed/my.cnf", "--datadir=/seed/data", "--socket=/tmp/s", "--bootstrap"),
        ]
        with self.progress.step("Database seed") as note:
            self._inside("database", own, root, note, binds=[bind])
            self._inside("database", make, root, note, binds=[bind])
            self._inside("database", seed, root, note, binds=[bind], stdin=folder / "seed.sql")

    def sim(self, root: Path) -> Path:
        """Folder with the simulated NVML library and the clock."""
        sources = (path.read_text() for path in (nvml.SOURCE, nvml.CLOCK_SOURCE, Path(nvml.__file__)))
        key = key_of(root.parent.name, *sources)
        return self._artifact("sim", key, lambda folder: self._build_sim(folder, root))

    def _build_sim(self, folder: Path, root: Path) -> None:
        with self.progress.step("Simulated NVML library, clock"):
            nvml.build_nvml(root, folder)
            nvml.build_clock(root, folder)

    def torch(self, root: Path) -> Path | None:
        """Folder with PyTorch's CPU build for training jobs, for this very Python; None where it cannot be installed.

        One for all root folders: it runs on this host's Python. That it cannot be installed is remembered too, for as
        long as pip's settings stay the same.
        """
        settings = (f"{name}={value}" for name, value in sorted(hostenv.pip_settings().items()))
        key = key_of(TORCH, sys.version, sys.base_prefix, *settings)
        folder = self._artifact("torch", key, lambda it: self._build_torch(it, root))
        return folder if (folder / "site").is_dir() else None

    def _build_torch(self, folder: Path, root: Path) -> None:
        site = folder / "site"
        pip = [sys.executable, "-m", "pip", "install", "--retries=1", "--timeout=20", "--only-binary=:all:"]
        install = ["setpriv", "--pdeathsig", "KILL", *pip, f"--target={site}", TORCH, "numpy"]
        with self.progress.step("PyTorch for training jobs, where this machine can install it") as note:
            for bind in torch_binds(folder)[1:]:  # where this Python will be bound
                place = folder / Path(bind.target).relative_to(TORCH_INSIDE)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.mkdir() if Path(bind.source).is_dir() else place.touch()
            (folder / "bin").mkdir()
            for name, module in {"python": "", "python3": "", "torchrun": "-m torch.distributed.run"}.items():
                script = folder / "bin" / name
                script.write_text(
                    "#!/bin/sh\n"
                    f"export PYTHONPATH={TORCH_INSIDE}/site${{PYTHONPATH:+:$PYTHONPATH}} "
                    f"LD_LIBRARY_PATH={TORCH_INSIDE}/host/lib\n"
                    f'exec {torch_binds(folder)[1].target} {module} "$@"\n'
                )
                script.chmod(0o755)
            try:
                self._logged("torch", install, os.environ, note)
                self._inside(
                    "torch", [f"{TORCH_INSIDE}/bin/python", "-c", "import torch"], root, note, binds=torch_binds(folder)
                )
            except BuildFailed:
                shutil.rmtree(site, ignore_errors=True)

    def run(
        self,
        argv: Sequence[str],
        *,
        root: Path | None = None,
        binds: Sequence[Bind] = (),
        stdin: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a throwaway copy of the root folder, without booting anything."""
        spec = self._spec(root or self.root(), argv, binds)
        environment = {"PATH": PATH_INSIDE, "HOME": "/root", "LANG": "C.UTF-8"}
        done = subprocess.run(
            sandboxed(spec),
            env=environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise TestbedError(f"{argv[0]} failed in the root folder (exit {done.returncode}): {done.stderr.strip()}")
        return done

    def _spec(self, root: Path, argv: Sequence[str], binds: Sequence[Bind]) -> Spec:
        return Spec(lower=str(root), mount_point=str(self.cache.mount_point), argv=list(argv), binds=list(binds))

    def _inside(
        self,
        log: str,
        argv: Sequence[str],
        root: Path,
        note: Note,
        *,
        binds: Sequence[Bind],
        environment: Mapping[str, str] | None = None,
        stdin: Path | None = None,
    ) -> None:
        """One command of a build, in a throwaway root folder with the host's network settings."""
        reach = hostenv.build_environment()
        variables = {"PATH": PATH_INSIDE, "HOME": "/root", "LANG": "C.UTF-8", **reach, **(environment or {})}
        spec = self._spec(root, argv, [*hostenv.build_binds(reach), *binds])
        self._logged(log, sandboxed(spec), variables, note, stdin)

    def _logged(
        self, log: str, command: Sequence[str], environment: Mapping[str, str], note: Note, stdin: Path | None = None
    ) -> None:
        path = self.cache.logs / f"{log}.log"
        tail: deque[str] = deque(maxlen=200)
        with path.open("a") as record, (stdin or Path(os.devnull)).open() as source:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            with process:
                try:
                    for line in process.stdout or ():
                        record.write(line)
                        tail.append(line)
                        note(line.strip())
                except BaseException:  # Ctrl-C: what we started ends before its folder is removed
                    process.kill()
                    raise
        if process.returncode:
            raise BuildFailed(log, process.returncode, "".join(tail), path)


def torch_binds(folder: Path) -> list[Bind]:
    """The folder with PyTorch, and upon it the Python that it was installed for: this one."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = {
        str(Path(sys.executable).resolve()): f"bin/{version}",
        sysconfig.get_path("stdlib"): f"lib/{version}",
    }
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        library = sysconfig.get_config_var("INSTSONAME")
        python[f"{sysconfig.get_config_var('LIBDIR')}/{library}"] = f"lib/{library}"
    host = [Bind(source=source, target=f"{TORCH_INSIDE}/host/{place}") for source, place in python.items()]
    return [Bind(source=str(folder), target=TORCH_INSIDE), *host]


class BuildFailed(TestbedError):
    """A command of a build ended with an error."""

    def __init__(self, what: str, status: int, output: str, log: Path) -> None:
        self.output = output
        super().__init__(
            f"Building {what} failed (exit {status}): {telling_line(output)}.",
            way_out=f"The whole output is in {log}. Another Debian mirror can be given in {hostenv.MIRROR_VARIABLE}.",
        )


def telling_line(output: str) -> str:
    """The line of a failed command's output that says most: apt names the cause first, others last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing"]
    of_apt = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    errors = [line for line in lines if "error" in line.lower()]
    return of_apt[0] if of_apt else [*lines, *errors][-1]


def versions_gone(apt_output: str) -> list[str]:
    """`package version` of everything that apt was told to install and did not find."""
    return [
        f"{name} {version}" for version, name in re.findall(r"Version '(\S+)' for '(\S+)' was not found", apt_output)
    ]


def dependencies(setup_cfg: str, extras: Sequence[str]) -> list[str]:
    """Requirements of the package and of `extras`, as setup.cfg declares them."""
    config = configparser.ConfigParser()
    config.read_string(setup_cfg)
    blocks = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    found = (line.split("#")[0].strip() for block in blocks for line in block.splitlines())
    return sorted({line for line in found if line})


def run(
    argv: Sequence[str], *, stdin: str | None = None, check: bool = True, binds: Sequence[Bind] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs `argv` in a throwaway copy of the default root folder (built when missing): shellcheck, gcc and the like."""
    return Builder(Cache.default()).run(argv, stdin=stdin, check=check, binds=binds)


def updated_lock(versions: Mapping[str, str], suite: str, text: str) -> str:
    """`text` of packages.lock with the lines of `suite` replaced."""
    kept = [line for line in text.splitlines() if line and not line.startswith(f"{suite} ")]
    comments = [line for line in kept if line.startswith("#")]
    rows = {*kept} - {*comments} | {f"{suite} {package} {version}" for package, version in versions.items()}
    return "\n".join([*comments, *sorted(rows)]) + "\n"
