"""Running the gateway: the server's own limits, signals, and the way down."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from aiohttp import web

from miner.core.llms.LLMService import LLMService
from miner.errors import ConfigError, MinerError
from miner.gateway.access import has_keys
from miner.gateway.app import GATEWAY, create_app
from miner.gateway.gateway import Gateway
from miner.gateway.interrupt import interrupt
from miner.gateway.settings import GatewaySettings

__all__ = ["is_loopback", "listen", "make_runner", "refuse_open_address", "run", "serve"]

logger = logging.getLogger("miner.gateway")

_LAST_WORDS_SECONDS = 2.0
"""For typed errors to reach the clients of requests that the grace time did not suffice for."""
_BACKLOG = 1024


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_open_address(settings: GatewaySettings) -> None:
    """Make sure that nobody is let in from outside by oversight.

    Raises:
        ConfigError: others can reach the address, and there are no keys.
    """
    if settings.serve_allow_unauthenticated or is_loopback(settings.serve_host) or has_keys(settings):
        return
    raise ConfigError(
        f"{settings.serve_host} can be reached by others, and there are no keys.",
        hint="Make one: export API_KEYS=$(python -c 'import secrets; print(secrets.token_urlsafe())')",
    )


def listen(settings: GatewaySettings) -> list[socket.socket]:
    """Sockets on the address, listening.

    Raises:
        ConfigError: the address or the port cannot be had.
    """
    host, port = settings.serve_host, settings.serve_port
    sockets: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in _addresses(host, port):
            one = socket.socket(family, kind, proto)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(_BACKLOG)
            one.setblocking(False)
    except OSError as error:
        for one in sockets:
            one.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}.",
            hint="Choose another with --host and --port (SERVE_HOST, SERVE_PORT).",
        ) from None
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Several addresses cannot share a port that the system is to choose.
    return list(found[:1] if port == 0 else dict.fromkeys(found))


def make_runner(app: web.Application) -> web.AppRunner:
    """The runner of the application. A client that hangs up cancels its handler: what you stop, stops."""
    settings = app[GATEWAY].settings
    return web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,  # the gateway writes its own, with what only it knows
        keepalive_timeout=settings.serve_keepalive,
        shutdown_timeout=_LAST_WORDS_SECONDS,  # the grace time is over by then
    )


def run(make_service: Callable[[], LLMService], settings: GatewaySettings) -> int:
    """Serve until SIGTERM or Ctrl-C and return the exit status.

    Raises:
        ConfigError: an address without keys, or one that cannot be had.
    """
    refuse_open_address(settings)
    sockets = listen(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(make_service(), settings, sockets))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed: a request costs about a third less with it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(service: LLMService, settings: GatewaySettings, sockets: list[socket.socket]) -> int:
    """Serve on these sockets until a signal comes; closes the service."""
    stop = asyncio.Event()
    signals = _Signals(stop)
    app = create_app(service, settings)
    gateway = app[GATEWAY]
    runner = make_runner(app)
    try:
        await runner.setup()
        with signals.handled():
            for one in sockets:
                await web.SockSite(runner, one, backlog=_BACKLOG).start()
            _announce(service, sockets)
            _spare_the_collector()
            await stop.wait()
            gateway.state = "draining"
            await _drain(gateway, signals)
            await runner.cleanup()
            await _close(service)
    finally:
        await runner.cleanup()
        await _close(service)
    return 0 if signals.count < 2 else 128 + signals.received


async def _drain(gateway: Gateway, signals: _Signals) -> None:
    """Let what runs finish within the grace time, then end it with a typed error."""
    if gateway.present:
        logger.warning(
            "Shutting down: %d requests have %g s to finish.", len(gateway.present), gateway.settings.serve_grace
        )
    finishing = asyncio.create_task(gateway.drained(gateway.settings.serve_grace))
    hurried = asyncio.create_task(signals.again.wait())
    try:
        await asyncio.wait({finishing, hurried}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (finishing, hurried):
            task.cancel()
        await asyncio.gather(finishing, hurried, return_exceptions=True)
    for exchange in list(gateway.present):
        interrupt(exchange)
    await gateway.drained(_LAST_WORDS_SECONDS)


async def _close(service: LLMService) -> None:
    try:
        await service.aclose()
    except MinerError as error:
        logger.warning("The backend did not close cleanly: %s", error)


class _Signals:
    """The first asks to stop, the second to hurry, the third ends the process. Engines of ours die with it."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.count = 0
        self.received = 0
        self.again = asyncio.Event()
        self._stop = stop

    def handled(self) -> _Handled:
        """Handle SIGTERM, SIGINT and SIGHUP while the block lasts."""
        return _Handled(self._on_signal)

    def _on_signal(self, number: int) -> None:
        self.count += 1
        self.received = number
        self._stop.set()
        if self.count == 2:
            self.again.set()
        elif self.count > 2:
            os._exit(128 + number)


class _Handled:
    def __init__(self, told: Callable[[int], None]) -> None:
        self._told = told
        self._numbers: list[int] = []

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for name in ("SIGTERM", "SIGINT"):
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._told, number)
                self._numbers.append(number)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in self._numbers:
            loop.remove_signal_handler(number)


def _spare_the_collector() -> None:
    """What is there now stays: the garbage collector need not look at it again and again while it serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _announce(service: LLMService, sockets: list[socket.socket]) -> None:
    for one in sockets:
        host, port = one.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"miner: serving {service.name} at http://{shown}:{port}", file=sys.stderr, flush=True)  # noqa: T201
