"""What the agent's configuration refuses, and how the command says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gpuaas.agent import main
from slurm_gpuaas.agent.config import Config
from slurm_gpuaas.domain.errors import InvalidInput


@pytest.mark.parametrize("text", ["heartbeat: 0\n", "timeout: -1\n", "same_within: PT0S\n"])
def test_a_span_of_nothing_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=f"{text.partition(':')[0]}: Input should be greater than"):
        Config.load(path)


@pytest.mark.parametrize(
    ("daemon", "right"),
    [
        ("http://10.0.0.1:6880", False),
        ("http://slurm.example.org:6880", False),
        ("http://127.0.0.1:6880", True),
        ("http://[::1]:6880", True),
        ("http://localhost:6880", True),
        ("https://slurm.example.org:6880", True),
    ],
)
def test_events_leave_the_machine_over_tls_only(daemon: str, right: bool) -> None:
    if right:
        assert Config(daemon=daemon).daemon == daemon
    else:
        with pytest.raises(ValueError, match="to another machine use https"):
            Config(daemon=daemon)


def test_without_a_master_key_the_command_says_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"master_key: {tmp_path}/none.key\n")
    result = CliRunner().invoke(main.command, ["--config", str(path), "--print-key", "b200-007"])
    assert isinstance(result.exception, InvalidInput)
    assert f"openssl rand -hex 32 > {tmp_path}/none.key" in str(result.exception)


def test_what_nobody_expected_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def burst(**_: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.delenv("GPUAAS_DEBUG", raising=False)
    monkeypatch.setattr(main.command, "main", burst)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "RuntimeError: no such thing" in said
    assert said.count("\n") == 1
