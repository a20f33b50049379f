"""One YAML file for a program, with the environment above it. An unknown key is an error, never ignored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from slurm_gpuaas.domain.errors import InvalidInput


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(BaseSettings):
    """Base of a program's configuration; it sets `env_prefix`.

    Attributes:
        example: file in the project that shows the defaults.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    example: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file and the environment.

        Raises:
            InvalidInput: the file cannot be read, is no YAML mapping, or a field of it is wrong; names each field.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInput(
                f"Configuration {path} cannot be read: {os.strerror(error.errno or 0)}.",
                way_out=f"Give the file with --config; {cls.example} is an example.",
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidInput(f"Configuration {path} is not YAML: {' '.join(str(error).split())}.") from None
        if content is None:
            content = {}
        if not isinstance(content, dict):
            raise InvalidInput(f"Configuration {path} is not a mapping.", way_out="Write `field: value` lines.")
        try:
            return cls(**content)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False)
            )
            raise InvalidInput(
                f"Configuration {path}: {faults}.", way_out=f"{cls.example} is an example with the defaults."
            ) from None
