"""The backend that a command uses: what was chosen on the command line, and no other in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miner.cli.parser import nearest
from miner.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.llms import LLMService

__all__ = ["chosen_backend", "served_backend"]


def chosen_backend(name: str | None, config: MinerConfig) -> LLMService:
    """The backend of that name, alone; without a name LLM_BACKEND, which falls back as published.

    Raises:
        ConfigError: it cannot be used, or one of its settings cannot.
    """
    cls = _usable(name, config) if name is not None else None
    _check([name or config.llm_backend, *(_fallbacks(config) if name is None else ())], config)
    return cls(config) if cls is not None else _default_backend(config)


def served_backend(name: str | None, config: MinerConfig) -> LLMService:
    """The same, with the backends of MINER_LLM_FALLBACKS behind it: whoever set those has chosen them too.

    Raises:
        ConfigError: it cannot be used, or one of its settings cannot.
    """
    from miner.core.llms.registry import get_backend

    if name is not None:
        _usable(name, config)
    _check([name or config.llm_backend, *_fallbacks(config)], config)
    if (name or config.llm_backend) == "llamacpp":
        _check_default_model(config)
    if name is None:
        return _default_backend(config)
    return get_backend(name, config)


def _check_default_model(config: MinerConfig) -> None:
    """The models that llama.cpp runs here are on the disk: one that is not there will not come by itself."""
    from miner.core.llms.llamacpp.models import models_directory
    from miner.core.models.resolve import resolve

    if config.default_model and not config.llamacpp_api_base and not config.model_path:
        name = config.default_model
        try:
            resolve(name, default_model=name, models_dir=models_directory(config))
        except ModelNotFoundError as error:
            why = error.message.replace(f"There is no model {name!r}", "There is no such model", 1)
            hint = " ".join(filter(None, (error.hint, "Else change --model or DEFAULT_MODEL.")))
            raise ConfigError(f"DEFAULT_MODEL={name!r}: {why[:1].lower()}{why[1:]}", hint=hint) from error


def _check(names: list[str], config: MinerConfig) -> None:
    """A setting that is wrong ends the command here, not each of its requests."""
    from miner.core.llms.registry import check_settings

    for name in dict.fromkeys(names):
        check_settings(name, config)


def _fallbacks(config: MinerConfig) -> list[str]:
    """The backends of MINER_LLM_FALLBACKS.

    Raises:
        ConfigError: one of them is none.
    """
    from miner.core.llms.registry import registered_names

    names = [name for name in map(str.strip, config.llm_fallbacks.split(",")) if name]
    known = registered_names() if names else []
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise ConfigError(
            f"MINER_LLM_FALLBACKS={config.llm_fallbacks!r}: there is no backend {unknown!r}.",
            hint=" ".join(filter(None, (nearest(unknown, known), f"Registered are: {', '.join(known)}."))),
        )
    return names


def _usable(name: str, config: MinerConfig) -> type[LLMService]:
    from miner.core.llms.registry import load_backend

    backend = load_backend(name, config)
    if backend.cls is None:
        raise ConfigError(
            f"Backend {name!r} cannot be used: {' '.join((backend.reason or '').split()).rstrip('.')}.",
            hint="`miner backends` lists those that can.",
        )
    return backend.cls


def _default_backend(config: MinerConfig) -> LLMService:
    from miner.core.llms.registry import get_backend

    try:
        return get_backend(None, config)
    except ValueError as error:
        raise ConfigError(str(error)) from None
