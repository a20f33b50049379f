"""Words of sentences for people."""

from __future__ import annotations


def plural(number: int, one: str, many: str = "") -> str:
    """`1 node`, `2 nodes`; `many` where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def printable(text: str, most: int) -> str:
    """At most so many characters of a text that came from elsewhere, with nothing in it that a terminal would obey."""
    return "".join(one if one.isprintable() else "?" for one in text[:most])
