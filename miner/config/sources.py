"""Where a setting is looked for besides the arguments: its variable in the environment, then in `.env`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_settings import PydanticBaseSettingsSource

from miner.core._typing import override

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

__all__ = ["VariablesSource", "variable_of"]

_UNPREFIXED = (
    "llm_backend", "model_path", "models_dir", "default_", "ollama_", "vllm_", "llamacpp_", "hf_",
)  # fmt: skip
"""The published names. All others have a prefix: a working directory's `.env` belongs to other programs too."""


def variable_of(field: str) -> str:
    """The variable that sets a field: `MINER_MAX_RETRIES` for `max_retries`, `LLAMACPP_PARALLEL` as it is."""
    return field.upper() if field.startswith(_UNPREFIXED) else f"MINER_{field.upper()}"


class VariablesSource(PydanticBaseSettingsSource):
    """The variables of a settings class, from the environment, else from `.env` files; empty ones count as unset and
    the case of names does not matter.

    Raises:
        UnicodeDecodeError: such a file is no UTF-8 text.
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
        UnicodeDecodeError: it is no UTF-8 text.
    """
    path = Path(file).expanduser()
    if path.is_dir() or not path.exists():
        return {}
    from dotenv import dotenv_values  # here: importing the library must not cost it where there is no file

    return dotenv_values(path, encoding="utf-8")
