"""Words of sentences for people."""

from __future__ import annotations


def plural(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
