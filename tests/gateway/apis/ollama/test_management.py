"""Models that are created, copied and deleted through Ollama's API, and used through all others."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.models.created import CreatedModels
from miner.core.models.directory import demo_file
from tests.gateway.apis.ollama.client import send
from tests.gateway.serving import config, serving, vllm
from tests.servers.openai_stub import StubServer

PIRATE = {
    "model": "Pirate", "from": "demo", "system": "You are a pirate.",
    "parameters": {"temperature": 0, "num_predict": 6, "stop": ["zzz"], "num_ctx": 512},
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Arr!"}],
}  # fmt: skip


@asynccontextmanager
async def gateway(tmp_path, **settings):
    models = tmp_path / "models"
    models.mkdir(exist_ok=True)
    service = LlamaCppService(
        config(default_model="demo", models_dir=str(models), llamacpp_threads=1, llamacpp_parallel=1,
               llamacpp_ctx_size=1024, **settings)
    )  # fmt: skip
    async with serving(service) as served:
        yield served


async def names(served):
    [tags] = (await send(served, "/api/tags", method="GET"))[2]
    return [model["name"] for model in tags["models"]]


async def test_a_model_is_created_shown_copied_and_deleted(tmp_path):
    async with gateway(tmp_path) as served:
        status, _, events = await send(served, "/api/create", PIRATE)
        [shown] = (await send(served, "/api/show", {"model": "pirate:latest"}))[2]
        copied = (await send(served, "/api/copy", {"source": "pirate", "destination": "cook"}))[0]
        [child] = (await send(served, "/api/create", {"model": "boy", "from": "cook", "system": "x", "stream": False}))[
            2
        ]
        listed = await names(served)
        [v1] = (await send(served, "/v1/models", method="GET"))[2]
        [young] = (await send(served, "/api/show", {"model": "boy"}))[2]
        deleted = [(await send(served, "/api/delete", {"model": name}, "DELETE"))[0] for name in ("PIRATE", "cook")]
        left = await names(served)
    assert status == copied == 200
    words = [event["status"] for event in events]
    assert words[0].startswith("using existing layer sha256:")
    assert words[-2:] == ["writing manifest", "success"]
    assert sum(word.startswith("creating new layer sha256:") for word in words) == 3
    assert child == {"status": "success"}
    assert shown["system"] == "You are a pirate."
    assert shown["messages"] == PIRATE["messages"]
    assert shown["parameters"].splitlines()[-1].split() == ["temperature", "0"]
    assert shown["details"]["parent_model"] == "demo"
    assert "PARAMETER stop zzz\nPARAMETER temperature 0\n" in shown["modelfile"]
    assert "MESSAGE assistant Arr!" in shown["modelfile"]
    assert listed == ["demo", "boy", "cook", "Pirate"]
    assert {"demo", "boy", "cook", "Pirate"} <= {model["id"] for model in v1["data"]}
    assert (young["system"], young["messages"]) == ("x", PIRATE["messages"])
    assert deleted == [200, 200]
    assert left == ["demo", "boy"]


@pytest.mark.engine
async def test_what_a_model_brings_along_is_in_force_in_every_api(tmp_path):
    user = [{"role": "user", "content": "Who are you?"}]
    prompt = {"messages": user, "stream": False, "temperature": 0}
    async with gateway(tmp_path) as served:
        await send(served, "/api/create", PIRATE)
        said = [
            (await send(served, "/api/chat", {"model": "PIRATE", "messages": user, "stream": False}))[2][0],
            (await send(served, "/api/generate", {"model": "Pirate", "prompt": "Who are you?", "stream": False}))[2][0],
        ]
        [plain] = (await send(served, "/api/chat", {"model": "demo", "messages": user, "stream": False,
                                                   "options": {"temperature": 0, "num_predict": 6}}))[2]  # fmt: skip
        [own] = (await send(served, "/api/chat", {"model": "pirate", "messages": user, "stream": False,
                                                 "options": {"num_predict": 2}}))[2]  # fmt: skip
        [openai] = (await send(served, "/v1/chat/completions", {"model": "pirate:latest", **prompt}))[2]
        [claude] = (await send(served, "/v1/messages", {"model": "pirate", "max_tokens": 6, **prompt}))[2]
        [running] = (await send(served, "/api/ps", method="GET"))[2]
        [engines] = (await send(served, "/admin/engines", method="GET"))[2]
    texts = {said[0]["message"]["content"], said[1]["response"], openai["choices"][0]["message"]["content"]}
    assert texts == {claude["content"][0]["text"]}
    assert plain["message"]["content"] not in texts
    assert [reply["eval_count"] for reply in said] == [6, 6]
    assert said[0]["prompt_eval_count"] == said[1]["prompt_eval_count"] == openai["usage"]["prompt_tokens"]
    assert plain["prompt_eval_count"] != said[0]["prompt_eval_count"]
    assert own["eval_count"] == 2
    assert {model["name"] for model in running["models"]} == {"demo", "Pirate"}
    assert len(engines["engines"]) == 1  # both have the same weights and template


@pytest.mark.engine
async def test_a_template_of_its_own_in_either_syntax(tmp_path):
    go = "{{ if .System }}S[{{ .System }}]{{ end }}{{ if .Prompt }}U[{{ .Prompt }}]{{ end }}A[{{ .Response }}]\n"
    jinja = "{% for m in messages %}{{ m['role'] }}={{ m['content'] }};{% endfor %}"
    chat = {"messages": [{"role": "user", "content": "Hi"}], "stream": False, "options": {"num_predict": 1}}
    async with gateway(tmp_path) as served:
        for name, template in (("go", go), ("jinja", jinja)):
            await send(
                served, "/api/create", {"model": name, "from": "demo", "system": "Be brief.", "template": template}
            )
        replies = [(await send(served, "/api/chat", {"model": name, **chat}))[2][0] for name in ("go", "jinja", "demo")]
        bad = await send(
            served, "/api/create", {"model": "b", "from": "demo", "template": "{{ range .Tools }}{{ end }}"}
        )
        [shown] = (await send(served, "/api/show", {"model": "jinja"}))[2]
    counts = [reply["prompt_eval_count"] for reply in replies]
    assert len(set(counts)) == 3
    assert shown["template"] == jinja
    assert bad[0] == 400
    assert "range .Tools" in bad[2][0]["error"]


@pytest.mark.engine
async def test_a_model_is_created_from_an_uploaded_file(tmp_path):
    content = demo_file().read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    create = {"model": "mine", "files": {"m.gguf": digest}, "stream": False}
    async with gateway(tmp_path) as served, aiohttp.ClientSession() as session:
        url = f"{served.url}/api/blobs/{digest}"
        early = await send(served, "/api/create", create)
        statuses = []
        for method, data in (("HEAD", None), ("POST", io.BytesIO(content)), ("HEAD", None), ("POST", b"")):
            async with session.request(method, url, data=data) as response:
                statuses.append(response.status)
        async with session.post(f"{served.url}/api/blobs/sha256:{'0' * 64}", data=b"hello") as response:
            wrong = response.status, await response.json()
        async with session.head(f"{served.url}/api/blobs/sha256:../../x") as response:
            statuses.append(response.status)
        status, _, [made] = await send(served, "/api/create", create)
        [reply] = (await send(served, "/api/generate", {"model": "mine", "prompt": "Hi", "stream": False,
                                                       "options": {"num_predict": 1}}))[2]  # fmt: skip
        await send(served, "/api/delete", {"model": "mine"}, "DELETE")
        async with session.head(url) as response:
            statuses.append(response.status)
    assert early[0] == 400
    assert digest in early[2][0]["error"]
    assert statuses == [404, 201, 200, 200, 400, 404]
    assert wrong[0] == 400
    assert wrong[1]["error"].startswith(f'digest mismatch, expected "sha256:{"0" * 64}", got "sha256:2cf24d')
    assert (status, made) == (200, {"status": "success"})
    assert reply["done"]
    assert not list((tmp_path / "models" / ".created").rglob("sha256-*"))


@pytest.mark.parametrize(
    ("path", "method", "body", "status", "words"),
    [
        ("/api/create", "POST", {"model": "x", "from": "nope"}, 404, "model 'nope' not found"),
        ("/api/create", "POST", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        ("/api/create", "POST", {"from": "demo"}, 400, "invalid model name"),
        ("/api/create", "POST", {"model": "../x", "from": "demo"}, 400, "invalid model name"),
        ("/api/create", "POST", {"model": "demo", "from": "demo"}, 400, "name of a model's file"),
        ("/api/create", "POST", {"model": "x", "from": "/etc/passwd"}, 404, "not found"),
        ("/api/create", "POST", {"model": "x", "from": "demo", "quantize": "Q4_0"}, 400, "quantize"),
        ("/api/create", "POST", {"model": "x", "from": "demo", "parameters": {"temperature": "hot"}}, 400,
         "parameters.temperature"),
        ("/api/create", "POST", {"model": "x", "from": "demo", "messages": [{"role": "king", "content": "x"}]}, 400,
         "messages[0].role"),
        ("/api/copy", "POST", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ("/api/copy", "POST", {"source": "demo", "destination": "a b"}, 400, 'destination "a b" is invalid'),
        ("/api/delete", "DELETE", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/delete", "DELETE", {"name": "demo"}, 400, "belongs to a Python package"),
        ("/api/delete", "DELETE", {"name": "theirs"}, 400, "was not created, copied or pulled here"),
        ("/api/push", "POST", {"model": "demo"}, 403, "you are not authorized to push to this namespace"),
        ("/api/push", "POST", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/show", "POST", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/chat", "POST", {"model": "nope", "messages": [{"role": "user", "content": "x"}]}, 404,
         "model 'nope' not found"),
        ("/api/generate", "POST", {"model": "demo", "think": True}, 400, '"demo" does not support thinking'),
        ("/api/chat", "POST", {"model": "demo", "think": True, "messages": [{"role": "user", "content": "x"}]}, 400,
         '"demo" does not support thinking'),
    ],
)  # fmt: skip
async def test_refusals_have_ollamas_words(tmp_path, path, method, body, status, words):
    async with gateway(tmp_path) as served:
        await asyncio.to_thread((tmp_path / "models" / "theirs.gguf").symlink_to, demo_file())
        answer = await send(served, path, body, method)
    assert answer[0] == status, answer[2]
    assert words in answer[2][0]["error"]
    assert "<path>" not in answer[2][0]["error"]


async def test_files_are_deleted_where_they_were_pulled_or_the_setting_allows_it(tmp_path):
    place = tmp_path / "models" / "theirs.gguf"
    async with gateway(tmp_path, delete_model_files=True) as served:
        await asyncio.to_thread(place.symlink_to, demo_file())
        await send(served, "/api/copy", {"source": "theirs", "destination": "ours"})
        used = await send(served, "/api/delete", {"model": "theirs"}, "DELETE")
        await send(served, "/api/delete", {"model": "ours"}, "DELETE")
        assert (await send(served, "/api/delete", {"model": "theirs"}, "DELETE"))[0] == 200
        assert await names(served) == ["demo"]
    assert used[0] == 400
    assert "ours is made of it" in used[2][0]["error"]
    async with gateway(tmp_path) as served:
        await asyncio.to_thread(place.symlink_to, demo_file())
        stamp = place.stat()
        CreatedModels(place.parent).note_pulled("theirs", (("", stamp.st_size, stamp.st_mtime_ns, 0),))
        assert (await send(served, "/api/delete", {"model": "Theirs:latest"}, "DELETE"))[0] == 200
        assert demo_file().exists()


async def test_a_backend_that_makes_no_models_says_so(tmp_path):
    async with StubServer() as engine, serving(vllm(engine, default_model="m")) as served:
        answers = [
            await send(served, "/api/create", {"model": "x", "from": "m"}),
            await send(served, "/api/copy", {"source": "m", "destination": "x"}),
            await send(served, "/api/delete", {"model": "m"}, "DELETE"),
            await send(served, f"/api/blobs/sha256:{'0' * 64}", {}),
        ]
    assert [answer[0] for answer in answers] == [501] * 4
    assert all("This server's backend does not" in answer[2][0]["error"] for answer in answers)


async def test_only_an_admin_changes_models(tmp_path, monkeypatch):
    monkeypatch.setenv("MINER_API_KEYS", "plain-key-0123456789abcdef")
    headers = {"Authorization": "Bearer plain-key-0123456789abcdef"}
    models = tmp_path / "models"
    service = LlamaCppService(config(default_model="demo", models_dir=str(models)))
    async with (
        serving(service, api_keys="plain-key-0123456789abcdef") as served,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        statuses = []
        for method, path in (("POST", "create"), ("POST", "copy"), ("DELETE", "delete"), ("POST", "push"),
                             ("POST", f"blobs/sha256:{'0' * 64}")):  # fmt: skip
            async with session.request(method, f"{served.url}/api/{path}", data=json.dumps(PIRATE)) as response:
                statuses.append(response.status)
    assert statuses == [403] * 5
