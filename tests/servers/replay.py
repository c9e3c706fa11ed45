"""Answers with what genuine servers answered, byte for byte and piece by piece."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from tests.servers import ollama_spec
from tests.servers.captures import ENGINES, Capture, capture
from tests.servers.http import RawServer, Request, ResponseWriter
from tests.servers.matching import supporting, usual

__all__ = ["ReplayServer"]


class ReplayServer(RawServer):
    """A genuine server's recorded responses on a loopback port.

    A generation (or embedding, pull, ...) is served by the captures that `respond_with` has queued, first in first out,
    else by the one that fits the request best. `pace=True` keeps the recorded times. With `engine="ollama"` every
    request is checked against Ollama's OpenAPI file: one that breaks it fails the test, unless `check_spec=False`.
    """

    def __init__(
        self, engine: str = "ollama", *, pace: bool = False, api_key: str | None = None, check_spec: bool = True
    ) -> None:
        super().__init__()
        if engine not in ENGINES:
            raise ValueError(f"engine is {engine!r}; there are recordings of {', '.join(ENGINES)}")
        self.engine = engine
        self.pace = pace
        self.api_key = api_key
        self.check_spec = check_spec and engine == "ollama"
        self.violations: list[str] = []
        self.answered: list[Capture] = []
        """What was sent, in the order of the requests."""
        self._queue: deque[tuple[Capture, bool]] = deque()
        self._routes: dict[str, tuple[Capture, bool]] = {}

    @property
    def base_url(self) -> str:
        """What a user would configure: with `/v1`, except for Ollama."""
        return self.url if self.engine == "ollama" else self.v1

    @property
    def pending(self) -> list[str]:
        """Names of queued responses that nobody has fetched."""
        return [item.name for item, _ in self._queue]

    def respond_with(
        self,
        what: str | Capture,
        *,
        times: int = 1,
        path: str | None = None,
        split: int | None = None,
        pieces: int | None = None,
        hold: bool = False,
    ) -> None:
        """Queue a response for the next requests that generate; with `path`: the response to that path from now on.

        `split` cuts the body into pieces of so many bytes; `pieces` sends only so many pieces and then breaks off;
        with `hold` the server falls silent instead of breaking off or ending, until the client hangs up.
        """
        item = capture(self.engine, what) if isinstance(what, str) else what
        item = item.split(split) if split else item
        item = item.first(pieces) if pieces is not None else item
        if path is not None:
            self._routes[path] = (item, hold)
        else:
            self._queue.extend([(item, hold)] * times)

    def verdict(self) -> list[str]:
        return [f"a request that Ollama's OpenAPI file does not allow: {item}" for item in self.violations]

    async def handle(self, writer: ResponseWriter) -> None:
        request = writer.request
        if self.check_spec:
            self.violations += ollama_spec.violations(request.method, request.path, request.body)
        item, hold = self._choose(request)
        self.answered.append(item)
        await self._send(writer, item, hold)

    def _choose(self, request: Request) -> tuple[Capture, bool]:
        if request.path in self._routes:
            return self._routes[request.path]
        side = supporting(self.engine, request, self.api_key)
        if side is not None:
            return side, False
        return self._queue.popleft() if self._queue else (usual(self.engine, request), False)

    async def _send(self, writer: ResponseWriter, item: Capture, hold: bool) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def until(moment: float) -> None:
            if self.pace:
                await asyncio.sleep(max(0.0, began + moment - loop.time()))

        if item.status is None:
            writer.drop()
            return
        await until(item.headers_time)
        length: dict[str, Any] = {} if item.chunked else {"content-length": str(len(item.body))}
        await writer.head(item.status, item.headers | length)
        for index, piece in enumerate(item.pieces):
            await until(item.times[index] if item.times else 0.0)
            await (writer.piece(piece) if item.chunked else writer.raw(piece))
        if hold:
            await writer.hold()
        if item.broken:
            writer.drop()
            return
        if item.chunked:
            await writer.end()
        writer.complete = True
        # llama.cpp's server announces keep-alive and closes after a stream all the same.
        streamed = item.chunked and self.engine == "llamacpp"
        writer.closing = streamed or item.headers.get("connection") == "close"
