"""Ollama's `/api/chat` and `/api/generate`."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from miner.core._typing import override
from miner.core.wire import LLMResponse
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.fields import drop_raw
from miner.gateway.apis.ollama.convert import NAMES, content_with_images, convert_messages, generation_arguments
from miner.gateway.apis.ollama.loading import apply_model, load
from miner.gateway.apis.ollama.response import (
    Kind,
    Reply,
    final_fields,
    logprob_entries,
    text_fields,
    timestamp,
    tool_calls,
)
from miner.gateway.apis.ollama.schema import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaGenerationParams,
    OllamaOptions,
)
from miner.gateway.apis.ollama.stream import STREAM_TYPE, LineStream
from miner.gateway.body_structure import bounded
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call, Head
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import send_reply
from miner.gateway.model_backend import backend_of
from miner.gateway.request_body import decode, decode_body, off_loop

R = TypeVar("R", bound=OllamaGenerationParams)
_OPTIONS = frozenset(OllamaOptions.__struct_fields__)
_WORDS = {"suffix": "insert", "think": "thinking"}
"""Fields, and Ollama's names of what a model lacks that does not support them."""


class _OllamaDialect(Generic[R]):
    """The parts that both routes share."""

    kind: Kind
    heartbeat: bytes
    stream_type = STREAM_TYPE
    id_prefix: str | None = None
    decoder: msgspec.json.Decoder[R]

    def is_empty(self, request: R) -> bool:
        """Whether the body has nothing to generate from: it loads or unloads the model."""
        raise NotImplementedError

    def add_input(self, request: R, call: Call, arguments: dict[str, Any]) -> None:
        """Add the service's `messages` or `prompt`, and this route's own fields."""
        raise NotImplementedError

    def parse(self, body: bytes) -> Call:
        """Parse a request body."""
        foreign: dict[str, Any] = {}
        return self.convert(decode(body, self.decoder, foreign), foreign)

    def convert(self, request: R, foreign: dict[str, Any]) -> Call:
        """The request as the service takes it; `foreign` are the fields that it does not know."""
        stream = request.stream is not False
        call = Call([], request.model, stream, names=FieldNames(NAMES), options=Reply(request.model or ""))
        call.foreign, call.fields = foreign, type(request).__struct_fields__
        for name in foreign.keys() & _OPTIONS:  # Ollama does not read them there
            del foreign[name]
            call.skip(name, f"Unknown parameter: {name!r}.", hint=f"Put it into options: options.{name}.")
        call.strict = {"reasoning"}  # as in Ollama, `think` is refused where a model cannot
        arguments = generation_arguments(request, call)
        self.add_input(request, call, arguments)
        call.arguments = [arguments]
        return call

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A response in one object."""
        response, reply = responses[0], call.options
        calls = tool_calls(response.tool_calls or (), truncated=response.finish_reason == "length")
        body = {
            "model": reply.model,
            "created_at": timestamp(),
            **text_fields(self.kind, response.content, response.reasoning, calls),
            **final_fields(reply, response.finish_reason, response.usage, response.timings),
        }
        if response.context is not None:
            body["context"] = response.context
        if response.logprobs is not None:
            body["logprobs"] = logprob_entries(response.logprobs)
        return msgspec.json.encode(body)

    def stream(self, call: Call, head: Head) -> LineStream:
        """The writer of a stream."""
        return LineStream(self.kind, call.options)

    async def handle(self, context: RequestContext) -> web.StreamResponse:
        """Generate; from an empty body, load or unload the model."""
        foreign: dict[str, Any] = {}
        request = await decode_body(context, self.decoder, foreign)
        if self.is_empty(request):
            return await load(context, request, self.kind, foreign)
        call = await off_loop(context, self.convert, request, foreign)
        drop_raw(call, (await backend_of(context.gateway.service, call.model)).capabilities)
        await apply_model(context, call, request.options)
        call.options.is_ready()
        try:
            return await send_reply(context, self, call)
        except UnsupportedFeatureError as error:
            what = _WORDS.get(error.param or "")
            if error.param == "model" and "generate text" in error.message:
                what = self.kind
            if what is not None:  # Ollama's words, which its clients look for
                error.message, error.hint = f'"{request.model}" does not support {what}', None
            raise


class OllamaChat(_OllamaDialect[OllamaChatRequest]):
    """The dialect of `/api/chat`."""

    kind = "chat"
    heartbeat = b'{"message":{"role":"assistant","content":""},"done":false}\n'
    decoder = msgspec.json.Decoder(OllamaChatRequest)

    @override
    def is_empty(self, request: OllamaChatRequest) -> bool:
        return not request.messages

    @override
    def add_input(self, request: OllamaChatRequest, call: Call, arguments: dict[str, Any]) -> None:
        arguments["messages"] = convert_messages(request.messages or [], call)
        if request.tools:
            arguments["tools"] = bounded(request.tools, "tools")


class OllamaGenerate(_OllamaDialect[OllamaGenerateRequest]):
    """The dialect of `/api/generate`: one prompt, through the model's chat template or past it."""

    kind = "generate"
    heartbeat = b'{"response":"","done":false}\n'
    decoder = msgspec.json.Decoder(OllamaGenerateRequest)

    @override
    def is_empty(self, request: OllamaGenerateRequest) -> bool:
        return not request.prompt

    @override
    def add_input(self, request: OllamaGenerateRequest, call: Call, arguments: dict[str, Any]) -> None:
        if request.template:
            hint = "Create a model with the template (/api/create), or send the whole prompt with raw: true."
            call.skip("template", hint=hint, changes=True)
        prompt = request.prompt or ""
        if request.suffix:  # the gap's tokens take the place of the chat template
            for name in ("images", "context"):
                if getattr(request, name):
                    raise InvalidRequestError(f"suffix takes no {name}: remove them.", param=name)
            call.ignored += ["system"] if request.system else []
            arguments |= {"prompt": prompt, "suffix": request.suffix}
        elif request.raw:
            if request.system or request.images or request.context:
                raise InvalidRequestError(
                    "raw mode does not support template, system, or context, nor images: remove them.", param="raw"
                )
            arguments |= {"prompt": prompt, "raw": True}
            if arguments.pop("reasoning", None):
                call.ignored.append("think")  # it is the chat template that makes a model reason
        elif request.system or request.images:
            system = [{"role": "system", "content": request.system}] if request.system else []
            user = {"role": "user", "content": content_with_images(prompt, request.images, "images")}
            arguments["messages"] = [*system, user]
        else:
            arguments["prompt"] = prompt
        if not request.raw and not request.suffix and (request.context or not request.images):
            arguments["context"] = request.context or []
        place = f"messages[{int(bool(request.system))}]"
        call.names.add({"messages[0]": "system", "messages[0].content": "system"})
        call.names.add({place: "prompt", f"{place}.content": "prompt"})
