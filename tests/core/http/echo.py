"""A server that answers `ok` to everything, and a client for it."""

from __future__ import annotations

import asyncio
from typing import Any

from miner.core.http.client import HttpClient
from miner.core.http.connection_pool import ConnectionLimits
from miner.core.http.errors import Upstream
from tests.servers.http import RawServer, ResponseWriter

CHAT = b'{"model": "smollm2", "messages": [], "stream": true}'


class Echo(RawServer):
    """Responds to each request after `delay` seconds, and counts how many it has at once."""

    delay = 0.0
    most = 0

    async def handle(self, writer: ResponseWriter) -> None:
        self.most = max(self.most, self.open_connections)
        await asyncio.sleep(self.delay)
        await writer.respond(200, b"ok")


def client(base: str, **limits: Any) -> HttpClient:
    return HttpClient(Upstream("vllm", base, read_timeout=30.0), limits=ConnectionLimits(**limits))
