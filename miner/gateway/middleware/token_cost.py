"""Token cost: the estimate for a request, and the tokens that it did use, however it ended."""

from __future__ import annotations

from miner.config.config import config_of
from miner.core.wire import UNLIMITED, LLMResponse
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.rate_limits import TokenEstimate

_BYTES_PER_TOKEN = 4
_TOKENS_PER_IMAGE = 1000


def requests_in(call: Call) -> int:
    """How many requests a call counts as: one for each choice, text or document."""
    return max(1, len(call.arguments), call.items)


def estimate_tokens(context: RequestContext, call: Call) -> TokenEstimate:
    """An estimate for the call: the texts of the request, and max_tokens of each choice. Where only the context limits
    a choice, DEFAULT_MAX_TOKENS: the whole context would keep a client from its second request for minutes, and what
    was used is settled in the end.
    """
    if not call.arguments and not call.items:
        return TokenEstimate()  # nothing is generated
    default = config_of(context.gateway.service.config).default_max_tokens
    prompts: dict[int, object] = {}
    completion = images = image_bytes = 0
    for arguments in call.arguments:
        max_tokens = arguments.get("max_tokens")
        completion += max_tokens if isinstance(max_tokens, int) and max_tokens != UNLIMITED else default
        prompt = arguments.get("messages", arguments.get("prompt"))
        if id(prompt) in prompts:
            continue
        prompts[id(prompt)] = prompt
        for message in prompt if isinstance(prompt, list) else ():
            content = message.get("content") if isinstance(message, dict) else None
            for part in content if isinstance(content, list) else ():
                image = part.get("image_url") if isinstance(part, dict) else None
                if isinstance(image, dict):
                    images += 1
                    image_bytes += len(str(image.get("url", "")))
    text = max(0, context.body_size - image_bytes) // _BYTES_PER_TOKEN
    each = (text + images * _TOKENS_PER_IMAGE) / max(1, len(prompts))
    return TokenEstimate(max(1, round(each * max(1, len(call.arguments)))), max(0, completion))


def used_tokens(context: RequestContext, estimate: TokenEstimate) -> int:
    """The usage of the request: as the backend reports; where it does not, what was sent and generated."""
    usage, call, error = context.reported_usage, context.call, context.error
    reported = usage.prompt_tokens + usage.completion_tokens if usage is not None else 0
    broken = context.disconnected or error is not None
    if reported and not (broken and call is not None and len(call.arguments) > 1):
        return reported
    if context.call_started_at is None or not estimate.total:
        return 0
    if error is not None and not context.chunks:
        return _tokens_of_error(error)
    if context.disconnected and not context.streamed:
        return estimate.total  # the engine's tokens until the disconnect are unknown
    return max(reported, estimate.prompt + max(context.chunks, context.characters // _BYTES_PER_TOKEN))


def _tokens_of_error(error: Exception) -> int:
    """The usage of an invalid reply; a request that failed before generation is free."""
    reply = getattr(error, "response", None) or getattr(error, "partial", None)
    usage = reply.usage if isinstance(reply, LLMResponse) else None
    return usage.prompt_tokens + usage.completion_tokens if usage is not None else 0
