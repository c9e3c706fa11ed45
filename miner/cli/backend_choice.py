"""The backend that a command uses: an explicit --backend never falls back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miner.cli.guess import nearest
from miner.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.llms import LLMService


def chosen_backend(name: str | None, config: MinerConfig, *, serving: bool = False) -> LLMService:
    """The backend of that name without fallbacks; without a name LLM_BACKEND with those of MINER_LLM_FALLBACKS, or
    where that is not set and there is a `miner.toml`, what that says.

    Args:
        serving: for `miner serve`: a name has those behind it too, and DEFAULT_MODEL must exist on llama.cpp.

    Raises:
        ConfigError: it is unavailable, or one of its settings is invalid.
    """
    from miner.core.llms.registry import POOL, check_settings, chosen_name, get_backend

    cls = _load(name, config) if name is not None else None
    alone = cls is not None and not serving
    wanted = name or chosen_name(config)
    for each in dict.fromkeys([wanted, *([] if alone or wanted == POOL else _fallbacks(config))]):
        check_settings(each, config)  # an invalid setting ends the command here, not each of its requests
    if serving and wanted == "llamacpp":
        _check_default_model(config)
    if cls is not None and alone:
        return cls(config)
    try:
        return get_backend(name, config)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_default_model(config: MinerConfig) -> None:
    """Check that DEFAULT_MODEL is on the disk where llama.cpp's engines run here: nothing would download it."""
    from miner.core.llms.llamacpp.models import models_directory
    from miner.core.models.resolve import resolve

    if config.default_model and not config.llamacpp_api_base and not config.model_path:
        name = config.default_model
        try:
            resolve(name, default_model=name, models_dir=models_directory(config))
        except ModelNotFoundError as error:
            reason = error.message.replace(f"There is no model {name!r}", "There is no such model", 1)
            raise ConfigError(
                f"DEFAULT_MODEL={name!r}: {reason[:1].lower()}{reason[1:]}",
                hint=error.hint,
                operator_hint=" ".join(filter(None, (error.operator_hint, "Else change --model or DEFAULT_MODEL."))),
            ) from error


def _fallbacks(config: MinerConfig) -> list[str]:
    """The backends of MINER_LLM_FALLBACKS.

    Raises:
        ConfigError: one of them does not exist.
    """
    from miner.core.llms.registry import registered_names

    names = [name for name in map(str.strip, config.llm_fallbacks.split(",")) if name]
    known = registered_names() if names else []
    for name in names:
        if name not in known:
            raise ConfigError(
                f"MINER_LLM_FALLBACKS={config.llm_fallbacks!r}: unknown backend {name!r}.",
                operator_hint=" ".join(filter(None, (nearest(name, known), f"Available: {', '.join(known)}."))),
            )
    return names


def _load(name: str, config: MinerConfig) -> type[LLMService]:
    from miner.core.llms.registry import load_backend, registered_names

    meant = nearest(name, known) if name not in (known := registered_names()) else None
    if meant is not None:
        raise ConfigError(f"There is no backend {name!r}.", operator_hint=f"{meant} Registered: {', '.join(known)}.")
    backend = load_backend(name, config)
    if backend.cls is None:
        raise ConfigError(
            f"Backend {name!r} is unavailable: {' '.join((backend.reason or '').split()).rstrip('.')}.",
            operator_hint="`miner backends` lists those that are available.",
        )
    return backend.cls
