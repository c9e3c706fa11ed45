"""Host, Origin and CORS, as a browser would send them."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest

from miner.errors import ConfigError
from miner.gateway.middleware.hosts import Hosts
from miner.gateway.settings import GatewaySettings
from tests.gateway.serving import Parrot, config, post, serving

KEY = "0123456789abcdef"
PAGE = "https://app.example"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}


async def get(served, path="/v1/models", method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, served.url + path, headers=headers) as answer,
    ):
        await answer.read()
        return answer


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:1", 200), ("LOCALHOST.", 200), ("127.0.0.1:8088", 200), ("[::1]:8088", 200),
        ("127.9.9.9", 200), ("box.lan:80", 200), ("evil.example", 403), ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403), ("evil.example@localhost", 403), ("10.0.0.1", 403), ("", 403),
        ("localhost/evil", 403), ("[::1", 403),
        ("host.docker.internal:8088", 200), ("HOST.containers.internal.", 200), ("box.local", 200),
        ("a.localhost", 200), (socket.gethostname(), 200), ("internal", 403), ("evil.internal.example", 403),
        ("eviinternal", 403), ("local", 403), (".example", 403),
    ],
)  # fmt: skip
async def test_only_names_of_this_machine_on_loopback(host, status):
    async with serving(Parrot(config()), serve_allowed_hosts="box.lan, other.lan") as served:
        answer = await get(served, Host=host)
    assert answer.status == status


async def test_the_host_is_checked_before_the_key_and_for_every_route():
    async with serving(Parrot(config()), api_keys=KEY) as served:
        for path in ("/livez", "/readyz", "/v1/models", "/api/tags", "/nowhere"):
            assert (await get(served, path, Host="evil.example")).status == 403


async def test_elsewhere_any_host_will_do():
    async with serving(Parrot(config()), serve_host="0.0.0.0", api_keys=KEY) as served:
        assert (await get(served, Host="llm.example", x_api_key=KEY)).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("llm.example", 200), ("LLM.example.:8088", 200), ("localhost", 200), ("127.0.0.1:8088", 200),
        ("evil.example", 403), ("llm.example.evil.example", 403), ("10.0.0.1", 403), ("", 403),
        ("evil@llm.example", 403), ("host.docker.internal", 403),
    ],
)  # fmt: skip
async def test_a_list_of_names_holds_everywhere(host, status):
    settings = {"serve_host": "0.0.0.0", "api_keys": KEY, "serve_allowed_hosts": "llm.example"}
    async with serving(Parrot(config()), **settings) as served:
        for _ in range(2):
            assert (await get(served, Host=host, x_api_key=KEY)).status == status
            assert (await get(served, "/livez", Host=host)).status == status


@pytest.mark.parametrize("heads", [b"", b"Host: llm.example\r\nHost: evil.example\r\n"])
async def test_where_there_is_a_list_one_name_must_be_sent(heads):
    async with serving(
        Parrot(config()), serve_host="0.0.0.0", api_keys=KEY, serve_allowed_hosts="llm.example"
    ) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        writer.write(b"GET /livez HTTP/1.0\r\n" + heads + b"\r\n")
        assert (await asyncio.wait_for(reader.read(), 30)).partition(b" ")[2].startswith((b"403", b"400"))
        writer.close()


async def test_a_page_that_was_not_asked_for_cannot_even_send():
    service = Parrot(config())
    async with serving(service) as served:
        for origin in (PAGE, "null", "http://localhost:1"):
            async with post(served, CHAT, headers={"Origin": origin, "Content-Type": "text/plain"}) as answer:
                assert answer.status == 403
                assert (await answer.json())["error"]["code"] == "origin_not_allowed"
                assert "Access-Control-Allow-Origin" not in answer.headers
        assert not hasattr(service, "asked")
        async with post(served, CHAT, headers={"Origin": served.url}) as answer:
            assert answer.status == 200
        preflight = await get(served, method="OPTIONS", Origin=PAGE, Access_Control_Request_Method="POST")
        assert preflight.status == 403


async def test_a_page_that_was_asked_for():
    async with serving(Parrot(config()), serve_cors_origins=f"{PAGE},http://localhost:3000", api_keys=KEY) as served:
        asks = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
        for path in ("/v1/chat/completions", "/api/chat", "/v1/messages"):
            preflight = await get(served, path, "OPTIONS", Origin=PAGE, **asks)
            assert preflight.status == 204
            assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
            assert preflight.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
            assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
            assert preflight.headers["Vary"] == "Origin"
        assert (await get(served, "/api/chat", "OPTIONS", Origin="https://evil.example", **asks)).status == 403
        for body in (CHAT, {**CHAT, "stream": True}):
            async with post(served, body, headers={"Origin": PAGE, "x-api-key": KEY}) as answer:
                assert answer.status == 200
                assert answer.headers["Access-Control-Allow-Origin"] == PAGE
                assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]
        refused = await get(served, Origin=PAGE)
        assert refused.status == 401
        assert refused.headers["Access-Control-Allow-Origin"] == PAGE  # so that the page can read why
        assert (await get(served, "/nowhere", x_api_key=KEY)).status == 404


@pytest.mark.parametrize(
    ("listed", "origin", "allowed"),
    [
        ("chrome-extension://*", "chrome-extension://abcdefgh", True),
        ("chrome-extension://*", "moz-extension://abcdefgh", False),
        ("chrome-extension://*", "chrome-extension://a/b", False),
        ("http://localhost:*", "http://localhost:5173", True),
        ("http://localhost:*", "http://localhost", True),
        ("http://localhost:*", "https://localhost:1", False),
        ("http://localhost:*", "http://localhost.evil.example:1", False),
        ("http://localhost:*", "http://localhost:1.evil.example", False),
        ("http://[::1]:*", "http://[::1]:3000", True),
        ("https://*.example.org", "https://a.b.example.org", True),
        ("https://*.example.org", "https://example.org", False),
        ("https://*.example.org", "https://evilexample.org", False),
        ("https://*.example.org:*", "https://a.example.org:8443", True),
        ("https://*.example.org", "https://a.example.org:8443", False),
        ("app://*, http://127.0.0.1:*", "http://127.0.0.1:9", True),
        ("HTTPS://App.Example", "https://app.example", True),
        ("http://*", "http://anything.example:81", True),
        ("http://*", "null", False),
    ],
)
async def test_patterns_of_origins(listed, origin, allowed):
    async with serving(Parrot(config()), serve_cors_origins=listed) as served:
        answer = await get(served, Origin=origin)
        preflight = await get(served, method="OPTIONS", Origin=origin, Access_Control_Request_Method="POST")
    assert answer.status == (200 if allowed else 403)
    assert preflight.status == (204 if allowed else 403)
    assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)


async def test_any_page():
    async with serving(Parrot(config()), serve_cors_origins="*") as served:
        answer = await get(served, Origin="null")
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", [
        "app.example", "https://app.example/", "null", "http://localhost:x", "http://localhost:99999", "http://a b",
        "http://user@host", "http://a*b", "*://localhost", "https://*.*.org", "http://localhost:80*", "http://", "**",
        "https://app.example/*", "localhost:*",
    ],
)  # fmt: skip
def test_an_origin_that_is_none(origin):
    with pytest.raises(ConfigError, match="MINER_SERVE_CORS_ORIGINS"):
        Hosts(GatewaySettings(_env_file=None, serve_cors_origins=origin))


async def test_every_answer_says_that_it_is_what_it_says_and_not_for_keeping():
    async with serving(Parrot(config())) as served:
        for path in ("/livez", "/docs", "/v1/models", "/nowhere", "/"):
            answer = await get(served, path)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("listed", "host", "status"),
    [
        ("*.example.com", "a.example.com", 200), ("*.example.com", "a.b.example.com:81", 200),
        ("*.example.com", "example.com", 403), ("*.example.com", "evilexample.com", 403),
        ("*.example.com", "a.example.com.evil.example", 403), ("*.Example.com", "A.EXAMPLE.com.", 200),
        ("a.example:8443", "a.example:8443", 200), ("a.example:8443", "a.example:8444", 403),
        ("a.example:8443", "a.example", 403), ("a.example:443", "a.example", 200), ("a.example", "a.example:9", 200),
        ("*.example.com:81", "x.example.com:81", 200), ("*.example.com:81", "x.example.com:82", 403),
        ("10.0.0.1", "10.0.0.1:8088", 200), ("[fd00::1]", "[FD00::1]:8088", 200), ("my_box", "my_box:1", 200),
        ("a.example:8443", "a.example:x", 403),
    ],
)  # fmt: skip
async def test_patterns_of_names(listed, host, status):
    async with serving(
        Parrot(config()), serve_host="0.0.0.0", api_keys=KEY, serve_allowed_hosts=f"{listed}, other.example"
    ) as served:
        assert (await get(served, Host=host, x_api_key=KEY)).status == status


@pytest.mark.parametrize(
    "name",
    ["http://foo.example", "foo.example/", "a.*.example", "*", "a b", "a:b", "a:0", "a:99999", "user@a", "*.", "a..b"],
)
def test_a_name_that_is_none(name):
    with pytest.raises(ConfigError, match="MINER_SERVE_ALLOWED_HOSTS") as caught:
        Hosts(GatewaySettings(_env_file=None, serve_allowed_hosts=f"good.example, {name}"))
    assert name in str(caught.value)
    assert "*.example.org" in str(caught.value)
