"""Charges: the tokens that a request is expected to use, and those that it did use, however it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from miner.config.config import config_of
from miner.core.wire import LLMResponse
from miner.gateway.middleware.buckets import told_usage

if TYPE_CHECKING:
    from miner.gateway.apis.base import Call
    from miner.gateway.context import RequestContext

__all__ = ["Charge", "expected", "used", "weight_of"]

_BYTES_A_TOKEN = 4
_TOKENS_AN_IMAGE = 1000


@dataclass(frozen=True, slots=True)
class Charge:
    """Tokens."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.prompt + self.completion


def weight_of(call: Call) -> int:
    """How many requests it is worth: one for each reply that is wanted, or text, or document."""
    return max(1, len(call.arguments), call.items)


def expected(context: RequestContext, call: Call) -> Charge:
    """What it will use at most, as far as can be told before: the texts that came, and max_tokens of each reply."""
    if not call.arguments and not call.items:
        return Charge()  # nothing is generated
    default = config_of(context.gateway.service.config).default_max_tokens
    prompts: dict[int, object] = {}
    completion = images = in_images = 0
    for arguments in call.arguments:
        wanted = arguments.get("max_tokens")
        completion += wanted if isinstance(wanted, int) else default
        said = arguments.get("messages", arguments.get("prompt"))
        if id(said) in prompts:
            continue
        prompts[id(said)] = said
        for message in said if isinstance(said, list) else ():
            content = message.get("content") if isinstance(message, dict) else None
            for part in content if isinstance(content, list) else ():
                image = part.get("image_url") if isinstance(part, dict) else None
                if isinstance(image, dict):
                    images += 1
                    in_images += len(str(image.get("url", "")))
    text = max(0, context.body_size - in_images) // _BYTES_A_TOKEN
    each = (text + images * _TOKENS_AN_IMAGE) / max(1, len(prompts))
    return Charge(max(1, round(each * max(1, len(call.arguments)))), max(0, completion))


def used(context: RequestContext, charge: Charge) -> int:
    """What it did use: as the backend tells; where it has not told, what was sent and what had been generated."""
    usage, call, error = told_usage(context), context.call, context.error
    told = usage.prompt_tokens + usage.completion_tokens if usage is not None else 0
    broken = context.hung_up or error is not None
    if told and not (broken and call is not None and len(call.arguments) > 1):
        return told
    if context.entered is None or not charge.total:
        return 0
    if error is not None and not context.chunks:
        return _of_error(error)
    if context.hung_up and not context.streamed:
        return charge.total  # nobody counted what the engine wrote meanwhile
    return max(told, charge.prompt + max(context.chunks, context.letters // _BYTES_A_TOKEN))


def _of_error(error: Exception) -> int:
    """What a reply that was no good has used all the same; what failed before it began is free."""
    reply = getattr(error, "response", None) or getattr(error, "partial", None)
    usage = reply.usage if isinstance(reply, LLMResponse) else None
    return usage.prompt_tokens + usage.completion_tokens if usage is not None else 0
