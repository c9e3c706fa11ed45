"""A backend over an OpenAI-compatible server: its URL, its features, its errors."""

from __future__ import annotations

import os
import re
from typing import Any

from miner.core.http.errors import ErrorBody
from miner.core.llms.openai.service import Endpoint, OpenAIService
from miner.core.llms.schema.support import check_llama, format_schema
from miner.core.wire import ChatRequest
from miner.errors import ContextLengthError, MinerError

TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}


class LMStudioService(OpenAIService):
    """An LM Studio server at LMSTUDIO_API_BASE (default http://localhost:1234/v1), or at the `url` of its table in
    miner.toml.
    """

    name = "lmstudio"
    unreachable_hint = "Start its server (`lms server start`), or set LMSTUDIO_API_BASE; {url}/models must respond."
    # Other features are refused by name, before anything is sent.
    features = (OpenAIService.features - {"logprobs", "embeddings"} - TOOLS) | {"top_k", "repeat_penalty"}
    watches_stops = True
    neutral = {"top_k": 0, "repeat_penalty": 1.0}  # noqa: RUF012

    def endpoint(self) -> Endpoint:
        """The server's base URL, key and read timeout. Behind a miner.toml, `config` has those of its table."""
        url = getattr(self.config, "url", None) or os.environ.get("LMSTUDIO_API_BASE", "http://localhost:1234/v1")
        return Endpoint(url, getattr(self.config, "key", None), getattr(self.config, "timeout", None) or 300.0)

    def refine(self, status: int, body: ErrorBody, request: ChatRequest | None) -> MinerError | None:
        """LM Studio's message for a prompt that is too long."""
        if status == 400 and ("context length" in body.message or "context size" in body.message):
            numbers = [int(number) for number in re.findall(r"(\d+) tokens", body.message)]
            prompt, context = numbers if len(numbers) == 2 else (None, None)
            return ContextLengthError(
                f"The prompt is too long: {body.message}", prompt_tokens=prompt, context_length=context
            )
        return None

    async def _check_schemas(self, request: ChatRequest, able: frozenset[str]) -> ChatRequest:
        """Refuse keywords of a JSON Schema that llama.cpp, which runs under it, cannot enforce."""
        await check_llama(request, self.name, bounds=False)
        return request

    def adjust(self, body: dict[str, Any], request: ChatRequest) -> None:
        """LM Studio unloads a model after `ttl` seconds without a request."""
        if request.response_format is not None and request.response_format.schema is not None:
            body["response_format"]["json_schema"]["schema"] = format_schema(request, bounds=False).schema
        if isinstance(request.keep_alive, (int, float)):
            body["ttl"] = int(request.keep_alive)
