"""Many prompts at once, with backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

from miner.core.http.in_flight import InFlight
from miner.errors import InvalidRequestError


async def generate_many(
    generate: Callable[[Any], Awaitable[str]], prompts: Iterable[Any], *, concurrency: int, in_flight: InFlight
) -> AsyncGenerator[tuple[int, str | Exception], None]:
    """Yield pairs of index and text (or exception), in order of completion.

    A prompt is taken and sent only when a slot is free, and a slot is free only once its result has been taken: a slow
    reader slows down the sending. Leaving early cancels what runs. When `in_flight` ends, each prompt that was sent
    yields its error, which is raised if others are left.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InvalidRequestError(
            f"concurrency must be an integer of at least 1, not {concurrency!r}.", param="concurrency"
        )
    if isinstance(prompts, (str, bytes)):
        raise InvalidRequestError("prompts must be an iterable of prompts, not one.", param="prompts")
    waiting = iter(enumerate(prompts))
    running: dict[asyncio.Task[str], int] = {}
    call = in_flight.call()
    call.enter()
    call.leave()

    async def run(prompt: Any) -> str:
        if call.stopped:  # between its task's creation and its first step
            raise in_flight.closed()
        return await generate(prompt)

    try:
        while True:
            while not call.stopped and len(running) < concurrency and (item := next(waiting, None)) is not None:
                running[asyncio.create_task(run(item[1]))] = item[0]
            if not running:
                if call.stopped and next(waiting, None) is not None:
                    raise in_flight.closed()
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=running.__getitem__):
                index = running.pop(task)
                error = task.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield index, task.result() if error is None else error
    finally:
        call.finish()
        for task in running:
            task.cancel()
        if running:
            await asyncio.gather(*running, return_exceptions=True)
