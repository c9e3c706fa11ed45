"""From a model of `miner.toml` to the settings of the llama.cpp service that serves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from miner.config.file.schema import Defaults, Model
from miner.core.models.names import parse_ref
from miner.core.models.resolve import PATH_STARTS
from miner.errors import ConfigError

_SETTINGS = {
    "llamacpp_ctx_size": "context",
    "llamacpp_parallel": "slots",
    "llamacpp_threads": "threads",
    "llamacpp_batch_size": "batch_size",
    "llamacpp_cache_type_k": "cache_type_k",
    "llamacpp_cache_type_v": "cache_type_v",
    "llamacpp_cache_ram": "cache_ram",
    "llamacpp_n_gpu_layers": "n_gpu_layers",
    "llamacpp_flash_attn": "flash_attn",
    "llamacpp_timeout": "timeout",
}
"""Fields of MinerConfig, and the keys that set them in `[models.NAME]` or `[defaults]`."""


def llamacpp_settings(model: Model, defaults: Defaults, directory: Path) -> dict[str, Any]:
    """The fields of MinerConfig that a model of a llama.cpp backend sets; those that it leaves alone are not there.

    Args:
        defaults: what it does not say itself.
        directory: where relative paths start: that of the file.

    Raises:
        ConfigError: a file does not exist; names key and value. `file` and `hub` may also be names in the models
            directory: whether there is such a model is seen when it is requested.
    """
    settings: dict[str, Any] = {}
    for field, key in _SETTINGS.items():
        own = getattr(model, key)
        value = getattr(defaults, key) if own is None else own
        if value is not None:
            settings[field] = value
    source = _model_path(model.file, model.hub, directory)
    if source is not None:
        settings["model_path"] = source
    if model.pooling is not None:
        settings["llamacpp_pooling"] = model.pooling
    if model.chat_template is not None:
        settings["llamacpp_chat_template"] = _file("chat_template", model.chat_template, directory)
    return settings


def _model_path(file: str | None, hub: str | None, directory: Path, where: str = "") -> str | None:
    """What MODEL_PATH says for a model: an absolute path, or a name in the models directory."""
    if file is not None and hub is not None:
        raise ConfigError(f"{where}file = {file!r} and {where}hub = {hub!r} are two models.", hint="Set one of them.")
    if hub is not None:
        ref = parse_ref(hub)
        if ref is None:
            raise ConfigError(f"{where}hub = {hub!r}: must be OWNER/NAME, or OWNER/NAME:QUANTIZATION.")
        return str(ref)
    if file is None:
        return None
    path = directory / Path(file).expanduser()
    # A name in the models directory may have slashes too: only what can be nothing else is always a path.
    return str(path) if file.startswith(PATH_STARTS) or path.is_file() else file


def _file(key: str, value: str, directory: Path) -> str:
    """The absolute path of a file that must be there."""
    path = directory / Path(value).expanduser()
    if not path.is_file():
        why = "is a directory" if path.is_dir() else "does not exist"
        raise ConfigError(
            f"{key} = {value!r}: the file {path} {why}.", hint="Relative paths start at the directory of this file."
        )
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{key} = {value!r}: the file {path} may not be read.")
    return str(path)
