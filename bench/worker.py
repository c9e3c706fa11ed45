"""One client in a process of its own: does the rounds that `clients.py` asks for and tells what CPU they took.

    python -m bench.worker NAME URL       reads one JSON line for each round, answers with one

Every client does the same work: it takes the text out of each chunk and adds up its length, which is checked. Only the
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
"""One request; gives the number of characters that came."""


def _body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "max_tokens": 512, "temperature": 0.5, "top_p": 0.9, **more}


_STREAM = {"stream": True, "stream_options": {"include_usage": True}}


async def bare(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """Aiohttp and orjson, and nothing else."""
    import aiohttp
    import orjson

    session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    headers = {"Content-Type": "application/json"}

    async def stream() -> int:
        # The loop that one writes: line by line, as aiohttp gives them.
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
        # The quickest that we know: whatever a read brings is split in one go.
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

    async def whole() -> int:
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

    async def ollama_whole() -> int:
        async with session.post(f"{url}/api/chat", data=ollama(False), headers=headers) as response:
            return len(orjson.loads(await response.read())["message"]["content"])

    return {
        "stream": stream, "stream by read": stream_by_read, "whole": whole,
        "ollama stream": ollama_stream, "ollama stream by read": ollama_by_read, "ollama whole": ollama_whole,
    }  # fmt: skip


async def miner(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """Ours: the public stream, and its batches."""
    from bench.recorded import SCHEMA, TOOL
    from miner.config.config import MinerConfig
    from miner.core.llms.llm_ollama import OllamaService
    from miner.core.llms.llm_vllm import VLLMService

    config = MinerConfig(_env_file=None, vllm_api_base=f"{url}/v1", ollama_base_url=url)
    vllm = await stack.enter_async_context(VLLMService(config))
    ollama = await stack.enter_async_context(OllamaService(config))
    given: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 512, "temperature": 0.5, "top_p": 0.9}

    async def flattened(service: Any, model: str, **options: Any) -> int:
        count = 0
        async for chunk in service.stream(model=model, **given, **options):
            if chunk.content:
                count += len(chunk.content)
        return count

    async def batches(service: Any, model: str) -> int:
        count = 0
        async for batch in service.stream(model=model, **given).batches():
            for chunk in batch:
                if chunk.content:
                    count += len(chunk.content)
        return count

    async def tools() -> int:
        count = 0
        async for chunk in vllm.stream(model="tools", tools=[TOOL], **given):
            for call in chunk.tool_calls or ():
                count += len(call["function"].get("arguments", ""))
        return count

    async def whole(service: Any, model: str) -> int:
        return len((await service.chat_completion(model=model, **given)).content)

    return {
        "stream": lambda: flattened(vllm, "plain"),
        "stream batches": lambda: batches(vllm, "plain"),
        "stream tools": tools,
        "stream schema": lambda: flattened(vllm, "schema", response_format=SCHEMA),
        "whole": lambda: whole(vllm, "plain"),
        "ollama stream": lambda: flattened(ollama, "smollm2"),
        "ollama stream batches": lambda: batches(ollama, "smollm2"),
        "ollama whole": lambda: whole(ollama, "smollm2"),
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

    async def whole() -> int:
        return len((await client.chat.completions.create(**_body("plain"))).choices[0].message.content or "")

    return {"stream": stream, "whole": whole}


async def litellm(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """LiteLLM's Python API."""
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch a price list at import
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

    async def whole() -> int:
        return len((await library.acompletion(**_body("hosted_vllm/plain"), **where)).choices[0].message.content)

    return {"stream": stream, "whole": whole}


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

    async def whole() -> int:
        return len((await client.acompletion(**_body("plain"))).choices[0].message.content)

    return {"stream": stream, "whole": whole}


async def ollama(url: str, stack: AsyncExitStack) -> dict[str, Work]:
    """Ollama's own package."""
    from ollama import AsyncClient

    client = AsyncClient(host=url)
    given: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "options": {"num_predict": 9}}

    async def stream() -> int:
        count = 0
        async for part in await client.chat(**given, stream=True):
            count += len(part.message.content or "")
        return count

    async def whole() -> int:
        return len((await client.chat(**given)).message.content or "")

    return {"ollama stream": stream, "ollama whole": whole}


CLIENTS = {
    "bare": bare, "miner": miner, "openai": openai, "litellm": litellm, "any-llm": any_llm, "ollama": ollama,
}  # fmt: skip


async def _round(work: Work, requests: int, at_once: int) -> dict[str, Any]:
    """`requests` in all, `at_once` at any time; the CPU time is that of the whole process."""
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
        # Waiting for orders blocks the loop: nothing else shall run meanwhile.
        while line := sys.stdin.readline():
            order = json.loads(line)
            print(json.dumps(await _round(works[order["work"]], order["requests"], order["at_once"])), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
