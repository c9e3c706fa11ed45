"""The operator's hook: what it sees, what it decides, and that its failing keeps the door shut."""

from __future__ import annotations

import asyncio
from importlib.metadata import EntryPoint

import aiohttp
import pytest

from miner.errors import ConfigError
from miner.gateway.errors import RefusedError
from miner.gateway.middleware import admission
from miner.gateway.middleware.admission import Admission, find_hooks
from tests.gateway.middleware.test_rate_limit import ask
from tests.gateway.serving import Parrot, config, serving

KEY = "0123456789abcdef"
seen = []


async def watching(request):
    seen.append(request)


async def shut(request):
    return False


async def failing(request):
    raise ZeroDivisionError("the hook's own mistake")


async def slow(request):
    await asyncio.sleep(600)


async def stubborn(request):
    while True:
        try:
            await asyncio.sleep(2)
        except asyncio.CancelledError:
            return True
        else:
            return True


async def moved(request):
    raise RefusedError(451, "legal", "Not here.", retry_after=7)


async def odd(request):
    return "yes"


def not_async(request):
    return True


class Callable:
    async def __call__(self, request):
        return request.headers.get("x-tenant") == "a"


called = Callable()


@pytest.fixture
def installed(monkeypatch):
    def install(*names):
        points = [EntryPoint(name, f"{__name__}:{name}", admission.GROUP) for name in names]
        monkeypatch.setattr(admission, "entry_points", lambda group: points if group == admission.GROUP else [])

    return install


async def test_a_hook_sees_the_head_and_the_name_of_the_key(installed):
    installed("watching")
    seen.clear()
    service = Parrot(config())
    async with serving(service, api_keys=KEY) as served:
        headers = {"x-api-key": KEY, "X-Tenant": "b", "x-request-id": "mine"}
        assert (await ask(served, headers)).status == 200
        assert (await ask(served, {"x-api-key": "wrong-key-wrong-key"})).status == 401  # a hook is not asked for those
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/livez") as answer:
            assert answer.status == 200
    [request] = seen
    assert (request.id, request.method, request.route, request.address, request.key, request.headers["x-tenant"]) == (
        "mine", "POST", "/v1/chat/completions", "127.0.0.1", "MINER_API_KEYS-1", "b",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "status", "code"),
    [
        (["shut"], 403, "not_admitted"), (["failing"], 503, "admission_failed"), (["slow"], 503, "admission_failed"),
        (["stubborn"], 503, "admission_failed"), (["moved"], 451, "legal"), (["odd"], 403, "not_admitted"),
        (["watching", "shut"], 403, "not_admitted"), (["called"], 403, "not_admitted"),
    ],
)  # fmt: skip
async def test_the_door_stays_shut(names, status, code, installed):
    installed(*names)
    service = Parrot(config())
    async with serving(service, serve_admission_timeout=0.2) as served, aiohttp.ClientSession() as session:
        async with session.post(f"{served.url}/v1/chat/completions", data=b"this is no JSON") as answer:
            assert answer.status == status
            text = await answer.text()
            assert code in text
            assert "own mistake" not in text
        async with session.get(f"{served.url}/livez") as answer:
            assert answer.status == 200
    assert not hasattr(service, "asked")


async def test_a_callable_object_can_be_a_hook(installed):
    installed("called")
    async with serving(Parrot(config())) as served:
        assert (await ask(served, {"X-Tenant": "a"})).status == 200


@pytest.mark.parametrize("name", ["not_async", "missing"])
def test_a_hook_that_cannot_be_used_stops_the_start(name, installed):
    installed(name)
    with pytest.raises(ConfigError, match=name):
        find_hooks()


async def test_who_hangs_up_ends_the_hook():
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def long(request):
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    async with serving(Parrot(config()), middleware=[Admission([("long", long)], 500)]) as served:
        asking = asyncio.create_task(ask(served))
        await asyncio.wait_for(begun.wait(), 60)
        asking.cancel()
        await asyncio.wait_for(ended.wait(), 60)


@pytest.mark.parametrize(
    "error", [KeyError("k"), SystemExit(4), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()], ids=repr
)
async def test_whatever_a_hook_raises_it_ends_no_server_and_is_logged_once(error, caplog):
    async def raising(request):
        raise error

    service = Parrot(config())
    async with serving(service, middleware=[Admission([("raising", raising)], 60)]) as served:
        for _ in range(2):
            answer = await asyncio.wait_for(ask(served), 60)
            assert answer.status == 503
    assert not hasattr(service, "asked")
    told = [record for record in caplog.records if "hook raising failed" in record.getMessage()]
    assert len(told) == 2
    assert all(isinstance(record.exc_info[1], type(error)) for record in told)
