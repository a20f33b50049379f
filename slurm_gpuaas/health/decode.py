"""Kernel-log text to GPU and NVSwitch events.

Decoding says what a line is and what NVIDIA's catalogue says about it; it holds no policy and no history beyond a
message that spans lines. It takes linear time, and input of any kind gives events or nothing, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from slurm_gpuaas.domain.incidents import Drain, EventKind
from slurm_gpuaas.health.catalogue import FaultClass, catalogue

MAX_LINE: Final = 16_384
"""Characters of a line that are looked at; the kernel cuts its own records at 1 KiB."""

FALLEN_OFF_THE_BUS: Final = 79

_HEX = "[0-9A-Fa-f]"
_PCI = rf"(?:({_HEX}{{4,8}}):)?({_HEX}{{2}}):({_HEX}{{2}})(?:\.{_HEX})?"
# NVRM: Xid (PCI:0000:3b:00): 79, ...   NVRM: Xid (0000:03:00): 14, ...   NVRM: Xid (PCI:0000:07:00 GPU-I:01): 43, ...
_XID = re.compile(rf"NVRM: Xid \((?:PCI:)?{_PCI}(?: GPU-I:\d{{1,4}})?\): (\d{{1,6}})(?=[,\s]|$),?")
_PID = re.compile(r"\s?pid=([^,]{0,64})(?:,|$)")
_NAME = re.compile(r"\s?name=([^,]{0,256})(?:,|$)")
_UNIT = re.compile(r"GPC (\d{1,3}), TPC (\d{1,3})(?:, SM (\d{1,3}))?")
_LINK = re.compile(r"\b[Ll]ink (-?\d{1,4})\b")
_SUBCODE = re.compile(r"\s?([A-Z][A-Z0-9_/]{1,63})\s{1,8}(?:Nonfatal|Fatal)\b")
_ACTION = re.compile(
    rf"recovery action changed from 0x{_HEX}{{1,8}} \(([^()]{{1,64}})\) to 0x{_HEX}{{1,8}} \(([^()]{{1,64}})\)"
)
_CAUSE = re.compile(r"previous Xid (\d{1,6})")
# nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)
_SXID = re.compile(rf"nvidia-nvswitch(\d{{1,4}}): SXid \(PCI:{_PCI}\): (\d{{1,6}})(?=[,\s]|$),?\s?(Fatal|Non-fatal)?")
_SXID_DETAIL = re.compile(r"\s?(?:Data \{|Severity \d)")
# NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.
_FALLEN = re.compile(rf"NVRM: {{1,4}}GPU {_PCI}: {{1,4}}GPU has fallen off the bus")
# NVRM: The NVIDIA GPU 0000:18:00.0 / NVRM: (PCI ID: ...) ... / NVRM: fallen off the bus and is not responding to ...
_FALLEN_HEAD = re.compile(rf"NVRM: {{1,4}}The NVIDIA GPU {_PCI}(?!{_HEX})")
_FALLEN_TAIL = "fallen off the bus and is not responding"
_FALLEN_SPAN: Final = 8
# NVRM: GPU at PCI:0000:3b:00: GPU-1f45a5a8-d400-2488-17d2-aec58a1d21ca
_IDENTITY = re.compile(rf"NVRM: GPU at PCI:{_PCI}: (GPU-{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}})")

_NVLINK5: Final = range(144, 151)

_BY_ACTION: Final = {
    "None": (Drain.NO, FaultClass.INFO),
    "GPU Reset Required": (Drain.NOW, FaultClass.HW_RESET),
    "GPU Reset": (Drain.NOW, FaultClass.HW_RESET),
    "Node Reboot Required": (Drain.NOW, FaultClass.HW_REBOOT),
    "Node Reboot": (Drain.NOW, FaultClass.HW_REBOOT),
    "Drain P2P": (Drain.WHEN_IDLE, FaultClass.HW_RESET),
    "Drain and Reset": (Drain.WHEN_IDLE, FaultClass.HW_RESET),
}
"""The driver's recovery actions. Those that drain leave the GPU usable for what runs; the others do not."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Where on the chip: graphics processing cluster, texture processing cluster, streaming multiprocessor."""

    gpc: int
    tpc: int
    sm: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What is known of an event without history: class, drain verdict, and the rule that decided."""

    fault_class: FaultClass
    drain: Drain
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One event of a log. `line` is the 1-based index of the input record that completed it; `message` what is left of
    the line after code, process id and name."""

    line: int
    kind: EventKind
    code: int
    pci: str | None
    assessment: Assessment
    message: str
    mnemonic: str | None = None
    immediate_action: str | None = None
    investigatory_action: str | None = None
    gpu: str | None = None
    pid: int | None = None
    process: str | None = None
    link: int | None = None
    subcode: str | None = None
    unit: Unit | None = None
    caused_by: int | None = None
    from_action: str | None = None
    to_action: str | None = None
    switch: int | None = None

    def as_json(self) -> dict[str, object]:
        """The object that `gpuaas xid decode --json` prints; its keys are a public interface."""
        unit = self.unit
        return {
            "line": self.line,
            "kind": self.kind.value,
            "code": self.code,
            "mnemonic": self.mnemonic,
            "pci": self.pci,
            "gpu": self.gpu,
            "pid": self.pid,
            "process": self.process,
            "link": self.link,
            "subcode": self.subcode,
            "unit": {"gpc": unit.gpc, "tpc": unit.tpc, "sm": unit.sm} if unit else None,
            "caused_by": self.caused_by,
            "from_action": self.from_action,
            "to_action": self.to_action,
            "switch": self.switch,
            "immediate_action": self.immediate_action,
            "investigatory_action": self.investigatory_action,
            "class": self.assessment.fault_class.value,
            "drain": self.assessment.drain.value,
            "why": self.assessment.why,
        }


class Decoder:
    """Decodes one log from its beginning. It remembers a 'fallen off the bus' message that spans lines and which GPU
    (UUID) sits at which PCI address, as far as the log said so."""

    def __init__(self) -> None:
        self._gpu_at: dict[str, str] = {}
        self._fallen: tuple[int, str] | None = None

    def decode(self, line: int, text: str) -> Iterator[Decoded]:
        """Events of one input record. `line` is its 1-based index; a record may hold several lines of one message."""
        for part in text.split("\n"):
            event = self._decode_line(line, part[:MAX_LINE])
            if event:
                yield event

    def _decode_line(self, line: int, text: str) -> Decoded | None:
        if "NVRM:" not in text:
            return self._sxid(line, text) if "SXid" in text else None
        if found := _XID.search(text):
            return self._xid(line, text, found)
        if found := _FALLEN.search(text):
            return self._fallen_event(line, _pci(found), text)
        if found := _FALLEN_HEAD.search(text):
            self._fallen = (line, _pci(found))
        if _FALLEN_TAIL in text and self._fallen:
            begun, pci = self._fallen
            self._fallen = None
            return self._fallen_event(line, pci, text) if line - begun <= _FALLEN_SPAN else None
        if (found := _IDENTITY.search(text)) and len(self._gpu_at) < 4096:
            self._gpu_at[_pci(found)] = found[4]
        return None

    def _xid(self, line: int, text: str, found: re.Match[str]) -> Decoded:
        code, pci, at = int(found[4]), _pci(found), found.end()
        pid = process = subcode = None
        if (match := _PID.match(text, at)) is not None:
            word, at = match[1].strip("'\"<> "), match.end()
            pid = int(word) if word.isascii() and word.isdigit() and len(word) <= 10 else None
        if (match := _NAME.match(text, at)) is not None:
            word, at = match[1].strip("'\" "), match.end()
            process = None if word in {"", "<unknown>", "unknown"} else word
        if code in _NVLINK5 and (match := _SUBCODE.match(text, at)):
            subcode = match[1]
        unit = _UNIT.search(text, at)
        link = _LINK.search(text, at)
        cause = _CAUSE.search(text, at)
        action = _ACTION.search(text, at) if code == 154 else None
        row = catalogue().xid.get(code)
        return Decoded(
            line=line,
            kind=EventKind.XID,
            code=code,
            pci=pci,
            assessment=assess_xid(code, recovery_action=action[2] if action else None),
            message=text[at:].strip(),
            mnemonic=row.mnemonic if row else None,
            immediate_action=row.immediate if row else None,
            investigatory_action=row.investigatory if row else None,
            gpu=self._gpu_at.get(pci),
            pid=pid,
            process=process,
            link=int(link[1]) if link else None,
            subcode=subcode,
            unit=Unit(int(unit[1]), int(unit[2]), int(unit[3]) if unit[3] else None) if unit else None,
            caused_by=int(cause[1]) if cause else None,
            from_action=action[1] if action else None,
            to_action=action[2] if action else None,
        )

    def _fallen_event(self, line: int, pci: str, text: str) -> Decoded:
        row = catalogue().xid[FALLEN_OFF_THE_BUS]
        assessment = assess_xid(FALLEN_OFF_THE_BUS)
        return Decoded(
            line=line,
            kind=EventKind.FALLEN,
            code=FALLEN_OFF_THE_BUS,
            pci=pci,
            assessment=assessment,
            message=text[text.find("NVRM:") + 5 :].strip(),
            mnemonic=row.mnemonic,
            immediate_action=row.immediate,
            investigatory_action=row.investigatory,
            gpu=self._gpu_at.get(pci),
        )

    def _sxid(self, line: int, text: str) -> Decoded | None:
        found = _SXID.search(text)
        if not found or _SXID_DETAIL.match(text, found.end()):
            return None
        link = _LINK.search(text, found.end())
        code = int(found[5])
        return Decoded(
            line=line,
            kind=EventKind.SXID,
            code=code,
            pci=_pci(found, first=2),
            assessment=assess_sxid(code, found[6]),
            message=text[found.end() :].strip(" ,"),
            link=int(link[1]) if link else None,
            switch=int(found[1]),
        )


def assess_xid(code: int, *, recovery_action: str | None = None) -> Assessment:
    """Class and verdict of an XID. The driver's own recovery action, where there is one, comes before the catalogue.

    Args:
        code: the XID.
        recovery_action: what the driver asks for, in the words of XID 154 (`GPU Reset Required`); None when unknown.
    """
    if recovery_action is not None:
        drain, fault_class = _BY_ACTION.get(recovery_action, (Drain.REVIEW, FaultClass.FOLLOW_154))
        if code == 154 or drain is not Drain.NO:
            return Assessment(
                fault_class=FaultClass.FOLLOW_154 if code == 154 else fault_class,
                drain=drain,
                why=f"driver's recovery action: {recovery_action}",
            )
    row = catalogue().xid.get(code)
    if row is None:
        return Assessment(
            fault_class=FaultClass.UNKNOWN,
            drain=Drain.REVIEW,
            why=f"XID {code} is not in the catalogue of {_version()}",
        )
    return Assessment(
        fault_class=row.fault_class,
        drain=row.drain,
        why=f"catalogue of {_version()}: {row.immediate or 'no action given'} ({row.text})",
    )


def assess_sxid(code: int, severity: str | None) -> Assessment:
    """Class and verdict of an SXid: the severity that the line states, else the one of the catalogue."""
    if severity is not None:
        fault_class = FaultClass.SXID_FATAL if severity == "Fatal" else FaultClass.SXID_NONFATAL
        why = f"the driver calls it {severity}"
    elif code in catalogue().sxid:
        fault_class = catalogue().sxid[code]
        why = f"catalogue of {_version()}"
    else:
        return Assessment(
            fault_class=FaultClass.UNKNOWN,
            drain=Drain.REVIEW,
            why=f"SXid {code} states no severity and is not in the catalogue of {_version()}",
        )
    return Assessment(
        fault_class=fault_class, drain=Drain.NOW if fault_class is FaultClass.SXID_FATAL else Drain.NO, why=why
    )


def decode_line(text: str) -> Decoded | None:
    """The first event of one line or message, None when it holds none."""
    return next(Decoder().decode(1, text), None)


def read_lines(stream: BinaryIO) -> Iterator[str]:
    """Lines of a log of any content in bounded memory: undecodable bytes are replaced, over-long lines cut."""
    while raw := stream.readline(MAX_LINE):
        yield raw.decode("utf-8", "replace")
        while len(raw) == MAX_LINE and not raw.endswith(b"\n"):
            raw = stream.readline(MAX_LINE)


def _pci(found: re.Match[str], first: int = 1) -> str:
    """`dddd:bb:dd`, lower case, from the three groups of a PCI address; a missing domain is 0000."""
    domain = (found[first] or "").lstrip("0").rjust(4, "0")
    return f"{domain}:{found[first + 1]}:{found[first + 2]}".lower()


def _version() -> str:
    return catalogue().version
