"""Sends requests to a server that speaks OpenAI's API, and reads its events as they come.

Not through a service: that retries, and what it hands on are pieces of text, not events.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from miner.cli.bench.measure import Measurement
from miner.cli.bench.sender import BenchRequest, Sampling
from miner.core.http.client import ByteStream, HttpClient
from miner.core.http.errors import Upstream, interrupted, parse_error_body, retry_after_seconds, status_error
from miner.core.http.framing import SSEDecoder
from miner.core.llms.openai.response import Event, decode_event
from miner.errors import BackendError, BackendProtocolError, MinerError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

_PATHS = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
_COUNT_SECONDS = 30.0


class _Tokens(Struct):
    """The response of `/tokenize`: vLLM counts, llama.cpp lists."""

    count: int | None = None
    tokens: list[Any] | None = None


def wire_client(config: MinerConfig) -> HttpClient:
    """A client of the server at MINER_OPENAI_API_BASE, which `target_config` has set from --url."""
    from miner.cli.url_service import URLService

    endpoint = URLService(config).endpoint()
    upstream = Upstream(
        "openai", endpoint.api_base, timeout_setting="--timeout", read_timeout=endpoint.timeout,
        unreachable_hint=URLService.unreachable_hint, key_setting=URLService.key_setting, address_setting="--url",
    )  # fmt: skip
    return HttpClient(upstream, api_key=endpoint.api_key)


class WireSender:
    """Sends to one server.

    Args:
        on_tokens: called with the number of chunks with tokens that arrived together.
    """

    def __init__(
        self, http: HttpClient, model: str | None, endpoint: str, sampling: Sampling, on_tokens: Callable[[int], None]
    ) -> None:
        self._http = http
        self._model = {} if model is None else {"model": model}
        self._endpoint = endpoint
        self._sampling = sampling
        self._on_tokens = on_tokens

    async def send(self, request: BenchRequest, seen: Measurement) -> None:
        """Send one request and read its response: see `Sender`."""
        body = msgspec.json.encode(self._body(request))
        seen.begin()
        try:
            if self._endpoint == "embeddings":
                await self._embed(body, seen)
                return
            async with self._http.stream(_PATHS[self._endpoint], body) as response:
                if response.status != 200:
                    self._refused(response.status, await response.read_all(), response.headers, seen)
                elif "json" in response.headers.get("Content-Type", ""):
                    self._whole(await response.read_all(), seen)
                else:
                    await self._read(response, request, seen)
        except MinerError as error:
            seen.failed(error)
        except msgspec.DecodeError as error:
            problem = f"sent an event that is no chat completion: {error}."
            seen.failed(self._http.upstream.protocol_error(problem, status=200))

    def _body(self, request: BenchRequest) -> dict[str, Any]:
        if self._endpoint == "embeddings":
            return {**self._model, "input": request.text, "encoding_format": "float", **self._sampling.extra}
        body: dict[str, Any] = {
            **self._model, "max_tokens": request.max_tokens, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        if request.messages is not None:
            body["messages"] = request.messages
        else:
            body["prompt"] = request.text
        if request.tools is not None:
            # The calls are part of the workload, not of the responses, whose length must be the same for all.
            body |= {"tools": request.tools, "tool_choice": "none"}
        if self._sampling.temperature is not None:
            body["temperature"] = self._sampling.temperature
        if self._sampling.ignore_eos:
            body["ignore_eos"] = True
        return body | self._sampling.extra

    async def _read(self, response: ByteStream, request: BenchRequest, seen: Measurement) -> None:
        """Read the events of a stream."""
        frames = SSEDecoder()
        finished = ended = False
        while not ended:
            data = await response.read_some()
            now = perf_counter()
            before = seen.chunks
            for payload in frames.feed(data) if data else frames.flush():
                if payload == b"[DONE]":
                    ended = True
                    break
                event = decode_event(payload)
                if event.error is not None:
                    self._failed_inside(payload, seen)
                    return
                finished |= self._event(event, now, request, seen)
            if seen.chunks != before:
                self._on_tokens(seen.chunks - before)
                if request.cancel_after is not None and seen.chunks >= request.cancel_after and not finished:
                    seen.cancelled, seen.done = True, now
                    return  # leaving the stream closes the connection, which stops the engine
            if not data:
                break
        if not finished and not ended:
            raise interrupted(f"{self._http.upstream.label} ended the stream early.", self._http.upstream, 200)
        response.message_complete = ended
        seen.finish(perf_counter())

    @staticmethod
    def _event(event: Event, now: float, request: BenchRequest, seen: Measurement) -> bool:
        """Note an event; return whether it ends the response."""
        _count(event, seen)
        if not event.choices:
            return False
        choice = event.choices[0]
        delta = choice.delta
        text = choice.text if delta is None else delta.content
        more = delta is not None and (delta.reasoning or delta.reasoning_content or delta.thinking or delta.tool_calls)
        # On the completions route each event is a token, also one whose text is still incomplete.
        seen.chunk(now, tokens=bool(text or more or (delta is None and choice.finish_reason is None)))
        if request.keep_text and text:
            seen.text.append(text)
        return choice.finish_reason is not None

    def _whole(self, raw: bytes, seen: Measurement) -> None:
        """A server that does not stream: the response is its one chunk."""
        now = perf_counter()
        event = decode_event(raw)
        if event.error is not None:
            self._failed_inside(raw, seen)
        elif not event.choices:
            seen.failed(self._http.upstream.protocol_error("sent a chat completion without choices.", status=200))
        else:
            _count(event, seen)
            seen.chunk(now, tokens=True)
            seen.finish(now)

    async def _embed(self, body: bytes, seen: Measurement) -> None:
        response = await self._http.request("POST", _PATHS["embeddings"], body)
        now = perf_counter()
        if response.status != 200:
            self._refused(response.status, response.body, response.headers, seen)
            return
        _count(decode_event(response.body), seen)
        seen.completion_tokens = 0
        seen.times.append(now)
        seen.finish(now)

    def _refused(self, status: int, raw: bytes, headers: Any, seen: Measurement) -> None:
        retry_after = retry_after_seconds(headers.get("Retry-After"))
        error = status_error(status, parse_error_body(raw), self._http.upstream, retry_after=retry_after)
        seen.failed(error, str(status))
        seen.retry_after = retry_after

    def _failed_inside(self, payload: bytes, seen: Measurement) -> None:
        """An error in the place of an event, after the status 200."""
        body = parse_error_body(payload)
        code = body.fields.get("code") or body.type or BackendError.code
        seen.failed(self._http.upstream.error(BackendError, f"failed: {body.message}.", status=200), str(code))

    async def count(self, text: str) -> int:
        """The tokens of a text by `/tokenize`, as vLLM, SGLang and llama.cpp have it: see `Sender`."""
        body = {**self._model, "prompt": text, "content": text, "add_special_tokens": False, "add_special": False}
        raw = msgspec.json.encode(body)
        upstream = self._http.upstream
        response = await self._http.request("POST", "/tokenize", raw, total=_COUNT_SECONDS, root=True, read_only=True)
        if response.status != 200:
            raise status_error(response.status, parse_error_body(response.body), upstream)
        try:
            found = msgspec.json.decode(response.body, type=_Tokens)
        except msgspec.DecodeError as error:
            raise upstream.protocol_error(f"sent no token count: {error}.", status=200) from error
        if found.count is None and found.tokens is None:
            raise upstream.error(BackendProtocolError, "sent no token count.", status=200)
        return found.count if found.count is not None else len(found.tokens or ())


def _count(event: Event, seen: Measurement) -> None:
    """Note the tokens that an event counts."""
    usage, timings = event.usage, event.timings
    if usage is not None and (usage.prompt_tokens or usage.completion_tokens):  # not zeros only
        seen.prompt_tokens = usage.prompt_tokens
        seen.completion_tokens = usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            seen.cached_tokens = usage.prompt_tokens_details.cached_tokens
    if timings is not None:
        if timings.cache_n is not None and seen.cached_tokens is None:
            seen.cached_tokens = timings.cache_n
        if usage is None and timings.predicted_n is not None and timings.prompt_n is not None:
            seen.prompt_tokens = timings.prompt_n + (timings.cache_n or 0)
            seen.completion_tokens = timings.predicted_n
