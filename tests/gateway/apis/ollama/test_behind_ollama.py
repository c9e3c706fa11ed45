"""The gateway over a genuine Ollama's recorded responses: models are the server's own, and nothing of them is lost."""

from __future__ import annotations

import aiohttp
import pytest

from miner.core.llms.llm_ollama import OllamaService
from tests.gateway.apis.ollama.client import send
from tests.gateway.serving import config, serving
from tests.servers.captures import capture
from tests.servers.replay import ReplayServer

ZEROS = f"sha256:{'0' * 64}"


def behind(server):
    return OllamaService(config(ollama_base_url=server.url, max_retries=0))


async def test_show_and_ps_are_the_servers_own():
    async with ReplayServer() as server, serving(behind(server)) as served:
        server.respond_with("ps_keep_alive", path="/api/ps")
        [shown] = (await send(served, "/api/show", {"model": "smollm2"}))[2]
        [running] = (await send(served, "/api/ps", method="GET"))[2]
        [listed] = (await send(served, "/api/tags", method="GET"))[2]
    own = capture("ollama", "show").json
    assert {name: shown[name] for name in own} == own
    assert running == capture("ollama", "ps_keep_alive").json
    dates = {model["name"]: model["modified_at"][:19] for model in capture("ollama", "tags").json["models"]}
    assert {model["name"]: model["modified_at"][:19] for model in listed["models"]} == dates


async def test_models_are_made_copied_and_deleted_by_the_server():
    recipe = {"from": "smollm2", "system": "You are a pirate.", "parameters": {"temperature": 0.1, "stop": ["ARR"]}}
    async with ReplayServer() as server, serving(behind(server)) as served:
        for path, name in (("create", "create_from"), ("copy", "copy"), ("delete", "delete_created")):
            server.respond_with(name, path=f"/api/{path}")
        events = (await send(served, "/api/create", {"model": "pirate", **recipe}))[2]
        [whole] = (await send(served, "/api/create", {"model": "pirate", "stream": False, **recipe}))[2]
        statuses = [
            (await send(served, "/api/copy", {"source": "smollm2", "destination": "copied"}))[0],
            (await send(served, "/api/delete", {"model": "pirate"}, "DELETE"))[0],
        ]
        sent = [(request.method, request.path, request.json) for request in server.requests]
        server.respond_with("copy_unknown", path="/api/copy")
        server.respond_with("delete_unknown", path="/api/delete")
        unknown = [
            await send(served, "/api/copy", {"source": "no-such-model", "destination": "x"}),
            await send(served, "/api/delete", {"model": "no-such-model"}, "DELETE"),
        ]
    assert [event["status"] for event in events][-2:] == ["writing manifest", "success"]
    assert whole == {"status": "success"}
    assert statuses == [200, 200]
    assert ("POST", "/api/create", {"model": "pirate", "stream": True, **recipe}) in sent
    assert ("POST", "/api/copy", {"source": "smollm2", "destination": "copied"}) in sent
    assert ("DELETE", "/api/delete", {"model": "pirate"}) in sent
    assert [(answer[0], answer[2][0]["error"]) for answer in unknown] == [
        (404, 'model "no-such-model" not found'),
        (404, "model 'no-such-model' not found"),
    ]


async def test_files_go_to_the_server_as_they_come():
    async with (
        ReplayServer(check_spec=False) as server,  # Ollama's OpenAPI file lacks these
        serving(behind(server)) as served,
        aiohttp.ClientSession() as session,
    ):
        server.respond_with("blob_head_unknown", path=f"/api/blobs/{ZEROS}")
        async with session.head(f"{served.url}/api/blobs/{ZEROS}") as response:
            missing = response.status
        server.respond_with("blob_post_wrong_digest", path=f"/api/blobs/{ZEROS}")
        async with session.post(f"{served.url}/api/blobs/{ZEROS}", data=b"hello") as response:
            wrong = response.status, (await response.json())["error"]
        body = server.requests[-1].body
        async with session.head(f"{served.url}/api/blobs/x") as response:
            invalid = response.status
    assert (missing, invalid) == (404, 400)
    assert wrong[0] == 400
    assert wrong[1].startswith("digest mismatch")
    assert body == b"hello"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_context_goes_to_the_server_and_comes_back(stream):
    first = capture("ollama", "generate_context_again")
    # Ollama's OpenAPI file lacks `context`.
    async with ReplayServer(check_spec=False) as server, serving(behind(server)) as served:
        server.respond_with(first)
        context = first.json["context"][:12]
        body = {"model": "smollm2", "prompt": "And of Italy?", "context": context, "stream": stream, "system": "Be."}
        final = (await send(served, "/api/generate", {**body, "options": {"num_predict": 8}}))[2][-1]
        sent = next(request.json for request in server.requests if request.path == "/api/generate")
    assert final["context"] == first.json["context"]
    assert (sent["prompt"], sent["system"], sent["context"]) == ("And of Italy?", "Be.", context)
    assert "raw" not in sent
    assert final["load_duration"] > 0
