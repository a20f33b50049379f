"""What of the host a build may use: its Debian mirror, resolver, certificates and pip settings.

Everything is read when a build needs it and handed on by bind mounts and environment; nothing of it is written down.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from slurm_gpuaas.testbed.errors import TestbedError
from slurm_gpuaas.testbed.sandbox import Bind

MIRROR_VARIABLE: Final = "GPUAAS_DEBIAN_MIRROR"
CA_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
NETWORK_VARIABLES: Final = re.compile(
    r"^(PIP_.*|(https?|no|all)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE)$", re.IGNORECASE
)
TOOLS: Final = {"mmdebstrap": "mmdebstrap", "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring"}
"""What makes the root folder, and the package each comes from: all that is ever installed on the host."""


def debian_mirror() -> str | None:
    """Address of the Debian archive: `$GPUAAS_DEBIAN_MIRROR`, else the first mirror of a Debian host's own apt sources,
    else None (mmdebstrap then knows Debian's own)."""
    if given := os.environ.get(MIRROR_VARIABLE):
        return given
    if "\nID=debian\n" not in f"\n{Path('/etc/os-release').read_text()}\n":
        return None
    return next(apt_uris(Path("/etc/apt")), None)


def apt_uris(apt: Path) -> Iterator[str]:
    """Web addresses in the one-line and deb822 sources under `apt`, security archives left out."""
    parts = sorted((apt / "sources.list.d").glob("*")) if (apt / "sources.list.d").is_dir() else []
    for path in [apt / "sources.list", *parts]:
        if path.suffix == ".list" and path.is_file():
            lines = re.findall(r"^deb (?:\[[^]]*\] )?(https?://\S+) +(\S+)", path.read_text(), re.MULTILINE)
            yield from (uri for uri, suite in lines if "security" not in suite)
        elif path.suffix == ".sources" and path.is_file():
            for stanza in re.split(r"\n\s*\n", path.read_text()):
                suites = re.search(r"^Suites:(.*)", stanza, re.MULTILINE)
                uris = re.search(r"^URIs:.*?(https?://\S+)", stanza, re.MULTILINE)
                disabled = re.search(r"^Enabled:\s*no", stanza, re.MULTILINE)
                if uris and suites and not disabled and "security" not in suites[1] and "debian" in stanza:
                    yield uris[1]


def apt_options() -> Iterator[str]:
    """The host's own settings for reaching the archive (proxies, certificates), as apt writes them."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
    for line in dump.splitlines():
        if re.match(r'Acquire::https?::\S+ "[^"]+";', line):
            yield line.rstrip(";")
    yield 'Acquire::Check-Valid-Until "false"'  # a testing suite's mirror may lag behind its stated date


def ensure_tools() -> None:
    """Installs mmdebstrap and Debian's archive keyring on the host when they are missing.

    Raises:
        TestbedError: apt could not install them.
    """
    missing = [package for tool, package in TOOLS.items() if not (shutil.which(tool) or Path(tool).exists())]
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "--quiet"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise TestbedError(
                f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}.",
                way_out=f"Install {' and '.join(missing)} by hand and run this again.",
            )


@cache
def pip_settings() -> dict[str, str]:
    """The host's pip configuration, files and environment together, as the environment variables pip reads."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"], capture_output=True, text=True
    ).stdout
    settings = {}
    for section in ("global", "install", ":env:"):  # pip's order: later wins
        for key, value in re.findall(rf"^{section}\.(\S+?)=(.*)$", listing, re.MULTILINE):
            settings["PIP_" + key.upper().replace("-", "_")] = str(ast.literal_eval(value)).strip()
    return settings


def build_environment() -> dict[str, str]:
    """Variables that let pip inside a root folder reach what the host's reaches."""
    inherited = {name: value for name, value in os.environ.items() if NETWORK_VARIABLES.match(name)}
    certificates = {"SSL_CERT_FILE": str(CA_BUNDLE)} if CA_BUNDLE.exists() else {}
    return {**certificates, **inherited, **pip_settings()}


def build_binds(environment: dict[str, str]) -> list[Bind]:
    """The host's resolver, certificates, and every local path that `environment` names, at their own places."""
    wanted = [Path("/etc/resolv.conf"), Path("/etc/hosts"), CA_BUNDLE, *_local_paths(environment.values())]
    return [Bind(source=str(path), target=str(path)) for path in dict.fromkeys(wanted) if path.exists()]


def _local_paths(values: Iterable[str]) -> Iterator[Path]:
    for word in " ".join(values).split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and not str(path).startswith(("/dev", "/proc")):
            # an index in a folder `simple` links to files beside it
            yield path.parent if path.name == "simple" else path
