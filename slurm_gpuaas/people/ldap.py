"""Logins as entries of a directory service: posixAccount and shadowAccount (RFC 2307), keys as sshPublicKey of the
OpenSSH LDAP schema, as sssd reads them.

The mark is the place: entries directly below `base`, a branch that only our bind may write, with an id of our range.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ldap3 import (
    BASE,
    LEVEL,
    MODIFY_REPLACE,
    SASL,
    SIMPLE,
    SUBTREE,
    Connection,
    Server,
    Tls,
)
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.people.directory import NotDone, OurLogin, choose_uid
from slurm_gpuaas.people.local import EXPIRED, is_known

ANSWER_S: Final = 10
PAGE: Final = 500
"""Entries in one answer; OpenLDAP gives no more by default."""
CLASSES: Final = ("inetOrgPerson", "posixAccount", "shadowAccount", "ldapPublicKey")
READ: Final = ("uid", "uidNumber", "cn", "sshPublicKey", "shadowExpire")

Attributes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LdapSettings:
    """Args:
    url: `ldaps://HOST[:PORT]` or `ldapi:///PATH`.
    base: DN of the branch of our logins.
    tree: DN below which no name and no id may be given twice.
    gid: first group of all of them.
    bind: DN that writes; empty on a socket = the process's own user (SASL EXTERNAL).
    """

    url: str
    base: str
    tree: str
    uids: range
    gid: int
    shell: str
    homes: str
    bind: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None


class LdapUsers:
    """A `Directory`. Each call connects anew: minutes lie between two of them, and a server that was restarted is
    nobody's concern.

    Raises:
        InvalidInput: the branch is not there, or the server's certificate or the bind is refused.
    """

    def __init__(self, settings: LdapSettings) -> None:
        self._settings = settings
        tls = None
        if settings.url.startswith("ldaps:"):
            tls = Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(settings.ca_file) if settings.ca_file else None)
        self._server = Server(settings.url, tls=tls, connect_timeout=ANSWER_S)
        try:
            with self._connected() as connection:
                connection.search(settings.base, "(objectClass=*)", BASE, attributes=["1.1"])
        except NotDone as error:
            raise InvalidInput(
                f"{settings.base} of {settings.url} cannot be used: {error.message}",
                way_out="Look at base, bind, password_file and ca_file of the configuration's section ldap.",
            ) from error

    def ours(self) -> Mapping[UserName, OurLogin]:
        with self._connected() as connection:
            found = self._search(connection, self._settings.base, "(objectClass=posixAccount)", LEVEL)
            return {login.user: login for entry in found if (login := self._read(entry)) is not None}

    def create(self, login: Login) -> None:
        if is_known(login.user):
            raise NotDone(f"The host has another user {login.user}.")
        with self._connected() as connection:
            name = escape_filter_chars(login.user)
            if any(self._search(connection, self._settings.tree, f"(uid={name})", SUBTREE)):
                raise NotDone(f"The directory has another user {login.user}.")
            accounts = self._search(connection, self._settings.tree, "(uidNumber=*)", SUBTREE)
            uid = choose_uid(login, self._settings.uids, {int(one["uidNumber"][0]) for one in accounts})
            shown = login.name or str(login.user)
            connection.add(  # type: ignore[no-untyped-call]
                self._dn(login.user),
                list(CLASSES),
                {
                    "cn": shown,
                    "sn": shown,
                    "uidNumber": uid,
                    "gidNumber": self._settings.gid,
                    "homeDirectory": f"{self._settings.homes}/{login.user}",
                    "loginShell": self._settings.shell,
                },
            )

    def rename(self, user: UserName, name: str) -> None:
        shown = name or str(user)
        self._change(user, cn=[shown], sn=[shown])

    def put_keys(self, user: UserName, keys: Iterable[SshKey]) -> None:
        self._change(user, sshPublicKey=list(map(str, keys)))

    def enable(self, user: UserName) -> None:
        self._change(user, shadowExpire=[])

    def disable(self, user: UserName) -> None:
        self._change(user, shadowExpire=[EXPIRED])

    def _change(self, user: UserName, **values: Sequence[str]) -> None:
        with self._connected() as connection:
            changes = {name: [(MODIFY_REPLACE, list(those))] for name, those in values.items()}
            connection.modify(self._dn(user), changes)  # type: ignore[no-untyped-call]

    def _dn(self, user: UserName) -> str:
        return f"uid={escape_rdn(user)},{self._settings.base}"

    def _read(self, entry: Attributes) -> OurLogin | None:
        """None: the entry is not one that we could have made."""
        user, ends = entry["uid"][0], list(entry["shadowExpire"])
        if UserName.pattern.fullmatch(user) is None or int(entry["uidNumber"][0]) not in self._settings.uids:
            return None
        shown = entry["cn"][0]
        return OurLogin(
            user=UserName(user),
            name="" if shown == user else shown,
            keys=_keys(entry["sshPublicKey"]),
            enabled=ends != [EXPIRED],
            held=ends not in ([], [EXPIRED]),
        )

    @staticmethod
    def _search(connection: Connection, base: str, filter_: str, scope: str) -> Iterator[Attributes]:
        found = connection.extend.standard.paged_search(base, filter_, scope, attributes=list(READ), paged_size=PAGE)
        for entry in found:
            if entry["type"] == "searchResEntry":  # as bytes: what else is made of them depends on the server's schema
                raw = entry["raw_attributes"]
                yield {name: [one.decode(errors="replace") for one in raw.get(name, ())] for name in READ}

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Raises:
        NotDone: whatever the server refuses, or that it is away.
        """
        asked = self._settings
        how: dict[str, Any] = {"authentication": SASL, "sasl_mechanism": "EXTERNAL", "sasl_credentials": ""}
        if asked.bind:
            how = {"authentication": SIMPLE, "user": asked.bind, "password": asked.password}
        try:
            with Connection(self._server, raise_exceptions=True, receive_timeout=ANSWER_S, **how) as connection:
                yield connection
        except (LDAPException, OSError) as error:
            said = " ".join(str(error).split())[:300]
            raise NotDone(f"The directory service said: {said}.") from error


def _keys(values: Iterable[str]) -> tuple[SshKey, ...]:
    """Sorted, since a directory keeps values in no order. One that we would not write is written anew."""
    try:
        return tuple(sorted(map(SshKey, values)))
    except InvalidInput:
        return (SshKey.as_slurm_says("unreadable"),)
