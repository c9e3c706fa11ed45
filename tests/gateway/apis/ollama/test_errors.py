"""Errors in Ollama's form, and paths that are no routes."""

from __future__ import annotations

import ollama
import pytest

from tests.gateway.apis.ollama.client import USER, send
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.servers import faults
from tests.servers.openai_stub import StubServer


async def test_errors():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            for use in (api.chat("no", USER), api.generate("no", "x"), api.show("no"), api.embed("no", "x")):
                with pytest.raises(ollama.ResponseError, match="not found") as caught:
                    await use
                assert caught.value.status_code == 404
                assert "m" in caught.value.error
                assert engine.url not in caught.value.error
            engine.reply = faults.error_in_stream(texts=["Hel"])
            with pytest.raises(ollama.ResponseError, match="has crashed"):
                [part async for part in await api.chat("m", USER, stream=True)]
            with pytest.raises(ollama.ResponseError, match="cannot be pulled") as caught:
                await api.pull("llama3")
    assert caught.value.status_code == 501


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("POST", "/api/create", 400),
        ("POST", "/api/push", 400),
        ("POST", "/api/copy", 400),
        ("DELETE", "/api/delete", 400),
        ("HEAD", "/api/blobs/sha256:1", 501),
        ("GET", "/api/chat", 405),
        ("DELETE", "/api/show", 405),
    ],
)
async def test_other_paths_and_methods(method, path, status):
    async with serving(Parrot(config(default_model="parrot"))) as served:
        told, headers, lines = await send(served, path, method=method)
    assert told == status
    assert ("Allow" in headers) == (status == 405)
    if method != "HEAD":
        assert [list(line) for line in lines] == [["error"]]
