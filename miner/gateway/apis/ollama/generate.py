"""Ollama's `/api/generate`: one prompt, through the model's chat template or past it."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core._typing import override
from miner.errors import InvalidRequestError
from miner.gateway.apis.base import Call
from miner.gateway.apis.fields import refuse_unsupported
from miner.gateway.apis.ollama.convert import content_with_images
from miner.gateway.apis.ollama.dialect import OllamaDialect
from miner.gateway.apis.ollama.schema import OllamaGenerateRequest

__all__ = ["OllamaGenerate"]

_UNSUPPORTED = {
    "suffix": "Put it into the prompt, in the model's own format, with raw: true.",
    "template": "The model's own template is used, or none with raw: true.",
    "context": "Send the conversation to /api/chat.",
}


class OllamaGenerate(OllamaDialect[OllamaGenerateRequest]):
    """The dialect of `/api/generate`."""

    kind = "generate"
    heartbeat = b'{"response":"","done":false}\n'
    decoder = msgspec.json.Decoder(OllamaGenerateRequest)

    @override
    def is_empty(self, request: OllamaGenerateRequest) -> bool:
        return not request.prompt

    @override
    def add_arguments(self, request: OllamaGenerateRequest, call: Call, arguments: dict[str, Any]) -> None:
        refuse_unsupported(request, _UNSUPPORTED)
        prompt = request.prompt or ""
        if request.raw:
            if request.system or request.images:
                raise InvalidRequestError("raw: true sends only the prompt: remove system and images.", param="raw")
            arguments |= {"prompt": prompt, "raw": True}
            if arguments.pop("reasoning", None):
                call.ignored.append("think")  # it is the chat template that makes a model reason
        elif request.system or request.images:
            system = [{"role": "system", "content": request.system}] if request.system else []
            user = {"role": "user", "content": content_with_images(prompt, request.images, "images")}
            arguments["messages"] = [*system, user]
        else:
            arguments["prompt"] = prompt
        user_place = f"messages[{int(bool(request.system))}]"
        call.names.add({"messages[0]": "system", "messages[0].content": "system"})
        call.names.add({user_place: "prompt", f"{user_place}.content": "prompt"})
