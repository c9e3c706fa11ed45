"""`/stats`: the tokens and times of the last response and of the chat."""

from __future__ import annotations

from miner.cli.chat.usage import Usage, speed_of
from miner.cli.output.tables import aligned
from miner.core.wire import LLMResponse


def timings_of(response: LLMResponse) -> str:
    """What is known of one response, a line each."""
    rows: list[tuple[str, str]] = []
    usage, timings = response.usage, response.timings
    if usage is None:
        rows.append(("tokens", "the server does not say"))
    else:
        cached = f" ({usage.cached_tokens:,} from the cache)" if usage.cached_tokens else ""
        rows.append(("prompt", f"{usage.prompt_tokens:,} tokens{cached}"))
        reasoning = f" ({usage.reasoning_tokens:,} of reasoning)" if usage.reasoning_tokens else ""
        rows.append(("response", f"{usage.completion_tokens:,} tokens{reasoning}"))
    speed = speed_of(response)
    if speed is not None:
        rows.append(("speed", f"{speed[0]:.1f} tokens/s, {'by the engine' if speed[1] else 'measured here'}"))
    for name, seconds in (
        ("queue", timings.queue), ("load", timings.load), ("prompt processing", timings.prefill),
        ("generation", timings.decode), ("first token after", timings.time_to_first_token), ("total", timings.total),
    ):  # fmt: skip
        if seconds is not None and (seconds >= 0.0005 or name == "total"):
            rows.append((name, f"{seconds:.3f} s"))
    rows.append(("finish reason", response.finish_reason or "none"))
    if response.model:
        rows.append(("model", response.model))
    return aligned([(f"  {name}", value) for name, value in rows])


def statistics_of(usage: Usage) -> str:
    """The last response, the context, and the whole chat."""
    if not usage.responses:
        return "No complete response yet: a response that broke off has no figures."
    total = usage.prompt_tokens + usage.completion_tokens
    lines = (
        ["Last complete response:", timings_of(usage.last)] if usage.last else ["No response since the last /clear."]
    )
    if usage.context():
        lines.append(f"Now: {usage.context()}")
    responses = "The only response" if usage.responses == 1 else f"All {usage.responses} responses"
    lines.append(
        f"{responses}: {usage.prompt_tokens:,} prompt and {usage.completion_tokens:,} completion "
        f"tokens, {total:,} together."
    )
    return "\n".join(lines)
