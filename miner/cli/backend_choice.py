"""The backend that a command uses: an explicit --backend never falls back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miner.cli.parser import nearest
from miner.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.llms import LLMService

__all__ = ["chosen_backend", "served_backend"]


def chosen_backend(name: str | None, config: MinerConfig) -> LLMService:
    """The backend of that name without fallbacks; without a name LLM_BACKEND with its fallbacks.

    Raises:
        ConfigError: it is unavailable, or one of its settings is invalid.
    """
    if name is None:
        _check([config.llm_backend, *_fallbacks(config)], config)
        return _default_backend(config)
    cls = _load(name, config)
    _check([name], config)
    return cls(config)


def served_backend(name: str | None, config: MinerConfig) -> LLMService:
    """The backend of that name, else LLM_BACKEND; either with the backends of MINER_LLM_FALLBACKS behind it.

    Raises:
        ConfigError: it is unavailable, or one of its settings is invalid.
    """
    from miner.core.llms.registry import get_backend

    if name is not None:
        _load(name, config)
    _check([name or config.llm_backend, *_fallbacks(config)], config)
    if (name or config.llm_backend) == "llamacpp":
        _check_default_model(config)
    return _default_backend(config) if name is None else get_backend(name, config)


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


def _check(names: list[str], config: MinerConfig) -> None:
    """An invalid setting ends the command here, not each of its requests."""
    from miner.core.llms.registry import check_settings

    for name in dict.fromkeys(names):
        check_settings(name, config)


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
    from miner.core.llms.registry import load_backend

    backend = load_backend(name, config)
    if backend.cls is None:
        raise ConfigError(
            f"Backend {name!r} is unavailable: {' '.join((backend.reason or '').split()).rstrip('.')}.",
            operator_hint="`miner backends` lists those that are available.",
        )
    return backend.cls


def _default_backend(config: MinerConfig) -> LLMService:
    from miner.core.llms.registry import get_backend

    try:
        return get_backend(None, config)
    except ValueError as error:
        raise ConfigError(str(error)) from None
