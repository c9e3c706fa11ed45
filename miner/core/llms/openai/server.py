"""OpenAIServer: the connection to an OpenAI-compatible server, its errors, its models and its health."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import msgspec

from miner.core._typing import override
from miner.core.http.client import ConnectionLimits, HttpClient, HttpResponse
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
    """Where a server is, and its read timeout."""

    api_base: str = field(repr=False)
    """With the version path, such as http://localhost:8000/v1; may carry a password."""
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 300.0
    """Read timeout in seconds."""


class OpenAIServer(LLMService):
    """The part of a service that concerns its server; OpenAIService adds generation, embeddings and reranking."""

    name = "openai"

    unreachable_hint: ClassVar[str | None] = None
    """What an operator can do when the server cannot be reached; may hold {url}."""
    timeout_setting: ClassVar[str] = "the timeout"
    key_setting: ClassVar[str | None] = None
    address_setting: ClassVar[str] = "the address"
    """As hints name it."""
    reuse_connections: ClassVar[bool] = True

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._client: HttpClient | None = None
        self._client_made_for: tuple[Endpoint, ConnectionLimits] | None = None
        self._listed: list[ModelInfo] = []
        self._listed_at = float("-inf")
        self._one_model = False

    def endpoint(self) -> Endpoint:
        """Return where the server is; called at each request, so that changed settings apply."""
        raise NotImplementedError(f"{type(self).__name__} must override endpoint()")

    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        """Return the error that the server's message means; None where its HTTP status says it all.

        Args:
            request: the one that failed, if it was one to generate.
        """
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
        """Drop what is cached of the server: it may have been restarted or replaced."""
        self._listed_at = float("-inf")

    def _connection(
        self, request: ChatRequest | None, model: str | None = None
    ) -> AbstractAsyncContextManager[HttpClient]:
        """The client for one request, or for one that only names a model. llama.cpp waits for a slot here."""
        return nullcontext(self._http())

    def _error(self, status: int, raw: bytes | dict[str, Any], request: ChatRequest | None, upstream: Upstream,
               retry_after: str | None = None) -> MinerError:  # fmt: skip
        """The error for a status that is no success: `refine`'s, else the one that the status means."""
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
            return ModelNotFoundError(f"{upstream.label}: {body.message}", model=request.model)
        return status_error(status, body, upstream, retry_after=retry_after_seconds(retry_after))

    def _check_status(self, response: HttpResponse, request: ChatRequest | None, upstream: Upstream) -> None:
        if response.status != 200:
            retry_after = response.headers.get("Retry-After")
            raise self._error(response.status, response.body, request, upstream, retry_after)

    async def _post(
        self, path: str, body: dict[str, Any], request: ChatRequest | None = None, *, model: str | None = None,
        root: bool = False,
    ) -> bytes:  # fmt: skip
        async with self._connection(request, model) as http:
            response = await http.request("POST", path, msgspec.json.encode(body), root=root)
            self._check_status(response, request, http.upstream)
            return response.body

    # Models and health

    async def _fetch_models(self, *, total: float | None = None) -> list[ModelInfo]:
        http = self._http()
        response = await http.request("GET", "/models", total=total)
        if response.status in (404, 405):  # every such server has this route: another program is at the address
            raise status_error(404, parse_error_body(response.body), http.upstream)
        self._check_status(response, None, http.upstream)
        previous = self._listed
        try:
            self._listed, self._one_model = read_models(response.body)
        except msgspec.DecodeError as error:
            raise http.upstream.protocol_error(f"did not send a list of models: {error}.", status=200) from error
        if previous and _identity(previous) != _identity(self._listed):
            self._forget()
        self._listed_at = time.monotonic()
        return self._listed

    @override
    async def list_models(self) -> list[ModelInfo]:
        return list(await self._fetch_models())

    @override
    async def _sole_model(self) -> str | None:
        """The only model that the server serves."""
        models = self._listed if self._fresh() else await self._fetch_models()
        if self._one_model:
            return models[0].id
        names = [model.id for model in models]
        raise ModelNotFoundError(
            f"{self.name} serves {'several models' if names else 'no model'} and none was named.",
            available=names,
            hint=f"Name one: {', '.join(names)}." if names else None,
            operator_hint="Set DEFAULT_MODEL." if names else "Start the server with a model.",
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
            f"{self._http().upstream.label} has no model {model_name!r}.",
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
            return Health(
                state="unavailable", reason=f"{self.name} serves no model.", hint="Start the server with one."
            )
        return Health(state="ready", models=models)

    @override
    async def _aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _identity(models: list[ModelInfo]) -> list[object]:
    """What of a list stays the same while the server runs; `created` is the time of the request."""
    return [(model.id, model.aliases, model.context_length, model.size, model.owned_by) for model in models]


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls a method without keeping its object alive."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        bound = reference()
        if bound is not None:
            bound()

    return call
