"""Tokens and places are paid for by whoever uses them: without a length, after hanging up, and by many at once."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from miner.core.llms.LLMService import LLMService
from miner.core.wire import Embedding, EmbeddingResponse, LLMChunk, LLMResponse, TokenUsage
from miner.errors import BackendUnavailableError, OutputValidationError
from tests.gateway.middleware.test_rate_limit import LONG, Gated, ask, limiter_of, until
from tests.gateway.serving import Parrot, config, post, serving

HI = [{"role": "user", "content": "Hi"}]


def left(served):
    """Tokens that the only client still has."""
    [account] = limiter_of(served)._accounts._accounts.values()
    return account.tokens.left(account.tokens._limit, asyncio.get_running_loop().time())


async def test_a_body_without_its_length_is_paid_for():
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 2000}]}).encode()

    async def pieces():
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    async with serving(Parrot(config()), rate_limit_tokens=1000) as served, aiohttp.ClientSession() as session:
        found = []
        for _ in range(2):
            async with session.post(f"{served.url}/v1/chat/completions", data=pieces()) as answer:
                found.append(answer.status)
        assert found == [200, 429]
        assert left(served) < -1400


class Talker(LLMService):
    """Says a lot in each piece, and how much it was only at an end that does not come by itself."""

    @property
    def capabilities(self):
        return frozenset({"chat"})

    async def _stream(self, request):
        while True:
            yield [LLMChunk(content="word " * 100)]
            await asyncio.sleep(0.01)


async def test_who_hangs_up_pays_for_what_was_generated():
    async with serving(Talker(config()), rate_limit_tokens=300) as served:
        async with post(served, {"model": "m", "messages": HI, "stream": True, "max_tokens": 50}) as answer:
            assert answer.status == 200
            for _ in range(12):
                await answer.content.readline()
        await until(lambda: not served.gateway.requests)
        assert left(served) < 0
        assert (await ask(served)).status == 429


async def test_a_disconnect_before_a_non_streaming_response_is_charged():
    service = Gated(config())
    async with serving(service, rate_limit_tokens=300) as served:
        asking = asyncio.create_task(ask(served, max_tokens=400))
        await until(lambda: service.running == 1)
        asking.cancel()
        await asyncio.wait([asking], timeout=LONG)
        await until(lambda: not served.gateway.requests)
        assert (await ask(served)).status == 429


class Counting(Gated):
    """The same, and tells 30 tokens."""

    async def chat_completion(self, messages, **_):
        await self.generate("x")
        return LLMResponse(content="x", model="m", finish_reason="stop", usage=TokenUsage(20, 10, 30))


async def test_many_at_once_use_no_more_than_one_after_the_other():
    service = Counting(config())
    async with serving(service, rate_limit_tokens=2000) as served:
        asking = [asyncio.create_task(ask(served, max_tokens=500)) for _ in range(40)]
        async with asyncio.timeout(LONG):
            while sum(one.done() for one in asking) < 36:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert service.running <= 4
        refused = [one.result().status for one in asking if one.done()]
        assert set(refused) == {429}
        for _ in range(4):
            service.go.release()
        answers = [(await one).status for one in asking]
        assert answers.count(200) == 40 - len(refused)
        assert left(served) > 1800  # what was reserved and not used is there again
        service.go.release()
        assert (await ask(served, max_tokens=500)).status == 200


async def test_each_reply_counts():
    service = Gated(config())
    async with serving(service, rate_limit_tokens=2000, rate_limit_concurrency=4) as served:
        three = asyncio.create_task(ask(served, n=3, max_tokens=100))
        await until(lambda: service.running == 3)
        assert 1600 < left(served) < 1700
        assert (await ask(served, n=2, max_tokens=10)).status == 429
        one = asyncio.create_task(ask(served, max_tokens=10))
        await until(lambda: service.running == 4)
        assert (await ask(served, max_tokens=10)).status == 429
        for _ in range(4):
            service.go.release()
        assert [(await three).status, (await one).status] == [200, 200]
        assert (await ask(served, n=16, max_tokens=1)).status == 400  # it never could
        assert [account.running for account in limiter_of(served)._accounts._accounts.values()] == [0]


class Embedder(LLMService):
    """Makes vectors when it is told to, and tells no usage."""

    def __init__(self, config):
        super().__init__(config)
        self.go, self.running = asyncio.Event(), 0

    @property
    def capabilities(self):
        return frozenset({"embeddings"})

    async def _embed(self, texts, model):
        self.running += 1
        await self.go.wait()
        return EmbeddingResponse(data=[Embedding(place, [1.0]) for place in range(len(texts))])


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
async def test_texts_weigh_what_they_are(path):
    service = Embedder(config(default_model="m"))
    async with serving(service, rate_limit_tokens=4000, serve_max_running=8) as served:

        async def embed(count):
            async with post(served, {"model": "m", "input": ["some words"] * count}, path) as answer:
                return answer.status

        few = asyncio.create_task(embed(3))
        await until(lambda: service.running == 1)
        assert served.gateway.queue.permits.held == 3
        many = asyncio.create_task(embed(2048))
        await until(lambda: served.gateway.queue.permits.waiting == 1)  # they are as much as all slots together
        assert left(served) < 0
        service.go.set()
        assert [await few, await many] == [200, 200]
        assert left(served) < -2000
        assert await embed(1) == 429


async def test_more_texts_than_the_limit_of_requests_at_once_run_alone():
    service = Embedder(config(default_model="m"))
    async with serving(service, rate_limit_concurrency=4) as served:

        async def embed(count):
            async with post(served, {"model": "m", "input": ["x"] * count}, "/v1/embeddings") as answer:
                return answer.status

        batch = asyncio.create_task(embed(500))
        await until(lambda: service.running == 1)
        assert await embed(1) == 429
        service.go.set()
        assert await batch == 200
        assert await embed(1) == 200


class Failing(LLMService):
    """Fails as it is told."""

    error: Exception

    @property
    def capabilities(self):
        return frozenset({"chat"})

    async def _chat(self, request):
        raise self.error


async def test_what_failed_before_it_began_is_free_and_what_came_to_nothing_is_not():
    service = Failing(config(max_retries=0))
    async with serving(service, rate_limit_tokens=500) as served:
        service.error = BackendUnavailableError("down", backend="failing")
        assert [(await ask(served, max_tokens=400)).status for _ in range(5)] == [503] * 5
        assert left(served) >= 499
        reply = LLMResponse(content="no JSON", finish_reason="stop", usage=TokenUsage(300, 300, 600))
        service.error = OutputValidationError("no JSON", response=reply, backend="failing")
        assert (await ask(served)).status not in (200, 429)
        assert (await ask(served)).status == 429


async def test_an_image_is_not_paid_for_by_its_bytes():
    class Seeing(Parrot):
        @property
        def capabilities(self):
            return frozenset({"chat", "images"})

        async def chat_completion(self, messages, **_):
            return LLMResponse(content="A dot.", finish_reason="stop")

    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 50_000}}
    async with serving(Seeing(config()), rate_limit_tokens=10_000) as served:
        found = [(await ask(served, messages=[{"role": "user", "content": [picture]}])).status for _ in range(4)]
        assert found == [200] * 4
        assert 4000 < left(served) < 7000
