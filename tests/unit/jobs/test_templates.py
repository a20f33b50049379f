"""Templates: what they render to, what they refuse, and that no value leaves its place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm_gpuaas.cli.main import main
from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.jobs.templates import SHIPPED, Library, option_of

GOLDEN = Path(__file__).parent / "golden"

RENDERED = {
    "single-node": ("single-node", {"command": "python3 train.py --lr 0.1", "gpus": "2", "time": "2:00:00"}),
    "single-node-burst": ("single-node", {"command": "true", "qos": "burst", "account": "nlp", "name": "try.1"}),
    "torchrun": ("torchrun", {"script": "train.py"}),
    "torchrun-all": (
        "torchrun",
        {
            "script": "my code/train.py",
            "arguments": "--data '/data/set 1' --lr 3e-4",
            "nodes": "16",
            "processes": "4",
            "python": "apptainer exec image.sif python3",
            "launcher": "-m torch.distributed.run --log-dir logs",
            "checkpoints": "/shared/run 7",
            "checkpoint_lead": "600",
            "max_requeues": "3",
            "max_restarts": "2",
            "placement": "off",
            "account": "nlp",
            "qos": "guaranteed",
            "partition": "h200-gov",
            "model": "h200",
            "time": "2-00:00:00",
            "output": "logs/%j.out",
        },
    ),
    "nccl-test": ("nccl-test", {"nodes": "4", "binary": "/opt/nccl-tests/all_reduce_perf"}),
}


@pytest.mark.parametrize("golden", RENDERED)
def test_renders_to_its_golden_file(golden: str) -> None:
    """After a change that is meant: write the new text and read the difference in review."""
    name, values = RENDERED[golden]
    assert Library().get(name).render(values) == (GOLDEN / f"{golden}.sh").read_text()


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.sh")), ids=lambda path: path.stem)
def test_rendered_scripts_are_bash(golden: Path) -> None:
    assert golden.stem in RENDERED, "a golden file that nothing renders"
    subprocess.run(["bash", "-n", golden], check=True)


def test_every_template_is_held_by_a_golden_file() -> None:
    assert {name for name, _ in RENDERED.values()} == set(Library().names())


REFUSED = [
    ("torchrun", {}, ["needs --script", "a path"]),
    ("torchrun", {"script": "train.py", "nodes": "0"}, ["--nodes", "'0'", "1 to 2048"]),
    ("torchrun", {"script": "train.py", "nodes": "2; id"}, ["--nodes", "whole number"]),
    ("torchrun", {"script": "train.py", "nodes": "٣"}, ["--nodes"]),
    ("torchrun", {"script": "-rf"}, ["--script", "does not start with '-'"]),
    ("torchrun", {"script": "a\nb"}, ["--script"]),
    ("torchrun", {"script": "a", "placement": "maybe"}, ["--placement", "gate, off"]),
    ("torchrun", {"script": "a", "time": "soon"}, ["--time", "D-HH:MM:SS"]),
    ("torchrun", {"script": "a", "checkpoint_lead": "99999"}, ["--checkpoint-lead", "65535"]),
    ("single-node", {"command": "echo 'open"}, ["--command", "quotes closed"]),
    ("single-node", {"command": "true", "name": "a b"}, ["--name"]),
    ("single-node", {"command": "true", "account": "$(id)"}, ["--account"]),
    ("single-node", {"command": "true", "colour": "red"}, ["no parameter colour", "command, gpus"]),
]


@pytest.mark.parametrize(("template", "values", "words"), REFUSED)
def test_refuses_a_wrong_value_and_says_what_is_right(template: str, values: dict[str, str], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as raised:
        Library().get(template).render(values)
    assert [word for word in words if word not in str(raised.value)] == [], str(raised.value)


@pytest.mark.parametrize("name", ["nope", "../torchrun", "common", "", "TORCHRUN"])
def test_an_unknown_template_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(NotFound) as raised:
        Library().get(name)
    assert "single-node, torchrun" in str(raised.value)


HOSTILE = [
    "$(touch pwned)", "`touch pwned`", "'; touch pwned; '", '"; touch pwned; "', "a\\", "${IFS}",
    "#", "!!", "*", "한글 값",
]  # fmt: skip


def _argv_of(script: str, folder: Path) -> list[str]:
    """What the single-node script runs in the end, with what Slurm sets."""
    run = subprocess.run(
        ["bash", "-s"],
        input=script,
        cwd=folder,
        env={"SLURM_JOB_ID": "1", "SLURMD_NODENAME": "n1", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split("\n", 1)[1].removesuffix("\x00").split("\x00")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_stays_one_word(tmp_path: Path, value: str) -> None:
    script = Library().get("single-node").render({"command": f"printf '%s\\0' {_quoted(value)}"})
    assert _argv_of(script, tmp_path) == [value]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=30))
def test_any_printable_value_stays_one_word(tmp_path: Path, value: str) -> None:
    try:
        script = Library().get("single-node").render({"command": f"printf '%s\\0' {_quoted(value)}"})
    except InvalidInput:
        assert not value.isprintable()
        return
    assert _argv_of(script, tmp_path) == [value]


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"


def _site_template(folder: Path, manifest: str, script: str) -> Library:
    shutil.copytree(SHIPPED / "common", folder / "common")
    (folder / "own").mkdir()
    (folder / "own" / "manifest.yaml").write_text(manifest)
    (folder / "own" / "script.sh.j2").write_text(script)
    return Library(folder)


MANIFEST = "title: t\ndescription: d\nparameters:\n  x: {type: integer, default: 1, min: 0, max: 9, help: h}\n"


def test_a_site_adds_templates_of_its_own(tmp_path: Path) -> None:
    library = _site_template(tmp_path, MANIFEST, "echo {{ x }} {{ output }}\n")
    assert library.names() == ["own"]
    assert library.get("own").render({"x": "7"}) == "echo 7 %x-%j.out\n"


@pytest.mark.parametrize(
    ("manifest", "script", "words"),
    [
        (MANIFEST, "{{ missing }}", "missing"),
        (MANIFEST, "{% if %}", "cannot be rendered"),
        (MANIFEST, "{{ ().__class__.__bases__ }}", "cannot be rendered"),
        (MANIFEST.replace("default: 1", "default: 10"), "", "from 0 to 9"),
        (MANIFEST.replace("  x:", "  Bad-Name:"), "", "cannot name a parameter"),
        (MANIFEST.replace("type: integer", "type: colour"), "", "manifest of template own is wrong"),
        (MANIFEST + "colour: red\n", "", "colour"),
        ("- 1", "", "not a mapping"),
        ("{\n\n", "", "is not YAML: line 3: expected the node content"),
        ("title: t\ndescription: d\nparameters: [a]\n", "", "parameters: is not a mapping of fields"),
    ],
)
def test_a_wrong_template_is_named_with_its_fault(tmp_path: Path, manifest: str, script: str, words: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        _site_template(tmp_path, manifest, script).get("own").render({})
    assert words in str(raised.value)


def test_a_template_whose_files_cannot_be_read_is_named(tmp_path: Path) -> None:
    library = _site_template(tmp_path, MANIFEST, "")
    (tmp_path / "own" / "script.sh.j2").unlink()
    with pytest.raises(InvalidInput, match=r"script\.sh\.j2 cannot be read: No such file"):
        library.get("own")
    (tmp_path / "own" / "manifest.yaml").write_bytes(b"title: \xff\n")
    with pytest.raises(InvalidInput, match=r"manifest\.yaml is not a text in UTF-8"):
        library.get("own")


def test_one_bad_template_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "templates"
    shutil.copytree(SHIPPED, folder)
    (folder / "torchrun" / "script.sh.j2").unlink()
    monkeypatch.setenv("GPUAAS_JOB_TEMPLATES", str(folder))
    for words in (("template", "list"), ("job", "submit", "--help")):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert "single-node" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_folder_without_templates_is_named(tmp_path: Path, folder: str) -> None:
    with pytest.raises(NotFound, match=f"no job template in {tmp_path / folder}"):
        Library(tmp_path / folder).names()


def test_options_are_spelt_with_hyphens() -> None:
    assert option_of("gpus_per_node") == "--gpus-per-node"
