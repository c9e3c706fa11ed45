"""Streams: equal to the whole reply, and stopped when they are left."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from miner.conformance.contract import LONG, Contract
from miner.conformance.refusals import counted
from miner.core.wire import LLMChunk

PROMPT = "What is the capital of France? Answer in one sentence."

pytestmark = pytest.mark.miner_capability("chat")


def test_stream_joins_to_the_whole(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Content, finish reason and counts of the joined chunks are those of the whole reply."""
    whole = contract.ask(PROMPT, max_tokens=24)
    joined = contract.join(contract.streamed(PROMPT, max_tokens=24))
    assert joined.content == whole.content
    assert joined.finish_reason == whole.finish_reason
    usage, streamed = counted(request, whole), counted(request, joined)
    assert (usage is None) == (streamed is None)
    if usage is not None and streamed is not None:
        assert streamed.completion_tokens == usage.completion_tokens
        assert streamed.prompt_tokens == usage.prompt_tokens


def test_stream_that_is_cut_joins_too(contract: Contract) -> None:
    """The last piece before max_tokens is not lost."""
    whole = contract.ask(LONG, max_tokens=7)
    joined = contract.join(contract.streamed(LONG, max_tokens=7))
    assert joined.content == whole.content
    assert joined.finish_reason == whole.finish_reason


def test_chunks_are_chunks(contract: Contract) -> None:
    """Each is an LLMChunk, one finish reason comes, and nothing but usage comes after it."""
    chunks = contract.streamed(PROMPT)
    assert chunks
    assert all(isinstance(chunk, LLMChunk) for chunk in chunks)
    finishes = [place for place, chunk in enumerate(chunks) if chunk.finish_reason is not None]
    assert len(finishes) == 1, f"{len(finishes)} finish reasons"
    assert not any(chunk.content for chunk in chunks[finishes[0] + 1 :])


def test_stream_takes_a_prompt(contract: Contract) -> None:
    """`stream(prompt)` is `generate`, as it comes."""

    async def read() -> str:
        stream = contract.service.stream(PROMPT, model=contract.model, max_tokens=16, temperature=0, top_p=1)
        return "".join([chunk.content or "" async for chunk in stream])

    assert contract.run(read()) == contract.ask(PROMPT).content


def test_empty_stream_arguments_are_refused(contract: Contract) -> None:
    """Neither prompt nor messages is the caller's mistake, told at once or on the first step."""
    from miner.errors import InvalidRequestError

    async def read() -> None:
        async for _ in contract.service.stream():
            pass

    with pytest.raises(InvalidRequestError):
        contract.run(read())


def _leave_after_first(contract: Contract, how: str) -> None:
    async def leave() -> None:
        stream = contract.stream(LONG, max_tokens=400)
        if how == "break":
            async for chunk in stream:
                if chunk.content:
                    break
        elif how == "error":
            with contextlib.suppress(ZeroDivisionError):
                async for _ in stream:
                    raise ZeroDivisionError
        elif how == "aclose":
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
        else:
            task = asyncio.create_task(_read(stream))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    contract.run(leave())


async def _read(stream: object) -> None:
    async for _ in stream:  # type: ignore[attr-defined]
        pass
    await asyncio.sleep(3600)  # a short reply may be over before the task is cancelled


@pytest.mark.parametrize("how", ["break", "error", "aclose", "cancel"])
def test_leaving_frees_the_slot(contract: Contract, how: str) -> None:
    """More streams are left than the backend has slots; a request afterwards comes through."""
    for _ in range(contract.service.concurrency + 1):
        _leave_after_first(contract, how)
    assert contract.run(contract.asking("Hello.", max_tokens=2)).finish_reason


def test_nothing_is_left_behind(contract: Contract) -> None:
    """No task stays on the loop after replies, whole, streamed and left."""
    contract.ask("Hello.", max_tokens=2)
    before = contract.tasks()
    contract.ask("Hello.", max_tokens=2)
    contract.streamed("Hello.", max_tokens=2)
    _leave_after_first(contract, "break")
    contract.run(asyncio.sleep(1.5))
    assert contract.tasks() <= before


def test_closing_twice_is_harmless(contract: Contract) -> None:
    """`aclose` is idempotent, also on a service that was never used, and `async with` closes."""

    async def closed() -> None:
        service = contract.fresh()
        await service.aclose()
        await service.aclose()
        async with contract.fresh() as other:
            assert other is not service

    contract.run(closed())
