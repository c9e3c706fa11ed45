"""What a dialect is: it reads a body into a Call, and writes replies, streams and errors. It knows no engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from miner.core.wire import LLMChunk, LLMResponse
from miner.gateway.errors import Failure
from miner.gateway.field_names import FieldNames

__all__ = ["Call", "Dialect", "ErrorShape", "Head", "StreamWriter"]


@dataclass(slots=True)
class Call:
    """What a body asks for."""

    arguments: list[dict[str, Any]]
    """One entry for each reply that is wanted (usually one): keyword arguments of `LLMService.stream`, with either
    `prompt` or `messages`."""
    model: str | None = None
    """The model's name as the client wrote it; also in the arguments."""
    stream: bool = False
    ignored: list[str] = field(default_factory=list)
    """Fields that clients always send and that change nothing here: told in `x-miner-ignored-params`."""
    items: int = 0
    """Texts or documents, where it is not a generation."""
    remote_images: list[str] = field(default_factory=list)
    """Fields, as the client wrote them, whose images would have to be fetched."""
    names: FieldNames = field(default_factory=FieldNames)
    """The client's own names of what the arguments say."""
    options: Any = None
    """What the dialect itself wants to remember of the body until it writes the reply."""


@dataclass(slots=True)
class Head:
    """What stands at the head of a reply."""

    id: str
    """32 hex digits; the dialect puts its prefix before them."""
    model: str
    """The model that answers, by its full name."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""


class ErrorShape(Protocol):
    """How a dialect writes an error that comes before the reply."""

    def __call__(self, failure: Failure) -> bytes:
        """The JSON body."""


class StreamWriter(Protocol):
    """Writes one streamed reply; keeps the state that its events need."""

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of what arrived together, in one piece; b"" where there is nothing to say.

        Args:
            index: which of the wanted replies the batch belongs to.
        """

    def end(self, responses: list[LLMResponse]) -> bytes:
        """What stands at a normal end. `responses` has what is known besides the pieces: model, backend, ignored."""

    def error(self, failure: Failure) -> bytes:
        """What stands at the end of a reply that broke: an error event, and no normal end."""


class Dialect(Protocol):
    """One kind of generation in one API."""

    stream_type: str
    """Content type of a stream."""
    heartbeat: bytes
    """Sent while the engine is silent; b"" if the dialect has no such thing."""

    def parse(self, body: bytes) -> Call:
        """Read a body.

        Raises:
            RequestError: names the field, the value and the way out.
        """

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """A reply in one piece."""

    def stream(self, call: Call, head: Head) -> StreamWriter:
        """The writer of one streamed reply."""
