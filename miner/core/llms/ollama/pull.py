"""Pulling a model into an Ollama server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from miner.core.http.client import ByteStream, HttpClient
from miner.core.http.errors import Upstream, parse_error_body
from miner.core.http.framing import NDJSONDecoder
from miner.core.http.transport_errors import FramingError
from miner.core.llms.ollama.errors import ollama_error
from miner.errors import BackendUnavailableError, ModelNotFoundError, StreamInterruptedError


class _Event(msgspec.Struct):
    """One line of a pull, as far as callers rely on it."""

    status: str = ""
    digest: str | None = None
    total: int = 0
    completed: int = 0
    error: str | None = None


async def stream_pull(http: HttpClient, model: str, *, insecure: bool) -> AsyncGenerator[dict[str, Any], None]:
    """Yield Ollama's own events of a pull up to the last one, "success". Ollama stops pulling when this is closed.

    Raises:
        ModelNotFoundError: its registry has no such model.
        BackendUnavailableError: it cannot pull it.
        StreamInterruptedError: the stream ended before the pull was done.
    """
    upstream = http.upstream
    body = {"model": model, "stream": True, **({"insecure": True} if insecure else {})}
    cause = None
    try:
        async with http.stream("/api/pull", msgspec.json.encode(body)) as response:
            if response.status != 200:
                raise ollama_error(response.status, parse_error_body(await response.read_all()), upstream, model)
            async with aclosing(_events(response)) as events:
                async for event in events:
                    if event.get("error") is not None:
                        raise _pull_error(model, event["error"], upstream)
                    yield event
                    if event.get("status") == "success":
                        return
    except StreamInterruptedError as error:
        cause = error
    raise upstream.error(
        StreamInterruptedError, f"interrupted the pull of {model!r}.", status=200, hint="Pull again to resume it."
    ) from cause


async def _events(response: ByteStream) -> AsyncGenerator[dict[str, Any], None]:
    frames = NDJSONDecoder()
    while True:
        data = await response.read_some()
        for line in frames.feed(data) if data else frames.flush():
            try:
                event = msgspec.json.decode(line, type=dict[str, Any])
                msgspec.convert(event, _Event)
            except (msgspec.DecodeError, RecursionError) as error:
                if not data:
                    return  # a truncated last line
                raise FramingError(f"not an event of a pull: {error}") from error
            yield event
        if not data:
            return


def _pull_error(model: str, text: str, upstream: Upstream) -> ModelNotFoundError | BackendUnavailableError:
    if "file does not exist" in text:
        hint = "See https://ollama.com/search for names."
        return ModelNotFoundError(f"Ollama's registry has no model {model!r}.", model=model, hint=hint)
    return upstream.error(
        BackendUnavailableError, f"cannot pull {model!r}: {text}.", status=200,
        operator_hint="Ollama could not reach its registry: see its log and its proxy settings.",
    )  # fmt: skip
