"""`/v1/models` and `/v1/models/{id}` as Anthropic's clients read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import ModelInfo
from miner.errors import InvalidRequestError
from miner.gateway.catalog import capabilities_of, find_model, known_models, listed_names
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response

_LIMIT = 20
_MOST = 1000
_LEVELS = ("low", "medium", "high", "xhigh", "max")
_THINKING = ("adaptive", "between_tools", "disabled", "enabled")
_EDITS = ("clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112")


def is_anthropic(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from one of Anthropic's clients: they send a version of the API, or a key in its way."""
    return "anthropic-version" in headers or ("x-api-key" in headers and "Authorization" not in headers)


async def models(context: RequestContext) -> web.StreamResponse:
    """A page of the models that this caller may use."""
    query, service = context.request.query, context.gateway.service
    lifecycles = query.getall("lifecycle", []) + query.getall("lifecycle[]", [])
    names = listed_names(await known_models(context)) if "active" in lifecycles or not lifecycles else []
    page, more = _page(names, query)
    data = [_model(model, name, capabilities_of(service, model)) for model, name in page]
    body = {
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
    return json_response(context, msgspec.json.encode(body))


async def one_model(context: RequestContext) -> web.StreamResponse:
    """One of them, by its id or another name."""
    wanted = context.request.match_info["model"]
    found = await find_model(context, wanted)
    name = wanted if wanted in found.aliases else found.id
    able = capabilities_of(context.gateway.service, found)
    return json_response(context, msgspec.json.encode(_model(found, name, able)))


def _page(names: Sequence[tuple[ModelInfo, str]], query: Any) -> tuple[Sequence[tuple[ModelInfo, str]], bool]:
    """The part of the list that is asked for, and whether more follows in that direction."""
    limit = query.get("limit", str(_LIMIT))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 5 and 1 <= int(limit) <= _MOST):
        raise InvalidRequestError(f"limit must be an integer from 1 to {_MOST}, not {limit[:40]!r}.", param="limit")
    if "after_id" in query and "before_id" in query:
        raise InvalidRequestError("after_id and before_id exclude each other.", param="before_id")
    size = int(limit)
    if "before_id" in query:
        end = _place(names, query, "before_id")
        return names[max(0, end - size) : end], end > size
    start = _place(names, query, "after_id") + 1 if "after_id" in query else 0
    return names[start : start + size], start + size < len(names)


def _place(names: Sequence[tuple[ModelInfo, str]], query: Any, param: str) -> int:
    wanted = query[param]
    for place, (_, name) in enumerate(names):
        if name == wanted:
            return place
    raise InvalidRequestError(f"{param} must be the id of a listed model, not {wanted[:80]!r}.", param=param)


def _model(model: ModelInfo, name: str, able: Collection[str]) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(model.created or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        # One length holds the prompt and the response.
        "max_input_tokens": model.context_length,
        "max_tokens": model.context_length,
        "allowed_fallback_models": [],
        "capabilities": _capabilities(able),
    }


def _capabilities(able: Collection[str]) -> dict[str, Any]:
    reasons = "reasoning" in able
    none = {"supported": False}
    return {
        "batch": {"supported": True},
        "citations": none,
        "code_execution": none,
        "compaction": None,
        "context_management": {"supported": False, **dict.fromkeys(_EDITS, none)},
        "effort": {"supported": reasons, **{level: {"supported": reasons} for level in _LEVELS}},
        "image_input": {"supported": "images" in able},
        "pdf_input": none,
        "server_tools": {"supported": False, "code_execution": none, "web_search": none},
        "structured_outputs": {"supported": "json_schema" in able},
        "thinking": {"supported": reasons, "types": {kind: {"supported": reasons} for kind in _THINKING}},
    }
