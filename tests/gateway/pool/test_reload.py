"""A file that changes while the gateway serves it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil

import pytest

from tests.gateway.pool.tables import entry, header, keys, replace, serving_table, until
from tests.servers.openai_stub import StubServer

OTHER = '[models.b]\nbackend = "two"\n'


def table(server, *models, more=""):
    return f'[backends.one]\nkind = "openai"\nurl = "{server.url}"\n{more}' + "".join(f"[models.{m}]\n" for m in models)


@pytest.fixture
async def server():
    async with StubServer(models=["a", "b", "c"], reply="Hi.") as server:
        yield server


@pytest.fixture
async def client(server, tmp_path):
    async with serving_table(tmp_path, table(server, "a", "b")) as client:
        yield client


def write(client, text):
    client.path.write_text(text)


def swap(client, text):
    replace(client.path, text)


async def told(client):
    return (await client.get("/readyz")).get("config")


@pytest.mark.parametrize("edit", [write, swap])
async def test_a_changed_file_is_served(client, server, edit, caplog):
    caplog.set_level(logging.INFO, "miner.gateway")
    began = (await client.get("/admin/config"))["loaded_at"]
    edit(client, table(server, "a", "c"))
    await client.until_served({"a", "c"})
    assert (await client.chat("b"))[0] == 404
    assert (await client.chat("c"))[0] == 200
    [line] = [record.message for record in caplog.records if "read again" in record.message]
    assert line.endswith("miner.toml was read again: added: c; removed: b.")
    shown = await client.get("/admin/config")
    assert shown["loaded_at"] > began
    assert (shown["error"], list(shown["config"]["models"])) == (None, ["a", "c"])


async def test_a_directory_that_is_replaced_as_a_whole_is_seen(server, tmp_path):
    """As Kubernetes does with a ConfigMap: the file is a link to a link that is replaced."""
    for name, models in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "miner.toml").write_text(table(server, models))
    (tmp_path / "..data").symlink_to("one")
    served = tmp_path / "served"
    served.mkdir()

    def link(target):
        (tmp_path / "new").symlink_to(target)
        os.replace(tmp_path / "new", tmp_path / "..data")

    async with serving_table(served, table(server, "c")) as client:
        os.remove(client.path)
        client.path.symlink_to(tmp_path / "..data" / "miner.toml")
        await client.until_served({"a"})
        link("two")
        await client.until_served({"b"})


async def test_a_wrong_file_changes_nothing_and_is_told_once(client, server, caplog):
    write(client, table(server, "a") + "[models.a]\n")
    error = await client.until(lambda: told(client))
    assert "miner.toml:" in error
    assert "defined twice" in error
    assert (await client.chat("b"))[0] == 200
    assert (await client.get("/readyz"))["status"] == "ready"
    await asyncio.sleep(0.8)
    assert len([record for record in caplog.records if "defined twice" in record.message]) == 1
    shown = await client.get("/admin/config")
    assert shown["error"] == error or error.startswith(shown["error"])
    assert list(shown["config"]["models"]) == ["a", "b"]
    write(client, table(server, "a", "b", "c"))
    await client.until_served({"a", "b", "c"})
    assert await told(client) is None


async def test_what_can_be_read_and_not_served_is_told_too(client, server):
    write(client, table(server, "a", "b") + '[models.x]\nbackend = "nowhere"\n')
    assert "nowhere" in await client.until(lambda: told(client))
    assert (await client.chat("a"))[0] == 200


async def test_a_deleted_file_is_told_and_its_models_are_served(client, server):
    os.remove(client.path)
    assert "There is no configuration file" in await client.until(lambda: told(client))
    assert (await client.chat("b"))[0] == 200
    write(client, table(server, "a"))
    await client.until_served({"a"})


async def test_a_file_that_is_being_written_is_not_taken_for_what_it_is_by_then(client, server, caplog):
    text = table(server, "a", "b", "c")
    for part in ("", text[:-5], text[: text.index("[models.b]")], text):
        write(client, part)
        for _ in range(6):
            assert (await client.chat("b"))[0] == 200
            assert await told(client) is None
            await asyncio.sleep(0.1)
    await client.until_served({"a", "b", "c"})
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_key_in_a_file_of_its_own_is_read_again(tmp_path):
    (tmp_path / "key").write_text("first\n")
    async with StubServer(models=["a"], api_key="second") as server:
        text = f'[backends.one]\nkind = "openai"\nurl = "{server.url}"\nkey_file = "key"\n[models.a]\n'
        async with serving_table(tmp_path, text) as client:
            assert (await client.chat("a"))[0] != 200
            replace(tmp_path / "key", "second\n")

            async def works():
                return (await client.chat("a"))[0] == 200

            await client.until(works)


async def test_requests_of_a_model_that_is_removed_are_finished(tmp_path):
    go_on = asyncio.Event()

    async def slowly(body):
        await go_on.wait()
        return "One two three."

    server = StubServer(models=["a", "b"], reply=slowly)
    both = """
        [backends.two]
        kind = "vllm"
        url = "{url}"
        [backends.one]
        kind = "openai"
        url = "{url}"
        [models.a]
        backend = "one"
        """
    async with (
        server,
        serving_table(tmp_path, (both + '[models.b]\nbackend = "two"\n').format(url=server.url)) as client,
    ):
        asked = [asyncio.create_task(client.chat("b", stream=stream)) for stream in (False, True)]
        await until(lambda: len(server.generations) == 2)
        replace(client.path, both.format(url=server.url))
        await client.until_served({"a"})
        [retired] = client.served.gateway.service._members._retired
        assert retired.plan.backend == "two"
        assert (await client.chat("b"))[0] == 404
        go_on.set()
        answers = await asyncio.gather(*asked)
        assert [status for status, _, _ in answers] == [200, 200]
        assert answers[0][1]["choices"][0]["message"]["content"] == "One two three."
        assert answers[1][1].rstrip().endswith("[DONE]")
        await until(lambda: retired.closed)


async def test_an_admin_reads_it_at_once_and_sees_no_secret(tmp_path):
    keys(entry("boss", admin=True), entry("user"))
    async with StubServer(models=["a", "b"], api_key="hush") as server:
        text = table(server, "a", more='plain_key = "hush"\n')
        async with serving_table(tmp_path, text) as client:
            assert (await client.ask("/admin/config/reload", {}, **header("user")))[0] == 403
            client.path.write_text(text + "[models.b]\n")
            status, answer, _ = await client.ask("/admin/config/reload", {}, **header("boss"))
            assert (status, answer["added"]) == (200, ["b"])
            async with client.session.get(f"{client.served.url}/admin/config", headers=header("boss")) as shown:
                assert "hush" not in await shown.text()
            client.path.write_text("[models.b")
            status, answer, _ = await client.ask("/admin/config/reload", {}, **header("boss"))
            assert (status, answer["error"]["code"]) == (422, "invalid_config")
            assert "miner.toml:1" in answer["error"]["message"]
            assert "path" not in await client.get("/readyz", **header("user"))


async def test_the_library_reads_it_again(client, server):
    service = client.served.gateway.service
    shutil.copy(client.path, client.path.with_suffix(".old"))
    client.path.write_text(table(server, "a", "c", more="timeout = 7.0\n") + "[limits]\nmax_queue = 3\n")
    change = await service.reload()
    assert (change.added, change.removed, change.changed) == (("c",), ("b",), ("a",))
    assert change.others == ("limits", "backends")
    assert str(await service.reload()) == "nothing changed"
