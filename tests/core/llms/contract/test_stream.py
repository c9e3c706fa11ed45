"""Streams: read once, stopped in every way that one can leave them, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from miner.core.llms.contract.stream import LLMStream
from tests.core.llms.contract.test_failures import Faulty
from tests.core.services import (
    ENGINES,
    MESSAGES,
    ask,
    nothing_left,
    read,
    service_at,
    speaking_to,
    text_of,
)
from tests.servers import faults
from tests.servers.ports import closed_port

TEXTS = ("a", "b", "c")


class Left(Exception):
    """Raised inside a loop."""


async def by_break(stream: LLMStream) -> None:
    async for _ in stream:
        break


async def by_an_exception(stream: LLMStream) -> None:
    try:
        async for _ in stream:
            raise Left
    except Left:
        pass


async def by_aclose(stream: LLMStream) -> None:
    await anext(stream)
    await stream.aclose()
    await stream.aclose()


async def by_aclose_of_the_iterator(stream: LLMStream) -> None:
    iterator: Any = aiter(stream)
    await anext(iterator)
    await iterator.aclose()


HELD: list[Any] = []


async def by_aclose_while_somebody_holds_the_iterator(stream: LLMStream) -> None:
    HELD.append(aiter(stream))
    await anext(HELD[-1])
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(HELD[-1])


async def by_leaving_the_block(stream: LLMStream) -> None:
    async with stream:
        await anext(stream)


async def by_break_inside_a_block(stream: LLMStream) -> None:
    async with stream as chunks:
        async for _ in chunks:
            break


async def by_an_exception_inside_a_block(stream: LLMStream) -> None:
    try:
        async with stream:
            async for _ in stream:
                raise Left
    except Left:
        pass


async def by_aclosing(stream: LLMStream) -> None:
    async with aclosing(stream) as chunks:
        async for _ in chunks:
            break


async def by_cancelling_the_task(stream: LLMStream) -> None:
    started = asyncio.Event()

    async def reading() -> None:
        async for _ in stream:
            started.set()

    task = asyncio.create_task(reading())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_a_timeout_around_it(stream: LLMStream) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await read(stream)


async def by_collect_cancelled(stream: LLMStream) -> None:
    task = asyncio.create_task(stream.collect())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_batches_left(stream: LLMStream) -> None:
    async for _ in stream.batches():
        break


async def by_batches_inside_a_block(stream: LLMStream) -> None:
    async with stream:
        batches = stream.batches()
        await anext(batches)


async def by_aclose_of_another_task(stream: LLMStream) -> None:
    """As a stop button does."""
    started = asyncio.Event()

    async def reading() -> list[Any]:
        chunks = []
        async for chunk in stream:
            chunks.append(chunk.content or chunk.finish_reason)
            started.set()
        await asyncio.sleep(0)  # the task itself was not cancelled
        return chunks

    task = asyncio.create_task(reading())
    await started.wait()
    await asyncio.sleep(0.05)
    await stream.aclose()
    async with asyncio.timeout(60):
        assert await task == ["a", "b", "c", "cancelled"]


WAYS = [
    by_break, by_an_exception, by_aclose, by_aclose_of_the_iterator, by_aclose_while_somebody_holds_the_iterator,
    by_leaving_the_block, by_break_inside_a_block,
    by_an_exception_inside_a_block, by_aclosing, by_cancelling_the_task, by_a_timeout_around_it, by_collect_cancelled,
    by_batches_left, by_batches_inside_a_block, by_aclose_of_another_task,
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__)
async def test_a_stream_that_is_left_stops_the_engine(engine: str, leave: Callable[[LLMStream], Awaitable[None]]):
    """Closing the connection is the only abort that all engines know. The stream stays in a variable."""
    async with (
        Faulty(faults.silent_in_stream(TEXTS)) as server,
        speaking_to(engine, server, default_model="smollm2") as service,
    ):
        stream = service.stream("hi")
        await leave(stream)
        await server.wait_for_disconnects()
        await nothing_left()
        assert len(server.disconnects) == 1
        server.behaviour = faults.ok()
        assert await ask(service, "stream") == "Hello there."
        del stream
    await nothing_left()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("verb", ["generate", "chat_completion", "stream before the first chunk"])
async def test_a_cancelled_request_hangs_up_before_anything_has_come(engine: str, verb: str):
    async with (
        Faulty(faults.silent(False)) as server,
        speaking_to(engine, server, default_model="smollm2") as service,
    ):
        calls: dict[str, Callable[[], Any]] = {
            "generate": lambda: service.generate("hi"),
            "chat_completion": lambda: service.chat_completion(MESSAGES),
            "stream before the first chunk": lambda: read(service.stream("hi")),
        }
        task = asyncio.create_task(calls[verb]())
        await server.wait_for_generations()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_for_disconnects()
        await nothing_left()


async def test_the_request_is_sent_when_the_first_chunk_is_asked_for():
    async with Faulty(faults.ok()) as server, speaking_to("ollama", server, default_model="smollm2") as service:
        stream = service.stream("hi")
        await asyncio.sleep(0.05)
        assert server.requests == []
        assert text_of(await read(stream)) == "Hello there."


async def test_a_stream_is_read_once():
    async with Faulty(faults.ok()) as server, speaking_to("ollama", server, default_model="smollm2") as service:
        stream = service.stream("hi")
        await read(stream)
        for again in (read(stream), stream.collect()):
            with pytest.raises(RuntimeError, match="A stream can be read once"):
                await again
        left = service.stream("hi")
        await by_break(left)
        with pytest.raises(RuntimeError, match="read once"):
            await read(left)


async def test_a_stream_that_was_never_read_costs_nothing_and_can_be_closed():
    service = service_at("vllm", f"http://127.0.0.1:{closed_port()}")
    stream = service.stream("hi")
    await stream.aclose()
    for reading in (read(stream), stream.collect()):
        with pytest.raises(RuntimeError, match="The stream is closed"):
            await reading
    async with service.stream("hi"):
        pass
    del stream
    await nothing_left()


async def in_a_loop(stream: LLMStream, arrived: list[Any]) -> None:
    async for chunk in stream:
        arrived.append(chunk)  # noqa: PERF401


async def by_anext(stream: LLMStream, arrived: list[Any]) -> None:
    while True:
        try:
            arrived.append(await anext(stream))
        except StopAsyncIteration:
            return


async def by_anext_in_tasks_of_their_own(stream: LLMStream, arrived: list[Any]) -> None:
    iterator: Any = aiter(stream)
    while True:
        try:
            arrived.append(await asyncio.create_task(anext(iterator)))
        except StopAsyncIteration:
            return


async def in_batches(stream: LLMStream, arrived: list[Any]) -> None:
    async for batch in stream.batches():
        arrived += batch


async def by_collecting(stream: LLMStream, arrived: list[Any]) -> None:
    arrived.append(await stream.collect())


async def through_a_block(stream: LLMStream, arrived: list[Any]) -> None:
    async with stream:
        await in_a_loop(stream, arrived)


READERS = [in_a_loop, by_anext, by_anext_in_tasks_of_their_own, in_batches, by_collecting, through_a_block]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("texts", [TEXTS, ()], ids=["in the middle", "before the first chunk"])
@pytest.mark.parametrize("read_it", READERS, ids=lambda reader: reader.__name__)
async def test_whoever_reads_in_another_task_is_told_that_it_was_cancelled(
    engine: str, texts: tuple[str, ...], read_it: Callable[[LLMStream, list[Any]], Awaitable[None]]
):
    async with (
        Faulty(faults.silent_in_stream(texts)) as server,
        speaking_to(engine, server, default_model="smollm2") as service,
    ):
        stream, arrived = service.stream("hi"), []
        task = asyncio.create_task(read_it(stream, arrived))
        await server.wait_for_generations()
        await asyncio.sleep(0.05)
        await asyncio.gather(stream.aclose(), stream.aclose())
        await server.wait_for_disconnects()
        async with asyncio.timeout(30):
            await task
        assert "".join(str(chunk.content or "") for chunk in arrived) == "".join(texts)
        assert [chunk.finish_reason for chunk in arrived if chunk.finish_reason] == ["cancelled"]
        assert task.cancelling() == 0
        await stream.aclose()
        await nothing_left()


@pytest.mark.parametrize("reads", ["the stream", "its iterator", "its batches"])
async def test_a_reader_that_is_busy_with_a_chunk_is_told_when_it_comes_back(reads: str):
    """The slot is free at once, whatever the reader does meanwhile."""
    async with (
        Faulty(faults.silent_in_stream(TEXTS)) as server,
        speaking_to("vllm", server, default_model="smollm2") as service,
    ):
        stream, arrived, started, goes_on = service.stream("hi"), [], asyncio.Event(), asyncio.Event()

        async def read_slowly() -> None:
            sources: dict[str, Callable[[], Any]] = {
                "the stream": lambda: stream, "its iterator": lambda: aiter(stream), "its batches": stream.batches
            }  # fmt: skip
            source = sources[reads]()
            while True:
                try:
                    got = await anext(source)
                except StopAsyncIteration:
                    return
                arrived.extend(got if isinstance(got, list) else [got])
                started.set()
                await goes_on.wait()

        task = asyncio.create_task(read_slowly())
        await server.wait_for_generations()
        await started.wait()
        await stream.aclose()
        await server.wait_for_disconnects()
        goes_on.set()
        async with asyncio.timeout(30):
            await task
        assert [chunk.finish_reason for chunk in arrived if chunk.finish_reason] == ["cancelled"]
        assert "".join(chunk.content or "" for chunk in arrived) in ("a", "ab", "abc")
        await nothing_left()


async def test_a_reply_that_had_ended_was_not_cancelled():
    async with Faulty(faults.ok()) as server, speaking_to("ollama", server, default_model="smollm2") as service:
        stream, arrived = service.stream("hi"), []
        await asyncio.create_task(in_a_loop(stream, arrived))
        await stream.aclose()
        assert [chunk.finish_reason for chunk in arrived if chunk.finish_reason] == ["stop"]


async def test_a_stream_that_waits_to_be_sent_again_is_cancelled_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miner.core.llms.contract.retry._FIRST_PAUSE", 20.0)
    async with (
        Faulty(faults.status(503)) as server,
        speaking_to("ollama", server, default_model="smollm2", max_retries=2) as service,
    ):
        stream, arrived = service.stream("hi"), []
        task = asyncio.create_task(in_a_loop(stream, arrived))
        await server.wait_for_generations()
        await asyncio.sleep(0.1)
        async with asyncio.timeout(60):
            await stream.aclose()
            await task
        assert [chunk.finish_reason for chunk in arrived] == ["cancelled"]
        assert len(server.generations) == 1


async def test_a_task_that_is_cancelled_while_it_is_closed_is_cancelled():
    async with (
        Faulty(faults.silent_in_stream(TEXTS)) as server,
        speaking_to("ollama", server, default_model="smollm2") as service,
    ):
        stream = service.stream("hi")
        task = asyncio.create_task(read(stream))
        await server.wait_for_generations()
        await asyncio.sleep(0.05)
        task.cancel()
        await stream.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_for_disconnects()


async def test_anext_after_the_end_ends_again():
    async with Faulty(faults.ok(["x"])) as server, speaking_to("ollama", server, default_model="smollm2") as service:
        stream = service.stream("hi")
        assert (await anext(stream)).content == "x"
        await anext(stream)
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_is_known_of_the_reply_besides_its_pieces(engine: str):
    async with Faulty(faults.ok()) as server, speaking_to(engine, server, default_model="smollm2") as service:
        stream = service.stream("hi")
        chunks = await read(stream)
        response = stream.response
        assert (response.model, response.backend, response.ignored) == ("smollm2", engine, [])
        last = chunks[-1]
        assert last.usage is not None
        assert last.timings is not None
        assert last.timings.total is not None
        assert last.timings.time_to_first_token is not None
        assert last.timings.total >= last.timings.time_to_first_token > 0
        whole = await service.stream("hi").collect()
        assert (str(whole), whole.finish_reason, whole.usage.completion_tokens) == ("Hello there.", "stop", 8)


async def test_many_streams_of_one_service_run_at_once_and_each_stops_alone():
    async with (
        Faulty(faults.silent_in_stream(TEXTS)) as server,
        speaking_to("vllm", server, default_model="smollm2") as service,
    ):
        streams = [service.stream("hi") for _ in range(8)]
        for stream in streams:
            await anext(stream)
        await streams[3].aclose()
        await server.wait_for_disconnects()
        await asyncio.sleep(0.1)
        assert len(server.disconnects) == 1
        for stream in streams:
            await stream.aclose()
        await server.wait_for_disconnects(8)
