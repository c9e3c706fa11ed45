"""Running the gateway: the server's own limits, signals, and the way down."""

from __future__ import annotations

from aiohttp import web

from miner.gateway.app import GATEWAY

__all__ = ["make_runner"]


def make_runner(app: web.Application) -> web.AppRunner:
    """The runner of the application. A client that hangs up cancels its handler: what you stop, stops."""
    settings = app[GATEWAY].settings
    return web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,  # the gateway writes its own, with what only it knows
        keepalive_timeout=settings.serve_keepalive,
        shutdown_timeout=1.0,  # the grace time is over by then
    )
