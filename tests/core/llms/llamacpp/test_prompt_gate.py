"""How many prompts an engine reads at a time, and what is left of those that are cancelled: by its own counters."""

from __future__ import annotations

import asyncio
import random
import re

import pytest

from miner.core.llms.llamacpp.prompt_gate import PromptGate
from miner.core.wire import LLMChunk, Progress
from miner.errors import MinerError
from tests.core.llms.contract.test_engine_errors import SOON, errors_of, llamacpp

PATIENCE = 120.0
TEXT = "Once upon a time there was a word. "
BATCH = 32


async def gate_of(size, *bodies):
    """Tasks that have entered or wait, and a list of those that are inside, in order."""
    gate, inside = PromptGate(size), []

    async def one(number, body):
        async with gate.permit(b"x" * body) as permit:
            inside.append(number)
            try:
                await asyncio.sleep(1000)
            finally:
                permit.release()
                inside.remove(number)

    tasks = [asyncio.create_task(one(number, body)) for number, body in enumerate(bodies)]
    await asyncio.sleep(0)
    return tasks, inside


async def leave(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)


async def test_long_prompts_go_two_at_a_time_in_order():
    tasks, inside = await gate_of(100, *[10_000] * 5)
    assert inside == [0, 1]
    await leave(tasks[0])
    assert inside == [1, 2]
    await leave(tasks[3], tasks[1])  # one that waits leaves no trace
    assert inside == [2, 4]
    await leave(*tasks)
    assert inside == []


async def test_short_prompts_go_together():
    tasks, inside = await gate_of(100, *[80] * 15)  # 20 tokens each: ten fill two batches
    assert inside == list(range(10))
    await leave(tasks[5])
    assert inside == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    await leave(*tasks)


async def test_when_all_are_cancelled_at_once_none_of_those_that_wait_is_sent():
    tasks, inside = await gate_of(100, *[10_000] * 50)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert inside == []
    assert all(task.cancelled() for task in tasks)


async def test_one_that_is_cancelled_as_it_is_let_in_gives_its_place_on():
    tasks, inside = await gate_of(100, *[10_000] * 4)
    tasks[0].cancel()
    await asyncio.sleep(0)  # its place is given to the third, which has not run yet
    tasks[2].cancel()
    await asyncio.gather(tasks[0], tasks[2], return_exceptions=True)
    await asyncio.sleep(0)
    assert inside == [1, 3]
    await leave(*tasks)


@pytest.mark.parametrize(
    ("chunks", "read"),
    [
        ([LLMChunk(progress=Progress(0, 10))], False),
        ([LLMChunk(progress=Progress(5, 10))], False),
        ([LLMChunk(progress=Progress(10, 10))], True),
        ([LLMChunk(content="a")], True),
        ([LLMChunk(progress=Progress(5, 10)), LLMChunk(finish_reason="stop")], True),
    ],
)
async def test_what_says_that_a_prompt_is_read(chunks, read):
    async with PromptGate(100).permit(b"x") as permit:
        assert permit.update(chunks) is read


async def asked(service, path):
    (running,) = service._engines._servers.values()
    return (await running.http.request("GET", path, total=PATIENCE, root=True)).body.decode()


async def busy(service):
    return (await asked(service, "/slots")).count('"is_processing":true')


async def batches(service):
    found = re.search(r"^llamacpp:n_decode_total (\d+)", await asked(service, "/metrics"), re.MULTILINE)
    assert found
    return int(found[1])


def prompts(count, words=40):
    return [f"{random.random()} {TEXT * words}" for _ in range(count)]  # none is in the cache


@pytest.mark.engine
async def test_prompts_that_are_cancelled_cost_the_next_request_a_few_batches():
    """64 prompts over 8 slots, cancelled while the first are read."""
    async with llamacpp(llamacpp_parallel=8, llamacpp_ctx_size=1024, llamacpp_batch_size=BATCH) as service:
        await service.generate("Hi", max_tokens=1)
        for _ in range(2):
            before = await batches(service)
            tasks = [asyncio.create_task(service.generate(text, max_tokens=9)) for text in prompts(64)]
            async with asyncio.timeout(PATIENCE):
                while await batches(service) < before + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert 1 <= await busy(service) <= 2
            for task in tasks:
                task.cancel()
            cancelled_at = await batches(service)
            await asyncio.gather(*tasks, return_exceptions=True)
            async with asyncio.timeout(PATIENCE):
                await anext(aiter(service.stream(TEXT, max_tokens=1)))
            # What was in the engine, and its own; with 8 prompts in the engine, all is free after nine batches.
            assert await batches(service) - cancelled_at <= 6
            async with asyncio.timeout(PATIENCE):
                while await busy(service):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert await batches(service) - cancelled_at <= 6


@pytest.mark.engine
async def test_all_are_served_however_long_they_are():
    async with llamacpp(llamacpp_parallel=4, llamacpp_ctx_size=1024) as service:
        texts = [TEXT * (20 if number % 3 else 1) + str(number) for number in range(9)]
        async with asyncio.timeout(PATIENCE):
            responses = await asyncio.gather(
                *(service.chat_completion([{"role": "user", "content": text}], max_tokens=3) for text in texts)
            )
        assert all(response.usage.completion_tokens for response in responses)
        assert max(response.timings.queue for response in responses) > 0


@pytest.mark.engine
async def test_closing_ends_what_waits_to_be_sent():
    async with llamacpp(llamacpp_parallel=8, llamacpp_ctx_size=1024, llamacpp_batch_size=BATCH) as service:
        await service.generate("Hi", max_tokens=1)
        before, endless = await batches(service), {"max_tokens": 600, "extra": {"ignore_eos": True}}
        tasks = [asyncio.create_task(service.generate(text, **endless)) for text in prompts(8)]
        async with asyncio.timeout(PATIENCE):
            while await batches(service) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await asyncio.wait_for(service.aclose(), SOON)
        assert all(isinstance(error, MinerError) for error in await errors_of(tasks))
