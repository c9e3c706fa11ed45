"""OpenAIService: the contract over any OpenAI-compatible server; vLLM and llama.cpp are small subclasses.

A server of your own needs `endpoint` and, where it differs, the class attributes below and in server.py; examples/ has
one. Errors: `OpenAIServer._error` (server.py) calls the subclass's `refine` first, then maps the HTTP status
(`miner.core.http.errors`).
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from miner.core._typing import override
from miner.core.http.client import ByteStream
from miner.core.http.errors import Upstream, interrupted, parse_error_body
from miner.core.http.framing import SSEDecoder
from miner.core.llms.contract.cache import TTLCache
from miner.core.llms.contract.extra import merge_extra
from miner.core.llms.contract.reply_reader import read_chunks
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.text_calls import calls_of_text, may_call
from miner.core.llms.contract.unparsed_reply import MalformedReplyError
from miner.core.llms.http_backend import Endpoint
from miner.core.llms.openai.models import read_embeddings, read_scores
from miner.core.llms.openai.request import chat_body, completion_body
from miner.core.llms.openai.response import ChatMapper, decode_event
from miner.core.llms.openai.server import OpenAIServer
from miner.core.wire import UNLIMITED, ChatRequest, EmbeddingResponse, LLMChunk, RerankResponse
from miner.errors import BackendError, BackendUnavailableError, MinerError, UnsupportedFeatureError

__all__ = ["Endpoint", "NoTemplateError", "OpenAIService"]


class NoTemplateError(UnsupportedFeatureError):
    """The model has no chat template: the prompt is sent again verbatim."""


class OpenAIService(OpenAIServer):
    """Chat, completions, embeddings and models of an OpenAI-compatible server."""

    name = "openai"

    features: ClassVar[frozenset[str]] = frozenset(
        """chat tools tool_choice json_object json_schema logprobs seed embeddings stop presence_penalty
        frequency_penalty logit_bias parallel_tool_calls response_format timeout raw extra""".split()
    )
    """What the server supports; plain OpenAI by default. "rerank": it has `/rerank`, as in Jina's API."""
    field_names: ClassVar[dict[str, str]] = {}
    """Options that the server names differently, and its names."""
    neutral: ClassVar[dict[str, Any]] = {}
    """Sampling fields that are always sent, with the value that disables them: servers' defaults differ."""
    watches_stops: ClassVar[bool] = False
    """Whether stop strings are watched for here and not sent: llama.cpp loses text that it holds back for one when
    max_tokens ends the reply."""

    takes_unlimited: ClassVar[bool] = False
    """Whether the server takes a `max_tokens` of -1: until the context ends."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._no_template: TTLCache[str, bool] = TTLCache()

    @override
    def _clear_caches(self) -> None:
        super()._clear_caches()
        self._no_template.clear()

    # Hooks of subclasses

    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        """Change the JSON body of a request before it is sent."""

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return self.features

    # Generation

    def _verbatim(self, request: ChatRequest) -> bool:
        """Whether the prompt bypasses the chat template: on request, or because the model has none."""
        if request.raw or request.suffix is not None:
            return True
        return request.prompt is not None and bool(self._no_template.get(request.model or ""))

    def _watched_stops(self, request: ChatRequest) -> list[str]:
        """The stop strings that are watched for here and not sent (see stop_strings.py)."""
        return request.stop if self.watches_stops else []

    def _body(self, request: ChatRequest, *, stream: bool) -> tuple[str, dict[str, Any]]:
        if request.tools is not None and self._verbatim(request):
            raise UnsupportedFeatureError(
                f"{self.name}'s model {request.model!r} has no chat template and does not support tools.",
                param="tools",
            )
        make = completion_body if self._verbatim(request) else chat_body
        path = "/completions" if self._verbatim(request) else "/chat/completions"
        body = make(request, self.field_names, self.neutral)
        if self.watches_stops:
            body.pop("stop", None)
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        self.adjust(body, request)
        if body["max_tokens"] == UNLIMITED and not self.takes_unlimited:
            del body["max_tokens"]  # until the context ends is what the chat route does by itself
        merge_extra(body, request.extra)
        return path, body

    def _limited(self, request: ChatRequest) -> ChatRequest:
        """The request with a limit where `/completions` would end an unlimited one after 16 tokens: the context, which
        servers clip to what fits; where it is unknown, DEFAULT_MAX_TOKENS, and `max_tokens` is listed as ignored.
        """
        if request.max_tokens != UNLIMITED or self.takes_unlimited or not self._verbatim(request):
            return request
        info = request.resolution.model
        if info is not None and info.context_length is not None:
            return replace(request, max_tokens=info.context_length)
        request.resolution.ignored.append("max_tokens")
        return replace(request, max_tokens=self._settings.default_max_tokens)

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        while True:
            request = self._limited(request)
            path, body = self._body(request, stream=True)
            async with self._connection(request) as http, http.stream(path, msgspec.json.encode(body)) as response:
                if response.status == 200 and "json" in response.headers.get("Content-Type", ""):
                    yield self._read_json(await response.read_all(), request, http.upstream)
                    return
                if response.status == 200:
                    events = self._read_events(response, request, http.upstream)
                    async with aclosing(calls_of_text(events, request) if may_call(request) else events) as batches:
                        async for batch in batches:
                            yield batch
                    return
                raw = await response.read_all()
                error = self._error(response.status, raw, request, http.upstream, response.headers.get("Retry-After"))
                if not isinstance(error, NoTemplateError):
                    raise error

    def _read_events(self, response: ByteStream, request: ChatRequest, upstream: Upstream) -> Batches:
        """The chunks of an event stream."""
        mapper = ChatMapper(request, self._watched_stops(request))
        error_of = partial(self._event_error, request, upstream)
        return read_chunks(response, SSEDecoder(), decode_event, mapper, error_of, upstream)

    def _read_json(self, raw: bytes, request: ChatRequest, upstream: Upstream) -> list[LLMChunk]:
        """The chunks of a non-streaming response, from a server that does not stream."""
        try:
            event = decode_event(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise upstream.protocol_error(f"sent an invalid chat completion: {error}.", status=200) from error
        if event.error is not None:
            raise self._event_error(request, upstream, raw)
        if not event.choices:
            raise upstream.protocol_error("sent a chat completion without choices.", status=200)
        mapper = ChatMapper(request, self._watched_stops(request))
        batch: list[LLMChunk] = []
        mapper.feed(event, batch)
        mapper.ended = mapper.finish_reason is not None
        mapper.finish(batch)
        mapper.check_complete(upstream)
        return batch

    def _event_error(
        self, request: ChatRequest, upstream: Upstream, payload: bytes, delivered: bool = False
    ) -> MinerError:
        """The error for an error object in a response with status 200. Once text was delivered, it is an interruption:
        no retry.
        """
        body = parse_error_body(payload)
        code = body.fields.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        error = self._error(status, payload, request, upstream)
        if isinstance(error, MalformedReplyError):
            return error
        if delivered and isinstance(error, BackendError):
            return interrupted(error.message, upstream, status)
        if type(error) is BackendError:
            return BackendUnavailableError(
                error.message, operator_hint=error.operator_hint, engine_died=True, **upstream.details(status)
            )
        return error

    # Embeddings and reranking

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
