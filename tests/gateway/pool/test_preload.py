"""Models that a table wants loaded at start."""

from __future__ import annotations

import asyncio
import json
import logging

from tests.core.llms.pool.files import until
from tests.gateway.pool.tables import serving_table
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port


def table(url, *models):
    backends = f"""
        [backends.down]
        kind = "ollama"
        url = "http://127.0.0.1:{closed_port()}"
        [backends.up]
        kind = "ollama"
        url = "{url}"
        """
    return backends + "".join(f"[models.{name}]\n{lines}\n" for name, lines in models)


DOWN = ("gone", 'backend = "down"\npreload = true\n')


def up(name, *lines):
    return name, "\n".join(['backend = "up"', *lines])


async def test_those_that_want_it_are_loaded_in_the_order_of_the_table(tmp_path):
    async with StubServer(models=["a", "b", "c"]) as server:
        text = table(server.url, up("c", "preload = true"), up("b"), up("a", "preload = true"))
        async with serving_table(tmp_path, text, preload=True) as client:
            await until(lambda: client.served.gateway.phase == "serving" and len(server.bodies) == 2)
            assert [body["model"] for body in server.bodies] == ["c", "a"]
            assert (await client.get("/readyz"))["status"] == "ready"


async def test_one_that_cannot_be_loaded_is_tried_again_and_keeps_no_other_waiting(tmp_path, caplog):
    async with StubServer(models=["a"]) as server:
        text = table(server.url, DOWN, up("a", "preload = true"))
        async with serving_table(tmp_path, text, preload=True) as client:
            await until(lambda: client.served.gateway.phase == "serving")

            def warnings():
                return [
                    line.message for line in caplog.records if "The model 'gone' could not be loaded" in line.message
                ]

            await until(lambda: len(warnings()) > 1)
            assert "Retrying in 0.5 s." in warnings()[0]


async def test_where_none_can_be_loaded_the_gateway_is_not_ready(tmp_path):
    async with serving_table(tmp_path, table("http://127.0.0.1:9", DOWN), preload=True) as client:

        async def reason():
            return "could not be loaded yet" in (await client.get("/readyz")).get("reason", "")

        await until(reason)
        assert client.served.gateway.phase == "starting"


async def test_without_a_word_of_the_table_the_default_model_is_loaded(tmp_path):
    async with StubServer(models=["a", "b"]) as server:
        for lines, loaded in (((), ["a"]), (("preload = false",), [])):
            server.generations.clear()
            async with serving_table(tmp_path, table(server.url, up("a", *lines)), preload=True) as client:
                await until(lambda client=client: client.served.gateway.phase == "serving")
                assert [body["model"] for body in server.bodies] == loaded
        async with serving_table(tmp_path, table(server.url, up("a"), up("b")), preload=True) as client:
            await until(lambda: client.served.gateway.phase == "serving")


async def test_keys_of_a_model_without_any_key_are_told(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "miner.gateway")
    text = table("http://127.0.0.1:9", up("a", 'keys = ["team"]'))
    async with serving_table(tmp_path, text):
        assert any("no API keys" in line.message for line in caplog.records)


async def test_rows_of_a_batch_use_the_names_of_the_table(tmp_path):
    async with StubServer(models=["inner"], reply="Hello.") as server:
        text = table(server.url, up("a", 'name = "inner"', 'aliases = ["gpt-*"]'))
        async with serving_table(tmp_path, text) as client:
            rows = [
                {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions",
                 "body": {"model": name, "messages": [{"role": "user", "content": "Hi"}]}}
                for n, name in enumerate(("a", "gpt-9", "none"))
            ]  # fmt: skip
            form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
            form += b'Content-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
            form += "\n".join(map(json.dumps, rows)).encode() + b"\r\n--x--\r\n"
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            async with client.session.post(f"{client.served.v1}/files", data=form, headers=kind) as answer:
                file = (await answer.json())["id"]
            asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            _, batch, _ = await client.ask("/v1/batches", asked)

            async def ended():
                found = await client.get(f"/v1/batches/{batch['id']}")
                return found if found["status"] == "completed" else None

            found = await until(ended, 30)
            assert found["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
            await asyncio.sleep(0)
            assert [body["model"] for body in server.bodies] == ["inner", "inner"]
