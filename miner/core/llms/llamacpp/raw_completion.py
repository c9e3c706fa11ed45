"""A chat reply that llama.cpp's server could not parse, finished past its parser.

The server drops the generated text ("The model produced output that does not match the expected peg-native format"). So
the model continues from what has been streamed: `/apply-template` renders the prompt, with that text as the beginning
of the assistant's message, and `/completions` continues it verbatim. The prompt is in the slot's KV cache, and this
happens once a request.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace

from miner.core.llms.contract.join import merge_tool_deltas
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import arguments_parse
from miner.core.llms.contract.unparsed_reply import parse_tool_calls
from miner.core.llms.llamacpp.chat_template import as_sent
from miner.core.llms.llamacpp.forced_tools import is_either, is_forced
from miner.core.llms.llamacpp.server import LlamaServer
from miner.core.wire import (
    UNLIMITED,
    ChatRequest,
    FinishReason,
    LLMChunk,
    Message,
    OutputFormat,
    TokenUsage,
    ToolCall,
)
from miner.errors import BackendProtocolError

logger = logging.getLogger("miner.reply")


class DeliveredReply:
    """The part of a reply that was delivered."""

    __slots__ = ("calls", "content", "empty", "held", "reasoning")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[ToolCall] = []
        self.empty = True
        """Whether no text and no call has arrived yet."""
        self.held: list[LLMChunk] = []
        """A finish reason before any text is held back until the stream ends: the server may still report an error."""

    def add(self, batch: list[LLMChunk]) -> bool:
        """Add a batch; return whether it may be delivered now."""
        for chunk in batch:
            if chunk.content is not None:
                self.content.append(chunk.content)
                self.empty = False
            if chunk.reasoning is not None:
                self.reasoning.append(chunk.reasoning)
                self.empty = False
            if chunk.tool_calls is not None:
                self.calls += chunk.tool_calls
                self.empty = False
        if self.empty and (self.held or any(chunk.finish_reason is not None for chunk in batch)):
            self.held += batch
            return False
        return True


async def complete_raw(
    request: ChatRequest,
    body: dict[str, Any],
    sent: DeliveredReply,
    error: BackendProtocolError,
    server: LlamaServer,
    complete: Callable[[ChatRequest], Batches],
) -> Batches:
    """The rest of a reply that the server failed to parse.

    Args:
        body: the chat request's body.
        complete: the reply to a verbatim prompt.

    Raises:
        BackendProtocolError: `error`: a tool call had begun that cannot be continued, or the prompt has images.
    """
    logger.warning("%s Returning its text as it is.", error.message)
    calls = merge_tool_deltas(sent.calls)
    content, reasoning = "".join(sent.content), "".join(sent.reasoning)
    if any(message.images() for message in request.as_messages()):
        raise error  # the prompt is not text alone
    status, prompt = await server.apply_template(_template_body(body, body["messages"]))
    if status != 200:
        raise error
    written = reasoning + content + "".join(call["function"]["name"] + call["function"]["arguments"] for call in calls)
    spent = await server.count_tokens(written) if written else 0
    complete_calls = bool(calls) and all(map(arguments_parse, calls))  # the rest does not matter
    if complete_calls or spent >= request.token_limit:
        finish: FinishReason = "tool_calls" if complete_calls else "length"
        tokens = await server.count_tokens(prompt)
        yield [LLMChunk(finish_reason=finish, usage=TokenUsage(tokens, spent, tokens + spent))]
        return
    again = bool(calls)  # from the beginning, to get the complete call
    if (content or reasoning) and not again:
        begun = _continued(body["messages"], content, reasoning)
        status, longer = await server.apply_template(_template_body(body, begun))
        prompt = longer if status == 200 else prompt + reasoning + content
    left = request.max_tokens if again or request.max_tokens == UNLIMITED else request.max_tokens - spent
    wanted = request.response_format
    as_json = is_forced(request) or is_either(request)  # the caller makes a call of the JSON
    if as_json:
        wanted = OutputFormat(kind="json_schema", schema=body["response_format"]["json_schema"]["schema"])
    raw_request = replace(
        request, prompt=prompt, messages=None, raw=True, tools=None, tool_choice=None, parallel_tool_calls=None,
        reasoning=None, max_tokens=left, progress=False,
        response_format=None if written else wanted,
    )  # fmt: skip
    carried = 0 if again else spent
    async with aclosing(complete(raw_request)) as batches:
        if request.tools is None or request.tool_choice == "none" or as_json:
            async for batch in batches:
                for chunk in batch:
                    _add_spent(chunk, carried)
                yield batch
            return
        text: list[str] = []
        last = LLMChunk()
        async for batch in batches:
            for chunk in batch:
                text += [chunk.content] if chunk.content else []
                last.finish_reason = chunk.finish_reason or last.finish_reason
                last.stop_sequence = chunk.stop_sequence or last.stop_sequence
                last.usage, last.timings = chunk.usage or last.usage, chunk.timings or last.timings
                last.logprobs = [*(last.logprobs or ()), *chunk.logprobs] if chunk.logprobs else last.logprobs
                last.context_exhausted = last.context_exhausted or chunk.context_exhausted
    raw = "".join(text)
    if again:
        rest = _rest_of_call(raw, calls[-1]["function"]["arguments"])
        if rest is None:
            raise error
        last.tool_calls = [{"index": len(calls) - 1, "function": {"arguments": rest}}]
    else:
        reasoning, end, text_after = raw.partition("</think>")
        if end and prompt.rstrip().endswith("<think>"):
            last.reasoning, raw = reasoning.strip() or None, text_after.lstrip()
        shown, read = parse_tool_calls(raw, request)
        last.content, last.tool_calls = shown or None, read or None
    if last.tool_calls:
        last.finish_reason, last.stop_sequence = "tool_calls", None
    _add_spent(last, carried)
    yield [last]


def _template_body(body: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "reasoning_effort")
    return {"messages": messages, **{name: body[name] for name in names if name in body}}


def _continued(messages: list[dict[str, Any]], content: str, reasoning: str) -> list[dict[str, Any]]:
    """The conversation with what was streamed as the beginning of the reply."""
    begun = as_sent(Message(role="assistant", content=content, reasoning=reasoning or None))
    last = messages[-1]
    if last["role"] == "assistant" and isinstance(last.get("content"), str):  # the reply continues it
        # llama.cpp's reply to such a conversation repeats what it continues.
        kept = content if content.startswith(last["content"]) else last["content"] + content
        return [*messages[:-1], {**last, "content": kept}]
    return [*messages, begun]


def _add_spent(chunk: LLMChunk, spent: int) -> None:
    """Count the tokens streamed before as completion, not as prompt."""
    usage = chunk.usage
    if usage is not None and spent:
        usage.prompt_tokens -= spent
        usage.completion_tokens += spent
        if usage.cached_tokens is not None:
            usage.cached_tokens = min(usage.cached_tokens, usage.prompt_tokens)


def _rest_of_call(raw: str, begun: str) -> str | None:
    """The rest of the arguments that begin so, if the text has them complete."""
    start = raw.find(begun) if begun else -1
    if start < 0:
        return None
    try:
        value, end = json.JSONDecoder(strict=True).raw_decode(raw, start)
    except (ValueError, RecursionError):
        return None
    return raw[start + len(begun) : end] if isinstance(value, dict) else None
