"""Damage to a fabric, on request: cables pulled, links that trained badly, devices off, names wrong or crossed.

Works on text in ibnetdiscover's form, which is what ibsim reads and the real tool prints: the same damage can be done
to the simulated fabric and to what was read of a sound one. Devices are named as the text names them (`leaf-01-1`,
`b200-001 mlx5_0`); what the text does not name is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

HEAD: Final = re.compile(r'^(?:Switch|Ca)\s+\d+\s+"\S+"\s+# "([^"]*)"', re.MULTILINE)


def names(text: str) -> frozenset[str]:
    """Of all devices."""
    return frozenset(HEAD.findall(text))


def without(text: str, device: str, *others: str) -> str:
    """One end alone: the device has no line about its cables to the others any more."""
    return _edited(text, device, lambda line: None if _is_cable(line, others) else line)


def cut(text: str, device: str, *others: str) -> str:
    """Cables pulled, as both ends see it."""
    text = without(text, device, *others)
    for other in others:
        text = without(text, other, device)
    return text


def gone(text: str, *devices: str) -> str:
    """Devices that are off: no record, and no cable to them."""
    kept = (record for record in text.split("\n\n") if _owner(record) not in devices)
    return "\n".join(line for line in "\n\n".join(kept).split("\n") if not _is_cable(line, devices))


def trained(text: str, one: str, other: str, rate: str) -> str:
    """A link that trained at another width or speed (`1xNDR`, `4xHDR`), as both ends see it."""
    for device, far in ((one, other), (other, one)):

        def slowed(line: str, far: str = far) -> str:
            return re.sub(r"\d+x[A-Z]+\d*$", rate, line) if _is_cable(line, (far,)) else line

        text = _edited(text, device, slowed)
    return text


def renamed(text: str, old: str, new: str) -> str:
    """A device with another description."""
    return text.replace(f'"{old}"', f'"{new}"')


def swapped(text: str, one: str, other: str) -> str:
    """Two adapters' cables crossed: their names change places."""
    return renamed(renamed(renamed(text, one, "\x00"), other, one), "\x00", other)


def _owner(record: str) -> str | None:
    found = HEAD.search(record)
    return found[1] if found else None


def _is_cable(line: str, others: tuple[str, ...]) -> bool:
    return line.startswith("[") and any(f'"{other}"' in line for other in others)


def _edited(text: str, device: str, change: Callable[[str], str | None]) -> str:
    """With each line of a device's record changed; None takes it out."""
    head = re.search(rf'^(?:Switch|Ca)\s+\d+\s+"\S+"\s+# "{re.escape(device)}"', text, re.MULTILINE)
    if head is None:
        return text
    end = text.find("\n\n", head.end())
    end = len(text) if end < 0 else end
    lines = (change(line) for line in text[head.start() : end].split("\n"))
    return text[: head.start()] + "\n".join(line for line in lines if line is not None) + text[end:]
