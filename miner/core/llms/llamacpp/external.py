"""The llama.cpp server at LLAMACPP_API_BASE, which somebody else runs. It may be restarted with another model at any
time, without notice: what it said of itself expires.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from miner.core.http.client import HttpClient
from miner.core.http.errors import parse_error_body
from miner.core.llms.contract.queueing import current_client
from miner.core.llms.llamacpp.limiter import SlotLimiter
from miner.core.llms.llamacpp.server import LlamaServer
from miner.core.wire import ChatRequest, Health, ModelInfo, Progress, Timings
from miner.errors import BackendError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

__all__ = ["ExternalServer"]

_FRESH_SECONDS = 30.0
"""How long its props are used while requests of ours run there."""
_IDLE_FRESH_SECONDS = 1.0
"""The same while none does: the request for them costs a millisecond then, and delays nobody."""
_PROBE_SECONDS = 5.0


class ExternalServer:
    """A server provider with one server.

    Args:
        features: what is assumed before the first `/props`.
        http: the client, which changes with the settings.
    """

    converts_schemas = True
    max_slots = None

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
        """None: `/props` does not say, and it was not probed."""
        self._probed = float("-inf")
        self._limiter: tuple[asyncio.AbstractEventLoop, SlotLimiter] | None = None

    def forget(self) -> None:
        """It may have been restarted. What was known remains the best guess until the next request."""
        self._fetched = self._probed = float("-inf")

    def refused(self, path: str) -> None:
        """It does not serve the embeddings or rankings of this path."""
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
            self._embeds = self._ranks = None
            self._probed = float("-inf")
        self._server, self._fetched = server, time.monotonic()
        return server

    @property
    def capabilities(self) -> frozenset[str]:
        """What it could do when it said so last."""
        return self._capabilities(probes_expire=False)

    def _capabilities(self, *, probes_expire: bool) -> frozenset[str]:
        server = self._server
        if server is None or server.props is None:
            return self._features - {"keep_alive"}  # how long a model stays is not ours to say there
        fresh = not probes_expire or time.monotonic() - self._probed < _FRESH_SECONDS
        able = server.props.capabilities(
            embeds=not (fresh and self._embeds is False), ranks=not (fresh and self._ranks is False)
        )
        return able - {"keep_alive"}

    @asynccontextmanager
    async def slot(
        self,
        request: ChatRequest | None,
        model: str | None,
        timings: Timings,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AsyncIterator[LlamaServer]:
        """One of its slots, as far as requests of ours take them.

        Raises:
            BackendOverloadedError: the queue is full, or the wait was too long.
        """
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

    async def list_models(self, inherited: Callable[[], Awaitable[list[ModelInfo]]]) -> list[ModelInfo]:
        """Its models. Where it is one, it is probed for embeddings and rankings too."""
        models = await inherited()
        if len(models) == 1:
            await self._current()
            if time.monotonic() - self._probed > _FRESH_SECONDS:
                self._ranks = await self._serves("/rerank")
                # With rank pooling, an embedding is one score.
                self._embeds = False if self._ranks else await self._serves("/embeddings")
                self._probed = time.monotonic()
            models[0].capabilities = self._capabilities(probes_expire=True)
        return models

    async def _serves(self, path: str) -> bool | None:
        """Whether it has this endpoint: what it does not serve it refuses before it reads the body, an empty body only
        after that. None: no response.
        """
        try:
            reply = await self._http().request("POST", path, b"{}", total=_PROBE_SECONDS, read_only=True)
        except BackendError:
            return None
        return reply.status not in (404, 405, 501) and "Pooling type" not in parse_error_body(reply.body).message

    async def get_model(self, name: str | None, inherited: Callable[[str], Awaitable[ModelInfo]]) -> ModelInfo:
        """One of its models, with what it can do."""
        assert name is not None
        info = await inherited(name)
        await self._current()
        info.capabilities = self._capabilities(probes_expire=True)
        return info

    async def sole_model(self, inherited: Callable[[], Awaitable[str | None]]) -> str | None:
        """The one model that it serves."""
        return await inherited()

    async def context_length(self, info: ModelInfo) -> int | None:
        """Tokens of one of its slots."""
        props = (await self._current()).props
        return (props and props.default_generation_settings.n_ctx) or info.context_length

    async def health(self, inherited: Callable[[], Awaitable[Health]]) -> Health:
        """That of any OpenAI-compatible server."""
        return await inherited()

    async def load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        """Nothing to do: its model is loaded while it runs."""
        return info

    async def unload(self, model: str) -> bool:
        """Raises UnsupportedFeatureError."""
        raise _not_ours("model")

    def reset(self, model: str) -> None:
        """Raises UnsupportedFeatureError."""
        raise _not_ours("model")

    pin = unpin = reset

    def pull(self, model: str, *, insecure: bool) -> AsyncGenerator[dict[str, Any], None]:
        """Raises UnsupportedFeatureError."""
        raise _not_ours("pull")

    async def aclose(self) -> None:
        """Forget it; the client is closed by its owner."""
        self._server = self._limiter = None
        self.forget()


def _not_ours(param: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(
        "This llama.cpp server is not managed by miner: its models cannot be loaded, unloaded or pulled here.",
        param=param,
        operator_hint="Unset LLAMACPP_API_BASE to run engines here.",
    )
