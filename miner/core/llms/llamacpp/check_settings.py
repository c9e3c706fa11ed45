"""Checks of llama.cpp's settings before the first request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from miner.core.engine.flags.check import Flag, all_names, checked, wheel_parameters
from miner.core.engine.launchers import XllamacppLauncher, check_server_binary, find_launcher
from miner.core.engine.server_help import flag_words
from miner.core.llms.llamacpp.extra_files import extras_of
from miner.core.llms.llamacpp.models import models_directory, template_text
from miner.core.models.catalog import Catalog, shared_header
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.gguf.values import GGUFError
from miner.core.models.resolve import resolve
from miner.errors import ConfigError, EngineStartError, MinerError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

_BLOCK = 32
"""Values in a block of the quantized cache types."""
_UNQUANTIZED = ("f32", "f16", "bf16")


def check_settings(settings: MinerConfig) -> None:
    """Check the files and programs that the settings name. Starts no engine and loads nothing, but runs LLAMACPP_SERVER
    with `--help`. Blocks: not for an event loop.

    Raises:
        ConfigError: names the setting, its value and a fix.
    """
    if settings.llamacpp_api_base:
        return
    flags = checked(settings.llamacpp_flags)
    try:
        help_text = check_server_binary(settings.llamacpp_server) if settings.llamacpp_server else None
        _check_flags(flags, help_text)
    except EngineStartError as error:
        raise ConfigError(error.message, hint=error.hint, operator_hint=error.operator_hint) from error
    _check_directory(settings)
    template_text(settings)
    header = _header_of_only_model(settings)
    if header is not None:
        extras_of(header, settings, Catalog(models_directory(settings)))
    _check_cache_types(settings, header)


def _check_flags(flags: tuple[Flag, ...], help_text: str | None) -> None:
    """Check that the engine has these options. Other binaries than LLAMACPP_SERVER check them when they start."""
    if help_text is None:
        if flags and isinstance(find_launcher(), XllamacppLauncher):
            wheel_parameters(flags)
        return
    try:
        flag_words([(all_names(name), list(value) if isinstance(value, tuple) else value) for name, value in flags],
                   help_text)  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"LLAMACPP_FLAGS: {str(error).removeprefix('flags: ')}") from None


def _check_directory(settings: MinerConfig) -> None:
    if not settings.models_dir:
        return
    directory = Path(settings.models_dir).expanduser()
    why = None
    if directory.exists() and not directory.is_dir():
        why = "is a file, not a directory"
    elif directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK):
        why = "may not be read"
    if why is not None:
        raise ConfigError(
            f"MODELS_DIR={settings.models_dir!r} {why}.",
            operator_hint="Name the directory of the .gguf files, or unset it: `miner/models` in the cache directory.",
        )


def _header_of_only_model(settings: MinerConfig) -> GGUFHeader | None:
    """The header of the model at MODEL_PATH."""
    if not settings.model_path:
        return None
    try:
        files = resolve(None, model_path=settings.model_path, models_dir=models_directory(settings))
        return shared_header(files)
    except GGUFError as error:
        why = f"{error.path} is no usable model: {error.reason}."
    except OSError as error:
        why = f"{error.filename} cannot be read: {error.strerror}."
    except MinerError as error:
        # It begins with the setting already.
        hint = error.hints or "Name a .gguf file, or unset it."
        raise ConfigError(error.message, operator_hint=hint) from error
    raise ConfigError(f"MODEL_PATH={settings.model_path!r}: {why}", operator_hint="Is the file complete, and a GGUF?")


def _check_cache_types(settings: MinerConfig, header: GGUFHeader | None) -> None:
    kinds = {"K": settings.llamacpp_cache_type_k, "V": settings.llamacpp_cache_type_v}
    if kinds["V"] not in _UNQUANTIZED and settings.llamacpp_flash_attn == "off":
        raise ConfigError(
            f"LLAMACPP_CACHE_TYPE_V={kinds['V']!r} needs flash attention, and LLAMACPP_FLASH_ATTN='off' forbids it.",
            operator_hint="Set LLAMACPP_FLASH_ATTN=auto, or LLAMACPP_CACHE_TYPE_V=f16.",
        )
    if header is None or settings.llamacpp_flash_attn == "off":
        return
    for name, width in (("K", header.key_length), ("V", header.value_length)):
        if kinds[name] not in _UNQUANTIZED and width and width % _BLOCK:
            raise ConfigError(
                f"LLAMACPP_CACHE_TYPE_{name}={kinds[name]!r} cannot be used with this model: its heads of {width} "
                f"values are no multiple of {_BLOCK}.",
                operator_hint=f"Set LLAMACPP_CACHE_TYPE_{name}=f16.",
            )
