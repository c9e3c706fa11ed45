"""An OpenAI-compatible server itself: the way to it, what it means by an error, which models it has, its health."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import msgspec

from miner.core._typing import override
from miner.core.http.client import ConnectionLimits, HttpClient
from miner.core.http.errors import ErrorBody, Upstream, parse_error_body, retry_after_seconds, status_error
from miner.core.llms.LLMService import LLMService
from miner.core.llms.openai.models import read_models
from miner.core.wire import ChatRequest, Health, ModelInfo
from miner.errors import BackendError, MinerError, ModelNotFoundError

__all__ = ["Endpoint", "OpenAIServer"]

_MODELS_FRESH_SECONDS = 30.0
_HEALTH_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is and how long it may be silent."""

    api_base: str = field(repr=False)
    """With the version path, such as http://localhost:8000/v1; it may carry a password."""
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 300.0
    """Longest silence, in seconds."""


class OpenAIServer(LLMService):
    """What of a service is about its server; OpenAIService adds what is asked of it."""

    name = "openai"

    unreachable_hint: ClassVar[str | None] = None
    """What an operator does when nobody answers; may hold {url}."""
    timeout_setting: ClassVar[str] = "the timeout"
    key_setting: ClassVar[str | None] = None
    address_setting: ClassVar[str] = "the address"
    """With its `/v1`, in hints."""
    reuse_connections: ClassVar[bool] = True

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._client: HttpClient | None = None
        self._client_made_for: tuple[Endpoint, ConnectionLimits] | None = None
        self._listed: list[ModelInfo] = []
        self._listed_at = float("-inf")
        self._one_model = False

    def endpoint(self) -> Endpoint:
        """Where the server is, read from the settings at each request."""
        raise NotImplementedError(f"{type(self).__name__} must override endpoint()")

    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        """A more exact error than the HTTP status says; None to leave it at that."""
        return None

    # Transport

    def _http(self) -> HttpClient:
        made_for = endpoint, limits = self.endpoint(), self._connection_limits
        if self._client is None or made_for != self._client_made_for:
            if self._client is not None:
                self._client.retire()
                self._forget()
            self._client = HttpClient(
                self._origin(endpoint), api_key=endpoint.api_key, reuse=self.reuse_connections, limits=limits
            )
            self._client_made_for = made_for
        return self._client

    def _origin(self, endpoint: Endpoint) -> Upstream:
        upstream = Upstream(
            backend=self.name,
            base_url=endpoint.api_base,
            timeout_setting=self.timeout_setting,
            read_timeout=endpoint.timeout,
            key_setting=self.key_setting,
            address_setting=self.address_setting,
            on_connection_lost=_weakly(self._forget),
        )
        hint = self.unreachable_hint.format(url=upstream.shown_url) if self.unreachable_hint else None
        return replace(upstream, unreachable_hint=hint)

    def _forget(self) -> None:
        """The server may be another one by now: what it said of itself counts no more."""
        self._listed_at = float("-inf")

    def _connection(
        self, request: ChatRequest | None, model: str | None = None
    ) -> AbstractAsyncContextManager[HttpClient]:
        """The client for one request, or for one that names only a model. llama.cpp waits for a slot here."""
        return nullcontext(self._http())

    def _error(self, status: int, raw: bytes | dict[str, Any], request: ChatRequest | None, upstream: Upstream,
               retry_after: str | None = None) -> MinerError:  # fmt: skip
        body = parse_error_body(raw)
        refined = self.refine(status, body, request)
        if refined is not None:
            if isinstance(refined, BackendError):
                refined.base_url = refined.base_url or upstream.shown_url
                if refined.retry_after is None:
                    refined.retry_after = retry_after_seconds(retry_after)
            return refined
        if status == 404 and body.json and request is not None and request.model is not None and body.param == "model":
            self._listed_at = float("-inf")
            return ModelNotFoundError(f"{self.name} at {upstream.shown_url}: {body.message}", model=request.model)
        return status_error(status, body, upstream, retry_after=retry_after_seconds(retry_after))

    async def _post(
        self, path: str, body: dict[str, Any], request: ChatRequest | None = None, *, model: str | None = None,
        root: bool = False,
    ) -> bytes:  # fmt: skip
        async with self._connection(request, model) as http:
            reply = await http.request("POST", path, msgspec.json.encode(body), root=root)
            if reply.status != 200:
                raise self._error(reply.status, reply.body, request, http.upstream, reply.headers.get("Retry-After"))
            return reply.body

    # Models and health

    async def _fetch_models(self, *, total: float | None = None) -> list[ModelInfo]:
        http = self._http()
        reply = await http.request("GET", "/models", total=total)
        if reply.status in (404, 405):  # every such server has this path: something else is at the address
            raise status_error(404, parse_error_body(reply.body), http.upstream)
        if reply.status != 200:
            raise self._error(reply.status, reply.body, None, http.upstream, reply.headers.get("Retry-After"))
        before = self._listed
        try:
            self._listed, self._one_model = read_models(reply.body)
        except msgspec.DecodeError as error:
            raise http.upstream.protocol_error(f"did not send a list of models: {error}.", status=200) from error
        if before and _same(before) != _same(self._listed):
            self._forget()
        self._listed_at = time.monotonic()
        return self._listed

    @override
    async def list_models(self) -> list[ModelInfo]:
        return list(await self._fetch_models())

    @override
    async def _sole_model(self) -> str | None:
        """The one that the server serves; with several, the caller must say which."""
        models = self._listed if self._fresh() else await self._fetch_models()
        if self._one_model:
            return models[0].id
        names = [model.id for model in models]
        raise ModelNotFoundError(
            f"{self.name} serves {'several models' if names else 'no model'} and none was named.",
            available=names,
            hint=f"Name one, or set DEFAULT_MODEL: {', '.join(names)}." if names else "Start it with a model.",
        )

    def _fresh(self) -> bool:
        return bool(self._listed) and time.monotonic() - self._listed_at < _MODELS_FRESH_SECONDS

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        for refresh in (False, True):
            models = await self._fetch_models() if refresh or not self._fresh() else self._listed
            for model in models:
                if model_name == model.id or model_name in model.aliases:
                    return model
        names = [model.id for model in self._listed]
        raise ModelNotFoundError(
            f"{self.name} at {self._http().upstream.shown_url} has no model {model_name!r}.",
            model=model_name,
            available=names,
            hint=f"It serves: {', '.join(names) or 'none'}.",
        )

    @override
    async def _health(self) -> Health:
        models = [model.id for model in await self._fetch_models(total=_HEALTH_SECONDS)]
        default = self._settings.default_model
        if default and not any(default in (m.id, *m.aliases) for m in self._listed):
            return Health(
                state="unavailable",
                reason=f"{self.name} does not serve DEFAULT_MODEL {default!r}.",
                hint=f"It serves: {', '.join(models) or 'none'}.",
                models=models,
            )
        if not models:
            return Health(state="unavailable", reason=f"{self.name} serves no model.", hint="Start it with one.")
        return Health(state="ready", models=models)

    @override
    async def _aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _same(models: list[ModelInfo]) -> list[object]:
    """What of a list stays the same as long as the server does; `created` is the time of the question."""
    return [(model.id, model.aliases, model.context_length, model.size, model.owned_by) for model in models]


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """A method's call that does not keep its object: a service that is dropped goes at once."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    return call
