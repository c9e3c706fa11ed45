"""Stored responses: each owner's own, bounded, and never in progress for ever."""

from __future__ import annotations

import pytest

from miner.errors import InvalidRequestError
from miner.gateway.errors import RefusedError
from miner.gateway.store.database import Database, StorageError
from miner.gateway.store.responses import ResponseStore, StoredResponse


def stores(path, **bounds):
    database = Database(path)
    return database, ResponseStore(database, **({"number": 100, "size": 100_000, "age": 3600.0} | bounds))


def response(name, previous=None, **fields):
    values = {"status": "completed", "background": False, "response": b'{"a":1}', "input": b"[]"}
    return StoredResponse(name, previous, **(values | fields))


async def names(store, owner, candidates):
    return [name for name in candidates if await store.find(owner, name) is not None]


async def test_an_owner_finds_only_its_own(tmp_path):
    database, store = stores(tmp_path / "store.db")
    await store.save("one", response("r", response=b'{"a":"one"}'))
    await store.save("other", response("r", response=b'{"a":"other"}'))
    assert (await store.find("one", "r")).object() == {"a": "one"}
    assert (await store.find("other", "r")).object() == {"a": "other"}
    assert await store.find("third", "r") is None
    assert await store.delete("third", "r") is None
    assert await store.delete("one", "r") is not None
    assert await store.find("one", "r") is None
    assert await store.find("other", "r") is not None
    with pytest.raises(RefusedError):
        await store.chain("one", "r", 1000)
    await database.close()


async def test_a_chain_is_in_order_and_says_what_is_missing(tmp_path):
    database, store = stores(tmp_path / "store.db")
    for number in range(4):
        await store.save("o", response(f"r{number}", f"r{number - 1}" if number else None))
    assert [one.id for one in await store.chain("o", "r3", 1000)] == ["r0", "r1", "r2", "r3"]
    with pytest.raises(InvalidRequestError, match="too large") as caught:
        await store.chain("o", "r3", 20)
    assert caught.value.param == "previous_response_id"
    await store.delete("o", "r1")
    with pytest.raises(RefusedError, match="'r3' continues 'r1'"):
        await store.chain("o", "r3", 1000)
    await database.close()


async def test_the_number_is_bounded_and_who_stores_most_loses_first(tmp_path):
    database, store = stores(tmp_path / "store.db", number=5)
    await store.save("modest", response("m"))
    for number in range(20):
        await store.save("greedy", response(f"r{number}"))
    assert await names(store, "greedy", [f"r{number}" for number in range(20)]) == ["r16", "r17", "r18", "r19"]
    assert await store.find("modest", "m") is not None
    await database.close()


async def test_what_a_conversation_uses_stays_longest(tmp_path):
    database, store = stores(tmp_path / "store.db", number=3)
    for name in ("a", "b", "c"):
        await store.save("o", response(name))
    await store.chain("o", "a", 1000)
    await store.save("o", response("d"))
    assert await names(store, "o", "abcd") == ["a", "c", "d"]
    await database.close()


async def test_bytes_are_bounded(tmp_path):
    database, store = stores(tmp_path / "store.db", size=10_000)
    for number in range(10):
        await store.save("o", response(str(number), input=b"[" + b" " * 3_000 + b"]"))
    assert await names(store, "o", "0123456789") == ["7", "8", "9"]
    await store.save("o", response("9", input=b"[]"))  # replaced: counted once
    await store.save("o", response("x", input=b"[" + b" " * 3_000 + b"]"))
    assert await names(store, "o", "789x") == ["7", "8", "9", "x"]
    await database.close()


async def test_what_is_too_old_is_gone(tmp_path):
    database, store = stores(tmp_path / "store.db", age=3600.0)
    await store.save("o", response("old"))
    await database.write(
        lambda connection: connection.execute("UPDATE responses SET used_at = used_at - 4000").rowcount
    )
    assert await store.find("o", "old") is None
    await store.save("o", response("new"))
    assert await database.read(lambda connection: connection.execute("SELECT id FROM responses").fetchall()) == [
        ("new",)
    ]
    await database.close()


async def test_what_a_dead_process_left_has_failed_and_a_living_ones_has_not(tmp_path):
    dead, store = stores(tmp_path / "store.db")
    running = {"status": "in_progress", "background": True, "response": b'{"status":"in_progress"}'}
    await store.save("o", response("dead", instance=await store.instance(), **running))
    await dead.close()
    living, store = stores(tmp_path / "store.db")
    await store.save("o", response("living", instance=await store.instance(), **running))
    third, store = stores(tmp_path / "store.db")
    failed = await store.find("o", "dead")
    assert (failed.status, failed.finished, failed.object()["error"]["code"]) == ("failed", True, "server_error")
    assert (await store.find("o", "living")).status == "in_progress"
    await living.close()
    await third.close()


async def test_what_runs_here_goes_on_when_the_file_is_opened_again(tmp_path):
    database, store = stores(tmp_path / "store.db")
    await store.save("o", response("r", status="in_progress", instance=await store.instance()))
    with pytest.raises(StorageError):
        await database.write(lambda connection: connection.execute("no such statement"))
    assert (await store.find("o", "r")).status == "in_progress"
    await database.close()


async def test_an_update_changes_only_what_is_unfinished(tmp_path):
    database, store = stores(tmp_path / "store.db")
    await store.save("o", response("r", status="in_progress"))

    def finish(found):
        found.status = "completed"
        return found

    assert await store.update("o", "r", finish)
    assert not await store.update("o", "r", finish)
    assert not await store.update("o", "none", finish)
    await database.close()
