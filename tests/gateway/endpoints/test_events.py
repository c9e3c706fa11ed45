"""`/admin/events`: what a watcher sees, also one that comes back."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from miner.core.engine.events import EngineEvent, EngineEvents
from miner.gateway.feed import EventFeed
from tests.gateway.serving import Parrot, config, serving


class Loading(Parrot):
    """Has engines whose events a test emits."""

    def __init__(self):
        super().__init__(config(default_model="m"))
        self.events = EngineEvents()

    @property
    def engine_events(self):
        return self.events


async def frames(response, count):
    """The next events of a stream: (id, kind, data)."""
    found, block = [], {}
    async with asyncio.timeout(30):
        async for raw in response.content:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                block[name] = value
            elif block:
                found.append((int(block.get("id", -1)), block["event"], json.loads(block["data"])))
                block = {}
                if len(found) == count:
                    break
    return found


async def until_kind(response, kind, **fields):
    while True:
        ((number, name, data),) = await frames(response, 1)
        if name == kind and fields.items() <= data.items():
            return number, data


async def test_a_watcher_sees_requests_and_engines():
    service = Loading()
    async with serving(service) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/admin/events") as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            ((_, kind, state),) = await frames(response, 1)
            assert kind == "state"
            assert [model["name"] for model in state["models"]] == ["m"]
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            async with session.post(f"{served.v1}/chat/completions", json=body) as answer:
                assert answer.status == 200
            _, started = await until_kind(response, "request", state="started")
            assert started["model"] == "m"
            _, finished = await until_kind(response, "request", state="finished")
            assert (finished["id"], finished["status"]) == (started["id"], 200)
            service.events.emit(EngineEvent("m", "evicting", "other needs its memory"))
            number, engine = await until_kind(response, "engine")
            assert (engine["model"], engine["state"], engine["reason"]) == ("m", "evicting", "other needs its memory")
        service.events.emit(EngineEvent("m", "stopped"))
        service.events.emit(EngineEvent("m", "loading"))
        headers = {"Last-Event-ID": str(number)}
        async with session.get(f"{served.url}/admin/events", headers=headers) as response:
            found = await frames(response, 3)
            assert [(kind, data.get("state")) for _, kind, data in found[1:]] == [
                ("engine", "stopped"), ("engine", "loading"),
            ]  # fmt: skip


async def test_a_request_that_is_refused_ends_for_a_watcher_too():
    async with (
        serving(Loading()) as served,
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/admin/events") as response,
    ):
        body = {"model": "/etc/passwd", "messages": [{"role": "user", "content": "hi"}]}
        async with session.post(f"{served.v1}/chat/completions", json=body) as answer:
            assert answer.status == 404
        _, started = await until_kind(response, "request", state="started")
        _, finished = await until_kind(response, "request", state="finished")
        assert (finished["id"], finished["status"], finished["error"]) == (started["id"], 404, "model_not_found")


@pytest.mark.parametrize("sent", ["x", "-1", "1.5", "9" * 30])
async def test_an_id_that_is_none_is_refused(sent):
    headers = {"Last-Event-ID": sent}
    async with (
        serving(Loading()) as served,
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/admin/events", headers=headers) as response,
    ):
        assert response.status == 400
        assert "Last-Event-ID" in await response.text()


async def test_only_admins_may_watch():
    async with serving(Loading(), api_keys="user-0123456789abcdef") as served, aiohttp.ClientSession() as session:
        headers = {"Authorization": "Bearer user-0123456789abcdef"}
        for path in ("/admin/events", "/admin/models"):
            async with session.get(f"{served.url}{path}", headers=headers) as response:
                assert response.status == 403


async def test_a_stream_of_events_ends_with_the_server():
    async with (
        serving(Loading()) as served,
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/admin/events") as response,
    ):
        await frames(response, 1)
        served.gateway.phase = "draining"
        async with asyncio.timeout(30):
            await response.content.read()
        assert await served.gateway.wait_until_idle(30)


def test_a_slow_watcher_is_told_what_it_lost():
    async def main():
        feed = EventFeed()
        feed.publish("x", n=0)
        with feed.watch(feed.last) as watcher:
            for number in range(1500):
                feed.publish("x", n=number)
            events = await watcher.next()
            assert watcher.lost == 500
            assert [event.number for event in events] == list(range(502, 1502))
        with feed.watch(1) as late:
            assert late.lost == 500
            assert (await late.next())[0].number == 502
        assert not feed.watched

    asyncio.run(main())
