"""Ollama's routes that change models: create, copy, delete, push, and the files that models are created from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from aiohttp import web

from miner.core.model_card import ModelRecipe
from miner.errors import InvalidRequestError, ModelNotFoundError, UnsupportedFeatureError
from miner.gateway.apis.ollama.body import read_body
from miner.gateway.apis.ollama.convert import required_model
from miner.gateway.apis.ollama.progress import send_progress
from miner.gateway.apis.ollama.schema import (
    OllamaCopyRequest,
    OllamaCreateRequest,
    OllamaDeleteRequest,
    OllamaPushRequest,
)
from miner.gateway.catalog import find_model
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.auth import check_model_access
from miner.gateway.request_body import decode_body, read_parts

_CREATE = msgspec.json.Decoder(OllamaCreateRequest)
_COPY = msgspec.json.Decoder(OllamaCopyRequest)
_DELETE = msgspec.json.Decoder(OllamaDeleteRequest)
_PUSH = msgspec.json.Decoder(OllamaPushRequest)
_VERBS = {
    "create": "create models", "copy": "copy models", "delete": "delete models", "blobs": "take files for models"
}  # fmt: skip


@contextmanager
def _not_implemented() -> Iterator[None]:
    """A backend that cannot do it at all: 501."""
    try:
        yield
    except UnsupportedFeatureError as error:
        if error.param not in _VERBS:
            raise
        raise RefusedError(
            501, "not_implemented", f"This server's backend does not {_VERBS[error.param]}.",
            hint="llama.cpp's and Ollama's do.",
        ) from error  # fmt: skip


async def create(context: RequestContext) -> web.StreamResponse:
    """Make a model from another one, or from a file that was uploaded."""
    foreign: dict[str, Any] = {}
    request = await decode_body(context, _CREATE, foreign)
    name = request.model or request.name
    if not name:
        raise InvalidRequestError("invalid model name", param="model")
    if not request.base and not request.files:
        raise InvalidRequestError("neither 'from' or 'files' was specified", param="from")
    licenses = [request.license] if isinstance(request.license, str) else request.license or []
    known = {
        field: value
        for field in ("adapters", "quantize", "quantization", "draft_files", "draft_quantize", "remote_host",
                      "renderer", "parser", "requires", "info")
        if (value := getattr(request, field))
    }  # fmt: skip
    recipe = ModelRecipe(
        base=request.base or None, files=request.files or {}, template=request.template or "",
        system=request.system or "", parameters=request.parameters or {}, messages=request.messages or [],
        licenses=[text for text in licenses if text], other={**foreign, **known},
    )  # fmt: skip
    if recipe.base is not None:
        await _check_access(context, recipe.base)
    with _not_implemented():
        events = context.gateway.service.create_model(name, recipe)
        return await send_progress(context, _known_errors(events, recipe.base), stream=request.stream is not False)


async def _known_errors(events: AsyncGenerator[dict[str, Any], None], base: str | None) -> AsyncGenerator[Any, None]:
    """The same events; that a model is missing is said of the one that the client named."""
    try:
        async for event in events:
            yield event
    except ModelNotFoundError as error:
        error.model = base
        raise
    finally:
        await events.aclose()


async def _check_access(context: RequestContext, name: str) -> None:
    """Make sure that the caller may use a model, where it is one that is here."""
    if context.caller.models is not None:
        await check_model_access(context, name)


async def copy(context: RequestContext) -> web.StreamResponse:
    """Give a model another name."""
    request = await read_body(context, _COPY)
    for field in ("source", "destination"):
        if not (getattr(request, field) or "").strip():
            raise InvalidRequestError(f'{field} "{getattr(request, field) or ""}" is invalid', param=field)
    source, destination = request.source or "", request.destination or ""
    await _check_access(context, source)
    with _not_implemented():
        try:
            await context.gateway.service.copy_model(source, destination)
        except ModelNotFoundError as error:
            raise RefusedError(404, "not_found", f'model "{source}" not found', param="source") from error
    return _done(context)


async def delete(context: RequestContext) -> web.StreamResponse:
    """Delete a model."""
    request = await read_body(context, _DELETE)
    name = required_model(request.model or request.name or "")
    await _check_access(context, name)
    with _not_implemented():
        try:
            await context.gateway.service.delete_model(name)
        except ModelNotFoundError as error:
            raise RefusedError(404, "not_found", f"model '{name}' not found", param="model") from error
    return _done(context)


async def push(context: RequestContext) -> web.StreamResponse:
    """Refuse to upload a model: this server belongs to no registry."""
    request = await read_body(context, _PUSH)
    name = required_model(request.model or request.name or "")
    await find_model(context, name)
    raise RefusedError(
        403, "push_refused",
        "you are not authorized to push to this namespace, create the model under a namespace you own: "
        "this server pushes to no registry.", param="model",
    )  # fmt: skip


async def has_blob(context: RequestContext) -> web.StreamResponse:
    """Whether a file was uploaded: 200, else 404."""
    digest = context.request.match_info["digest"]
    with _not_implemented():
        if not await context.gateway.service.has_blob(digest):
            raise RefusedError(404, "blob_not_found", f'blob "{digest}" not found')
    return _done(context)


async def add_blob(context: RequestContext) -> web.StreamResponse:
    """Upload a file; its digest is checked."""
    digest = context.request.match_info["digest"]
    with _not_implemented():
        added = await context.gateway.service.add_blob(digest, read_parts(context))
    return _done(context, 201 if added else 200)


def _done(context: RequestContext, status: int = 200) -> web.Response:
    context.status = status
    return web.Response(status=status, body=b"", headers=context.headers())
