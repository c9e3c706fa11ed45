"""OpenAI's `/v1/responses`: create, whole and streamed. Nothing is stored."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import LLMResponse
from miner.gateway.apis.base import Call, Head
from miner.gateway.apis.openai.common import STREAM_TYPE
from miner.gateway.apis.openai.responses.items import call_item, cut_reason, finished, message_item, reasoning_item
from miner.gateway.apis.openai.responses.schema import ResponseBody, service_arguments, without_effect
from miner.gateway.apis.openai.responses.stream import ResponseStream
from miner.gateway.field_names import FieldNames
from miner.gateway.request_body import decode

__all__ = ["OpenAIResponses"]

_NAMES = {
    "max_tokens": "max_output_tokens", "logprobs": "top_logprobs", "reasoning": "reasoning.effort",
    "response_format": "text.format", "response_format.json_schema": "text.format", "messages": "input",
    "tools[*].function": "tools[*]",
}  # fmt: skip
"""The service's names of what has another one here; `conversation` adds those of the messages."""
_DECODER = msgspec.json.Decoder(ResponseBody)


class OpenAIResponses:
    """The dialect of `/v1/responses`."""

    stream_type = STREAM_TYPE
    heartbeat = b": keep-alive\n\n"

    def parse(self, body: bytes) -> Call:
        """Read a body."""
        asked = decode(body, _DECODER)
        ignored = without_effect(asked)
        remote: list[str] = []
        names = dict(_NAMES)
        arguments = service_arguments(asked, ignored, remote, names)
        return Call(
            [arguments], asked.model, bool(asked.stream), ignored, remote_images=remote, names=FieldNames(names),
            options=asked,
        )  # fmt: skip

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `response`."""
        response = responses[0]
        output: list[dict[str, Any]] = []
        if response.reasoning:
            output.append(reasoning_item(f"rs_{head.id}", response.reasoning))
        if response.content or not response.tool_calls:
            status = "completed" if cut_reason(response.finish_reason) is None else "incomplete"
            output.append(message_item(f"msg_{head.id}", response.content, response.logprobs, status))
        for number, tool_call in enumerate(response.tool_calls or ()):
            output.append(call_item(f"fc_{number}_{head.id}", tool_call))
        return msgspec.json.encode(finished(call, head, output, response.finish_reason, response.usage))

    def stream(self, call: Call, head: Head) -> ResponseStream:
        """The writer of its events."""
        return ResponseStream(call, head)
