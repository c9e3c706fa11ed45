"""Many prompts at once: order of completion, backpressure, one failure is one failure, leaving early stops all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from miner.core.llms.LLMService import LLMService
from miner.errors import BackendUnavailableError, InvalidRequestError
from tests.core.llms.contract.test_failures import Faulty
from tests.core.services import ENGINES, nothing_left, settings, speaking_to
from tests.servers import faults
from tests.servers.openai_stub import StubServer


class Gated(LLMService):
    """Answers a prompt when its gate opens; counts what runs at once."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.gates: dict[str, asyncio.Event] = {}
        self.running = 0
        self.most = 0
        self.cancelled: list[str] = []

    def gate(self, prompt: str) -> asyncio.Event:
        return self.gates.setdefault(prompt, asyncio.Event())

    async def generate(self, prompt, model, max_tokens, temperature, top_p):  # type: ignore[override,no-untyped-def]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate(prompt).wait()
        except asyncio.CancelledError:
            self.cancelled.append(prompt)
            raise
        finally:
            self.running -= 1
        if prompt.startswith("bad"):
            raise BackendUnavailableError("down", backend="gated", retryable=False)
        return prompt.upper()


def counted(texts: Any, taken: list[str]) -> Iterator[str]:
    for text in texts:
        taken.append(text)
        yield text


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_results_come_in_the_order_of_completion_with_their_index():
    service = Gated(settings())
    results = service.generate_many(["a", "b", "c"], concurrency=3)
    for name, index in (("c", 2), ("a", 0), ("b", 1)):
        service.gate(name).set()
        assert await anext(results) == (index, name.upper())
    with pytest.raises(StopAsyncIteration):
        await anext(results)


async def test_never_more_than_allowed_and_prompts_are_taken_one_by_one():
    service = Gated(settings())
    taken: list[str] = []
    endless = (f"p{number}" for number in itertools.count())
    results = service.generate_many(counted(endless, taken), concurrency=3)
    asking = asyncio.ensure_future(anext(results))
    await settle()
    assert (taken, service.running) == (["p0", "p1", "p2"], 3)
    service.gate("p1").set()
    assert await asking == (1, "P1")
    await settle()
    assert taken == ["p0", "p1", "p2"]  # nobody has asked for the next result: its place is not given away
    asking = asyncio.ensure_future(anext(results))
    await settle()
    assert taken == ["p0", "p1", "p2", "p3"]
    service.gate("p0").set()
    assert await asking == (0, "P0")
    await results.aclose()  # type: ignore[attr-defined]
    assert service.most == 3
    assert sorted(service.cancelled) == ["p2", "p3"]


async def test_one_bad_prompt_does_not_spoil_the_rest():
    service = Gated(settings())
    for name in ("a", "bad", "c"):
        service.gate(name).set()
    results = dict([pair async for pair in service.generate_many(["a", "bad", "", 7, "c"], concurrency=2)])
    assert (results[0], results[4]) == ("A", "C")
    assert isinstance(results[1], BackendUnavailableError)
    assert isinstance(results[2], InvalidRequestError)
    assert isinstance(results[3], InvalidRequestError)


async def test_arguments_are_the_same_for_all():
    async with StubServer() as server, speaking_to("vllm", server) as service:
        results = [pair async for pair in service.generate_many(["a", "b"], concurrency=1, max_tokens=3, seed=5)]
        assert results == [(0, "Hello there."), (1, "Hello there.")]
        assert {(body["max_tokens"], body["seed"]) for body in server.bodies} == {(3, 5)}
        wrong = [pair async for pair in service.generate_many(["a", "b"], temperature=9)]
        assert all(isinstance(result, InvalidRequestError) for _, result in wrong)
        assert len(wrong) == 2


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, True, "2"])
async def test_a_wrong_concurrency_is_named(concurrency: Any):
    with pytest.raises(InvalidRequestError, match="concurrency must be an integer of at least 1") as caught:
        await anext(Gated(settings()).generate_many(["a"], concurrency=concurrency))
    assert caught.value.param == "concurrency"


async def test_one_text_is_not_several_prompts():
    for prompts in ("abc", b"abc"):
        with pytest.raises(InvalidRequestError, match="prompts must be an iterable of prompts, not one"):
            await anext(Gated(settings()).generate_many(prompts))  # type: ignore[arg-type]


async def test_no_prompts_are_no_results():
    assert [pair async for pair in Gated(settings()).generate_many([])] == []


async def test_without_a_number_the_backend_says_how_many():
    service = Gated(settings())
    results = service.generate_many(str(number) for number in range(100))
    asking = asyncio.ensure_future(anext(results))
    await settle()
    assert service.running == 8
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(service.cancelled) == 8


async def test_prompts_that_fail_to_come_stop_what_runs():
    service = Gated(settings())

    def failing() -> Iterator[str]:
        yield "a"
        raise OSError("the file ended")

    with pytest.raises(OSError, match="the file ended"):
        await anext(service.generate_many(failing(), concurrency=5))
    assert service.running == 0
    assert service.cancelled in ([], ["a"])


@pytest.mark.parametrize("engine", ENGINES)
async def test_leaving_early_hangs_up_on_the_engine(engine: str):
    async with (
        Faulty(faults.sequence(faults.ok(), faults.silent(False))) as server,
        speaking_to(engine, server, default_model="smollm2") as service,
    ):
        async for _, text in service.generate_many(["a"] * 20, concurrency=4):
            assert text == "Hello there."
            await server.wait_for_requests(5)
            break
        await server.wait_for_disconnects(3)
        await nothing_left()


async def test_all_of_many_come_through():
    async with (
        StubServer(reply=lambda body: body["messages"][0]["content"].upper()) as server,
        speaking_to("ollama", server) as service,
    ):
        prompts = [f"p{number}" for number in range(64)]
        results = dict([pair async for pair in service.generate_many(prompts, concurrency=8)])
    assert results == {number: f"P{number}" for number in range(64)}
