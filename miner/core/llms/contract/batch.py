"""Many prompts at once, with backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from miner.errors import InvalidRequestError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

__all__ = ["generate_many"]


async def generate_many(
    service: LLMService, prompts: Iterable[Any], *, concurrency: int | None, arguments: Mapping[str, Any]
) -> AsyncGenerator[tuple[int, str | Exception], None]:
    """Pairs of index and text (or exception), in order of completion.

    A prompt is taken and sent only when a place is free, and a place is free only when its result has been taken: a
    slow reader slows the sending down. Leaving early cancels what runs. Closing the service ends it: each prompt that
    was sent gives a ServiceClosedError, and one is raised where others are left.
    """
    if concurrency is None:
        concurrency = service.concurrency
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InvalidRequestError(
            f"concurrency must be an integer of at least 1, not {concurrency!r}.", param="concurrency"
        )
    if isinstance(prompts, (str, bytes)):
        raise InvalidRequestError("prompts must be several texts, not one.", param="prompts")
    waiting = iter(enumerate(prompts))
    running: dict[asyncio.Task[str], int] = {}
    call = service._in_flight.call()
    call.enter()
    call.leave()

    async def generate(prompt: Any) -> str:
        if call.stopped:  # in the moment between its task and its first step
            raise service._in_flight.closed()
        return await service.generate(prompt, **arguments)

    try:
        while True:
            while not call.stopped and len(running) < concurrency and (item := next(waiting, None)) is not None:
                running[asyncio.create_task(generate(item[1]))] = item[0]
            if not running:
                if call.stopped and next(waiting, None) is not None:
                    raise service._in_flight.closed()
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
