"""Requests in llama.cpp's own form: its routes beyond OpenAI's API, with bodies and responses as they are.

A generation is always requested as a stream with progress, and joined here where its client wants one response: of a
disconnect llama.cpp's server learns only when it sends something.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from miner.core.http.client import ByteStream
from miner.core.http.errors import ErrorBody, Upstream, interrupted, parse_error_body
from miner.core.http.framing import SSEDecoder
from miner.core.llms.contract.native import NativeBatch
from miner.core.llms.llamacpp.server import LlamaServer
from miner.core.wire import LLMChunk, Progress, TokenUsage
from miner.errors import BackendError, InvalidRequestError, MinerError, UnsupportedFeatureError

POOLED = frozenset({"/embedding", "/embeddings", "/rerank", "/reranking"})
"""Routes that compute on slots and generate nothing."""

ErrorOf = Callable[[int, bytes, Upstream], MinerError]


class _Timings(msgspec.Struct):
    cache_n: int | None = None


class _Event(msgspec.Struct):
    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str | None = None
    tokens_evaluated: int = 0
    tokens_predicted: int = 0
    timings: _Timings = msgspec.field(default_factory=_Timings)
    prompt_progress: dict[str, Any] | None = None
    completion_probabilities: list[Any] | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


async def ask(server: LlamaServer, path: str, body: dict[str, Any] | None, error_of: ErrorOf) -> bytes:
    """The response to a request that generates nothing; GET where there is no body.

    Raises:
        RequestError: the server refuses it, with its own words.
    """
    method, raw = ("GET", None) if body is None else ("POST", msgspec.json.encode(body))
    response = await server.http.request(method, path, raw, root=True)
    if response.status != 200:
        raise error_of(response.status, response.body, server.http.upstream)
    return response.body


async def generate(
    server: LlamaServer, path: str, body: dict[str, Any], error_of: ErrorOf
) -> AsyncGenerator[NativeBatch, None]:
    """The events of one generation as the server writes them. Where the body does not request a stream, the last batch
    has the whole response as its only event.
    """
    streamed, wants_progress = body.get("stream") is True, body.get("return_progress") is True
    sent = {**body, "stream": True, "return_progress": True}
    fields = sent.pop("response_fields", None) if not streamed else None
    whole = None if streamed else _Whole(fields, wants_tokens=body.get("return_tokens") is True)
    upstream = server.http.upstream
    async with (
        server.engine_slot(sent, conversation="tools" in sent, resumed=None) as placement,
        server.prompt_permit(raw := msgspec.json.encode(sent), placement) as permit,
        server.http.stream(path, raw, root=True) as response,
    ):
        if response.status != 200:
            raise error_of(response.status, await response.read_all(), upstream)
        server.slot_used(placement)
        async with aclosing(_events(response, upstream, error_of)) as batches:
            async for events in batches:
                chunk = _chunk([event for event, _ in events])
                if permit is not None and permit.update([chunk]):
                    permit = None
                if placement is not None:
                    placement.record(chunk.usage)
                if whole is None:
                    shown = [raw for event, raw in events if wants_progress or event.prompt_progress is None]
                else:
                    shown = [each for event, raw in events if (each := whole.add(event, raw)) is not None]
                yield NativeBatch(shown, chunk)


async def _events(
    response: ByteStream, upstream: Upstream, error_of: ErrorOf
) -> AsyncGenerator[list[tuple[_Event, bytes]], None]:
    """Each event with its JSON, in the batches in which they arrive."""
    frames, ended, delivered = SSEDecoder(), False, False
    while not ended:
        data = await response.read_some()
        batch: list[tuple[_Event, bytes]] = []
        for payload in frames.feed(data) if data else frames.flush():
            try:
                event = _decode(payload)
            except msgspec.DecodeError as error:
                raise upstream.protocol_error(f"sent an invalid event: {error}.", status=200) from error
            if event.error is not None:
                failure = error_of(500, payload, upstream)
                raise interrupted(failure.message, upstream, 200) if delivered and _is_ours(failure) else failure
            batch.append((event, payload))
            ended = ended or event.stop
        if batch:
            delivered = True
            yield batch
        if not data and not ended:
            raise interrupted("closed the connection before the end of its response", upstream, 200)


def _is_ours(error: MinerError) -> bool:
    return isinstance(error, BackendError)


def _chunk(events: list[_Event]) -> LLMChunk:
    """What the events are for counting and limits."""
    chunk = LLMChunk(content="".join([event.content for event in events]) or None)
    last = events[-1]
    if last.prompt_progress is not None:
        chunk.progress = Progress(last.prompt_progress.get("processed", 0), last.prompt_progress.get("total", 0))
    if last.stop:
        prompt, completion = last.tokens_evaluated, last.tokens_predicted
        chunk.usage = TokenUsage(prompt, completion, prompt + completion, last.timings.cache_n)
        chunk.finish_reason = "length" if last.stop_type == "limit" else "stop"
    return chunk


class _Whole:
    """Joins the events of a stream to the response without one.

    Args:
        fields: `response_fields`: the paths that the client wants.
    """

    def __init__(self, fields: Any, *, wants_tokens: bool) -> None:
        self._fields = fields if isinstance(fields, list) else []
        self._wants_tokens = wants_tokens
        self._content: list[str] = []
        self._tokens: list[int] = []
        self._probabilities: list[Any] = []

    def add(self, event: _Event, raw: bytes) -> bytes | None:
        """Add an event; return the response if it was the last one."""
        if event.prompt_progress is not None:  # its `tokens` are none that were generated
            return None
        self._content.append(event.content)
        self._tokens += event.tokens
        self._probabilities += event.completion_probabilities or ()
        if not event.stop:
            return None
        response: dict[str, Any] = msgspec.json.decode(raw)
        response["content"] = "".join(self._content)
        response["tokens"] = self._tokens if self._wants_tokens else []
        settings = response.get("generation_settings")
        if isinstance(settings, dict) and "stream" in settings:
            settings["stream"] = False
        if self._probabilities:
            response["completion_probabilities"] = self._probabilities
        if self._fields:
            found = {path: _at(response, path) for path in self._fields if isinstance(path, str)}
            response = {path: value for path, value in found.items() if value is not None}
        return msgspec.json.encode(response)


def _at(response: Any, path: str) -> Any:
    """The value at `generation_settings/n_predict`."""
    for name in path.split("/"):
        if not isinstance(response, dict) or name not in response:
            return None
        response = response[name]
    return response


def with_defaults(props: bytes, defaults: dict[str, Any]) -> bytes:
    """The response of `/props` with the defaults that requests have here."""
    decoded = msgspec.json.decode(props)
    settings = decoded.get("default_generation_settings") if isinstance(decoded, dict) else None
    params = settings.get("params") if isinstance(settings, dict) else None
    if isinstance(params, dict):
        params |= defaults
    return msgspec.json.encode(decoded)


def native_error(status: int, body: ErrorBody, refined: MinerError | None) -> MinerError | None:
    """The error of a refusal, with the server's own words: its client wrote the request for it. None: it is none."""
    if refined is not None and not isinstance(refined, (InvalidRequestError, UnsupportedFeatureError)):
        return refined  # among them the one about the context, with its numbers
    if status in (404, 405, 501):  # a route, or a model's ability, that this server lacks
        return UnsupportedFeatureError(body.message, param="native")
    if 400 <= status < 500 or body.message.startswith("[json.exception"):
        return InvalidRequestError(body.message)
    return None


def parsed_error(raw: bytes) -> tuple[int | None, ErrorBody]:
    """The status inside an error object, and the object."""
    body = parse_error_body(raw)
    code = body.fields.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else None, body
