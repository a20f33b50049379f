"""Kernel-log text to GPU and NVSwitch events.

Decoding says what a line is and what it means by itself; it holds no history beyond a message that spans lines. It
takes linear time, and input of any kind gives events or nothing, never an error.

The shapes are those of NVIDIA's open kernel modules (kernel_rc.c, osinit.c, osapi.c, common_nvswitch.h) and of lines
that people published. One process decodes over 100,000 lines a second, which is why this module is written for speed:
one expression for the head of a message, a search in the rest only where a word of it asks for one, tuples for events,
and JSON put together by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import BinaryIO, Final, NamedTuple, TypeAlias, TypeVar

from slurm_gpuaas.domain.incidents import EventKind
from slurm_gpuaas.health.assess import (
    FALLEN_OFF_THE_BUS,
    NVLINK4_ERROR,
    RECOVERY_ACTION_CHANGED,
    Assessment,
    Nvlink5Words,
    assess_sxid,
    assess_xid,
    nvlink4_rules,
    nvlink5_bits,
)
from slurm_gpuaas.health.catalogue import NVLINK5_CODES, Product, catalogue
from slurm_gpuaas.health.overrides import Override

MAX_LINE: Final = 16_384
"""Characters of a line that are looked at; the kernel cuts its own records at 1 KiB."""
MAX_RECORD: Final = 1 << 24
"""Bytes of an input record that are kept."""
CHUNK: Final = 1 << 14
"""Bytes read at once: so few that what is made of them stays in the processor's cache."""

_NVLINK5_WITHIN: Final = 400
_TWO_WORDS: Final = len("(0x00000000 0x00000000 ")
_SIX_ZEROS: Final = ", 0x0" * 6
_WORDS: Final = "0123456789abcdefABCDEFx )"
_REMEMBERED: Final = 4_096
"""Entries of each memory that hostile input could fill."""

K = TypeVar("K")
V = TypeVar("V")

_HEX = "[0-9A-Fa-f]"
_IS_XID: Final = EventKind.XID
_XID_WORD: Final = EventKind.XID.value
_DETAILED: Final = frozenset([*NVLINK5_CODES, RECOVERY_ACTION_CHANGED, NVLINK4_ERROR])

_PCI = rf"((?:{_HEX}{{4,8}}:)?{_HEX}{{2}}:{_HEX}{{2}})(?:\.{_HEX})?"
# NVRM: Xid (PCI:0000:3b:00): 79, ...   NVRM: Xid (0000:03:00): 14, ...
# NVRM: Xid (PCI:0000:07:00 GPU-I:01 GPU-CI:00): 43, pid=7, name=a, ...
_XID = re.compile(
    rf"NVRM: Xid \((?:PCI:)?{_PCI}(?: GPU-I:[0-9]{{1,4}}(?: GPU-CI:[0-9]{{1,4}})?)?\): ([0-9]{{1,6}})(?=[,\s]|$),?"
    r"(?: ?pid='?(?:([0-9]{1,10})(?='?(?:,|$)))?[^,]{0,64}(?:,|$))?(?: ?name=([^,]{0,256})(?:, |,?$))?"
)
# The same as the driver writes it nearly always: [12.345678] NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=python3, ...
# What fits this reads the same as by the expression above, and needs no escape in JSON.
_PLAIN = re.compile(
    rf"(?:\[[ 0-9]{{1,10}}\.[0-9]{{1,9}}\] )?NVRM: Xid \(PCI:({_HEX}{{4}}:{_HEX}{{2}}:{_HEX}{{2}}\): [0-9]{{1,6}}),"
    r"(?: pid=(0|[1-9][0-9]{0,9}), name=((?!unknown,)[A-Za-z0-9_.:/-]{1,256}), |(?! ?pid=| ?name=))"
)
_NAME_WITH_COMMAS = re.compile(r" name=(.{0,256}?)(?:, |,?$)")
_UNIT = re.compile(r"\(GPC ([0-9]{1,3}), TPC ([0-9]{1,3})(?:, SM ([0-9]{1,3}))?\)")
_UNIT_CUT = re.compile(r"GPC ([0-9]{1,3}), TPC ([0-9]{1,3})(?:, SM ([0-9]{1,3}))?")
_LINK = re.compile(r"[Ll]ink (-?[0-9]{1,4})\b")
# TLW_RX/TLW_RX_PIPE0 Nonfatal XC0 i0 Link 00 (0x0000000a 0x00000001 ...)
_NVLINK5 = re.compile(
    r"([A-Z][\w/]{1,63}(?: Degraded)?) {1,8}(?:Nonfatal|Non-fatal|Fatal)\b[^(]{0,64}"
    rf"(?:\(0x({_HEX}{{1,8}})[ ,]{{1,2}}0x({_HEX}{{1,8}})\b)?"
)
# NVLink: fatal error detected on link 14(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)
_NVLINK4 = re.compile(r"\((0x[0-9A-Fa-fx, ]{18,82})\)")
_ACTION = re.compile(
    rf"recovery action changed from 0x{_HEX}{{1,8}} \(([^()]{{1,64}})\) to 0x{_HEX}{{1,8}} \(([^()]{{1,64}})\)"
)
_CAUSE = re.compile(r"caused by previous Xid ([0-9]{1,6})\b")
# nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)
_SXID = re.compile(
    rf"nvidia-nvswitch([0-9]{{1,4}}): SXid \(PCI:{_PCI}\): ([0-9]{{1,6}})(?=[,\s]|$),?\s?"
    r"(Fatal|Non-fatal|Correctable)?"
)
_SXID_DETAIL = re.compile(r"\s?(?:Data \{|Severity \d)")
# NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.   NVRM: GPU at 0000:02:00.0 has fallen off the bus.
_FALLEN = re.compile(rf"NVRM: {{1,4}}GPU (?:at )?(?:PCI:)?{_PCI}:? {{1,4}}(?:GPU )?has fallen off the bus")
# NVRM: The NVIDIA GPU 0000:18:00.0 / NVRM: (PCI ID: ...) ... / NVRM: fallen off the bus and is not responding to ...
_FALLEN_HEAD = re.compile(rf"NVRM: {{1,4}}The NVIDIA GPU {_PCI}(?!{_HEX})")
_FALLEN_TAIL = "fallen off the bus and is not responding"
_FALLEN_SPAN: Final = 8
# NVRM: GPU at PCI:0000:3b:00: GPU-1f45a5a8-d400-2488-17d2-aec58a1d21ca
_IDENTITY = re.compile(
    rf"NVRM: GPU at (?:PCI:)?{_PCI}: (GPU-{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}})"
)
# What is written before the message, when a program and not the kernel wrote it:
# Nov 22 18:29:55 node7 python[4242]:   2026-11-22T18:29:55+09:00 node7 alice:   and as journalctl writes moments
_SYSLOG = re.compile(
    r"(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:[.,]\d{1,9})?|\d{9,10}\.\d{1,9}|"
    r"(?:[A-Z][a-z]{2} )?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,:+Z-]{0,16}(?: [A-Z]{2,5})?)"
    r" \S{1,255} (\S{1,255}?)(?:\[\d{1,10}\])?: "
)
_KERNEL_ENDS: Final = ("]", "kernel:")
_PROGRAM = re.compile(r"[\w.-]\[\d{1,10}\]: $")

_NULL: Final = "null"
_DETAILS: Final = ("link", "subcode", "unit", "caused_by", "from_action", "to_action", "switch")
_NO_DETAILS: Final = ", ".join(f'"{name}": null' for name in _DETAILS)
_NOTHING: Final[Details] = (None, None, None, None, None, None, None)

_QUOTES: Final = frozenset({"'", '"'})
_UNKNOWN_NAMES: Final = frozenset({"", "<unknown>", "unknown"})


class Unit(NamedTuple):
    """Where on the chip: graphics processing cluster, texture processing cluster, streaming multiprocessor."""

    gpc: int
    tpc: int
    sm: int | None


Details: TypeAlias = tuple[int | None, str | None, Unit | None, int | None, str | None, str | None, int | None]
"""The last seven of a `Decoded`."""


class Decoded(NamedTuple):
    """One event of a log. `line` is the 1-based index of the input record that completed it; `message` what is left of
    the line after code, process id and name."""

    line: int
    kind: EventKind
    code: int
    pci: str | None
    assessment: Assessment
    message: str
    mnemonic: str | None = None
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

    @property
    def immediate_action(self) -> str | None:
        return self.assessment.immediate

    @property
    def investigatory_action(self) -> str | None:
        return self.assessment.investigatory

    @property
    def peer(self) -> bool:
        """The device at the other end of the NVLink is the one to look at."""
        return self.assessment.peer

    def as_json(self) -> str:
        """The object that `gpuaas xid decode --json` prints, on one line; its keys and their order are a public
        interface."""
        line, kind, code, pci, said, _, mnemonic, gpu, pid, process, link, part, unit, cause, before, after, switch = (
            self
        )
        tail = _tail_json(said, (link, part, unit, cause, before, after, switch))
        return (
            f'{{"line": {line}, {_head_json(kind, code, mnemonic, pci, gpu)}{_NULL if pid is None else pid}, '
            f'"process": {_NULL if process is None else quoted(process)}, {tail}}}'
        )


class _Plain(NamedTuple):
    """What all XIDs of one code and GPU have in common."""

    code: int
    assessment: Assessment
    detailed: bool
    """The message may say more, whatever its words."""
    head: str
    """Of the object of one, up to the process id."""
    tail: str
    """Of the object of one that says nothing more, behind the process."""


class Decoder:
    """Decodes one log from its beginning. It remembers a 'fallen off the bus' message that spans lines and which GPU
    (UUID) sits at which PCI address, as far as the log said so.

    Args:
        product: the node's GPUs; None when unknown.
        driver: major version of its driver (580); None when unknown.
        overrides: the site's.
    """

    def __init__(
        self, product: Product | None = None, driver: int | None = None, overrides: Sequence[Override] = ()
    ) -> None:
        self._product = product
        self._driver = driver
        self._overrides = tuple(overrides)
        self._gpu_at: dict[str, str] = {}
        self._fallen: tuple[int, str] | None = None
        self._pci: dict[str, str] = {}
        self._plain: dict[str, _Plain] = {}
        self._rows: dict[int, tuple[str | None, Assessment]] = {}
        self._tails: dict[tuple[str, str], str] = {}
        self._units: dict[str, Unit] = {}
        self._nvlink4: dict[tuple[int, bool], Assessment] = {}
        self._nvlink5_bits = nvlink5_bits()
        self._nvlink5: dict[tuple[int, str, int, int], Assessment] = {}
        self._sxids: dict[tuple[str, str | None], Assessment] = {}
        self._actions: dict[str, Assessment] = {}
        self._last = ""
        """The Xid message before, and what came of it."""
        self._said: tuple[object, ...] = ()

    def decode(self, line: int, text: str) -> Iterator[Decoded]:
        """Events of one input record. `line` is its 1-based index; a record may hold several lines of one message."""
        for part in text.split("\n"):
            event = self.event(line, part)
            if event:
                yield event

    def event(self, line: int, text: str) -> Decoded | None:
        """The event of one line, None when it is none."""
        if len(text) > MAX_LINE:
            text = text[:MAX_LINE]
        at = text.find("NVRM: ")
        if at < 0:
            at = text.find("nvidia-nvswitch")
            return self._sxid(line, text, at) if at >= 0 and not _by_a_program(text, at) else None
        if at and _by_a_program(text, at):
            return None
        # At the head of a message only: others of the driver's hold words of a user's choice, such as the version that
        # a client says it has ("NVRM: API mismatch: the client has the version ...").
        message = text[at:]
        if message == self._last:  # a storm says the same a million times
            return tuple.__new__(Decoded, (line, *self._said))
        found = _XID.match(message)
        if not found:
            return self._other(line, text, at)
        event = self._xid(line, message, found)
        self._last, self._said = message, event[1:]
        return event

    def json_lines(self, line: int, text: str) -> str:
        """What `decode` gives, as lines of `Decoded.as_json`: quicker, since for most messages only their JSON is put
        together."""
        found = _PLAIN.match(text)
        if not found or len(text) > MAX_LINE or "\n" in text:
            return "".join([f"{event.as_json()}\n" for event in self.decode(line, text)])
        where, pid, name = found.groups()
        code, assessment, detailed, head, tail = self._plain.get(where) or self._plain_xid(where)
        if detailed or "ink " in text or "GPC " in text or "previous Xid" in text:
            tail = self._tail(where, code, text[found.end() :].strip(), assessment)
        if pid is None:
            return f'{{"line": {line}, {head}null, "process": null, {tail}}}\n'
        return f'{{"line": {line}, {head}{pid}, "process": "{name}", {tail}}}\n'

    def _tail(self, where: str, code: int, message: str, assessment: Assessment) -> str:
        """Of the object of an XID that says more: its details and what they mean. `where` is its GPU and code."""
        if code == NVLINK4_ERROR:  # its registers are seldom the same twice
            return _tail_json(*self._details(code, message, assessment))
        # Of an NVLink 5 message all but the first two of its words, which nothing asks for.
        cut = message.find("(") + _TWO_WORDS if code in NVLINK5_CODES else 0
        key = (
            where,
            message[:cut] if cut and message[cut - 1 : cut] == " " and not message[cut:].strip(_WORDS) else message,
        )
        return self._tails.get(key) or _remember(
            self._tails, key, _tail_json(*self._details(code, message, assessment))
        )

    def _plain_xid(self, where: str) -> _Plain:
        address, _, digits = where.partition("): ")
        code, pci = int(digits), self._pci.get(address) or self._address(address)
        mnemonic, assessment = self._rows.get(code) or self._row(code)
        head = _head_json(EventKind.XID, code, mnemonic, pci, self._gpu_at.get(pci))
        tail = _tail_json(assessment, _NOTHING)
        return _remember(self._plain, where, _Plain(code, assessment, code in _DETAILED, head, tail))

    def _xid(self, line: int, text: str, found: re.Match[str]) -> Decoded:
        address, digits, pid, name = found.groups()
        code, end, name_at = int(digits), found.end(), found.start(4)
        if name is None and text.startswith(" name=", end) and (named := _NAME_WITH_COMMAS.match(text, end)):
            name, end, name_at = named[1], named.end(), named.start(1)
        if name and name[0] in _QUOTES and (len(name) == 1 or name[-1] != name[0]):
            close = text.find(name[0], name_at + 1, name_at + 258)  # it may hold a comma and a space
            if close >= 0 and text[close + 1 : close + 2] in {"", ","}:
                name, end = text[name_at : close + 1], close + 2
        message = text[end:].strip()
        mnemonic, assessment = self._rows.get(code) or self._row(code)
        pci = self._pci.get(address) or self._address(address)
        details = _NOTHING
        if code in _DETAILED or "ink " in message or "GPC " in message or "previous Xid" in message:
            assessment, details = self._details(code, message, assessment)
        if name is not None:
            name = name.strip()
            if name[:1] in _QUOTES and len(name) > 1 and name[0] == name[-1]:
                name = name[1:-1]
            if name in _UNKNOWN_NAMES:
                name = None
        gpu = self._gpu_at.get(pci) if self._gpu_at else None
        known = (line, _IS_XID, code, pci, assessment, message, mnemonic, gpu, int(pid) if pid else None, name)
        return tuple.__new__(Decoded, known + details)

    def _details(self, code: int, message: str, assessment: Assessment) -> tuple[Assessment, Details]:
        """What the message says beyond its code, and what that means."""
        subcode = before = after = None
        if code in NVLINK5_CODES:
            # A process's name with a comma in it may stand before.
            if match := _NVLINK5.match(message) or _NVLINK5.search(message, 0, _NVLINK5_WITHIN):
                subcode, intr_info, error_status = match.groups()
                if intr_info:
                    key = code, subcode, int(intr_info, 16) & self._nvlink5_bits, int(error_status, 16)
                    assessment = self._nvlink5.get(key) or self._by_nvlink5(*key)
        elif code == RECOVERY_ACTION_CHANGED:
            if match := _ACTION.search(message):
                before, after = match.groups()
                assessment = self._actions.get(after) or _remember(
                    self._actions, after, self._assess(code, recovery_action=after)
                )
        elif code == NVLINK4_ERROR and (match := _NVLINK4.search(message)):
            assessment = self._by_nvlink4(code, match[1]) or assessment
        unit = self._unit(message) if "GPC " in message else None
        at = message.find("caused by previous Xid ")  # a search for words is quicker than an expression
        cause = _CAUSE.match(message, at) if at >= 0 else None
        return assessment, (
            _link(message) if "ink " in message else None,
            subcode,
            unit,
            int(cause[1]) if cause else None,
            before,
            after,
            None,
        )

    def _unit(self, message: str) -> Unit | None:
        at = message.find("(GPC ")
        if at >= 0 and (known := self._units.get(message[at : message.find(")", at) + 1])):
            return known
        found = _UNIT.match(message, max(0, at)) or _UNIT.search(message) or _UNIT_CUT.search(message)
        if not found:
            return None
        unit = Unit(int(found[1]), int(found[2]), int(found[3]) if found[3] else None)
        return _remember(self._units, found[0], unit) if found.start() == at else unit

    def _other(self, line: int, text: str, at: int) -> Decoded | None:
        """The driver's messages that are no Xid: a GPU fell off the bus, or which GPU sits where."""
        if found := _FALLEN.match(text, at):
            return self._fallen_event(line, self._address(found[1]), text, at)
        if found := _FALLEN_HEAD.match(text, at):
            self._fallen = (line, self._address(found[1]))
        if self._fallen and _FALLEN_TAIL in text:
            begun, pci = self._fallen
            self._fallen = None
            return self._fallen_event(line, pci, text, at) if line - begun <= _FALLEN_SPAN else None
        if (found := _IDENTITY.match(text, at)) and len(self._gpu_at) < _REMEMBERED:
            self._gpu_at[self._address(found[1])] = found[2]
            self._last = ""
            self._plain.clear()
        return None

    def _fallen_event(self, line: int, pci: str, text: str, at: int) -> Decoded:
        mnemonic, assessment = self._rows.get(FALLEN_OFF_THE_BUS) or self._row(FALLEN_OFF_THE_BUS)
        return Decoded(
            line,
            EventKind.FALLEN,
            FALLEN_OFF_THE_BUS,
            pci,
            assessment,
            text[at + 5 :].strip(),
            mnemonic,
            self._gpu_at.get(pci),
        )

    def _sxid(self, line: int, text: str, at: int) -> Decoded | None:
        found = _SXID.search(text, at)
        if not found or _SXID_DETAIL.match(text, found.end()):
            return None
        switch, address, code, severity = found.groups()
        message = text[found.end() :].strip(" ,")
        assessment = self._sxids.get((code, severity)) or _remember(
            self._sxids,
            (code, severity),
            assess_sxid(int(code), severity, product=self._product, overrides=self._overrides),
        )
        return Decoded(
            line,
            EventKind.SXID,
            int(code),
            self._pci.get(address) or self._address(address),
            assessment,
            message,
            link=_link(message),
            switch=int(switch),
        )

    def _row(self, code: int) -> tuple[str | None, Assessment]:
        row = catalogue().xid.get(code)
        return _remember(self._rows, code, (row.mnemonic if row else None, self._assess(code)))

    def _by_nvlink4(self, code: int, words: str) -> Assessment | None:
        try:
            if words.endswith(_SIX_ZEROS):  # int() takes long to say that a word is 0
                registers = [int(words[: -len(_SIX_ZEROS)], 16)] + [0] * 6
            else:
                registers = [int(word, 16) for word in words.replace(" ", "").split(",")]
        except ValueError:
            return None
        if len(registers) != 7:
            return None
        rules = nvlink4_rules(registers)
        return self._nvlink4.get(rules) or _remember(self._nvlink4, rules, self._assess(code, nvlink4=registers))

    def _by_nvlink5(self, code: int, unit: str, intr_info: int, error_status: int) -> Assessment:
        said = self._assess(code, nvlink5=Nvlink5Words(unit, intr_info, error_status))
        return _remember(self._nvlink5, (code, unit, intr_info, error_status), said)

    def _assess(
        self,
        code: int,
        *,
        recovery_action: str | None = None,
        nvlink4: Sequence[int] = (),
        nvlink5: Nvlink5Words | None = None,
    ) -> Assessment:
        return assess_xid(
            code,
            recovery_action=recovery_action,
            product=self._product,
            driver=self._driver,
            nvlink4=nvlink4,
            nvlink5=nvlink5,
            overrides=self._overrides,
        )

    def _address(self, text: str) -> str:
        """`dddd:bb:dd`, lower case; a missing domain is 0000."""
        *domain, bus, device = text.lower().split(":")
        pci = f"{domain[0].lstrip('0').rjust(4, '0') if domain else '0000'}:{bus}:{device}"
        if len(self._pci) < _REMEMBERED:
            self._pci[text] = pci
        return pci


def decode_line(text: str) -> Decoded | None:
    """The first event of one line or message, None when it holds none."""
    return next(Decoder().decode(1, text), None)


def read_records(stream: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """Records of a log that may be events, each with its 1-based number, as many at a time as the input has ready.

    What is neither an `NVRM:` nor an `nvidia-nvswitch` message, nor JSON with escapes that could spell one, is counted
    and left out. Memory is bounded: of a record over 16 MiB the beginning is kept.
    """
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    number, parts, held = 1, list[bytes](), 0
    while chunk := read(CHUNK):
        *lines, last = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*parts, lines[0]])
            parts, held = [], 0
            yield [
                (at, line)
                for at, line in enumerate(lines, start=number)
                if b"NVRM" in line or b"nvswitch" in line or b"\\u" in line
            ]
            number += len(lines)
        if held < MAX_RECORD:
            parts.append(last[: MAX_RECORD - held])
            held += len(parts[-1])
    if held:
        yield [(number, b"".join(parts))]


def line_of(record: bytes) -> str:
    """The text of a record that is a line; what is no UTF-8 is replaced."""
    return record[: 4 * MAX_LINE].decode("utf-8", "replace").rstrip("\r")


def line_of_json(record: bytes) -> str:
    """The text of a record that is a JSON object with a `line`; empty when it is anything else."""
    try:
        value = json.loads(record.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return ""
    text = value.get("line") if isinstance(value, dict) else None
    if not isinstance(text, str):
        return ""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _by_a_program(text: str, at: int) -> bool:
    """Whether what comes before the message shows that a program wrote it to the system log, and not the kernel."""
    if at == 0:
        return False
    if text[0] == "[":  # [123.4] [T12], or what another message of the kernel quotes
        return not (text.startswith("] ", at - 2) or text[:at].rstrip().endswith(_KERNEL_ENDS))
    found = _SYSLOG.match(text, 0, at)
    if found:
        rest = text[found.end() : at].rstrip()
        return found[1] != "kernel" or (rest != "" and not rest.endswith("]"))
    return text.startswith("]: ", at - 3) and _PROGRAM.search(text, max(0, at - 20), at) is not None


def _remember(memory: dict[K, V], key: K, value: V) -> V:
    """Keep what was worked out, in bounded memory."""
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = value
    return value


def _link(message: str) -> int | None:
    """The number behind the word link or Link. A search for what both share is quicker than an expression."""
    at = message.find("ink ")
    while at >= 0:
        found = _LINK.match(message, at - 1) if at else None
        if found and not (at > 1 and message[at - 2].isalnum()):
            return int(found[1])
        at = message.find("ink ", at + 4)
    return None


def _head_json(kind: EventKind, code: int, mnemonic: str | None, pci: str | None, gpu: str | None) -> str:
    # A word of the catalogue, an address, a UUID: nothing in them needs an escape.
    what = _NULL if mnemonic is None else '"' + mnemonic + '"'
    address = _NULL if pci is None else '"' + pci + '"'
    card = _NULL if gpu is None else '"' + gpu + '"'
    word = _XID_WORD if kind is _IS_XID else kind.value
    return f'"kind": "{word}", "code": {code}, "mnemonic": {what}, "pci": {address}, "gpu": {card}, "pid": '


def _tail_json(assessment: Assessment, details: Details) -> str:
    return f"{_details_json(details)}, {assessment.json_members}"


def _details_json(details: Details) -> str:
    if details == _NOTHING:
        return _NO_DETAILS
    link, part, unit, cause, before, after, switch = details
    where = _NULL if unit is None else f'{{"gpc": {unit.gpc}, "tpc": {unit.tpc}, "sm": {_number(unit.sm)}}}'
    return (
        f'"link": {_number(link)}, "subcode": {_text(part)}, "unit": {where}, "caused_by": {_number(cause)}, '
        f'"from_action": {_text(before)}, "to_action": {_text(after)}, "switch": {_number(switch)}'
    )


def _text(value: str | None) -> str:
    return "null" if value is None else quoted(value)


def _number(value: int | None) -> int | str:
    return "null" if value is None else value
