"""What `topology validate` says of files; tests/slurm/test_validation.py asks a real slurmctld about the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.topology.validation import validate_conf, validate_yaml
from tests.unit.topology.topology_files import CONF_FILES, FILES, NODES, File


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_a_file_is_judged(file: File) -> None:
    problems = validate_yaml(file.text, nodes=NODES)
    assert (problems[0].slurmctld if problems else None) == file.slurmctld, problems


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    validate_yaml(text, nodes=NODES)
    validate_conf(text, nodes=NODES)


@pytest.mark.parametrize("file", CONF_FILES, ids=[file.name for file in CONF_FILES])
def test_topology_conf_is_judged(file: File) -> None:
    problems = validate_conf(file.text, nodes=NODES)
    assert (problems[0].slurmctld if problems else None) == file.slurmctld, problems


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SwitchName=r Switches=a,b\nSwitchName=a Nodes=n[1-8]\n", "Switch r names switch b, which is not described."),
        ("BlockName=a Nodes=n[1-8]\nBlockSizes=x\n", "'x' is no whole number above 0"),
        ("SwitchName=a Nodes=n[1-\n", "is not a node list"),
        ("SwitchName=a Nodes=n[1-8]\nhello world\n", "line 2 is not understood: 'hello world'."),
    ],
)
def test_a_problem_is_a_sentence(text: str, says: str) -> None:
    assert says in validate_conf(text, nodes=NODES)[0].says


def test_without_the_nodes_of_slurm_conf_nothing_is_said_of_them() -> None:
    missing = next(file for file in FILES if file.name == "a node in no leaf")
    assert validate_yaml(missing.text) == []
