"""Proxies of the environment, through one that is real, and who is reached without."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from miner.core.http import proxy
from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.errors import BackendUnavailableError
from tests.core.http.test_tls import AUTHORITY, STREAM

REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class ProxyServer:
    """Answers plain requests itself, and opens tunnels to `target`, whatever is asked for."""

    def __init__(self, target: int = 0, *, refusal: bytes = b"") -> None:
        self.target, self.refusal = target, refusal
        self.heads: list[bytes] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if self.refusal:
                    writer.write(self.refusal)
                    break
                if head.startswith(b"CONNECT "):
                    await self._tunnel(reader, writer)
                    break
                if b"Content-Length: 2" in head:
                    await reader.readexactly(2)
                writer.write(REPLY)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        writer.write(b"HTTP/1.1 200 Connection established\r\nProxy: x\r\n\r\n")

        async def pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                to.write(data)
            to.close()

        await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer), return_exceptions=True)
        far_writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ProxyServer]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
        await asyncio.sleep(0.05)


def client(base: str) -> HttpClient:
    return HttpClient(Upstream("vllm", base, read_timeout=30.0, unreachable_hint="Start it."), api_key="k")


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_plain_requests_tell_the_proxy_the_whole_address(monkeypatch: pytest.MonkeyPatch, variable: str):
    async with ProxyServer().running() as running:
        monkeypatch.setenv(variable, f"http://user:pa%40ss@127.0.0.1:{running.port}")
        http_client = client("http://engine.invalid:8000/v1")
        for _ in range(2):
            assert (await http_client.request("POST", "/chat/completions", b"{}")).body == b"ok"
        assert (await http_client.request("GET", "/health", root=True)).body == b"ok"
        await http_client.close()
    first, _, third = running.heads
    assert first.startswith(
        b"POST http://engine.invalid:8000/v1/chat/completions HTTP/1.1\r\nHost: engine.invalid:8000\r\n"
    )
    assert b"Proxy-Authorization: Basic dXNlcjpwYUBzcw==\r\n" in first
    assert b"Authorization: Bearer k\r\n" in first
    assert third.startswith(b"GET http://engine.invalid:8000/health HTTP/1.1\r\n")


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
async def test_tls_goes_through_a_tunnel_and_the_proxy_sees_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
):
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("engine.invalid").configure_cert(context)
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(2)
                writer.write(STREAM)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server,
        ProxyServer(server.sockets[0].getsockname()[1]).running() as running,
    ):
        monkeypatch.setenv(variable, f"http://user:pass@127.0.0.1:{running.port}")
        http_client = client("https://engine.invalid/v1")
        for _ in range(2):
            assert (await http_client.request("POST", "/chat/completions", b"{}")).body == b"data: 1\n\n"
        await http_client.close()
        await asyncio.sleep(0.1)
    assert len(running.heads) == 1
    assert running.heads[0].startswith(b"CONNECT engine.invalid:443 HTTP/1.1\r\nHost: engine.invalid:443\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in running.heads[0]
    assert b"Bearer" not in running.heads[0]
    assert seen[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"Proxy-Authorization" not in seen[0]


@pytest.mark.parametrize(
    ("host", "listed", "directly"),
    [
        ("localhost", "", True), ("127.0.0.1", "", True), ("127.8.9.1", "", True), ("::1", "", True),
        ("LOCALHOST.", "", True), ("app.localhost", "", True), ("0.0.0.0", "", True), ("::ffff:127.0.0.1", "", True),
        ("engine.invalid", "", False), ("engine.invalid", "*", True), ("engine.invalid", "other,engine.invalid", True),
        ("engine.invalid", " .invalid ", True), ("a.engine.invalid", "engine.invalid", True),
        ("notengine.invalid", "engine.invalid", False), ("engine.invalid", "*.invalid", True),
        ("engine.invalid", "engine.invalid:8000", True), ("engine.invalid", "engine.invalid:9", False),
        ("engine.invalid", "ENGINE.invalid", True), ("10.1.2.3", "10.0.0.0/8", True), ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True), ("fd00::1", "fd00::/8", True), ("fd00::1", "[fd00::1]", True),
        ("10.1.2.3", "junk/99,,", False), ("192.0.2.1", "", False),
    ],
)  # fmt: skip
async def test_who_is_reached_without_one(monkeypatch: pytest.MonkeyPatch, host: str, listed: str, directly: bool):
    monkeypatch.setenv("ALL_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", listed)
    found = await proxy.proxy_for(host, 8000, tls=False)
    assert (found is None) == directly


async def test_a_name_that_is_this_machines_is_reached_without_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        return [(2, 1, 6, "", ("127.0.1.1", 0)), (10, 1, 6, "", ("::1", 0, 0, 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    assert await proxy.proxy_for("my-workstation", 8000, tls=False) is None


async def test_a_header_of_a_client_names_no_proxy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    assert await proxy.proxy_for("engine.invalid", 80, tls=False) is None


@pytest.mark.parametrize(
    "value", ["socks5://user:s3cret@h:1080", "https://h:3128", "http://[::1", "http://h:99999", "h:x"]
)
async def test_an_unusable_proxy_is_reported_by_its_variable(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("ALL_PROXY", value)
    http_client = client("http://engine.invalid:8000/v1")
    with pytest.raises(BackendUnavailableError, match="ALL_PROXY is not a usable proxy") as caught:
        await http_client.request("GET", "/models")
    assert "NO_PROXY=engine.invalid" in str(caught.value)
    assert "s3cret" not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert not caught.value.retryable
    await http_client.close()


@pytest.mark.parametrize(
    ("refusal", "said"),
    [(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "HTTP 407"), (b"HTTP/1.1 403 No\r\n\r\n", "HTTP 403"),
     (b"SSH-2.0-x\r\n\r\n", "invalid response"), (b"HTTP/1.1 200", "opened no tunnel")],
)  # fmt: skip
async def test_a_proxy_that_refuses_a_tunnel(monkeypatch: pytest.MonkeyPatch, refusal: bytes, said: str):
    async with ProxyServer(refusal=refusal).running() as running:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:s3cret@127.0.0.1:{running.port}")
        http_client = client("https://engine.invalid/v1")
        with pytest.raises(BackendUnavailableError, match=said) as caught:
            await http_client.request("GET", "/models")
        assert f"the proxy 127.0.0.1:{running.port} (HTTPS_PROXY)" in caught.value.message
        assert "NO_PROXY=engine.invalid" in (caught.value.hints or "")
        assert "s3cret" not in f"{caught.value!r} {vars(caught.value)}"
        await http_client.close()


async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    async with ProxyServer().running() as running:
        pass
    monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{running.port}")
    http_client = client("http://engine.invalid:8000/v1")
    with pytest.raises(
        BackendUnavailableError, match=r"through the proxy 127\.0\.0\.1:\d+ \(HTTP_PROXY\): connection refused"
    ):
        await http_client.request("GET", "/models")
    await http_client.close()
