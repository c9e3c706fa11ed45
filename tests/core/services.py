"""Services over a test server, and helpers of the tests in this directory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from miner.config.config import MinerConfig
from miner.core._typing import override
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService
from miner.core.llms.openai.service import Endpoint, OpenAIService
from miner.core.wire import LLMChunk

ENGINES = ("vllm", "ollama")
MESSAGES = [{"role": "user", "content": "hi"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class PlainService(OpenAIService):
    """Plain OpenAI at VLLM_API_BASE: what a user's own subclass would be."""

    name = "plain"
    features = OpenAIService.features | {"progress", "top_k", "min_p"}

    @override
    def endpoint(self) -> Endpoint:
        return Endpoint(self._settings.vllm_api_base, None, self._settings.vllm_timeout)


KINDS: dict[str, type[LLMService]] = {"vllm": VLLMService, "ollama": OllamaService, "llamacpp": PlainService}


def settings(**given: Any) -> MinerConfig:
    """Settings from these arguments alone: no `.env`, no retries unless a test sets them."""
    return MinerConfig(**{"_env_file": None, "max_retries": 0, **given})


def service_at(engine: str, url: str, **given: Any) -> LLMService:
    """The engine's service at a server whose root is `url`; `timeout`: the read timeout in seconds."""
    timeout = given.pop("timeout", 30.0)
    own = {"ollama_base_url": url, "vllm_api_base": f"{url}/v1", "vllm_timeout": timeout, "ollama_timeout": timeout}
    return KINDS[engine](settings(**{**own, **given}))


@asynccontextmanager
async def speaking_to(engine: str, server: Any, **given: Any) -> AsyncIterator[LLMService]:
    """The same, closed at the end."""
    async with service_at(engine, server.url, **given) as service:
        yield service


def text_of(chunks: list[LLMChunk]) -> str:
    """The joined content."""
    return "".join(chunk.content or "" for chunk in chunks)


async def read(stream: Any) -> list[LLMChunk]:
    """All chunks."""
    return [chunk async for chunk in stream]


async def ask(service: LLMService, mode: str, prompt: str = "hi", **options: Any) -> str:
    """The text of a response: non-streaming in mode `call`, joined in mode `stream`."""
    if mode == "call":
        return await service.generate(prompt, **options)
    return text_of(await read(service.stream(prompt, **options)))


async def nothing_left() -> None:
    """Fail if a task is left; collects garbage, so that an unclosed socket or transport warns (an error here)."""
    gc.collect(1)  # what a test made is young; a whole collection takes a tenth of a second
    for _ in range(3):
        await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    left = [task for task in others if "test server" not in task.get_name() and not _of_server(task)]
    assert left == [], left


def _of_server(task: asyncio.Task[Any]) -> bool:
    """Whether a task belongs to a test server and not to the product."""
    code = getattr(task.get_coro(), "cr_code", None)
    return (code is not None and "/tests/servers/" in code.co_filename) or any(
        word in repr(task) for word in ("StreamReaderProtocol", "StreamWriter")
    )  # fmt: skip
