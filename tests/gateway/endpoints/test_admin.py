"""The admin routes and /api/pull: what they do on real engines, for whom, and what they refuse."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import aiohttp
import ollama
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService
from miner.errors import BackendUnavailableError
from miner.gateway.auth.keys import KeyEntry, KeyFile, hash_of, key_path, write_keys
from tests.core.models.conftest import make_gguf
from tests.core.models.hub_server import FakeHub, start
from tests.gateway.serving import Parrot, config, post, serving
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer

WAIT = 60.0
USER, BOSS, FEW = (f"key-of-{name}-0123456789" for name in ("user", "boss", "few"))


@pytest.fixture
def keys():
    entries = [
        KeyEntry(name="user", sha256=hash_of(USER).hex()),
        KeyEntry(name="boss", sha256=hash_of(BOSS).hex(), admin=True),
        KeyEntry(name="few", sha256=hash_of(FEW).hex(), admin=True, models=["other"]),
    ]
    write_keys(key_path(None), KeyFile(keys=entries))


def llamacpp(**given):
    return LlamaCppService(config(llamacpp_threads=1, llamacpp_parallel=1, llamacpp_ctx_size=256, **given))


async def told(served, path, body=b"", key=None):
    headers = {"x-api-key": key} if key else {}
    async with post(served, body, path, headers=headers) as answer:
        return answer.status, await answer.json()


async def engines(served, key=None):
    headers = {"x-api-key": key} if key else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/admin/engines", headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def until(condition):
    async with asyncio.timeout(WAIT):
        while not await condition():  # noqa: ASYNC110  (what is waited for is another process or connection)
            await asyncio.sleep(0.02)


async def has_reason(served):
    return (await engines(served))[1]["engines"][0].get("reason") is not None


@pytest.mark.engine
async def test_a_real_engine_is_loaded_looked_at_reset_and_let_go():
    async with serving(llamacpp()) as served:
        status, health = await engines(served)
        assert (status, health["state"], health.get("engines")) == (200, "ready", None)
        assert await told(served, "/admin/models/demo/unload") == (200, {"model": "demo", "unloaded": False})
        assert await told(served, "/admin/models/demo/load") == (200, {"model": "demo", "loaded": True})
        [engine] = (await engines(served))[1]["engines"]
        assert (engine["model"], engine["state"], engine["slots"]) == ("demo", "ready", 1)
        os.kill(engine["pid"], signal.SIGKILL)
        await until(lambda: has_reason(served))
        assert await told(served, "/admin/models/demo/reset", {}) == (200, {"model": "demo", "reset": True})
        assert "reason" not in (await engines(served))[1]["engines"][0]
        assert (await told(served, "/admin/models/demo/load", {"keep_alive": "10m"}))[0] == 200
        assert await told(served, "/admin/models/demo/unload") == (200, {"model": "demo", "unloaded": True})
        assert served.gateway.running == set()


@pytest.mark.parametrize("action", ["load", "unload", "reset"])
async def test_what_is_wrong_is_refused_by_name(action):
    async with serving(llamacpp()) as served:
        status, answer = await told(served, f"/admin/models/no/such/{action}")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert "no/such" in answer["error"]["message"]
        for file in ("%2Fetc%2Fpasswd", "..%2Fsecret.gguf"):  # nothing is said of what is there
            status, answer = await told(served, f"/admin/models/{file}/{action}")
            assert (status, answer["error"]["code"]) == (404, "model_not_found")
            assert "Available: demo." in answer["error"]["message"]
        assert (await told(served, "/api/pull", {"model": "/etc/passwd"}))[0] == 400
        status, answer = await told(served, f"/admin/models/demo/{action}", {"keep_alife": 1})
        assert (status, answer["error"]["param"]) == (400, "keep_alife")
    async with StubServer() as engine, serving(VLLMService(config(vllm_api_base=engine.v1))) as served:
        status, answer = await told(served, f"/admin/models/m/{action}")
        assert status == (200 if action == "load" else 400)
        if action != "load":
            assert answer["error"]["code"] == "unsupported_feature"
        assert engine.generations == []


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("action", ["load", "unload", "reset"])
@pytest.mark.engine
async def test_only_a_key_with_the_admin_right_opens(action):
    async with serving(llamacpp()) as served:
        path = f"/admin/models/demo/{action}"
        for key, status in ((None, 401), (USER, 403), (FEW, 404), (BOSS, 200)):
            assert (await told(served, path, key=key))[0] == status, key
        assert [(await engines(served, key))[0] for key in (None, USER, BOSS)] == [401, 403, 200]


CHAT = {"messages": [{"role": "user", "content": "a"}]}


async def runs(served):
    return bool(served.gateway.running)


async def ended(service):
    return service.ended


async def test_a_reset_waits_for_no_turn():
    class Stuck(Parrot):
        def reset_model(self, model):
            self.was_reset = model

        async def generate(self, prompt, model=None):
            await asyncio.sleep(WAIT)

    service = Stuck(config())
    async with serving(service, serve_max_running=1, serve_max_queued=0) as served:
        asking = asyncio.create_task(told(served, "/v1/chat/completions", CHAT))
        await until(lambda: runs(served))
        assert (await told(served, "/admin/models/m/load"))[0] == 429
        assert (await told(served, "/admin/models/m/reset"))[0] == 200
        assert service.was_reset == "m"
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


# Pull


@pytest.fixture
def hub():
    fake = FakeHub({"owner/model-GGUF": {"m-Q4_K_M.gguf": make_gguf(data=b"\1" * 4096)}})
    server = start(fake)
    yield fake
    server.shutdown()
    server.server_close()


async def test_ollamas_client_pulls_from_the_hub(hub, tmp_path):
    service = LlamaCppService(config(models_dir=str(tmp_path), hf_endpoint=hub.endpoint))
    async with serving(service) as served, ollama.AsyncClient(served.url) as api:
        steps = [step async for step in await api.pull("hf.co/owner/model-GGUF:Q4_K_M", stream=True)]
        assert [steps[0].status, steps[-1].status] == ["pulling manifest", "success"]
        assert (
            max(step.completed or 0 for step in steps) == (tmp_path / "owner/model-GGUF/m-Q4_K_M.gguf").stat().st_size
        )
        assert (await api.pull("owner/model-GGUF")).status == "success"  # at once, not streamed
        assert "owner/model-GGUF/m-Q4_K_M" in [model.model for model in (await api.list()).models]
        with pytest.raises(ollama.ResponseError, match="is not a reference to a model on a hub") as caught:
            [step async for step in await api.pull("llama3", stream=True)]
        assert caught.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match="not found"):
            [step async for step in await api.pull("owner/nothing-GGUF", stream=True)]
        with pytest.raises(ollama.ResponseError) as caught:
            await api.pull("owner/nothing-GGUF")
        assert caught.value.status_code == 404
        assert (await api.pull("owner/model-GGUF", insecure=True)).status == "success"


async def test_what_was_pulled_may_be_deleted_and_what_was_there_may_not(hub, tmp_path):
    service = LlamaCppService(config(models_dir=str(tmp_path), hf_endpoint=hub.endpoint))
    name = "owner/model-GGUF/m-Q4_K_M"
    async with serving(service) as served, ollama.AsyncClient(served.url) as api:
        made = [step.status async for step in await api.create("mine", from_="hf.co/owner/model-GGUF", stream=True)]
        assert [made[0], made[-1]] == ["pulling manifest", "success"]
        with pytest.raises(ollama.ResponseError, match="mine is made of it"):
            await api.delete(name)
        await api.delete("mine")
        assert (await api.delete(name)).status == "success"
        assert not list(tmp_path.glob("owner/**/*.gguf"))
        (tmp_path / "owner/model-GGUF").mkdir(parents=True)
        (tmp_path / "owner/model-GGUF/m-Q4_K_M.gguf").write_bytes(make_gguf(data=b"\1" * 4096))
        await api.pull("owner/model-GGUF")  # finds it there
        with pytest.raises(ollama.ResponseError, match="was not created, copied or pulled here"):
            await api.delete(name)


async def test_ollamas_own_pull_goes_through_line_by_line():
    async with (
        ReplayServer("ollama") as engine,
        serving(OllamaService(config(ollama_base_url=engine.base_url))) as served,
    ):
        engine.respond_with("pull_stream")
        async with post(served, {"model": "localhost:5000/library/smollm2", "insecure": True}, "/api/pull") as answer:
            lines = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert lines == [json.loads(line) for line in engine.answered[-1].body.splitlines()]
        assert engine.sent("/api/pull")[0].json["insecure"] is True
        engine.respond_with("pull_stream")
        assert await told(served, "/api/pull", {"model": "smollm2", "stream": False}) == (200, {"status": "success"})
        engine.respond_with("pull_unknown")
        async with post(served, {"name": "no-such-model", "username": "me"}, "/api/pull") as answer:
            lines = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert answer.headers["X-Miner-Ignored-Params"] == "username"
        assert lines[0] == {"status": "pulling manifest"}
        assert "cannot pull" in lines[-1]["error"]
        assert engine.url not in lines[-1]["error"]


async def test_a_client_that_leaves_ends_the_pull():
    class Endless(Parrot):
        ended = False

        async def pull_model(self, model, *, insecure=False):
            try:
                while True:
                    yield {"status": "pulling", "digest": "sha256:" + "a" * 64, "total": 10, "completed": 1}
                    await asyncio.sleep(0.01)
            finally:
                self.ended = True

    service = Endless(config())
    async with serving(service) as served:
        async with post(served, {"model": "m"}, "/api/pull") as answer:
            assert json.loads(await answer.content.readline())["completed"] == 1
        await until(lambda: ended(service))


async def test_a_pull_that_fails_before_its_first_line_has_a_status_of_its_own():
    class Down(Parrot):
        async def pull_model(self, model, *, insecure=False):
            raise BackendUnavailableError("The hub is away.")
            yield {}

    async with serving(Down(config())) as served:
        for stream in (True, False):
            status, answer = await told(served, "/api/pull", {"model": "m", "stream": stream})
            assert (status, answer) == (503, {"error": "The hub is away."})
