"""plugins/cli_filter.lua in-process: what is said before a submission, and that nothing stops one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import lupa.lua54
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm_gpuaas.domain.policy import KST
from tests.unit.hook.harness import LUA

PLUGIN: Final = Path(__file__).parents[3] / "plugins" / "cli_filter.lua"
NOW: Final = datetime(2026, 11, 22, 12, tzinfo=KST)
TOMORROW: Final = int(datetime(2026, 11, 23, 9, 30, tzinfo=KST).timestamp())
SHARES: Final = (
    f"gpuaas-estimates 1 {int(NOW.timestamp())}\n"
    "by\tb200-gov\tguaranteed\t8\t0\nby\tb200-gov\tguaranteed\t16\t{at}\n"
    "by\tb200-gov\tburst\t8\t{at}\n"
).format(at=TOMORROW)
OWN: Final = (
    "project\tnlp\t1\tb200-gov\tb200\t8\t2880\t2500\t1750\t600000\t25000000\t24\t8\n"
    "project\tvision\t0\tb200-gov\tb200\t8\t60\t-\t-\t-\t-\t-\t-\n"
)
STUB: Final = """
slurm = { SUCCESS = 0.0, ERROR = -1.0 }
said, environment, now = {}, {}, 0
function slurm.log_info(...) said[#said + 1] = string.format(...) end
os = { time = function() return now end, date = os.date, getenv = function(name) return environment[name] end }
"""


class Client:
    """sbatch with the plugin, of the user with uid 1000."""

    def __init__(self, folder: Path, *, lua: str = "lua51") -> None:
        self.folder = folder
        self.lua: Any = LUA[lua](unpack_returned_tuples=True)
        self.lua.execute(STUB)
        (folder / "status").write_text("Name:\tsbatch\nUid:\t1000\t1000\t1000\t1000\n")
        names = self.lua.globals()
        names.GPUAAS_ESTIMATES, names.GPUAAS_STATUS = str(folder), str(folder / "status")
        names.now = int(NOW.timestamp())
        self.lua.execute(PLUGIN.read_text())

    def publish(self, shares: str = SHARES, own: str = OWN) -> None:
        (self.folder / "shares").write_text(shares)
        (self.folder / "1000").write_text(own)

    def submit(self, options: Mapping[str, object], environment: Mapping[str, str] | None = None) -> str:
        names = self.lua.globals()
        names.said, names.environment = self.lua.table(), self.lua.table_from(environment or {})
        options = {"type": "sbatch", "nodes": "1-0", "ntasks": "1", **options}
        assert names.slurm_cli_setup_defaults(self.lua.table(), False) == 0
        assert names.slurm_cli_pre_submit(self.lua.table_from(options), 0) == 0
        assert names.slurm_cli_post_submit(0, 1, 0) == 0
        return "\n".join(names.said.values())


@pytest.fixture(params=LUA)
def client(tmp_path: Path, request: pytest.FixtureRequest) -> Client:
    client = Client(tmp_path, lua=request.param)
    client.publish()
    return client


SAYS: list[tuple[str, dict[str, str], list[str]]] = [
    ("price, time and room", {"gpus": "8", "time": "02:00:00"},
     ["40,000 Won at most (8 GPUs x 0-02:00:00, guaranteed of project nlp)", "room for it now"]),
    ("both budgets", {"gpus": "8"}, ["25,000,000 Won and 10000 GPU-hours of the budget are left"]),
    ("the longest time where none is said", {"gpus": "1"}, ["120,000 Won", "1 GPU x 2-00:00:00"]),
    ("days", {"gpus": "1", "time": "1-00:00:00"}, ["60,000 Won"]),
    ("burst is cheaper and waits here", {"gpus": "b200:8", "qos": "burst", "time": "01:00:00"},
     ["14,000 Won", "burst of", "by 2026-11-23 09:30 KST at the latest"]),
    ("by node", {"gpus-per-node": "8", "nodes": "2", "time": "01:00:00"}, ["40,000 Won", "16 GPUs", "09:30"]),
    ("--gres", {"gres": "gres/gpu:b200:4", "time": "01:00:00"}, ["10,000 Won"]),
    ("by task", {"gpus-per-task": "2", "ntasks": "4", "time": "01:00:00"}, ["20,000 Won", "8 GPUs"]),
    ("an array", {"gpus": "1", "time": "01:00:00", "array": "0-9:2,20%2"}, ["15,000 Won", "x 6 array tasks"]),
    ("larger than anything foretold", {"gpus": "24", "time": "01:00:00"}, ["nothing says when"]),
    ("beyond the project's room", {"gpus": "32"}, ["nlp has 24 of its guaranteed GPUs to start now"]),
    ("no price, no budget", {"gpus": "8", "account": "VISION"},
     ["8 GPU-hours (no price is set)", "project vision", "no budget is set", "room for it now"]),
]  # fmt: skip


@pytest.mark.parametrize(("why", "options", "words"), SAYS, ids=[row[0] for row in SAYS])
def test_says_cost_budget_and_wait(client: Client, why: str, options: dict[str, str], words: list[str]) -> None:
    said = client.submit(options)
    assert [word for word in words if word not in said] == [], said


SILENT: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("no GPU", {}, {}),
    ("a project of others", {"gpus": "8", "account": "secret"}, {}),
    ("another partition", {"gpus": "8", "partition": "cpu"}, {}),
    ("a step of a job", {"gpus": "8", "type": "srun"}, {"SLURM_JOB_ID": "7"}),
    ("switched off", {"gpus": "8"}, {"GPUAAS_ESTIMATE": "off"}),
]


@pytest.mark.parametrize(("why", "options", "environment"), SILENT, ids=[row[0] for row in SILENT])
def test_is_silent_where_there_is_nothing_to_say(
    client: Client, why: str, options: dict[str, str], environment: dict[str, str]
) -> None:
    assert client.submit(options, environment) == ""


@pytest.mark.parametrize("shares", ["", "gpuaas-estimates 2 1\n", "\x00\xff" * 99])
def test_is_silent_on_what_it_cannot_read(client: Client, shares: str) -> None:
    client.publish(shares=shares)
    assert client.submit({"gpus": "8"}) == ""


@pytest.mark.parametrize("name", ["shares", "1000", "status"])
def test_is_silent_without_a_file(client: Client, name: str) -> None:
    (client.folder / name).unlink()
    assert client.submit({"gpus": "8"}) == ""


def test_an_old_estimate_is_none(client: Client) -> None:
    client.lua.globals().now = int(NOW.timestamp()) + 301
    assert client.submit({"gpus": "8"}) == ""


def test_speaks_korean_where_the_environment_does(client: Client) -> None:
    said = client.submit({"gpus": "8", "time": "02:00:00"}, {"LANG": "ko_KR.UTF-8"})
    assert said.startswith("예상: 최대 40,000원(GPU 8개 x 0-02:00:00, 과제 nlp의 보장분). 남은 예산 25,000,000원")


def test_both_languages_have_every_sentence_with_the_same_placeholders() -> None:
    source = re.search(r"^local MESSAGES = (\{.*?^\})", PLUGIN.read_text(), re.MULTILINE | re.DOTALL)
    assert source
    table = lupa.lua54.LuaRuntime().eval(source[1])
    placeholders = [{key: set(re.findall(r"{(\w+)}", text)) for key, text in table[name].items()} for name in table]
    assert placeholders[0] == placeholders[1]


VALUE = st.one_of(
    st.sampled_from(
        ["8", "b200:8", "gres/gpu", "1-2:0", "9-1", "1-", "00:00:00", "UNLIMITED", "burst", "nlp", "%", ","]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30),
    st.integers(-1, 2**70).map(float),
    st.booleans(),
)
NAMES = ("gpus", "gpus-per-node", "gres", "gpus-per-task", "tres-per-task", "nodes", "ntasks", "time", "array", "qos",
         "account", "partition", "type")  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=st.dictionaries(st.sampled_from(NAMES), VALUE), text=st.text(max_size=100))
def test_nothing_stops_a_submission(client: Client, options: dict[str, object], text: str) -> None:
    client.publish()
    client.submit(options)
    for shares, own in ((SHARES + text, OWN + text), (text, text), (SHARES, OWN.replace("2880", text))):
        client.publish(shares.encode("utf-8", "replace").decode(), own.encode("utf-8", "replace").decode())
        client.submit({"gpus": "8", **options})
