"""From a model of `miner.toml` to the settings of the llama.cpp service that serves it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miner.config.config import MinerConfig
from miner.config.file.schema import Defaults, Lora, Model, Speculation
from miner.config.llamacpp import FlagValue
from miner.core.engine.flags.check import canonical, checked
from miner.core.engine.flags.options import BY_NAME
from miner.core.engine.flags.owned import KEYED
from miner.core.engine.speculation import NEEDS_DRAFT
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
    "llamacpp_cpu_moe": "cpu_moe",
    "llamacpp_n_cpu_moe": "n_cpu_moe",
    "llamacpp_flash_attn": "flash_attn",
    "llamacpp_timeout": "timeout",
}
"""Fields of MinerConfig, and the keys that set them in `[models.NAME]` or `[defaults]`."""
_FILES = ("llamacpp_mmproj", "llamacpp_chat_template")


def llamacpp_settings(model: Model, defaults: Defaults, directory: Path) -> dict[str, Any]:
    """The fields of MinerConfig that a model of a llama.cpp backend sets; those that it leaves alone are not there.

    A flag that has a key of its own sets the same field: over [defaults], but not against the model's own key.

    Args:
        defaults: what it does not say itself.
        directory: where relative paths start: that of the file.

    Raises:
        ConfigError: a file does not exist, or a flag cannot be; names key and value. `file` and `hub` may also be names
            in the models directory: whether there is such a model is seen when it is requested.
    """
    general = {field: value for field, key in _SETTINGS.items() if (value := getattr(defaults, key)) is not None}
    own = {field: value for field, key in _SETTINGS.items() if (value := getattr(model, key)) is not None}
    source = _model_path(model.file, model.hub, directory)
    if source is not None:
        own["model_path"] = source
    if model.pooling is not None:
        own["llamacpp_pooling"] = model.pooling
    if model.chat_template is not None:
        own["llamacpp_chat_template"] = _file("chat_template", model.chat_template, directory)
    if model.mmproj is not None:  # both fields: the environment may set the other one
        own["llamacpp_no_mmproj"] = model.mmproj is False
        own["llamacpp_mmproj"] = None if model.mmproj is False else _file("mmproj", model.mmproj, directory)
    if model.lora:
        own["llamacpp_lora"] = _adapters(model.lora, directory)
    if model.speculation is not None:
        own |= _speculation(model.speculation, directory)
    flags = {name: tuple(value) if isinstance(value, list) else value for name, value in model.flags.items()}
    by_flag, others = _keyed(flags, directory)
    for field, (name, value) in by_flag.items():
        if own.get(field) not in (None, value):
            key, _ = KEYED[canonical(name)[0]]
            raise ConfigError(
                f"flags: {name} = {flags[name]!r} contradicts {key} of the same model.", hint="Set one of them."
            )
        own[field] = value
    if others:
        own["llamacpp_flags"] = tuple(sorted(others.items()))  # hashable, as services are compared by their settings
    return general | own


def _keyed(flags: Mapping[str, FlagValue], directory: Path) -> tuple[dict[str, tuple[str, Any]], dict[str, FlagValue]]:
    """The settings of the flags that have a key, each with the flag's name as it is written; and the other flags."""
    by_flag: dict[str, tuple[str, Any]] = {}
    others: dict[str, FlagValue] = {}
    for name, value in flags.items():
        keyed = KEYED.get(canonical(name)[0])
        if keyed is None:
            option = BY_NAME.get(canonical(name)[0])
            is_path = option is not None and option[0].is_path and isinstance(value, str)
            others[name] = str(directory / Path(str(value)).expanduser()) if is_path else value
            continue
        field = keyed[1]
        if field in by_flag:
            raise ConfigError(f"flags: {by_flag[field][0]} and {name} are one option of llama-server.")
        by_flag[field] = name, _of_flag(name, field, value, directory)
    checked(others, "flags")
    return by_flag, others


def _of_flag(name: str, field: str, value: FlagValue, directory: Path) -> Any:
    """The value of a setting, from that of the flag with the same meaning."""
    if field == "llamacpp_lora":
        files = value if isinstance(value, tuple) else str(value).split(",")
        return _adapters([str(file).strip() for file in files], directory, f"flags: {name}")
    if field in _FILES:
        return _file(f"flags: {name}", str(value), directory)
    if field == "llamacpp_spec_draft_model":
        return _model_path(str(value), None, directory)
    if field == "llamacpp_flash_attn" and isinstance(value, bool):
        value = "on" if value else "off"
    if field in ("llamacpp_n_gpu_layers", "llamacpp_spec_draft_ngl") and value in ("all", "auto"):
        value = -1 if value == "all" else ""
    if value == "":
        return None
    try:
        return getattr(MinerConfig(**{field: ",".join(map(str, value)) if isinstance(value, tuple) else value}), field)
    except ConfigError as error:
        raise ConfigError(f"flags: {name} = {value!r}: {error.message.partition(': ')[2]}") from None


def _adapters(lora: list[str | Lora] | list[str], directory: Path, key: str = "lora") -> tuple[tuple[str, float], ...]:
    pairs = [(item, 1.0) if isinstance(item, str) else (item.file, item.scale) for item in lora]
    return tuple((_file(key, file, directory), scale) for file, scale in pairs)


def _speculation(given: Speculation, directory: Path) -> dict[str, Any]:
    draft = _model_path(given.file, given.hub, directory, "speculation.")
    values = {
        "llamacpp_spec_type": given.type,
        "llamacpp_spec_draft_model": draft,
        "llamacpp_spec_draft_n_max": given.n_max,
        "llamacpp_spec_draft_n_min": given.n_min,
        "llamacpp_spec_draft_p_min": given.p_min,
        "llamacpp_spec_draft_ngl": given.n_gpu_layers,
    }
    try:
        kinds = MinerConfig(llamacpp_spec_type=given.type).llamacpp_spec_type or ""
    except ConfigError as error:
        raise ConfigError(f"speculation.type = {given.type!r}: {error.message.partition(': ')[2]}") from None
    by_model = [kind for kind in kinds.split(",") if kind.startswith("draft-")]
    if draft is None and any(kind in NEEDS_DRAFT for kind in by_model):
        raise ConfigError(f"speculation.type = {given.type!r} needs a draft model.", hint="Set its file or hub.")
    if draft is not None and not by_model:
        raise ConfigError(f"speculation.type = {given.type!r} uses no draft model.", hint='Set type = "draft".')
    values["llamacpp_spec_type"] = kinds
    return values  # all of them: what the environment says is of another draft model


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
