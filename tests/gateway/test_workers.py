"""Several workers as one: limits, turns, metrics and keys hold for all of them together."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from miner.gateway.keys import KeyEntry, KeyFile, Limits, hash_of, write_keys
from miner.gateway.rates import Bucket
from miner.gateway.shared import PLACES, SharedCounters
from miner.gateway.shared_accounts import SharedAccounts
from miner.gateway.turns import QueueFullError, Turns
from tests.gateway.serving import post
from tests.gateway.test_limits import until
from tests.gateway.test_server import CHAT, miner_serve
from tests.servers import faults
from tests.servers.openai_stub import StubServer

WAIT = 60
WHOLE = {**CHAT, "stream": False}
CHAT_ROUTE = {"route": "/v1/chat/completions", "method": "POST"}


@pytest.fixture
def memory():
    """What two workers share, as each of them sees it, and the parent."""
    parent = SharedCounters.create(2)
    workers = [SharedCounters.attach(parent.fd, 2, index) for index in range(2)]
    yield *workers, parent
    for one in workers:
        one.cells.close()
    parent.close()


async def scrape(server):
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def ask(server, **headers):
    """Status, worker and headers of a chat, over a connection of its own."""
    async with post(server, WHOLE, headers=headers) as answer:
        await answer.read()
        return answer.status, answer.headers["X-Miner-Worker"], answer.headers


async def test_a_client_has_one_allowance_at_all_workers_and_it_is_full_again(tmp_path):
    async with (
        StubServer() as engine,
        miner_serve(
            "--port", "0", "--workers", "2", tmp_path=tmp_path, VLLM_API_BASE=engine.v1, MINER_RATE_LIMIT_REQUESTS="20"
        ) as server,
    ):  # fmt: skip
        await server.until_serving()
        answers = [await ask(server) for _ in range(30)]
    served = [worker for status, worker, _ in answers if status == 200]
    assert 20 <= len(served) <= 24  # it refills by one in 3 s
    assert set(served) == {"0", "1"}
    left = [int(headers["X-Ratelimit-Remaining-Requests"]) for _, _, headers in answers]
    assert all(later <= before + 1 for before, later in itertools.pairwise(left))
    assert {headers["X-Ratelimit-Limit-Requests"] for _, _, headers in answers} == {"20"}


async def test_requests_at_once_are_counted_over_all_workers(tmp_path):
    async with (
        StubServer(reply=faults.silent_in_stream(["Hel"])) as engine,
        miner_serve(
            "--port", "0", "--workers", "2", tmp_path=tmp_path, VLLM_API_BASE=engine.v1,
            MINER_RATE_LIMIT_CONCURRENCY="3", MINER_SERVE_PRELOAD="false", MINER_SERVE_GRACE="0",
        ) as server,
    ):  # fmt: skip
        await server.until_serving()
        async with post(server, CHAT) as one, post(server, CHAT) as two, post(server, CHAT) as three:
            assert [answer.status for answer in (one, two, three)] == [200] * 3
            assert {(await ask(server))[0] for _ in range(8)} == {429}
        await engine.wait_for_disconnects(3)
        engine.reply = "Hello."
        async with asyncio.timeout(WAIT):
            while (await ask(server))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_metrics_are_those_of_all_workers_and_never_go_back(tmp_path):
    async with (
        StubServer() as engine,
        miner_serve("--port", "0", "--workers", "2", tmp_path=tmp_path, VLLM_API_BASE=engine.v1) as server,
    ):
        await server.until_serving()
        workers = {(await ask(server))[1] for _ in range(40)}
        assert workers == {"0", "1"}
        key = ("miner_requests_total", *sorted({**CHAT_ROUTE, "status": "200"}.items()))
        async with asyncio.timeout(WAIT):
            while (told := await scrape(server)).get(key) != 40:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert told["miner_completion_tokens_total", ("backend", "vllm"), ("model", "m")] > 40
        assert told["miner_request_seconds_count", ("route", "/v1/chat/completions")] == 40
        for worker in workers:
            assert told["process_resident_memory_bytes", ("worker", worker)] > 1e6
        before = [await scrape(server) for _ in range(10)]
        assert all(told[key] == 40 for told in before)
        parent = psutil.Process(server.process.pid)
        killed = parent.children()[0]
        os.kill(killed.pid, signal.SIGKILL)
        async with asyncio.timeout(WAIT):
            while {(await ask(server))[1] for _ in range(8)} != workers:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        after = [(await scrape(server))[key] for _ in range(20)]
        assert after == sorted(after)
        assert after[0] >= 40
        async with asyncio.timeout(WAIT):
            while (await scrape(server))[key] < 40 + 8:  # noqa: ASYNC110  (the other's are a second old)
                await asyncio.sleep(0.1)


async def test_keys_and_their_limits_reach_all_workers_and_no_request_is_dropped(tmp_path):
    def entry(name, **more):
        return KeyEntry(name=name, sha256=hash_of(f"{name}-key-0123456789").hex(), **more)

    def key(name):
        return {"x-api-key": f"{name}-key-0123456789"}

    async def until_all(name, status):
        async with asyncio.timeout(WAIT):
            while {(await ask(server, **key(name)))[0] for _ in range(12)} != {status}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    path = tmp_path / "keys.json"
    write_keys(path, KeyFile(keys=[entry("first")]))
    engine = StubServer()
    async with (
        engine,
        miner_serve(
            "--port", "0", "--workers", "2", tmp_path=tmp_path, VLLM_API_BASE=engine.v1, MINER_API_KEYS_FILE=str(path)
        ) as server,
    ):  # fmt: skip
        await server.until_serving()
        await until_all("first", 200)
        engine.reply = faults.slow(0.0, [f"w{i} " for i in range(30)], between=0.1)
        running = [asyncio.create_task(read(server, key("first"))) for _ in range(8)]
        await asyncio.sleep(0.5)
        engine.reply = "Hello."
        write_keys(path, KeyFile(keys=[entry("second"), entry("third", limits=Limits(requests=1))]))
        await until_all("second", 200)
        await until_all("first", 401)
        assert (await ask(server, **key("third")))[0] == 200
        assert {(await ask(server, **key("third")))[0] for _ in range(8)} == {429}
        assert all(text.endswith("data: [DONE]\n\n") for text in await asyncio.gather(*running))


async def read(server, headers):
    async with post(server, CHAT, headers=headers) as answer:
        assert answer.status == 200
        return await answer.text()


def test_an_account_is_the_same_at_both_workers(memory):
    one, other = (SharedAccounts(counters) for counters in memory[:2])
    with one.of("a") as account:
        assert account.requests is None
        account.requests = Bucket(10, 100.0)
        account.requests.use(4)
        account.running += 1
    with other.of("a") as there:
        assert there.running == 1
        assert there.requests.left(10, 100.0) == 6
        there.requests.use(1)
        there.running += 1
    with account:  # as at the end of its request
        assert account.requests.left(10, 100.0) == 5
        assert account.running == 2
        account.running -= 1
    with other.of("b") as stranger:
        assert (stranger.running, stranger.requests) == (0, None)
    memory[2].clear(1)  # it died with one running
    with one.of("a") as account:
        assert account.running == 0
        assert account.requests.left(10, 100.0) == 5


def test_of_too_many_accounts_those_that_were_idle_longest_are_forgotten(memory):
    accounts = SharedAccounts(memory[0])
    with accounts.of("busy") as busy:
        busy.requests = Bucket(10, 0.0)
        busy.requests.use(10)
        busy.running += 1
    for number in range(3 * PLACES):
        with accounts.of(str(number)) as account:
            account.requests = Bucket(10, 1.0 + number)
    with accounts.of("busy") as again:
        assert again.running == 1
        assert again.requests.left(10, 0.0) == 0
    with accounts.of(str(3 * PLACES - 1)) as last:
        assert last.requests is not None
    with accounts.of("0") as first:
        assert first.requests is None


def test_a_page_is_read_by_the_other_worker_and_outlives_its_writer(memory):
    one, other, parent = memory
    assert other.read_page(0) == b""
    assert one.write_page(b"first, and long")
    assert one.write_page(b"second")
    parent.clear(0)
    assert other.read_page(0) == b"second"
    assert other.read_page(1) == b""
    assert not one.write_page(bytes(2 << 20))


class Workers:
    """Two processes' turns of the same few."""

    def __init__(self, most, places=100, reserved=0):
        self.counts = [[0, 0], [0, 0]]
        self.turns = [self._of(index, most, places, reserved) for index in range(2)]

    def _of(self, index, most, places, reserved):
        mine, others = self.counts[index], self.counts[1 - index]

        def told(running, waiting):
            mine[0] += running
            mine[1] += waiting

        return Turns(
            most, places, elsewhere=lambda: others[0], waiting_elsewhere=lambda: others[1], told=told,
            starved=lambda running: bool(others[1]) and others[0] < running, reserved=reserved,
        )  # fmt: skip

    async def poll(self):
        while True:
            await asyncio.sleep(0.01)
            for turns in self.turns:
                if turns.waiting:
                    turns.serve()


@pytest.mark.parametrize("most", [1, 3])
async def test_a_worker_with_all_the_turns_lets_the_others_queue_go_on(most):
    workers = Workers(most)
    here, there = workers.turns
    served = []

    async def keep(turns, name):
        """One after the other, without a pause between."""
        while True:
            weight = await turns.take(name, 1, WAIT)
            served.append(name)
            await asyncio.sleep(0.002)
            turns.give_back(name, weight)

    polling = asyncio.create_task(workers.poll())
    greedy = [asyncio.create_task(keep(here, "greedy")) for _ in range(20)]
    await until(lambda: len(served) > 20)
    for _ in range(5):
        before = len(served)
        weight = await there.take("modest", 1, WAIT)
        assert len(served) - before < 300
        there.give_back("modest", weight)
    for task in (*greedy, polling):
        task.cancel()
    await asyncio.gather(*greedy, polling, return_exceptions=True)


async def test_a_worker_cannot_take_all_places_to_wait():
    workers = Workers(1, places=8, reserved=2)
    here, there = workers.turns
    await here.take("x", 1, WAIT)
    waiting = [asyncio.create_task(here.take("greedy", 1, WAIT)) for _ in range(6)]
    await until(lambda: here.waiting == 6)
    with pytest.raises(QueueFullError):
        await here.take("greedy", 1, WAIT)
    waiting += [asyncio.create_task(there.take("modest", 1, WAIT)) for _ in range(2)]
    await until(lambda: there.waiting == 2)
    with pytest.raises(QueueFullError):
        await there.take("modest", 1, WAIT)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
