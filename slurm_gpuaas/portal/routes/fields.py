"""Fields of forms: what is taken, how much of it, and how a wrong one is told beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Form, Request

from slurm_gpuaas.domain.calendar import FURTHEST_DAY
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.names import Name, PersonId, UserName
from slurm_gpuaas.domain.policy import FIRST_DAY
from slurm_gpuaas.domain.told import told

T = TypeVar("T")
N = TypeVar("N", bound=Name)
E = TypeVar("E", bound=StrEnum)

Text = Annotated[str, Form(max_length=500)]
"""One line."""
LongText = Annotated[str, Form(max_length=100_000)]
Password = Annotated[str, Form(max_length=1_000)]
MOST_FIELDS: Final = 2_000
_ADDRESS: Final = re.compile(r"[^\s@,;<>\"]{1,64}@[^\s@,;<>\"]{1,189}")


@dataclass
class Faults:
    """Collects what is wrong in a form; all of it is told at once."""

    told: dict[str, str] = field(default_factory=dict)

    def read(self, name: str, parse: Callable[[str], T], text: str) -> T | None:
        """The field's value; None when it is wrong, and then `told` says why."""
        try:
            return parse(text.strip())
        except GpuaasError as error:
            self.told[name] = error.message
            return None


def line(most: int, least: int = 1) -> Callable[[str], str]:
    """A parser of one line of text."""

    def parse(text: str) -> str:
        if not least <= len(text) <= most:
            raise InvalidInput(told("Write {least} to {most} characters.", least=least, most=most))
        if not text.isprintable():
            raise InvalidInput(told("Write one line, without control characters."))
        return text

    return parse


def paragraphs(most: int, least: int = 1) -> Callable[[str], str]:
    """A parser of a longer text; lines end as everywhere but in forms."""

    def parse(text: str) -> str:
        text = text.replace("\r\n", "\n")
        if not least <= len(text) <= most:
            raise InvalidInput(told("Write {least} to {most} characters.", least=least, most=most))
        if any((ord(one) < 32 and one not in "\t\n") or ord(one) == 127 for one in text):
            raise InvalidInput(told("Write text without control characters."))
        return text

    return parse


def whole(least: int, most: int) -> Callable[[str], int]:
    """A parser of a whole number."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most):
            raise InvalidInput(told("Write a whole number from {least} to {most}.", least=least, most=most))
        return int(text)

    return parse


def day(text: str) -> date:
    try:
        found = datetime.strptime(text, "%Y-%m-%d").date()  # a day has no zone
    except ValueError:
        raise InvalidInput(told("Write a day as in 2026-11-28.")) from None
    if not FIRST_DAY <= found <= FURTHEST_DAY:
        raise InvalidInput(told("Write a day from {first} to {last}.", first=FIRST_DAY, last=FURTHEST_DAY))
    return found


def email(text: str) -> str:
    """An address as far as that can be known without writing to it; lower case, so that it is found again."""
    if len(text) > 254 or not _ADDRESS.fullmatch(text):
        raise InvalidInput(told("Write an e-mail address, as in name@example.org."))
    return text.lower()


def unix_name(text: str) -> UserName:
    try:
        return UserName(text.lower())
    except InvalidInput:
        raise InvalidInput(
            told("Write lower-case letters, digits, '-', '_' or '.', a letter first, at most 32 characters.")
        ) from None


def short_name(kind: type[N], text: str) -> N:
    """Raises:
    InvalidInput: in words that can be told in Korean.
    """
    try:
        return kind(text.strip())
    except InvalidInput:
        raise InvalidInput(
            told("Write a short name of lower-case letters, digits and '-', a letter first, at most 30 characters.")
        ) from None


def number(kind: type[N], text: str) -> N:
    """From an address, where anything may stand.

    Raises:
        NotFound: nothing can have this number.
    """
    try:
        return kind(text)
    except InvalidInput:
        raise NotFound(told("There is nothing of this number."), way_out=told("Check the number or name.")) from None


def person_number(text: str) -> PersonId:
    """From an address, where anything may stand.

    Raises:
        NotFound: nobody can have this number.
    """
    try:
        return PersonId(text)
    except InvalidInput:
        raise NotFound(told("There is no such person.")) from None


def key(kind: type[N], text: str) -> N:
    """A name or number from an address, where anything may stand.

    Raises:
        NotFound: nothing can be called so.
    """
    try:
        return kind(text)
    except InvalidInput:
        raise NotFound(told("There is nothing of this number or name.")) from None


def choice(kind: type[E], text: str) -> E:
    """Of a list of options."""
    if text not in set(kind):
        raise InvalidInput(told("Choose from the list."))
    return kind(text)


def same_name(of_address: str, of_document: str) -> None:
    """
    Raises:
        InvalidInput: a document is put where another name belongs.
    """
    if of_address != of_document:
        raise InvalidInput(
            told("The address names {name}, the document {other}.", name=of_address[:60], other=str(of_document)),
            way_out=told("Make them the same."),
        )


async def _typed(request: Request) -> Mapping[str, Sequence[str]]:
    form = await request.form()
    typed: dict[str, list[str]] = {}
    for name, value in form.multi_items()[:MOST_FIELDS]:
        if isinstance(value, str):
            typed.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return typed


Typed = Annotated[Mapping[str, Sequence[str]], Depends(_typed)]
"""All fields of a form with many of them; each a list, since a field may be there several times."""
