"""Runs plugins/job_submit.lua in-process as slurmctld would: its globals, its number type, its strict assignments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import lupa.lua51
import lupa.lua54

from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.quota.verdict import laid_out, stamped

HOOK: Final = Path(__file__).parents[3] / "plugins" / "job_submit.lua"
LUA: Final = {"lua51": lupa.lua51.LuaRuntime, "lua54": lupa.lua54.LuaRuntime}
"""Debian builds Slurm against the oldest, others against the newest."""
NO_VAL: Final = 0xFFFFFFFE
NO_VAL16: Final = 0xFFFE
INFINITE: Final = 0xFFFFFFFF
REFUSED: Final = 2050  # ESLURM_ACCOUNTING_POLICY
NOW: Final = datetime(2026, 11, 22, 12, tzinfo=KST)

UNSET: Final[dict[str, int]] = {
    **dict.fromkeys(("time_limit", "time_min", "min_nodes", "max_nodes", "num_tasks", "het_job_offset"), NO_VAL),
    **dict.fromkeys(("ntasks_per_node", "ntasks_per_socket", "ntasks_per_gpu", "ntasks_per_tres"), NO_VAL16),
    **dict.fromkeys(("sockets_per_node", "cpus_per_task", "shared", "segment_size"), NO_VAL16),
}
"""What Slurm's client leaves in a job description where the user said nothing."""

STUB: Final = """
slurm = { SUCCESS = 0.0, ERROR = -1.0, FAILURE = -1.0, ESLURM_ACCOUNTING_POLICY = 2050.0, CLUSTER_NAME = "mini",
          NO_VAL = 4294967294.0, NO_VAL16 = 65534.0, INFINITE = 4294967295.0 }
user_messages, errors = {}, {}
function slurm.log_user(...) user_messages[#user_messages + 1] = string.format(...) end
function slurm.log_error(...) errors[#errors + 1] = string.format(...) end
function slurm.log_info(...) string.format(...) end
now = 0
os = { time = function() return now end, date = os.date }
local NUMBERS = { time_limit = true, min_nodes = true, max_nodes = true, segment_size = true }
local TEXTS = { account = true, exc_nodes = true, licenses = true, partition = true, qos = true, tres_per_job = true,
                tres_per_node = true, tres_per_socket = true, tres_per_task = true }
function described(values)
  return setmetatable({}, {
    __index = function(_, name) local v = values[name]; return type(v) == "number" and v + 0.0 or v end,
    __newindex = function(_, name, value)
      if NUMBERS[name] then assert(type(value) == "number", name)
      elseif TEXTS[name] then assert(type(value) == "string", name)
      else error("the hook set " .. name) end
      values[name] = value
    end,
  })
end
"""


@dataclass(frozen=True)
class Outcome:
    """What slurmctld would see: the return code, the message for the user, and the job as the hook left it."""

    code: object
    message: str
    job: Mapping[str, Any]

    @property
    def accepted(self) -> bool:
        return self.code == 0


class Hook:
    """The script with a snapshot of its own. Between calls the snapshot, `now` and `partitions` (name to whether it is
    the default one) may change."""

    def __init__(self, snapshot: Path, *, text: str | None = None, lua: str = "lua51") -> None:
        self.snapshot = snapshot
        if text is not None:
            snapshot.write_text(text)
        self._lua = LUA[lua](unpack_returned_tuples=True)
        self._lua.execute(STUB)
        self._lua.globals().GPUAAS_SNAPSHOT = str(snapshot)
        self.now = NOW
        self.partitions: dict[str, bool] = {}
        self._lua.execute(HOOK.read_text())

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._lua.globals().now, KST)

    @now.setter
    def now(self, moment: datetime) -> None:
        self._lua.globals().now = int(moment.timestamp())

    @property
    def complaints(self) -> list[str]:
        return list(self._lua.globals().errors.values())

    def table(self, values: Mapping[str, str]) -> Any:
        """A Lua table, as Slurm passes a job's environment."""
        return self._lua.table_from(values)

    def submit(self, **fields: object) -> Outcome:
        """One submission; fields not named are as Slurm's client leaves them."""
        values, job = self._described({**UNSET, **fields})
        listed = {name: self._lua.table(flag_default=float(default)) for name, default in self.partitions.items()}
        return self._outcome("slurm_job_submit", (job, self._lua.table_from(listed), 1000.0), values)

    def modify(self, record: Mapping[str, object], *, by: float = 1000.0, **fields: object) -> Outcome:
        values, job = self._described({**UNSET, **fields})
        _, job_record = self._described({"user_id": 1000, **record})
        return self._outcome("slurm_job_modify", (job, job_record, self._lua.table(), by), values)

    def _described(self, fields: Mapping[str, object]) -> tuple[Any, Any]:
        given = {name: value for name, value in fields.items() if value is not None}
        # Slurm pushes every number as a double
        values = self._lua.table_from({name: float(v) if isinstance(v, int) else v for name, v in given.items()})
        return values, self._lua.globals().described(values)

    def _outcome(self, function: str, arguments: Sequence[Any], values: Any) -> Outcome:
        messages = self._lua.globals().user_messages
        for index in list(messages):
            messages[index] = None
        code = self._lua.globals()[function](*arguments)
        return Outcome(code, "\n".join(messages.values()), dict(values))


def epoch(day: str) -> int:
    """Start of a Korean day."""
    return int(datetime.fromisoformat(day).replace(tzinfo=KST).timestamp())


def snapshot_text(records: Sequence[Sequence[object]], *, generated: datetime = NOW) -> str:
    """Laid out as gpuaasd does it."""
    plain = [[str(field) for field in record] for record in records]
    head = [record for record in plain if record[0] in ("cluster", "partition", "gate", "bypass", "limited")]
    body = laid_out(head, [record for record in plain if record not in head])
    return stamped(body, generated)


def project(
    name: str,
    *,
    partition: str = "b200-gov",
    model: str = "b200",
    guaranteed: int = 16,
    burst: str = "burst-32",
    borrow: object = 32,
    max_per_job: object = "-",
    max_minutes: object = "-",
    budget: object = "-",
    starts: str = "2026-01-01",
    ends: str = "2027-01-01",
    state: str = "active",
) -> tuple[object, ...]:
    """A project record; `ends` is the first day after the grant."""
    limits = (guaranteed, borrow, max_per_job, max_minutes, budget)
    return (
        "project", name, f"guaranteed-{name}", burst, partition, model, *limits, epoch(starts), epoch(ends), state,
    )  # fmt: skip


RECORDS: Final[tuple[tuple[object, ...], ...]] = (
    ("cluster", "mini", 8),
    ("partition", "b200-gov", "b200", 8, 2880),
    ("partition", "h200-gov", "h200", 8, 1440),
    project("nlp"),
    project("vision", max_per_job=8, max_minutes=60, budget=9600),
    project("nolend", burst="-", borrow="-"),
    project("free", burst="burst-unlimited", borrow="-", guaranteed=0),
    project("old", ends="2026-10-01", state="expired"),
    project("soon", starts="2027-03-01", ends="2028-01-01", state="future"),
    project("both"),
    project("both", partition="h200-gov", model="h200", guaranteed=8),
    ("member", "alice", "nlp", "nlp,vision"),
    ("member", "bob", "-", "vision"),
    ("member", "carol", "-", "nolend"),
    ("member", "dave", "-", "free"),
    ("member", "erin", "-", "old"),
    ("member", "frank", "-", "soon"),
    ("member", "grace", "-", "both"),
    ("member", "heidi", "-", "nlp,vision"),
    ("bypass", "gpuaas"),
)
