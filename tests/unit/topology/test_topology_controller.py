"""A topology is applied against a slurmctld that answers, refuses, stays silent, or is not there any more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from slurm_gpuaas.domain.errors import Conflict, InvalidInput, NotFound
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.slurm.protocols import SlurmRefused
from slurm_gpuaas.topology.controller import NotTaken, TopologyController
from slurm_gpuaas.topology.fabric import Fabric
from slurm_gpuaas.topology.slurm_yaml import Plugin, render
from tests.fakes import FakeController, FakeTopologies, make_node

NODES = expand_nodes("n[1-16]")


def groups(*nodes: str) -> Fabric:
    rows = [{"pod": "root", "name": f"leaf-{number}", "nodes": one} for number, one in enumerate(nodes, 1)]
    return Fabric.model_validate({"leaf_groups": rows})


REST = ("n[9-12]", "n[13-16]")
OLD = groups("n[1-4]", "n[5-8]", *REST)
MOVED = groups("n[1-3]", "n[4-8]", *REST)
SWAPPED = groups("n[1-3,5]", "n[4,6-8]", *REST)
LEAF_MORE = groups("n[1-4]", "n[5-8]", *REST[:1], "n[13-15]", "n16")


class PowerCut(BaseException):
    """Nothing of ours catches it, as nothing catches signal 9."""


@dataclass
class Site:
    """slurmctld with the topology of `OLD`, and a clock that only a wait moves."""

    folder: Path
    plugin: Plugin = Plugin.TREE
    now: float = 0.0
    power_cut_at: int = 0
    """Before or after which call to slurmctld, counted from 1; 0: there is none."""
    steps: int = 0

    def __post_init__(self) -> None:
        self.file = self.folder / "topology.yaml"
        self.file.write_text(self.text(OLD))
        self.before = self.folder / "topology.yaml.before"
        self.slurm = FakeController([make_node(name) for name in NODES])
        self.topologies = FakeTopologies(self.file)
        self.slurm.before = self.topologies.before = self.step
        self.slurm.after = self.topologies.after = self.after

    def step(self, method: str) -> None:
        self.steps += 1
        if self.steps == self.power_cut_at:
            raise PowerCut

    def after(self, method: str) -> None:
        if method == "reconfigure":
            self.topologies.reload()
        self.step(method)

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def text(self, fabric: Fabric) -> str:
        return render(fabric, plugin=self.plugin)

    @property
    def controller(self) -> TopologyController:
        return TopologyController(
            file=self.file, controller=self.slurm, topologies=self.topologies, now=lambda: self.now, pause=self.pause
        )

    def apply(self, fabric: Fabric) -> None:
        controller = self.controller
        controller.apply(controller.wanted(self.text(fabric)))

    def settled(self, fabric: Fabric) -> bool:
        return self.file.read_text() == self.text(fabric) and not self.controller.wanted(self.text(fabric)).plan


@pytest.fixture(params=[Plugin.TREE, Plugin.BOTH], ids=str)
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path, plugin=request.param)


def test_a_node_that_moved_takes_one_update_and_no_reconfigure(site: Site) -> None:
    site.apply(MOVED)
    assert site.settled(MOVED)
    units = {Plugin.TREE: "fabric:leaf-2", Plugin.BOTH: "blocks:leaf-2,fabric:leaf-2"}[site.plugin]
    assert (site.topologies.moved, site.slurm.reconfigured) == ([("n4", units)], 0)
    site.apply(MOVED)
    assert len(site.topologies.moved) == 1, "nothing was left to do"


def test_a_leaf_more_is_read_by_a_reconfigure(site: Site) -> None:
    site.apply(LEAF_MORE)
    assert site.settled(LEAF_MORE)
    assert (site.topologies.moved, site.slurm.reconfigured) == ([], 1)


def test_what_was_there_before_can_be_had_again_and_again(site: Site) -> None:
    with pytest.raises(NotFound, match="nothing was applied"):
        site.controller.before()
    site.apply(MOVED)
    for fabric in (OLD, MOVED, OLD):
        site.controller.apply(site.controller.before())
        assert site.settled(fabric)


def test_a_file_that_slurmctld_would_misread_is_never_written(site: Site) -> None:
    with pytest.raises(InvalidInput, match="'nonsense' of topology fabric is unknown"):
        site.controller.wanted(site.text(MOVED).replace("  tree:", "  nonsense: 1\n  tree:"))
    with pytest.raises(InvalidInput, match="not described"):
        site.controller.wanted(site.text(OLD).replace("leaf-[1-4]", "leaf-[1-5]"))
    assert site.settled(OLD)
    assert not site.before.exists()


def test_what_only_earns_a_warning_is_said_and_applied(site: Site) -> None:
    """A node without a link stands apart, and no job may span it and others."""
    site.slurm.node_by_name[NodeName("n17")] = make_node("n17")
    controller = site.controller
    wanted = controller.wanted_of(OLD, site.plugin)
    assert any("unattached" in problem.says for problem in wanted.warnings)
    controller.apply(wanted)
    assert '"unattached"\n        nodes: "n17"' in site.file.read_text()


def test_hosts_that_are_no_nodes_of_slurm_are_left_out(site: Site) -> None:
    assert not site.controller.wanted_of(groups("n[1-4]", "n[5-8],login-1", *REST, "storage-[1-4]")).plan
    with pytest.raises(InvalidInput, match="None of the fabric's hosts is one of Slurm's 16 nodes"):
        site.controller.wanted_of(groups("storage-[1-4]"))


def test_nvlink_domains_are_the_blocks_as_render_writes_them(site: Site) -> None:
    domains = [{"name": "u.1", "nodes": "n[1-6]"}, {"name": "u.2", "nodes": "n[7-12]"}]
    fabric = Fabric.model_validate({**OLD.model_dump(), "nvlink_domains": domains})
    hosts = Fabric.model_validate(json.loads(fabric.model_dump_json().replace("n[7-12]", "n[7-12],login-1")))
    wanted = site.controller.wanted_of(hosts, Plugin.BLOCK)
    assert [unit.name for unit in wanted.layout.outlines[0].units] == ["u.1", "u.2", "leaf-4"]
    assert wanted.text == render(fabric, plugin=Plugin.BLOCK)
    site.controller.apply(wanted)
    assert not site.controller.wanted_of(fabric).plan


@pytest.mark.parametrize(("fabric", "call"), [(MOVED, "move"), (LEAF_MORE, "reconfigure")])
def test_what_slurmctld_refuses_is_taken_back(site: Site, fabric: Fabric, call: str) -> None:
    calls = iter([True])

    def once(method: str) -> None:
        if method == call and next(calls, False):
            raise SlurmRefused("scontrol said: Unspecified error.")

    site.slurm.before = site.topologies.before = once
    with pytest.raises(NotTaken, match=r"Unspecified error.*File and slurmctld are as they were before"):
        site.apply(fabric)
    assert site.settled(OLD)


def test_what_slurmctld_does_not_show_in_time_is_taken_back(site: Site) -> None:
    site.slurm.after = lambda method: None  # it reads some other file
    with pytest.raises(NotTaken, match=r"15 s after it was told it still plans otherwise \(\+ leaf-5 of"):
        site.apply(LEAF_MORE)
    assert site.settled(OLD)
    assert 15 <= site.now < 16


def test_a_slurmctld_that_ended_finds_the_file_as_it_was(site: Site) -> None:
    def ends(method: str) -> None:
        if method == "reconfigure":
            site.topologies.go_down()

    site.slurm.after = ends
    with pytest.raises(NotTaken, match="The file is as it was before; start slurmctld"):
        site.apply(LEAF_MORE)
    assert site.file.read_text() == site.text(OLD)


def test_a_move_of_which_half_was_done_is_taken_back_whole(site: Site) -> None:
    seen: list[str] = []

    def second(method: str) -> None:
        seen.append(method)
        if method == "move" and seen.count("move") == 2:
            raise SlurmRefused("scontrol said: no.")

    site.topologies.before = second
    with pytest.raises(NotTaken, match="as they were before"):
        site.apply(SWAPPED)
    assert site.settled(OLD)


def test_a_topology_of_the_site_is_no_difference_and_stays(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.file.write_text(site.text(OLD).replace(": fabric", ": default") + "- topology: plain\n  flat: true\n")
    site.topologies.reload()
    assert not site.controller.wanted_of(OLD).plan
    controller = site.controller
    controller.apply(controller.wanted_of(LEAF_MORE))
    assert site.file.read_text().endswith("- topology: plain\n  flat: true\n")


def refusing(site: Site, *calls: str) -> None:
    """From now on slurmctld takes none of these."""

    def refuse(method: str) -> None:
        if method in calls:
            raise SlurmRefused("scontrol said: no.")

    site.slurm.before = site.topologies.before = refuse


def cut_off(site: Site, fabric: Fabric) -> None:
    """gpuaasd ends when the file is written and slurmctld was not told."""

    def cut(method: str) -> None:
        if method == "reconfigure":
            raise PowerCut

    site.slurm.before = cut
    with pytest.raises(PowerCut):
        site.apply(fabric)
    assert site.file.read_text() == site.text(fabric)


def test_a_change_that_failed_leaves_what_can_be_undone(site: Site) -> None:
    site.apply(MOVED)
    refusing(site, "reconfigure")
    with pytest.raises(NotTaken):
        site.apply(LEAF_MORE)
    site.slurm.before = site.topologies.before = site.step
    assert site.settled(MOVED)
    site.controller.apply(site.controller.before())
    assert site.settled(OLD)


@pytest.mark.parametrize("then", [LEAF_MORE, SWAPPED], ids=["the same", "another"])
def test_what_is_refused_after_a_run_that_was_cut_off_is_taken_back_too(tmp_path: Path, then: Fabric) -> None:
    site = Site(tmp_path)
    site.apply(LEAF_MORE)
    site.controller.apply(site.controller.before())
    cut_off(site, LEAF_MORE)
    refusing(site, "reconfigure", "move")
    with pytest.raises(NotTaken, match="as they were before"):
        site.apply(then)
    site.slurm.before = site.topologies.before = site.step
    assert site.settled(OLD)
    site.controller.apply(site.controller.before())
    assert site.settled(LEAF_MORE), "what could be undone before still can"


def test_what_a_run_that_was_cut_off_did_can_be_undone(tmp_path: Path) -> None:
    site = Site(tmp_path)
    cut_off(site, LEAF_MORE)
    site.slurm.before = site.step
    site.controller.apply(site.controller.before())
    assert site.settled(OLD)


@pytest.mark.parametrize("ending", [b"\r\n", b"\n# Gr\xfc\xdfe, by hand\n"], ids=["DOS line ends", "no UTF-8"])
def test_a_file_is_put_back_byte_by_byte(site: Site, ending: bytes) -> None:
    content = site.text(OLD).encode().replace(b"\n", ending)
    site.file.write_bytes(content)
    refusing(site, "reconfigure")
    with pytest.raises(NotTaken):
        site.apply(LEAF_MORE)
    assert site.file.read_bytes() == content


def test_a_plan_that_is_no_longer_true_is_not_carried_out(site: Site) -> None:
    controller = site.controller
    planned = controller.wanted(site.text(MOVED))
    site.apply(LEAF_MORE)
    with pytest.raises(Conflict, match="changed since the plan was made"):
        controller.apply(planned)
    assert site.settled(LEAF_MORE)
    assert planned.digest != controller.wanted(site.text(MOVED)).digest


@pytest.mark.parametrize("fabric", [MOVED, LEAF_MORE, SWAPPED], ids=["move", "leaf", "two moves"])
def test_killed_at_any_step_the_next_run_ends_in_the_same_state(tmp_path: Path, fabric: Fabric) -> None:
    whole = Site(tmp_path)
    whole.apply(fabric)
    for number in range(1, whole.steps + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        site = Site(folder, power_cut_at=number)
        with pytest.raises(PowerCut):
            site.apply(fabric)
        site.apply(fabric)
        assert site.settled(fabric), number
        site.controller.apply(site.controller.before())
        assert site.settled(OLD), number
        assert not (folder / "topology.yaml.trying").exists()


@pytest.mark.parametrize(("file", "slurm"), [*product((OLD, MOVED, LEAF_MORE), repeat=2)])
def test_from_any_state_of_file_and_slurmctld_it_ends_in_the_same(site: Site, file: Fabric, slurm: Fabric) -> None:
    site.file.write_text(site.text(slurm))
    site.topologies.reload()
    site.file.write_text(site.text(file))
    site.apply(MOVED)
    assert site.settled(MOVED)


@pytest.mark.parametrize("content", [None, "", "- topology: [", "nonsense"])
def test_a_file_that_is_not_there_or_says_nothing_is_replaced(site: Site, content: str | None) -> None:
    site.file.unlink() if content is None else site.file.write_text(content)
    site.apply(OLD)
    assert site.settled(OLD)
