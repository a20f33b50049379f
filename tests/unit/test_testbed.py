"""Testbed: the rules of its cache, its profiles and what it takes from the host. Needs neither root nor Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import NotFound
from slurm_gpuaas.testbed import hostenv, machine, rootfs, slurmconf
from slurm_gpuaas.testbed.cache import Cache, key_of
from slurm_gpuaas.testbed.errors import ArchiveMoved
from slurm_gpuaas.testbed.profiles import PROFILES
from slurm_gpuaas.testbed.releases import DEFAULT, RELEASES
from slurm_gpuaas.testbed.sandbox import Bind, Spec, escaped
from slurm_gpuaas.testbed.sim.fabric import topology_conf_for

# What apt said on 2026-11-22 when two of three locked versions had left the archive.
MOVED_ARCHIVE = """\
Building dependency tree...
E: Version '26.05.1-1' for 'slurmctld' was not found
E: Version '26.05.1-1' for 'slurmd' was not found
E: setup failed: E: apt-get --yes install munge=0.5.18-1 slurmctld=26.05.1-1 slurmd=26.05.1-1 failed
E: mmdebstrap failed to run
"""


class TestProfiles:
    def test_national_pool_has_the_size_of_the_real_one(self) -> None:
        clusters = {cluster.name: cluster for cluster in PROFILES["national"].clusters}
        assert {name: cluster.nodes for name, cluster in clusters.items()} == {"naver": 382, "kakao": 303, "nhn": 957}
        assert sum(cluster.nodes * cluster.gpus for cluster in clusters.values()) == 13_136

    def test_one_cluster_takes_the_name_given_several_keep_their_own_behind_it(self) -> None:
        assert list(PROFILES["haein"].instance_names(None)) == ["haein"]
        assert list(PROFILES["haein"].instance_names("mine")) == ["mine"]
        assert list(PROFILES["national"].instance_names(None)) == ["naver", "kakao", "nhn"]
        assert list(PROFILES["national"].instance_names("mine")) == ["mine-naver", "mine-kakao", "mine-nhn"]

    def test_leaf_groups_cover_every_node_once_and_only_the_last_is_short(self) -> None:
        (haein,) = PROFILES["haein"].clusters
        assert list(haein.leaf_groups()) == [
            *("b200-[001-032]", "b200-[033-064]", "b200-[065-096]", "b200-[097-128]"),
            "b200-129",
        ]

    def test_every_node_has_a_port_and_a_line_of_devices(self) -> None:
        (haein,) = PROFILES["haein"].clusters
        conf = slurmconf.slurm_conf(haein, "host", hook=True)
        assert "NodeName=b200-[001-129] NodeHostname=localhost Port=[20001-20129]" in conf
        assert "JobSubmitPlugins=lua" in conf
        assert slurmconf.gres_conf(haein).count("File=/dev/gpuaas-sim/b200-") == 129

    def test_without_a_hook_slurm_is_told_of_none(self) -> None:
        (mini,) = PROFILES["mini"].clusters
        assert "\nJobSubmitPlugins" not in slurmconf.slurm_conf(mini, "host", hook=False)


class TestReleases:
    """Which Slurm a testbed runs, and what its slurm.conf may say."""

    def test_the_newest_is_the_default_and_every_profile_runs_on_each(self) -> None:
        assert max(RELEASES.values(), key=lambda release: release.number).slurm == DEFAULT
        for found in PROFILES.values():
            assert {cluster.release.slurm for cluster in found.clusters} == {DEFAULT}
            assert {cluster.release.slurm for cluster in found.on("24.11").clusters} == {"24.11"}

    def test_an_unknown_release_is_refused_with_those_that_there_are(self) -> None:
        with pytest.raises(NotFound, match=r"no Slurm 23\.11") as refused:
            PROFILES["mini"].on("23.11")
        assert "26.05, 24.11" in refused.value.way_out

    @pytest.mark.parametrize(
        ("slurm", "has", "has_not"),
        [
            ("26.05", ["requeue_delay=1", "enable_expedited_requeue"], ["cred_expire", "TopologyPlugin"]),
            (
                "24.11",
                ["AuthInfo=cred_expire=5", "sched_interval=1", "TopologyPlugin=topology/tree"],
                ["requeue_delay=", "SlurmctldParameters", "enable_expedited_requeue"],
            ),
        ],
    )
    def test_slurm_conf_says_what_the_release_knows(self, slurm: str, has: list[str], has_not: list[str]) -> None:
        (mini,) = PROFILES["mini"].on(slurm).clusters
        lines = slurmconf.slurm_conf(mini, "host", hook=True).splitlines()
        conf = "\n".join(line for line in lines if not line.startswith("#"))
        assert [word for word in (*has, *has_not) if word in conf] == has
        assert "TopologyParam=SwitchAsNodeRank,BlockAsNodeRank" in conf

    def test_the_topology_is_the_same_in_either_form(self) -> None:
        (mini,) = PROFILES["mini"].clusters
        assert topology_conf_for(mini) == (
            "SwitchName=root Switches=leaf-[01-02]\n"
            "SwitchName=leaf-01 Nodes=b200-[01-04]\n"
            "SwitchName=leaf-02 Nodes=b200-[05-08]\n"
        )

    def test_a_testbed_that_was_up_before_releases_were_known_runs_the_default(self) -> None:
        assert machine.State("mini", "mini", 1.5).slurm == DEFAULT
        booted = machine.State("mini", "mini", 1.5, "24.11")
        assert booted.same(machine.State("mini", "mini", slurm="24.11"))
        assert not booted.same(machine.State("mini", "mini"))


class TestLock:
    @pytest.mark.parametrize("slurm", RELEASES)
    def test_every_locked_package_has_a_version(self, slurm: str) -> None:
        release = RELEASES[slurm]
        locked = rootfs.locked_versions(release.suite)
        assert set(locked) == set(release.locked)
        assert locked["slurmctld"].startswith(f"{slurm}.")

    def test_an_archive_that_moved_is_told_with_the_command_for_that_release(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hostenv, "ensure_tools", lambda: None)

        def no_longer_there(self: rootfs.Builder, log: str, *_: object, **__: object) -> None:
            raise rootfs.BuildFailed(log, 25, MOVED_ARCHIVE, tmp_path / "log")

        monkeypatch.setattr(rootfs.Builder, "_logged", no_longer_there)
        builder = rootfs.Builder(Cache(tmp_path), RELEASES["24.11"])
        with pytest.raises(ArchiveMoved, match=r"slurmctld 26\.05\.1-1, slurmd 26\.05\.1-1 of suite trixie") as moved:
            builder.root()
        assert "gpuaas testbed lock --update --slurm 24.11" in moved.value.way_out

    def test_an_update_replaces_its_suite_and_keeps_the_others(self) -> None:
        text = "# why\nforky munge 1\ntrixie munge 0\n"
        new = rootfs.updated_lock({"munge": "2", "gcc": "4:16"}, "forky", text)
        assert new == "# why\nforky gcc 4:16\nforky munge 2\ntrixie munge 0\n"

    def test_versions_that_left_the_archive_are_named(self) -> None:
        assert rootfs.versions_gone(MOVED_ARCHIVE) == ["slurmctld 26.05.1-1", "slurmd 26.05.1-1"]

    def test_apt_names_the_cause_first_and_other_tools_last(self) -> None:
        assert rootfs.telling_line(MOVED_ARCHIVE) == "Version '26.05.1-1' for 'slurmctld' was not found"
        assert rootfs.telling_line("one error\ntwo errors\nbye\n") == "two errors"
        assert rootfs.telling_line("") == "it said nothing"

    def test_dependencies_are_those_of_the_package_and_of_the_extras_asked_for(self) -> None:
        cfg = "[options]\ninstall_requires =\n  a>=1\n  b\n[options.extras_require]\nx =\n  c # why\n  b\ny =\n  d\n"
        assert rootfs.dependencies(cfg, ["x"]) == ["a>=1", "b", "c"]


class TestCache:
    def test_a_key_tells_inputs_apart_that_join_to_the_same_text(self) -> None:
        assert key_of("ab", "c") != key_of("a", "bc")

    def test_what_is_there_is_not_built_again(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        first = cache.artifact("thing", "k", lambda folder: (folder / "x").touch())
        assert cache.artifact("thing", "k", lambda _folder: pytest.fail("built again")) == first

    def test_a_failed_build_leaves_nothing(self, tmp_path: Path) -> None:
        def fails(folder: Path) -> None:
            (folder / "half").touch()
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            Cache(tmp_path).artifact("thing", "k", fails)
        assert [entry.name for entry in tmp_path.iterdir()] == ["locks"]

    def test_a_killed_build_is_swept_away_by_the_next(self, tmp_path: Path) -> None:
        script = (
            "import sys, time; from pathlib import Path; from slurm_gpuaas.testbed.cache import Cache\n"
            "def build(folder):\n  (folder / 'half').touch(); print('building', flush=True); time.sleep(600)\n"
            f"Cache(Path({str(tmp_path)!r})).artifact('thing', 'k', build)"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as builder:
            assert builder.stdout
            assert builder.stdout.readline() == "building\n"
            builder.send_signal(signal.SIGKILL)
        assert list(tmp_path.glob(".partial-*")), "the killed build should have left its folder"
        built = Cache(tmp_path).artifact("thing", "k", lambda folder: (folder / "whole").touch())
        assert [entry.name for entry in built.iterdir()] == ["whole"]
        assert not list(tmp_path.glob(".partial-*"))

    def test_two_builders_of_one_thing_build_it_once(self, tmp_path: Path) -> None:
        built: list[Path] = []
        inside = threading.Event()

        def build(folder: Path) -> None:
            inside.set()
            built.append(folder)

        def builder() -> None:
            Cache(tmp_path).artifact("thing", "k", build)

        threads = [threading.Thread(target=builder) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(built) == 1


class TestHost:
    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            (
                "debian.sources",
                "Types: deb\nURIs: http://a.example/debian\nSuites: bookworm bookworm-updates\n\n"
                "Types: deb\nURIs: http://a.example/debian-security\nSuites: bookworm-security\n",
                ["http://a.example/debian"],
            ),
            (
                "old.list",
                "# deb http://no.example/debian bookworm main\ndeb [arch=amd64] http://b.example/debian bookworm main\n"
                "deb http://b.example/debian-security bookworm-security main\n",
                ["http://b.example/debian"],
            ),
            ("other.sources", "Types: deb\nURIs: https://node.example/20.x\nSuites: nodistro\n", []),
            ("off.sources", "Enabled: no\nURIs: http://c.example/debian\nSuites: sid\n", []),
        ],
    )
    def test_the_mirror_is_the_first_of_the_hosts_own(
        self, tmp_path: Path, name: str, text: str, expected: list[str]
    ) -> None:
        (tmp_path / "sources.list.d").mkdir()
        (tmp_path / "sources.list.d" / name).write_text(text)
        assert list(hostenv.apt_uris(tmp_path)) == expected

    def test_local_paths_of_pip_settings_are_made_visible(self, tmp_path: Path) -> None:
        (tmp_path / "index" / "simple").mkdir(parents=True)
        (tmp_path / "wheels").mkdir()
        settings = {
            "PIP_EXTRA_INDEX_URL": f"file://{tmp_path}/index/simple https://index.example/simple",
            "PIP_FIND_LINKS": f"{tmp_path}/wheels {tmp_path}/gone",
            "PIP_TIMEOUT": "60",
        }
        own = {bind.source for bind in hostenv.build_binds(settings) if bind.source.startswith(str(tmp_path))}
        assert own == {f"{tmp_path}/index", f"{tmp_path}/wheels"}


def test_a_specification_survives_its_journey() -> None:
    spec = Spec(lower="/a", mount_point="/m", binds=[Bind(source="/s", target="/t", writable=True)], argv=["ls", "-l"])
    assert Spec.from_json(spec.to_json()) == spec


def test_overlay_options_keep_odd_paths_whole() -> None:
    assert escaped("/a:b,c") == "/a\\:b\\,c"


def test_only_processes_of_root_in_our_own_namespaces_count_as_a_testbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone can put the marker into a command line."""
    name = "planted"
    argv = [sys.executable, "-c", "print(flush=True); input()", f"{machine.MARKER}{name}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as own:
        try:
            assert own.stdout
            own.stdout.readline()  # it runs, under its own command line
            assert ((own.pid, name) in machine._marked()) is (os.geteuid() == 0)
            monkeypatch.setattr(machine, "_is_roots", lambda _process: True)
            assert (own.pid, name) in machine._marked()
        finally:
            own.kill()


@pytest.mark.parametrize(
    ("uids", "namespace", "believed"),
    [
        ("0\t0\t0\t0", "own", True),
        ("1000\t1000\t1000\t1000", "own", False),
        ("1000\t0\t0\t0", "own", False),
        ("0\t0\t0\t0", "user:[1]", False),
        ("0\t0\t0\t0", None, False),
    ],
)
def test_a_process_of_a_user_is_never_entered(tmp_path: Path, uids: str, namespace: str | None, believed: bool) -> None:
    (tmp_path / "status").write_text(f"Name:\tpython3\nUid:\t{uids}\nNSpid:\t77\t1\n")
    (tmp_path / "ns").mkdir()
    if namespace:
        own = Path("/proc/self/ns/user").readlink()
        (tmp_path / "ns/user").symlink_to(own if namespace == "own" else namespace)
    assert machine._is_roots(tmp_path) is believed
