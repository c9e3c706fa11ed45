"""Connecting to a server: its addresses, and the time that a connection may take."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from miner.errors import BackendUnavailableError
from tests.core.http.echo import Echo, client
from tests.core.llms.contract.test_closing import black_hole
from tests.core.services import ENGINES, service_at
from tests.servers.ports import closed_port


def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int]) -> None:
    """What the name `engine.test` stands for; what listens where on loopback stands in for machines and families."""
    real = asyncio.base_events.BaseEventLoop.getaddrinfo

    async def getaddrinfo(self: Any, host: Any, port: Any, **more: Any) -> Any:
        if host != "engine.test":
            return await real(self, host, port, **more)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "",
             (address, where, 0, 0) if ":" in address else (address, where))
            for address, where in found
        ]  # fmt: skip

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)


async def test_an_address_that_says_nothing_does_not_hide_the_next(monkeypatch: pytest.MonkeyPatch):
    async with Echo() as server, black_hole() as hole:
        addresses(monkeypatch, ("127.0.0.1", int(hole.rpartition(":")[2])), ("127.0.0.1", server.port))
        http_client = client("http://engine.test:8000/v1")
        began = time.monotonic()
        assert (await http_client.request("GET", "/x")).body == b"ok"
        assert time.monotonic() - began < 8
        await http_client.close()


@pytest.mark.parametrize("first", ["::1", "127.0.0.1"])
async def test_an_address_that_refuses_does_not_hide_the_next(monkeypatch: pytest.MonkeyPatch, first: str):
    async with Echo() as server:
        closed = closed_port()
        addresses(monkeypatch, (first, closed), ("127.0.0.1", server.port))
        http_client = client("http://engine.test:8000/v1")
        assert (await http_client.request("GET", "/x")).body == b"ok"
        await http_client.close()


async def test_all_of_them_refuse(monkeypatch: pytest.MonkeyPatch):
    closed = closed_port()
    addresses(monkeypatch, ("127.0.0.1", closed), ("127.0.0.2", closed))
    http_client = client("http://engine.test:8000/v1")
    with pytest.raises(BackendUnavailableError, match=r"cannot be reached: connection refused\."):
        await http_client.request("GET", "/x")
    await http_client.close()


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_time_that_a_connection_may_take_is_a_setting(engine: str):
    async with black_hole() as url, service_at(engine, url, default_model="smollm2", connect_timeout=0.3) as service:
        async with asyncio.timeout(8):
            with pytest.raises(BackendUnavailableError, match="does not accept the connection: timed out"):
                await service.generate("hi")
