"""Background responses with the official package: polled, followed from any event on, cancelled, never for ever."""

from __future__ import annotations

import asyncio

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.gateway.apis.openai.responses import background
from tests.gateway.apis.openai.responses.validation import check_events, check_response
from tests.gateway.serving import config, serving, vllm
from tests.servers import faults
from tests.servers.openai_stub import StubServer

WAIT = 60


def client(served):
    return AsyncOpenAI(base_url=served.v1, api_key="sk-any-key-will-do-here", max_retries=0)


async def until(condition):
    async with asyncio.timeout(WAIT):
        while not (met := await condition()):  # noqa: ASYNC110  (polling is what is tested)
            await asyncio.sleep(0.01)
    return met


async def ended(api, name):
    """The response when it has ended."""

    async def final():
        reply = await api.responses.retrieve(name)
        return reply if reply.status not in ("queued", "in_progress") else None

    return await until(final)


def requested(engine):
    async def condition():
        return engine.generations

    return condition


def idle(served):
    async def condition():
        return not served.gateway.requests

    return condition


def busy(service, wanted=True):
    async def condition():
        return any(engine.slots_busy for engine in (await service.health()).engines) == wanted

    return condition


def waiting(release, text="Hello there."):
    """A reply of the engine that comes when it is released."""

    async def reply(body):
        async with asyncio.timeout(WAIT):
            await release.wait()
        return text

    return reply


async def test_it_is_queued_runs_and_is_there_at_the_end():
    release = asyncio.Event()
    async with StubServer(reply=waiting(release)) as engine, serving(vllm(engine)) as served, client(served) as api:
        begun = await api.responses.with_raw_response.create(model="m", input="Hi", background=True)
        body = check_response(begun.content)
        assert (body["status"], body["background"], body["output"]) == ("queued", True, [])

        async def runs():
            return (await api.responses.retrieve(body["id"])).status == "in_progress"

        await until(runs)
        with pytest.raises(openai.BadRequestError, match="not complete"):
            await api.responses.create(model="m", input="x", previous_response_id=body["id"])
        release.set()
        final = await ended(api, body["id"])
        assert (final.status, final.output_text) == ("completed", "Hello there.")
        check_response((await api.responses.with_raw_response.retrieve(body["id"])).content)
        engine.reply = "And on."
        await api.responses.create(model="m", input="Go on", previous_response_id=final.id)
        assert [message["content"] for message in engine.bodies[-1]["messages"]] == ["Hi", "Hello there.", "Go on"]
    assert not served.gateway.runs
    assert not served.gateway.requests


async def events_of(api, name, after=None):
    stream = await api.responses.retrieve(name, stream=True, **({} if after is None else {"starting_after": after}))
    return [event.to_dict() async for event in stream]


async def test_its_events_are_followed_from_any_one_on_while_it_runs_and_later():
    release = asyncio.Event()
    text = "One two three four five."
    async with (
        StubServer(reply=waiting(release, text)) as engine, serving(vllm(engine)) as served, client(served) as api
    ):  # fmt: skip
        stream = await api.responses.create(model="m", input="Hi", background=True, stream=True)
        first = await anext(aiter(stream))
        await stream.close()  # its client leaves
        name = first.response.id
        assert (first.type, first.response.status) == ("response.created", "queued")
        followers = [asyncio.create_task(events_of(api, name, after)) for after in (None, 0, 1)]
        await asyncio.sleep(0.05)
        release.set()
        everything, *rest = await asyncio.gather(*followers)
        assert (await ended(api, name)).output_text == text
        assert [len(everything) - len(part) for part in rest] == [1, 2]
        assert [part == everything[-len(part) :] for part in rest] == [True, True]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{served.v1}/responses/{name}?stream=true") as later,
        ):
            events = check_events(await later.read())
        assert [event["type"] for event in events[:3]] == [
            "response.created", "response.queued", "response.in_progress",
        ]  # fmt: skip
        assert events == everything
        assert [event["sequence_number"] for event in await events_of(api, name, 4)] == list(range(5, len(events)))
        assert await events_of(api, name, 10_000) == []


async def test_only_a_background_response_has_a_stream_to_follow():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        made = await api.responses.create(model="m", input="Hi")
        with pytest.raises(openai.BadRequestError, match="no stream"):
            await events_of(api, made.id)


async def test_cancelling_stops_the_engine():
    silent = faults.silent_in_stream(["Hel", "lo"])
    async with StubServer(reply=silent) as engine, serving(vllm(engine)) as served:
        async with client(served) as api:
            begun = await api.responses.create(model="m", input="Hi", background=True)
            follower = asyncio.create_task(events_of(api, begun.id))
            await until(requested(engine))
            cancelled = await api.responses.cancel(begun.id)
            assert cancelled.status == "cancelled"
            assert (await api.responses.cancel(begun.id)).status == "cancelled"
            assert (await api.responses.retrieve(begun.id)).status == "cancelled"
            assert (await follower)[-1]["response"]["status"] == "cancelled"
            await api.responses.delete(begun.id)
            with pytest.raises(openai.NotFoundError):
                await api.responses.retrieve(begun.id)
        assert not served.gateway.running
        assert not served.gateway.requests


async def test_a_failure_is_stored():
    async with (
        StubServer(reply=faults.reset(["Hel"])) as engine, serving(vllm(engine)) as served, client(served) as api
    ):  # fmt: skip
        begun = await api.responses.create(model="m", input="Hi", background=True)
        failed = await ended(api, begun.id)
        assert (failed.status, failed.error.code) == ("failed", "server_error")
        assert (await events_of(api, begun.id))[-1]["type"] == "response.failed"
        engine.reply = (400, {"error": {"message": "No.", "type": "BadRequestError", "code": 400}})
        begun = await api.responses.create(model="m", input="Hi", background=True)
        assert (await ended(api, begun.id)).error.code == "invalid_prompt"


async def test_what_is_wrong_with_a_request_is_said_at_once():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        with pytest.raises(openai.NotFoundError):
            await api.responses.create(model="unknown", input="Hi", background=True)
        with pytest.raises(openai.BadRequestError) as caught:
            await api.responses.create(model="m", input="Hi", background=True, extra_body={"thread": {"id": "x"}})
        assert caught.value.param == "thread"


async def test_a_server_that_stops_leaves_none_in_progress():
    async with StubServer(reply=faults.silent_in_stream(["Hel"])) as engine:
        async with serving(vllm(engine)) as served, client(served) as api:
            begun = await api.responses.create(model="m", input="Hi", background=True)
            await until(requested(engine))
        async with serving(vllm(engine)) as served, client(served) as api:
            failed = await api.responses.retrieve(begun.id)
            assert (failed.status, failed.error.message) == ("failed", "The server is shutting down.")


@pytest.mark.parametrize(("pauses", "status"), [((), "failed"), ((0.01,), "completed")])
async def test_one_whose_end_cannot_be_stored_is_not_in_progress_for_ever(monkeypatch, pauses, status):
    monkeypatch.setattr(background, "_PAUSES", pauses)
    release = asyncio.Event()
    async with StubServer(reply=waiting(release)) as engine, serving(vllm(engine)) as served, client(served) as api:
        begun = await api.responses.create(model="m", input="Hi", background=True)
        await until(requested(engine))
        database = served.gateway.database
        await database.read(lambda connection: connection.execute("PRAGMA query_only = ON").fetchall())
        release.set()
        await until(idle(served))
        final = await ended(api, begun.id)
    assert final.status == status
    assert status == "completed" or final.error.message == "The response could not be stored."


async def test_it_counts_against_the_limits_of_its_client_until_its_end():
    release = asyncio.Event()
    async with (
        StubServer(reply=waiting(release)) as engine,
        serving(vllm(engine), rate_limit_concurrency=1) as served,
        client(served) as api,
    ):
        begun = await api.responses.create(model="m", input="Hi", background=True)
        with pytest.raises(openai.RateLimitError):
            await api.responses.create(model="m", input="Hi")
        release.set()
        assert (await ended(api, begun.id)).status == "completed"
        await until(idle(served))
        assert (await api.responses.retrieve(begun.id)).status == "completed"
        assert (await api.responses.create(model="m", input="Hi")).status == "completed"


@pytest.mark.engine
async def test_a_cancelled_one_frees_the_slot_of_a_real_engine():
    service = LlamaCppService(config(default_model="demo", llamacpp_parallel=1))
    async with serving(service) as served, client(served) as api:
        story = {"model": "demo", "input": "Tell a very long story.", "max_output_tokens": 900, "background": True}
        first, second = [await api.responses.create(**story) for _ in range(2)]
        await until(busy(service))
        assert (await api.responses.cancel(second.id)).status == "cancelled"  # in the queue
        assert (await api.responses.cancel(first.id)).status == "cancelled"
        await until(busy(service, False))
        short = await api.responses.create(model="demo", input="Hi", max_output_tokens=3)
        assert short.usage.output_tokens == 3
