"""OpenAI's `/v1/responses`: create, streamed or not."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import LLMResponse
from miner.errors import InvalidRequestError
from miner.gateway.apis.openai.responses.convert import service_arguments, skip_fields
from miner.gateway.apis.openai.responses.input import convert_input
from miner.gateway.apis.openai.responses.items import output_items
from miner.gateway.apis.openai.responses.response import STREAM_ERRORS, ResponseOptions, final_response
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.apis.openai.responses.stream import ResponseStream
from miner.gateway.apis.openai.responses.tools import tools_of
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
    id_prefix = "resp_"
    heartbeat = HEARTBEAT

    def parse(self, body: bytes) -> Call:
        """Parse a request body that needs nothing stored."""
        call = self.begin(body)
        return self.complete(call, [])

    def begin(self, body: bytes) -> Call:
        """Decode a request body. What was stored has to be found before the rest: `complete`."""
        foreign: dict[str, Any] = {}
        request = decode(body, _DECODER, foreign)
        call = Call(
            arguments=[],
            model=request.model,
            stream=bool(request.stream),
            names=FieldNames(_NAMES),
            options=ResponseOptions(request),
            previous_response=request.previous_response_id,
            foreign=foreign,
            fields=ResponseRequest.__struct_fields__,
            stream_errors=STREAM_ERRORS,
        )
        if request.input is None and request.previous_response_id is None:
            raise InvalidRequestError("Missing required parameter: 'input'.", param="input")
        return call

    def complete(self, call: Call, earlier: list[dict[str, Any]]) -> Call:
        """The call with its arguments.

        Args:
            call: from `begin`.
            earlier: the items of the conversation before the input.
        """
        options: ResponseOptions = call.options
        request = options.request
        skip_fields(request, call)
        options.tools = tools_of(request, call)
        arguments = service_arguments(request, options.tools, call)
        items: Any = request.input
        if earlier or items is None:
            own = [{"role": "user", "content": items}] if isinstance(items, str) else items or []
            items = [*earlier, *own]
        arguments["messages"] = convert_input(items, call, instructions=request.instructions, earlier=len(earlier))
        call.arguments = [arguments]
        return call

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `response`."""
        return msgspec.json.encode(call.options.final or self.final(call, head, responses[0]))

    def final(self, call: Call, head: Head, response: LLMResponse) -> dict[str, Any]:
        """The response object of one that was not streamed."""
        options: ResponseOptions = call.options
        output = output_items(response, head.id, options.tools, encrypted=options.encrypted)
        return final_response(call, head, output, response.finish_reason, response.usage)

    def stream(self, call: Call, head: Head) -> ResponseStream:
        """The writer of its events."""
        return ResponseStream(call, head)
