"""`gpuaas topology place`: documents in, answers out; and the other commands of the group."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click import Command, Group
from click.testing import CliRunner

from slurm_gpuaas.cli.topology import group
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.testbed.sim.damage import cut, gone, swapped, trained
from slurm_gpuaas.topology.problem import Problem, solve

NOTHING = {"imbalance": 0, "broken": 0, "leftover": 0, "risk": 0, "ends": 0}
REAL = Path(__file__).parent / "data" / "mini.ibnetdiscover"


def problem(levels: list[str], free: dict[str, int], **request: Any) -> Problem:
    """`problem(["pod", "leaf"], {"p1/a": 4}, count=2)`."""
    domains = [{"path": path.split("/"), "free": number} for path, number in free.items()]
    return Problem.model_validate({"levels": levels, "domains": domains, "request": request})


def taken(known: Problem) -> dict[str, int] | None:
    answer = solve(known)
    if answer.assignment is None:
        return None
    return {"/".join(row.path): row.count for row in answer.assignment}


def test_the_fewest_domains_level_by_level() -> None:
    known = problem(["pod", "leaf"], {"p1/a": 2, "p1/b": 2, "p1/c": 2, "p2/d": 4, "p3/e": 2}, count=6)
    answer = solve(known)
    assert taken(known) == {"p1/a": 2, "p1/b": 2, "p1/c": 2}
    assert answer.cost == {"pod": 1, "leaf": 3, **NOTHING}
    assert answer.lower_bound == {"pod": 1, "leaf": 2}
    assert answer.gap == {"pod": 0, "leaf": 1}
    assert answer.why == "1 pod (the fewest possible), 3 leaf (2 with more above); breaks no whole one; 0 left over."
    assert answer.runner_up is not None
    assert answer.runner_up.cost["pod"] == 2


def test_nodes_as_the_lowest_level() -> None:
    free = {"a/n1": 1, "a/n2": 1, "b/n3": 0, "b/n4": 1}
    known = problem(["leaf", "node"], free, count=1)
    assert taken(known) == {"b/n4": 1}, "a is whole, b is broken already"
    assert solve(known).cost == {"leaf": 1, "node": 1, **NOTHING}
    assert taken(problem(["leaf", "node"], free, count=3)) == {"a/n1": 1, "a/n2": 1, "b/n4": 1}


def test_an_unusable_domain_is_not_taken() -> None:
    known = Problem.model_validate(
        {
            "levels": ["leaf"],
            "domains": [{"path": ["a"], "free": 4, "usable": False}, {"path": ["b"], "free": 5}],
            "request": {"count": 4},
        }
    )
    assert taken(known) == {"b": 4}


def test_a_required_level_holds_all_of_it() -> None:
    free = {"p1/a": 3, "p1/b": 1, "p2/c": 4}
    assert taken(problem(["pod", "leaf"], free, count=4, required="leaf")) == {"p2/c": 4}
    answer = solve(problem(["pod", "leaf"], free, count=5, required="pod"))
    assert (answer.assignment, answer.reason) == (None, "5 do not fit: one pod of the fabric has 4 free at most.")


def nodes(busy: dict[str, float], free: str, **request: Any) -> Problem:
    """Nodes of leaf groups a, b, ...: when the busy ones get free, and which are."""
    domains = [{"path": path.split("/"), "free": 0, "ends_in_s": ends} for path, ends in busy.items()]
    domains += [{"path": path.split("/"), "free": 1} for path in free.split()]
    return Problem.model_validate({"levels": ["leaf", "node"], "domains": domains, "request": request})


def test_the_least_risky_nodes_of_a_leaf_group_are_taken() -> None:
    risks = {"a/n1": 0.3, "a/n2": 0.1, "a/n3": 0.2}
    known = Problem.model_validate(
        {
            "levels": ["leaf", "node"],
            "domains": [{"path": path.split("/"), "free": 1, "risk": risk} for path, risk in risks.items()],
            "request": {"count": 2},
        }
    )
    assert taken(known) == {"a/n2": 1, "a/n3": 1}
    assert solve(known).cost["risk"] == pytest.approx(0.6)


def test_a_preferred_level_that_cannot_be_had_is_said() -> None:
    free = {"p1/a": 3, "p1/b": 1, "p2/c": 2}
    assert solve(problem(["pod", "leaf"], free, count=4, preferred="leaf")).why.endswith("no one leaf holds it.")
    assert "no one" not in solve(problem(["pod", "leaf"], free, count=3, preferred="leaf")).why
    assert "no one" not in solve(problem(["pod", "leaf"], free, count=4, preferred="pod")).why


def test_it_waits_within_the_bound_for_fewer_domains_and_no_longer_than_it_pays() -> None:
    busy = {"a/n3": 60.0, "a/n4": 30.0, "b/n6": 600.0}
    free = "a/n1 a/n2 b/n5"
    assert taken(nodes(busy, free, count=3)) == {"a/n1": 1, "a/n2": 1, "b/n5": 1}
    answer = solve(nodes(busy, free, count=3, wait_s=100))
    assert (answer.start_in_s, answer.cost["leaf"]) == (30, 1)
    assert "starts in 30 s: now it would be 2 leaf." in answer.why
    assert solve(nodes(busy, free, count=3, wait_s=29)).start_in_s == 0
    assert solve(nodes(busy, free, count=2, wait_s=100)).start_in_s == 0, "one leaf group is free now"


def test_it_waits_for_room() -> None:
    answer = solve(nodes({"a/n2": 60.0}, "a/n1", count=2, wait_s=60))
    assert (answer.start_in_s, taken(nodes({"a/n2": 60.0}, "a/n1", count=2, wait_s=60))) == (60, {"a/n1": 1, "a/n2": 1})
    assert "nothing fits now" in answer.why
    assert solve(nodes({"a/n2": 60.0}, "a/n1", count=2)).reason == "2 do not fit: the fabric has 1 free at most."


def test_neighbours_that_end_with_it() -> None:
    busy = {"a/n1": 9000.0, "b/n3": 3700.0}
    assert taken(nodes(busy, "a/n2 b/n4", count=1, runs_s=3600)) == {"b/n4": 1}
    assert taken(nodes(busy, "a/n2 b/n4", count=1)) == {"a/n2": 1}


def test_slices_that_do_not_fit_say_so() -> None:
    known = problem(["leaf"], {"a": 3, "b": 1}, count=4, slices=[{"level": "leaf", "size": 2}])
    assert solve(known).reason == "4 do not fit in slices of 2 a leaf: the fabric has 2 free at most."


def test_a_node_holds_one() -> None:
    free = {"a/n1": 1, "a/n2": 1}
    assert solve(problem(["leaf", "node"], free, count=2, required="node")).assignment is None
    assert taken(problem(["leaf", "node"], free, count=1, required="node")) == {"a/n1": 1}
    assert solve(problem(["leaf", "node"], free, count=2, slices=[{"level": "node", "size": 2}])).assignment is None
    assert taken(problem(["leaf", "node"], free, count=2, slices=[{"level": "node", "size": 1}])) == free


def test_too_much_says_how_much_would_fit() -> None:
    assert solve(problem(["leaf"], {"a": 3}, count=4)).reason == "4 do not fit: the fabric has 3 free at most."
    assert solve(problem(["leaf"], {}, count=1)).reason == "1 do not fit: the fabric has 0 free at most."


def test_rank_order_is_natural_order() -> None:
    assert list(taken(problem(["leaf"], {"l10": 1, "l9": 1, "l8": 1}, count=3)) or {}) == ["l8", "l9", "l10"]


def test_the_order_of_domains_does_not_matter() -> None:
    free = {f"p{pod}/l{leaf}": (pod * 7 + leaf * 5) % 9 for pod in range(4) for leaf in range(4)}
    answers = set()
    for seed in range(5):
        items = list(free.items())
        random.Random(seed).shuffle(items)
        answers.add(solve(problem(["pod", "leaf"], dict(items), count=17)).model_dump_json())
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"levels": ["a", "a"], "domains": [], "request": {"count": 1}}, "the same name"),
        ({"levels": ["a"], "domains": [{"path": ["x", "y"], "free": 1}], "request": {"count": 1}}, "has 2 names"),
        (
            {"levels": ["a"], "domains": [{"path": ["x"], "free": 1}] * 2, "request": {"count": 1}},
            "stands twice",
        ),
        ({"levels": ["a"], "domains": [], "request": {"count": 1, "required": "b"}}, "no level 'b'"),
        ({"levels": ["a"], "domains": [], "request": {"count": 0}}, "greater than or equal to 1"),
        ({"levels": ["a"], "domains": [], "request": {"count": 1, "colour": "red"}}, "there is no such field"),
        ({"levels": ["a"], "domains": [], "request": {"count": 1, "preferred": "b"}}, "no level 'b'"),
        (
            {"levels": ["a"], "domains": [], "request": {"count": 6, "slices": [{"level": "a", "size": 4}]}},
            "6 cannot be made of slices of 4",
        ),
        (
            {
                "levels": ["a", "b"],
                "domains": [],
                "request": {"count": 4, "slices": [{"level": "b", "size": 2}, {"level": "a", "size": 2}]},
            },
            "not in the order of the levels",
        ),
        ({"levels": ["a"], "domains": [{"path": ["x"], "free": 1, "risk": 2}], "request": {"count": 1}}, "risk"),
    ],
)
def test_a_wrong_problem_says_where(document: dict[str, Any], fault: str, tmp_path: Path) -> None:
    file = tmp_path / "problem.json"
    file.write_text(json.dumps(document))
    result = CliRunner().invoke(group, ["place", "--problem", str(file)])
    assert isinstance(result.exception, InvalidInput)
    assert fault in result.exception.message


class TestCommands:
    def run(self, *argv: str, text: str | None = None) -> str:
        result = CliRunner().invoke(group, argv, input=text, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def test_from_the_real_tools_output_to_slurms_file(self, tmp_path: Path) -> None:
        fabric = tmp_path / "fabric.json"
        self.run("import", "ibnetdiscover", str(REAL), "--nodes", "b200-[01-08]", "-o", str(fabric))
        shown = self.run("show", str(fabric))
        assert "b200-[01-04]" in shown
        assert "8 nodes, 2 leaf groups, 1 pod, 4 spines, 0 switches above them." in shown
        assert json.loads(self.run("show", str(fabric), "--json"))["version"] == 1
        file = tmp_path / "topology.yaml"
        self.run("render", str(fabric), "--format", "topology.yaml", "--nodes", "b200-[01-09]", "-o", str(file))
        assert 'switch: "unattached"\n        nodes: "b200-09"' in file.read_text()
        again = json.loads(self.run("import", "topology.yaml", str(file)))
        assert [row["nodes"] for row in again["leaf_groups"]] == ["b200-[01-04]", "b200-[05-08]", "b200-09"]

    def test_check_says_what_is_wrong_and_whom_it_touches(self, tmp_path: Path) -> None:
        fabric, text = tmp_path / "fabric.json", REAL.read_text()
        self.run("import", "ibnetdiscover", "-", "-o", str(fabric), text=text)
        assert self.run("check", str(fabric)) == "Nothing is wrong.\n"
        slow = trained(text, "b200-02 mlx5_3", "leaf-01-4", "1xNDR")
        self.run("import", "ibnetdiscover", "-", "-o", str(fabric), text=slow)
        result = CliRunner().invoke(group, ["check", str(fabric), "--json"])
        assert result.exit_code == 1
        assert json.loads(result.stdout) == [
            {
                "fault": "slow-link",
                "says": "b200-02 mlx5_3 to leaf-01-4 runs at 1xNDR (106.25 Gb/s), others at 4xNDR.",
                "nodes": "b200-02",
                "devices": ["b83fd20301000030"],
            }
        ]

    def test_validate_says_what_slurmctld_would_make_of_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "topology.conf"
        file.write_text("SwitchName=a Nodes=n[1-4]\nSwitchName=b Nodes=n[4-8]\n")
        result = CliRunner().invoke(group, ["validate", str(file), "--json"])
        assert result.exit_code == 1
        assert json.loads(result.stdout) == [
            {
                "slurmctld": "slurmctld warns",
                "says": "2 switches have none above them (a, b): no job may span them.",
            },
            {"slurmctld": "slurmctld warns", "says": "Node n4 is in 2 places, a and b."},
        ]
        sound = self.run(
            "validate", "-", text="- topology: t\n  tree:\n    switches:\n      - {switch: a, nodes: n1}\n"
        )
        assert sound == "Nothing is wrong.\n"

    def test_diff_says_what_changed(self, tmp_path: Path) -> None:
        before, after, text = tmp_path / "before.json", tmp_path / "after.json", REAL.read_text()
        self.run("import", "ibnetdiscover", "-", "-o", str(before), text=text)
        changed = cut(text, "b200-02 mlx5_3", "leaf-01-4")
        for rail in range(8):
            changed = swapped(changed, f"b200-04 mlx5_{rail}", f"b200-05 mlx5_{rail}")
        changed = gone(changed, *(f"b200-08 mlx5_{rail}" for rail in range(8)))
        self.run("import", "ibnetdiscover", "-", "-o", str(after), text=changed)
        assert self.run("diff", str(before), str(before)) == "Nothing changed.\n"
        result = CliRunner().invoke(group, ["diff", str(before), str(after)])
        assert result.exit_code == 2
        assert result.stdout.splitlines() == [
            "- b200-08",
            "~ b200-04: from leaf-01 to leaf-02",
            "~ b200-05: from leaf-02 to leaf-01",
            "! b200-02 reaches 7 of the 8 leaves of its group.",
        ]

    def test_nodes_without_a_link_are_no_leaf_group(self, tmp_path: Path) -> None:
        fabric = tmp_path / "fabric.json"
        self.run("import", "ibnetdiscover", str(REAL), "--nodes", "b200-[01-10]", "-o", str(fabric))
        assert "10 nodes (2 without a link), 2 leaf groups, 1 pod, 4 spines" in self.run("show", str(fabric))

    def test_a_mark_before_the_text_is_no_line_of_it(self, tmp_path: Path) -> None:
        file = tmp_path / "net.txt"
        file.write_text(REAL.read_text(), encoding="utf-8-sig")
        result = CliRunner().invoke(group, ["import", "ibnetdiscover", str(file)])
        assert json.loads(result.stdout)["findings"] == []

    def test_every_command_has_examples(self) -> None:
        def commands(one: Command, name: str) -> Iterator[tuple[str, str]]:
            yield name, one.help or ""
            if isinstance(one, Group):
                for word, other in one.commands.items():
                    yield from commands(other, f"{name} {word}")

        assert [name for name, text in commands(group, "topology") if "\b\n    Example" not in text] == []

    def test_a_finding_of_no_node_list_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "fabric.json"
        known = json.loads(self.run("import", "ibnetdiscover", str(REAL)))
        known["findings"] = [{"fault": "no-link", "says": "x", "nodes": "n[["}]
        file.write_text(json.dumps(known))
        result = CliRunner().invoke(group, ["check", str(file)])
        assert isinstance(result.exception, InvalidInput)
        assert "findings.0.nodes" in result.exception.message

    def test_standard_input(self) -> None:
        assert json.loads(self.run("import", "ibnetdiscover", "-", text=REAL.read_text()))["source"] == "ibnetdiscover"

    def test_place_for_people_and_for_programs(self) -> None:
        text = problem(["leaf"], {"a": 3, "b": 2}, count=2).model_dump_json()
        assert "1 leaf (the fewest possible)" in self.run("place", "--problem", "-", text=text)
        answer = json.loads(self.run("place", "--problem", "-", "--json", text=text))
        assert answer["assignment"] == [{"path": ["b"], "count": 2}]

    def test_a_file_that_is_no_fabric(self, tmp_path: Path) -> None:
        file = tmp_path / "fabric.json"
        file.write_text('{"leaf_groups": []}')
        result = CliRunner().invoke(group, ["show", str(file)])
        assert isinstance(result.exception, InvalidInput)
        assert "leaf_groups" in result.exception.message
