"""Bodies that are legal, or nearly, and as large as the server takes them: bench/bodies.py measures what each costs,
and test_bodies.py bounds it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["CHAT", "KINDS", "Lag", "watched"]

CHAT = "/v1/chat/completions"
_HEAD = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]'


def _repeated(before: bytes, item: bytes, after: bytes, *, comma: bytes = b",") -> Callable[[int], bytes]:
    """A body of about this many bytes: the item again and again, with commas between."""
    return lambda size: before + comma.join([item] * max(1, size // (len(item) + len(comma)))) + after


def _text(path: str, before: bytes, text: bytes, after: bytes) -> tuple[str, Callable[[int], bytes]]:
    return path, _repeated(before, text, after, comma=b"")


def _numbered(before: bytes, item: bytes, after: bytes) -> Callable[[int], bytes]:
    return lambda size: before + b",".join(item % n for n in range(size // (len(item) + 6))) + after


def _within(before: bytes, item: bytes, after: bytes, count: int) -> Callable[[int], bytes]:
    """A body of so many items, whatever size is asked for: the most that is served."""
    numbered = b"%d" in item
    return lambda _: before + b",".join(item % n if numbered else item for n in range(count)) + after


def _image(size: int) -> bytes:
    data = base64.b64encode(b"\x89PNG" + bytes(range(256)) * (size * 3 // 4 // 256))
    url = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,' + data + b'"}}'
    return b'{"model":"m","messages":[{"role":"user","content":[' + url + b"]}]}"


def _ollama_image(size: int) -> bytes:
    data = base64.b64encode(b"\x89PNG" + bytes(range(256)) * (size * 3 // 4 // 256))
    return b'{"model":"m","messages":[{"role":"user","content":"Hi","images":["' + data + b'"]}]}'


_CALLS = b'{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",'
_CALLS += b'"function":{"name":"f","arguments":"{\\"a\\":['

KINDS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "messages:[{},...]": (CHAT, _repeated(b'{"model":"m","messages":[', b"{}", b"]}")),
    "messages, each sound": (CHAT, _repeated(b'{"model":"m","messages":[', b'{"role":"user","content":"Hi"}', b"]}")),
    "tools:[[],...]": (CHAT, _repeated(_HEAD + b',"tools":[', b"[]", b"]}")),
    "metadata, which is ignored": (CHAT, _numbered(_HEAD + b',"metadata":{', b'"%d":[]', b"}}")),
    "a million small keys": (CHAT, _numbered(_HEAD + b',"logit_bias":{', b'"%d":1', b"}}")),
    "many stop strings": (CHAT, _numbered(_HEAD + b',"stop":[', b'"s%d"', b"]}")),
    "a large schema": (CHAT, _numbered(
        _HEAD + b',"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object",'
        b'"properties":{', b'"p%d":{"type":"string"}', b"}}}}}")),
    "one long text": _text(CHAT, b'{"model":"m","messages":[{"role":"user","content":"', b"Hello, world. ", b'"}]}'),
    "one text of escapes": _text(CHAT, b'{"model":"m","messages":[{"role":"user","content":"', b"\\n", b'"}]}'),
    "one text in UTF-8": _text(CHAT, b'{"model":"m","messages":[{"role":"user","content":"', "é".encode(), b'"}]}'),
    "a long name of a field": _text(CHAT, _HEAD + b',"', b"abcdefgh", b'":1}'),
    "a long name of a model": _text(CHAT, b'{"messages":[{"role":"user","content":"Hi"}],"model":"', b"a/b:c.", b'"}'),
    "a long role": _text(CHAT, b'{"model":"m","messages":[{"content":"Hi","role":"', b"user", b'"}]}'),
    "an image": (CHAT, _image),
    "an image in Ollama's form": ("/api/chat", _ollama_image),
    "arguments of a call": (CHAT, _repeated(_CALLS, b"{}", b']}"}}]}]}')),
    "nested without end": _text(CHAT, _HEAD + b',"metadata":', b"[", b"}"),
    "a number without end": _text(CHAT, _HEAD + b',"seed":1', b"0", b"}"),
    "a fraction without end": _text(CHAT, _HEAD + b',"temperature":0.', b"1", b"}"),
    "nothing but spaces": _text(CHAT, _HEAD, b" ", b"}"),
    "wrong at its very end": _text(CHAT, b'{"model":"m","messages":[{"role":"user","content":"', b"Hi ", b'"}]]'),
    "cut short": _text(CHAT, b'{"model":"m","messages":[{"role":"user","content":"', b"Hi ", b""),
    "texts to embed": ("/v1/embeddings", _repeated(b'{"model":"m","input":[', b'"a"', b"]}")),
    "one text to embed": _text("/v1/embeddings", b'{"model":"m","input":"', b"Hi ", b'"}'),
    "documents to rank": ("/v1/rerank", _repeated(b'{"model":"m","query":"a","documents":[', b'"a"', b"]}")),
    "prompts": ("/v1/completions", _repeated(b'{"model":"m","prompt":[', b'"a"', b"]}")),
    "items of a response": ("/v1/responses", _repeated(
        b'{"model":"m","input":[', b'{"role":"user","content":"Hi"}', b"]}")),
    "blocks of Anthropic's": ("/v1/messages", _repeated(
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[', b'{"type":"text","text":"a"}', b"]}]}")),
    "within all bounds: messages": (CHAT, _within(
        b'{"model":"m","messages":[', b'{"role":"user","content":"Hi"}', b"]}", 4_999)),
    "within all bounds: a schema": (CHAT, _within(
        _HEAD + b',"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object",'
        b'"properties":{', b'"p%d":{"type":"string"}', b"}}}}}", 3_300)),
    "within all bounds: tools": (CHAT, _within(
        _HEAD + b',"tools":[', b'{"type":"function","function":{"name":"f%d","parameters":{"type":"object"}}}', b"]}",
        3_300)),
    "within all bounds: metadata": (CHAT, _within(_HEAD + b',"metadata":{', b'"%d":[]', b"}}", 43_300)),
    "within all bounds: biases": (CHAT, _within(_HEAD + b',"logit_bias":{', b'"%d":1', b"}}", 10_000)),
    "within all bounds: arguments": (CHAT, _within(_CALLS, b"{}", b']}"}}]}]}', 43_300)),
    "within all bounds: texts to embed": ("/v1/embeddings", _within(b'{"model":"m","input":[', b'"a"', b"]}", 2048)),
    "within all bounds: Anthropic's blocks": ("/v1/messages", _within(
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[', b'{"type":"text","text":"a"}', b"]}]}",
        33_000)),
    "within all bounds: items of a response": ("/v1/responses", _within(
        b'{"model":"m","input":[', b'{"role":"user","content":"Hi"}', b"]}", 4_999)),
    "numbers of Ollama's context": ("/api/generate", _repeated(b'{"model":"m","prompt":"Hi","context":[', b"1", b"]}")),
}  # fmt: skip
"""A path, and what makes a body of about so many bytes for it, by what is large in it."""


class Lag:
    """How long the event loop did not come back, in seconds."""

    wall = 0.0
    cpu = 0.0
    """Of the processor's time that this process had meanwhile: other processes make it no longer."""


@asynccontextmanager
async def watched(pause: float = 0.002) -> AsyncIterator[Lag]:
    """Measure while the block lasts."""
    lag = Lag()
    gc.collect()
    gc.freeze()  # as the server does at its start: a collection would go through what thousands of tests have left

    async def watch() -> None:
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(pause)
            lag.wall = max(lag.wall, time.perf_counter() - wall - pause)
            lag.cpu = max(lag.cpu, time.process_time() - cpu)

    watching = asyncio.create_task(watch())
    try:
        await asyncio.sleep(0.05)
        lag.wall = lag.cpu = 0.0
        yield lag
        await asyncio.sleep(0.01)
    finally:
        gc.unfreeze()
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
