"""What the server's log says of a request that failed: all that its client is not told, and no prompt."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from miner.errors import BackendError, MinerError
from miner.gateway.errors import InternalServerError, shortened

if TYPE_CHECKING:
    from miner.gateway.context import RequestContext
    from miner.gateway.errors import Failure

__all__ = ["log_fault"]

logger = logging.getLogger("miner.gateway")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SHORTEST = 12
"""Characters of a prompt by which it is known again."""


def log_fault(context: RequestContext, failure: Failure, error: MinerError, what: str = "failed") -> None:
    """Log it where the fault, or what mends it, is on our side: one line under the id that the client has, and the
    traceback of what nobody foresaw.
    """
    told = shortened(str(error))
    withheld = error.operator_hint or (error.hint is not None and error.hint not in failure.message)
    if not (isinstance(error, BackendError) or failure.status >= 500 or withheld):
        return
    cause = error.__cause__ if isinstance(error, InternalServerError) else None
    if cause is None:
        logger.warning("Request %s %s: %s", context.id, what, _CONTROL.sub(" ", _unquoted(context, told)))
        return
    route = context.route
    told = f"Request {context.id} to {route.method} {route.path} {what}: {type(cause).__name__}"
    info = (type(cause), cause, cause.__traceback__)
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, told, (), info, "log_fault")
    # As a formatter would make it, but without the prompt that the exception may quote.
    record.exc_text = _unquoted(context, "".join(traceback.format_exception(cause))).rstrip()
    logger.handle(record)


def _unquoted(context: RequestContext, told: str) -> str:
    if not context.gateway.settings.serve_log_prompts:
        for text in _texts(context):
            told = _without(told, text)
    return told


def _texts(context: RequestContext) -> Iterator[str]:
    """What the client wrote for the model: engines quote it in their errors."""
    for arguments in context.call.arguments if context.call is not None else ():
        yield from _strings(arguments.get("prompt"))
        for message in arguments.get("messages") or ():
            yield from _strings(message.get("content"))


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _strings(part.get("text") if isinstance(part, dict) else None)


def _without(told: str, text: str) -> str:
    """The line without what it quotes of the text, from the text's beginning, however long the quotation is."""
    start = text[:_SHORTEST]
    place = told.find(start) if len(start) == _SHORTEST else -1
    while place >= 0:
        end = place + _SHORTEST
        while end < len(told) and end - place < len(text) and told[end] == text[end - place]:
            end += 1
        told = f"{told[:place]}<prompt>{told[end:]}"
        place = told.find(start, place)
    return told
