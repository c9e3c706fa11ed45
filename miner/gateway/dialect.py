"""The interface of a dialect, which parses a body into a Call and writes responses, streams and errors."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from miner.core.wire import UNLIMITED, LLMChunk, LLMResponse
from miner.gateway.errors import Failure
from miner.gateway.field_names import FieldNames


@dataclass(slots=True)
class Skipped:
    """Something that the dialect left out of a call, since nothing here supports it."""

    param: str
    """Its field, as the client wrote it."""
    message: str
    hint: str | None
    changes: bool
    """Whether leaving it out changes the meaning of the response, and does not only take something away."""


@dataclass(slots=True)
class Call:
    """The service calls that a request body describes."""

    arguments: list[dict[str, Any]]
    """One entry per choice (usually one): keyword arguments of `LLMService.stream`, with either
    `prompt` or `messages`."""
    model: str | None = None
    """The model's name as the client wrote it; also in the arguments."""
    stream: bool = False
    stream_errors: frozenset[str] = frozenset()
    """Codes of errors that its clients know only as events of a stream: it begins for them, with status 200."""
    default_max_tokens: int = UNLIMITED
    """The limit of a request that names none, as the dialect means it."""
    ignored: list[str] = field(default_factory=list)
    """Fields that are accepted without effect: listed in `x-miner-ignored-params`."""
    items: int = 0
    """Number of inputs or documents, if it is not a generation."""
    remote_images: list[str] = field(default_factory=list)
    """Fields, as the client wrote them, whose images would have to be fetched."""
    names: FieldNames = field(default_factory=FieldNames)
    """Service parameter -> the client's field."""
    options: Any = None
    """Fields of the body that the dialect needs to write the response."""
    id: str = ""
    """The id of the response, where it has to be known before; see `Head.id`."""
    previous_response: str | None = None
    """The id of the stored response that it continues."""
    on_complete: Callable[[Head, list[LLMResponse], StreamWriter | None], Awaitable[None]] | None = None
    """Awaited when the response is complete, before its last bytes are sent: stores it. Without a writer it is not
    streamed.
    """
    foreign: dict[str, Any] = field(default_factory=dict)
    """Fields of the body that the dialect does not know, by their paths: `request_body.decode` fills it."""
    fields: Collection[str] = ()
    """Names of the fields that it knows, to recognise misspelled ones."""
    skipped: list[Skipped] = field(default_factory=list)
    """What `skip` was called for: refused or listed, as the policy says (`miner.gateway.unsupported`)."""
    strict: Collection[str] = ()
    """Parameters of the service that are not left out by default where a model lacks them."""

    def skip(self, param: str, message: str = "", *, hint: str | None = None, changes: bool = False) -> None:
        """Note that a field was left out. The policy decides later whether that is an error.

        Args:
            param: the field, as the client wrote it.
            message: of the error; default: that it is not supported.
            hint: what the client can do instead.
            changes: whether leaving it out changes the meaning of the response.
        """
        self.skipped.append(Skipped(param, message or f"Unsupported parameter: {param!r}.", hint, changes))


@dataclass(slots=True)
class Head:
    """The head of a response."""

    id: str
    """32 hex digits; the dialect puts its prefix before them."""
    model: str
    """The full name of the model."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""


class ErrorShape(Protocol):
    """How a dialect writes an error that is raised before the response starts."""

    def __call__(self, failure: Failure) -> bytes:
        """The JSON body."""


class StreamWriter(Protocol):
    """Writes one streamed response; keeps the state that its events need."""

    def batch(self, batch: list[LLMChunk], index: int) -> bytes:
        """The events of chunks that arrived together; b"" where there are none.

        Args:
            index: the choice that the batch belongs to.
        """

    def end(self, responses: list[LLMResponse]) -> bytes:
        """The last events of a complete stream. `responses` has what no chunk has: model, backend, ignored."""

    def error(self, failure: Failure) -> bytes:
        """The last events of a stream that failed: an error event, and no regular end."""


class Dialect(Protocol):
    """One kind of generation in one API."""

    stream_type: str
    """Content type of a stream."""
    heartbeat: bytes
    """Sent while the engine sends nothing; b"" if the dialect has no heartbeat."""

    @property
    def id_prefix(self) -> str | None:
        """What stands before `Head.id` in the id of a response; None: its responses have no id."""

    def parse(self, body: bytes) -> Call:
        """Parse a request body.

        Raises:
            RequestError: names the field, the value and a fix.
        """

    def response_body(self, call: Call, head: Head, responses: list[LLMResponse]) -> bytes:
        """The body of a non-streaming response."""

    def stream(self, call: Call, head: Head) -> StreamWriter:
        """The writer of one streamed response."""
