"""The configuration, and the commands of the portal's host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.main import command
from slurm_gpuaas.store.pool import PoolStore
from tests.pools import PASSWORD
from tests.stores import new_pool_store

EXAMPLE = Path(__file__).parents[3] / "etc" / "gpuaas-portal.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "portal.yaml"
    path.write_text(text)
    return path


def test_the_example_is_right_and_shows_the_defaults(tmp_path: Path) -> None:
    config = Config.load(EXAMPLE)
    assert config == Config(public_url="https://gpu.example.org")
    lines = EXAMPLE.read_text().splitlines()
    shown = yaml.safe_load("\n".join(line[2:] for line in lines if line.startswith(("# sessions:", "# limits:"))))
    defaults = config.model_dump(mode="json")
    assert shown["limits"] == defaults["limits"]
    sessions = {name: getattr(config.sessions, name) for name in shown["sessions"]}
    assert shown["sessions"] == {
        name: int(value.total_seconds()) if hasattr(value, "total_seconds") else value
        for name, value in sessions.items()
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "public_url: Field required"),
        ("public_url: http://gpu.example.org\n", "sessions would travel in the clear"),
        ("public_url: https://gpu.example.org/portal\n", "scheme, host and port only"),
        ("public_url: ftp://gpu.example.org\n", "scheme, host and port only"),
        ("public_url: https://a\nlisten: {host: 0.0.0.0}\n", "which other machines reach"),
        ("public_url: https://a\noidc: {issuer: 'http://sso.example.org', client_id: x}\n", "asked over https"),
        (
            "public_url: https://a\noidc: {issuer: 'https://b', client_id: x, "
            "roles: [{claim: g, value: v, role: provider-operator}]}\n",
            "provider",
        ),
        ("public_url: https://a\nsessions: {idel: 3}\n", "sessions.idel: Extra inputs"),
        ("public_url: [\n", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Config.load(write(tmp_path, text))
    assert says in str(caught.value)


def run(tmp_path: Path, *arguments: str, typed: str = "") -> Result:
    if not (tmp_path / "pool.db").exists():
        new_pool_store(tmp_path / "pool.db").close()
    config = write(tmp_path, f"public_url: https://a\nstore: {{url: 'sqlite:///{tmp_path}/pool.db'}}\n")
    return CliRunner().invoke(command, ["--config", str(config), *arguments], input=typed)


ADMIN = ("create-admin", "--login", "kim", "--name", "김하나", "--email", "Kim@example.org")


def test_the_first_account_is_made_with_a_password_that_is_asked_for(tmp_path: Path) -> None:
    assert run(tmp_path, *ADMIN, typed=f"{PASSWORD}\n{PASSWORD}\n").exit_code == 0
    store = PoolStore.open(f"sqlite:///{tmp_path}/pool.db")
    (person,) = store.people.all()
    assert (person.office.role, person.email) == (PortalRole.GOVERNMENT, "kim@example.org")
    assert [entry.action for entry in store.audit.newest(limit=9)] == ["people.add"]
    assert isinstance(run(tmp_path, *ADMIN, typed=f"{PASSWORD}\n{PASSWORD}\n").exception, Exception)


def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o644)
    refused = run(tmp_path, *ADMIN, "--password-file", str(file))
    assert "others can read it" in str(refused.exception)
    file.chmod(0o600)
    assert run(tmp_path, *ADMIN, "--password-file", str(file)).exit_code == 0


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "kim kim kim kim"])
def test_a_weak_password_is_refused(tmp_path: Path, password: str) -> None:
    result = run(tmp_path, *ADMIN, typed=f"{password}\n{password}\n")
    assert isinstance(result.exception, InvalidInput)


def test_the_trail_is_verified_and_its_end_anchored(tmp_path: Path) -> None:
    run(tmp_path, *ADMIN, typed=f"{PASSWORD}\n{PASSWORD}\n")
    anchors = str(tmp_path / "anchors.jsonl")
    assert run(tmp_path, "audit", "anchor", "--to", anchors).output.startswith("Entry 1: ")
    whole = run(tmp_path, "audit", "verify", "--anchors", anchors)
    assert (whole.exit_code, whole.output[:22]) == (0, "1 entries are whole, u")
    Path(anchors).write_text('{"seq": 9, "hash": "x"}\n')
    cut = run(tmp_path, "audit", "verify", "--anchors", anchors)
    assert cut.exit_code == 1
    assert "cut-off: Entry 9 was anchored, but the trail ends at entry 2." in cut.output


def test_check_says_whether_the_file_is_right(tmp_path: Path) -> None:
    result = run(tmp_path, "--check")
    assert (result.exit_code, result.output) == (0, f"{tmp_path}/portal.yaml is right.\n")
