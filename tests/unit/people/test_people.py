"""Logins: given to whom they are wanted for, taken back, and nothing touched that was not made here."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm_gpuaas.api.people import PeopleState, WantedPeople
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.people.directory import NotDone, bring
from slurm_gpuaas.people.local import LocalSettings, LocalUsers, check_folder
from slurm_gpuaas.people.main import Config, Keeper
from tests.fakes import EPOCH, FakeClock

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2sC7WBoqP/lzMvlMQBbKdLEM2wWQKn8JZ4C+LwJ3qX"
RSA_1024 = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDE5M1WzFZh5qN1K8YFvCL5ZJz0Y3gA8V8sPzqhfr0gFkO2JbXxZ3m0Zqk6y1v2h8Zr0tq9bX0eJ"
    "zHn3m0Xy4cV5b6n7M8a9S0d1F2g3H4j5K6l7Q8w9E0r1T2y3U4i5O6p7A8s9D0f1G2h3J4k5L6z7X8c9V0b1N2m3Q4w5E6r=="
)


class TestLogin:
    @pytest.mark.parametrize("name", ["a:b", "a\nb", "a,,,,gpuaas", "a\x00b"])
    def test_a_name_cannot_leave_its_field(self, name: str) -> None:
        with pytest.raises(ValueError, match="name"):
            Login.model_validate({"user": "bob", "name": name})


@dataclass
class Host:
    """passwd and shadow in a folder; useradd and usermod as far as we use them."""

    folder: Path
    ran: list[Sequence[str]] = field(default_factory=list)
    broken: bool = False

    def __post_init__(self) -> None:
        (self.folder / "keys").mkdir(mode=0o755)
        self.lines = {"root": ["0", "root", ""], "kim": ["1005", "Kim", ""], "fake": ["4242", "F,,,,gpuaas", ""]}
        self.write()

    def write(self) -> None:
        passwd = "".join(
            f"{u}:x:{uid}:{uid}:{comment}:/home/{u}:/bin/bash\n" for u, (uid, comment, _) in self.lines.items()
        )
        (self.folder / "passwd").write_text(passwd)
        (self.folder / "shadow").write_text(
            "".join(f"{u}:!:1:0:9:7::{ends}:\n" for u, (_, _, ends) in self.lines.items())
        )

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.ran.append(argv)
        if self.broken:
            return subprocess.CompletedProcess(argv, 1, "", "useradd: cannot lock /etc/passwd\n")
        options = dict(pairwise(argv))
        if argv[0] == "useradd":
            assert argv[-1] not in self.lines
            self.lines[argv[-1]] = [options["--uid"], options["--comment"], ""]
        else:
            entry = self.lines[argv[-1]]
            entry[1] = options.get("--comment", entry[1])
            entry[2] = options.get("--expiredate", entry[2])
        self.write()
        return subprocess.CompletedProcess(argv, 0, "", "")

    @property
    def users(self) -> LocalUsers:
        chosen = LocalSettings(uids=range(200_000, 200_003), keys=self.folder / "keys")
        return LocalUsers(chosen, run=self.run, etc=self.folder)

    def keys(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in (self.folder / "keys").iterdir()}


@pytest.fixture(autouse=True)
def folders_are_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's own folder lies below /tmp, where everybody may write."""
    monkeypatch.setattr("slurm_gpuaas.people.local.check_folder", lambda folder: None)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def login(user: str, *keys: str, name: str = "") -> Login:
    return Login.model_validate({"user": user, "name": name, "keys": keys})


class TestLocalUsers:
    def test_a_person_gets_a_login_in_our_range_and_the_keys_that_open_it(self, host: Host) -> None:
        done = bring(host.users, [login("gpu-bob", KEY, name="Bob")], now=EPOCH)
        assert (done.done, done.findings) == (("gpu-bob",), ())
        assert host.lines["gpu-bob"] == ["200000", "Bob,,,,gpuaas", ""]
        assert host.keys() == {"gpu-bob": f"{KEY}\n"}
        host.ran.clear()
        bring(host.users, [login("gpu-bob", KEY, name="Bob")], now=EPOCH)
        assert host.ran == [], "what is right is left alone"

    def test_who_is_wanted_no_more_is_let_in_no_more_and_can_come_back(self, host: Host) -> None:
        bring(host.users, [login("gpu-bob", KEY)], now=EPOCH)
        bring(host.users, [], now=EPOCH)
        assert (host.lines["gpu-bob"][2], host.keys()) == ("1", {})
        bring(host.users, [login("gpu-bob", KEY, name="Bob B")], now=EPOCH)
        assert host.lines["gpu-bob"] == ["200000", "Bob B,,,,gpuaas", ""]
        assert host.keys() == {"gpu-bob": f"{KEY}\n"}

    def test_a_login_that_a_person_closed_by_hand_stays_closed(self, host: Host) -> None:
        bring(host.users, [login("gpu-bob", KEY)], now=EPOCH)
        host.lines["gpu-bob"][2] = "20000"
        host.write()
        host.ran.clear()
        done = bring(host.users, [login("gpu-bob", KEY, name="Other")], now=EPOCH)
        assert "by hand" in done.findings[0].why
        bring(host.users, [], now=EPOCH)
        assert (host.ran, host.lines["gpu-bob"][2], host.keys()) == ([], "20000", {})

    @pytest.mark.parametrize("user", ["root", "kim"])
    def test_a_user_that_is_not_ours_is_never_touched(self, host: Host, user: str) -> None:
        before = dict(host.lines)
        done = bring(host.users, [login(user, KEY)], now=EPOCH)
        (finding,) = done.findings
        assert "has another user" in finding.why
        assert (host.lines, host.keys(), host.ran) == (before, {}, [])

    def test_our_mark_on_an_id_that_is_not_ours_makes_nobody_ours(self, host: Host) -> None:
        assert host.users.ours() == {}
        for act in (host.users.disable, host.users.enable):
            with pytest.raises(NotDone, match="not one that was made here"):
                act(UserName("fake"))
        assert host.ran == []

    def test_one_that_cannot_be_made_does_not_keep_the_others(self, host: Host) -> None:
        people = [login(f"gpu-{n}") for n in range(5)]
        done = bring(host.users, people, now=EPOCH)
        assert done.done == ("gpu-0", "gpu-1", "gpu-2")
        assert [one.why for one in done.findings] == ["All 3 ids from 200000 on are taken."] * 2
        host.broken = True
        (*_, last) = bring(host.users, [], now=EPOCH).findings
        assert "cannot lock" in last.why

    def test_keys_changed_by_hand_are_put_right(self, host: Host) -> None:
        bring(host.users, [login("gpu-bob", KEY)], now=EPOCH)
        (host.folder / "keys" / "gpu-bob").write_text(f'command="sh" {KEY}\n')
        bring(host.users, [login("gpu-bob", KEY)], now=EPOCH)
        assert host.keys() == {"gpu-bob": f"{KEY}\n"}

    def test_a_run_that_was_cut_off_is_finished_by_the_next(self, host: Host) -> None:
        host.users.create(login("gpu-bob", KEY))
        bring(host.users, [login("gpu-bob", KEY)], now=EPOCH)
        assert host.keys() == {"gpu-bob": f"{KEY}\n"}

    def test_keys_of_somebody_who_had_the_name_before_open_nothing(self, host: Host) -> None:
        (host.folder / "keys" / "gpu-bob").write_text(f"{KEY}\n")
        host.users.create(login("gpu-bob"))
        assert host.keys() == {}

    @pytest.mark.parametrize("uids", [range(0, 10), range(999, 2000), range(5000, 5000)])
    def test_a_range_with_the_systems_users_is_refused(self, host: Host, uids: range) -> None:
        with pytest.raises(InvalidInput, match="no range for people"):
            LocalUsers(LocalSettings(uids=uids, keys=host.folder / "keys"), run=host.run, etc=host.folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(["gpu-a", "gpu-b", "root", "kim"]), st.booleans()), max_size=5))
def test_whatever_is_wanted_in_turn_the_last_word_holds(
    tmp_path_factory: pytest.TempPathFactory, words: list[dict[str, bool]]
) -> None:
    host = Host(tmp_path_factory.mktemp("host"))
    before = {user: list(host.lines[user]) for user in ("root", "kim", "fake")}
    for word in words:
        bring(host.users, [login(user, *([KEY] if with_key else [])) for user, with_key in word.items()], now=EPOCH)
    last = words[-1] if words else {}
    wanted = {user: with_key for user, with_key in last.items() if user.startswith("gpu-") or user == "kim"}
    assert {user: host.lines[user] for user in ("root", "fake")} == {user: before[user] for user in ("root", "fake")}
    assert set(host.keys()) == {user for user, with_key in last.items() if with_key and user.startswith("gpu-")}
    enabled = {user for user, one in host.users.ours().items() if one.enabled}
    assert enabled == {user for user in wanted if user.startswith("gpu-")}
    assert all(int(uid) >= 200_000 for user, (uid, _, _) in host.lines.items() if user.startswith("gpu-"))


def test_a_folder_that_others_can_change_is_no_place_for_keys(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir(mode=0o777)
    loose.chmod(0o777)
    with pytest.raises(InvalidInput, match="others may write"):
        check_folder(loose / "keys")


def keeper(host: Host, folder: Path) -> Keeper:
    config = Config(wanted=folder / "people.json", state=folder / "state.json")
    return Keeper(config, host.users, FakeClock())


class TestKeeper:
    def test_the_newest_file_is_carried_out_and_its_outcome_written(self, host: Host, tmp_path: Path) -> None:
        wanted = WantedPeople(people=(login("gpu-bob", KEY), login("root")))
        (tmp_path / "people.json").write_text(wanted.model_dump_json())
        keeper(host, tmp_path).once()
        state = PeopleState.model_validate_json((tmp_path / "state.json").read_text())
        assert (state.done, [one.user for one in state.findings]) == (("gpu-bob",), ["root"])

    @pytest.mark.parametrize("text", ["", "{}", '{"people": [{"user": "-rf"}]}', '{"people": [], "uid": 0}'])
    def test_a_file_that_gpuaasd_did_not_write_changes_nothing(self, host: Host, tmp_path: Path, text: str) -> None:
        host.users.create(login("gpu-bob", KEY))
        host.ran.clear()
        (tmp_path / "people.json").write_text(text)
        with pytest.raises(InvalidInput, match="not what gpuaasd writes"):
            keeper(host, tmp_path).once()
        assert host.ran == []

    def test_a_link_is_not_followed(self, host: Host, tmp_path: Path) -> None:
        (tmp_path / "people.json").symlink_to("/etc/passwd")
        with pytest.raises(InvalidInput, match="symbolic link"):
            keeper(host, tmp_path).once()

    def test_without_a_file_nobody_is_disabled(self, host: Host, tmp_path: Path) -> None:
        bring(host.users, [login("gpu-bob", KEY)], now=EPOCH)
        assert keeper(host, tmp_path).once() is None
        assert host.keys()

    def test_a_change_is_seen_at_the_next_look_and_the_rest_after_a_minute(self, host: Host, tmp_path: Path) -> None:
        looks = 0

        def stopped(seconds: float) -> bool:
            nonlocal looks
            looks += 1
            if looks == 2:
                wanted = WantedPeople(people=(login("gpu-bob", KEY),))
                (tmp_path / "people.json").write_text(wanted.model_dump_json())
            if looks == 3:
                assert host.keys(), "the change was seen"
                (host.folder / "keys" / "gpu-bob").unlink()
            if looks == 100:
                assert not host.keys()
            return looks == 130

        keeper(host, tmp_path).run(stopped)
        assert host.keys(), "what was undone by hand was done again"


def test_a_configuration_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "people.yaml"
    file.write_text("least_uid: 5000\nmost_uid: 6000\n")
    file.chmod(0o644)
    assert Config.load(file).least_uid == 5000
    file.chmod(0o666)
    with pytest.raises(InvalidInput, match="others may write"):
        Config.load(file)
    file.chmod(0o644)
    for wrong in ("least_uid: 0\n", "least_uid: 5000\nmost_uid: 4000\n", "uid: 0\n", "shell: 'sh -c x'\n"):
        file.write_text(wrong)
        with pytest.raises(InvalidInput):
            Config.load(file)
