"""Ollama's `/api/chat`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import LLMResponse
from miner.gateway.apis.base import Call, Head
from miner.gateway.apis.ollama.common import (
    NAMES,
    STREAM_TYPE,
    Common,
    logprob_entries,
    model_of,
    now,
    sampling,
)
from miner.gateway.apis.ollama.convert import OllamaMessage, call_object, turns
from miner.gateway.apis.ollama.loading import complete, load
from miner.gateway.apis.ollama.stream import LineStream, finished, said
from miner.gateway.body_limits import bounded
from miner.gateway.context import RequestContext
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import reply
from miner.gateway.request_body import decode, decode_body, off_loop

__all__ = ["OllamaChat", "OllamaChatBody", "chat"]


class OllamaChatBody(Common, kw_only=True, forbid_unknown_fields=True):
    """The body of a chat."""

    messages: list[OllamaMessage] | None = None
    tools: list[Any] | None = None


_DECODER = msgspec.json.Decoder(OllamaChatBody)


class OllamaChat:
    """The dialect of `/api/chat`."""

    stream_type = STREAM_TYPE
    heartbeat = b'{"message":{"role":"assistant","content":""},"done":false}\n'

    def parse(self, body: bytes) -> Call:
        """Read a body."""
        return self.call(decode(body, _DECODER))

    def call(self, asked: OllamaChatBody) -> Call:
        """What a body asks for."""
        ignored: list[str] = []
        arguments = sampling(asked, ignored)
        arguments["messages"] = turns(asked.messages or [])
        if asked.tools:
            arguments["tools"] = bounded(asked.tools, "tools")
        return Call(
            [arguments], asked.model, asked.stream is not False, ignored, names=FieldNames(NAMES), options=asked.model
        )

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A reply in one piece."""
        response = responses[0]
        calls = _calls(response)
        body = {
            "model": call.options,
            "created_at": now(),
            **said("chat", response.content, response.reasoning, calls),
            **finished(response.finish_reason, response.usage, response.timings),
        }
        if response.logprobs is not None:
            body["logprobs"] = logprob_entries(response.logprobs)
        return msgspec.json.encode(body)

    def stream(self, call: Call, head: Head) -> LineStream:
        """The writer of a stream."""
        return LineStream("chat", call.options)


def _calls(response: LLMResponse) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for call in response.tool_calls or ():
        try:
            calls.append(call_object(call, len(calls)))
        except (msgspec.DecodeError, RecursionError):
            continue  # cut short: done_reason says "length"
    return calls


_DIALECT = OllamaChat()


async def chat(context: RequestContext) -> web.StreamResponse:
    """A turn of a conversation; without messages, loading or unloading a model."""
    asked = await decode_body(context, _DECODER)
    model_of(asked.model)
    if not asked.messages:
        return await load(context, asked, "chat")
    call = await off_loop(context, _DIALECT.call, asked)
    await complete(context, call, asked.options)
    return await reply(context, _DIALECT, call)
