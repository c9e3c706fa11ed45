"""OpenAIService: the contract over any OpenAI-compatible server; vLLM and llama.cpp are small subclasses.

A server of your own needs `endpoint` and, where it differs, the class attributes below and in openai_server.py.
examples/ has one.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, ClassVar

import msgspec

from miner.core._typing import override
from miner.core.http.client import ByteStream
from miner.core.http.errors import Upstream, interrupted, parse_error_body
from miner.core.http.framing import SSEDecoder
from miner.core.http.transport_errors import FramingError
from miner.core.llms.contract.cache import TTLCache
from miner.core.llms.contract.extra import merge_extra
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.unparsed_reply import MalformedReplyError
from miner.core.llms.openai.end import check_end
from miner.core.llms.openai.models import read_embeddings, read_scores
from miner.core.llms.openai.request import chat_body, completion_body
from miner.core.llms.openai.response import ChatMapper, decode_event
from miner.core.llms.openai.server import Endpoint, OpenAIServer
from miner.core.wire import ChatRequest, EmbeddingResponse, LLMChunk, RerankResponse
from miner.errors import (
    BackendError,
    BackendUnavailableError,
    MinerError,
    UnsupportedFeatureError,
)

__all__ = ["Endpoint", "OpenAIService"]


class OpenAIService(OpenAIServer):
    """Chat, completions, embeddings and models of an OpenAI-compatible server."""

    name = "openai"

    features: ClassVar[frozenset[str]] = frozenset(
        """chat tools tool_choice json_object json_schema logprobs seed embeddings stop presence_penalty
        frequency_penalty logit_bias parallel_tool_calls response_format timeout raw extra""".split()
    )
    """What the server can do at all; plain OpenAI by default. "rerank": it has `/rerank`, in the form of Jina's API."""
    field_names: ClassVar[dict[str, str]] = {}
    """The server's own names of options that it calls otherwise."""
    neutral: ClassVar[dict[str, Any]] = {}
    """Sampling fields that are always sent, with the value that switches them off: servers' defaults differ."""
    watches_stops: ClassVar[bool] = False
    """Whether stop strings are watched for here, and the server is not told of them: llama.cpp under it loses text that
    it held back for one when max_tokens ends the reply."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._no_template: TTLCache[str, bool] = TTLCache()

    @override
    def _forget(self) -> None:
        super()._forget()
        self._no_template.clear()

    # What a subclass says

    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        """Change the JSON body of a request before it is sent."""

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return self.features

    # Generation

    def _verbatim(self, request: ChatRequest) -> bool:
        """Whether this goes past the chat template: because the caller wants it, or because the model has none."""
        return request.raw or (request.prompt is not None and bool(self._no_template.get(request.model or "")))

    def _watched(self, request: ChatRequest) -> list[str]:
        """The stop strings that are watched for here, because the engine is not told of them (see stop.py)."""
        return request.stop if self.watches_stops else []

    def _body(self, request: ChatRequest, *, stream: bool) -> tuple[str, dict[str, Any]]:
        if request.tools is not None and self._verbatim(request):
            raise UnsupportedFeatureError(
                f"{self.name}'s model {request.model!r} has no chat template, which is what tells a model of tools.",
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
        merge_extra(body, request.extra)
        return path, body

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        while True:
            path, body = self._body(request, stream=True)
            async with self._connection(request) as http, http.stream(path, msgspec.json.encode(body)) as answer:
                if answer.status == 200 and "json" in answer.headers.get("Content-Type", ""):
                    yield self._whole(await answer.read_all(), request, http.upstream)
                    return
                if answer.status == 200:
                    async with aclosing(self._events(answer, request, http.upstream)) as batches:
                        async for batch in batches:
                            yield batch
                    return
                raw = await answer.read_all()
                error = self._error(answer.status, raw, request, http.upstream, answer.headers.get("Retry-After"))
                if not isinstance(error, _NoTemplateError):
                    raise error

    async def _events(self, answer: ByteStream, request: ChatRequest, upstream: Upstream) -> Batches:
        """The chunks of an event stream, in the batches in which they arrived."""
        mapper = ChatMapper(request, self._watched(request))
        frames = SSEDecoder()
        done = stopped = False
        while not done and not stopped:
            piece = await answer.read_some()
            batch: list[LLMChunk] = []
            try:
                for payload in frames.feed(piece) if piece else frames.flush():
                    if payload == b"[DONE]":
                        done = True
                        break
                    event = decode_event(payload)
                    if event.error is not None:
                        raise self._error_in_stream(payload, request, upstream, begun=mapper.delivered)
                    if mapper.feed(event, batch):
                        stopped = True
                        break
            except (MinerError, msgspec.DecodeError, RecursionError) as error:
                mapper.flush(batch)
                if batch:
                    yield batch  # what came before the fault is delivered before it
                if not piece and isinstance(error, msgspec.DecodeError):
                    break  # a truncated tail is a broken stream, not a garbled one
                if isinstance(error, RecursionError):
                    raise FramingError("JSON that is nested without end") from error
                raise
            if done or not piece:
                mapper.flush(batch)
            if done or stopped:
                mapper.close(batch)
            if batch:
                yield batch
            if not piece:
                break
        answer.message_complete = done
        check_end(mapper, upstream, ended=done or stopped)

    def _whole(self, raw: bytes, request: ChatRequest, upstream: Upstream) -> list[LLMChunk]:
        """The chunks of a reply in one piece, from a server that does not stream."""
        mapper = ChatMapper(request, self._watched(request))
        batch: list[LLMChunk] = []
        try:
            event = decode_event(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise upstream.protocol_error(f"sent an invalid chat completion: {error}.", status=200) from error
        if event.error is not None:
            raise self._error_in_stream(raw, request, upstream)
        if not event.choices:
            raise upstream.protocol_error("sent a chat completion without choices.", status=200)
        mapper.feed(event, batch)
        mapper.flush(batch)
        mapper.close(batch)
        check_end(mapper, upstream, ended=mapper.finished is not None)
        return batch

    def _error_in_stream(
        self, payload: bytes, request: ChatRequest, upstream: Upstream, *, begun: bool = False
    ) -> MinerError:
        """An error object inside an answer that began with status 200. Once text has come, the engine's failure is an
        interruption: nothing is sent again then.
        """
        body = parse_error_body(payload)
        code = body.fields.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        error = self._error(status, payload, request, upstream)
        if isinstance(error, MalformedReplyError):
            return error
        if begun and isinstance(error, BackendError):
            return interrupted(error.message, upstream, status)
        if type(error) is BackendError:
            return BackendUnavailableError(
                error.message, operator_hint=error.operator_hint, engine_died=True, **upstream.details(status)
            )
        return error

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


class _NoTemplateError(UnsupportedFeatureError):
    """The model has no chat template: a bare prompt goes verbatim, and this request is sent again so."""
