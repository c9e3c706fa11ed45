"""Routes for admins about the file that says what is served."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from miner.core.llms.contract.config_state import ConfigState
from miner.errors import ConfigError
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.context import RequestContext, Route
from miner.gateway.errors import RefusedError
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode, parse_body


class EmptyBody(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object, or no body."""


_NOTHING = msgspec.json.Decoder(EmptyBody)


async def config(context: RequestContext) -> web.StreamResponse:
    """The file: its path, when it was read, why it is not served as it is now, and the tables that are served."""
    state = _state_of(context)
    found: dict[str, Any] = {
        "path": str(state.path), "loaded_at": state.loaded_at, "error": state.error, "hint": state.hint,
        "failed_at": state.failed_at, "config": state.content,
    }  # fmt: skip
    return json_response(context, msgspec.json.encode(found))


async def reload(context: RequestContext) -> web.StreamResponse:
    """Read the file again at once, as SIGHUP does, and tell what has changed."""
    await parse_body(context, lambda raw: decode(raw or b"{}", _NOTHING))
    _state_of(context)
    try:
        change = await context.gateway.service.reload()
    except ConfigError as error:
        raise RefusedError(
            422, "invalid_config", error.message, hint="What was served before still is.",
            operator_hint=error.operator_hint,
        ) from error  # fmt: skip
    return json_response(context, msgspec.json.encode(asdict(change)))


def _state_of(context: RequestContext) -> ConfigState:
    state = context.gateway.service.config_state
    if state is None:
        raise RefusedError(
            404, "no_config_file", "This server has no configuration file.",
            operator_hint="It is set up by variables; `miner config init` writes a file.",
        )  # fmt: skip
    return state


CONFIG = [
    Route("GET", "/admin/config", config, "admin", openai_error, "The configuration file, and whether it is served"),
    Route(
        "POST", "/admin/config/reload", reload, "admin", openai_error, "Read the configuration file again", EmptyBody
    ),
]  # fmt: skip
"""Only for keys with the admin right."""
