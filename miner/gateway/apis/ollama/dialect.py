"""What `/api/chat` and `/api/generate` share: the form of their responses, and the way from a body to one."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from miner.core.wire import LLMResponse
from miner.gateway.apis.base import Call, Head
from miner.gateway.apis.fields import drop_raw
from miner.gateway.apis.ollama.convert import NAMES, generation_arguments
from miner.gateway.apis.ollama.loading import apply_model, load
from miner.gateway.apis.ollama.response import (
    Kind,
    final_fields,
    logprob_entries,
    text_fields,
    timestamp,
    tool_call_object,
)
from miner.gateway.apis.ollama.schema import OllamaGenerationParams
from miner.gateway.apis.ollama.stream import STREAM_TYPE, LineStream
from miner.gateway.context import RequestContext
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import reply
from miner.gateway.request_body import decode, decode_body, off_loop

__all__ = ["OllamaDialect"]

R = TypeVar("R", bound=OllamaGenerationParams)


class OllamaDialect(Generic[R]):
    """One of the two generating routes."""

    kind: Kind
    heartbeat: bytes
    stream_type = STREAM_TYPE
    decoder: msgspec.json.Decoder[R]

    def is_empty(self, request: R) -> bool:
        """Whether the body has nothing to generate from: it loads or unloads the model."""
        raise NotImplementedError

    def add_arguments(self, request: R, call: Call, arguments: dict[str, Any]) -> None:
        """Add the service's arguments that only this route has."""
        raise NotImplementedError

    def parse(self, body: bytes) -> Call:
        """Parse a request body."""
        return self.convert(decode(body, self.decoder))

    def convert(self, request: R) -> Call:
        """The request as the service takes it."""
        call = Call(
            arguments=[],
            model=request.model,
            stream=request.stream is not False,
            names=FieldNames(NAMES),
            options=request.model,
        )
        arguments = generation_arguments(request, call)
        self.add_arguments(request, call, arguments)
        call.arguments = [arguments]
        return call

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A response in one object."""
        response = responses[0]
        tool_calls: list[dict[str, Any]] = []
        for one in response.tool_calls or ():
            if (tool_call := tool_call_object(one, len(tool_calls))) is not None:
                tool_calls.append(tool_call)
        body = {
            "model": call.options,
            "created_at": timestamp(),
            **text_fields(self.kind, response.content, response.reasoning, tool_calls),
            **final_fields(response.finish_reason, response.usage, response.timings),
        }
        if response.logprobs is not None:
            body["logprobs"] = logprob_entries(response.logprobs)
        return msgspec.json.encode(body)

    def stream(self, call: Call, head: Head) -> LineStream:
        """The writer of a stream."""
        return LineStream(self.kind, call.options)

    async def handle(self, context: RequestContext) -> web.StreamResponse:
        """Generate; from an empty body, load or unload the model."""
        request = await decode_body(context, self.decoder)
        if self.is_empty(request):
            return await load(context, request, self.kind)
        call = await off_loop(context, self.convert, request)
        drop_raw(call, context.gateway.service.capabilities)
        await apply_model(context, call, request.options)
        return await reply(context, self, call)
