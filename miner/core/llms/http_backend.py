"""HTTPBackend: a service over one HTTP server; what OpenAI-compatible servers and Ollama have in common."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from miner.core._typing import override
from miner.core.http.client import HttpClient
from miner.core.http.connection_pool import ConnectionLimits
from miner.core.http.errors import Upstream
from miner.core.llms.contract.server_load import ServerLoad, read_loads
from miner.core.llms.LLMService import LLMService
from miner.core.subjects import subject
from miner.core.wire import Health, ModelInfo
from miner.errors import MinerError, ModelNotFoundError

_HEALTH_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is, and its read timeout."""

    api_base: str = field(repr=False)
    """URL with the version path, such as http://localhost:8000/v1; may carry a password."""
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 300.0
    """Read timeout in seconds."""


class HTTPBackend(LLMService):
    """Base of backends that talk to one HTTP server: creates its client, resolves the default model, checks health."""

    unreachable_hint: ClassVar[str | None] = None
    """What an operator can do when the server cannot be reached; may hold {url}."""
    no_model_hint: ClassVar[str] = "Start the server with a model."
    """What an operator can do when the server has no model."""
    timeout_setting: ClassVar[str] = "the timeout"
    key_setting: ClassVar[str | None] = None
    address_setting: ClassVar[str] = "the address"
    """Name of the address's setting in hints."""
    reuse_connections: ClassVar[bool] = True
    reports_load: ClassVar[bool] = False
    """Whether the server's `/metrics` tells its load."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._client: HttpClient | None = None
        self._client_settings: tuple[Endpoint, ConnectionLimits] | None = None

    def endpoint(self) -> Endpoint:
        """Return where the server is; called at each request, so that changed settings apply."""
        raise NotImplementedError(f"{type(self).__name__} must override endpoint()")

    @property
    @override
    def server_address(self) -> tuple[str, int] | None:
        try:
            parts = urlsplit(self.endpoint().api_base)
            port = parts.port
        except (ValueError, MinerError):  # the first request says what is wrong with the address
            return None
        if not parts.hostname:
            return None
        return parts.hostname, port or (443 if parts.scheme == "https" else 80)

    @override
    async def server_loads(self) -> list[ServerLoad]:
        if not self.reports_load or self.server_address is None:
            return []
        response = await self._http().request("GET", "/metrics", total=_HEALTH_SECONDS, root=True)
        return read_loads(response.body) if response.status == 200 else []

    async def _served_models(self, *, total: float | None = None) -> list[ModelInfo]:
        """The models that the server lists. `total`: seconds for the request, where it must be short."""
        raise NotImplementedError

    def _clear_caches(self) -> None:
        """Drop what is cached of the server: it may have been restarted or replaced."""

    def _http(self) -> HttpClient:
        settings = endpoint, limits = self.endpoint(), self._connection_limits
        if self._client is None or settings != self._client_settings:
            if self._client is not None:
                self._client.retire()
                self._clear_caches()
            upstream, reuse = self._upstream(endpoint), self.reuse_connections
            self._client = HttpClient(upstream, api_key=endpoint.api_key, reuse=reuse, limits=limits)
            self._client_settings = settings
        return self._client

    def _upstream(self, endpoint: Endpoint) -> Upstream:
        upstream = Upstream(
            backend=self.name,
            base_url=endpoint.api_base,
            timeout_setting=self.timeout_setting,
            read_timeout=endpoint.timeout,
            key_setting=self.key_setting,
            address_setting=self.address_setting,
            on_connection_lost=_weak(self._clear_caches),
        )
        hint = self.unreachable_hint.format(url=upstream.shown_url) if self.unreachable_hint else None
        return replace(upstream, unreachable_hint=hint)

    def _no_sole_model(self, names: Sequence[str]) -> ModelNotFoundError:
        """The error for a request without a model where the server has several, or none."""
        return ModelNotFoundError(
            f"{subject(self.name)} serves {'several models' if names else 'no model'} and none was named.",
            available=names,
            hint=f"Name one: {', '.join(names)}." if names else None,
            operator_hint="Set DEFAULT_MODEL." if names else self.no_model_hint,
        )

    def _has_name(self, model: ModelInfo, name: str) -> bool:
        return name == model.id or name in model.aliases

    def _missing_model_hint(self, name: str, names: Sequence[str]) -> str:
        return f"Available: {', '.join(names) or 'none'}."

    @override
    async def _health(self) -> Health:
        models = await self._served_models(total=_HEALTH_SECONDS)
        names = [model.id for model in models]
        default = self._settings.default_model
        if default and not any(self._has_name(model, default) for model in models):
            return Health(
                state="unavailable",
                reason=f"{subject(self.name)} does not serve DEFAULT_MODEL {default!r}.",
                hint=self._missing_model_hint(default, names),
                models=names,
            )
        if not models:
            return Health(state="unavailable", reason=f"{subject(self.name)} serves no model.", hint=self.no_model_hint)
        return Health(state="ready", models=names)

    @override
    async def _close_resources(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _weak(method: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls a method without keeping its object alive."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        bound = reference()
        if bound is not None:
            bound()

    return call
