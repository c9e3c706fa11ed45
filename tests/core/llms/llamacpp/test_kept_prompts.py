"""Prompts outlive an eviction: what is read again after a swap, by the engine's own counters."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import asynccontextmanager

import pytest

from miner.config.config import MinerConfig
from miner.core.llms import get_backend
from tests.blocking import blocking_calls_fail
from tests.core.engine.children import PATIENCE
from tests.core.engine.test_launchers import make_binary
from tests.tiny_model import write_recurrent_model, write_tiny_model

pytestmark = pytest.mark.engine

NOT_SENT = 12
"""Tokens that may be read again: a reply's last one and spaces at its ends; a recurrent state is a bit older."""
STORY = "Tell me of ships and lighthouses, and of all who keep them. " * 20


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The directory of the files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "miner" / "kv"


@asynccontextmanager
async def two_models(tmp_path, *, write=write_tiny_model, **settings):
    """A service with the models `a` and `b`, and memory for one."""
    directory = tmp_path / "models"
    directory.mkdir(exist_ok=True)
    for name in "ab":
        if not (directory / f"{name}.gguf").exists():
            write(directory / f"{name}.gguf")
    common = {
        "_env_file": None, "models_dir": directory, "llamacpp_max_loaded": 1, "llamacpp_ctx_size": 2048,
        "llamacpp_parallel": 2, "llamacpp_threads": 1, "max_retries": 0,
    }  # fmt: skip
    async with get_backend("llamacpp", MinerConfig(**common | settings)) as service:
        yield service


async def talk(service, model, messages, **options):
    """Send a conversation and add the reply to it; return what the engine counted."""
    reply = await service.chat_completion(messages, model=model, temperature=0, max_tokens=4, **options)
    messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": "And then?"}]
    return reply.usage


def conversation(text=STORY):
    return [{"role": "user", "content": text}]


async def kept(service, model):
    """What the engine's status says."""
    engines = (await service.health()).engines
    return next(engine.kv_cache for engine in engines if engine.model == model)


def files(cache):
    return [file for run in cache.glob("*") for file in run.iterdir()]


@pytest.mark.parametrize("write", [write_tiny_model, write_recurrent_model])
async def test_a_conversation_goes_on_after_another_model_was_loaded(tmp_path, cache, write):
    async with two_models(tmp_path, write=write) as service:
        first, other = conversation(), conversation()
        fresh = await talk(service, "a", first)
        assert fresh.cached_tokens == 0
        assert fresh.prompt_tokens > 1000
        last = fresh
        for _ in range(3):
            await talk(service, "b", other)
            assert "kept: 1 prompt" in await kept(service, "a")
            assert [(file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) for file in files(cache)] == [
                (0o600, 0o700)
            ] * len(files(cache))
            usage = await talk(service, "a", first)
            assert usage.cached_tokens >= last.total_tokens - NOT_SENT
            last = usage
        assert len(files(cache)) == 2  # a later state replaces an earlier one
    assert not files(cache)


async def test_an_engine_that_is_unloaded_keeps_its_prompts_too(tmp_path):
    async with two_models(tmp_path) as service:
        messages = conversation()
        last = await talk(service, "a", messages)
        assert await service.unload_model("a")
        again = await talk(service, "a", messages, keep_alive=0)
        assert again.cached_tokens >= last.total_tokens - NOT_SENT
        while (await service.health()).engines[0].state != "stopped":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert (await talk(service, "a", messages)).cached_tokens >= again.total_tokens - NOT_SENT


async def test_no_swap_blocks_the_event_loop(tmp_path):
    async with two_models(tmp_path) as service:
        with blocking_calls_fail():
            messages = conversation()
            for _ in range(2):
                await talk(service, "a", messages)
                await talk(service, "b", conversation("Hi"))
            assert await kept(service, "a")
            await service.aclose()


async def test_two_conversations_come_back_into_slots_of_their_own(tmp_path):
    async with two_models(tmp_path) as service:
        both = [conversation(f"{name}. {STORY}") for name in ("Anna", "Bert")]
        last = [await talk(service, "a", messages) for messages in both]
        await talk(service, "b", conversation("Hi"))
        assert "kept: 2 prompts" in await kept(service, "a")
        again = await asyncio.gather(*(talk(service, "a", messages) for messages in both))
        for before, after in zip(last, again, strict=True):
            assert after.cached_tokens >= before.total_tokens - NOT_SENT


async def test_replies_are_the_same_as_without(tmp_path):
    said = []
    for limit in (None, 0):
        async with two_models(tmp_path, kv_cache=limit) as service:
            messages = conversation()
            for _ in range(2):
                await talk(service, "a", messages)
                await talk(service, "b", conversation("Hi"))
            said.append([message["content"] for message in messages])
    assert said[0] == said[1]


async def test_a_replaced_model_gets_no_state_of_the_old_one(tmp_path, cache):
    async with two_models(tmp_path) as service:
        messages = conversation()
        await talk(service, "a", messages)
        await talk(service, "b", conversation("Hi"))
        assert files(cache)
        new = write_tiny_model(tmp_path / "new.gguf")
        await asyncio.to_thread(os.replace, new, tmp_path / "models" / "a.gguf")
        await service.list_models()
        assert (await talk(service, "a", messages)).cached_tokens == 0


async def test_lora_scales_of_a_request_are_in_no_file(tmp_path, cache):
    async with two_models(tmp_path) as service:
        body = {"prompt": STORY, "n_predict": 2, "lora": [{"id": 0, "scale": 0.5}]}
        async for _ in service.native_stream("/completion", body, "a"):
            pass
        await talk(service, "b", conversation("Hi"))
        assert not files(cache)


async def test_an_engine_that_crashed_goes_on_from_what_was_kept_before(tmp_path):
    async with two_models(tmp_path) as service:
        messages = conversation()
        last = await talk(service, "a", messages)
        await talk(service, "b", conversation("Hi"))
        await service.load_model("a")
        (pid,) = [engine.pid for engine in (await service.health()).engines if engine.model == "a"]
        os.kill(pid, signal.SIGKILL)
        while (await kept(service, "a")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        async with asyncio.timeout(PATIENCE):
            while any(engine.pid == pid for engine in (await service.health()).engines):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await talk(service, "a", messages)).cached_tokens >= last.total_tokens - NOT_SENT


async def test_a_closed_service_writes_nothing_and_leaves_nothing(tmp_path, cache, caplog):
    caplog.set_level(logging.INFO, "miner.slots")
    async with two_models(tmp_path) as service:
        await talk(service, "a", conversation())
    assert "kept" not in caplog.text
    assert not list(cache.iterdir())


# Not kept


async def swapped(service, messages):
    """Whether the prompt was in the cache after a swap."""
    last = await talk(service, "a", messages)
    await talk(service, "b", conversation("Hi"))
    return (await talk(service, "a", messages)).cached_tokens >= last.total_tokens - NOT_SENT


async def test_none_are_kept_where_the_setting_says_so(tmp_path, cache, caplog):
    caplog.set_level(logging.INFO, "miner.slots")
    async with two_models(tmp_path, kv_cache=0) as service:
        messages = conversation()
        assert not await swapped(service, messages)
        assert not await swapped(service, messages)
        assert await kept(service, "a") == "not kept: kv_cache (MINER_KV_CACHE) is 0"
        assert not files(cache)
    assert caplog.text.count("a: its prompts are not kept over swaps: kv_cache (MINER_KV_CACHE) is 0.") == 1


async def test_none_are_kept_with_a_draft_model(tmp_path, cache):
    draft = await asyncio.to_thread(write_tiny_model, tmp_path / "draft.gguf")
    async with two_models(tmp_path, llamacpp_spec_draft_model=draft) as service:
        assert not await swapped(service, conversation())
        assert await kept(service, "a") == "not kept: llama.cpp cannot save what the draft model has read"
        assert not files(cache)


async def test_what_is_more_than_the_limit_is_not_kept(tmp_path, cache, caplog):
    caplog.set_level(logging.INFO, "miner.slots")
    async with two_models(tmp_path, kv_cache=100_000) as service:
        assert not await swapped(service, conversation())
        assert not files(cache)
        assert "not kept: one is larger than kv_cache (MINER_KV_CACHE) allows" in await kept(service, "a")
    assert "MINER_KV_CACHE" in caplog.text


async def test_the_oldest_prompts_are_dropped_first(tmp_path, cache):
    async with two_models(tmp_path, kv_cache=1_000_000, llamacpp_parallel=1) as service:
        talks = [conversation(f"{number}. {STORY}") for number in range(4)]
        for messages in talks:
            await talk(service, "a", messages)
            await talk(service, "b", conversation("Hi"))
            assert sum(file.stat().st_size for file in files(cache)) <= 1_000_000
        cached = [(await talk(service, "a", messages)).cached_tokens for messages in reversed(talks)]
        assert cached[0] > 1000
        assert cached[-1] < 100


async def test_a_server_that_saves_no_slots_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, "miner.slots")
    binary = await asyncio.to_thread(make_binary, tmp_path / "llama-server")
    async with two_models(tmp_path, llamacpp_server=str(binary)) as service:
        messages = conversation()
        assert not await swapped(service, messages)
        assert not await swapped(service, messages)
        assert "not kept: the engine responded to save with 501" in await kept(service, "a")
    assert caplog.text.count("a: its prompts are not kept") == 1


async def test_an_engine_that_reads_it_all_again_is_given_no_more_files(tmp_path, cache, caplog):
    caplog.set_level(logging.INFO, "miner.slots")
    template = tmp_path / "template.jinja"
    template.write_text("{{ strftime_now('%S') }}{% for message in messages %}[{{ message.content }}]{% endfor %}")
    async with two_models(tmp_path, llamacpp_chat_template=template) as service:
        messages = conversation()
        for _ in range(3):
            await talk(service, "a", messages)
            await talk(service, "b", conversation("Hi"))
            await asyncio.sleep(1.1)
            assert (await talk(service, "a", messages)).cached_tokens < 10
        assert "not kept: after a restore the engine read the prompt again" in await kept(service, "a")
        assert not [file for file in files(cache) if file.stat().st_size > 1000]
    assert caplog.text.count("a: its prompts are not kept") == 1


async def test_a_directory_that_cannot_be_created_is_told(tmp_path, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("no directory")
    async with two_models(tmp_path) as service:
        assert not await swapped(service, conversation())
        assert "not kept: their directory cannot be used" in await kept(service, "a")
