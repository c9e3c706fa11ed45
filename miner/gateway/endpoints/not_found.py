"""Paths without a route: a redirect where only slashes differ, else a 404 or 405 that says where to go."""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from miner.gateway.context import ROUTE_TABLE, RequestContext
from miner.gateway.errors import RefusedError

_HEALTH = "GET /livez reports whether the process is alive, GET /readyz whether it can serve."
_MODELS = "GET /v1/models lists the models, or in Ollama's form GET /api/tags."
_COMPLETIONS = "POST /v1/chat/completions and POST /v1/completions generate, or in Ollama's form POST /api/generate."
_FOREIGN_PATHS = {
    **dict.fromkeys(
        (
            "healthz", "live", "ready", "ping", "status", "health/live", "health/ready",
            "healthcheck",
        ),
        _HEALTH,
    ),
    **dict.fromkeys(("v1/model", "model", "api/models", "v1/engines"), _MODELS),
    "v1": "This is the base URL of OpenAI's clients; GET /v1/models lists the models, GET /docs all routes.",
    "api": "The base URL of Ollama's clients is the address without a path; GET /api/tags lists the models.",
    "version": "GET /api/version returns the version.",
    **dict.fromkeys(("generate", "v1/generate"), _COMPLETIONS),
    **dict.fromkeys(("count_tokens",), "POST /v1/messages/count_tokens counts the tokens of a prompt."),
    **dict.fromkeys(("embed",), "POST /v1/embeddings embeds texts, or in Ollama's form POST /api/embed."),
    **dict.fromkeys(("swagger", "redoc", "swagger.json", "v1/docs", "api/docs"), "GET /docs describes all routes."),
}  # fmt: skip
"""Paths of other servers, without slashes at their ends, and their equivalents here."""
_SLASHES = re.compile("/{2,}")


async def not_found(context: RequestContext) -> web.StreamResponse:
    """No route has this path, or none with this method.

    Raises:
        RefusedError: 404 or 405, with a hint at what was meant.
    """
    request = context.request
    allowed = await _methods(request.app, request)
    if allowed:
        raise RefusedError(
            405, "method_not_allowed", f"Method {request.method} is not allowed for {request.path}.",
            hint=f"Allowed: {', '.join(sorted(allowed))}.", headers={"Allow": ", ".join(sorted(allowed))},
        )  # fmt: skip
    plain = _SLASHES.sub("/", request.rel_url.raw_path).rstrip("/") or "/"
    if plain != request.rel_url.raw_path:
        renamed = request.clone(rel_url=request.rel_url.with_path(plain, encoded=True))
        if await _methods(request.app, renamed):
            query = request.rel_url.raw_query_string
            context.status = 308  # which keeps the method and the body
            headers = {**context.headers(), "Location": f"{plain}?{query}" if query else plain}
            return web.Response(status=308, headers=headers, body=b"{}")
    raise RefusedError(404, "not_found", f"Not found: {request.method} {request.path}.", hint=_suggestion(context))


async def _methods(app: web.Application, request: web.Request) -> set[str]:
    """The methods that a route takes at the request's path."""
    allowed: set[str] = set()
    for resource in app.router.resources():
        _, methods = await resource.resolve(request)
        if hdrs.METH_ANY not in methods:
            allowed |= methods - {hdrs.METH_OPTIONS}
    return allowed


def _suggestion(context: RequestContext) -> str:
    """A hint for a client that requests this path."""
    path = _SLASHES.sub("/", context.request.path).strip("/")
    known = _FOREIGN_PATHS.get(path.lower())
    if known is not None:
        return known
    table = context.request.app[ROUTE_TABLE]
    routes = sorted(
        {(route.method, route.path) for route in table if "{" not in route.path and route.canonical is None}
    )
    for method, route in sorted(routes, key=lambda each: len(each[1]), reverse=True):
        end = route.strip("/")
        # A base URL that is too long (/v1/v1/models) or too short (/completions).
        if end and path and (path.endswith(f"/{end}") or end.endswith(f"/{path}")):
            return f"Did you mean {method} {route}?"
    return "GET /openapi.json lists all routes."
