"""The gateway over a real engine: the demo model on llama.cpp, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal

import aiohttp
import psutil
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.server.test_run import miner_serve
from tests.gateway.serving import config, post, serving

pytestmark = pytest.mark.engine

WAIT = 120
STORY = [{"role": "user", "content": "Tell a very long story."}]


async def slots(service):
    """Busy slots and waiting requests."""
    engines = (await service.health()).engines
    return sum(engine.slots_busy for engine in engines), sum(engine.queued for engine in engines)


async def until(service, wanted):
    async with asyncio.timeout(WAIT):
        while await slots(service) != wanted:  # noqa: ASYNC110  (the engine pool tells nobody)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["Tell a very long story.", "word " * 3000])
async def test_a_client_that_hangs_up_frees_its_slot(prompt, stream):
    service = LlamaCppService(config(default_model="demo", llamacpp_parallel=1))
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 900, "stream": stream}
    async with serving(service) as served:

        async def ask():
            async with post(served, body) as answer:
                await answer.read()

        first = asyncio.create_task(ask())
        await until(service, (1, 0))
        second = asyncio.create_task(ask())
        await until(service, (1, 1))
        second.cancel()  # in the engine's queue
        await asyncio.gather(second, return_exceptions=True)
        await until(service, (1, 0))
        first.cancel()  # in prefill or decode
        await until(service, (0, 0))
        async with post(served, {"messages": STORY, "max_tokens": 3}) as answer:
            assert answer.status == 200


async def test_streams_are_not_buffered_and_equal_the_response():
    service = LlamaCppService(config(default_model="demo"))
    body = {"messages": STORY, "max_tokens": 40, "temperature": 0, "seed": 1}
    async with serving(service) as served:
        async with post(served, {**body, "stream": True}) as answer:
            reads = [data async for data in answer.content.iter_any()]
        async with post(served, body) as answer:
            whole = await answer.json()
    events = [json.loads(line[6:]) for line in b"".join(reads).split(b"\n\n") if line and line != b"data: [DONE]"]
    assert (
        "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
        == (whole["choices"][0]["message"]["content"])
    )
    assert len(reads) > 5


async def test_sigterm_leaves_no_engine_behind(tmp_path):
    environment = {"LLM_BACKEND": "llamacpp", "DEFAULT_MODEL": "demo", "MINER_SERVE_GRACE": "1"}
    async with miner_serve("--port", "0", tmp_path=tmp_path, **environment) as server:
        await server.until_serving()
        async with aiohttp.ClientSession() as session, asyncio.timeout(WAIT):
            while True:
                async with session.get(f"{server.url}/readyz") as ready:
                    if ready.status == 200:
                        break
                await asyncio.sleep(0.1)
        engines = psutil.Process(server.process.pid).children(recursive=True)
        assert engines
        async with post(server, {"messages": STORY, "max_tokens": 3000, "stream": True}) as answer:
            await answer.content.readline()
            server.process.send_signal(signal.SIGTERM)
            text = await answer.text()
        assert "[DONE]" in text or '"code":"shutting_down"' in text
        assert await server.ended() == 0
        _, alive = await asyncio.to_thread(psutil.wait_procs, engines, timeout=10)
        assert not alive
