"""What an Ollama server is asked of its models besides answers: to load one, to let it go, to get it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from miner.core.http.client import ByteStream, HttpClient
from miner.core.http.errors import parse_error_body
from miner.core.http.framing import NDJSONDecoder
from miner.core.http.transport_errors import FramingError
from miner.core.llms.ollama.errors import ollama_error
from miner.errors import BackendUnavailableError, ModelNotFoundError, StreamInterruptedError

__all__ = ["load_request", "stream_pull"]


def load_request(
    model: str, *, writes: bool, num_ctx: int | None, keep_alive: float | str | None
) -> tuple[str, dict[str, Any]]:
    """Path and body of a request that generates nothing, so that the model is loaded.

    Args:
        writes: whether the model makes text; one that only embeds cannot be loaded by `/api/generate`.
        num_ctx: as in every request that generates: a different one would make Ollama load the model again, as would
            another `shift`.
    """
    body: dict[str, Any] = {"model": model, "truncate": False}
    if writes:
        body |= {"stream": False, "shift": False}
        if num_ctx is not None:
            body["options"] = {"num_ctx": num_ctx}
    else:
        body["input"] = []
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return "/api/generate" if writes else "/api/embed", body


class _Line(msgspec.Struct):
    """One line of a pull, as far as somebody relies on it."""

    status: str = ""
    digest: str | None = None
    total: int = 0
    completed: int = 0
    error: str | None = None


async def stream_pull(http: HttpClient, model: str, *, insecure: bool) -> AsyncGenerator[dict[str, Any], None]:
    """Ollama's own events of a pull, to the last one, "success". Ollama stops pulling when this is left.

    Raises:
        ModelNotFoundError: its registry has no such model.
        BackendUnavailableError: it cannot get it.
        StreamInterruptedError: it broke off.
    """
    upstream = http.upstream
    body = {"model": model, "stream": True, **({"insecure": True} if insecure else {})}
    cause = None
    try:
        async with http.stream("/api/pull", msgspec.json.encode(body)) as answer:
            if answer.status != 200:
                raise ollama_error(answer.status, parse_error_body(await answer.read_all()), upstream, model)
            async with aclosing(_events(answer)) as events:
                async for event in events:
                    if event.get("error") is not None:
                        raise _refused(model, event["error"], http)
                    yield event
                    if event.get("status") == "success":
                        return
    except StreamInterruptedError as error:
        cause = error
    raise StreamInterruptedError(
        f"ollama at {upstream.shown_url} broke off the pull of {model!r}.",
        hint="Pull again: it goes on where it stopped.",
        **upstream.details(200),
    ) from cause


async def _events(answer: ByteStream) -> AsyncGenerator[dict[str, Any], None]:
    frames = NDJSONDecoder()
    while True:
        piece = await answer.read_some()
        for line in frames.feed(piece) if piece else frames.flush():
            try:
                event = msgspec.json.decode(line, type=dict[str, Any])
                msgspec.convert(event, _Line)
            except (msgspec.DecodeError, RecursionError) as error:
                if not piece:
                    return  # cut in the middle of a line
                raise FramingError(f"a line that is no event of a pull: {error}") from error
            yield event
        if not piece:
            return


def _refused(model: str, text: str, http: HttpClient) -> ModelNotFoundError | BackendUnavailableError:
    if "file does not exist" in text:
        return ModelNotFoundError(
            f"Ollama's registry has no model {model!r}.", model=model, hint="See https://ollama.com/search for names."
        )
    return BackendUnavailableError(
        f"ollama at {http.upstream.shown_url} cannot pull {model!r}: {text}.",
        hint="Its own way to the registry failed: see its log, and its proxy settings.",
        **http.upstream.details(200),
    )
