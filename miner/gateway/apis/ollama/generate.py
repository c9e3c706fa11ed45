"""Ollama's `/api/generate`: one prompt, through the model's template or past it."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import LLMResponse
from miner.errors import InvalidRequestError, UnsupportedFeatureError
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
from miner.gateway.apis.ollama.convert import content_of
from miner.gateway.apis.ollama.loading import complete, load
from miner.gateway.apis.ollama.stream import LineStream, finished, said
from miner.gateway.context import RequestContext
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import reply
from miner.gateway.request_body import decode, decode_body, off_loop

__all__ = ["OllamaGenerate", "OllamaGenerateBody", "generate"]


class OllamaGenerateBody(Common, kw_only=True, forbid_unknown_fields=True):
    """The body of a generation."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: list[str] | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None


_DECODER = msgspec.json.Decoder(OllamaGenerateBody)
_LACKING = {
    "suffix": "Put it into the prompt, in the form that the model knows, with raw: true.",
    "template": "The model's own is used; with raw: true none is.",
    "context": "Send the conversation to /api/chat.",
}


class OllamaGenerate:
    """The dialect of `/api/generate`."""

    stream_type = STREAM_TYPE
    heartbeat = b'{"response":"","done":false}\n'

    def parse(self, body: bytes) -> Call:
        """Read a body."""
        return self.call(decode(body, _DECODER))

    def call(self, asked: OllamaGenerateBody) -> Call:
        """What a body asks for."""
        for name, instead in _LACKING.items():
            if getattr(asked, name):
                raise UnsupportedFeatureError(f"{name} is not supported.", param=name, hint=instead)
        ignored: list[str] = []
        arguments = sampling(asked, ignored)
        arguments.update(_prompt(asked))
        if asked.raw and arguments.pop("reasoning", None):
            ignored.append("think")  # it is the chat template that makes a model think
        return Call(
            [arguments], asked.model, asked.stream is not False, ignored, names=_names(asked), options=asked.model
        )

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A reply in one piece."""
        response = responses[0]
        body = {
            "model": call.options,
            "created_at": now(),
            **said("generate", response.content, response.reasoning),
            **finished(response.finish_reason, response.usage, response.timings),
        }
        if response.logprobs is not None:
            body["logprobs"] = logprob_entries(response.logprobs)
        return msgspec.json.encode(body)

    def stream(self, call: Call, head: Head) -> LineStream:
        """The writer of a stream."""
        return LineStream("generate", call.options)


def _names(asked: OllamaGenerateBody) -> FieldNames:
    turn = int(bool(asked.system))
    places = {"messages[0]": "system", "messages[0].content": "system"} if turn else {}
    return FieldNames({**NAMES, **places, f"messages[{turn}]": "prompt", f"messages[{turn}].content": "prompt"})


def _prompt(asked: OllamaGenerateBody) -> dict[str, Any]:
    prompt = asked.prompt or ""
    if asked.raw:
        if asked.system or asked.images:
            raise InvalidRequestError("raw: true sends the prompt alone: leave out system and images.", param="raw")
        return {"prompt": prompt, "raw": True}
    if not asked.system and not asked.images:
        return {"prompt": prompt}
    turns = [{"role": "system", "content": asked.system}] if asked.system else []
    return {"messages": [*turns, {"role": "user", "content": content_of(prompt, asked.images, "images")}]}


_DIALECT = OllamaGenerate()


async def generate(context: RequestContext) -> web.StreamResponse:
    """The text after a prompt; without a prompt, loading or unloading a model."""
    asked = await decode_body(context, _DECODER)
    model_of(asked.model)
    if not asked.prompt:
        return await load(context, asked, "generate")
    call = await off_loop(context, _DIALECT.call, asked)
    if asked.raw and "raw" not in context.gateway.service.capabilities:
        # A backend that takes prompts as they are and knows no template, such as one of the smallest form.
        call.ignored.append("raw")
        del call.arguments[0]["raw"]
    await complete(context, call, asked.options)
    return await reply(context, _DIALECT, call)
