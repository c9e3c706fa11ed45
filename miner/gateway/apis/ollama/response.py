"""The fields of Ollama's responses, streamed or not: text, tool calls, log probabilities, counts and durations."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from miner.core.llms.contract.tools import arguments_object, arguments_parse
from miner.core.wire import FinishReason, Timings, TokenLogprob, TokenUsage, ToolCall
from miner.gateway.apis.fields import logprob_object

Kind = Literal["chat", "generate"]


class Reply(msgspec.Struct):
    """What the objects of one response have in common."""

    model: str
    """As the client wrote it."""
    began: int = msgspec.field(default_factory=time.perf_counter_ns)
    prepared: int = 1
    """Nanoseconds until the request was ready for the engine: finding the model is part of Ollama's `load_duration`."""

    def is_ready(self) -> None:
        """Note that the request is ready."""
        self.prepared = max(1, time.perf_counter_ns() - self.began)


def text_fields(
    kind: Kind, content: str, thinking: str | None, calls: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The generated text in the fields of the route."""
    if kind == "generate":
        return {"response": content, **({"thinking": thinking} if thinking else {})}
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def tool_calls(calls: Iterable[ToolCall], first: int = 0, *, truncated: bool = False) -> list[dict[str, Any]]:
    """Tool calls with objects as arguments.

    Args:
        first: the index of the first one.
        truncated: max_tokens or an error ended the reply: a call whose arguments are no JSON object is left out, as by
            Ollama.
    """
    complete: list[dict[str, Any]] = []
    for call in calls:
        function = call["function"]
        if truncated and not arguments_parse(call):
            continue
        arguments = arguments_object(call)
        index = first + len(complete)
        complete.append(
            {"id": call["id"], "function": {"index": index, "name": function["name"], "arguments": arguments}}
        )
    return complete


def final_fields(
    reply: Reply, reason: FinishReason | None, usage: TokenUsage | None, timings: Timings | None
) -> dict[str, Any]:
    """The last object of a response: why it ended, counts and durations."""
    return {"done": True, "done_reason": _done_reason(reason), **_counts(reply, usage, timings)}


def timestamp(nanoseconds: int | None = None) -> str:
    """A time as Ollama writes it, in UTC to the nanosecond.

    Args:
        nanoseconds: since 1970; None: now.
    """
    seconds, rest = divmod(time.time_ns() if nanoseconds is None else nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def _done_reason(reason: FinishReason | None) -> str:
    """Ollama's `done_reason`, "stop" also after tool calls. Finish reasons that Ollama lacks keep our name."""
    return reason if reason in ("length", "content_filter", "repetition", "unknown") else "stop"


def _counts(reply: Reply, usage: TokenUsage | None, timings: Timings | None) -> dict[str, int]:
    """Counts and durations (nanoseconds, each above 0); what is unknown is left out.

    Where the engine does not report them, prefill lasted until the first token, and decoding from then on.
    """
    usage, timings = usage or TokenUsage(), timings or Timings()
    first, total = timings.time_to_first_token, time.perf_counter_ns() - reply.began
    prefill, decode = timings.prefill, timings.decode
    if not prefill and first is not None:
        prefill = max(first - (timings.load or 0) - (timings.queue or 0), 0)
    if not decode:
        end = total / 1e9 if timings.total is None else timings.total
        decode = max(end - (first or 0), 0)
    counts = {"total_duration": total, "load_duration": _nanoseconds(timings.load) + reply.prepared}
    if usage.prompt_tokens:
        # Found in the cache completely, or quicker than the clock's step.
        counts |= {"prompt_eval_count": usage.prompt_tokens, "prompt_eval_duration": max(1, _nanoseconds(prefill))}
    if usage.completion_tokens:
        counts |= {"eval_count": usage.completion_tokens, "eval_duration": max(1, _nanoseconds(decode))}
    return counts


def _nanoseconds(seconds: float | None) -> int:
    return round(seconds * 1e9) if seconds is not None else 0


def logprob_entries(entries: list[TokenLogprob]) -> list[dict[str, Any]]:
    """Log probabilities of tokens, each with its alternatives."""
    return [
        {
            **logprob_object(entry),
            **({"top_logprobs": [logprob_object(o) for o in entry.alternatives]} if entry.alternatives else {}),
        }
        for entry in entries
    ]
