"""OpenAI's `/v1/audio/...`: passed to a backend that has these routes, and its responses back, as they are."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from aiohttp import web

from miner.core.llms.contract.audio import no_audio
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.openai.errors import error_event
from miner.gateway.context import Handler, RequestContext
from miner.gateway.dialect import Call
from miner.gateway.errors import Failure, RefusedError
from miner.gateway.request_body import json_of, parse_body, read_form
from miner.gateway.streaming import EventStream

_BOUNDARY = re.compile(
    r"multipart/form-data\s*;(?:.*;)?\s*boundary=(\"?)([0-9A-Za-z'()+_,./:=?-]{1,70})\1\s*(?:;.*)?", re.IGNORECASE
)
_NAME = re.compile(rb'[;\s]name="([^"]*)"', re.IGNORECASE)


class TranscriptionForm(msgspec.Struct, kw_only=True):
    """The form of `/v1/audio/transcriptions` and `/v1/audio/translations`. The server behind it knows more fields."""

    file: str
    """The audio."""
    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    response_format: str | None = None
    temperature: float | None = None
    stream: bool | None = None


class SpeechRequest(msgspec.Struct, kw_only=True):
    """The body of `/v1/audio/speech`. The server behind it knows more fields."""

    input: str
    model: str | None = None
    voice: Any = None
    response_format: str | None = None
    speed: float | None = None


def audio(path: str, *, form: bool) -> Handler:
    """The handler of a route.

    Args:
        path: after the `/v1`.
        form: whether its body is a form, else JSON.
    """

    async def handle(context: RequestContext) -> web.StreamResponse:
        service = context.gateway.service
        content_type = "application/json"
        if form:
            boundary = _boundary(context.request.headers.get("Content-Type", ""))
            body, content_type = await read_form(context), f'multipart/form-data; boundary="{boundary}"'
            model = form_fields(body, boundary).get("model")
        else:
            body, model = await parse_body(context, _with_model)
        await context.start_call(Call(arguments=[], model=model or None, items=1))
        try:
            backend = service.audio_backend
            if backend is None:
                raise no_audio(service.backend_of(model or None).name)
            async with backend.audio(path, body, content_type, model or None) as reply:
                out = EventStream(context, reply.content_type, b"")

                async def write() -> bytes:
                    while data := await reply.read_some():
                        await out.send(data)
                    return b""

                return await out.run(write, lambda failure: _broken(failure, reply.content_type))
        except UnsupportedFeatureError as error:
            raise RefusedError(
                501, "not_supported", error.message, hint=error.hint, operator_hint=error.operator_hint
            ) from error

    return handle


def _broken(failure: Failure, content_type: str) -> bytes:
    """The end of a response that broke off: what is no stream of events has no place for an error."""
    return error_event(failure) if content_type.startswith("text/event-stream") else b""


def _with_model(raw: bytes) -> tuple[bytes, str | None]:
    body = json_of(raw)
    if not isinstance(body, dict):
        raise InvalidRequestError("The request body must be a JSON object.")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequestError(f"model must be a string, not {model!r:.80}.", param="model")
    return raw, model


def _boundary(content_type: str) -> str:
    found = _BOUNDARY.fullmatch(content_type.strip())
    if found is None:
        raise InvalidRequestError("The request body must be multipart/form-data, with a boundary in Content-Type.")
    return found[2]


def form_fields(body: bytes, boundary: str) -> dict[str, str]:
    """The fields of a form that are short texts."""
    fields: dict[str, str] = {}
    for part in body.split(b"--" + boundary.encode()):
        head, separator, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if separator and name is not None and len(value) < 1024 and b"filename" not in head.lower():
            fields[name[1].decode(errors="replace")] = value.removesuffix(b"\r\n").decode(errors="replace")
    return fields
