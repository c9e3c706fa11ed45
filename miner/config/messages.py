"""What a wrong setting says: one line with the variable, its value and what is allowed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miner.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_settings import BaseSettings

__all__ = ["config_error", "unknown_argument"]

_SECRET = ("key", "token", "secret", "password")


def unknown_argument(name: str, cls: type[BaseSettings]) -> ConfigError:
    """The error for an argument that is no setting, with the nearest name."""
    near = difflib.get_close_matches(name.lower(), list(cls.model_fields), n=1)
    hint = f"Did you mean {near[0]}?" if near else "Settings are listed in .env.example."
    return ConfigError(f"{cls.__name__} has no setting {name!r}.", hint=hint)


def config_error(error: ValidationError, given: Mapping[str, Any]) -> ConfigError:
    """One line for the first wrong value of a settings class."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]).lower() if first["loc"] else "?"
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if any(word in name.split("_") for word in _SECRET):
        return ConfigError(f"{name.upper()} is not valid: {reason}{more}.")
    return ConfigError(f"{name.upper()}={_value(name, given)}: {reason}{more}.")


def _value(name: str, given: Mapping[str, Any]) -> str:
    """The wrong value as it was written. The error itself does not carry it: it might be a secret."""
    for key, value in given.items():
        if key.lower() == name:
            return repr(value)
    for key, value in os.environ.items():
        if key.lower() == name:
            return repr(value)
    from dotenv import dotenv_values

    for key, text in dotenv_values(".env").items():
        if key.lower() == name:
            return repr(text)
    return "?"
