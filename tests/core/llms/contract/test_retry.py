"""Sending again: only before the first byte, only what can help, only so long; counted and logged."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.retry import Retries
from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk
from miner.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    EngineCrashedError,
    EngineStartError,
    MinerError,
    StreamInterruptedError,
)
from tests.core.llms.contract.test_failures import MODES, Faulty, aborted
from tests.core.services import ENGINES, ask, service_at, settings, speaking_to
from tests.servers import faults
from tests.servers.faults import Behaviour
from tests.servers.ports import closed_port

BUSY = faults.status(503)
OVERLOADED = faults.status(429)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.core.llms.contract.retry._FIRST_PAUSE", 0.02)


def posts(server: Faulty) -> int:
    return len(server.generations)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", [BUSY, OVERLOADED, faults.status(502), faults.html_page(502)], ids=lambda b: b.name)
async def test_what_may_pass_is_sent_again_counted_and_logged(
    fault: Behaviour, engine: str, mode: str, caplog: pytest.LogCaptureFixture
):
    async with (
        Faulty(faults.sequence(fault, fault, faults.ok())) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=2) as service,
    ):
        with caplog.at_level(logging.WARNING, "miner.retry"):
            assert await ask(service, mode) == "Hello there."
        assert (service.retries, posts(server)) == (2, 3)
    said = [record.getMessage() for record in caplog.records if record.name == "miner.retry"]
    assert len(said) == 2
    assert "(retry 1)" in said[0]
    assert server.url in said[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("limit", [0, 1, 3])
async def test_no_more_often_than_allowed(engine: str, mode: str, limit: int):
    async with (
        Faulty(faults.status(503, retry_after="0")) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=limit) as service,
    ):
        with pytest.raises(BackendError):
            await ask(service, mode)
        assert (service.retries, posts(server)) == (limit, limit + 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "fault",
    [faults.status(400), faults.status(401), faults.status(500), faults.status(504), faults.silent(False),
     faults.not_json(), faults.too_short(), faults.garbage_http()],
    ids=lambda b: b.name,
)  # fmt: skip
async def test_what_cannot_pass_is_not_sent_again(fault: Behaviour, engine: str, mode: str):
    async with (
        Faulty(fault, everywhere=False) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=3, timeout=0.3) as service,
    ):
        with pytest.raises(MinerError):
            await ask(service, mode)
        assert (service.retries, posts(server)) == (0, 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "fault",
    [faults.truncated(), faults.reset(["Hel", "lo"]), faults.error_in_stream(), faults.no_end()],
    ids=lambda b: b.name,
)
async def test_never_after_the_first_byte_of_the_answer(fault: Behaviour, engine: str):
    async with (
        Faulty(fault) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=3) as service,
    ):
        with pytest.raises(StreamInterruptedError):
            await ask(service, "stream")
        assert (service.retries, posts(server)) == (0, 1)


class Stumbling(LLMService):
    """Says after its first chunk what would be worth a retry before it."""

    asked = 0

    async def _stream(self, request: Any) -> Any:
        self.asked += 1
        yield [LLMChunk(content="Hel")]
        raise BackendUnavailableError("gone", backend="stumbling")


async def test_never_after_the_first_byte_whatever_the_error_says_of_itself():
    service = Stumbling(settings(max_retries=3))
    stream = service.stream("hi")
    assert (await anext(stream)).content == "Hel"
    with pytest.raises(BackendUnavailableError) as caught:
        await anext(stream)
    assert caught.value.retryable
    assert caught.value.partial.content == "Hel"
    assert (service.asked, service.retries) == (1, 0)


@pytest.mark.parametrize("mode", MODES)
async def test_an_abort_before_any_text_is_sent_again(mode: str):
    async with (
        Faulty(faults.sequence(aborted(()), faults.ok())) as server,
        speaking_to("vllm", server, default_model="smollm2", max_retries=1) as service,
    ):
        assert await ask(service, mode) == "Hello there."
        assert service.retries == 1


async def test_an_error_line_before_any_text_is_sent_again():
    """Ollama's runner died; it loads the model again on the next request."""
    async with (
        Faulty(faults.sequence(faults.error_in_stream(texts=()), faults.ok())) as server,
        speaking_to("ollama", server, default_model="smollm2", max_retries=1) as service,
    ):
        assert await ask(service, "stream") == "Hello there."
        assert service.retries == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_retry_after_is_honoured(engine: str, mode: str):
    async with (
        Faulty(faults.sequence(faults.status(503, retry_after="1"), faults.ok())) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=1) as service,
    ):
        assert await ask(service, mode) == "Hello there."
        first, second = (request.received for request in server.generations)
        assert second - first >= 1.0


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_retry_after_that_is_too_long_is_told_at_once(engine: str):
    async with (
        Faulty(faults.status(429, retry_after="3600")) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=3) as service,
    ):
        async with asyncio.timeout(20):
            with pytest.raises(BackendOverloadedError) as caught:
                await ask(service, "call")
        assert caught.value.retry_after == 3600.0
        assert posts(server) == 1


async def test_vllms_own_full_queue_carries_its_retry_after():
    """Protocol notes, 1.3: 503 of the type "Service Unavailable", also for streams."""
    full = {"error": {"message": "queue full", "type": "Service Unavailable", "param": None, "code": 503}}
    async with (
        Faulty(faults.status(503, full, retry_after="5")) as server,
        speaking_to("vllm", server, default_model="smollm2") as service,
    ):
        for mode in MODES:
            with pytest.raises(BackendOverloadedError, match="has a full queue: queue full") as caught:
                await ask(service, mode)
            assert (caught.value.retry_after, caught.value.base_url) == (5.0, server.v1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_the_callers_timeout_bounds_the_waiting_too(engine: str, mode: str):
    async with (
        Faulty(faults.status(503, retry_after="8")) as server,
        speaking_to(engine, server, default_model="smollm2", max_retries=5) as service,
    ):
        began = time.monotonic()
        with pytest.raises(BackendError, match=r"HTTP 503|busy"):
            await ask(service, mode, timeout=2.0)
        assert time.monotonic() - began < 7
        assert posts(server) == 1


@pytest.mark.parametrize("engine", ENGINES)
async def test_nobody_there_is_asked_again_for_models_too(engine: str):
    async with service_at(engine, f"http://127.0.0.1:{closed_port()}", max_retries=2) as service:
        with pytest.raises(BackendUnavailableError):
            await ask(service, "call")
        assert service.retries == 2


async def test_an_engine_that_comes_up_while_it_is_asked_again_answers():
    port = closed_port()
    server = Faulty(faults.ok())
    server.port = port
    async with service_at("ollama", f"http://127.0.0.1:{port}", default_model="smollm2", max_retries=9) as service:
        asking = asyncio.create_task(ask(service, "call"))
        await asyncio.sleep(0.05)
        async with server:
            assert await asking == "Hello there."


async def test_cancelling_in_the_pause_ends_it():
    async with (
        Faulty(faults.status(503, retry_after="20")) as server,
        speaking_to("vllm", server, default_model="smollm2", max_retries=5) as service,
    ):
        task = asyncio.create_task(ask(service, "stream"))
        await server.wait_for_requests(2)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def error(kind: type[BackendError], **given: Any) -> BackendError:
    return kind("x", backend="b", **given)


@pytest.mark.parametrize(
    ("fault", "again"),
    [
        (error(BackendUnavailableError), True),
        (error(BackendUnavailableError, retryable=False), False),
        (error(BackendOverloadedError, status=429), True),
        (error(BackendOverloadedError), False),  # our own queue: its answer is meant to come at once
        (error(BackendTimeoutError), False),
        (error(BackendProtocolError), False),
        (error(AuthenticationError), False),
        (error(StreamInterruptedError), False),
        (error(EngineStartError), False),
        (error(BackendError, retryable=True), False),
        (error(EngineCrashedError), False),
    ],
)
async def test_which_errors_are_worth_it(fault: BackendError, again: bool):
    retries = Retries(Backend(settings(max_retries=1)))
    if again:
        await retries.pause_or_raise(fault)
        assert retries.count == 1
    with pytest.raises(type(fault)) as caught:
        await retries.pause_or_raise(fault)
    assert caught.value is fault


async def test_pauses_grow_and_are_never_twice_the_same(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []

    async def slept(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", slept)
    for _ in range(20):
        retries = Retries(Backend(settings(max_retries=3)))
        for _ in range(3):
            await retries.pause_or_raise(error(BackendUnavailableError))
    first, second, third = pauses[0::3], pauses[1::3], pauses[2::3]
    assert max(first) <= 0.02 < max(second) <= 0.08 < max(third) <= 0.32
    assert len(set(first)) == 20
