"""One queue in front of an engine: the gateway's for a backend that has none, else the engine's own; both are fair."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest

from miner.core.llms.contract.queue_client import QueueClient, current_client, set_client
from miner.core.llms.fallback import FallbackService
from miner.core.llms.llamacpp.engines import LocalEngines
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import BackendError, BackendOverloadedError
from miner.gateway.auth.keys import KeyEntry, KeyFile, hash_of, key_path, write_keys
from miner.gateway.concurrency import ignored_queue_settings
from miner.gateway.rate_limits import Limits
from miner.gateway.settings import GatewaySettings
from tests.core.engine.simulated import Machine, spec_of
from tests.gateway.middleware.test_rate_limit import ask, keys, of, until
from tests.gateway.serving import Parrot, config, serving
from tests.tiny_model import write_tiny_model

LONG = 60.0


class Pooled(Parrot):
    """A backend with the engines' real pool over a simulated engine, which replies once for each `go.release()`."""

    def __init__(self, slots=1, **limits):
        super().__init__(config())
        spec = spec_of("m", parallel=slots)
        self.engines = LocalEngines("llamacpp", frozenset(), self._settings, lambda: False)
        self.engines._host._pool = self.pool = Machine(load=0.0, stop=0.0).pool(**limits)
        self.engines._found["m"] = (SimpleNamespace(alias="m"), spec)
        self.engines._server_of = lambda spec, lease: None
        self.go, self.running, self.order = asyncio.Semaphore(0), 0, []

    @property
    def queues_requests(self):
        return True

    @property
    def waiting(self):
        return sum(engine.queued for engine in self.pool.status())

    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
        async with self.engines._lease("m", None):
            self.running += 1
            self.order.append(prompt)
            try:
                await self.go.acquire()
            finally:
                self.running -= 1
        return "done"

    async def aclose(self):
        await self.engines.aclose()
        await super().aclose()


def waiting_clients(pool):
    """Names of the clients that have requests in the queue of any engine."""
    return {client for member in pool._members() for client in member.queue.waiters.waiting_by_client()}


def say(served, name, **more):
    return asyncio.create_task(ask(served, of(name), messages=[{"role": "user", "content": name}], **more))


async def test_a_greedy_key_delays_another_by_one_request_in_the_engines_queue():
    keys(greedy=Limits(), modest=Limits())
    service = Pooled(max_queue=10)
    async with serving(service, serve_max_queued=0, serve_queue_timeout=0.01) as served:
        greedy = [say(served, "greedy") for _ in range(11)]
        await until(lambda: service.waiting == 10)
        modest = say(served, "modest")  # the queue is full, so the greedy one loses its last
        done, _ = await asyncio.wait(greedy, return_when=asyncio.FIRST_COMPLETED, timeout=LONG)
        assert [one.result().status for one in done] == [429]
        assert int(next(iter(done)).result().headers["Retry-After"]) >= 1
        await until(lambda: service.waiting == 10)
        assert served.gateway.queue.permits.held == 0
        for _ in range(2):
            service.go.release()
        await until(lambda: len(service.order) == 3)
        assert sum("modest" in prompt for prompt in service.order) == 1
        for _ in range(10):
            service.go.release()
        assert (await modest).status == 200
        assert sorted([(await one).status for one in greedy]) == [200] * 10 + [429]


@pytest.mark.parametrize("stream", [False, True])
async def test_who_hangs_up_leaves_the_engines_queue(stream):
    service = Pooled()
    async with serving(service) as served:
        asking = [asyncio.create_task(ask(served, stream=stream)) for _ in range(2)]
        await until(lambda: service.running == 1 and service.waiting == 1)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking, timeout=LONG)
        await until(lambda: service.running == 0 and service.waiting == 0)
        assert served.gateway.queue.waiting_at_backend == 0
        service.go.release()
        assert (await ask(served, stream=stream)).status == 200


async def test_several_replies_wait_for_a_slot_each_and_count_for_their_client():
    keys(several=Limits(), single=Limits())
    service = Pooled(slots=2)
    async with serving(service) as served:
        several = say(served, "several", n=4)
        await until(lambda: service.running == 2 and service.waiting == 2)
        single = say(served, "single")
        await until(lambda: service.waiting == 3)
        service.go.release()
        await until(lambda: len(service.order) == 3)
        assert "single" in service.order[2]
        for _ in range(4):
            service.go.release()
        assert ((await several).status, (await single).status) == (200, 200)


async def test_a_wait_in_the_engines_queue_is_counted():
    service = Pooled()
    async with serving(service) as served:
        asking = [asyncio.create_task(ask(served)) for _ in range(2)]
        await until(lambda: service.running == 1 and service.waiting == 1)
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        assert "miner_requests_queued 1.0" in lines
        assert "miner_requests_running 1.0" in lines
        await asyncio.sleep(0.2)
        for _ in range(2):
            service.go.release()
        await asyncio.gather(*asking)
        await until(lambda: not served.gateway.running)
        assert served.gateway.counters.queue_time.total >= 0.2


async def test_a_wait_in_the_engines_queue_ends_with_its_timeout():
    service = Pooled(queue_timeout=0.2)
    async with serving(service) as served:
        first = asyncio.create_task(ask(served))
        await until(lambda: service.running == 1)
        assert (await ask(served)).status == 429
        service.go.release()
        assert (await first).status == 200


async def test_a_bound_that_is_set_is_kept_in_front_of_a_queue():
    service = Pooled(slots=4)
    async with serving(service, serve_max_running=1) as served:
        asking = [asyncio.create_task(ask(served)) for _ in range(2)]
        await until(lambda: service.running == 1 and served.gateway.queue.permits.waiting == 1)
        assert service.waiting == 0
        for _ in range(2):
            service.go.release()
        assert [(await one).status for one in asking] == [200, 200]


def test_with_fallbacks_the_backend_that_is_next_says_who_queues():
    first, other = Pooled(), Parrot(config())
    service = FallbackService(config(), first, [], lambda name: None)
    service._services.append(other)
    assert service.queues_requests
    first.name = "first"
    service._cool_down(first, BackendError("It is down."))
    assert not service.queues_requests
    assert not other.queues_requests


async def test_a_queue_that_refuses_one_client_is_no_backend_that_is_down():
    class Full(Parrot):
        name = "full"

        async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
            raise BackendOverloadedError("Too many wait.", backend="full", retry_after=1.0)

    first = Full(config())
    service = FallbackService(config(), first, [], lambda name: None)
    service._services.append(Parrot(config()))
    assert "Hi" in await service.generate("Hi")
    assert service.current is first


async def test_tasks_of_a_request_have_its_client():
    assert current_client().name == ""
    client = QueueClient("a")
    set_client(client)
    assert await asyncio.create_task(_client()) is client


async def _client():
    return current_client()


ENDLESS = 100_000
"""Tokens of a response that takes the tiny model minutes."""


@asynccontextmanager
async def tiny(tmp_path, **settings):
    path = write_tiny_model(tmp_path / "tiny.gguf", context=ENDLESS)
    more = {"llamacpp_ctx_size": ENDLESS, "llamacpp_parallel": 1, "llamacpp_threads": 1, **settings}
    async with LlamaCppService(config(model_path=path, default_model=None, **more)) as service:
        yield service


@pytest.mark.engine
@pytest.mark.parametrize("stream", [False, True])
async def test_a_greedy_key_delays_another_by_one_request_on_a_real_engine(tmp_path, stream):
    keys(greedy=Limits(), modest=Limits(), first=Limits())
    ended = []

    async def one(served, name, tokens=600):
        answer = await ask(served, of(name), model="tiny", max_tokens=tokens, stream=stream)
        ended.append(name)
        return answer.status

    async with tiny(tmp_path) as service, serving(service) as served:
        assert await one(served, "modest") == 200
        pool = service._engines._host.started
        first = asyncio.create_task(one(served, "first", ENDLESS))
        await until(lambda: sum(engine.slots_busy for engine in pool.status()) == 1)
        greedy = [asyncio.create_task(one(served, "greedy")) for _ in range(6)]
        await until(lambda: sum(engine.queued for engine in pool.status()) == 6)
        modest = asyncio.create_task(one(served, "modest"))
        await until(lambda: "key modest" in waiting_clients(pool))
        first.cancel()
        assert await modest == 200
        # The one that was first in the queue, and one that had ended before its client knew.
        assert ended.count("greedy") <= 2
        assert [await task for task in greedy] == [200] * 6


async def test_settings_that_a_backend_with_its_own_queue_ignores_are_named():
    settings = {"serve_max_queued": 2, "serve_queue_timeout": 5}
    names = [line.split()[0] for line in ignored_queue_settings(Pooled(), GatewaySettings(**settings))]
    assert names == ["MINER_SERVE_MAX_QUEUED", "MINER_SERVE_QUEUE_TIMEOUT"]
    assert ignored_queue_settings(Pooled(), GatewaySettings()) == []
    assert ignored_queue_settings(Pooled(), GatewaySettings(serve_max_running=1, **settings)) == []
    assert ignored_queue_settings(Parrot(config()), GatewaySettings(**settings)) == []


def entry(name, priority="interactive"):
    key = of(name)["x-api-key"]
    return KeyEntry(name=name, sha256=hash_of(key).hex(), priority=priority)


def request(served, name, priority=None):
    headers = of(name) if priority is None else {**of(name), "X-Miner-Priority": priority}
    return asyncio.create_task(ask(served, headers, messages=[{"role": "user", "content": name}]))


@pytest.mark.parametrize("by_key", [True, False], ids=["by key", "by header"])
@pytest.mark.parametrize("pooled", [True, False], ids=["the engine's queue", "the gateway's queue"])
async def test_batch_requests_run_behind_interactive_ones(by_key, pooled):
    nightly = entry("nightly", "batch" if by_key else "interactive")
    write_keys(key_path(None), KeyFile(keys=[nightly, entry("alice")]))
    service, header = Pooled(), None if by_key else "batch"
    async with serving(service, **({} if pooled else {"serve_max_running": 1})) as served:

        def waiting():
            return service.waiting + served.gateway.queue.permits.waiting

        tasks = [request(served, "nightly", header)]
        await until(lambda: service.running == 1)
        for count, (name, priority) in enumerate((("nightly", header), ("nightly", header), ("alice", None)), 1):
            tasks.append(request(served, name, priority))
            await until(lambda count=count: waiting() == count)
        for _ in range(4):
            service.go.release()
        assert [(await task).status for task in tasks] == [200] * 4
    assert ["alice" in prompt for prompt in service.order] == [False, True, False, False]


async def test_a_batch_key_cannot_raise_itself_and_an_unknown_priority_is_refused():
    write_keys(key_path(None), KeyFile(keys=[entry("nightly", "batch"), entry("alice")]))
    service = Pooled()
    async with serving(service) as served:
        assert (await request(served, "nightly", "urgent")).status == 400
        tasks = [request(served, "alice")]
        await until(lambda: service.running == 1)
        tasks.append(request(served, "nightly", "interactive"))
        await until(lambda: service.waiting == 1)
        tasks.append(request(served, "alice"))
        await until(lambda: service.waiting == 2)
        for _ in range(3):
            service.go.release()
        assert [(await task).status for task in tasks] == [200] * 3
    assert ["alice" in prompt for prompt in service.order] == [True, True, False]
