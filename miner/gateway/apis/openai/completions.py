"""OpenAI's `/v1/completions`: prompts go to the model verbatim, past its chat template."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import LLMResponse
from miner.errors import InvalidRequestError
from miner.gateway.apis.fields import drop_raw, texts_or_tokens
from miner.gateway.apis.openai.convert import (
    MAX_CHOICES,
    choice_arguments,
    choice_options,
    sampling_arguments,
    sampling_names,
)
from miner.gateway.apis.openai.response import FINGERPRINT, completion_choice, usage_of_responses
from miner.gateway.apis.openai.schema import CompletionRequest
from miner.gateway.apis.openai.stream import HEARTBEAT, STREAM_TYPE, CompletionStream, timings_of, without_text
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call, Head
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import send_reply
from miner.gateway.model_backend import backend_of
from miner.gateway.request_body import decode, parse_body

_DECODER = msgspec.json.Decoder(CompletionRequest)
_DEFAULT_MAX_TOKENS = 16
"""OpenAI's, and that of every server with this route."""


class OpenAICompletions:
    """The dialect of `/v1/completions`."""

    stream_type = STREAM_TYPE
    id_prefix = "cmpl-"
    heartbeat = HEARTBEAT

    def parse(self, body: bytes) -> Call:
        """Parse a request body."""
        foreign: dict[str, Any] = {}
        request = decode(body, _DECODER, foreign)
        prompts = texts_or_tokens(request.prompt, "prompt")
        shared = {**sampling_arguments(request), "raw": True}
        if request.suffix:
            shared["suffix"] = request.suffix
        if request.logprobs is not None:
            shared["logprobs"] = request.logprobs
        arguments = [
            choice
            for prompt in prompts
            for choice in choice_arguments(request.n, request.seed, {**shared, "prompt": prompt})
        ]
        if len(arguments) > MAX_CHOICES:
            raise InvalidRequestError(
                f"prompt and n request {len(arguments)} choices; the maximum is {MAX_CHOICES}.", param="n"
            )
        call = Call(
            arguments=arguments,
            model=request.model,
            stream=bool(request.stream),
            default_max_tokens=_DEFAULT_MAX_TOKENS,
            names=FieldNames({**sampling_names(request), "messages": "prompt"}),
            options=choice_options(request, len(prompts)),
            foreign=foreign,
            fields=CompletionRequest.__struct_fields__,
        )
        if request.best_of not in (None, 0, 1, request.n):
            call.skip("best_of", hint="Use n.", changes=True)
        if request.echo:
            _echo(call)
        return call

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `text_completion`."""
        if call.options.prompt_only:
            without_text(responses)
        choices = [
            completion_choice(
                index,
                call.options.echo.get(index, "") + response.content,
                response.logprobs,
                response.finish_reason or "stop",
            )
            for index, response in enumerate(responses)
        ]
        return msgspec.json.encode(
            {
                "id": f"cmpl-{head.id}",
                "object": "text_completion",
                "created": head.created,
                "model": head.model,
                "choices": choices,
                "usage": usage_of_responses(responses, call.options.prompts),
                "system_fingerprint": FINGERPRINT,
                **timings_of(call.options, responses),
            }
        )

    def stream(self, call: Call, head: Head) -> CompletionStream:
        """The writer of `text_completion` events."""
        return CompletionStream(head, call.options)


_DIALECT = OpenAICompletions()


async def completions(context: RequestContext) -> web.StreamResponse:
    """Complete one or several prompts."""
    call = await parse_body(context, _DIALECT.parse)
    drop_raw(call, (await backend_of(context.gateway.service, call.model)).capabilities)
    return await send_reply(context, _DIALECT, call)


def _echo(call: Call) -> None:
    """Have the prompts in the response: written here, or by the engine where that takes the tokenizer or the model."""
    for index, arguments in enumerate(call.arguments):
        if isinstance(arguments["prompt"], str) and "logprobs" not in arguments:
            call.options.echo[index] = arguments["prompt"]
        else:
            arguments["echo"] = True
