"""The base of all settings classes: precedence of the sources, checks, one-line errors; types of fields."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from miner.config.near import closest
from miner.config.secrets import is_secret, sent_key, without_password, without_url_secrets
from miner.config.sources import VariablesSource, dotenv_variables, variable_of
from miner.core._typing import override
from miner.core.file_errors import way_out
from miner.errors import ConfigError

_ADDRESS_SUFFIXES = ("_url", "_base", "_endpoint")
_NO_QUERY = "must not have a query or fragment (? or #), which would not be sent; an API key has its own setting"
_HTTP = "must start with http:// or https:// and name a host, such as http://localhost:8000/v1"


def _http_url(value: str) -> str:
    """Validate an http(s) base URL; return it without a trailing slash."""
    if not value.startswith(("http://", "https://")):
        raise ValueError(_HTTP)
    try:
        parts = urlsplit(value)
    except ValueError:  # such as an IPv6 address without its closing bracket
        raise ValueError(_HTTP) from None
    if not parts.hostname:
        raise ValueError(_HTTP)
    try:
        port = parts.port
    except ValueError:  # its own message would show what may be part of a password
        port = 0
    if port == 0:
        raise ValueError("its port must be from 1 to 65535, such as 8000 in http://localhost:8000/v1")
    if "?" in value or "#" in value:
        raise ValueError(_NO_QUERY)
    return value.rstrip("/")


def path_as_text(value: Any) -> Any:
    """Convert a path object to str; return anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PathText = Annotated[str, BeforeValidator(path_as_text)]


class Settings(BaseSettings):
    """Settings from, first to last: the arguments, the environment, `.env` in the working directory, the default.

    Fields can be assigned after construction, and are checked then too. Subclasses repeat `__init__`: type checkers
    would otherwise synthesize one that requires the fields' exact types.

    Raises:
        ConfigError: a value is invalid, or an argument is not a setting.
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
    def _reject_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts True as 1; for a numeric setting it is a mistake."""
        if isinstance(value, bool) and _is_numeric(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("must be a number, not True or False")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _strip_key(cls, value: Any, info: ValidationInfo) -> Any:
        """Files have line ends behind a key. MINER_KEY is checked further where it is used, with --key."""
        if not isinstance(value, SecretStr) or not value.get_secret_value().strip():
            return value
        if (info.field_name or "").endswith(("_key", "_token")):
            return SecretStr(sent_key(value.get_secret_value()))
        return SecretStr(value.get_secret_value().strip())

    def __init__(self, **settings: Any) -> None:
        cls = type(self)
        unknown = [name for name in settings if name.lower() not in cls.model_fields and not name.startswith("_")]
        if unknown:
            raise _unknown_argument(unknown[0], cls)
        try:
            super().__init__(**settings)
        except UnicodeDecodeError as error:
            raise ConfigError(f".env is not UTF-8 text: {error.reason} at byte {error.start}.") from None
        except OSError as error:
            hint = way_out(error, Path(".env"))
            raise ConfigError(f".env cannot be read: {error.strerror}.", operator_hint=hint) from None
        except ValidationError as error:
            raise _config_error(error, settings) from None

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields:
            raise _unknown_argument(name, type(self))
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise _config_error(error, {name: value}) from None

    @override
    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # A URL may contain a password; keys are SecretStr.
        for name, value in super().__repr_args__():
            yield name, without_password(value) if isinstance(value, str) and "://" in value else value


def _is_numeric(annotation: Any) -> bool:
    """Whether a field of this type is a number, optional and constrained ones included."""
    return annotation in (int, float) or any(map(_is_numeric, get_args(annotation)))


def _unknown_argument(name: str, cls: type[BaseSettings]) -> ConfigError:
    near = closest(name, cls.model_fields)
    hint = f"Did you mean {near}?" if near else "Settings are listed in .env.example."
    return ConfigError(f"{cls.__name__} has no setting {name!r}.", operator_hint=hint)


def _config_error(error: ValidationError, arguments: Mapping[str, Any]) -> ConfigError:
    """One line for the first invalid value: the variable, its value (unless it is a secret) and what is allowed."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]).lower() if first["loc"] else "?"
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    reason = reason_of(error)
    if is_secret(name):
        return ConfigError(f"{variable_of(name)} is not valid: {reason}{more}.")
    return ConfigError(f"{variable_of(name)}={_invalid_value(name, arguments)}: {reason}{more}.")


def reason_of(error: ValidationError) -> str:
    """What is wrong with the first invalid value, such as "must be a valid integer"; without the value."""
    first = error.errors(include_url=False, include_context=False)[0]
    reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if reason == "String should have at least 1 character":
        return "must not be empty"
    return reason[:1].lower() + reason[1:].partition(", unable to ")[0]


def _invalid_value(name: str, arguments: Mapping[str, Any]) -> str:
    """The invalid value as it was written: `hide_input_in_errors` keeps it out of pydantic's error."""
    by_variable = {variable_of(key.lower()): value for key, value in arguments.items()}
    for source in (by_variable, os.environ, dotenv_variables(".env")):
        for key, value in source.items():
            if key.upper() == variable_of(name):
                hide = without_url_secrets if name.endswith(_ADDRESS_SUFFIXES) else without_password
                return hide(repr(value))
    return "?"
