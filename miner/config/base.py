"""What all settings classes have in common: where a value comes from, and what a wrong one says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from miner.config.messages import config_error, unknown_argument, without_password
from miner.config.sources import VariablesSource
from miner.core._typing import override
from miner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Settings from, first to last: the arguments, the environment, `.env` in the working directory, the default.

    Fields can be assigned after construction, and are checked then too.

    Raises:
        ConfigError: a value is wrong, or an argument is no setting.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        validate_assignment=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, VariablesSource(settings_cls, getattr(dotenv_settings, "env_file", None))

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts True as 1; a setting that is given so is a mistake."""
        if isinstance(value, bool) and _holds_a_number(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("must be a number, not True or False")
        return value

    def __init__(self, **settings: Any) -> None:
        cls = type(self)
        unknown = [name for name in settings if name.lower() not in cls.model_fields and not name.startswith("_")]
        if unknown:
            raise unknown_argument(unknown[0], cls)
        try:
            super().__init__(**settings)
        except UnicodeDecodeError as error:
            raise ConfigError(f".env is not UTF-8 text: {error.reason} at byte {error.start}.") from None
        except ValidationError as error:
            raise config_error(error, settings) from None

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields:
            raise unknown_argument(name, type(self))
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise config_error(error, {name: value}) from None

    @override
    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # An address may carry a password; keys are SecretStr.
        for name, value in super().__repr_args__():
            yield name, without_password(value) if isinstance(value, str) and "://" in value else value


def _holds_a_number(kind: Any) -> bool:
    """Whether a field of this type is a number: also where it may be None, or is bounded."""
    return kind in (int, float) or any(map(_holds_a_number, get_args(kind)))
