"""Gateway: what all requests share: the service, the settings, the middleware, and whether the server is ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from miner.errors import MinerError
from miner.gateway.background import Background
from miner.gateway.budget import BodyBudget
from miner.gateway.client_address import TrustedProxies
from miner.gateway.contained import Contained
from miner.gateway.endpoints.health import HealthCache
from miner.gateway.errors import InternalServerError
from miner.gateway.middleware.base import Middleware, MiddlewareStack
from miner.gateway.preload import preload

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService
    from miner.gateway.context import RequestContext
    from miner.gateway.routing import Route
    from miner.gateway.settings import GatewaySettings
    from miner.gateway.streaming import OpenStream

__all__ = ["Gateway"]

logger = logging.getLogger("miner.gateway")


class Gateway:
    """One gateway. It owns no service: who made the service closes it."""

    def __init__(
        self,
        service: LLMService,
        settings: GatewaySettings,
        middleware: Iterable[Middleware],
        routes: Sequence[Route],
    ) -> None:
        self.service = service
        self.settings = settings
        self.middleware = MiddlewareStack(list(middleware))
        self.routes = tuple(routes)
        self.bodies = BodyBudget(max(settings.serve_body_budget, settings.serve_max_body))
        self.proxies = TrustedProxies(settings.serve_trusted_proxies)
        self.state: Literal["starting", "serving", "draining"] = "starting"
        self.loading: str | None = None
        """What the server waits for while it starts."""
        self.health = HealthCache(service)
        self.present: set[RequestContext] = set()
        """Requests that have come and are not answered."""
        self.running: set[RequestContext] = set()
        """Requests that the service works on."""
        self.streams: set[OpenStream] = set()
        """Streams that may need a heartbeat."""
        self.sign_at = 0.0
        """When the backend last gave a sign of life, on the loop's clock."""
        self.background = Background()
        self._quiet: asyncio.Event | None = None

    async def start(self) -> None:
        """Start the middleware, the heartbeat and the loading of the default model."""
        self.sign_at = asyncio.get_running_loop().time()
        for middleware in self.middleware.all:
            await middleware.start(self)
        self.background.start("heartbeat of streams", self._beat)
        if self.settings.serve_preload:
            self.background.start("loading of the default model", lambda: preload(self), ends=True)
        else:
            self.state = "serving"

    async def stop(self) -> None:
        """Stop what `start` started."""
        await self.background.stop()
        for middleware in reversed(self.middleware.all):
            try:
                with Contained():
                    await middleware.stop(self)
            except MinerError as error:  # the others have to stop too
                cause = error.__cause__ if isinstance(error, InternalServerError) else error
                logger.error("%s did not stop cleanly.", type(middleware).__name__, exc_info=cause)

    def began(self, context: RequestContext) -> None:
        """The service is being asked."""
        if not self.running:
            self.sign_at = asyncio.get_running_loop().time()
        self.running.add(context)

    def ended(self, context: RequestContext) -> None:
        """The service is done with it."""
        if context in self.running:
            self.running.discard(context)
            if context.error is None and context.status != 499:
                self.sign_at = asyncio.get_running_loop().time()

    def left(self, context: RequestContext) -> None:
        """It is answered, or nobody waits for it any more."""
        self.present.discard(context)
        if self._quiet is not None and not self.present:
            self._quiet.set()

    async def drained(self, seconds: float) -> bool:
        """Wait until all requests are answered; whether that came in time."""
        if not self.present:
            return True
        self._quiet = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    async def _beat(self) -> None:
        """Look after the streams in which nothing has come for a while. One timer for all of them: a timer for each
        would cost every stream what only the silent ones need.
        """
        loop = asyncio.get_running_loop()
        pause = min(1.0, self.settings.serve_heartbeat / 4)
        while True:
            await asyncio.sleep(pause)
            due = loop.time() - self.settings.serve_heartbeat
            for stream in [stream for stream in self.streams if stream.written_at <= due]:
                if stream not in self.streams:
                    continue  # it has ended while another one was written to
                try:
                    await stream.beat()
                except Exception:  # one broken stream must not keep the others from theirs
                    self.streams.discard(stream)
                    logger.exception("Request %s: its heartbeat failed.", stream.context.id)
