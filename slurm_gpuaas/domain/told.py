"""Sentences that can be told in another language.

A rule says `told("Pool {pool} has {free} GPUs left, {asked} were asked for.", pool=..., free=..., asked=...)`. That is
an English `str` like any other, so that errors, logs and commands need to know nothing of it; the portal finds the
Korean sentence by its template (the msgid of gettext) and puts the same values in, each in the reader's own form.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Self

Value = str | int | float | date | datetime


class Told(str):
    """A sentence with the template and values it was made of."""

    __slots__ = ("template", "values")

    template: str
    values: Mapping[str, Value]

    def __new__(cls, template: str, values: Mapping[str, Value]) -> Self:
        self = super().__new__(cls, template.format_map(values))
        self.template, self.values = template, dict(values)
        return self


def told(template: str, /, **values: Value) -> Told:
    """An English sentence; `template` as for `str.format` with names. Templates are literal, so that they can be
    collected for translation.

    Raises:
        KeyError: the template names a value that is not given.
    """
    return Told(template, values)
