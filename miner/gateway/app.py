"""The application: routes as a table, everything else injected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from aiohttp import web

from miner.core.llms.LLMService import LLMService
from miner.gateway.apis.anthropic.errors import anthropic_error
from miner.gateway.apis.anthropic.routes import ANTHROPIC, ID_HEADER
from miner.gateway.apis.ollama.errors import ollama_error
from miner.gateway.apis.ollama.routes import OLLAMA
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.apis.openai.routes import OPENAI
from miner.gateway.endpoints.admin import ADMIN
from miner.gateway.endpoints.health import livez, readyz
from miner.gateway.endpoints.not_found import nowhere
from miner.gateway.endpoints.openapi import docs, openapi
from miner.gateway.middleware.admission import Admission, find_hooks
from miner.gateway.middleware.auth import Access
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.errors import guarded
from miner.gateway.middleware.hosts import Hosts, preflight
from miner.gateway.middleware.logging import AccessLog, PromptLog
from miner.gateway.middleware.metrics import Metrics, metrics
from miner.gateway.middleware.rate_limit import Limiter
from miner.gateway.middleware.tracing import make_tracing
from miner.gateway.routing import Route
from miner.gateway.server.connection import expecting
from miner.gateway.settings import GatewaySettings
from miner.gateway.state import Gateway

__all__ = ["GATEWAY", "ROUTES", "create_app"]

GATEWAY = web.AppKey("gateway", Gateway)

SERVER = [
    Route("GET", "/livez", livez, "open", openai_error, "Whether the process is alive", always=True),
    Route("HEAD", "/livez", livez, "open", openai_error, "The same without a body", always=True),
    Route("GET", "/readyz", readyz, "key", openai_error, "Whether a request could be served now", always=True),
    Route("HEAD", "/readyz", readyz, "key", openai_error, "The same without a body", always=True),
    Route(
        "GET",
        "/metrics",
        metrics,
        "admin",
        openai_error,
        "What was counted, for Prometheus",
        answers="text/plain",
        always=True,
    ),
    Route("GET", "/openapi.json", openapi, "key", openai_error, "This list for programs"),
    Route("GET", "/docs", docs, "key", openai_error, "This list for people", answers="text/html"),
]
ROUTES: list[Route] = [*OPENAI, *OLLAMA, *ANTHROPIC, *SERVER, *ADMIN]
"""Every route there is. What is not here is answered with 404 or 405 after the same checks."""


def create_app(
    service: LLMService,
    settings: GatewaySettings | None = None,
    *,
    middleware: Iterable[Middleware] | None = None,
    routes: Iterable[Route] | None = None,
) -> web.Application:
    """The gateway over a service, ready to be run. Nothing is opened before it is.

    Args:
        service: whoever made it closes it.
        settings: None for the environment's.
        middleware: the checks that requests pass; None for those of the settings.
        routes: None for ROUTES.
    """
    settings = GatewaySettings() if settings is None else settings
    service.any_model_name = settings.serve_any_model_name
    table = [
        replace(route, access=settings.serve_metrics) if route.handler is metrics else route
        for route in (ROUTES if routes is None else routes)
    ]
    checks = default_middleware(settings) if middleware is None else middleware
    gateway = Gateway(service, settings, checks, table)
    app = web.Application(client_max_size=settings.serve_max_body)
    app[GATEWAY] = gateway
    for route in table:
        _add(app, gateway, route)
    for path, errors, id_header in _FALLBACKS:
        if settings.serve_cors_origins:
            # Browsers send no key with the question whether they may send one.
            _add(app, gateway, Route("OPTIONS", path, preflight, "open", errors))
        anything = Route("*", path, nowhere, "key", errors, id_header=id_header)
        _add(app, gateway, anything)
    app.cleanup_ctx.append(_lifetime)
    return app


def default_middleware(settings: GatewaySettings) -> list[Middleware]:
    """The checks that the settings ask for, in order."""
    access = Access(settings)
    limiter = Limiter(settings, access)
    # `leave` goes the other way: turns are given back first, and whoever watches sees it all.
    middleware: list[Middleware] = [Metrics(limiter), Hosts(settings), access, limiter]
    if settings.serve_log != "off":
        middleware.insert(0, PromptLog() if settings.serve_log_prompts else AccessLog())
    tracing = make_tracing()
    if tracing is not None:
        middleware.insert(0, tracing)
    hooks = find_hooks()
    if hooks:
        middleware.append(Admission(hooks, settings.serve_admission_timeout))
    return middleware


def _add(app: web.Application, gateway: Gateway, route: Route) -> None:
    handler = guarded(gateway, route)
    app.router.add_route(route.method, route.path, handler, expect_handler=expecting(gateway, route))


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    await app[GATEWAY].start()
    yield
    await app[GATEWAY].stop()


_FALLBACKS = [
    ("/api/{path:.*}", ollama_error, None),
    ("/v1/messages{path:.*}", anthropic_error, ID_HEADER),
    ("/{path:.*}", openai_error, None),
]
"""What is below these paths and no route: in whose shape the 404 is, and its id. The longest prefix wins."""
