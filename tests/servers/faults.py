"""A loopback server that misbehaves as a test says.

::

    async with FaultServer(truncated(["Hel", "lo"])) as server:
        ...  # a stream from server.url or server.v1 breaks off after "Hello"

Streams are in the dialect of the path: NDJSON under `/api/`, else server-sent events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.servers.http import WAIT, RawServer, Request, ResponseWriter
from tests.servers.payloads import DONE, frame, frames, is_ollama, non_streaming, side_routes

__all__ = [
    "Behaviour",
    "FaultServer",
    "closes_after_answer",
    "closes_on_reuse",
    "endless_line",
    "error_in_stream",
    "garbage_http",
    "garbage_in_stream",
    "html_page",
    "huge_line",
    "no_end",
    "not_json",
    "ok",
    "reset",
    "sequence",
    "silent",
    "silent_after_headers",
    "silent_in_stream",
    "slow",
    "status",
    "too_short",
    "truncated",
]

TEXTS = ("Hello", " there", ".")


@dataclass(frozen=True)
class Behaviour:
    """What a server does with a request."""

    name: str
    run: Callable[[ResponseWriter], Awaitable[None]]
    everywhere: bool = False
    """Whether it applies to the model lists and health checks too, or to generations only."""


class FaultServer(RawServer):
    """Answers questions about models properly, and generations as `behaviour` says (it may be assigned again)."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        everywhere: bool | None = None,
        models: Sequence[str] = ("smollm2",),
        context: int = 2048,
    ) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.everywhere = everywhere
        self.models = list(models)
        self.context = context
        self.generations: list[Request] = []
        """The requests that were not about models or health."""

    async def wait_for_generations(self, count: int = 1) -> None:
        """Wait until so many requests have come that were not about models or health."""
        await self._wait(lambda: len(self.generations) >= count, f"{count} generations", WAIT)

    async def handle(self, writer: ResponseWriter) -> None:
        side = side_routes(writer.request, self.models, self.context)
        if side is None:
            self.generations.append(writer.request)
        everywhere = self.behaviour.everywhere if self.everywhere is None else self.everywhere
        if everywhere or (side is None and writer.request.method == "POST"):
            await self.behaviour.run(writer)
        elif side is None:  # which verb a path takes is asked before a generation
            await writer.respond(405, {"detail": "Method Not Allowed"}, allow="POST")
        else:
            await writer.respond(200, side)


async def _stream_head(writer: ResponseWriter, **headers: str) -> None:
    kind = "application/x-ndjson" if is_ollama(writer.request) else "text/event-stream"
    await writer.head(200, {"content-type": kind, "transfer-encoding": "chunked", **headers})


async def _pieces(writer: ResponseWriter, pieces: Sequence[bytes]) -> None:
    await _stream_head(writer)
    for piece in pieces:
        await writer.piece(piece)


async def _proper(writer: ResponseWriter, texts: Sequence[str] = TEXTS, **headers: str) -> None:
    request = writer.request
    side = side_routes(request, ["smollm2"])
    if side is not None or not request.streams:
        await writer.respond(200, side or non_streaming(request, "".join(texts)), **headers)
        return
    await _pieces(writer, frames(request, texts))
    await writer.end()


def ok(texts: Sequence[str] = TEXTS) -> Behaviour:
    """A proper response."""
    return Behaviour("ok", lambda writer: _proper(writer, texts))


def sequence(*behaviours: Behaviour) -> Behaviour:
    """One after the other, a request each; the last one stays."""
    left = list(behaviours)

    async def run(writer: ResponseWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0]).run(writer)

    return Behaviour("sequence", run, everywhere=any(item.everywhere for item in behaviours))


def slow(seconds: float, texts: Sequence[str] = TEXTS, between: float = 0.0) -> Behaviour:
    """Headers after so many seconds, then a proper response; `between`: seconds before each piece of a stream."""

    async def run(writer: ResponseWriter) -> None:
        await asyncio.sleep(seconds)
        if not writer.request.streams or not between:
            await _proper(writer, texts)
            return
        await _stream_head(writer)
        for piece in frames(writer.request, texts):
            await asyncio.sleep(between)
            await writer.piece(piece)
        await writer.end()

    return Behaviour("slow", run)


def held(release: asyncio.Event, texts: Sequence[str] = TEXTS) -> Behaviour:
    """A proper stream of which the first piece comes at once, and the rest when it is released."""

    async def run(writer: ResponseWriter) -> None:
        await _stream_head(writer)
        first, *rest = frames(writer.request, texts)
        await writer.piece(first)
        await release.wait()
        for piece in rest:
            await writer.piece(piece)
        await writer.end()

    return Behaviour("held", run)


def silent(everywhere: bool = True) -> Behaviour:
    """Accepts the connection and never responds."""
    return Behaviour("silent", lambda writer: writer.hold(), everywhere=everywhere)


def silent_after_headers() -> Behaviour:
    """Status 200 and headers, then nothing."""

    async def run(writer: ResponseWriter) -> None:
        await _stream_head(writer)
        await writer.hold()

    return Behaviour("silent_after_headers", run)


def silent_in_stream(texts: Sequence[str] = TEXTS) -> Behaviour:
    """Some pieces, then nothing, and the connection stays."""

    async def run(writer: ResponseWriter) -> None:
        await _pieces(writer, frames(writer.request, texts, end=False))
        await writer.hold()

    return Behaviour("silent_in_stream", run)


def truncated(texts: Sequence[str] = TEXTS, *, cut_last: int = 0) -> Behaviour:
    """The chunked body has no end: the connection closes; `cut_last` bytes of the last event are missing too."""

    async def run(writer: ResponseWriter) -> None:
        pieces = frames(writer.request, texts, end=False)
        if cut_last:
            pieces[-1] = pieces[-1][:-cut_last]
        await _pieces(writer, pieces)
        writer.drop()

    return Behaviour("truncated", run)


def too_short(missing: int = 10) -> Behaviour:
    """A non-streaming response whose content-length promises more bytes than come."""

    async def run(writer: ResponseWriter) -> None:
        body = json.dumps(non_streaming(writer.request, "".join(TEXTS))).encode()
        await writer.head(200, {"content-type": "application/json", "content-length": str(len(body) + missing)})
        await writer.raw(body)
        writer.drop()

    return Behaviour("too_short", run)


def reset(texts: Sequence[str] = ()) -> Behaviour:
    """Breaks the connection (RST): at once, or after these pieces of a stream."""

    async def run(writer: ResponseWriter) -> None:
        if texts:
            await _pieces(writer, frames(writer.request, texts, end=False))
            # What a kernel has not handed over when the RST comes is lost; give the client time to read it.
            await asyncio.sleep(0.2)
        writer.reset()

    return Behaviour("reset", run)


def no_end(texts: Sequence[str] = TEXTS) -> Behaviour:
    """A complete HTTP body whose stream lacks its own end: no `[DONE]`, no finish reason, no `done`."""

    async def run(writer: ResponseWriter) -> None:
        await _pieces(writer, frames(writer.request, texts, end=False))
        await writer.end()

    return Behaviour("no_end", run)


def garbage_http(data: bytes = b"\x16\x03\x01 this is no HTTP \xff\xfe\r\n\r\n", everywhere: bool = False) -> Behaviour:
    """Bytes that are no HTTP response."""

    async def run(writer: ResponseWriter) -> None:
        await writer.raw(data)
        writer.drop()

    return Behaviour("garbage_http", run, everywhere)


def garbage_in_stream(garbage: bytes = b'{"choices": [{"delta": \xff', texts: Sequence[str] = TEXTS) -> Behaviour:
    """Good pieces, then a line or event that is no JSON, then a proper end."""

    async def run(writer: ResponseWriter) -> None:
        request = writer.request
        good, whole = frames(request, texts, end=False), frames(request, texts)
        bad = garbage + b"\n" if is_ollama(request) else b"data: " + garbage + b"\n\n"
        await _pieces(writer, [*good, bad, *whole[len(good) :]])
        await writer.end()

    return Behaviour("garbage_in_stream", run)


def error_in_stream(error: Any = None, texts: Sequence[str] = TEXTS, *, done: bool = True) -> Behaviour:
    """An error object inside a 200 stream, after these pieces; `done`: with `[DONE]` after it, as vLLM does."""

    async def run(writer: ResponseWriter) -> None:
        request = writer.request
        if is_ollama(request):
            said = error or "an error was encountered while running the model: unexpected EOF"
        else:
            said = error or {
                "message": "EngineCore encountered an issue.",
                "type": "InternalServerError",
                "param": None,
                "code": 500,
            }
        await _pieces(writer, [*frames(request, texts, end=False), frame(request, {"error": said})])
        if done and not is_ollama(request):
            await writer.piece(DONE)
        await writer.end()

    return Behaviour("error_in_stream", run)


def endless_line(piece: int = 1 << 16) -> Behaviour:
    """A stream that never brings the end of its first line, until the client leaves."""

    async def run(writer: ResponseWriter) -> None:
        await _pieces(
            writer,
            [b'{"message":{"content":"' if is_ollama(writer.request) else b'data: {"choices":[{"delta":{"content":"'],
        )
        while True:
            await writer.piece(b"x" * piece)
            await asyncio.sleep(0)

    return Behaviour("endless_line", run)


def huge_line(size: int = 4 << 20) -> Behaviour:
    """A proper stream with one piece of text of so many bytes."""
    return Behaviour("huge_line", lambda writer: _proper(writer, ["x" * size, "."]))


def status(code: int, body: Any = None, *, everywhere: bool = False, **headers: str) -> Behaviour:
    """A status with a body (dict: JSON); headers such as `retry_after="1"`."""

    async def run(writer: ResponseWriter) -> None:
        text = (
            {"error": f"status {code}"}
            if is_ollama(writer.request)
            else {"error": {"message": f"status {code}", "type": "test", "param": None, "code": code}}
        )
        await writer.respond(code, text if body is None else body, **headers)

    return Behaviour(f"status_{code}", run, everywhere)


def html_page(code: int = 502, everywhere: bool = False) -> Behaviour:
    """A proxy's error page."""
    page = f"<html><head><title>{code}</title></head><body><h1>{code} Bad Gateway</h1><hr>nginx</body></html>"
    return status(code, page, everywhere=everywhere, content_type="text/html")


def not_json(text: str = "hello, this is some other service", everywhere: bool = False) -> Behaviour:
    """Status 200 with a body that is no JSON."""
    return status(200, text, everywhere=everywhere, content_type="text/plain")


def closes_on_reuse(texts: Sequence[str] = TEXTS) -> Behaviour:
    """Keeps a connection alive after a response, and closes it silently when the next request comes on it."""

    async def run(writer: ResponseWriter) -> None:
        if writer.request.nth:
            writer.drop()
            return
        await _proper(writer, texts)

    return Behaviour("closes_on_reuse", run, everywhere=True)


def closes_after_answer(texts: Sequence[str] = TEXTS) -> Behaviour:
    """Announces keep-alive and closes the connection right after the response, as llama.cpp does after a stream."""

    async def run(writer: ResponseWriter) -> None:
        await _proper(writer, texts)
        writer.closing = True

    return Behaviour("closes_after_answer", run, everywhere=True)
