"""Engines behind TLS: a certificate that is trusted, and those that are not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.errors import BackendUnavailableError

AUTHORITY = trustme.CA()


@pytest.fixture(autouse=True)
def no_certificates_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n3\r\n1\n\n\r\n0\r\n\r\n"


@asynccontextmanager
async def server(name: str) -> AsyncIterator[str]:
    """The address of a server whose certificate is for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name).configure_cert(context)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            if b"Content-Length: 2" in head:
                await reader.readexactly(2)
            writer.write(STREAM)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as running:
        yield f"https://localhost:{running.sockets[0].getsockname()[1]}/v1"


def client(base: str) -> HttpClient:
    return HttpClient(Upstream("vllm", base, read_timeout=30.0))


async def test_calls_and_streams_go_through_and_keep_their_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with server("localhost") as base:
        http_client = client(base)
        for _ in range(3):
            assert (await http_client.request("POST", "/chat/completions", b"{}")).body == b"data: 1\n\n"
            async with http_client.stream("/chat/completions", b"{}") as answer:
                assert await answer.read_all() == b"data: 1\n\n"
        await http_client.close()
        await asyncio.sleep(0.1)  # the server's side of the connection ends


@pytest.mark.parametrize(
    ("name", "trusted", "said"),
    [
        ("localhost", False, "self-signed certificate|unable to get local issuer"),
        ("elsewhere.example", True, "mismatch"),
    ],
)
async def test_an_untrusted_certificate_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, trusted: bool, said: str
):
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem" if trusted else tmp_path / "none.pem"))
    async with server(name) as base:
        http_client = client(base)
        with pytest.raises(BackendUnavailableError, match=f"cannot be reached: TLS failed: .*({said})"):
            await http_client.request("GET", "/models")
        await http_client.close()


async def test_a_server_without_tls_at_an_address_with_it():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as running:
        http_client = client(f"https://127.0.0.1:{running.sockets[0].getsockname()[1]}/v1")
        with pytest.raises(BackendUnavailableError, match="TLS failed"):
            await http_client.request("GET", "/models")
        await http_client.close()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
async def test_an_authority_of_ones_own_by_the_usual_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
):
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    async with server("localhost") as base:
        http_client = client(base)
        assert (await http_client.request("POST", "/chat/completions", b"{}")).body == b"data: 1\n\n"
        await http_client.close()
        await asyncio.sleep(0.1)


async def test_a_file_of_certificates_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "bad.pem").write_text("no certificate")
    async with server("localhost") as base:
        for name in ("bad.pem", "none.pem"):
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / name))
            http_client = client(base)
            with pytest.raises(BackendUnavailableError, match=f"REQUESTS_CA_BUNDLE='.*{name}'") as caught:
                await http_client.request("GET", "/models")
            assert not caught.value.retryable
            await http_client.close()
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        for path, hint in ((tmp_path / "none.pem", "does not exist"), (None, "set SSL_CERT_FILE")):
            if path is None:
                monkeypatch.delenv("SSL_CERT_FILE")
            else:
                monkeypatch.setenv("SSL_CERT_FILE", str(path))
            http_client = client(base)
            with pytest.raises(BackendUnavailableError, match="TLS failed: ") as caught:
                await http_client.request("GET", "/models")
            assert hint in (caught.value.hints or "")
            await http_client.close()
