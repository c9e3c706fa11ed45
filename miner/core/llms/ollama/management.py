"""Showing, listing, making, copying and deleting models of an Ollama server, which keeps them itself."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from typing import Any

import msgspec

from miner.core.http.client import HttpClient
from miner.core.http.errors import ErrorBody, Upstream, parse_error_body
from miner.core.http.framing import NDJSONDecoder
from miner.core.llms.ollama.errors import ollama_error
from miner.core.llms.ollama.models import info_of_tag, tag_of
from miner.core.model_card import ModelCard, ModelRecipe, RunningModel
from miner.core.wire import ModelInfo
from miner.errors import InvalidRequestError, MinerError, ModelNotFoundError

_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")


def card_of_show(info: ModelInfo, shown: dict[str, Any]) -> ModelCard:
    """The card of a model as `/api/show` describes it."""
    return ModelCard(
        info=info,
        template=_text(shown, "template"),
        system=_text(shown, "system"),
        metadata=shown.get("model_info") or {},
        server=shown,
    )


def _text(shown: dict[str, Any], name: str) -> str:
    value = shown.get(name)
    return value if isinstance(value, str) else ""


def running_of(entry: dict[str, Any], upstream: Upstream) -> RunningModel:
    """A model of `/api/ps`."""
    try:
        info = info_of_tag(tag_of(entry))
    except msgspec.ValidationError as error:
        raise upstream.protocol_error(f"sent an invalid list of running models: {error}.", status=200) from error
    info.loaded, info.context_length = True, entry.get("context_length")
    return RunningModel(
        info=info,
        memory=entry.get("size") or 0,
        gpu_memory=entry.get("size_vram") or 0,
        expires_at=_seconds(entry.get("expires_at")),
        server=entry,
    )


def _seconds(text: Any) -> float | None:
    try:
        return msgspec.convert(text, datetime).timestamp()
    except (msgspec.ValidationError, OverflowError, ValueError):
        return None


def create_body(name: str, recipe: ModelRecipe) -> dict[str, Any]:
    """The body of `/api/create`."""
    fields = msgspec.to_builtins(recipe)
    licenses, other = fields.pop("licenses", None), fields.pop("other", {})
    return {"model": name, "stream": True, **fields, **({"license": licenses} if licenses else {}), **other}


async def stream_create(http: HttpClient, name: str, recipe: ModelRecipe) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of the server's `/api/create`.

    Raises:
        MinerError: it refuses the recipe, or fails.
    """
    async with http.stream("/api/create", msgspec.json.encode(create_body(name, recipe))) as response:
        if response.status != 200:
            raise _refusal(response.status, parse_error_body(await response.read_all()), http.upstream, recipe.base)
        frames = NDJSONDecoder()
        ended = False
        while not ended:
            data = await response.read_some()
            for line in frames.feed(data) if data else frames.flush():
                event = _decoded(line, http.upstream)
                if event.get("error") is not None:
                    raise _refusal(400, ErrorBody(str(event["error"])), http.upstream, recipe.base)
                yield event
            ended = not data


def _decoded(line: bytes, upstream: Upstream) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise upstream.protocol_error(f"sent no event: {error}.", status=200) from error


def _refusal(status: int, body: ErrorBody, upstream: Upstream, base: str | None) -> MinerError:
    if base is not None and ("pull model manifest" in body.message or "file does not exist" in body.message):
        return ModelNotFoundError(f"ollama: {body.message}", model=base)
    if status == 400:
        return InvalidRequestError(f"ollama: {body.message}", param="model")
    return ollama_error(status, body, upstream, base)


async def change(http: HttpClient, method: str, path: str, body: dict[str, Any], model: str) -> None:
    """Send a request that changes models.

    Raises:
        ModelNotFoundError: there is no such model.
        InvalidRequestError: a name is invalid.
    """
    response = await http.request(method, path, msgspec.json.encode(body), read_only=True)
    if response.status != 200:
        raise _refusal(response.status, parse_error_body(response.body), http.upstream, model)


def blob_path(digest: str) -> str:
    """The path of a blob.

    Raises:
        InvalidRequestError: it is no digest.
    """
    if _DIGEST.fullmatch(digest) is None:
        raise InvalidRequestError("invalid digest format", param="digest")
    return f"/api/blobs/{digest}"


async def has_blob(http: HttpClient, digest: str) -> bool:
    """Whether the server has a blob."""
    response = await http.request("HEAD", blob_path(digest), read_only=True)
    if response.status not in (200, 404):
        raise ollama_error(response.status, parse_error_body(response.body), http.upstream, None)
    return response.status == 200


async def add_blob(http: HttpClient, digest: str, content: AsyncIterator[bytes]) -> bool:
    """Upload a blob; return whether it is new."""
    response = await http.upload(blob_path(digest), content)
    if response.status in (200, 201):
        return response.status == 201
    body = parse_error_body(response.body)
    if response.status == 400:
        raise InvalidRequestError(body.message, param="digest")
    raise ollama_error(response.status, body, http.upstream, None)
