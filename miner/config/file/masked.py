"""The content of a file as it may be shown: without its secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from miner.config.secrets import is_secret, without_url_secrets

HIDDEN = "***"
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_PUBLIC = frozenset({"key_file", "keys", "max_tokens"})
_OPTION = re.compile(r"(--?[a-z0-9_-]*(?:key|token|secret|password|auth)[a-z0-9_-]*)(?:=(.+))?", re.IGNORECASE)


def masked(written: Mapping[str, Any]) -> dict[str, Any]:
    """The content as it is written; what is a secret by its name is hidden, unless it is a variable's name."""
    return {key: _masked(key, value) for key, value in written.items()}


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(key, each) for key, each in value.items()}
    if isinstance(value, str) and name not in _PUBLIC and is_secret(name.replace("-", "_")):
        return value if _VARIABLE.fullmatch(value) else HIDDEN
    if isinstance(value, list):
        return _arguments(value) if name == "command" else [_masked(name, each) for each in value]
    return without_url_secrets(value) if isinstance(value, str) and "://" in value else value


def _arguments(arguments: list[Any]) -> list[Any]:
    """The arguments of a command; the values of those that are secrets by their names are hidden."""
    shown: list[Any] = []
    hides_next = False
    for argument in arguments:
        option = _OPTION.fullmatch(argument) if isinstance(argument, str) else None
        if hides_next and not (isinstance(argument, str) and (argument.startswith("-") or _VARIABLE.search(argument))):
            shown.append(HIDDEN)
        elif option is not None and option[2] is not None and not _VARIABLE.fullmatch(option[2]):
            shown.append(f"{option[1]}={HIDDEN}")
        else:
            shown.append(argument)
        hides_next = option is not None and option[2] is None
    return shown
