"""`gpuaas-people`: reads who should have a login, brings this host to it, says what it did. As root, beside gpuaasd."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slurm_gpuaas import __version__
from slurm_gpuaas.api.people import MAX_FILE_BYTES, PeopleState, WantedPeople
from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput
from slurm_gpuaas.domain.programmes import FIRST_UID, LAST_UID
from slurm_gpuaas.people.directory import Directory, bring
from slurm_gpuaas.people.local import LEAST_UID, LocalSettings, LocalUsers
from slurm_gpuaas.service.entry import run
from slurm_gpuaas.service.password import read_password
from slurm_gpuaas.slurm.files import read_dropped, write_atomically

DEFAULT_CONFIG: Final = Path("/etc/gpuaas-people.yaml")
LOOK_S: Final = 0.5
"""Between two looks whether the file of wanted people is another one."""
AGAIN_S: Final = 60.0
"""What was not done, or undone by hand, is tried again after this."""

log = structlog.get_logger(__name__)


class LdapConfig(BaseModel):
    """A directory service (RFC 4511). gpuaas-people needs no root then, only a bind that may write below `base`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        pattern=r"^(ldaps://[A-Za-z0-9.-]+(:\d{1,5})?|ldapi:///[^\x00-\x20]+)$",
        description="`ldaps://HOST`, or `ldapi:///PATH` of a socket on this host.",
    )
    base: str = Field(
        min_length=3, max_length=500, description="Branch of the tree for our logins and nothing else; one a cluster."
    )
    tree: str = Field(
        min_length=3, max_length=500, description="Branch in which names and ids are unique: that of all people."
    )
    bind: str = Field(default="", max_length=500, description="Who writes. Empty on a socket = this process's user.")
    password_file: Path | None = Field(default=None, description="Its password, mode 0600.")
    ca_file: Path | None = Field(default=None, description="Certificates to trust. Absent = the system's.")
    gid: int = Field(ge=100, lt=2**31, description="Number of the group that our people have as their first.")
    homes: str = Field(default="/home", pattern=r"^/[A-Za-z0-9/._-]+$", description="Folder of home folders.")


class Config(BaseModel):
    """What gpuaas-people can be told. The file must be root's: it says who may become a user of this host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wanted: Path = Field(default=Path("/var/lib/gpuaas/people.json"), description="Who should have a login; gpuaasd's.")
    state: Path = Field(default=Path("/run/gpuaas-people/state.json"), description="What was done; gpuaasd reads it.")
    least_uid: int = Field(default=FIRST_UID, ge=LEAST_UID, lt=2**31, description="First id of people's logins.")
    most_uid: int = Field(default=LAST_UID, ge=LEAST_UID, lt=2**31, description="Last one.")
    keys: Path = Field(
        default=Path("/etc/ssh/gpuaas-keys"), description="`AuthorizedKeysFile FOLDER/%u` in sshd_config."
    )
    shell: str = Field(default="/bin/bash", pattern=r"^/[A-Za-z0-9/._-]+$", description="Login shell.")
    homes: Path | None = Field(default=None, description="Folder of home folders. Absent = they are not made here.")
    ldap: LdapConfig | None = Field(
        default=None, description="Keep logins in a directory service instead; `keys` means nothing then."
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Config:
        if self.most_uid < self.least_uid:
            raise ValueError("most_uid is below least_uid")
        return self

    @classmethod
    def load(cls, path: Path) -> Config:
        """Raises:
        InvalidInput: the file is somebody else's, cannot be read, or a field of it is wrong.
        """
        try:
            owner = path.stat()
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidInput(f"Configuration {path} cannot be read: {error}.") from None
        if owner.st_uid not in {0, os.geteuid()} or owner.st_mode & 0o022:
            raise InvalidInput(
                f"Configuration {path} is not root's, or others may write it.",
                way_out=f"chown root {path}; chmod 644 {path}",
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise InvalidInput(f"Configuration {path}: {faults}.") from None


class Keeper:
    """Brings the directory to the newest file of wanted people."""

    def __init__(self, config: Config, directory: Directory, clock: Clock) -> None:
        self._config = config
        self._directory = directory
        self._clock = clock

    def stamp(self) -> tuple[int, int] | None:
        """Names the file as it is now; None = there is none."""
        try:
            found = self._config.wanted.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def once(self) -> PeopleState | None:
        """One run; None when nobody has said yet who is wanted.

        Raises:
            InvalidInput: the file is not one that gpuaasd writes. Nothing is changed then.
        """
        try:
            text = read_dropped(self._config.wanted, longest=MAX_FILE_BYTES).text
        except FileNotFoundError:
            return None
        try:
            wanted = WantedPeople.model_validate_json(text)
        except ValidationError as error:
            raise InvalidInput(
                f"{self._config.wanted} is not what gpuaasd writes: {error.error_count()} faults.",
                way_out="Compare the versions of gpuaasd and gpuaas-people.",
            ) from None
        state = bring(self._directory, wanted.people, now=self._clock.now())
        write_atomically(self._config.state, state.model_dump_json(), mode=0o644)
        return state

    def run(self, stopped: Callable[[float], bool]) -> None:
        """Until stopped. `stopped` waits for so many seconds and tells whether it is the end."""
        seen: tuple[int, int] | None = None
        age = AGAIN_S
        while True:
            now = self.stamp()
            if now != seen or age >= AGAIN_S:
                seen, age = now, 0.0
                try:
                    state = self.once()
                except GpuaasError as error:
                    log.warning("people.failed", error=error.message, way_out=error.way_out)
                else:
                    for one in state.findings if state else ():
                        log.warning("people.not-done", user=one.user, why=one.why)
            if stopped(LOOK_S):
                return
            age += LOOK_S


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpuaas-people")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="Configuration file, which must be root's.",
)
@click.option("--once", is_flag=True, help="Bring the host to what is wanted now, and end.")
def command(path: Path, once: bool) -> None:
    """Give the people of projects a login on this host, and take it back.

    \b
    Examples:
      gpuaas-people
      gpuaas-people --once
    """
    config = Config.load(path)
    uids = range(config.least_uid, config.most_uid + 1)
    config.state.parent.mkdir(mode=0o755, exist_ok=True)
    keeper = Keeper(config, _directory(config, uids), SystemClock())
    if once:
        keeper.once()
        return
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    keeper.run(end.wait)


def _directory(config: Config, uids: range) -> Directory:
    if config.ldap is None:
        return LocalUsers(LocalSettings(uids=uids, keys=config.keys, shell=config.shell, homes=config.homes))
    from slurm_gpuaas.people.ldap import LdapSettings, LdapUsers

    asked = config.ldap
    return LdapUsers(
        LdapSettings(
            url=asked.url,
            base=asked.base,
            tree=asked.tree,
            uids=uids,
            gid=asked.gid,
            shell=config.shell,
            homes=asked.homes,
            bind=asked.bind,
            password=read_password(asked.password_file) if asked.password_file else "",
            ca_file=asked.ca_file,
        )
    )


def main() -> None:
    run(command, "gpuaas-people")
