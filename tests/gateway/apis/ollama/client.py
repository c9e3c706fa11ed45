"""Requests as Ollama's clients send them, and a backend that loads on demand."""

from __future__ import annotations

import json

import aiohttp

from miner.core.llms.LLMService import LLMService
from miner.core.wire import Embedding, EmbeddingResponse, LLMResponse, ModelInfo, TokenLogprob, TokenUsage
from tests.servers.payloads import delta, finish, usage_chunk

USER = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
BLUE = [TokenLogprob("blue", -0.5, None, [TokenLogprob("red", -2)])]
CALLS = [
    delta(role="assistant", content=None),
    delta(
        tool_calls=[{"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}}]
    ),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"Rome"}'}}]),
    delta(
        tool_calls=[
            {"index": 1, "id": "call_b", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ]
    ),
    finish("tool_calls"),
    usage_chunk(),
]


async def send(served, path, body=None, method="POST"):
    """Status, headers and the JSON values of the lines of an response."""
    data = None if body is None else json.dumps(body)
    async with aiohttp.ClientSession() as session, session.request(method, served.url + path, data=data) as response:
        text = await response.text()
        kind = response.headers["Content-Type"]
        lines = [json.loads(line) for line in text.splitlines()] if "json" in kind else [text]
        return response.status, response.headers, lines


class Loader(LLMService):
    """A backend that loads on demand, embeds, thinks and tells log probabilities; it keeps what it was asked."""

    name = "loader"
    capabilities = frozenset(
        "chat tools reasoning logprobs seed embeddings images keep_alive timeout json_object raw stop".split()
    )

    def __init__(self, settings=None):
        super().__init__(settings)
        self.requests = []
        self.up = False

    async def list_models(self):
        return [await self._get_model("small"), ModelInfo(id="default", aliases=["d"], loaded=False)]

    async def _get_model(self, model_name):
        return ModelInfo(
            id=model_name, context_length=512, loaded=self.up, size=1000, parameters=134_515_008, quantization="Q4_1",
            architecture="llama", dimensions=3, created=1_795_373_273, digest="a" * 64,
        )  # fmt: skip

    async def _embed(self, texts, model):
        vectors = [Embedding(place, [1.0, 2.0, float(len(text))]) for place, text in enumerate(texts)]
        return EmbeddingResponse(data=vectors, model=model, usage=TokenUsage(5, 0, 5))

    async def _load(self, info, keep_alive):
        self.up = True
        return await self._get_model(info.id)

    async def unload_model(self, model):
        was, self.up = self.up, False
        return was

    async def _chat(self, request):
        self.requests.append(request)
        self.up = request.keep_alive not in (0, "0s")
        return LLMResponse(
            content="blue", reasoning="hm", finish_reason="stop", usage=TokenUsage(3, 2, 5), model=request.model,
            logprobs=BLUE if request.logprobs is not None else None,
        )  # fmt: skip
