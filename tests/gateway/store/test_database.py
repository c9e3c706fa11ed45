"""The database: made when it is needed, its owner's alone, and whatever breaks it breaks no more than its request."""

from __future__ import annotations

import asyncio
import sqlite3
import stat

import pytest

from miner.gateway.store.database import Database, StorageError, default_path

TABLE = "CREATE TABLE IF NOT EXISTS notes (text TEXT)"


def database(path):
    made = Database(path)
    made.add_tables(TABLE)
    return made


def add(text):
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?)", (text,)).rowcount


def texts(connection):
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY rowid")]


async def test_it_is_made_at_the_first_use_and_only_its_owner_reads_it(tmp_path):
    store = database(tmp_path / "new" / "store.db")
    assert not (tmp_path / "new").exists()
    await store.write(add("a"))
    made = sorted((tmp_path / "new").iterdir())
    assert len(made) >= 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    await store.close()
    await store.close()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["store.db"]
    again = database(tmp_path / "new" / "store.db")
    assert await again.read(texts) == ["a"]
    await again.close()


async def test_a_transaction_is_done_in_full_or_not_at_all(tmp_path):
    store = database(tmp_path / "store.db")

    def broken(connection):
        add("lost")(connection)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.write(broken)
    await store.write(add("kept"))
    assert await store.read(texts) == ["kept"]
    await store.close()


async def test_a_caller_that_is_cancelled_does_not_undo_its_write(tmp_path):
    store = database(tmp_path / "store.db")
    await store.read(texts)
    task = asyncio.create_task(store.write(add("a")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.read(texts) == ["a"]
    await store.close()


@pytest.mark.parametrize("damage", ["no database at all" * 500, "SQLite format 3\0" + "x" * 5000])
async def test_a_damaged_file_is_kept_aside_and_a_new_one_begun(tmp_path, caplog, damage):
    path = tmp_path / "store.db"
    path.write_text(damage)
    store = database(path)
    await store.write(add("a"))
    assert await store.read(texts) == ["a"]
    kept = [file for file in tmp_path.iterdir() if ".corrupt-" in file.name]
    assert [file.read_text() for file in kept] == [damage]
    assert "is damaged" in caplog.text
    await store.close()


async def test_a_place_that_cannot_be_written_is_an_error_and_logged_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = database(tmp_path / "file" / "store.db")
    for _ in range(3):
        with pytest.raises(StorageError) as caught:
            await store.write(add("a"))
    assert caught.value.status == 503
    assert str(tmp_path) not in caught.value.message
    assert "MINER_SERVE_STORE_FILE" in caught.value.operator_hint
    assert len(caplog.records) == 1
    (tmp_path / "file").unlink()
    await store.write(add("a"))  # the disk is back
    await store.close()


async def test_a_full_disk_is_an_error_of_the_write_alone(tmp_path):
    store = database(tmp_path / "store.db")
    await store.write(add("a"))
    pages = await store.read(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await store.read(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    with pytest.raises(StorageError) as caught:
        await store.write(add("b" * 100_000))
    assert "full" in caught.value.operator_hint
    assert await store.read(texts) == ["a"]
    await store.write(add("c"))
    await store.close()


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path):
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    store = database(path)
    with pytest.raises(StorageError) as caught:
        await store.read(texts)
    assert "newer" in caught.value.operator_hint
    await store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["store.db"]


async def test_two_processes_may_use_one_file(tmp_path):
    one, other = database(tmp_path / "store.db"), database(tmp_path / "store.db")
    await asyncio.gather(*(store.write(add(str(number))) for store in (one, other) for number in range(20)))
    assert sorted(await one.read(texts)) == sorted(await other.read(texts))
    assert len(await one.read(texts)) == 40
    assert await one.instance() != await other.instance()
    await one.close()
    await other.close()


def test_its_default_place_follows_the_state_directory(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert str(default_path(None)) == "/state/miner/store.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_path(None).is_absolute()
    assert str(default_path("/elsewhere/x.db")) == "/elsewhere/x.db"
