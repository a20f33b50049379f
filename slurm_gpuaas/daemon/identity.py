"""Who is asking: the kernel says which uid is at the other end of the UNIX socket; configuration, who administers."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from slurm_gpuaas.daemon.config import AdministratorsConfig


@dataclass(frozen=True, slots=True)
class Identity:
    """A UNIX user at the other end of the API's socket."""

    uid: int
    user: str
    administrator: bool


def uid_of(user: str) -> int | None:
    """None when this host does not know the user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


class Identities:
    """Looks users up anew each time, so that a change of groups holds from the next request on."""

    def __init__(self, administrators: AdministratorsConfig) -> None:
        self._users = frozenset({"root", *administrators.users})
        self._groups = frozenset(administrators.groups)

    def of(self, uid: int) -> Identity:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            # A uid without a name is nobody's: it is in no project, and administers only as root or ourselves.
            return Identity(uid, f"uid-{uid}", uid in {0, os.geteuid()})
        administrator = uid in {0, os.geteuid()} or entry.pw_name in self._users or self._in_admin_group(entry)
        return Identity(uid, entry.pw_name, administrator)

    def _in_admin_group(self, entry: pwd.struct_passwd) -> bool:
        if not self._groups:
            return False
        for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
            try:
                if grp.getgrgid(gid).gr_name in self._groups:
                    return True
            except KeyError:
                continue
        return False
