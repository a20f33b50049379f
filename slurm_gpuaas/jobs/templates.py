"""Job templates: a manifest with typed parameters and a script, rendered so that no value can break out of its place.

A template is a folder with `manifest.yaml` and `script.sh.j2`. What every template takes is in `common/`. Values are
checked against the manifest, and whatever the script prints is quoted for the shell by the renderer itself: a template
cannot forget it, and must not put quotes around a value. Nothing here needs Slurm or gpuaasd.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.faults import faults_of

SHIPPED: Final = Path(__file__).parents[2] / "job_templates"
COMMON: Final = "common"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,40}")
_PARAMETER: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_RESERVED: Final = frozenset({"help", "json", "dry_run", "template", "parameters"})

Value = int | str | tuple[str, ...] | None
"""A checked value. None: left out, and the manifest says that this is fine."""


class _Parameter(BaseModel):
    """One parameter. Without a `default` it must be given; a default of null means that it may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metavar: ClassVar[str] = "TEXT"
    example: ClassVar[str] = "TEXT"
    help: str
    default: int | str | None = None

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set

    @model_validator(mode="after")
    def _default_is_valid(self) -> Self:
        if self.default is not None:
            self.parse(str(self.default))
        return self

    @property
    def wants(self) -> str:
        """What a value must be, to end the sentence 'use ...'."""
        raise NotImplementedError

    def parse(self, text: str) -> Value:
        """The value that a text stands for.

        Raises:
            InvalidInput: it stands for none.
        """
        if not text.isprintable() or not self._accepts(text):
            raise InvalidInput(f"{text!r:.80} was given.", way_out=f"Use {self.wants}.")
        return text

    def _accepts(self, text: str) -> bool:
        raise NotImplementedError


class IntegerParameter(_Parameter):
    type: Literal["integer"]
    metavar: ClassVar[str] = "N"
    example: ClassVar[str] = "N"
    min: int
    max: int

    @property
    def wants(self) -> str:
        return f"a whole number from {self.min} to {self.max}"

    def _accepts(self, text: str) -> bool:
        return bool(re.fullmatch(r"[0-9]{1,9}", text)) and self.min <= int(text) <= self.max

    def parse(self, text: str) -> Value:
        super().parse(text)
        return int(text)


class ChoiceParameter(_Parameter):
    type: Literal["choice"]
    choices: tuple[str, ...] = Field(min_length=1)

    @property
    def wants(self) -> str:
        return f"one of {', '.join(self.choices)}"

    def _accepts(self, text: str) -> bool:
        return text in self.choices


class TextParameter(_Parameter):
    type: Literal["text"]
    pattern: str
    max_length: int = 100

    @property
    def wants(self) -> str:
        return f"at most {self.max_length} characters that match {self.pattern}"

    def _accepts(self, text: str) -> bool:
        return len(text) <= self.max_length and bool(re.fullmatch(self.pattern, text))


class WallTimeParameter(_Parameter):
    type: Literal["wall-time"]
    metavar: ClassVar[str] = "TIME"
    example: ClassVar[str] = "1:00:00"

    @property
    def wants(self) -> str:
        return "a time as Slurm writes it: D-HH:MM:SS, HH:MM:SS or minutes"

    def _accepts(self, text: str) -> bool:
        return bool(re.fullmatch(r"[0-9]{1,6}|([0-9]{1,3}-)?[0-9]{1,4}(:[0-9]{2}){1,2}|[0-9]{1,3}-[0-9]{1,2}", text))


class PathParameter(_Parameter):
    type: Literal["path"]
    metavar: ClassVar[str] = "PATH"
    example: ClassVar[str] = "train.py"

    @property
    def wants(self) -> str:
        return "a path of at most 4096 characters that does not start with '-'"

    def _accepts(self, text: str) -> bool:
        return 0 < len(text) <= 4096 and not text.startswith("-")


class WordsParameter(_Parameter):
    """Words as a shell splits them, none of them ever interpreted by one."""

    type: Literal["words"]
    metavar: ClassVar[str] = "WORDS"
    example: ClassVar[str] = "'python3 train.py'"

    @property
    def wants(self) -> str:
        return "words as on a command line, with quotes closed"

    def _accepts(self, text: str) -> bool:
        try:
            return shlex.split(text) is not None and len(text) <= 16_384
        except ValueError:
            return False

    def parse(self, text: str) -> Value:
        super().parse(text)
        return tuple(shlex.split(text))


Parameter = Annotated[
    IntegerParameter | ChoiceParameter | TextParameter | WallTimeParameter | PathParameter | WordsParameter,
    Field(discriminator="type"),
]


class Manifest(BaseModel):
    """`manifest.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    description: str
    parameters: dict[str, Parameter]

    @model_validator(mode="after")
    def _names_are_options(self) -> Self:
        for name in self.parameters:
            if not _PARAMETER.fullmatch(name) or name in _RESERVED:
                raise InvalidInput(f"{name!r} cannot name a parameter.", way_out="Use letters, digits and '_'.")
        return self


@dataclass(frozen=True, kw_only=True)
class Template:
    name: str
    manifest: Manifest
    source: str
    folder: Path

    def values(self, given: Mapping[str, str]) -> dict[str, Value]:
        """Every parameter's value: the given text checked, the default where none is given.

        Raises:
            InvalidInput: unknown or missing parameter, or a value that the manifest does not allow.
        """
        parameters = self.manifest.parameters
        unknown = sorted(given.keys() - parameters.keys())
        if unknown:
            raise InvalidInput(
                f"Template {self.name} has no parameter {', '.join(unknown)}.",
                way_out=f"It has {', '.join(parameters)}.",
            )
        return {name: self._value(name, parameter, given.get(name)) for name, parameter in parameters.items()}

    def render(self, given: Mapping[str, str]) -> str:
        """The script for sbatch.

        Raises:
            InvalidInput: as `values`, or the template itself is wrong.
        """
        values = self.values(given)
        environment = SandboxedEnvironment(
            loader=jinja2.FileSystemLoader(self.folder.parent),
            undefined=jinja2.StrictUndefined,
            finalize=_quoted,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # the output is a shell script: `finalize` quotes for the shell
        )
        try:
            script = environment.from_string(self.source).render(template=self.name, parameters=values, **values)
        except jinja2.TemplateError as error:
            raise InvalidInput(
                f"Template {self.name} cannot be rendered: {error}.", way_out=f"Correct {self.folder / 'script.sh.j2'}."
            ) from error
        return script

    def _value(self, name: str, parameter: _Parameter, text: str | None) -> Value:
        if text is None:
            if parameter.required:
                raise InvalidInput(
                    f"Template {self.name} needs {option_of(name)}.", way_out=f"Use {parameter.wants}: {parameter.help}"
                )
            return None if parameter.default is None else parameter.parse(str(parameter.default))
        try:
            return parameter.parse(text)
        except InvalidInput as error:
            raise InvalidInput(f"{option_of(name)}: {error.message}", way_out=error.way_out) from None


def option_of(parameter: str) -> str:
    """A parameter's option on the command line."""
    return "--" + parameter.replace("_", "-")


class Library:
    """The templates of a folder."""

    def __init__(self, folder: Path = SHIPPED) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """
        Raises:
            NotFound: there is no template at all.
        """
        names = sorted(path.parent.name for path in self.folder.glob("*/manifest.yaml"))
        names = [name for name in names if _NAME.fullmatch(name)]
        if not names:
            raise NotFound(
                f"There is no job template in {self.folder}.",
                way_out="Name a folder with TEMPLATE/manifest.yaml and TEMPLATE/script.sh.j2 in it.",
            )
        return names

    def get(self, name: str) -> Template:
        """Raises:
        NotFound: there is no template of that name.
        InvalidInput: its manifest is wrong, or a file of it cannot be read.
        """
        names = self.names()
        if name not in names:
            raise NotFound(f"There is no job template {name!r:.60}.", way_out=f"Use one of {', '.join(names)}.")
        folder = self.folder / name
        own = _document(folder / "manifest.yaml")
        common = _document(self.folder / COMMON / "parameters.yaml")
        parameters = own.get("parameters") or {}
        try:
            if isinstance(parameters, dict):
                own = {**own, "parameters": {**parameters, **common}}
            manifest = Manifest.model_validate(own)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, place))}: {what}" for place, what in faults_of(error))
            raise InvalidInput(
                f"The manifest of template {name} is wrong: {faults}.", way_out=f"Correct {folder / 'manifest.yaml'}."
            ) from None
        return Template(name=name, manifest=manifest, source=_text(folder / "script.sh.j2"), folder=folder)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", way_out="Put it right.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not a text in UTF-8.", way_out="Save it as UTF-8.") from None


def _document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else " ".join(str(error).split())
        raise InvalidInput(f"{path} is not YAML: {said}.", way_out="Correct the file.") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{path} is not a mapping.", way_out="Correct the file.")
    return document


def _quoted(value: object) -> str:
    """A value as shell words. An undefined one raises, as StrictUndefined does when it becomes text."""
    if isinstance(value, tuple):
        return " ".join(shlex.quote(str(word)) for word in value)
    return shlex.quote(str(value))
