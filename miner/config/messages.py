"""What a wrong setting says: one line with the variable, its value and what is allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miner.config.sources import dotenv_variables, variable_of
from miner.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_settings import BaseSettings

__all__ = ["config_error", "unknown_argument", "without_password"]

_SECRET = ("key", "token", "secret", "password")
_ADDRESSES = ("_url", "_base", "_endpoint")
_BEFORE_HOST = re.compile(r"""^(['"]?https?://|['"])?.*@""", re.DOTALL)
"""Up to the last @: a password may hold what ends it in a well-formed address."""


def without_password(text: str) -> str:
    """An address, or what was meant as one, without what may be a user's name and password."""
    return _BEFORE_HOST.sub(r"\1***@", text)


def _without_secrets(text: str) -> str:
    """The same for an address as it was written, whose query may hold a key; quotes around it stay."""
    address, *behind = re.split(r"([?#])", text, maxsplit=1)
    if not behind or not behind[1].strip("'\""):
        return without_password(text)
    mark, query = behind
    if "@" in query:  # a password may hold the mark: nobody can tell where the host begins
        return f"{text[: text.find('://') + 3]}***" if "://" in address else "***"
    closing = text[-1] if text[-1] in ("'", '"') else ""
    return f"{without_password(address)}{mark}***{closing}"


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
        return ConfigError(f"{variable_of(name)} is not valid: {reason}{more}.")
    return ConfigError(f"{variable_of(name)}={_value(name, given)}: {reason}{more}.")


def _value(name: str, given: Mapping[str, Any]) -> str:
    """The wrong value as it was written. The error itself does not carry it: it might be a secret."""
    arguments = {variable_of(key.lower()): value for key, value in given.items()}
    for source in (arguments, os.environ, dotenv_variables(".env")):
        for key, value in source.items():
            if key.upper() == variable_of(name):
                hide = _without_secrets if name.endswith(_ADDRESSES) else without_password
                return hide(repr(value))
    return "?"
