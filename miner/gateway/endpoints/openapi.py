"""`/openapi.json` and `/docs`: the routes and their bodies, from the same structs that parse them."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from miner import __version__
from miner.gateway.context import ROUTE_TABLE, RequestContext, Route
from miner.gateway.route_path import PARAMETER, shown_path

_ERROR = {
    "type": "object",
    "description": "An error, in the shape of the API that was called.",
    "required": ["error"],
}


def document(routes: Iterable[Route], *, keys: bool) -> dict[str, Any]:
    """The OpenAPI document of these routes.

    Args:
        keys: whether clients must send an API key.
    """
    table = [route for route in routes if route.canonical is None]
    bodies = [route.body for route in table if route.body is not None]
    _, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        path = shown_path(route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, keys=keys)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "miner",
            "version": __version__,
            "description": "One gateway over the LLM engines that you run yourself, with the APIs of OpenAI, Ollama "
            "and Anthropic. Each /v1 route is served without its /v1 too, unless that path is listed by itself, and "
            "HEAD where GET is.",
        },
        "paths": paths,
        "components": {"schemas": {**components, "AnyError": _ERROR}},
    }
    if keys:
        described["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    return described


def _operation(route: Route, *, keys: bool) -> dict[str, Any]:
    error = {
        "description": "An error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/AnyError"}}},
    }
    described: dict[str, Any] = {
        "summary": route.summary,
        "responses": {"200": _response(route), "default": error},
    }
    names = PARAMETER.findall(route.path)
    if names:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if route.body is not None:
        schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
        described["requestBody"] = {"required": True, "content": {route.body_type: {"schema": schema}}}
    if keys and route.access != "open":
        described["security"] = [{"bearer": []}, {"header": []}]
    return described


def _response(route: Route) -> dict[str, Any]:
    types = [route.content_types] if isinstance(route.content_types, str) else route.content_types
    return {"description": "The response", "content": {content_type: {} for content_type in types}}


def _document(context: RequestContext) -> dict[str, Any]:
    routes = context.request.app[ROUTE_TABLE]
    return document(routes, keys=not context.caller.anonymous)


async def openapi(context: RequestContext) -> web.StreamResponse:
    """The document."""
    context.status = 200
    body = msgspec.json.format(msgspec.json.encode(_document(context)), indent=1)
    return web.Response(body=body, headers=context.headers())


async def docs(context: RequestContext) -> web.StreamResponse:
    """The same as a page that loads nothing from elsewhere."""
    context.status = 200
    described = _document(context)
    parts = [_HEAD, f"<h1>miner {html.escape(__version__)}</h1><p>{html.escape(described['info']['description'])}</p>"]
    schemas = described["components"]["schemas"]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation['summary'])}</p>")
            reference = _reference(operation)
            if reference is not None:
                parts.append(_fields(schemas[reference]))
    headers = context.headers("text/html; charset=utf-8")
    headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    return web.Response(body="".join(parts).encode(), headers=headers)


_HEAD = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>miner</title><style>"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "h2{font-size:1.1em;border-top:1px solid #ccc;padding-top:1em}td{padding:.1em 1em .1em 0;vertical-align:top}"
    "</style>"
)


def _reference(operation: dict[str, Any]) -> str | None:
    body = operation.get("requestBody")
    if body is None:
        return None
    return str(next(iter(body["content"].values()))["schema"]["$ref"]).rpartition("/")[2]


def _fields(schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(_kind(field))}"
        f"<td>{'required' if name in required else ''}"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(kind for one in field["anyOf"] if (kind := _kind(one)) != "null")
    if field.get("type") == "array" and field.get("items"):
        return f"list of {_kind(field['items'])}"
    return str(field.get("type", "anything"))
