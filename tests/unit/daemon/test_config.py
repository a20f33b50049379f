from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gpuaas.daemon import main
from slurm_gpuaas.daemon.config import Config
from slurm_gpuaas.domain.errors import InvalidInput

ROOT = Path(__file__).parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "gpuaasd.yaml"
    path.write_text(text)
    return path


def test_a_cluster_is_enough(tmp_path: Path) -> None:
    config = Config.load(write(tmp_path, "cluster: haein\n"))
    assert config.cluster == "haein"
    assert config.store.url.startswith("sqlite:")
    assert config.agents.listener is None


def test_the_environment_stands_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUAASD_STORE__URL", "postgresql://gpuaas:secret@db/gpuaas")
    monkeypatch.setenv("GPUAASD_POLICY__INTERVAL", "PT10S")
    config = Config.load(write(tmp_path, "cluster: haein\nstore: {url: 'sqlite:////elsewhere.db'}\n"))
    assert config.store.url == "postgresql://gpuaas:secret@db/gpuaas"
    assert config.policy.interval == timedelta(seconds=10)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cluster: Field required"),
        ("cluster: haein\npolicy: {intervall: 3}\n", "policy.intervall: Extra inputs are not permitted"),
        ("cluster: haein\nstors: 1\n", "stors: Extra inputs"),
        ("cluster: 'no cluster!'\n", "is not a valid cluster name"),
        ("cluster: [\n", "is not YAML"),
        ("- cluster\n", "is not a mapping"),
        ("cluster: haein\npolicy: {interval: 0}\n", "policy.interval: Input should be greater than"),
        ("cluster: haein\nstop_within: -1\n", "stop_within: Input should be greater than"),
        ("cluster: haein\nagents: {listener: {host: 10.0.0.1}}\n", "agents.listener: Value error, host is 10.0.0.1"),
        ("cluster: haein\npool: {url: 'http://portal.kr', site: a, shares: [b]}\n", "go to portal.kr in the clear"),
        ("cluster: haein\npool: {url: 'https://portal.kr', site: a, shares: []}\n", "pool.shares: Tuple should have"),
        (
            "cluster: haein\npool: {url: 'https://k:p@portal.kr', site: a, shares: [b]}\n",
            "pool.url: String should match",
        ),
    ],
    ids=[
        "missing",
        "misspelt-nested",
        "misspelt",
        "bad-name",
        "no-yaml",
        "list",
        "zero",
        "negative",
        "no-tls",
        "portal-without-tls",
        "no-shares",
        "password-in-url",
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Config.load(write(tmp_path, text))
    assert says in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_plain_http_is_for_loopback(tmp_path: Path, host: str) -> None:
    listener = Config.load(
        write(tmp_path, f"cluster: haein\nagents: {{listener: {{host: '{host}'}}}}\n")
    ).agents.listener
    assert listener is not None
    assert listener.host == host


@pytest.mark.parametrize(
    ("store", "right"), [("sqlite:////var/s.db", True), ("postgresql://g@db/g", True), ("mysql://g@db/g", False)]
)
def test_check_looks_at_the_store_without_opening_it(tmp_path: Path, store: str, right: bool) -> None:
    path = write(tmp_path, f"cluster: haein\nstore: {{url: '{store}'}}\n")
    result = CliRunner().invoke(main.command, ["--config", str(path), "--check"])
    assert isinstance(result.exception, InvalidInput) is not right


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
    assert "RuntimeError: no such thing" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        Config.load(tmp_path / "none.yaml")


def test_the_example_is_right_and_shows_the_defaults() -> None:
    example = Config.load(ROOT / "etc" / "gpuaasd.yaml")
    assert example.model_copy(update={"agents": example.agents.model_copy(update={"listener": None})}) == Config(
        cluster=example.cluster, administrators=example.administrators
    )
