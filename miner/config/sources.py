"""Where a setting is looked up besides the arguments: its variable in the environment, then in `.env`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from miner.core._typing import override

_PREFIX = "MINER_"
_UNPREFIXED = (
    "llm_backend", "model_path", "models_dir", "default_", "ollama_", "vllm_", "llamacpp_", "hf_",
)  # fmt: skip
"""The published names. All others have the prefix: a working directory's `.env` belongs to other programs too."""
_LISTED = "`miner config show --all` lists the settings, as .env.example does."
_NOT_SETTINGS = {
    "MINER_CACHE", "MINER_CHAT_TEMPLATES", "MINER_MIXED_MODELS", "MINER_VLLM_POOLING_BASE",
    "MINER_ENGINE_RUN",  # marks what was started for an engine
}  # fmt: skip
"""Prefixed variables that are no settings: most are read by tests, examples and scripts."""


def variable_of(field: str) -> str:
    """The variable that sets a field: `MINER_MAX_RETRIES` for `max_retries`, `LLAMACPP_PARALLEL` as it is."""
    return field.upper() if field.startswith(_UNPREFIXED) else f"{_PREFIX}{field.upper()}"


class VariablesSource(PydanticBaseSettingsSource):
    """The variables of a settings class, from the environment, else from `.env` files; empty ones count as unset and
    the case of names does not matter.

    Raises:
        UnicodeDecodeError: such a file is not UTF-8 text.
    """

    def __init__(self, settings_cls: type[BaseSettings], files: Any) -> None:
        super().__init__(settings_cls)
        self._files = [files] if isinstance(files, (str, os.PathLike)) else list(files or ())

    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    @override
    def __call__(self) -> dict[str, Any]:
        set_variables: dict[str, str] = {}
        for source in (*(dotenv_variables(file) for file in self._files), os.environ):
            set_variables |= {name.upper(): value for name, value in source.items() if value}
        names = {field: variable_of(field) for field in self.settings_cls.model_fields}
        return {field: set_variables[name] for field, name in names.items() if name in set_variables}


def dotenv_variables(file: str | os.PathLike[str]) -> Mapping[str, str | None]:
    """The variables in a `.env` file; none where there is no file.

    Raises:
        UnicodeDecodeError: it is not UTF-8 text.
    """
    path = Path(file).expanduser()
    if path.is_dir() or not path.exists():
        return {}
    from dotenv import dotenv_values  # here: importing the library must not cost it where there is no file

    return dotenv_values(path, encoding="utf-8")


def dotenv_lines(file: str | os.PathLike[str]) -> dict[str, int]:
    """The line on which each variable of a `.env` file stands, by its name in upper case; of one that stands there
    twice the last, which counts.

    Raises:
        UnicodeDecodeError: it is not UTF-8 text.
    """
    if not dotenv_variables(file):
        return {}
    from dotenv.parser import parse_stream

    lines: dict[str, int] = {}
    with open(Path(file).expanduser(), encoding="utf-8") as stream:
        for binding in parse_stream(stream):
            text = binding.original.string
            blank = text[: len(text) - len(text.lstrip())]  # a binding begins behind the one before
            if binding.key is not None and binding.value:
                lines[binding.key.upper()] = binding.original.line + blank.count("\n")
    return lines


def unknown_variables(settings: Iterable[type[BaseSettings]]) -> list[str]:
    """One sentence for each variable of the environment or `.env` that begins with MINER_, has a value, and sets no
    field of these classes: most likely a mistyped name. The value is left out, it might be a key.

    Raises:
        UnicodeDecodeError: `.env` is not UTF-8 text.
    """
    found = [name for source in (dotenv_variables(".env"), os.environ) for name, value in source.items() if value]
    return [
        f"{name} is not a setting: {f'did you mean {near}?' if near else _LISTED}"
        for name, near in misspelt(found, settings)
    ]


def misspelt(names: Iterable[str], settings: Iterable[type[BaseSettings]]) -> list[tuple[str, str | None]]:
    """Those of these variables that begin with MINER_ and set no field of these classes, each once and in upper case,
    with the name that was most likely meant.
    """
    known = {variable_of(field) for cls in settings for field in cls.model_fields}
    unknown = sorted(name for name in {name.upper() for name in names} - known - _NOT_SETTINGS)
    return [(name, _meant(name, known)) for name in unknown if name.startswith(_PREFIX)]


def _meant(name: str, known: set[str]) -> str | None:
    without = name.removeprefix(_PREFIX)
    near = [without] if without in known else difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return near[0] if near else None
