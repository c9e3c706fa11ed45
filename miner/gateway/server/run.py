"""Running the gateway: the limits of the server, signals, and shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from miner.config.config import MinerConfig
from miner.config.node import NodeConfig
from miner.config.sources import unknown_variables
from miner.config.vllm_command import VLLMCommandConfig
from miner.core.controlling_terminal import has_terminal
from miner.core.counted import counted
from miner.core.llms.LLMService import LLMService
from miner.errors import MinerError
from miner.gateway.app import GATEWAY, MIDDLEWARE, create_app
from miner.gateway.concurrency import ignored_queue_settings
from miner.gateway.middleware.auth import Authentication
from miner.gateway.server.announce import Announcer, Shutdown, tell_end
from miner.gateway.server.connection import MAX_HEADER, MAX_URI, Runner
from miner.gateway.server.log import server_log
from miner.gateway.server.log_ring import LogRing
from miner.gateway.server.sockets import BACKLOG, listen, refuse_open_address
from miner.gateway.settings import GatewaySettings
from miner.gateway.state import Gateway

logger = logging.getLogger("miner.gateway")

_INTERRUPT_SECONDS = 2.0
"""Seconds for errors to reach the clients of requests that did not finish within the grace period."""
_LINGERING_TIME = 2.0
"""Seconds to read the rest of an unwanted body, so that its client can read the response."""


def make_runner(app: web.Application) -> web.AppRunner:
    """The runner of the application. A client that disconnects cancels its handler."""
    settings = app[GATEWAY].settings
    # aiohttp itself logs each invalid request with a traceback: a client could fill the disk. Errors of handlers are
    # logged by `log_error`.
    http_logger = logging.getLogger("miner.gateway.http")
    http_logger.setLevel(logging.CRITICAL)
    return Runner(
        app,
        handler_cancellation=True,
        logger=http_logger,
        auto_decompress=False,  # a compressed body is refused, not decompressed
        max_line_size=MAX_URI,
        max_field_size=MAX_HEADER,
        access_log=None,  # the gateway has its own (middleware/logging.py)
        keepalive_timeout=settings.serve_keepalive,
        lingering_time=_LINGERING_TIME,
        shutdown_timeout=_INTERRUPT_SECONDS,  # after the grace period
    )


def run(settings: GatewaySettings, make_service: Callable[[], LLMService]) -> int:
    """Serve what `make_service` makes until SIGTERM or Ctrl-C, close it and return the exit status.

    Raises:
        ConfigError: an open address without keys, or one that is not available.
    """
    _fill_closed_descriptors()
    ring, began = LogRing(), time.monotonic()
    with server_log("json" if settings.serve_log == "json" else "text", settings.log_level, also=[ring]):
        for line in unknown_variables((MinerConfig, GatewaySettings, VLLMCommandConfig, NodeConfig)):
            logger.warning("%s", line)
        refuse_open_address(settings)
        _allow_many_connections()
        service = make_service()
        for line in ignored_queue_settings(service, settings):
            logger.warning("%s", line)
        if service.config_state is not None and settings.serve_any_model_name:
            logger.warning('MINER_SERVE_ANY_MODEL_NAME has no effect with miner.toml: give a model the alias "*".')
        app = create_app(service, settings, log=ring)
        sockets = listen(settings)
        keys = next((each.keys for each in app[MIDDLEWARE] if isinstance(each, Authentication)), None)
        announcer = Announcer(app[GATEWAY], keys, sockets, began)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serve(app, sockets, on_ready=announcer.listening))


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as the system allows: each connection is one."""
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
            logger.warning("The limit of open files cannot be raised: at most %d connections.", soft)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop factory of uvloop, which makes a request about a third cheaper; None: asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(
    app: web.Application,
    sockets: list[socket.socket],
    *,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve on these sockets until a signal; close the service.

    Args:
        app: of `create_app`, called before: it looks for packages on the disk.
        on_ready: called when connections are accepted.
    """
    gateway = app[GATEWAY]
    runner = make_runner(app)
    signals, shutdown = _Signals(), Shutdown()
    began: float | None = None
    try:
        await runner.setup()
        with signals.handled(), _hangup_handled(gateway, signals):
            for sock in sockets:
                await web.SockSite(runner, sock, backlog=BACKLOG).start()
            began = time.monotonic()
            on_ready()
            _freeze_garbage_collector()
            await signals.first.wait()
            gateway.phase = "draining"
            shutdown = await _drain(gateway, signals)
            await runner.cleanup()
            await _close(gateway.service)
    except (Exception, asyncio.CancelledError) as error:
        if began is not None:
            tell_end(error, shutdown, time.monotonic() - began, 1)
        raise
    finally:
        await runner.cleanup()
        await _close(gateway.service)
        _flush_output()
    status = 0 if signals.count < 2 else 128 + signals.received
    tell_end(signals.received, shutdown, time.monotonic() - (began or 0.0), status)
    return status


async def _drain(gateway: Gateway, signals: _Signals) -> Shutdown:
    """Let running requests finish within the grace period, then end them with an error; those that only load a model at
    once.
    """
    grace, loads, began = gateway.settings.serve_grace, set(gateway.loads), time.monotonic()
    running = gateway.requests - loads
    for request in loads:
        request.interrupt()
    if running:
        count = len(running)
        logger.warning(
            "Shutting down: %s %s %g s to finish; a second signal cancels %s.",
            counted(count, "request"), *(("has", grace, "it") if count == 1 else ("have", grace, "them")),
        )  # fmt: skip
    idle = asyncio.create_task(gateway.wait_until_idle(grace))
    second_signal = asyncio.create_task(signals.second.wait())
    try:
        await asyncio.wait({idle, second_signal}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (idle, second_signal):
            task.cancel()
        await asyncio.gather(idle, second_signal, return_exceptions=True)
    late = list(gateway.requests)
    for request in late:
        request.interrupt()
    await gateway.wait_until_idle(_INTERRUPT_SECONDS)
    return Shutdown(len(running - set(late)), len(loads | set(late)), time.monotonic() - began)


async def _close(service: LLMService) -> None:
    try:
        await service.aclose()
    except MinerError as error:
        logger.warning("The backend did not close cleanly: %s", error)


class _Signals:
    """The first signal starts the shutdown, the second ends the grace period, the third the process and its engines."""

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
        """First: start the shutdown; second: end the grace period; third: exit at once."""
        self.count += 1
        self.received = number
        self.first.set()
        if self.count == 2:
            self.second.set()
        elif self.count > 2:
            os._exit(128 + number)


@contextmanager
def _hangup_handled(gateway: Gateway, signals: _Signals) -> Iterator[None]:
    """While the block lasts, SIGHUP reads the configuration file again, and where there is none says so. That of the
    terminal which the server was started at stops it once this is closed, unless SIGHUP was ignored then (nohup).
    """
    number = getattr(signal, "SIGHUP", None)
    if number is None:
        yield
        return
    stops = has_terminal() and signal.getsignal(number) is not signal.SIG_IGN

    def on_hangup() -> None:
        if stops and not has_terminal():
            if not signals.count:  # the system and the shell send one each: the second must not cut requests short
                signals.on_signal(number)
        elif gateway.config_watch is not None:
            gateway.config_watch.read_now()
        else:
            logger.warning("SIGHUP: nothing to reload, since no miner.toml is in use.")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, on_hangup)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


def _freeze_garbage_collector() -> None:
    """Exempt what exists now from garbage collection: it stays as long as the server runs."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _fill_closed_descriptors() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed: else the next connection would get the number, and the
    log would be written to a client.
    """
    while True:
        taken = os.open(os.devnull, os.O_RDWR)
        if taken > 2:
            os.close(taken)
            return


def _flush_output() -> None:
    """At the end of the process: output that cannot be written (closed pipe, full disk) must not fail the exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, stream.fileno())
            os.close(devnull)
