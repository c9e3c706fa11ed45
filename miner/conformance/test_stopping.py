"""Cancellation frees the engine, and no verb blocks the event loop.

The engine's slots cannot be seen here: a slot in use shows in how long the next request waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from miner.conformance.contract import LONG, TOO_SHORT, Contract, not_checked
from miner.core.wire import LLMChunk
from miner.errors import BackendTimeoutError, MinerError, UnsupportedFeatureError

pytestmark = pytest.mark.miner_capability("cancellation")


VERBS: dict[str, Callable[[Contract], Awaitable[Any]]] = {
    "chat_completion": lambda contract: contract.chat_call("Hello.", max_tokens=8),
    "stream": lambda contract: _read(contract.stream("Hello.", max_tokens=8)),
    "embed": lambda contract: contract.service.embed("Hello.", contract.model),
    "count_tokens": lambda contract: contract.service.count_tokens("Hello.", model=contract.model),
    "list_models": lambda contract: contract.service.list_models(),
    "load_model": lambda contract: contract.service.load_model(contract.model),
    "health": lambda contract: contract.service.health(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_event_loop_is_not_blocked(contract: Contract, request: pytest.FixtureRequest, verb: str) -> None:
    """Other tasks run while a verb works. A busy machine delays the loop at times, a blocking backend in each call: the
    shortest delay of several attempts counts.
    """
    delays = []
    for _ in range(5):
        seconds, refused = contract.run(_longest_gap(lambda: VERBS[verb](contract)))
        if refused:
            request.node.user_properties.append(("refused", True))
        if seconds < 0.25:
            return
        delays.append(seconds)
    pytest.fail(f"{verb} blocked the event loop for at least {min(delays):.2f} s in each of 5 calls")


async def _longest_gap(work: Callable[[], Awaitable[Any]]) -> tuple[float, bool]:
    """The longest delay of another task during `work`, in seconds, and whether the call was refused."""
    step, longest = 0.01, 0.0
    loop = asyncio.get_running_loop()
    refused = False

    async def tick() -> None:
        nonlocal longest
        while True:
            before = loop.time()
            await asyncio.sleep(step)
            longest = max(longest, loop.time() - before)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(2 * step)
    try:
        await work()
    except UnsupportedFeatureError:
        refused = True
    await asyncio.sleep(2 * step)  # so that a call without any await counts too
    ticking.cancel()
    return longest, refused


async def _read(stream: Any) -> list[LLMChunk]:
    return [chunk async for chunk in stream]


async def _cancel(contract: Contract, calls: int, max_tokens: int, pause: float) -> None:
    tasks = [asyncio.create_task(contract.chat_call(LONG, max_tokens=max_tokens)) for _ in range(calls)]
    await asyncio.sleep(pause)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _leave(contract: Contract, calls: int, max_tokens: int, pause: float) -> None:
    """Leave each stream at its first text, or after `pause` seconds without one."""

    async def one() -> None:
        stream = contract.stream(LONG, max_tokens=max_tokens)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                async for chunk in stream:
                    if chunk.content:
                        break
        await stream.aclose()  # type: ignore[attr-defined]

    await asyncio.gather(*(one() for _ in range(calls)))


async def _time_out(contract: Contract, calls: int, max_tokens: int, pause: float) -> None:
    requests = (contract.chat_call(LONG, max_tokens=max_tokens, timeout=pause) for _ in range(calls))
    for result in await asyncio.gather(*requests, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, BackendTimeoutError):
            raise result


async def _close(contract: Contract, calls: int, max_tokens: int, pause: float) -> None:
    """Close another service: its calls end at once, each with a MinerError."""
    service = contract.new_service()
    messages = [{"role": "user", "content": LONG}]
    tasks = [
        asyncio.create_task(service.chat_completion(messages, contract.model, max_tokens, temperature=0))
        for _ in range(calls)
    ]
    await asyncio.sleep(pause)
    closing = asyncio.create_task(service.aclose())
    _, late = await asyncio.wait(tasks, timeout=3)
    await closing
    for task in late:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not late, f"{len(late)} of {calls} calls were still running 3 s after aclose"
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, MinerError):
            raise AssertionError(f"aclose ended a call with {type(result).__name__}, not a MinerError") from result


STOPS = {"cancel": _cancel, "leave": _leave, "timeout": _time_out, "aclose": _close}


@pytest.mark.parametrize("how", STOPS)
def test_interrupted_calls_free_the_engine(contract: Contract, request: pytest.FixtureRequest, how: str) -> None:
    """Cancel as many long calls as the backend runs at once. A short call right after them does not wait for them, and
    none of their tasks is left. The best of three attempts counts.
    """
    long = contract.long_call()
    if long.seconds < 0.15:
        not_checked(request, TOO_SHORT)
        return
    errors = []
    for _ in range(3):
        error = contract.run(_error_after(contract, how, long.max_tokens, long.seconds))
        if error is None:
            return
        errors.append(error)
    pytest.fail(f"{how}: " + "; ".join(errors))


async def _error_after(contract: Contract, how: str, max_tokens: int, seconds: float) -> str | None:
    """Return a sign that cancelled calls still run, or None.

    Args:
        seconds: duration of one such call that is not cancelled.
    """
    loop = asyncio.get_running_loop()

    async def short() -> float:
        began = loop.time()
        await contract.chat_call("Hello.", max_tokens=1)
        return loop.time() - began

    alone = await short()
    before = asyncio.all_tasks()
    await STOPS[how](contract, min(contract.service.concurrency or 8, 8), max_tokens, 0.2 * seconds)
    stopped = loop.time()
    waited, bound = await short(), alone + seconds / 2
    if waited > bound:
        return (
            f"a call of one token took {waited:.2f} s after cancelled calls ({alone:.2f} s alone; a cancelled call "
            f"would have taken {seconds:.2f} s)"
        )
    while left := {task for task in asyncio.all_tasks() - before if not task.done()}:
        if loop.time() > stopped + bound:
            return f"{len(left)} tasks still run {bound:.2f} s later: {', '.join(sorted(map(_name, left)))}"
        await asyncio.sleep(0.02)
    return None


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())


@pytest.mark.parametrize("when", ["waits for the first chunk", "reads"])
def test_another_task_closes_a_stream(contract: Contract, request: pytest.FixtureRequest, when: str) -> None:
    """The reader's last chunk has the finish reason `cancelled`; closing is idempotent."""
    long = contract.long_call()

    async def closed() -> list[LLMChunk]:
        stream = contract.stream(LONG, max_tokens=long.max_tokens)
        chunks: list[LLMChunk] = []
        text = asyncio.Event()

        async def read() -> None:
            async for chunk in stream:
                chunks.append(chunk)
                if chunk.content:
                    text.set()

        reader = asyncio.create_task(read())
        if when == "reads":
            waiting = asyncio.create_task(text.wait())
            await asyncio.wait([reader, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        else:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for _ in range(2):
            await stream.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            await reader
        await stream.aclose()  # type: ignore[attr-defined]
        return chunks

    chunks = contract.run(closed())
    assert chunks, "the reader got no last chunk"
    if chunks[-1].finish_reason != "cancelled":
        assert any(chunk.finish_reason for chunk in chunks), "the reader got no finish reason"
        not_checked(request, TOO_SHORT)
