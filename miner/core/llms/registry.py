"""Backends are entry points of the group `inference.backends`: listed without importing, loaded on use.

Discovery is fresh at each call, never raises, and keeps the reason of each failure.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from miner.core.llms.fallback import FallbackService
from miner.core.llms.LLMService import LLMService
from miner.errors import ConfigError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

__all__ = [
    "GROUP", "POOL", "RegisteredBackend", "check_settings", "chosen_name", "find_backends", "get_backend",
    "get_backends", "load_backend", "registered_names",
]  # fmt: skip

logger = logging.getLogger("miner.backends")

GROUP = "inference.backends"
POOL = "pool"
"""The backend that serves what a file says."""
_BUILT_IN = ("llamacpp", "ollama", "vllm", "openai", POOL)
_EXTRAS = {"xllamacpp": "llamacpp", "llama_cpp": "llama-cpp-python", "vllm": "vllm"}


@dataclass(frozen=True, slots=True)
class RegisteredBackend:
    """One entry point, loaded where possible."""

    name: str
    target: str
    """`module:Class`."""
    distribution: str | None
    version: str | None
    cls: type[LLMService] | None
    """The backend's class; None if it cannot be loaded or used."""
    reason: str | None = None
    """Why `cls` is None, and what to do."""
    configured: bool = True
    """Whether the settings name something that it could serve."""

    def service(self, config: Any) -> LLMService:
        """Return a new service, whose `name` is that of the entry point.

        Raises:
            ConfigError: the backend cannot be used.
        """
        if self.cls is None:
            raise ConfigError(f"Backend {self.name!r} cannot be used: {self.reason}")
        service = self.cls(config)
        service.name = self.name
        return service


def _registered() -> dict[str, EntryPoint]:
    """Entry points by name: the built-ins, then others by name. Of two with one name the first counts, as on any
    import path.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point)
    ranked = sorted(found, key=lambda name: (_BUILT_IN.index(name) if name in _BUILT_IN else len(_BUILT_IN), name))
    return {name: found[name] for name in ranked}


def registered_names() -> list[str]:
    """Return the names of all registered backends, in order; nothing is loaded."""
    return list(_registered())


def find_backends(config: Any = None) -> list[RegisteredBackend]:
    """Return all registered backends, in order, with the reason if one cannot be used."""
    return [_load(point, config) for point in _registered().values()]


def _load(point: EntryPoint, config: Any = None) -> RegisteredBackend:
    cls, reason, configured = None, None, True
    try:
        loaded = point.load()
        reason = _unusable(loaded, config)
        if reason is None:
            reason = loaded.not_configured(config)
            configured = reason is None
        cls = loaded if reason is None else None
    except (Exception, SystemExit) as error:  # noqa: BLE001  (a third-party module must not break ours)
        reason = _import_failure(error)
    dist = point.dist
    return RegisteredBackend(
        name=point.name,
        target=point.value,
        distribution=dist.name if dist else None,
        version=dist.version if dist else None,
        cls=cls,
        reason=reason,
        configured=configured,
    )


def _import_failure(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package == "miner":
            return f"it imports {error.name!r}, which this version of miner does not have"
        extra = _EXTRAS.get(package)
        install = f'"llm-service-backends[{extra}]"' if extra else package
        return f"module {error.name!r} is missing: pip install {install}"
    return f"{type(error).__name__}: {error}"


def _unusable(loaded: Any, config: Any) -> str | None:
    if not (isinstance(loaded, type) and issubclass(loaded, LLMService)):
        return "it is not a subclass of miner.core.llms.LLMService"
    return loaded.unavailable_reason(config)


def load_backend(name: str, config: Any = None) -> RegisteredBackend:
    """Return the backend of that name, loaded; if it cannot be used, `cls` is None and `reason` says why.

    Raises:
        ConfigError: no such name; lists those that are registered.
    """
    registered = _registered()
    if name not in registered:
        names = ", ".join(registered) or "none"
        raise ConfigError(f"There is no backend {name!r}.", operator_hint=f"Registered: {names}. See `miner backends`.")
    return _load(registered[name], config)


def check_settings(name: str, config: Any = None) -> None:
    """Run a backend's own `check_settings`, also if the backend could not be used because of them. A name that is not
    registered, or whose class cannot be loaded, is reported by `load_backend`.

    Raises:
        ConfigError: a setting is wrong.
    """
    point = _registered().get(name)
    try:
        loaded = point.load() if point is not None else None
    except (Exception, SystemExit):  # noqa: BLE001  (`load_backend` reports it)
        return
    if isinstance(loaded, type) and issubclass(loaded, LLMService):
        loaded.check_settings(config)


def get_backends() -> dict[str, type[LLMService]]:
    """Return the classes of the backends that can be used, by name, in order; one warning for each that cannot."""
    usable: dict[str, type[LLMService]] = {}
    for backend in find_backends():
        if backend.cls is not None:
            usable[backend.name] = backend.cls
        elif backend.configured:
            logger.warning("Backend %r (%s) is skipped: %s", backend.name, backend.target, backend.reason)
    return usable


def get_backend(name: str | None = None, config: Any = None) -> LLMService:
    """Return a service of the named backend; with MINER_LLM_FALLBACKS set, one that falls back on those. "pool" serves
    what `miner.toml` says.

    If the name is unknown or unusable, the first available backend is used and one warning lists the available ones.

    Args:
        name: None for LLM_BACKEND; where that is not set, "pool" if there is a `miner.toml` (`MinerConfig.config`).
        config: see LLMService.

    Raises:
        ValueError: no backend is available at all.
    """
    from miner.config.config import config_of

    settings = config_of(config)
    if config is None:
        config = settings
    wanted = chosen_name(settings) if name is None else name
    if wanted == POOL:
        if settings.llm_fallbacks.strip(" ,"):
            logger.warning("MINER_LLM_FALLBACKS has no effect with miner.toml, where each model has `fallbacks`.")
        return load_backend(POOL, config).service(config)  # a file that is wrong must not lead to another backend
    backend, reason = _usable_backend(wanted, config)
    if backend is None:
        available = {b.name: b for b in find_backends(config) if b.cls is not None}
        if not available:
            raise ValueError(
                'No backends available: install one, for example pip install "llm-service-backends[llamacpp]".'
            )
        first = next(iter(available.values()))
        logger.warning(
            "Backend %r %s; using %r. Available backends: %s", wanted, reason, first.name, ", ".join(available)
        )
        wanted, backend = first.name, first
    service = backend.service(config)
    fallbacks = [other.strip() for other in settings.llm_fallbacks.split(",") if other.strip() not in ("", wanted)]
    if not fallbacks:
        return service
    return FallbackService(config, service, fallbacks, partial(_fallback, config=config))


def chosen_name(settings: MinerConfig) -> str:
    """The backend that the settings choose: LLM_BACKEND, else the pool where there is a file for it."""
    # A config object of another class has a backend of its own, or means the environment's.
    if "llm_backend" not in getattr(settings, "model_fields_set", ("llm_backend",)):
        from miner.config.file.find import find_config

        if find_config(settings.config) is not None:
            return POOL
    return settings.llm_backend


def _fallback(name: str, *, config: Any) -> LLMService | None:
    """A service of a fallback; None, and a warning, if it cannot be used."""
    try:
        return load_backend(name, config).service(config)
    except ConfigError as error:
        logger.warning("Fallback %r is skipped: %s", name, error)
        return None


def _usable_backend(name: str, config: Any) -> tuple[RegisteredBackend | None, str]:
    point = _registered().get(name)
    if point is None:
        return None, "is unknown"
    backend = _load(point, config)
    return backend if backend.cls is not None else None, f"cannot be used ({backend.reason})"
