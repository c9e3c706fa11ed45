"""What cannot fit is refused by its length, before an engine spends a minute and gigabytes on counting its tokens."""

from __future__ import annotations

from collections.abc import Iterable

from miner.core.wire import ChatRequest
from miner.errors import ContextLengthError

__all__ = ["check_length", "texts_of"]

_TOKEN_BYTES = 256
"""More than the longest token of known vocabularies has (runs of 128 spaces), so what is refused could never fit."""


def texts_of(request: ChatRequest) -> Iterable[str]:
    """The texts of a request that all go into its prompt."""
    if request.prompt is not None:
        yield request.prompt
    for message in request.messages or ():
        yield message.text()
        for call in message.tool_calls or ():
            yield call["function"]["arguments"]
    for tool in request.tools or ():
        yield tool["function"].get("description") or ""


def check_length(
    texts: Iterable[str], context_length: int | None, where: str, param: str | None, *, tokens: int = 0
) -> None:
    """Refuse texts that are together longer than the context, however they are cut into tokens.

    Args:
        context_length: tokens that fit; None, where nobody knows: anything passes.
        where: names the model in the message.
        tokens: tokens that are there besides the texts.

    Raises:
        ContextLengthError: with the smallest number of tokens that it could be.
    """
    if context_length is None:
        return
    size = sum(len(text) if text.isascii() else len(text.encode(errors="replace")) for text in texts)
    least = tokens + -(-size // _TOKEN_BYTES)
    if least > context_length:
        raise ContextLengthError(
            f"The prompt has at least {least} tokens ({size} bytes), the context {context_length} ({where}).",
            prompt_tokens=least,
            context_length=context_length,
            param=param,
            hint="Shorten the prompt, or load the model with a longer context.",
        )
