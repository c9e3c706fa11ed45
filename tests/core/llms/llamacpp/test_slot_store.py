"""The files of kept prompts: their bound, whose they are, and what a killed process leaves."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from miner.core.llms.llamacpp.slot_directory import SlotDirectory
from miner.core.llms.llamacpp.slot_store import SlotStore
from miner.core.llms.llamacpp.slots import trace_of

RUN, OTHER = ("a", "b1"), ("a", "b2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "miner" / "kv"


def trace(text):
    return trace_of({"prompt": text * 100})


async def filed(store, run, text, size):
    """A prompt whose state takes so many bytes."""
    prompt = await store.create(run, trace(text), size)
    await asyncio.to_thread(prompt.path.write_bytes, bytes(size))
    await store.complete(prompt, tokens=100)
    return prompt


async def prepared(limit=1000):
    store = SlotStore(limit)
    await asyncio.to_thread(store.prepare)
    return store


async def settled(path):
    for _ in range(3000):
        if not path.exists():
            return True
        await asyncio.sleep(0.02)
    return False


async def test_the_least_recently_used_are_dropped_first(cache):
    store = await prepared()
    first, second = [await filed(store, RUN, name, 400) for name in ("first ", "second ")]
    assert store.has(RUN, first.trace)  # from now on the second is older
    third = await filed(store, RUN, "third ", 500)
    assert not second.path.exists()
    assert store.find(RUN, trace("second ")) is not second
    assert store.size(RUN) == (2, 900)
    assert {first.path, third.path} == set(first.path.parent.iterdir())
    store.close()
    assert not list(cache.iterdir())


async def test_a_state_is_only_found_for_an_equal_engine_and_once_it_was_written():
    store = await prepared()
    being_written = await store.create(RUN, trace("new "), 10)
    assert store.find(RUN, being_written.trace) is None
    prompt = await filed(store, RUN, "old ", 10)
    assert store.find(RUN, prompt.trace) is prompt
    assert store.find(OTHER, prompt.trace) is None
    store.close()


async def test_a_later_state_of_a_conversation_replaces_the_earlier_one():
    store = await prepared()
    earlier = await filed(store, RUN, "tell me more ", 10)
    longer = trace_of({"prompt": "tell me more " * 100 + "and more " * 100})
    later = await store.create(RUN, longer, 20)
    await store.complete(later, tokens=200)
    assert await settled(earlier.path)
    assert store.find(RUN, earlier.trace) is later
    store.close()


async def test_what_does_not_fit_is_refused_in_words():
    store = await prepared()
    with pytest.raises(OSError, match="larger than kv_cache"):
        await store.create(RUN, trace("big "), 1001)
    store.close()
    with pytest.raises(OSError, match="no directory"):
        await store.create(RUN, trace("late "), 1)


async def test_a_full_disk_is_told():
    store = await prepared(1 << 60)
    with pytest.raises(OSError, match="the disk is full"):
        await store.create(RUN, trace("huge "), 1 << 60)
    store.close()


async def test_only_this_user_can_read_them():
    store = await prepared()
    prompt = await filed(store, RUN, "secret ", 10)
    assert prompt.path.stat().st_mode & 0o777 == 0o600
    assert prompt.path.parent.stat().st_mode & 0o777 == 0o700
    store.close()


HOLDS = """
import sys, time
from miner.core.llms.llamacpp.slot_directory import SlotDirectory
directory = SlotDirectory()
(directory.path / "prompt").write_text("secret")
print(directory.path, flush=True)
time.sleep(600)
"""


def holder():
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.process
def test_what_a_killed_process_left_is_removed_at_the_next_start():
    running, used = holder()
    killed, left = holder()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (left / "prompt").exists()
    new = SlotDirectory()
    assert not left.exists()
    assert (used / "prompt").exists()
    second, left = holder()
    second.kill()
    second.wait()
    SlotStore(0).prepare()
    assert not left.exists()
    for process in (running, killed, second):
        process.kill()
        process.wait()
        process.stdout.close()
    new.remove()
    assert not new.path.exists()
