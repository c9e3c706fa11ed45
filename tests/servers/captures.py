"""The recorded responses of real servers, as objects."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from tests.paths import DATA

__all__ = ["DATA", "ENGINES", "Capture", "capture", "captures"]

ENGINES = ("llamacpp", "ollama", "vllm")


@dataclass(frozen=True)
class Capture:
    """One recorded request and what came back."""

    name: str
    engine: str
    status: int | None
    """None: the connection was closed without a response."""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: tuple[bytes, ...] = ()
    """The body as it came off the socket."""
    times: tuple[float, ...] = ()
    """When each piece came, in seconds since the request; empty: not known."""
    headers_time: float = 0.0
    method: str = "GET"
    path: str = "/"
    request: Any = None
    """The JSON body that was sent; None if there was none or it was no JSON."""
    request_headers: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    """The body has no end: the server died, or the recorder hung up."""

    @property
    def chunked(self) -> bool:
        """Whether the body was sent in chunked transfer encoding."""
        return self.headers.get("transfer-encoding") == "chunked"

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        """The whole body as one JSON value."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body as NDJSON."""
        return [json.loads(line) for line in self.body.splitlines() if line.strip()]

    @property
    def events(self) -> list[Any]:
        """The body as SSE data, without the end mark."""
        data = [line[5:].strip() for line in self.body.split(b"\n") if line.startswith(b"data:")]
        return [json.loads(item) for item in data if item != b"[DONE]"]

    def split(self, size: int) -> Self:
        """The same bytes in pieces of `size` bytes."""
        body = self.body
        return replace(self, pieces=tuple(body[at : at + size] for at in range(0, len(body), size)), times=())

    def first(self, count: int) -> Self:
        """Only the first `count` pieces, and no end."""
        return replace(self, pieces=self.pieces[:count], times=self.times[:count], broken=True)


@cache
def captures(engine: str) -> dict[str, Capture]:
    """All recorded responses of an engine, by name, in the order of names."""
    directory = DATA / "captures" / engine
    return {path.stem: _read(engine, path) for path in sorted(directory.glob("*.json"))}


def capture(engine: str, name: str) -> Capture:
    """One recorded response; a name that does not exist is an error that lists what there is."""
    known = captures(engine)
    if name not in known:
        raise KeyError(f"no capture {name!r} of {engine}; there are: {', '.join(known)}")
    return known[name]


def _read(engine: str, path: Path) -> Capture:
    record = json.loads(path.read_text(encoding="utf-8"))
    request = record["request"]
    sent = request.get("json")
    if sent is None and request.get("body"):
        try:
            sent = json.loads(request["body"])
        except ValueError:
            sent = None
    chunks = record.get("chunks") or []
    return Capture(
        name=path.stem,
        engine=engine,
        status=record.get("status"),
        headers=record.get("headers") or {},
        pieces=tuple(chunk["text"].encode() for chunk in chunks),
        times=tuple(chunk["t_ms"] / 1000 for chunk in chunks),
        headers_time=record.get("headers_ms", 0.0) / 1000,
        method=request["method"],
        path=request["path"],
        request=sent,
        request_headers=request.get("headers") or {},
        broken=bool(record.get("cut") or record.get("error")),
    )
