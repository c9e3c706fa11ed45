"""Finds and reads `miner.toml`."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from miner.config.file.schema import ConfigFile
from miner.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
LATE_VARIABLES = frozenset({"PORT"})
"""Variables that get their value when a command is started."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A file that was read and is valid."""

    path: Path
    """Absolute."""
    text: str
    """What it held."""
    content: ConfigFile
    """With all variables replaced, but those of LATE_VARIABLES."""

    @property
    def directory(self) -> Path:
        """Relative paths in it start here."""
        return self.path.parent


def read_config(path: Path, environment: Mapping[str, str] | None = None) -> LoadedConfig:
    """Read and check a file.

    Args:
        environment: None for this process's.

    Raises:
        ConfigError: it cannot be read, or is invalid: names file, line, key, value, and what is allowed.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    return parse_config(text, path, environment)


def parse_config(text: str, path: Path, environment: Mapping[str, str] | None = None) -> LoadedConfig:
    """The same for a text that stands for the content of the file at `path`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    variables = raw.get("variables")
    known = dict(os.environ if environment is None else environment)
    if isinstance(variables, dict):
        known |= {name: value for name, value in variables.items() if isinstance(value, str)}
    try:
        content = ConfigFile.model_validate(_replaced(raw, known, path))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    return LoadedConfig(path, text, content)


def _replaced(value: Any, known: Mapping[str, str], path: Path) -> Any:
    """The value with its variables replaced."""
    if isinstance(value, dict):
        return {key: _replaced(each, known, path) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, known, path) for each in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name in LATE_VARIABLES:
            return match[0]
        if name not in known:
            raise ConfigError(
                f"{path}: ${{{name}}} is not set.", operator_hint="Set it in the environment, or in [variables]."
            )
        return known[name]

    return _VARIABLE.sub(replace, value)
