"""Who may call what: keys of the environment and of the file, their models and rights, and their change on the way."""

from __future__ import annotations

import asyncio
import re

import aiohttp
import msgspec
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_vllm import VLLMService
from miner.core.models.resolve import resolve
from miner.errors import ConfigError
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.app import MIDDLEWARE, ROUTES, create_app
from miner.gateway.auth.key_store import has_keys
from miner.gateway.auth.keys import KeyEntry, KeyFile, hash_of, key_path, write_keys
from miner.gateway.context import Route
from miner.gateway.endpoints.health import livez
from miner.gateway.middleware.auth import Authentication
from miner.gateway.settings import GatewaySettings
from tests.gateway.serving import Parrot, config, post, serving
from tests.servers.openai_stub import StubServer

KEY = "0123456789abcdef"
SOON = 60.0
"""Seconds for what takes less than 2 on an idle machine."""
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}


def entry(name, key=None, **more):
    return KeyEntry(name=name, sha256=hash_of(key or f"key-of-{name}-0123456789").hex(), **more)


def header(name):
    return {"x-api-key": f"key-of-{name}-0123456789"}


async def status_of(session, served, path, **headers):
    async with session.get(served.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()}) as answer:
        return answer.status


def walkable(app):
    """Method and path of everything that the router knows, also what no table lists."""
    for route in app.router.routes():
        path = re.sub(r"\{\w+(:[^{}]*)?\}", "anything", route.resource.canonical)
        for method in ("GET", "POST", "DELETE", "OPTIONS") if route.method == "*" else (route.method,):
            yield method, path


@pytest.mark.parametrize("settings", [{}, {"serve_cors_origins": "https://a.example"}])
async def test_no_route_of_the_application_opens_without_a_key(settings):
    app = create_app(Parrot(config()), GatewaySettings(_env_file=None, api_keys=KEY, **settings))
    everything = sorted(set(walkable(app)))
    assert len(everything) >= len(ROUTES)
    wrong = [{}, {"x-api-key": KEY[:-1] + "0"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": "Bearer"}]
    async with serving(Parrot(config()), api_keys=KEY, **settings) as served, aiohttp.ClientSession() as session:
        for method, path in everything:
            for headers in wrong:
                async with session.request(method, served.url + path, data=b"{}", headers=headers) as answer:
                    is_preflight_place = method == "OPTIONS" and bool(settings)
                    if path in ("/livez", "/health", "/v1/health") and method in ("GET", "HEAD"):
                        assert answer.status == 200
                    elif not is_preflight_place:
                        assert answer.status == 401, (method, path, headers)
                        assert answer.headers["WWW-Authenticate"] == "Bearer"
                    else:
                        assert answer.status in (401, 405), (method, path)
        for headers in ({"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY} "}):
            assert await status_of(session, served, "/v1/models", **headers) == 200


async def test_without_keys_all_is_open():
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        for route in ROUTES:
            async with session.request(route.method, served.url + route.path.partition("{")[0], data=b"{}") as answer:
                assert answer.status not in (401, 403), route


async def test_one_good_key_of_two_headers_is_enough():
    async with serving(Parrot(config()), api_keys=KEY) as served, aiohttp.ClientSession() as session:
        assert await status_of(session, served, "/v1/models", x_api_key="none", Authorization=f"Bearer {KEY}") == 200


async def test_a_key_that_is_no_text_is_a_wrong_key():
    async with serving(Parrot(config()), api_keys=KEY) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nx-api-key: \xff\xfe\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        writer.close()


def test_a_short_key_is_named_and_not_shown():
    with pytest.raises(ConfigError) as error:
        has_keys(GatewaySettings(_env_file=None, api_keys=f"{KEY}, hunter2"))
    assert "key 2 has 7 characters; 16 are needed" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_file_that_is_named_must_be_there_and_make_sense(tmp_path):
    path = tmp_path / "keys.json"
    with pytest.raises(ConfigError, match="there is no such file"):
        has_keys(GatewaySettings(_env_file=None, api_keys_file=str(path)))
    for text, complaint in [
        ("{", "is not valid"),
        ('{"keys":[{"name":"a","sha256":"00"}]}', "not 64 hex digits"),
        ('{"keys":[{"name":"a b","sha256":"00"}]}', "cannot name a key"),
        ('{"keys":[{"name":"a","sha256":"00","limits":{"requests":0}}]}', "requests"),
        ('{"version":3}', "version 3"),
        (msgspec.json.encode(KeyFile(keys=[entry("a"), entry("a")])).decode(), "two keys named 'a'"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=complaint):
            has_keys(GatewaySettings(_env_file=None, api_keys_file=str(path)))


async def until(session, served, status, **headers):
    loop = asyncio.get_running_loop()
    end = loop.time() + SOON
    while await status_of(session, served, "/v1/models", **headers) != status:
        assert loop.time() < end, f"never {status}"
        await asyncio.sleep(0.05)


async def test_a_running_server_takes_a_change_of_the_file():
    path = key_path(None)
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        assert await status_of(session, served, "/v1/models") == 200
        write_keys(path, KeyFile(keys=[entry("a")]))
        await until(session, served, 401)
        assert await status_of(session, served, "/v1/models", **header("a")) == 200
        write_keys(path, KeyFile(keys=[entry("b")]))
        await until(session, served, 401, **header("a"))
        assert await status_of(session, served, "/v1/models", **header("b")) == 200
        path.write_text("half a fi")
        await asyncio.sleep(0.4)  # the file is looked at several times
        assert await status_of(session, served, "/v1/models", **header("b")) == 200
        path.unlink()
        await until(session, served, 401, **header("b"))
        assert await status_of(session, served, "/v1/models") == 401  # the door does not open again by itself


class Waiting(Parrot):
    """Answers when it is told to."""

    def __init__(self, config):
        super().__init__(config)
        self.asked_event, self.go = asyncio.Event(), asyncio.Event()

    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
        self.asked_event.set()
        await self.go.wait()
        return "done"


async def test_a_change_drops_no_request():
    write_keys(key_path(None), KeyFile(keys=[entry("a")]))
    service = Waiting(config())
    async with serving(service) as served, aiohttp.ClientSession() as session:

        async def ask():
            async with post(served, CHAT, headers=header("a")) as answer:
                return answer.status

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(service.asked_event.wait(), SOON)
        write_keys(key_path(None), KeyFile(keys=[entry("b")]))
        await until(session, served, 200, **header("b"))
        service.go.set()
        assert await asyncio.wait_for(asking, SOON) == 200


async def test_models_and_the_admin_right_of_a_key():
    write_keys(key_path(None), KeyFile(keys=[entry("few", models=["parrot"]), entry("all"), entry("boss", admin=True)]))
    async with serving(Parrot(config(default_model="secret"))) as served:
        for name, model, status in [("few", "parrot", 200), ("few", "secret", 404), ("all", "secret", 200)]:
            async with post(served, {**CHAT, "model": model}, headers=header(name)) as answer:
                assert answer.status == status, (name, model)
                if status == 404:
                    assert (await answer.json())["error"]["code"] == "model_not_found"
        async with post(served, {"messages": CHAT["messages"], "model": None}, headers=header("few")) as answer:
            assert answer.status == 404  # the default model is not for this key
        async with post(served, {"model": "x"}, "/api/pull", headers=header("all")) as answer:
            assert answer.status == 403
        async with post(served, {"model": "x"}, "/api/pull", headers=header("boss")) as answer:
            assert answer.status not in (401, 403)


async def test_who_called_is_known_by_name():
    write_keys(key_path(None), KeyFile(keys=[entry("alice")]))
    app = create_app(Parrot(config()), GatewaySettings(_env_file=None, api_keys=KEY))
    [access] = [middleware for middleware in app[MIDDLEWARE] if isinstance(middleware, Authentication)]
    await access.keys.load()
    assert access.keys.find("key-of-alice-0123456789").name == "alice"
    assert access.keys.find(KEY).name == "MINER_API_KEYS-1"
    assert not access.keys.find(KEY).admin
    assert access.keys.find(KEY + "0") is None


async def test_without_keys_the_admin_right_ends_where_others_can_call():
    for host, status in (("127.0.0.1", 200), ("0.0.0.0", 403)):
        routes = [
            Route("POST", "/admin", livez, "admin", openai_error),
            Route("POST", "/any", livez, "key", openai_error),
        ]
        settings = {"serve_host": host, "serve_allow_unauthenticated": True}
        async with serving(Parrot(config()), routes=routes, **settings) as served:
            async with post(served, {}, "/admin") as answer:
                assert answer.status == status
            async with post(served, {}, "/any") as answer:
                assert answer.status == 200


@pytest.mark.parametrize(
    ("setting", "expected"), [({}, (401, 403, 200)), ({"serve_metrics": "key"}, (401, 200, 200)),
                              ({"serve_metrics": "open"}, (200, 200, 200))],
)  # fmt: skip
async def test_who_may_read_the_metrics(setting, expected):
    write_keys(key_path(None), KeyFile(keys=[entry("some"), entry("boss", admin=True)]))
    async with serving(Parrot(config()), **setting) as served, aiohttp.ClientSession() as session:
        for headers, status in zip([{}, header("some"), header("boss")], expected, strict=True):
            assert await status_of(session, served, "/metrics", **headers) == status


@pytest.mark.parametrize("name", ["MINER_API_KEYS-1", "miner_api_keys-2", "API_KEYS-1", "anybody", "Nobody"])
def test_no_key_of_the_file_is_named_like_another(name, tmp_path):
    path = tmp_path / "keys.json"
    path.write_bytes(msgspec.json.encode(KeyFile(keys=[entry(name)])))
    with pytest.raises(ConfigError, match="cannot name a key"):
        has_keys(GatewaySettings(_env_file=None, api_keys_file=str(path)))


FILES = [
    "{path}", "file://{path}", "../../../../../../../../../..{path}", "/etc/passwd", "~/.bashrc", "./here.gguf",
    "here.gguf", "sub/here.GGUF", "C:/x.gguf", "\\\\host\\share", "http://127.0.0.1:9/x.gguf", ".", "..", "/",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
async def test_a_request_cannot_name_a_file_of_the_server(name, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    for link in ("here.gguf", "sub/here.GGUF"):
        (tmp_path / link).symlink_to(resolve("demo").path)
    monkeypatch.chdir(tmp_path)
    service = LlamaCppService(config(models_dir=tmp_path / "models", llamacpp_threads=1))
    said = {"messages": CHAT["messages"]}
    asked = {
        "/v1/chat/completions": said, "/v1/completions": {"prompt": "x"}, "/v1/embeddings": {"input": "x"},
        "/v1/responses": {"input": "x"}, "/v1/messages": {**said, "max_tokens": 1}, "/api/chat": said,
        "/api/generate": {"prompt": "x"}, "/api/embed": {"input": "x"}, "/api/show": {},
        "/v1/messages/count_tokens": said,
    }  # fmt: skip
    name = name.format(path=resolve("demo").path)
    async with serving(service) as served:
        for path, fields in asked.items():
            async with post(served, {"model": name, **fields}, path) as answer:
                text = await answer.text()
                assert answer.status == 404, text
        assert (await service.health()).engines == []
    assert text.count("root") == name.count("root")
    assert "Available: demo." in text


async def test_a_model_whose_name_is_a_path_can_be_named_where_the_backend_lists_it():
    async with StubServer(models=["/srv/models/a", "b"]) as engine:
        service = VLLMService(config(vllm_api_base=engine.v1, default_model="b"))
        async with serving(service) as served:
            for name, status in (("/srv/models/a", 200), ("b", 200), ("/srv/models/c", 404)):
                async with post(served, {**CHAT, "model": name}) as answer:
                    assert answer.status == status
