"""Logins as users of this host: passwd and shadow through useradd and usermod, keys in a folder that sshd is told of.

The mark is the last field of the comment (`chfn` calls it "other"), which only root may change; a login of ours also
has an id of our range. Both must be right, or the login is not ours.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.people.directory import NotDone, OurLogin, choose_uid
from slurm_gpuaas.slurm.files import write_atomically

MARK: Final = "gpuaas"
LEAST_UID: Final = 1_000
"""Below are the system's users (login.defs, Debian's policy 9.2.2)."""
EXPIRED: Final = "1"
"""Day of 1970 on which a login that we closed ended. An empty one never ends; any other was set by a person."""
PROGRAM_S: Final = 30

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Without a shell, and with an environment of our own."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    return subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=PROGRAM_S, env=environment, stdin=subprocess.DEVNULL
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """Args:
    uids: ids that our logins may have.
    keys: folder of files named like users; `AuthorizedKeysFile FOLDER/%u` in sshd_config.
    homes: folder of home folders; None = they are not made here (they are mounted, or made by PAM).
    """

    uids: range
    keys: Path
    shell: str = "/bin/bash"
    homes: Path | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of passwd."""

    user: str
    uid: int
    comment: str

    @property
    def name(self) -> str:
        return self.comment.split(",")[0]

    @property
    def marked(self) -> bool:
        parts = self.comment.split(",")
        return len(parts) == 5 and parts[4] == MARK


class LocalUsers:
    """A `Directory`.

    Raises:
        InvalidInput: the range reaches the system's users, or the folder of keys is not safe.
    """

    def __init__(self, settings: LocalSettings, *, run: Run = run, etc: Path = Path("/etc")) -> None:
        if settings.uids.start < LEAST_UID or not settings.uids:
            raise InvalidInput(
                f"Ids from {settings.uids.start} to {settings.uids.stop - 1} are no range for people.",
                way_out=f"Choose one from {LEAST_UID} on.",
            )
        check_folder(settings.keys)
        self._settings = settings
        self._run = run
        self._etc = etc

    def ours(self) -> Mapping[UserName, OurLogin]:
        ends = dict(self._ends())
        return {
            UserName(entry.user): OurLogin(
                user=UserName(entry.user),
                name=entry.name,
                keys=self._keys_of(entry.user),
                enabled=ends.get(entry.user, "") != EXPIRED,
                held=ends.get(entry.user, "") not in {"", EXPIRED},
            )
            for entry in self._entries()
            if self._is_ours(entry)
        }

    def create(self, login: Login) -> None:
        if is_known(login.user) or any(entry.user == login.user for entry in self._entries()):
            raise NotDone(f"The host has another user {login.user}.")
        uid = choose_uid(login, self._settings.uids, self._used())
        # A file of that name may be left from a user that was removed by hand.
        self.put_keys(login.user, ())
        home = self._settings.homes
        place = ("--no-create-home",) if home is None else ("--create-home", "--home-dir", str(home / login.user))
        self._do(
            "useradd", "--uid", str(uid), "--user-group", "--shell", self._settings.shell,
            "--comment", _comment(login.name), *place, login.user,
        )  # fmt: skip

    def rename(self, user: UserName, name: str) -> None:
        self._do("usermod", "--comment", _comment(name), self._known(user))

    def put_keys(self, user: UserName, keys: Iterable[SshKey]) -> None:
        file = self._settings.keys / user
        text = "".join(f"{key}\n" for key in keys)
        if text:
            write_atomically(file, text, mode=0o644)  # sshd reads it as the user; public keys are no secret
        else:
            file.unlink(missing_ok=True)

    def enable(self, user: UserName) -> None:
        self._do("usermod", "--expiredate", "", self._known(user))

    def disable(self, user: UserName) -> None:
        self._do("usermod", "--expiredate", EXPIRED, self._known(user))

    def _known(self, user: UserName) -> str:
        """The user, once more made sure to be ours just before something is changed."""
        if not any(entry.user == user and self._is_ours(entry) for entry in self._entries()):
            raise NotDone(f"User {user} is not one that was made here.")
        return str(user)

    def _is_ours(self, entry: _Entry) -> bool:
        return entry.marked and entry.uid in self._settings.uids and UserName.pattern.fullmatch(entry.user) is not None

    def _used(self) -> set[int]:
        return {entry.pw_uid for entry in pwd.getpwall()} | {entry.uid for entry in self._entries()}

    def _entries(self) -> Iterator[_Entry]:
        for line in (self._etc / "passwd").read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split(":")
            if len(fields) == 7 and fields[2].isascii() and fields[2].isdigit():
                yield _Entry(fields[0], int(fields[2]), fields[4])

    def _ends(self) -> Iterator[tuple[str, str]]:
        """Users and the day on which their login ends; empty = never."""
        for line in (self._etc / "shadow").read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split(":")
            if len(fields) == 9:
                yield fields[0], fields[7]

    def _keys_of(self, user: str) -> tuple[SshKey, ...]:
        """What is in the file, if we could have written it: anything else is written anew."""
        try:
            lines = (self._settings.keys / user).read_text(encoding="utf-8", errors="replace").splitlines()
            return tuple(map(SshKey, lines))
        except FileNotFoundError:
            return ()
        except InvalidInput:
            return (SshKey.as_slurm_says("unreadable"),)

    def _do(self, *argv: str) -> None:
        try:
            done = self._run(argv)
        except subprocess.TimeoutExpired:
            raise NotDone(f"{argv[0]} of {argv[-1]} did not end within {PROGRAM_S} s.") from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[:300]
            raise NotDone(f"{argv[0]} of {argv[-1]} failed: {said or f'exit status {done.returncode}'}.")


def is_known(user: UserName) -> bool:
    """By any service of names that the host asks, LDAP too."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _comment(name: str) -> str:
    return f"{name},,,,{MARK}"


def check_folder(folder: Path) -> None:
    """A folder that nobody but root can change, as sshd's StrictModes asks for all the way up. Made when it is missing.

    Raises:
        InvalidInput: it is somebody's who could put other keys there.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for part in (folder, *folder.parents):
        found = os.lstat(part)
        loose = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {0, os.geteuid()} or loose:
            raise InvalidInput(
                f"{part} is a link, is not root's, or others may write there.",
                way_out="Keep keys below folders of root's: /etc/ssh/gpuaas-keys.",
            )
