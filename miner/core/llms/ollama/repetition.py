"""Runs of one token: where Ollama gives up on a model that writes the same over and over.

After 30 tokens that are equal but for white space it ends the reply without its last line (`done: true`) and without an
error, streamed or whole (llm/llama_server.go; captures chat_repetition*). Everything else that ends so broke off.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["RUN", "is_run"]

RUN = 30
"""Equal tokens after which it gives up; one more may have been sent."""
_LONGEST_TOKEN = 64


def is_run(pieces: Iterable[str]) -> bool:
    """Whether the last pieces of a reply are such a run. A reply in one piece is judged by the end of its text."""
    said = list(pieces)
    if len(said) != 1:
        return len(said) >= RUN and len({piece.strip() for piece in said[-RUN:]}) == 1
    text = "".join(said[0].split())
    return any(text.endswith(text[-size:] * RUN) for size in range(1, min(_LONGEST_TOKEN, len(text) // RUN) + 1))
