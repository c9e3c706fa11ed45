"""OpenAI's `/v1/responses`: create, streamed or not. Nothing is stored."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import LLMResponse
from miner.gateway.apis.openai.responses.convert import convert_input, ignored_fields, service_arguments
from miner.gateway.apis.openai.responses.items import (
    call_item,
    final_response,
    incomplete_reason,
    message_item,
    reasoning_item,
)
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.apis.openai.responses.stream import STREAM_ERRORS, ResponseStream
from miner.gateway.apis.openai.stream import HEARTBEAT, STREAM_TYPE
from miner.gateway.dialect import Call, Head
from miner.gateway.field_names import FieldNames
from miner.gateway.request_body import decode

_NAMES = {
    "max_tokens": "max_output_tokens", "logprobs": "top_logprobs", "reasoning": "reasoning.effort",
    "response_format": "text.format", "response_format.json_schema": "text.format", "messages": "input",
    "tools[*].function": "tools[*]",
}  # fmt: skip
"""The client's fields for the service's parameters; `convert_input` adds those of the messages."""
_DECODER = msgspec.json.Decoder(ResponseRequest)


class OpenAIResponses:
    """The dialect of `/v1/responses`."""

    stream_type = STREAM_TYPE
    heartbeat = HEARTBEAT

    def parse(self, body: bytes) -> Call:
        """Parse a request body."""
        foreign: dict[str, Any] = {}
        request = decode(body, _DECODER, foreign)
        call = Call(
            arguments=[],
            model=request.model,
            stream=bool(request.stream),
            ignored=ignored_fields(request),
            names=FieldNames(_NAMES),
            options=request,
            foreign=foreign,
            fields=ResponseRequest.__struct_fields__,
            stream_errors=STREAM_ERRORS,
        )
        arguments = service_arguments(request, call)
        arguments["messages"] = convert_input(request, call)
        call.arguments = [arguments]
        return call

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `response`."""
        response = responses[0]
        output: list[dict[str, Any]] = []
        if response.reasoning:
            output.append(reasoning_item(f"rs_{head.id}", response.reasoning))
        if response.content or not response.tool_calls:
            status = "completed" if incomplete_reason(response.finish_reason) is None else "incomplete"
            output.append(message_item(f"msg_{head.id}", response.content, response.logprobs, status))
        for number, tool_call in enumerate(response.tool_calls or ()):
            output.append(call_item(f"fc_{number}_{head.id}", tool_call))
        return msgspec.json.encode(final_response(call, head, output, response.finish_reason, response.usage))

    def stream(self, call: Call, head: Head) -> ResponseStream:
        """The writer of its events."""
        return ResponseStream(call, head)
