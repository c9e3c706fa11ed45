"""Running the gateway: the server's own limits, signals, and the way down."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from miner.config.config import MinerConfig
from miner.config.sources import unknown_variables
from miner.config.vllm_command import VLLMCommandConfig
from miner.core.llms.fallback import FallbackService
from miner.core.llms.LLMService import LLMService
from miner.errors import MinerError
from miner.gateway.app import GATEWAY, create_app
from miner.gateway.server.connection import LONGEST_HEADER, LONGEST_URI, Runner
from miner.gateway.server.log import server_log
from miner.gateway.server.shutdown import interrupt
from miner.gateway.server.sockets import BACKLOG, listen, refuse_open_address, shown
from miner.gateway.server.stderr import give_up_unwritten, open_missing
from miner.gateway.settings import GatewaySettings
from miner.gateway.state import Gateway

__all__ = ["make_runner", "run", "serve"]

logger = logging.getLogger("miner.gateway")

_LAST_WORDS_SECONDS = 2.0
"""For typed errors to reach the clients of requests that the grace time did not suffice for."""
_LINGERING_SECONDS = 2.0
"""For which the rest of a body that nobody wants is read, so that its client can read the answer."""


def make_runner(app: web.Application) -> web.AppRunner:
    """The runner of the application. A client that hangs up cancels its handler: what you stop, stops."""
    settings = app[GATEWAY].settings
    # What aiohttp itself logs are requests that are no HTTP, each with a traceback: whoever sends many would fill the
    # disk. Faults of handlers are logged by the guard.
    http_logger = logging.getLogger("miner.gateway.http")
    http_logger.setLevel(logging.CRITICAL)
    return Runner(
        app,
        handler_cancellation=True,
        logger=http_logger,
        auto_decompress=False,  # a compressed body is refused, and not unpacked first
        max_line_size=LONGEST_URI,
        max_field_size=LONGEST_HEADER,
        access_log=None,  # the gateway writes its own, with what only it knows
        keepalive_timeout=settings.serve_keepalive,
        lingering_time=_LINGERING_SECONDS,
        shutdown_timeout=_LAST_WORDS_SECONDS,  # the grace time is over by then
    )


def run(settings: GatewaySettings, make_service: Callable[[], LLMService]) -> int:
    """Serve what `make_service` makes until SIGTERM or Ctrl-C, close it and return the exit status.

    Raises:
        ConfigError: an address without keys, or one that cannot be had.
    """
    open_missing()
    with server_log("json" if settings.serve_log == "json" else "text", settings.log_level):
        for line in unknown_variables((MinerConfig, GatewaySettings, VLLMCommandConfig)):
            logger.warning("%s", line)
        refuse_open_address(settings)
        _allow_many_connections()
        service = make_service()
        app = create_app(service, settings)
        sockets = listen(settings)

        def told() -> None:
            for one in sockets:
                logger.info("Serving at %s with %s.", shown(one), _described(service))

        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serve(app, sockets, told=told))


def _described(service: LLMService) -> str:
    """The backends behind the service, by name."""
    return ", then ".join(service.names) if isinstance(service, FallbackService) else service.name


def _allow_many_connections() -> None:
    """As many open files as the system lets us have: each connection is one."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        most = 1_048_576 if hard == resource.RLIM_INFINITY else hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        except (ValueError, OSError):
            logger.warning("At most %d connections: the limit of open files cannot be raised.", soft)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Of uvloop where it is installed: a request costs about a third less with it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(
    app: web.Application,
    sockets: list[socket.socket],
    *,
    told: Callable[[], None] = lambda: None,
) -> int:
    """Serve on these sockets until a signal comes; closes the service.

    Args:
        app: of `create_app`, made before: it looks for packages on the disk.
        told: called when connections are taken.
    """
    gateway = app[GATEWAY]
    runner = make_runner(app)
    signals = _Signals()
    try:
        await runner.setup()
        with signals.handled():
            for one in sockets:
                await web.SockSite(runner, one, backlog=BACKLOG).start()
            told()
            _spare_the_collector()
            await signals.first.wait()
            gateway.state = "draining"
            await _drain(gateway, signals)
            await runner.cleanup()
            await _close(gateway.service)
    finally:
        await runner.cleanup()
        await _close(gateway.service)
        give_up_unwritten()
    return 0 if signals.count < 2 else 128 + signals.received


async def _drain(gateway: Gateway, signals: _Signals) -> None:
    """Let what runs finish within the grace time, then end it with a typed error."""
    grace = gateway.settings.serve_grace
    if gateway.present:
        logger.warning("Shutting down: %d requests have %g s to finish.", len(gateway.present), grace)
    finishing = asyncio.create_task(gateway.drained(grace))
    hurried = asyncio.create_task(signals.second.wait())
    try:
        await asyncio.wait({finishing, hurried}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (finishing, hurried):
            task.cancel()
        await asyncio.gather(finishing, hurried, return_exceptions=True)
    for context in list(gateway.present):
        interrupt(context)
    await gateway.drained(_LAST_WORDS_SECONDS)


async def _close(service: LLMService) -> None:
    try:
        await service.aclose()
    except MinerError as error:
        logger.warning("The backend did not close cleanly: %s", error)


class _Signals:
    """The first asks to stop, the second to hurry, the third ends the process. Engines of ours die with it."""

    def __init__(self) -> None:
        self.count = 0
        self.received = 0
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT while the block lasts. One that is ignored (a background job) stays so."""
        loop = asyncio.get_running_loop()
        numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
        for number in numbers:
            loop.add_signal_handler(number, self.on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def on_signal(self, number: int) -> None:
        """Note that one came."""
        self.count += 1
        self.received = number
        self.first.set()
        if self.count == 2:
            self.second.set()
        elif self.count > 2:
            os._exit(128 + number)


def _spare_the_collector() -> None:
    """What is there now stays: the garbage collector need not look at it again and again while it serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
