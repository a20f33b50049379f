"""A portal on a machine of its own, and wires from there to the host and to testbeds that are sites of it.

The machine has the root folder of the testbeds and nothing of Slurm in it: no configuration, no key, no daemon. A site
gets what an operator would bring there: the certificate, its key, a section in gpuaasd's configuration, gpuaas-people.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.testbed import boot, slurmconf
from slurm_gpuaas.testbed.cache import Cache
from slurm_gpuaas.testbed.errors import TestbedError
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.machine import PID_FOLDER, Machine, Service, State, bring_up, host_tool, require_root, running
from slurm_gpuaas.testbed.progress import Progress, SilentProgress
from slurm_gpuaas.testbed.rootfs import Builder

PROFILE: Final = "portal"
USER: Final = "gpuaas-portal"
FOLDER: Final = "/var/lib/gpuaas-portal"
CONFIG: Final = "/etc/gpuaas/gpuaas-portal.yaml"
CERTIFICATE: Final = "/etc/gpuaas/portal.crt"
ADDRESS: Final = "/etc/gpuaas/address"
PORT: Final = 6890
NETWORK: Final = "198.18.{number}.{host}"
"""Of the block that is set apart for tests of networks (RFC 2544): nobody has it on the internet."""
MOST_NETWORKS: Final = 254
PORTAL_HOST: Final = 1
HOST_HOST: Final = 2
FIRST_SITE_HOST: Final = 11
WIRE: Final = "portal"
"""Name of the interface in a site."""
SITE_KEY: Final = "/etc/gpuaas/site.key"
SITE_CERTIFICATE: Final = "/etc/gpuaas/portal.crt"
STORE: Final = f"{FOLDER}/store.backup"
FILES: Final = "/root/files.tar"
REPORT_EVERY_S: Final = 2
"""Between two reports of a site: one can watch them arrive."""

PORTAL: Final = Service(
    name="gpuaas-portal",
    argv=("/usr/local/bin/gpuaas-portal", "--config", CONFIG),
    user=USER,
    log="/var/log/gpuaas/gpuaas-portal.log",
    ready=lambda machine: machine.listening(PORT),
)


@dataclass(frozen=True)
class Kept:
    """What an operator keeps of a portal elsewhere.

    Args:
        store: the file that `gpuaas-portal backup` wrote.
        files: /etc/gpuaas, as tar writes it: configuration, certificate, keys.
        said: what the command said.
    """

    store: bytes = field(repr=False)
    files: bytes = field(repr=False)
    said: str


@dataclass(frozen=True)
class PortalMachine(Machine):
    """A portal that is up."""

    @classmethod
    def up(
        cls,
        name: str,
        *,
        settings: Mapping[str, Any] | None = None,
        clock: bool = False,
        progress: Progress | None = None,
    ) -> PortalMachine:
        """Brings up a portal without people and sites; one of that name that is up already is returned as it is.

        Args:
            settings: of gpuaas-portal's configuration, beside where it listens.
            clock: give it a wall clock that can be set ahead.

        Raises:
            TestbedError: it could not be booted, or the kernel makes no wires.
        """

        def configure(machine: PortalMachine) -> None:
            machine._configure(settings or {})

        return cls._up(name, 0 if clock else None, configure, progress)

    @classmethod
    def restored(
        cls, name: str, kept: Kept, *, ahead: int | None = None, progress: Progress | None = None
    ) -> PortalMachine:
        """Brings up a clean machine in the place of one that is lost, as an operator does: at its address, with the
        files that were kept of it, the store made of the backup. Wires to sites went with the lost one (`wire`).

        Args:
            ahead: seconds by which its wall clock is ahead of the host's; None = it has none of its own.

        Raises:
            TestbedError, CommandFailed: it could not be booted, or the store could not be made.
        """
        return cls._up(name, ahead, lambda machine: machine._take_over(kept), progress)

    @classmethod
    def _up(
        cls, name: str, ahead: int | None, configure: Callable[[PortalMachine], None], progress: Progress | None
    ) -> PortalMachine:
        require_root()
        shown = progress or SilentProgress()
        ready = Builder(Cache.default(), progress=shown).all()

        def make(machine: PortalMachine) -> None:
            if ahead is not None:
                machine.make_clock()
                machine.set_ahead(ahead)
            with shown.step(f"{name}: network, certificate, gpuaas-portal"):
                machine._install()
                configure(machine)
                machine.start(PORTAL)

        return bring_up(State(PROFILE, ""), name, ready, lambda pid: cls(name, pid), make)

    @classmethod
    def attach(cls, name: str) -> PortalMachine:
        """Raises:
        NotFound: it is not up.
        """
        found = running().get(name)
        if found is None or found.state is None or found.state.profile != PROFILE:
            raise NotFound(f"No portal named {name} is up.")
        return cls(name, found.pid)

    def services(self) -> Sequence[Service]:
        return (PORTAL,)

    @property
    def address(self) -> str:
        """Where host and sites reach it."""
        return self.path(ADDRESS).read_text().strip()

    @property
    def url(self) -> str:
        return f"https://{self.address}:{PORT}"

    # -- Made

    def _install(self) -> None:
        """What is the same on every portal's machine."""
        self.write("/etc/hosts", "127.0.0.1 localhost\n")
        self.path("/etc/munge/munge.key").unlink(missing_ok=True)  # the package made one
        self.exec(["ip", "link", "set", "lo", "up"], cwd="/")
        self.exec(["useradd", "--system", "--home-dir", FOLDER, "--shell", "/bin/bash", USER], cwd="/")
        for folder, owner in ((FOLDER, USER), ("/var/log/gpuaas", USER), ("/etc/gpuaas", "root"), (PID_FOLDER, "root")):
            self.make_folder(folder, owner=owner)
        boot.write_wrapper(self, "gpuaas-portal", "slurm_gpuaas.portal")

    def _configure(self, settings: Mapping[str, Any]) -> None:
        """What is this one's own: address, certificate, the sites' key, configuration."""
        self.write(ADDRESS, self._wire_to_host())
        key = "/etc/gpuaas/portal.key"
        self.exec(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-days", "3650", "-subj", "/CN=gpuaas-portal", "-addext", f"subjectAltName=IP:{self.address}"),
                *("-keyout", key, "-out", CERTIFICATE),
            ],
            cwd="/",
        )
        self.own(key, USER, 0o400)
        self.own(CERTIFICATE, "root", 0o644)
        secret = self.exec(["openssl", "rand", "-hex", "32"], cwd="/").stdout
        self.write("/etc/gpuaas/sites.key", secret, owner=USER, mode=0o600)
        config = {
            "public_url": self.url,
            "listen": {"host": self.address, "port": PORT, "tls": {"certificate": CERTIFICATE, "key": key}},
            "map": {"folder": f"{FOLDER}/map"},
            **settings,
        }
        self.write(CONFIG, yaml.safe_dump(config, allow_unicode=True))

    def _take_over(self, kept: Kept) -> None:
        """All that `_configure` and people would have made, of what was kept."""
        self.path(FILES).write_bytes(kept.files)
        self.exec(["tar", "--extract", f"--file={FILES}", "--directory=/"], cwd="/")
        number = int(self.address.split(".")[2])
        # A network goes some moments after the last process in it.
        self.wait_for(f"The end of the network of {self.address}", lambda: self._wire_number(number), seconds=10)
        self.path(STORE).write_bytes(kept.store)
        self.own(STORE, USER, 0o600)
        self.command_line("restore", STORE)
        for file in (STORE, FILES):
            self.path(file).unlink()

    def _wire_to_host(self) -> str:
        """An interface in the host that goes with the machine; the first number that nobody has.

        Returns:
            Our address.
        """
        for number in range(1, MOST_NETWORKS + 1):
            if ours := self._wire_number(number):
                return ours
        raise TestbedError(f"{MOST_NETWORKS} portals are up.", way_out="gpuaas testbed down --name NAME")

    def _wire_number(self, number: int) -> str | None:
        """Our address on the wire of that number; None = somebody else has it."""
        ours, hosts = (NETWORK.format(number=number, host=host) for host in (PORTAL_HOST, HOST_HOST))
        there = f"gpuaas-{number}"
        made = _ip("link", "add", there, "type", "veth", "peer", "name", "host", "netns", str(self.pid))
        if made.returncode == 0:
            _ip_or_fail("address", "add", hosts, "peer", ours, "dev", there)
            _ip_or_fail("link", "set", there, "up")
            self._address("host", ours, hosts)
            return ours
        if "File exists" not in made.stderr:
            raise _no_wire(made)
        return None

    def _address(self, interface: str, ours: str, theirs: str) -> None:
        self.exec(["ip", "address", "add", ours, "peer", theirs, "dev", interface], cwd="/")
        self.exec(["ip", "link", "set", interface, "up"], cwd="/")

    # -- Commands of its host

    def command_line(self, *argv: str) -> str:
        """What `gpuaas-portal ARGV` prints, run as the portal's user."""
        return self.exec(["gpuaas-portal", "--config", CONFIG, *argv], user=USER).stdout

    def create_admin(self, login: str, *, name: str, password: str, **options: str) -> None:
        """An account of the first hour; `options` as those of the command (`role`, `provider`, `organisation`)."""
        file = f"{FOLDER}/{login}.password"
        self.write(file, password, owner=USER, mode=0o600)
        more = [word for option, value in options.items() for word in (f"--{option}", value)]
        email = f"{login}@example.org"
        self.command_line(
            *("create-admin", "--login", login, "--name", name, "--email", email, "--password-file", file, *more)
        )
        self.path(file).unlink()

    # -- What survives it

    def keep(self) -> Kept:
        """A backup of the store, taken while it runs, and what a backup does not hold."""
        said = self.command_line("backup", STORE)
        self.exec(["tar", "--create", f"--file={FILES}", "--directory=/", "etc/gpuaas"], cwd="/")
        kept = Kept(self.path(STORE).read_bytes(), self.path(FILES).read_bytes(), said.strip())
        for file in (STORE, FILES):
            self.path(file).unlink()
        return kept

    # -- Sites

    def join(self, instance: Instance, *, provider: str, shares: Sequence[str]) -> None:
        """Makes a testbed a site of ours, named like its cluster: wire, key, configuration, gpuaas-people, and
        gpuaasd (started anew if it runs) with its agent."""
        site = instance.cluster.name
        self.wire(instance)
        self.command_line("site", "add", site, "--cluster", site, "--provider", provider, "--out", f"{FOLDER}/{site}")
        key = self.path(f"{FOLDER}/{site}")
        self.command_line("site", "login", site, f"login.{site}.example.org")
        instance.write(SITE_KEY, key.read_text(), owner=boot.ADMINISTRATOR, mode=0o600)
        key.unlink()
        instance.write(SITE_CERTIFICATE, self.path(CERTIFICATE).read_text())
        section = {
            "url": self.url,
            "site": site,
            "key_file": SITE_KEY,
            "ca_file": SITE_CERTIFICATE,
            "shares": list(shares),
            "interval": REPORT_EVERY_S,
            "people_file": "/var/lib/gpuaas/people.json",
            "people_state": "/run/gpuaas-people/state.json",
        }
        config = slurmconf.gpuaasd_yaml(instance.cluster) + yaml.safe_dump({"pool": section})
        instance.write("/etc/gpuaas/gpuaasd.yaml", config)
        instance.write("/etc/gpuaas-people.yaml", "homes: /home\n")
        instance.start(boot.PEOPLE)
        instance.stop(boot.GPUAASD)
        instance.start(boot.GPUAASD)
        instance.start(boot.agent(instance))

    def wire(self, instance: Instance) -> None:
        """A wire to a site, which has none: it is new, or lost it with the portal's machine."""
        # The lost machine's network goes some moments after its last process.
        instance.exec(["ip", "link", "delete", WIRE], cwd="/", check=False)
        wires = self.exec(["ip", "-o", "link", "show"], cwd="/").stdout.count(": site-")
        theirs = self.address.rpartition(".")[0] + f".{FIRST_SITE_HOST + wires}"
        here = f"site-{wires + 1}"
        made = _ip(
            *("link", "add", WIRE, "netns", str(instance.pid), "type", "veth"),
            *("peer", "name", here, "netns", str(self.pid)),
        )
        if made.returncode:
            raise _no_wire(made)
        self._address(here, self.address, theirs)
        instance.exec(["ip", "address", "add", theirs, "peer", self.address, "dev", WIRE], cwd="/")
        instance.exec(["ip", "link", "set", WIRE, "up"], cwd="/")

    @staticmethod
    def cut(instance: Instance) -> None:
        """Nothing goes over the site's wire any more, until it is mended."""
        instance.exec(["ip", "link", "set", WIRE, "down"], cwd="/")

    @staticmethod
    def mend(instance: Instance) -> None:
        instance.exec(["ip", "link", "set", WIRE, "up"], cwd="/")


def _ip(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([host_tool("ip"), *argv], capture_output=True, text=True, check=False)


def _ip_or_fail(*argv: str) -> None:
    done = _ip(*argv)
    if done.returncode:
        raise _no_wire(done)


def _no_wire(done: subprocess.CompletedProcess[str]) -> TestbedError:
    return TestbedError(
        f"No wire could be made: {done.stderr.strip()}.",
        way_out="It needs iproute2 and a kernel with veth (modprobe veth).",
    )
