"""What `gpuaas topology` writes to a file, and when `import` ends so that a script stops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gpuaas.cli.topology import group
from slurm_gpuaas.cli.topology_files import put
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.topology.fabric import parse_fabric
from tests.unit.topology.test_problem import REAL


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "fabric.json"
    file.write_text("old")
    file.chmod(0o640)
    with file.open() as reader:
        put("new", file)
        assert reader.read() == "old", "who reads it meanwhile sees one of them whole"
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_what_is_no_plain_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    file, other = tmp_path / "fabric.json", tmp_path / "passwd"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(other)
    if kind == "link":
        other.write_text("root")
    with pytest.raises(InvalidInput, match="is no plain file"):
        put("new", file)
    assert other.exists() == (kind == "link") and (not other.exists() or other.read_text() == "root")


def test_a_folder_that_is_not_there_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be written: No such file"):
        put("new", tmp_path / "none" / "fabric.json")


@pytest.mark.parametrize(
    ("text", "code", "fault"),
    [
        (REAL.read_text(), 0, None),
        (REAL.read_text()[:20_000], 1, "cut-text"),
        (REAL.read_text() + "no such line\n", 1, "strange-text"),
    ],
    ids=["whole", "cut", "strange"],
)
def test_an_import_of_a_text_that_was_not_understood_is_written_and_ends_with_1(
    tmp_path: Path, text: str, code: int, fault: str | None
) -> None:
    file = tmp_path / "fabric.json"
    ran = CliRunner().invoke(group, ["import", "ibnetdiscover", "-", "-o", str(file)], input=text)
    assert ran.exit_code == code
    faults = {str(finding.fault) for finding in parse_fabric(file.read_text(), source="file").findings}
    assert fault is None or fault in faults
