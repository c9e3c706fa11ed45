"""Streams: equal to the non-streaming response, and stopped when they are left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from miner.conformance.contract import LONG, TOO_SHORT, Contract, counted, not_checked
from miner.core.wire import LLMChunk
from miner.errors import InvalidRequestError

PROMPT = "What is the capital of France? Answer in one sentence."

pytestmark = pytest.mark.miner_capability("chat")


def test_stream_joins_to_the_response(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Content, finish reason and counts of the joined chunks are those of the non-streaming response."""
    response = contract.chat(PROMPT, max_tokens=24)
    joined = contract.stream_joined(PROMPT, max_tokens=24)
    assert response.content
    assert joined.content == response.content
    assert joined.finish_reason == response.finish_reason
    usage, streamed = counted(request, response), counted(request, joined)
    assert (usage is None) == (streamed is None)
    if usage is not None and streamed is not None:
        assert streamed.completion_tokens == usage.completion_tokens
        assert streamed.prompt_tokens == usage.prompt_tokens


def test_stream_that_is_cut_joins_too(contract: Contract) -> None:
    """The last chunk before max_tokens is not lost."""
    response = contract.chat(LONG, max_tokens=7)
    joined = contract.stream_joined(LONG, max_tokens=7)
    assert response.content
    assert joined.content == response.content
    assert joined.finish_reason == response.finish_reason


def test_chunks_are_chunks(contract: Contract) -> None:
    """All are LLMChunk, with one finish reason and only usage after it."""
    chunks = contract.stream_chunks(PROMPT)
    assert chunks
    assert all(isinstance(chunk, LLMChunk) for chunk in chunks)
    finishes = [place for place, chunk in enumerate(chunks) if chunk.finish_reason is not None]
    assert len(finishes) == 1, f"{len(finishes)} finish reasons"
    late = chunks[finishes[0] + 1 :]
    assert not any(chunk.content or chunk.reasoning or chunk.tool_calls for chunk in late)


def test_stream_takes_a_prompt(contract: Contract) -> None:
    """`stream(prompt)` is `generate`, streamed."""

    async def read() -> str:
        stream = contract.service.stream(PROMPT, model=contract.model, max_tokens=16, temperature=0, top_p=1)
        return "".join([chunk.content or "" async for chunk in stream])

    assert contract.run(read()) == contract.chat(PROMPT).content


def test_empty_stream_arguments_are_refused(contract: Contract) -> None:
    """Neither prompt nor messages is an invalid request, raised at once or at the first chunk."""

    async def read() -> None:
        async for _ in contract.service.stream():
            pass

    with pytest.raises(InvalidRequestError):
        contract.run(read())


def _leave_early(contract: Contract, how: str) -> bool:
    """Leave a stream; return whether it was still running."""

    async def leave() -> bool:
        stream = contract.stream(LONG, max_tokens=400)
        chunk = None
        if how == "break":
            async for chunk in stream:
                if chunk.content:
                    break
        elif how == "error":
            with contextlib.suppress(ZeroDivisionError):
                async for chunk in stream:  # noqa: B007  (it is returned)
                    raise ZeroDivisionError
        elif how == "aclose":
            chunk = await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
        else:
            task = asyncio.create_task(_read(stream))
            done, _ = await asyncio.wait([task], timeout=0.2)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return not done
        return chunk is not None and chunk.finish_reason is None

    return contract.run(leave())


async def _read(stream: AsyncIterator[LLMChunk]) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("how", ["break", "error", "aclose", "cancel"])
def test_leaving_frees_the_slot(contract: Contract, request: pytest.FixtureRequest, how: str) -> None:
    """After leaving more streams than the backend has slots, a request is served."""
    early = [_leave_early(contract, how) for _ in range((contract.service.concurrency or 8) + 1)]
    if not all(early):
        not_checked(request, TOO_SHORT)
    assert contract.run(contract.chat_call("Hello.", max_tokens=2)).finish_reason


def test_nothing_is_left_behind(contract: Contract) -> None:
    """No task is left after non-streaming responses, streams and abandoned streams."""
    contract.chat("Hello.", max_tokens=2)
    before = contract.tasks()
    contract.chat("Hello.", max_tokens=2)
    contract.stream_chunks("Hello.", max_tokens=2)
    _leave_early(contract, "break")
    contract.run(asyncio.sleep(1.5))
    assert contract.tasks() <= before


def test_closing_twice_is_harmless(contract: Contract) -> None:
    """`aclose` is idempotent, also on an unused service, and `async with` closes."""

    async def closed() -> None:
        service = contract.new_service()
        await service.aclose()
        await service.aclose()
        async with contract.new_service() as other:
            assert other is not service

    contract.run(closed())
