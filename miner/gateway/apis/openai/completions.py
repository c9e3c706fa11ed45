"""OpenAI's `/v1/completions`: prompts that go to the model verbatim, past its chat template."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import LLMChunk, LLMResponse, TokenLogprob
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.base import Call, Head
from miner.gateway.apis.openai.common import (
    DONE,
    MAX_REPLIES,
    STREAM_TYPE,
    Sampling,
    replies,
    sampling,
    sampling_names,
    usage_object,
    usage_of_choices,
)
from miner.gateway.apis.openai.errors import error_event
from miner.gateway.body_limits import MAX_SCHEMA, bounded
from miner.gateway.context import RequestContext
from miner.gateway.errors import Failure
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import reply
from miner.gateway.request_body import decode, parse_body

__all__ = ["CompletionBody", "OpenAICompletions", "completions"]

_encode = msgspec.json.encode


class CompletionBody(Sampling, kw_only=True, forbid_unknown_fields=True):
    """The body of a completion."""

    prompt: str | list[Any]
    """A text, or several, or token ids of the model, or several lists of them; each gives `n` choices."""
    logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None


_DECODER = msgspec.json.Decoder(CompletionBody)


class _Options(msgspec.Struct):
    include_usage: bool
    prompts: int


class OpenAICompletions:
    """The dialect of `/v1/completions`."""

    stream_type = STREAM_TYPE
    heartbeat = b": keep-alive\n\n"

    def parse(self, body: bytes) -> Call:
        """Read a body."""
        asked = decode(body, _DECODER)
        if asked.suffix:
            raise UnsupportedFeatureError("suffix is not supported.", param="suffix", hint="Leave it out.")
        if asked.echo:
            raise UnsupportedFeatureError("echo is not supported.", param="echo", hint="You have the prompt.")
        if asked.best_of not in (None, 1, asked.n):
            raise UnsupportedFeatureError("best_of is not supported.", param="best_of", hint="Use n.")
        prompts = _prompts(asked.prompt)
        arguments = sampling(asked)
        arguments["raw"] = True
        if asked.logprobs is not None:
            arguments["logprobs"] = asked.logprobs
        if asked.response_format is not None:
            arguments["response_format"] = bounded(asked.response_format, "response_format", MAX_SCHEMA)
        wanted = [one for prompt in prompts for one in replies(asked.n, asked.seed, {**arguments, "prompt": prompt})]
        if len(wanted) > MAX_REPLIES:
            raise InvalidRequestError(f"prompt and n ask for {len(wanted)} choices; {MAX_REPLIES} at most.", param="n")
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return Call(
            arguments=wanted,
            model=asked.model,
            stream=bool(asked.stream),
            names=FieldNames({**sampling_names(asked), "messages": "prompt"}),
            options=_Options(include_usage, len(prompts)),
        )

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A `text_completion`."""
        choices = [
            {
                "index": index,
                "text": response.content,
                "logprobs": _logprobs(response.logprobs, 0),
                "finish_reason": response.finish_reason or "stop",
            }
            for index, response in enumerate(responses)
        ]
        usage = usage_object(usage_of_choices(responses, call.options.prompts))
        return _encode(
            {
                "id": f"cmpl-{head.id}",
                "object": "text_completion",
                "created": head.created,
                "model": head.model,
                "choices": choices,
                "usage": usage,
            }
        )

    def stream(self, call: Call, head: Head) -> CompletionStream:
        """The writer of `text_completion` events."""
        return CompletionStream(head, call.options)


async def completions(context: RequestContext) -> web.StreamResponse:
    """Answer a completion."""
    dialect = OpenAICompletions()
    call = await parse_body(context, dialect.parse)
    if "raw" not in context.gateway.service.capabilities:
        # A backend that takes prompts as they are and knows no template, such as one of the smallest form.
        call.ignored.append("raw")
        for arguments in call.arguments:
            del arguments["raw"]
    return await reply(context, dialect, call)


class CompletionStream:
    """Writes one streamed completion, of one or several choices."""

    def __init__(self, head: Head, options: _Options) -> None:
        self._before = b'data: {"id":"cmpl-%s","object":"text_completion","created":%d,"model":%s,"choices":[' % (
            head.id.encode(),
            head.created,
            _encode(head.model),
        )
        self._options = options
        self._after = b'],"usage":null}\n\n' if options.include_usage else b"]}\n\n"
        self._text_after = b',"logprobs":null,"finish_reason":null}' + self._after
        self._usage: dict[int, LLMResponse] = {}
        self._offsets: dict[int, int] = {}

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of a batch."""
        out: list[bytes] = []
        before = self._before + b'{"index":%d,"text":' % index
        for chunk in batch:
            if chunk.content is not None and chunk.finish_reason is None and chunk.logprobs is None:
                out += (before, _encode(chunk.content), self._text_after)
            elif chunk.content is not None or chunk.finish_reason is not None:
                choice = {
                    "index": index,
                    "text": chunk.content or "",
                    "logprobs": _logprobs(chunk.logprobs, self._offsets.get(index, 0)),
                    "finish_reason": chunk.finish_reason,
                }
                if chunk.logprobs is not None:
                    self._offsets[index] = self._offsets.get(index, 0) + sum(len(one.token) for one in chunk.logprobs)
                out += (self._before, _encode(choice), self._after)
            if chunk.usage is not None:
                self._usage[index] = LLMResponse(usage=chunk.usage)
        return b"".join(out)

    def end(self, responses: list[LLMResponse]) -> bytes:
        """Usage where it was asked for, and the end mark."""
        if not self._options.include_usage:
            return DONE
        told = [self._usage.get(index, LLMResponse()) for index in range(len(responses))]
        usage = usage_object(usage_of_choices(told, self._options.prompts))
        if usage is None:  # the engine sent none: no event is better than one of zeros
            return DONE
        return self._before + b'],"usage":' + _encode(usage) + b"}\n\n" + DONE

    def error(self, failure: Failure) -> bytes:
        """An error event; no end mark follows."""
        return error_event(failure)


def _prompts(prompt: str | list[Any]) -> list[Any]:
    """Each prompt: a text, or a list of token ids."""
    if isinstance(prompt, str) or _are_tokens(prompt):
        return [prompt]
    if prompt and all(isinstance(one, str) or _are_tokens(one) for one in prompt):
        return prompt
    raise InvalidRequestError("prompt must be a text, a list of texts, or token ids.", param="prompt")


def _are_tokens(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(type(token) is int for token in prompt)


def _logprobs(entries: list[TokenLogprob] | None, offset: int) -> dict[str, Any] | None:
    """The older shape of log probabilities: four lists side by side."""
    if entries is None:
        return None
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{other.token: other.logprob for other in entry.alternatives} for entry in entries],
        "text_offset": offsets,
    }
