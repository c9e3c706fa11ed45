"""One client in its own process: runs the rounds that `clients.py` requests and reports their CPU time.

    python -m bench.worker NAME URL       one JSON line per round in, one out

Every client does the same work: it extracts the text of each chunk and adds up its length, which is checked. Only the
standard library and the client's own package are imported here.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
Work = Callable[[], Awaitable[int]]
"""One request; returns the number of characters received."""


def _body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "max_tokens": 512, "temperature": 0.5, "top_p": 0.9, **more}


_STREAM = {"stream": True, "stream_options": {"include_usage": True}}


async def bare(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """Aiohttp and orjson only."""
    import aiohttp
    import orjson

    session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    headers = {"Content-Type": "application/json"}

    async def stream() -> int:
        # The usual loop: line by line.
        count = 0
        data = orjson.dumps(_body("plain", **_STREAM))
        async with session.post(f"{url}/v1/chat/completions", data=data, headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    payload = line[6:].strip()
                    if payload == b"[DONE]":
                        break
                    choices = orjson.loads(payload)["choices"]
                    if choices:
                        count += len(choices[0]["delta"].get("content") or "")
        return count

    async def stream_by_read() -> int:
        # The fastest known: split each read at once.
        count, rest = 0, b""
        data = orjson.dumps(_body("plain", **_STREAM))
        async with session.post(f"{url}/v1/chat/completions", data=data, headers=headers) as response:
            async for piece in response.content.iter_any():
                *events, rest = (rest + piece).split(b"\n\n")
                for event in events:
                    payload = event[6:]
                    if payload == b"[DONE]":
                        break
                    choices = orjson.loads(payload)["choices"]
                    if choices:
                        count += len(choices[0]["delta"].get("content") or "")
        return count

    async def chat() -> int:
        data = orjson.dumps(_body("plain"))
        async with session.post(f"{url}/v1/chat/completions", data=data, headers=headers) as response:
            return len(orjson.loads(await response.read())["choices"][0]["message"]["content"])

    def ollama(stream: bool) -> bytes:
        return orjson.dumps({"model": "smollm2", "messages": MESSAGES, "stream": stream, "options": {"num_predict": 9}})

    async def ollama_stream() -> int:
        count = 0
        async with session.post(f"{url}/api/chat", data=ollama(True), headers=headers) as response:
            async for line in response.content:
                count += len(orjson.loads(line)["message"]["content"])
        return count

    async def ollama_by_read() -> int:
        count, rest = 0, b""
        async with session.post(f"{url}/api/chat", data=ollama(True), headers=headers) as response:
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    count += len(orjson.loads(line)["message"]["content"])
        return count

    async def ollama_chat() -> int:
        async with session.post(f"{url}/api/chat", data=ollama(False), headers=headers) as response:
            return len(orjson.loads(await response.read())["message"]["content"])

    return {
        "stream": stream, "stream by read": stream_by_read, "chat": chat,
        "ollama stream": ollama_stream, "ollama stream by read": ollama_by_read, "ollama chat": ollama_chat,
    }  # fmt: skip


async def miner(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """miner: the public stream, and its batches."""
    from bench.recorded import SCHEMA, TOOL
    from miner.config.config import MinerConfig
    from miner.core.llms.llm_ollama import OllamaService
    from miner.core.llms.llm_vllm import VLLMService

    config = MinerConfig(_env_file=None, vllm_api_base=f"{url}/v1", ollama_base_url=url)
    vllm = await stack.enter_async_context(VLLMService(config))
    ollama = await stack.enter_async_context(OllamaService(config))
    params: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 512, "temperature": 0.5, "top_p": 0.9}

    async def flattened(service: Any, model: str, **options: Any) -> int:
        count = 0
        async for chunk in service.stream(model=model, **params, **options):
            if chunk.content:
                count += len(chunk.content)
        return count

    async def batches(service: Any, model: str) -> int:
        count = 0
        async for batch in service.stream(model=model, **params).batches():
            for chunk in batch:
                if chunk.content:
                    count += len(chunk.content)
        return count

    async def tools() -> int:
        count = 0
        async for chunk in vllm.stream(model="tools", tools=[TOOL], **params):
            for call in chunk.tool_calls or ():
                count += len(call["function"].get("arguments", ""))
        return count

    async def chat(service: Any, model: str) -> int:
        return len((await service.chat_completion(model=model, **params)).content)

    return {
        "stream": lambda: flattened(vllm, "plain"),
        "stream batches": lambda: batches(vllm, "plain"),
        "stream tools": tools,
        "stream schema": lambda: flattened(vllm, "schema", response_format=SCHEMA),
        "chat": lambda: chat(vllm, "plain"),
        "ollama stream": lambda: flattened(ollama, "smollm2"),
        "ollama stream batches": lambda: batches(ollama, "smollm2"),
        "ollama chat": lambda: chat(ollama, "smollm2"),
    }


async def openai(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """OpenAI's own SDK."""
    from openai import AsyncOpenAI

    client = await stack.enter_async_context(AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))

    async def stream() -> int:
        count = 0
        async for chunk in await client.chat.completions.create(**_body("plain", **_STREAM)):
            if chunk.choices:
                count += len(chunk.choices[0].delta.content or "")
        return count

    async def chat() -> int:
        return len((await client.chat.completions.create(**_body("plain"))).choices[0].message.content or "")

    return {"stream": stream, "chat": chat}


async def litellm(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """LiteLLM's Python API."""
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it downloads a price list at import
    import litellm as library

    library.telemetry = False
    library.suppress_debug_info = True
    where = {"api_base": f"{url}/v1", "api_key": "none", "num_retries": 0}

    async def stream() -> int:
        count = 0
        async for chunk in await library.acompletion(**_body("hosted_vllm/plain", **_STREAM), **where):
            if chunk.choices:
                count += len(chunk.choices[0].delta.content or "")
        return count

    async def chat() -> int:
        return len((await library.acompletion(**_body("hosted_vllm/plain"), **where)).choices[0].message.content)

    return {"stream": stream, "chat": chat}


async def any_llm(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """any-llm, with its client made once."""
    from any_llm import AnyLLM

    client = AnyLLM.create("vllm", api_base=f"{url}/v1", api_key="none")

    async def stream() -> int:
        count = 0
        async for chunk in await client.acompletion(**_body("plain", **_STREAM)):
            if chunk.choices:
                count += len(chunk.choices[0].delta.content or "")
        return count

    async def chat() -> int:
        return len((await client.acompletion(**_body("plain"))).choices[0].message.content)

    return {"stream": stream, "chat": chat}


async def ollama(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """Ollama's own package."""
    from ollama import AsyncClient

    client = AsyncClient(host=url)
    params: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "options": {"num_predict": 9}}

    async def stream() -> int:
        count = 0
        async for part in await client.chat(**params, stream=True):
            count += len(part.message.content or "")
        return count

    async def chat() -> int:
        return len((await client.chat(**params)).message.content or "")

    return {"ollama stream": stream, "ollama chat": chat}


CLIENTS = {
    "bare": bare, "miner": miner, "openai": openai, "litellm": litellm, "any-llm": any_llm, "ollama": ollama,
}  # fmt: skip


async def _round(work: Work, requests: int, at_once: int) -> dict[str, Any]:
    """Run `requests`, `at_once` at a time; the CPU time is that of the process."""
    left = requests
    counts = set()

    async def asker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            counts.add(await work())

    gc.collect()
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(asker() for _ in range(at_once)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    return {"cpu": cpu, "wall": wall, "counts": sorted(counts)}


async def main(name: str, url: str) -> None:
    async with AsyncExitStack() as stack:
        began = time.process_time()
        works = await CLIENTS[name](url, stack)
        ready = {"works": list(works), "load_cpu": time.process_time() - began}
        print(json.dumps(ready), flush=True)
        # Reading the next line blocks the loop on purpose: nothing else may run.
        while line := sys.stdin.readline():
            task = json.loads(line)
            print(json.dumps(await _round(works[task["work"]], task["requests"], task["at_once"])), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
