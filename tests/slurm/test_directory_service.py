"""Logins in a real LDAP server (slapd): what the adapter for local users keeps to, the one for a directory keeps to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from ldap3 import MODIFY_REPLACE, Connection, Server

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.people.directory import NotDone, bring
from slurm_gpuaas.people.ldap import LdapSettings, LdapUsers
from slurm_gpuaas.testbed.instance import Instance
from tests.fakes import EPOCH

pytestmark = pytest.mark.slurm

FOLDER = "/run/slapd-test"
ROOT = "gidNumber=0+uidNumber=0,cn=peercred,cn=external,cn=auth"
OURS = "ou=gpuaas,ou=people,dc=example,dc=org"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2sC7WBoqP/lzMvlMQBbKdLEM2wWQKn8JZ4C+LwJ3qX"
OTHER_KEY = f"{KEY} laptop"
PASSWORD = "only-the-tests-know"

SLAPD = f"""\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
attributetype ( 1.3.6.1.4.1.24552.500.1.1.1.13 NAME 'sshPublicKey' EQUALITY octetStringMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.3.6.1.4.1.24552.500.1.1.2.0 NAME 'ldapPublicKey' SUP top AUXILIARY MAY ( sshPublicKey $ uid ) )
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {FOLDER}/pid
TLSCertificateFile {FOLDER}/tls.crt
TLSCertificateKeyFile {FOLDER}/tls.key
database mdb
suffix "dc=example,dc=org"
directory {FOLDER}/db
rootdn "cn=admin,dc=example,dc=org"
rootpw {PASSWORD}
access to dn.subtree="{OURS}" by dn.exact="{ROOT}" write by * read
access to * by * read
"""

TREE = f"""\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: {OURS}
objectClass: organizationalUnit
ou: gpuaas

dn: uid=dean,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: posixAccount
uid: dean
cn: Dean
sn: Dean
uidNumber: 200000
gidNumber: 100
homeDirectory: /home/dean
"""


class Slapd:
    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.url = f"ldapi:///proc/{instance.pid}/root{FOLDER}/socket"
        instance.make_folder(f"{FOLDER}/db", mode=0o755)
        instance.write(f"{FOLDER}/slapd.conf", SLAPD)
        instance.write(f"{FOLDER}/tree.ldif", TREE)
        certificate = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        certificate += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1"]
        instance.exec([*certificate, "-keyout", f"{FOLDER}/tls.key", "-out", f"{FOLDER}/tls.crt"])
        instance.exec(["slapadd", "-f", f"{FOLDER}/slapd.conf", "-l", f"{FOLDER}/tree.ldif"])
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        socket = f"ldapi://{FOLDER.replace('/', '%2F')}%2Fsocket"
        argv = ["slapd", "-d", "0", "-f", f"{FOLDER}/slapd.conf", "-h", f"{socket} ldaps://localhost:1636"]
        process = self.instance.popen(argv, user="root", stderr=subprocess.DEVNULL)
        self.instance.wait_for("slapd", lambda: self.instance.listening(1636) or None)
        return process

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def settings(self) -> LdapSettings:
        return LdapSettings(
            url=self.url,
            base=OURS,
            tree="ou=people,dc=example,dc=org",
            uids=range(200_000, 200_010),
            gid=100,
            shell="/bin/bash",
            homes="/home",
        )

    def users(self) -> LdapUsers:
        return LdapUsers(self.settings())

    def entry(self, user: str) -> dict[str, list[str]]:
        """As slapd's own program says."""
        argv = ["slapcat", "-f", f"{FOLDER}/slapd.conf", "-o", "ldif_wrap=no", "-a", f"(uid={user})"]
        found: dict[str, list[str]] = {}
        for line in self.instance.exec(argv).stdout.splitlines():
            name, _, value = line.partition(": ")
            found.setdefault(name.rstrip(":"), []).append(value)
        return found

    def admin(self) -> Connection:
        return Connection(Server(self.url), "cn=admin,dc=example,dc=org", PASSWORD, auto_bind=True)


@pytest.fixture(scope="module")
def slapd(mini: Instance) -> Iterator[Slapd]:
    server = Slapd(mini)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def nobody_left(slapd: Slapd) -> Iterator[None]:
    yield
    with slapd.admin() as admin:
        admin.search(OURS, "(uid=*)", attributes=["uid"])
        for entry in admin.entries:
            admin.delete(entry.entry_dn)  # type: ignore[no-untyped-call]


def login(user: str, *keys: str, name: str = "", uid: int | None = None) -> Login:
    return Login.model_validate({"user": user, "name": name, "keys": keys, "uid": uid})


def test_a_person_gets_an_entry_that_opens_with_the_keys_and_what_is_right_is_left_alone(slapd: Slapd) -> None:
    wanted = [login("gpu-bob", KEY, name="김밥", uid=200_007), login("gpu-eve", name="Eve")]
    done = bring(slapd.users(), wanted, now=EPOCH)
    assert (done.done, done.findings) == (("gpu-bob", "gpu-eve"), ())
    bob, eve = slapd.entry("gpu-bob"), slapd.entry("gpu-eve")
    assert (bob["uidNumber"], bob["gidNumber"], bob["homeDirectory"]) == (["200007"], ["100"], ["/home/gpu-bob"])
    assert len(bob["sshPublicKey"]) == 1
    assert eve["uidNumber"] == ["200001"], "200000 is the dean's"
    assert slapd.users().ours()[wanted[0].user].name == "김밥"
    changed = bob["entryCSN"], eve["entryCSN"]
    bring(slapd.users(), wanted, now=EPOCH)
    assert (slapd.entry("gpu-bob")["entryCSN"], slapd.entry("gpu-eve")["entryCSN"]) == changed


def test_keys_and_names_are_changed_and_who_is_wanted_no_more_is_let_in_no_more(slapd: Slapd) -> None:
    bring(slapd.users(), [login("gpu-bob", KEY, name="Bob")], now=EPOCH)
    bring(slapd.users(), [login("gpu-bob", OTHER_KEY, name="Robert")], now=EPOCH)
    (there,) = slapd.users().ours().values()
    assert (there.name, there.keys, there.enabled) == ("Robert", (OTHER_KEY,), True)
    bring(slapd.users(), [], now=EPOCH)
    entry = slapd.entry("gpu-bob")
    assert entry["shadowExpire"] == ["1"] and "sshPublicKey" not in entry
    bring(slapd.users(), [login("gpu-bob", KEY, name="Robert")], now=EPOCH)
    assert "shadowExpire" not in slapd.entry("gpu-bob")


def test_others_entries_are_never_touched_and_their_names_and_ids_never_given_again(slapd: Slapd) -> None:
    before = slapd.entry("dean")
    done = bring(slapd.users(), [login("dean", KEY), login("gpu-bob", KEY, uid=200_000)], now=EPOCH)
    assert [one.user for one in done.findings] == ["dean", "gpu-bob"]
    assert slapd.entry("dean") == before and slapd.entry("gpu-bob") == {}
    done = bring(slapd.users(), [login("gpu-bob", KEY, uid=300_000)], now=EPOCH)
    assert "300000" in done.findings[0].why


def test_a_login_that_a_person_closed_by_hand_stays_closed(slapd: Slapd) -> None:
    bring(slapd.users(), [login("gpu-bob", KEY)], now=EPOCH)
    with slapd.admin() as admin:
        by_hand = {"shadowExpire": [(MODIFY_REPLACE, [20_000])]}
        admin.modify(f"uid=gpu-bob,{OURS}", by_hand)  # type: ignore[no-untyped-call]
    done = bring(slapd.users(), [login("gpu-bob", KEY)], now=EPOCH)
    assert "by hand" in done.findings[0].why
    bring(slapd.users(), [], now=EPOCH)
    assert slapd.entry("gpu-bob")["shadowExpire"] == ["20000"]


def test_hundreds_of_people_are_read_whatever_the_servers_limit(slapd: Slapd) -> None:
    with_range = LdapUsers(replace(slapd.settings(), uids=range(200_000, 201_000)))
    people = [login(f"gpu-{number:03}") for number in range(60)]
    assert not bring(with_range, people, now=EPOCH).findings
    assert len(with_range.ours()) == 60


def test_a_server_that_was_away_is_used_again(slapd: Slapd) -> None:
    users = slapd.users()
    slapd.stop()
    with pytest.raises(NotDone, match="directory service"):
        users.ours()
    slapd.process = slapd.start()
    assert users.ours() == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"base": "ou=nowhere,dc=example,dc=org"},
        {"bind": "cn=admin,dc=example,dc=org", "password": "wrong"},
        {"url": "ldapi:///run/nobody"},
    ],
    ids=["branch", "password", "socket"],
)
def test_what_cannot_be_used_is_said_at_the_start(slapd: Slapd, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="cannot be used"):
        LdapUsers(replace(slapd.settings(), **settings))


TLS = """
from pathlib import Path
from slurm_gpuaas.people.ldap import LdapSettings, LdapUsers
from slurm_gpuaas.domain.errors import InvalidInput
for ca in (Path({ca!r}), None):
    try:
        users = LdapUsers(LdapSettings(url="ldaps://localhost:1636", base={base!r}, tree={base!r}, gid=100, ca_file=ca,
            uids=range(200000, 200010), shell="/bin/sh", homes="/home", bind={bind!r}, password={password!r}))
        print(len(users.ours()))
    except InvalidInput as error:
        print("certificate" in str(error).lower())
"""


def test_a_server_is_believed_only_with_a_certificate_that_is_trusted(slapd: Slapd) -> None:
    code = TLS.format(ca=f"{FOLDER}/tls.crt", base=OURS, bind="cn=admin,dc=example,dc=org", password=PASSWORD)
    argv = ["/opt/gpuaas/venv/bin/python", "-c", code]
    said = slapd.instance.exec(argv, env={"PYTHONPATH": "/opt/gpuaas/src"}).stdout.split()
    assert said == ["0", "True"]
