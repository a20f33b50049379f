"""What may be applied for: one row a rule, each refusal with its numbers."""

from __future__ import annotations

import base64
from datetime import date, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from slurm_gpuaas.domain.applications import check_request, most_that_fits
from slurm_gpuaas.domain.errors import GpuaasError, NotFound, Refused
from slurm_gpuaas.domain.names import OrganisationName, PersonId
from slurm_gpuaas.domain.programmes import OrganisationKind, Programme, UnixIdentity
from slurm_gpuaas.domain.ssh_keys import SshKey
from tests.unit.pool.scene import START, organisation, programme, request

CLOSES = START + timedelta(days=7)
UNIVERSITY = organisation("snu")
INSTITUTE = organisation("kisti", OrganisationKind.RESEARCH_INSTITUTE)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"gpus": 8, "min_gpus": 8},
        {"gpus": 72},
        {"gpus": 800},
        {"model": "b200"},
        {"starts": date(2027, 1, 4), "ends": date(2028, 1, 3)},
    ],
)
def test_what_the_rules_allow_passes(asked: dict[str, Any]) -> None:
    check_request(request(**asked), programme(), UNIVERSITY, now=START)


@pytest.mark.parametrize(
    ("asked", "rules", "said"),
    [
        ({"model": "h100"}, {}, "Programme national has no h100; it has h200, b200."),
        ({"gpus": 12}, {}, "12 GPUs are no size of programme national; it offers 8, 16, 32, 64, 72, 80, …."),
        ({"gpus": 72}, {"beyond": None}, "72 GPUs are no size of programme national; it offers 8, 16, 32, 64."),
        ({"gpus": 68}, {}, "68 GPUs are no size"),
        ({"starts": date(2027, 1, 4), "ends": date(2028, 1, 4)}, {}, "366 days are more than the 365"),
        ({"starts": date(2027, 1, 3)}, {}, "The period starts 2027-01-03; today is 2027-01-04."),
        ({"budget_won": 1}, {}, "Programme national gives no budget in Won."),
        ({}, {"cap_won": 100}, "at most 100 Won; the application asks for 0."),
        ({"budget_won": 101}, {"cap_won": 100}, "at most 100 Won; the application asks for 101."),
    ],
)
def test_what_a_rule_forbids_is_refused_with_the_rule(asked: dict[str, Any], rules: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused) as refused:
        check_request(request(**asked), programme(**rules), UNIVERSITY, now=START)
    assert said in refused.value.message
    assert refused.value.way_out


def test_an_organisation_of_another_kind_is_refused_with_the_kinds() -> None:
    with pytest.raises(Refused, match="is for firm, university, young-firm; kisti is registered as research-institute"):
        check_request(request("kisti"), programme(), INSTITUTE, now=START)


@pytest.mark.parametrize(
    ("now", "taken"),
    [
        (START - timedelta(days=1), True),
        (START - timedelta(days=1, microseconds=1), False),
        (CLOSES - timedelta(microseconds=1), True),
        (CLOSES, False),
    ],
)
def test_a_call_takes_applications_from_its_opening_until_before_its_closing(now: Any, taken: bool) -> None:
    if taken:
        check_request(request(), programme(), UNIVERSITY, now=now)
    else:
        with pytest.raises(Refused, match="Call 1 of programme national takes applications from"):
            check_request(request(), programme(), UNIVERSITY, now=now)


def test_a_call_that_does_not_exist_is_named() -> None:
    with pytest.raises(NotFound, match="Programme national has no call 2"):
        check_request(request(call=2), programme(), UNIVERSITY, now=START)


@pytest.mark.parametrize(
    "fields",
    [
        {"gpus": 8, "min_gpus": 9},
        {"starts": date(2027, 3, 2), "ends": date(2027, 3, 1)},
        {"gpus": 0, "min_gpus": 0},
        {"gpus": 100_001},
        {"ends": date(2200, 1, 1)},
        {"title": ""},
        {"title": "two\nlines"},
        {"title": "x" * 201},
        {"purpose": "x" * 4_001},
        {"purpose": "bell\x07"},
        {"state": "awarded"},
    ],
)
def test_what_makes_no_sense_is_no_request(fields: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, GpuaasError)):
        request(**fields)


@pytest.mark.parametrize(
    ("gpus", "least", "room", "fits"),
    [(16, 8, 16, 16), (16, 8, 15, 8), (16, 9, 15, 0), (4, 1, 3, 0), (4, 1, 4, 4), (64, 16, 40, 40), (64, 16, 0, 0)],
)
def test_what_fits_is_all_or_whole_servers(gpus: int, least: int, room: int, fits: int) -> None:
    assert most_that_fits(request(gpus=gpus, min_gpus=least), room) == fits


@pytest.mark.parametrize(
    "fields",
    [
        {"sizes": (8, 8)},
        {"prices": {}},
        {"prices": {OrganisationKind.FIRM: 100.5}},
        {"criteria": ()},
        {"calls": programme().calls * 2},
        {"shares": ("nhn.b200",)},
        {"longest_days": 0},
    ],
)
def test_a_programme_whose_rules_contradict_each_other_is_none(fields: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, GpuaasError)):
        programme(**fields)


def test_a_programme_reads_back_as_it_was_written() -> None:
    rules = programme(cap_won=1, caps={"region": 64})
    assert Programme.model_validate_json(rules.model_dump_json()) == rules


# -- SSH keys and logins

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDJGZCP/3LTfuq1fj0hX0sESr0ekGtIZ35l4lM607cGr kim@laptop"


def made(kind: str, *fields: bytes) -> str:
    """A key of these length-prefixed fields behind its kind."""
    blob = b"".join(len(field).to_bytes(4, "big") + field for field in (kind.encode(), *fields))
    return f"{kind} {base64.b64encode(blob).decode()}"


GOOD = {
    "ed25519": made("ssh-ed25519", bytes(32)),
    "security key": made("sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:"),
    "nistp256": made("ecdsa-sha2-nistp256", b"nistp256", bytes(65)),
    "nistp521": made("ecdsa-sha2-nistp521", b"nistp521", bytes(133)),
    "security key nistp256": made("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", bytes(65), b"ssh:"),
    "rsa of 3072 bits": made("ssh-rsa", b"\x01\x00\x01", b"\x00" + b"\xff" * 384),
}
BAD = {
    "rsa of 2048 bits": made("ssh-rsa", b"\x01\x00\x01", b"\x00" + b"\xff" * 256),
    "dsa": made("ssh-dss", bytes(20)),
    "too short": made("ssh-ed25519", bytes(31)),
    "another kind inside": "ssh-ed25519 " + made("ssh-rsa", b"\x01", b"\xff" * 384).split()[1],
    "another curve inside": made("ecdsa-sha2-nistp256", b"nistp384", bytes(65)),
    "cut off": GOOD["ed25519"][:-8],
    "options": 'command="sh" ' + GOOD["ed25519"],
    "two lines": GOOD["ed25519"] + "\n" + GOOD["ed25519"],
    "a comment with a line end": GOOD["ed25519"] + " kim\rroot",
    "a comment with a line end of Unicode": GOOD["ed25519"] + " kim\u2028root",
    "private": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "empty": "",
    "endless": "ssh-ed25519 " + "A" * 1_000_000,
}


@pytest.mark.parametrize("key", GOOD.values(), ids=GOOD)
def test_keys_that_openssh_takes(key: str) -> None:
    assert SshKey(f"  {key} 김철수 laptop\n") == f"{key} 김철수 laptop"
    assert SshKey(key) == key


@pytest.mark.parametrize("key", BAD.values(), ids=BAD)
def test_keys_that_are_none_or_could_do_harm(key: str) -> None:
    with pytest.raises(GpuaasError) as refused:
        SshKey(key)
    assert len(str(refused.value)) < 300


def test_a_key_has_the_fingerprint_that_ssh_keygen_shows() -> None:
    assert SshKey(ED25519).fingerprint == "SHA256:eG/i5U6YDX8WJDHWvZnjIFUWJCYyxziW0DZ10b/1Y3o"


@pytest.mark.parametrize("login", ["root", "slurm", "gpuaasd", "ubuntu", "_apt", "ab", "__x"])
def test_logins_of_the_system_are_nobodys(login: str) -> None:
    with pytest.raises(ValueError, match=f"{login} may be a login of the system"):
        UnixIdentity.model_validate({"person": PersonId("p-kimsnu"), "login": login, "uid": 200_000})


def test_an_organisations_name_is_checked() -> None:
    with pytest.raises(GpuaasError):
        OrganisationName("=cmd()")
