"""The application: routes, middleware and their shared state, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from aiohttp import web

from miner.core.llms.contract.config_state import ConfigChange
from miner.core.llms.LLMService import LLMService
from miner.errors import MinerError
from miner.gateway.apis.anthropic.routes import ANTHROPIC
from miner.gateway.apis.errors import APIS
from miner.gateway.apis.llamacpp.routes import LLAMACPP
from miner.gateway.apis.models import MODELS
from miner.gateway.apis.ollama.routes import OLLAMA
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.apis.openai.routes import OPENAI
from miner.gateway.auth.key_store import KeyStore
from miner.gateway.batch.runner import BatchRunner
from miner.gateway.config_watch import ConfigWatch
from miner.gateway.context import ANYBODY, ROUTE_TABLE, Route
from miner.gateway.endpoints.admin import ADMIN
from miner.gateway.endpoints.config import CONFIG
from miner.gateway.endpoints.events import EVENTS
from miner.gateway.endpoints.health import livez, readyz
from miner.gateway.endpoints.logs import LOGS
from miner.gateway.endpoints.metrics import metrics
from miner.gateway.endpoints.node import NODE
from miner.gateway.endpoints.not_found import not_found
from miner.gateway.endpoints.openapi import docs, openapi
from miner.gateway.errors import ErrorBoundary, cause_of
from miner.gateway.middleware.admission import Admission, find_hooks
from miner.gateway.middleware.auth import Authentication
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.errors import aiohttp_handler
from miner.gateway.middleware.events import Events
from miner.gateway.middleware.hosts import Hosts, preflight
from miner.gateway.middleware.logging import AccessLog, PromptLog
from miner.gateway.middleware.metrics import Metrics
from miner.gateway.middleware.metrics_export import make_metrics_export
from miner.gateway.middleware.rate_limit import RateLimiter
from miner.gateway.middleware.tracing import make_tracing
from miner.gateway.preload import preload, preload_new
from miner.gateway.routing import with_derived
from miner.gateway.server.connection import expect_handler
from miner.gateway.server.log_ring import LogRing
from miner.gateway.settings import GatewaySettings
from miner.gateway.state import Gateway

__all__ = ["GATEWAY", "MIDDLEWARE", "ROUTES", "create_app", "default_middleware"]

logger = logging.getLogger("miner.gateway")

GATEWAY = web.AppKey("gateway", Gateway)
MIDDLEWARE = web.AppKey("middleware", tuple[Middleware, ...])
LOG = web.AppKey("log", LogRing)

SERVER = [
    Route("GET", "/livez", livez, "open", openai_error, "Whether the process is alive", always=True),
    Route("GET", "/readyz", readyz, "key", openai_error, "Whether a request could be served now", always=True),
    Route(
        "GET", "/metrics", metrics, "admin", openai_error, "Metrics for Prometheus", content_types="text/plain",
        always=True,
    ),
    Route("GET", "/openapi.json", openapi, "key", openai_error, "These routes, as an OpenAPI document"),
    Route("GET", "/docs", docs, "key", openai_error, "These routes, as a page", content_types="text/html"),
]  # fmt: skip
ROUTES: list[Route] = [
    *OPENAI,
    *MODELS,
    *OLLAMA,
    *ANTHROPIC,
    *LLAMACPP,
    *SERVER,
    *ADMIN,
    *CONFIG,
    *EVENTS,
    *LOGS,
    *NODE,
]
"""All routes, besides those that follow from them (`routing.py`). For every other path there is a 404 or 405, after the
same checks.
"""


def create_app(
    service: LLMService,
    settings: GatewaySettings | None = None,
    *,
    middleware: Iterable[Middleware] | None = None,
    routes: Iterable[Route] | None = None,
    log: LogRing | None = None,
) -> web.Application:
    """Return the gateway's application over a service. Nothing is opened before it runs.

    Args:
        service: the application does not close it; `server.run.serve` does.
        settings: None for the environment's.
        middleware: None for `default_middleware`.
        routes: None for ROUTES.
        log: what keeps the log for `/admin/logs`; None for one that begins when the application starts.
    """
    settings = GatewaySettings() if settings is None else settings
    service.any_model_name = settings.serve_any_model_name
    table = with_derived(
        replace(route, access=settings.serve_metrics) if route.handler is metrics else route
        for route in (ROUTES if routes is None else routes)
    )
    ring = LogRing() if log is None else log
    gateway = Gateway(service, settings, ring)
    stack = tuple(default_middleware(settings) if middleware is None else middleware)
    if gateway.batches is not None and gateway.files is not None:
        authentication = next((each for each in stack if isinstance(each, Authentication)), None)
        callable_routes = {route.path: route for route in table if route.method == "POST"}
        gateway.batch_runner = BatchRunner(
            gateway, gateway.batches, gateway.files, stack, callable_routes,
            authentication.caller_of if authentication is not None else lambda _: ANYBODY,
        )  # fmt: skip
    app = web.Application(client_max_size=settings.serve_max_body)
    app[GATEWAY], app[MIDDLEWARE], app[ROUTE_TABLE], app[LOG] = gateway, stack, table, ring
    fallbacks: list[Route] = []
    for prefix, errors, id_header in APIS:
        path = f"{prefix}{{path:.*}}"
        if settings.serve_cors_origins:
            # Browsers send no key with a preflight request.
            fallbacks.append(Route("OPTIONS", path, preflight, "open", errors))
        fallbacks.append(Route("*", path, not_found, "key", errors, id_header=id_header))
    for route in (*table, *fallbacks):
        handler = aiohttp_handler(gateway, stack, route)
        app.router.add_route(route.method, route.path, handler, expect_handler=expect_handler(gateway, stack, route))
    app.cleanup_ctx.append(_log_kept)
    app.cleanup_ctx.append(_lifespan)
    return app


def default_middleware(settings: GatewaySettings) -> list[Middleware]:
    """The middleware that the settings require, in order."""
    keys = KeyStore(settings)
    # `on_finish` runs in reverse: slots are released first, and logs and metrics see everything.
    middleware: list[Middleware] = [
        Metrics(), Events(), Hosts(settings), Authentication(settings, keys), RateLimiter(settings, keys)
    ]  # fmt: skip
    if settings.serve_log != "off":
        middleware.insert(0, PromptLog() if settings.serve_log_prompts else AccessLog())
    middleware[:0] = filter(None, (make_tracing(), make_metrics_export()))
    hooks = find_hooks()
    if hooks:
        middleware.append(Admission(hooks, settings.serve_admission_timeout))
    return middleware


def _load_new(gateway: Gateway, change: ConfigChange) -> None:
    """Load the models that a changed file wants loaded."""
    wanted = [name for name in gateway.service.preloaded if name in (*change.added, *change.changed)]
    names = [name for name in wanted if name is not None]
    if names and gateway.settings.serve_preload:
        gateway.background.start("loading of new models", lambda: preload_new(gateway, names), ends=True)


async def _log_kept(app: web.Application) -> AsyncIterator[None]:
    with app[LOG].attached():
        yield


async def _lifespan(app: web.Application) -> AsyncIterator[None]:
    """Start the middleware, the heartbeats and the loading of the default model; stop them."""
    gateway, middleware = app[GATEWAY], app[MIDDLEWARE]
    gateway.queue.start(gateway.service)
    gateway.last_activity_at = asyncio.get_running_loop().time()
    for each in middleware:
        await each.on_startup(gateway)
    gateway.background.start("stream heartbeat", gateway.send_heartbeats)
    if gateway.responses is not None:
        gateway.background.start("response expiry", gateway.responses.expire_regularly)
    if gateway.batch_runner is not None:
        gateway.background.start("batches", gateway.batch_runner.run)
    if gateway.service.config_state is not None:
        gateway.config_watch = ConfigWatch(gateway.service, lambda change: _load_new(gateway, change))
        gateway.background.start("watcher of the configuration file", gateway.config_watch.run)
    if gateway.settings.serve_preload:
        gateway.background.start("loading of models", lambda: preload(gateway), ends=True)
    else:
        gateway.start_serving()
    yield
    for run in list(gateway.runs.values()):
        await run.stop()
    await gateway.background.stop()
    for each in reversed(middleware):
        try:
            with ErrorBoundary():
                await each.on_cleanup(gateway)
        except MinerError as error:  # the others have to stop too
            logger.error("%s did not stop cleanly.", type(each).__name__, exc_info=cause_of(error))
    if gateway.database is not None:
        await gateway.database.close()
