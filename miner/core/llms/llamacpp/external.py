"""The llama.cpp server at LLAMACPP_API_BASE, which is not ours. It may be restarted with another model at any
time, without notice: its props expire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from miner.core._typing import override
from miner.core.http.client import HttpClient
from miner.core.http.errors import parse_error_body
from miner.core.llms.contract.queue_client import current_client
from miner.core.llms.llamacpp.limiter import SlotLimiter
from miner.core.llms.llamacpp.server import LlamaServer, OnProgress, ServerProvider, T
from miner.core.wire import UNLIMITED, ChatRequest, ModelInfo, Timings
from miner.errors import BackendError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

_FRESH_SECONDS = 30.0
"""How long its props are used while requests of ours run there."""
_IDLE_FRESH_SECONDS = 1.0
"""The same while none does: the request for them costs a millisecond then, and delays no request."""
_PROBE_SECONDS = 5.0


class ExternalServer(ServerProvider):
    """A server provider with one server.

    Args:
        features: what is assumed before the first `/props`.
        http: the client, which changes with the settings.
    """

    def __init__(
        self, features: frozenset[str], http: Callable[[], HttpClient], settings: Callable[[], MinerConfig]
    ) -> None:
        self._features = features
        self._http = http
        self._settings = settings
        self._server: LlamaServer | None = None
        self._fetched = float("-inf")
        self._embeds: bool | None = None
        self._ranks: bool | None = None
        self._fills: bool | None = None
        """None: `/props` does not say, and it was not probed."""
        self._probed = float("-inf")
        self._limiter: tuple[asyncio.AbstractEventLoop, SlotLimiter] | None = None

    def forget(self) -> None:
        """Expire the props: it may have been restarted. Until the next request they remain the best guess."""
        self._fetched = self._probed = float("-inf")

    def refused(self, path: str) -> None:
        """Record that it does not serve this path (embeddings or rankings)."""
        if path == "/rerank":
            self._ranks = False
        else:
            self._embeds = False
        self._probed = time.monotonic()

    async def _current(self) -> LlamaServer:
        """The server, with props that are fresh."""
        http, server = self._http(), self._server
        busy = self._limiter is not None and self._limiter[1].busy > 0
        age = time.monotonic() - self._fetched
        if server is not None and server.http is http and age < (_FRESH_SECONDS if busy else _IDLE_FRESH_SECONDS):
            return server
        if server is None or server.http is not http:
            server = LlamaServer(http)
        before = server.props
        if await server.fetch_props() != before:
            self._embeds = self._ranks = self._fills = None
            self._probed = float("-inf")
        self._server, self._fetched = server, time.monotonic()
        return server

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return self._capabilities(probes_expire=False)

    def _capabilities(self, *, probes_expire: bool) -> frozenset[str]:
        server = self._server
        if server is None or server.props is None:
            return self._features - {"keep_alive"}  # the server's operator decides keep_alive
        fresh = not probes_expire or time.monotonic() - self._probed < _FRESH_SECONDS
        able = server.props.capabilities(
            embeds=not (fresh and self._embeds is False),
            ranks=not (fresh and self._ranks is False),
            fills=not (fresh and self._fills is False),
        )
        return able - {"keep_alive"}

    @property
    @override
    def server_slots(self) -> int | None:
        props = None if self._server is None else self._server.props
        return None if props is None else max(1, props.total_slots)

    @property
    @override
    def unlimited_tokens(self) -> int:
        # With -1 a server that shifts its context (--context-shift) would never end, and one with --predict would soon.
        props = None if self._server is None else self._server.props
        return (props and props.default_generation_settings.n_ctx) or UNLIMITED

    @asynccontextmanager
    @override
    async def slot(
        self, request: ChatRequest | None, model: str | None, timings: Timings, on_progress: OnProgress = None
    ) -> AsyncIterator[LlamaServer]:
        server = await self._current()
        assert server.props is not None
        slots, loop, settings = max(1, server.props.total_slots), asyncio.get_running_loop(), self._settings()
        if self._limiter is None or self._limiter[0] is not loop:
            backend = server.http.upstream.backend
            limiter = SlotLimiter(backend, slots, max_queue=settings.max_queue, timeout=settings.queue_timeout)
            self._limiter = loop, limiter
        limiter = self._limiter[1]
        limiter.resize(slots)
        async with limiter.slot(current_client()) as timings.queue:
            yield server

    @override
    async def without_slot(self, model: str | None, ask: Callable[[LlamaServer], Awaitable[T]]) -> T:
        return await ask(await self._current())

    @override
    async def list_models(self, inherited: Callable[[], Awaitable[list[ModelInfo]]]) -> list[ModelInfo]:
        models = await inherited()
        if len(models) == 1:
            await self._current()
            if time.monotonic() - self._probed > _FRESH_SECONDS:
                self._ranks = await self._serves("/rerank")
                # With rank pooling, an embedding is one score.
                self._embeds = False if self._ranks else await self._serves("/embeddings")
                self._fills = await self._serves("/infill", root=True)
                self._probed = time.monotonic()
            models[0].capabilities = self._capabilities(probes_expire=True)
        return models

    async def _serves(self, path: str, *, root: bool = False) -> bool | None:
        """Whether it has this endpoint: it refuses an unknown one before it reads the body, the empty body only after
        that. None: no response.
        """
        try:
            response = await self._http().request("POST", path, b"{}", total=_PROBE_SECONDS, read_only=True, root=root)
        except BackendError:
            return None
        return response.status not in (404, 405, 501) and "Pooling type" not in parse_error_body(response.body).message

    @override
    async def get_model(self, name: str | None, inherited: Callable[[str], Awaitable[ModelInfo]]) -> ModelInfo:
        info = await super().get_model(name, inherited)
        await self._current()
        info.capabilities = self._capabilities(probes_expire=True)
        return info

    @override
    async def context_length(self, info: ModelInfo) -> int | None:
        props = (await self._current()).props
        return (props and props.default_generation_settings.n_ctx) or info.context_length

    @override
    async def aclose(self) -> None:
        self._server = self._limiter = None
        self.forget()
