"""Gateway: the state that all requests share: service, settings, readiness, requests in flight."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

from miner.core.llms.LLMService import LLMService
from miner.core.wire import Health
from miner.errors import MinerError
from miner.gateway.background import Background
from miner.gateway.client_address import TrustedProxies
from miner.gateway.concurrency import BackendQueue
from miner.gateway.counters import Counters, Samples
from miner.gateway.errors import ErrorBoundary, RefusedError, cause_of
from miner.gateway.feed import EventFeed
from miner.gateway.neutralize import client_lines_of
from miner.gateway.settings import GatewaySettings
from miner.gateway.store.batches import Batch, BatchStore
from miner.gateway.store.database import Database, default_path
from miner.gateway.store.files import FileStore
from miner.gateway.store.responses import ResponseStore

logger = logging.getLogger("miner.gateway")

_UNCOUNTED = 64 * 1024
"""Bytes of each body that are not counted: what ordinary requests need, so that big ones keep none of them out."""


class ActiveRequest(Protocol):
    """A request in flight (RequestContext)."""

    def interrupt(self) -> None:
        """End it because the server shuts down."""


class BackgroundRun(Protocol):
    """A response that is generated in the background."""

    async def stop(self) -> None:
        """End it, and wait until that is stored."""


class BatchControl(Protocol):
    """What runs batches."""

    async def run(self) -> None:
        """Run batches, forever."""

    def wake(self) -> None:
        """Look for work now: a batch was created."""

    async def cancel(self, batch: Batch) -> None:
        """Cancel a batch."""


class ConfigReader(Protocol):
    """What watches a configuration file."""

    def read_now(self) -> None:
        """Read it at once."""


class MetricSource(Protocol):
    """What reads all metrics."""

    async def collect(self) -> Samples:
        """The values of all metrics now."""

    async def close(self) -> None:
        """Stop asking others."""


class HeartbeatStream(Protocol):
    """A stream that is kept alive while the engine sends nothing (EventStream)."""

    written_at: float
    """When something was last sent, on the loop's clock."""

    @property
    def request_id(self) -> str:
        """The id of its request, for the log."""

    async def send_heartbeat(self) -> None:
        """Send a heartbeat to the client."""


class LogLine(Protocol):
    """One line of the log."""

    @property
    def number(self) -> int:
        """Counts up."""

    @property
    def data(self) -> bytes:
        """JSON."""


class LogLines(Protocol):
    """The last lines of the log (LogRing)."""

    last: int
    """The number of the last line."""

    def lines(self, *, after: int = 0, level: int = 0, most: int | None = None) -> Sequence[LogLine]:
        """The lines after that number, from that level."""

    def is_complete(self, after: int) -> bool:
        """Whether all lines after that number are still kept."""


class Gateway:
    """One gateway. It does not close the service: `server.run.serve` does."""

    def __init__(self, service: LLMService, settings: GatewaySettings, log: LogLines) -> None:
        self.service = service
        self.settings = settings
        self.log = log
        self.created = int(time.time())
        """Seconds since 1970: the date of a model whose backend tells none."""
        self.bodies = BodyBudget(max(settings.serve_body_budget, settings.serve_max_body))
        self.proxies = TrustedProxies(settings.serve_trusted_proxies)
        self.client_lines = client_lines_of(settings.serve_neutralize)
        """Kinds of lines that are removed from system prompts."""
        self.health = HealthCache(service)
        self.background = Background()
        self.feed = EventFeed()
        """Events for those who watch: `/admin/events`."""
        self.phase: Literal["starting", "serving", "draining"] = "starting"
        self.loading: str | None = None
        """Why the server is not ready while it starts; None once it has."""
        self.started = asyncio.Event()
        """Set once the phase is no longer `starting`."""
        self.readiness_checks: list[Callable[[], str | None]] = []
        """Each returns why the server cannot serve, or None; for `/readyz`."""
        self.queue = BackendQueue(settings)
        self.counters: Counters | None = None
        """Counters for `/metrics`; None: metrics are off."""
        self.collector: MetricSource | None = None
        """Reads them, and what is measured; None: metrics are off."""
        self.config_watch: ConfigReader | None = None
        """Reads the file that says what is served; None: there is none."""
        self.database = Database(default_path(settings.serve_store_file)) if settings.serve_store else None
        """What is stored; None: nothing is."""
        self.responses = None if self.database is None else ResponseStore(
            self.database, number=settings.serve_responses_max_count, size=settings.serve_responses_max_bytes,
            age=settings.serve_responses_max_age,
        )  # fmt: skip
        """The stored responses of `/v1/responses`."""
        self.runs: dict[tuple[str, str], BackgroundRun] = {}
        """Responses that are generated in the background, by their owner and id."""
        self.files: FileStore | None = None
        self.batches: BatchStore | None = None
        self.batch_runner: BatchControl | None = None
        if self.database is not None:
            size, age = settings.serve_batch_max_bytes, settings.serve_batch_max_age
            self.files = FileStore(self.database, size=size, age=age)
            self.batches = BatchStore(self.database, size=size, age=age)
        self.requests: set[ActiveRequest] = set()
        """Requests whose response is not complete."""
        self.running: set[ActiveRequest] = set()
        """The ones that the service works on."""
        self.loads: set[ActiveRequest] = set()
        """The ones that do nothing but load a model: a shutdown does not wait for them."""
        self.streams: set[HeartbeatStream] = set()
        self.last_activity_at = 0.0
        """When the service last sent anything, or got its first request, on the loop's clock."""
        self._idle: asyncio.Event | None = None

    def start_serving(self) -> None:
        """The start is over: from now on `/readyz` depends on the backend."""
        self.loading = None
        if self.phase == "starting":
            self.phase = "serving"
        self.started.set()

    @contextmanager
    def only_loads(self, request: ActiveRequest) -> Iterator[None]:
        """For the length of the block the request does nothing but load a model: a shutdown ends it at once."""
        self.loads.add(request)
        if self.phase == "draining":
            request.interrupt()
        try:
            yield
        finally:
            self.loads.discard(request)

    def call_started(self, request: ActiveRequest) -> None:
        """Count a request that the service works on."""
        if not self.running:
            self.last_activity_at = asyncio.get_running_loop().time()
        self.running.add(request)

    def request_finished(self, request: ActiveRequest, *, succeeded: bool) -> None:
        """Count the end of the service's work on a request."""
        if request in self.running:
            self.running.discard(request)
            if succeeded:
                self.last_activity_at = asyncio.get_running_loop().time()

    def response_finished(self, request: ActiveRequest) -> None:
        """The response is complete, or its client has disconnected."""
        self.requests.discard(request)
        if self._idle is not None and not self.requests:
            self._idle.set()

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no request is in flight; return whether it was in time."""
        if not self.requests:
            return True
        self._idle = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def send_heartbeats(self) -> None:
        """Send heartbeats to idle streams, forever. One timer for all of them: a timer for each would cost every
        stream.
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
                    await stream.send_heartbeat()
                except Exception:  # one broken stream must not keep the others from theirs
                    self.streams.discard(stream)
                    logger.exception("Request %s: its heartbeat failed.", stream.request_id)


class HealthCache:
    """The backend's health, checked at most once a second and once at a time, however many probes there are."""

    max_age = 1.0
    """Seconds."""

    def __init__(self, service: LLMService) -> None:
        self._service = service
        self._lock = asyncio.Lock()
        self._health: Health | None = None
        self._at = 0.0
        self._logged = ""
        """The failure that was logged last: probes come every few seconds."""

    async def current(self) -> Health:
        """The health, not older than `max_age`."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._health is None or now - self._at > self.max_age:
                self._health = await self._check()
                self._at = asyncio.get_running_loop().time()
            return self._health

    async def _check(self) -> Health:
        try:
            with ErrorBoundary():
                return await self._service.health()
        except MinerError as error:
            cause = cause_of(error)
            failure = f"{type(cause).__name__}: {cause}"
            if failure != self._logged:
                logger.error("The health check of the backend failed.", exc_info=cause)
            self._logged = failure
            return Health(state="failed", reason="the backend's health check failed; the server's log says why")


class BodyBudget:
    """Bytes that the bodies of all requests together may hold until the requests end."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def grow(self, reserved: int, size: int) -> int:
        """A body that has reserved so many bytes has this size now; returns what it has reserved from now on.

        Raises:
            RefusedError: 503, there is no room. Nothing has changed then.
        """
        wanted = max(0, size - _UNCOUNTED)
        if wanted > reserved and self.used + wanted - reserved > self.limit:
            raise RefusedError(
                503, "overloaded", "Too many large requests. Try again later.", retry_after=2
            )  # fmt: skip
        self.used += wanted - reserved
        return wanted

    def release(self, reserved: int) -> None:
        """Release the bytes of a request that has ended."""
        self.used -= reserved
