"""OpenAIService: the contract over any OpenAI-compatible server; vLLM and llama.cpp are small subclasses.

A server of your own needs `endpoint` and, where it differs, the class attributes below. examples/ has one.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import msgspec

from miner.core._typing import override
from miner.core.llms.join import join
from miner.core.llms.LLMService import LLMService
from miner.core.llms.openai_end import check_end, interrupted
from miner.core.llms.openai_models import read_embeddings, read_models, read_scores
from miner.core.llms.openai_request import chat_body, completion_body
from miner.core.llms.openai_wire import ChatMapper, Event, decode_event
from miner.core.llms.stream import Batches
from miner.core.transport.faults import (
    ErrorBody,
    Origin,
    parse_error_body,
    retry_after_seconds,
    status_error,
)
from miner.core.transport.framing import FramingError, SSEDecoder
from miner.core.transport.http import ByteStream, HttpClient
from miner.core.wire import (
    ChatRequest,
    EmbeddingResponse,
    Health,
    LLMChunk,
    LLMResponse,
    ModelInfo,
    RerankResponse,
)
from miner.errors import (
    BackendError,
    BackendProtocolError,
    BackendUnavailableError,
    MinerError,
    ModelNotFoundError,
    UnsupportedFeatureError,
)

__all__ = ["Endpoint", "OpenAIService"]

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


class OpenAIService(LLMService):
    """Chat, completions, embeddings and models of an OpenAI-compatible server."""

    name = "openai"

    unreachable_hint: ClassVar[str | None] = None
    """What an operator does when nobody answers; may hold {url}."""
    timeout_setting: ClassVar[str] = "the time-out"
    key_setting: ClassVar[str | None] = None
    address_setting: ClassVar[str] = "the address"
    """With its `/v1`, in hints."""
    reuse_connections: ClassVar[bool] = True
    features: ClassVar[frozenset[str]] = frozenset(
        """chat tools tool_choice json_object json_schema logprobs seed embeddings stop presence_penalty
        frequency_penalty logit_bias parallel_tool_calls response_format timeout raw extra""".split()
    )
    """What the server can do at all; plain OpenAI by default. "rerank": it has `/rerank`, in the form of Jina's API."""
    field_names: ClassVar[dict[str, str]] = {}
    """The server's own names of options that it calls otherwise."""
    neutral: ClassVar[dict[str, Any]] = {}
    """Sampling fields that are always sent, with the value that switches them off: servers' defaults differ."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._client: HttpClient | None = None
        self._client_endpoint: Endpoint | None = None
        self._listed: list[ModelInfo] = []
        self._listed_at = float("-inf")
        self._one_model = False
        self._no_template: set[str] = set()

    # What a subclass says

    def endpoint(self) -> Endpoint:
        """Where the server is, read from the settings at each request."""
        raise NotImplementedError(f"{type(self).__name__} must override endpoint()")

    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        """A more exact error than the HTTP status says; None to leave it at that."""
        return None

    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        """Change the JSON body of a request before it is sent."""

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return self.features

    # Transport

    def _http(self) -> HttpClient:
        endpoint = self.endpoint()
        if self._client is None or endpoint != self._client_endpoint:
            if self._client is not None:
                self._client.discard()
            self._client = HttpClient(self._origin(endpoint), api_key=endpoint.api_key, reuse=self.reuse_connections)
            self._client_endpoint = endpoint
        return self._client

    def _origin(self, endpoint: Endpoint) -> Origin:
        origin = Origin(
            backend=self.name,
            base_url=endpoint.api_base,
            timeout_setting=self.timeout_setting,
            silence=endpoint.timeout,
            key_setting=self.key_setting,
            address_setting=self.address_setting,
        )
        hint = self.unreachable_hint.format(url=origin.shown_url) if self.unreachable_hint else None
        return replace(origin, unreachable=hint)

    def _connection(
        self, request: ChatRequest | None, model: str | None = None
    ) -> AbstractAsyncContextManager[HttpClient]:
        """The client for one request, or for one that names only a model. llama.cpp waits for a slot here."""
        return nullcontext(self._http())

    def _error(self, status: int, raw: bytes | dict[str, Any], request: ChatRequest | None, origin: Origin,
               retry_after: str | None = None) -> MinerError:  # fmt: skip
        body = parse_error_body(raw)
        refined = self.refine(status, body, request)
        if refined is not None:
            if isinstance(refined, BackendError):
                refined.base_url = refined.base_url or origin.shown_url
                if refined.retry_after is None:
                    refined.retry_after = retry_after_seconds(retry_after)
            return refined
        if status == 404 and body.json and request is not None and request.model is not None and body.param == "model":
            self._listed_at = float("-inf")
            return ModelNotFoundError(f"{self.name} at {origin.shown_url}: {body.message}", model=request.model)
        return status_error(status, body, origin, retry_after=retry_after_seconds(retry_after))

    async def _post(
        self, path: str, body: dict[str, Any], request: ChatRequest | None = None, *, model: str | None = None,
        root: bool = False,
    ) -> bytes:  # fmt: skip
        async with self._connection(request, model) as http:
            reply = await http.request("POST", path, msgspec.json.encode(body), root=root)
            if reply.status != 200:
                raise self._error(reply.status, reply.body, request, http.origin, reply.headers.get("Retry-After"))
            return reply.body

    # Generation

    def _verbatim(self, request: ChatRequest) -> bool:
        """Whether this goes past the chat template: because the caller wants it, or because the model has none."""
        return request.raw or (request.prompt is not None and request.model in self._no_template)

    def _body(self, request: ChatRequest, *, stream: bool) -> tuple[str, dict[str, Any]]:
        if request.tools is not None and self._verbatim(request):
            raise UnsupportedFeatureError(
                f"{self.name}'s model {request.model!r} has no chat template, which is what tells a model of tools.",
                param="tools",
            )
        make = completion_body if self._verbatim(request) else chat_body
        path = "/completions" if self._verbatim(request) else "/chat/completions"
        body = make(request, self.field_names, self.neutral)
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        self.adjust(body, request)
        if request.extra:
            body.update(request.extra)
        return path, body

    @override
    async def _chat(self, request: ChatRequest) -> LLMResponse:
        while True:
            path, body = self._body(request, stream=False)
            async with self._connection(request) as http:
                reply = await http.request("POST", path, msgspec.json.encode(body))
                if reply.status == 200:
                    return self._whole(reply.body, request, http.origin)
                error = self._error(reply.status, reply.body, request, http.origin, reply.headers.get("Retry-After"))
                if not isinstance(error, _NoTemplateError):
                    raise error

    def _whole(self, raw: bytes, request: ChatRequest, origin: Origin) -> LLMResponse:
        """The reply in an answer that is not streamed."""
        mapper = ChatMapper(request)
        chunk = mapper.chunk(self._decoded(raw, request, origin))
        response = join([[chunk] if chunk is not None else []])
        response.model = request.model
        check_end(mapper, origin, ended=mapper.finished is not None, whole=response)
        return response

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        while True:
            path, body = self._body(request, stream=True)
            async with self._connection(request) as http, http.stream(path, msgspec.json.encode(body)) as answer:
                if answer.status == 200:
                    async with aclosing(self._events(answer, request, http.origin)) as batches:
                        async for batch in batches:
                            yield batch
                    return
                raw = await answer.read_all()
                error = self._error(answer.status, raw, request, http.origin, answer.headers.get("Retry-After"))
                if not isinstance(error, _NoTemplateError):
                    raise error

    async def _events(self, answer: ByteStream, request: ChatRequest, origin: Origin) -> Batches:
        """The chunks of an event stream, in the batches in which they arrived."""
        mapper = ChatMapper(request)
        frames = SSEDecoder()
        done = False
        while not done:
            piece = await answer.read_some()
            batch: list[LLMChunk] = []
            try:
                for payload in frames.feed(piece) if piece else frames.flush():
                    if payload == b"[DONE]":
                        done = True
                        break
                    event = decode_event(payload)
                    if event.error is not None:
                        raise self._error_in_stream(payload, request, origin, begun=mapper.delivered)
                    chunk = mapper.chunk(event)
                    if chunk is not None:
                        batch.append(chunk)
            except (MinerError, msgspec.DecodeError, RecursionError) as error:
                if batch:
                    yield batch  # what came before the fault is delivered before it
                if not piece and isinstance(error, msgspec.DecodeError):
                    break  # a truncated tail is a broken stream, not a garbled one
                if isinstance(error, RecursionError):
                    raise FramingError("JSON that is nested without end") from error
                raise
            if batch:
                yield batch
            if not piece:
                break
        answer.over = done
        check_end(mapper, origin, ended=done)

    def _decoded(self, raw: bytes, request: ChatRequest, origin: Origin) -> Event:
        try:
            event = decode_event(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BackendProtocolError(
                f"{origin.backend} at {origin.shown_url} answered with something that is no chat completion: {error}.",
                hint=origin.misplaced(),
                **origin.details(200),
            ) from error
        if event.error is not None:
            raise self._error_in_stream(raw, request, origin)
        if not event.choices:
            raise BackendProtocolError(
                f"{origin.backend} at {origin.shown_url} answered without choices.",
                hint=origin.misplaced(),
                **origin.details(200),
            )
        return event

    def _error_in_stream(
        self, payload: bytes, request: ChatRequest, origin: Origin, *, begun: bool = False
    ) -> MinerError:
        """An error object inside an answer that began with status 200. Once text has come, the engine's failure is an
        interruption: nothing is sent again then.
        """
        body = parse_error_body(payload)
        code = body.fields.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        error = self._error(status, payload, request, origin)
        if begun and isinstance(error, BackendError):
            return interrupted(error.message.rstrip("."), origin, status)
        if type(error) is BackendError:
            return BackendUnavailableError(error.message, hint=error.hint, **origin.details(status))
        return error

    # Models and health

    async def _fetch_models(self, *, total: float | None = None) -> list[ModelInfo]:
        http = self._http()
        reply = await http.request("GET", "/models", total=total)
        if reply.status in (404, 405):  # every such server has this path: something else is at the address
            raise status_error(404, parse_error_body(reply.body), http.origin)
        if reply.status != 200:
            raise self._error(reply.status, reply.body, None, http.origin, reply.headers.get("Retry-After"))
        try:
            self._listed, self._one_model = read_models(reply.body)
        except msgspec.DecodeError as error:
            raise BackendProtocolError(
                f"{self.name} at {http.origin.shown_url} did not answer /models with a list of models: {error}.",
                hint=http.origin.misplaced(),
                **http.origin.details(200),
            ) from error
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
            f"{self.name} at {self._http().origin.shown_url} has no model {model_name!r}.",
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

    # Embeddings and rankings

    @override
    async def _embed(self, texts: list[str], model: str | None) -> EmbeddingResponse:
        body = {"model": model, "input": texts, "encoding_format": "float"}
        raw = await self._post("/embeddings", body, model=model)
        return read_embeddings(raw, texts, model, self.name)

    @override
    async def _rerank(self, query: str, documents: list[str], model: str | None, top_n: int | None) -> RerankResponse:
        body: dict[str, Any] = {"model": model, "query": query, "documents": documents}
        if top_n is not None:
            body["top_n"] = top_n
        return read_scores(await self._post("/rerank", body, model=model), model, self.name)

    @override
    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class _NoTemplateError(UnsupportedFeatureError):
    """The model has no chat template: a bare prompt goes verbatim, and this request is sent again so."""
