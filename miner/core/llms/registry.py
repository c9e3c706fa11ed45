"""Backends are entry points of the group `inference.backends`: listed without importing, loaded on use.

Discovery is fresh at each call, breaks nothing, and keeps the reason of each failure.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from miner.errors import ConfigError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

__all__ = [
    "GROUP", "Backend", "check_settings", "find_backends", "get_backend", "get_backends", "load_backend",
    "registered_names",
]  # fmt: skip

logger = logging.getLogger("miner.backends")

GROUP = "inference.backends"
_BUILT_IN = ("llamacpp", "ollama", "vllm")
_EXTRAS = {"xllamacpp": "llamacpp", "llama_cpp": "llama-cpp-python", "vllm": "vllm"}


@dataclass(frozen=True, slots=True)
class Backend:
    """One registered backend."""

    name: str
    target: str
    """`module:Class`."""
    distribution: str | None
    version: str | None
    cls: type[LLMService] | None
    """None where it cannot be loaded or used."""
    reason: str | None = None
    """Why not, and what to do."""

    def service(self, config: Any) -> LLMService:
        """A new service of it, which bears the name of the entry point, whatever its class says."""
        if self.cls is None:
            raise ConfigError(f"Backend {self.name!r} cannot be used: {self.reason}")
        service = self.cls(config)
        service.name = self.name
        return service


def _registered() -> dict[str, EntryPoint]:
    """Entry points by name: the built-ins first, then in the order of their names. One name twice: the first found
    is used, as on any import path.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point)
    ranked = sorted(found, key=lambda name: (_BUILT_IN.index(name) if name in _BUILT_IN else len(_BUILT_IN), name))
    return {name: found[name] for name in ranked}


def registered_names() -> list[str]:
    """The names of all registered backends, in order; nothing is loaded."""
    return list(_registered())


def find_backends(config: Any = None) -> list[Backend]:
    """All registered backends, in order, with the reason where one cannot be used."""
    return [_load(point, config) for point in _registered().values()]


def _load(point: EntryPoint, config: Any = None) -> Backend:
    cls, reason = None, None
    try:
        loaded = point.load()
        reason = _unusable(loaded, config)
        cls = loaded if reason is None else None
    except (Exception, SystemExit) as error:  # noqa: BLE001  (somebody else's module: it must not break ours)
        reason = _import_failure(error)
    dist = point.dist
    return Backend(
        name=point.name,
        target=point.value,
        distribution=dist.name if dist else None,
        version=dist.version if dist else None,
        cls=cls,
        reason=reason,
    )


def _import_failure(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        extra = _EXTRAS.get(package)
        install = f'"llm-service-backends[{extra}]"' if extra else package
        return f"module {error.name!r} is missing: pip install {install}"
    return f"{type(error).__name__}: {error}"


def _unusable(loaded: Any, config: Any) -> str | None:
    """Why this is no usable backend class, None if it is."""
    from miner.core.llms.LLMService import LLMService

    if not (isinstance(loaded, type) and issubclass(loaded, LLMService)):
        return "it is no subclass of miner.core.llms.LLMService"
    return loaded.unavailable_reason(config)


def load_backend(name: str, config: Any = None) -> Backend:
    """The backend of that name, loaded; its `cls` is None and `reason` set where it cannot be used.

    Raises:
        ConfigError: no such name; lists those that are registered.
    """
    registered = _registered()
    if name not in registered:
        names = ", ".join(registered) or "none"
        raise ConfigError(f"There is no backend {name!r}.", hint=f"Registered are: {names}. See `miner backends`.")
    return _load(registered[name], config)


def check_settings(name: str, config: Any = None) -> None:
    """What the backend of that name has to say of its settings (`LLMService.check_settings`), also where it could not
    be used for them. Of a name that is not registered, or a class that cannot be loaded, others tell.

    Raises:
        ConfigError: a setting can be seen to be wrong.
    """
    from miner.core.llms.LLMService import LLMService

    point = _registered().get(name)
    try:
        loaded = point.load() if point is not None else None
    except (Exception, SystemExit):  # noqa: BLE001  (somebody else's module: `load_backend` says what is wrong with it)
        return
    if isinstance(loaded, type) and issubclass(loaded, LLMService):
        loaded.check_settings(config)


def get_backends() -> dict[str, type[LLMService]]:
    """Classes of the backends that can be used, by name, in order; one warning for each that cannot."""
    usable: dict[str, type[LLMService]] = {}
    for backend in find_backends():
        if backend.cls is not None:
            usable[backend.name] = backend.cls
        else:
            logger.warning("Backend %r (%s) is left out: %s", backend.name, backend.target, backend.reason)
    return usable


def get_backend(name: str | None = None, config: Any = None) -> LLMService:
    """A service of the named backend; with MINER_LLM_FALLBACKS set, one that falls back on the others.

    An unknown or unusable name is answered with the first available backend and one warning that lists what there is.

    Args:
        name: None for LLM_BACKEND.
        config: see LLMService.

    Raises:
        ValueError: no backend is available at all.
    """
    from miner.config.config import config_of

    settings = config_of(config)
    if config is None:
        config = settings
    wanted = settings.llm_backend if name is None else name
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
    from miner.core.llms.fallback import FallbackService

    return FallbackService(config, service, fallbacks)


def _usable_backend(name: str, config: Any) -> tuple[Backend | None, str]:
    point = _registered().get(name)
    if point is None:
        return None, "is unknown"
    backend = _load(point, config)
    return backend if backend.cls is not None else None, f"cannot be used ({backend.reason})"
