"""Rates, permits and the fair order, over the wire where time allows it."""

from __future__ import annotations

import asyncio
import json
import os

import aiohttp
import pytest

from miner.core.wire import LLMResponse, TokenUsage
from miner.gateway.app import default_middleware
from miner.gateway.auth.keys import KeyEntry, KeyFile, hash_of, key_path, write_keys
from miner.gateway.middleware.logging import AccessLog
from miner.gateway.middleware.rate_limit import RateLimiter
from miner.gateway.rate_limits import Accounts, Limits, TokenBucket, client_of
from miner.gateway.server.log import server_log
from miner.gateway.settings import GatewaySettings
from tests.gateway.serving import Parrot, config, post, serving

LONG = 60.0
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}


class Gated(Parrot):
    """Answers one request for each `go.release()`."""

    def __init__(self, config):
        super().__init__(config)
        self.go, self.running, self.order = asyncio.Semaphore(0), 0, []

    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
        self.running += 1
        self.order.append(prompt)
        try:
            await self.go.acquire()
        finally:
            self.running -= 1
        return "done"


async def ask(served, headers=None, **more):
    async with post(served, {**CHAT, **more}, headers=headers) as answer:
        await answer.read()
        return answer


async def until(condition):
    async with asyncio.timeout(LONG):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def limiter_of(served):
    return next(middleware for middleware in served.middleware if isinstance(middleware, RateLimiter))


def keys(**limits):
    entries = [KeyEntry(name=n, sha256=hash_of(f"{n}-key-0123456789").hex(), limits=one) for n, one in limits.items()]
    write_keys(key_path(None), KeyFile(keys=entries))


def of(name):
    return {"x-api-key": f"{name}-key-0123456789"}


async def test_requests_a_minute_for_each_address_and_when_to_come_again():
    service = Parrot(config())
    async with serving(service, rate_limit_requests=3) as served:
        answers = [await ask(served) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["X-Ratelimit-Remaining-Requests"] for answer in answers] == ["2", "1", "0", "0"]
        assert 10 <= int(answers[3].headers["Retry-After"]) <= 20
        assert service.asked == 3
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/livez") as answer:
            assert answer.status == 200  # a probe is not a client


async def test_each_key_has_its_own_limits():
    keys(poor=Limits(requests=1), rich=Limits(), once=Limits(concurrency=1))
    service = Parrot(config())
    async with serving(service, rate_limit_requests=4) as served:
        assert [(await ask(served, of("poor"))).status for _ in range(2)] == [200, 429]
        assert [(await ask(served, of("rich"))).status for _ in range(5)] == [200] * 4 + [429]
        assert (await ask(served, of("once"))).status == 200


async def test_with_keys_of_the_environment_alone_there_is_no_limit():
    async with serving(Parrot(config()), api_keys="0123456789abcdef") as served:
        statuses = {(await ask(served, {"x-api-key": "0123456789abcdef"})).status for _ in range(60)}
    assert statuses == {200}


async def test_limits_change_while_the_server_runs():
    keys(a=Limits(requests=1))
    async with serving(Parrot(config())) as served:
        assert [(await ask(served, of("a"))).status for _ in range(2)] == [200, 429]
        keys(a=Limits(requests=1000))
        async with asyncio.timeout(LONG):
            while (await ask(served, of("a"))).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_requests_at_once():
    service = Gated(config())
    async with serving(service, rate_limit_concurrency=2) as served:
        asking = [asyncio.create_task(ask(served)) for _ in range(2)]
        await until(lambda: service.running == 2)
        answer = await ask(served)
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        service.go.release()
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED, timeout=LONG)
        service.go.release()
        assert [(await one).status for one in asking] == [200, 200]
        service.go.release()
        assert (await ask(served)).status == 200


class Costly(Parrot):
    """Each reply costs 100 tokens."""

    async def chat_completion(self, *_, **__):
        return LLMResponse(content="x", model="m", finish_reason="stop", usage=TokenUsage(60, 40, 100))


async def test_tokens_a_minute_are_paid_when_known():
    async with serving(Costly(config()), rate_limit_tokens=150) as served:
        assert [(await ask(served)).status for _ in range(3)] == [200, 200, 429]
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/v1/models") as answer:
            assert answer.status == 200  # costs none


async def test_a_request_that_cannot_queue_is_refused_at_once(tmp_path):
    service, fd = Gated(config()), os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    limits = {"serve_max_running": 1, "serve_max_queued": 1}
    rest = default_middleware(GatewaySettings(_env_file=None, serve_log="off", **limits))
    with server_log("json", "info", fd=fd):
        async with serving(service, middleware=[AccessLog(), *rest], **limits) as served:
            asking = [asyncio.create_task(ask(served))]
            await until(lambda: service.running == 1)
            asking.append(asyncio.create_task(ask(served)))
            await until(lambda: served.gateway.queue.permits.waiting == 1)
            for _ in range(20):
                answer = await ask(served)
                assert answer.status == 429
                assert int(answer.headers["Retry-After"]) >= 1
            for _ in asking:
                service.go.release()
            assert [(await one).status for one in asking] == [200, 200]
            assert served.gateway.queue.permits.held == 0
    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    os.close(fd)
    took = sorted(line["seconds"] for line in told if line.get("status") == 429)
    assert len(took) == 20
    assert took[10] < 1  # by the server's own clock: it is some hundred microseconds, and none waits for its turn


async def test_waiting_is_bounded():
    service = Gated(config())
    async with serving(service, serve_max_running=1, serve_queue_timeout=0.2) as served:
        first = asyncio.create_task(ask(served))
        await until(lambda: service.running == 1)
        answer = await ask(served)
        assert answer.status == 429
        assert served.gateway.queue.permits.waiting == 0
        service.go.release()
        assert (await first).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_who_hangs_up_leaves_the_queue_and_the_backend(stream):
    service = Gated(config())
    async with serving(service, serve_max_running=1) as served:
        permits = served.gateway.queue.permits
        asking = [asyncio.create_task(ask(served, stream=stream)) for _ in range(2)]
        await until(lambda: service.running == 1 and permits.waiting == 1)
        waiting = asking[1 if len(service.order) == 1 else 0]
        waiting.cancel()
        await asyncio.wait([waiting], timeout=LONG)
        await until(lambda: permits.waiting == 0)
        asking[0].cancel()
        await until(lambda: permits.held == 0 and service.running == 0)
        service.go.release()
        assert (await ask(served)).status == 200


async def test_several_replies_are_as_much_work_as_they_are():
    service = Gated(config())
    async with serving(service, serve_max_running=4) as served:
        asking = asyncio.create_task(ask(served, n=3))
        await until(lambda: service.running == 3)
        assert served.gateway.queue.permits.held == 3
        for _ in range(3):
            service.go.release()
        assert (await asking).status == 200
        assert served.gateway.queue.permits.held == 0


async def test_a_greedy_key_delays_another_by_one_request():
    keys(greedy=Limits(), modest=Limits())
    service = Gated(config())
    async with serving(service, serve_max_running=1, serve_max_queued=10) as served:
        permits = served.gateway.queue.permits

        def say(name, text):
            return asyncio.create_task(ask(served, of(name), messages=[{"role": "user", "content": text}]))

        greedy = [say("greedy", "greedy") for _ in range(11)]
        await until(lambda: permits.waiting == 10)
        modest = say("modest", "modest")  # there is no place left, so the greedy one loses its last
        done, _ = await asyncio.wait(greedy, return_when=asyncio.FIRST_COMPLETED, timeout=LONG)
        assert [one.result().status for one in done] == [429]
        await until(lambda: permits.waiting == 10)
        service.go.release()
        service.go.release()
        await until(lambda: len(service.order) == 3)
        assert sum("modest" in prompt for prompt in service.order) == 1
        for _ in range(10):
            service.go.release()
        assert (await modest).status == 200
        assert sorted([(await one).status for one in greedy]) == [200] * 10 + [429]


def test_a_bucket_refills_evenly_and_follows_its_limit():
    bucket = TokenBucket(60, 0.0)
    assert bucket.left(60, 0.0) == 60
    bucket.use(100)
    assert bucket.left(60, 0.0) == -40
    assert bucket.seconds_until(1) == 41
    assert bucket.left(60, 41.0) == 1
    assert bucket.left(120, 41.0) == 61
    assert bucket.left(120, 1000.0) == 120


def test_addresses_are_remembered_in_bounded_number():
    accounts = Accounts(100)
    accounts.of("busy").running = 1
    for number in range(1000):
        accounts.of(str(number))
    assert len(accounts) == 100
    assert accounts.of("busy").running == 1


@pytest.mark.parametrize(
    ("address", "subject"),
    [
        ("10.0.0.1", "10.0.0.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"), ("unix", "unix"),
    ],
)  # fmt: skip
def test_one_customer_is_one_subject(address, subject):
    assert client_of(address) == subject


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {**CHAT, "n": 16}, "n"),
        ("/v1/completions", {"model": "m", "prompt": "x", "n": 7}, "n"),
        ("/v1/completions", {"model": "m", "prompt": ["x"] * 7}, "prompt"),
    ],
)
async def test_a_request_above_the_concurrency_limit_is_refused(path, body, param):
    service = Parrot(config())
    async with serving(service, rate_limit_concurrency=6) as served:
        async with post(served, body, path) as answer:
            told = (await answer.json())["error"]
            assert answer.status == 400
            assert "Retry-After" not in answer.headers
        assert told["param"] == param
        assert "the limit is 6" in told["message"]
        assert not hasattr(service, "asked")
        async with post(served, {**CHAT, "n": 6}) as answer:
            assert answer.status == 200
