"""Ollama's `/api/pull`: the backend downloads a model, and the client sees the progress."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from aiohttp import web

from miner.errors import UnsupportedFeatureError
from miner.gateway.apis.ollama.body import read_body
from miner.gateway.apis.ollama.convert import required_model
from miner.gateway.apis.ollama.progress import send_progress
from miner.gateway.apis.ollama.schema import OllamaPullRequest
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError

_DECODER = msgspec.json.Decoder(OllamaPullRequest)


async def pull(context: RequestContext) -> web.StreamResponse:
    """Pull a model. A client that disconnects stops it; the next pull resumes there.

    Raises:
        RefusedError: 501 where the backend pulls no models.
    """
    request = await read_body(context, _DECODER, "username", "password")
    name = required_model(request.model or request.name or "")
    events = _events(context, name, insecure=bool(request.insecure))
    return await send_progress(context, events, stream=request.stream is not False)


def _events(context: RequestContext, name: str, *, insecure: bool) -> AsyncGenerator[dict[str, Any], None]:
    try:
        return context.gateway.service.pull_model(name, insecure=insecure)
    except UnsupportedFeatureError as error:
        if error.param != "pull":
            raise
        raise RefusedError(
            501, "not_implemented", f"{name!r} cannot be pulled through this server.",
            hint="Its operator installs models; GET /api/tags lists those that are available.",
        ) from error  # fmt: skip
