"""What is sent, and who sends it."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct

from miner.cli.bench.measure import Measurement


class BenchRequest(Struct, kw_only=True):
    """One request; `messages` or `text`."""

    messages: list[dict[str, Any]] | None = None
    text: str = ""
    """The prompt of `completions`, the input of `embeddings`."""
    tools: list[dict[str, Any]] | None = None
    max_tokens: int
    cancel_after: int | None = None
    """Chunks with tokens after which it is cancelled; None: never."""
    keep_text: bool = False
    """Whether the response's text is needed for the next request."""
    turn: int = 0


class Sampling(Struct, kw_only=True, frozen=True):
    """What is the same for all requests."""

    temperature: float | None = None
    """None: the target's default."""
    ignore_eos: bool = False
    extra: dict[str, Any] = {}
    """Other fields of the body."""


class Sender(Protocol):
    """Sends requests to the target."""

    async def send(self, request: BenchRequest, seen: Measurement) -> None:
        """Send one and read its response.

        Args:
            seen: gets the times, the tokens, and the error if it fails.

        Raises:
            asyncio.CancelledError: and nothing else; the request has been closed then.
        """

    async def count(self, text: str) -> int:
        """The tokens of a text, by the target's tokenizer.

        Raises:
            MinerError: it has none, or does not tell.
        """
