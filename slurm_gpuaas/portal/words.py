"""Korean and English. Texts are written in English in code and templates; `locale/ko/*.po` holds the Korean ones.

Each part of the portal has a catalogue of its own (`portal.po`, `map.po`, ...); all of them are read together. A text
is a template as for `domain.told`: `{name}` stands for a value, which is put in as readers of the language write it.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta, timezone
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from babel.core import negotiate_locale
from babel.messages.pofile import read_po

from slurm_gpuaas.domain.accounts import Language, PersonState
from slurm_gpuaas.domain.audit_chain import AuditResult
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.told import Told, Value

KST: Final = timezone(timedelta(hours=9), "KST")
"""Korea has had no summer time since 1988."""

LOCALE: Final = Path(str(files("slurm_gpuaas.portal") / "locale"))
Names = Mapping[type[StrEnum], Mapping[StrEnum, str]]

MOST_LANGUAGES: Final = 200
"""Characters of an Accept-Language header that are looked at; browsers send some 50."""


def noted(text: str) -> str:
    """Marks a text that is said later for translation."""
    return text


NAMES: Final[Names] = {
    PortalRole: {
        PortalRole.GOVERNMENT: noted("Government"),
        PortalRole.PROVIDER_OPERATOR: noted("Provider operator"),
        PortalRole.PROVIDER_BILLING: noted("Provider billing"),
        PortalRole.TENANT_ADMIN: noted("Tenant admin"),
        PortalRole.RESEARCHER: noted("Researcher"),
        PortalRole.AUDITOR: noted("Auditor"),
    },
    PersonState: {
        PersonState.INVITED: noted("Invited"),
        PersonState.ACTIVE: noted("Active"),
        PersonState.SUSPENDED: noted("Suspended"),
    },
    AuditResult: {
        AuditResult.DONE: noted("Done"),
        AuditResult.REFUSED: noted("Refused"),
        AuditResult.FAILED: noted("Failed"),
    },
}


@cache
def read_catalogue(folder: Path) -> Mapping[str, str]:
    """All catalogues of a language's folder as one, as they are when first asked for.

    Raises:
        InvalidInput: two of them translate the same text differently.
    """
    texts: dict[str, str] = {}
    for file in sorted(folder.glob("*.po")):
        with file.open("rb") as stream:
            for message in read_po(stream):
                if not (message.id and isinstance(message.id, str) and message.string) or message.fuzzy:
                    continue
                if texts.setdefault(message.id, str(message.string)) != message.string:
                    raise InvalidInput(f"{file.name} translates {message.id!r} otherwise than another catalogue.")
    return texts


@lru_cache(maxsize=8_192)
def parts_of(template: str) -> tuple[tuple[str, str, str], ...]:
    """A template taken apart: text, the name of the value after it (empty: none) and how that is formatted."""
    return tuple((literal, name or "", form or "") for literal, name, form, _ in string.Formatter().parse(template))


class Words:
    """One language.

    Args:
        texts: English templates to templates of the language; what is not in it stays English.
        names: English names of the members of enumerations.
    """

    def __init__(self, language: Language, texts: Mapping[str, str], names: Names) -> None:
        self.language = language
        self._texts = texts
        self._names = names

    def say(self, template: str, /, **values: Value) -> str:
        """A text of code or templates. Call it with a literal, so that it can be collected for translation."""
        return self._put(template, values)

    def tell(self, sentence: str) -> str:
        """A sentence made elsewhere: by `told`, or plain English that the catalogue may know."""
        if isinstance(sentence, Told):
            return self._put(sentence.template, sentence.values)
        return self._texts.get(sentence, sentence)

    def _put(self, template: str, values: Mapping[str, Value]) -> str:
        return "".join(
            [
                literal + self._shown(values[name], form) if name else literal
                for literal, name, form in self.parts(template)
            ]
        )

    def parts(self, template: str) -> tuple[tuple[str, str, str], ...]:
        """As `parts_of`, of the text in this language."""
        return parts_of(self._texts.get(template, template))

    def _shown(self, value: Value, form: str) -> str:
        return format(value, form) if form else self.value(value)

    def value(self, value: object) -> str:
        """A value as readers write it: 1,032; 2026. 11. 28. 09:30 (KST) in Korean, 28 Nov 2026 09:30 KST in English."""
        if type(value) is str:
            return value
        match value:
            case Told():
                return self.tell(value)
            case StrEnum():
                return self.name(value)
            case bool() | str():
                return str(value)
            case int():
                return f"{value:,}"
            case float():
                return f"{value:,.1f}"
            case datetime():
                return self.moment(value)
            case date():
                return self.day(value)
            case _:
                return str(value)

    def name(self, value: StrEnum) -> str:
        """What readers call a state or a role."""
        name = self._names.get(type(value), {}).get(value)
        return str(value).replace("-", " ") if name is None else self._texts.get(name, name)

    def moment(self, moment: datetime) -> str:
        """In Korean time, to the minute."""
        local = moment.astimezone(KST)
        if self.language is Language.KOREAN:
            return f"{self.day(local.date())} {local:%H:%M}"
        return f"{self.day(local.date())} {local:%H:%M} KST"

    def day(self, day: date) -> str:
        if self.language is Language.KOREAN:
            return f"{day.year}. {day.month}. {day.day}."
        return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"

    def won(self, won: int) -> str:
        return f"{won:,}원" if self.language is Language.KOREAN else f"₩{won:,}"

    def gpus(self, count: int) -> str:
        """GPU counts, and whole servers of eight beside them."""
        if self.language is Language.KOREAN:
            return f"{count:,}장" + (f" ({count // 8:,}대)" if count and count % 8 == 0 else "")
        servers = f" ({count // 8:,} server{'' if count == 8 else 's'})" if count and count % 8 == 0 else ""
        return f"{count:,} GPU{'' if count == 1 else 's'}{servers}"

    def gpu_hours(self, gpu_seconds: int) -> str:
        """Hundredths of a GPU-hour, cut off as on statements."""
        hundredths = abs(gpu_seconds) // 36
        return f"{'-' if gpu_seconds < 0 and hundredths else ''}{hundredths // 100:,}.{hundredths % 100:02}"

    def ago(self, moment: datetime, now: datetime) -> str:
        """`3 minutes ago`; a moment after a month."""
        seconds = int((now - moment).total_seconds())
        if seconds < 60:
            return self.say("just now")
        if seconds < 3_600:
            return self.say("{minutes} min ago", minutes=seconds // 60)
        if seconds < 86_400:
            return self.say("{hours} h ago", hours=seconds // 3_600)
        if seconds < 30 * 86_400:
            return self.say("{days} d ago", days=seconds // 86_400)
        return self.moment(moment)


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Dictionary:
    """All languages of the portal."""

    def __init__(self, folders: Iterable[Path] = (LOCALE,), names: Names = NAMES) -> None:
        """Args:
        folders: each with a folder of catalogues for every language but English.
        """
        texts: dict[str, str] = {}
        for folder in folders:
            texts |= read_catalogue(folder / Language.KOREAN)
        self._words = {
            Language.KOREAN: Words(Language.KOREAN, texts, names),
            Language.ENGLISH: Words(Language.ENGLISH, {}, names),
        }

    def __getitem__(self, language: Language) -> Words:
        return self._words[language]


def preferred(accept_language: str, otherwise: Language) -> Language:
    """The first of a browser's languages that the portal has."""
    wanted = [
        (-_weight(parameters), place, tag.strip())
        for place, (tag, _, parameters) in enumerate(
            part.partition(";") for part in accept_language[:MOST_LANGUAGES].split(",")
        )
        if _weight(parameters) > 0
    ]
    tags = [tag.replace("-", "_") for _, _, tag in sorted(wanted)]
    found = negotiate_locale(tags, [str(language) for language in Language])
    return Language(found) if found else otherwise


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0
