"""Ollama's `/api/chat`."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core._typing import override
from miner.gateway.apis.base import Call
from miner.gateway.apis.ollama.convert import convert_messages
from miner.gateway.apis.ollama.dialect import OllamaDialect
from miner.gateway.apis.ollama.schema import OllamaChatRequest
from miner.gateway.body_limits import bounded

__all__ = ["OllamaChat"]


class OllamaChat(OllamaDialect[OllamaChatRequest]):
    """The dialect of `/api/chat`."""

    kind = "chat"
    heartbeat = b'{"message":{"role":"assistant","content":""},"done":false}\n'
    decoder = msgspec.json.Decoder(OllamaChatRequest)

    @override
    def is_empty(self, request: OllamaChatRequest) -> bool:
        return not request.messages

    @override
    def add_arguments(self, request: OllamaChatRequest, call: Call, arguments: dict[str, Any]) -> None:
        arguments["messages"] = convert_messages(request.messages or [])
        if request.tools:
            arguments["tools"] = bounded(request.tools, "tools")
