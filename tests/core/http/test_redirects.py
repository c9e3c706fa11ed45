"""A redirect is not followed: the request goes to the address that was set, with its key, or nowhere."""

from __future__ import annotations

import pytest

from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.errors import BackendProtocolError
from tests.core.llms.contract.test_failures import MODES
from tests.core.services import ENGINES, ask, service_at
from tests.servers.http import Exchange, RawServer


class Redirecting(RawServer):
    """Sends everybody elsewhere."""

    status = 307
    location: str | None = None

    async def handle(self, exchange: Exchange) -> None:
        headers = {} if self.location is None else {"location": self.location}
        await exchange.respond(self.status, b"moved", **headers)


class Target(RawServer):
    """Where nobody should come."""

    async def handle(self, exchange: Exchange) -> None:
        await exchange.respond(200, b"{}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_neither_a_whole_answer_nor_a_stream_follows(status: int):
    async with Target() as target, Redirecting() as server:
        server.status, server.location = status, f"http://user:hunter2@127.0.0.1:{target.port}/login?token=hunter2"
        upstream = Upstream("vllm", server.v1, address_setting="VLLM_API_BASE")
        client = HttpClient(upstream, api_key="s3cret")
        for _ in range(2):  # and the connection stays in order
            with pytest.raises(BackendProtocolError) as whole:
                await client.request("POST", "/chat/completions", b"{}")
            with pytest.raises(BackendProtocolError) as streamed:
                async with client.stream("/chat/completions", b"{}"):
                    pytest.fail("a stream came")
        await client.close()
        assert target.requests == []
        assert len(server.requests) == 4
        for error in (whole.value, streamed.value):
            there = f"http://127.0.0.1:{target.port} (HTTP {status})"
            assert error.message == f"vllm at {server.v1} redirects to {there}, which is not followed."
            assert error.hint == "Set VLLM_API_BASE to the engine's own address."
            assert error.status == status
            assert "hunter2" not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (None, "another path there"),
        ("/login?token=hunter2", "another path there"),
        ("//elsewhere.example/hunter2", "elsewhere.example"),
        ("https://elsewhere.example/v1", "https://elsewhere.example"),
        ("http://[::1/hunter2", "what is no address"),
        (f"http://{'x' * 1000}/", "what is no address"),
    ],
)
async def test_where_it_points_is_told_by_host_alone(location: str | None, shown: str):
    async with Redirecting() as server:
        server.location = location
        client = HttpClient(Upstream("vllm", server.v1))
        with pytest.raises(BackendProtocolError, match="redirects to") as caught:
            await client.request("GET", "/models")
        await client.close()
        assert f"redirects to {shown} (HTTP 307)" in caught.value.message
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_service_names_its_setting(engine: str, mode: str):
    async with Redirecting() as server:
        server.location = "https://elsewhere.example/"
        async with service_at(engine, server.url, vllm_api_key="s3cret") as service:
            with pytest.raises(BackendProtocolError, match=r"https://elsewhere\.example") as caught:
                await ask(service, mode)
            assert {"vllm": "VLLM_API_BASE", "ollama": "OLLAMA_BASE_URL"}[engine] in (caught.value.hint or "")
            health = await service.health()
            assert (health.state, health.hint) == ("unavailable", caught.value.hint)
