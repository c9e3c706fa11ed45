"""The reply that llama.cpp's server made of what it could not parse: none. Here it is had all the same.

Its server keeps the text to itself ("The model produced output that does not match the expected peg-native format"). So
the model writes on from what had come, past the parser: `/apply-template` gives the prompt, with what was sent as the
beginning of the assistant's message, and a completion of that prompt the text. The prompt is in the engine's cache, and
this happens once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace

from miner.core.llms.contract.join import merge_tool_deltas
from miner.core.llms.contract.malformed import Sent, calls_of
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import arguments_parse
from miner.core.llms.llamacpp.chat_template import Apply, as_sent
from miner.core.llms.llamacpp.forced_tools import is_either, is_forced
from miner.core.wire import ChatRequest, LLMChunk, Message, OutputFormat, TokenUsage
from miner.errors import BackendProtocolError

__all__ = ["recovered"]

logger = logging.getLogger("miner.reply")


async def recovered(
    request: ChatRequest,
    body: dict[str, Any],
    sent: Sent,
    error: BackendProtocolError,
    *,
    apply: Apply,
    count: Callable[[str], Awaitable[int]],
    complete: Callable[[ChatRequest], Batches],
) -> Batches:
    """The rest of a reply that the engine could not parse.

    Args:
        body: what was sent to the engine.
        apply: asks `/apply-template`.
        count: asks `/tokenize`.
        complete: the reply to a verbatim prompt.

    Raises:
        BackendProtocolError: `error`: a call had begun that cannot be read, or the text cannot be had.
    """
    logger.warning("%s Its text is taken as it is.", error.message)
    calls = merge_tool_deltas(sent.calls)
    content, reasoning = "".join(sent.content), "".join(sent.reasoning)
    if any(message.images() for message in request.as_messages()):
        raise error  # the prompt is not text alone
    status, prompt = await apply(_of_template(body, body["messages"]))
    if status != 200:
        raise error
    written = reasoning + content + "".join(call["function"]["name"] + call["function"]["arguments"] for call in calls)
    spent = await count(written) if written else 0
    if calls and all(map(arguments_parse, calls)):
        # What came after the calls does not matter any more.
        tokens = await count(prompt)
        yield [LLMChunk(finish_reason="tool_calls", usage=TokenUsage(tokens, spent, tokens + spent))]
        return
    if spent >= request.max_tokens:
        tokens = await count(prompt)
        yield [LLMChunk(finish_reason="length", usage=TokenUsage(tokens, spent, tokens + spent))]
        return
    again = bool(calls)  # from the beginning, to see the whole call
    if (content or reasoning) and not again:
        begun = _begun(body["messages"], content, reasoning)
        status, longer = await apply(_of_template(body, begun))
        prompt = longer if status == 200 else prompt + reasoning + content
    left = request.max_tokens if again else request.max_tokens - spent
    wanted = request.response_format
    made = is_forced(request) or is_either(request)  # calls are made of the JSON later
    if made:
        wanted = OutputFormat(kind="json_schema", schema=body["response_format"]["json_schema"]["schema"])
    asked = replace(
        request, prompt=prompt, messages=None, raw=True, tools=None, tool_choice=None, parallel_tool_calls=None,
        reasoning=None, max_tokens=left, progress=False,
        response_format=None if written else wanted,
    )  # fmt: skip
    carried = 0 if again else spent
    async with aclosing(complete(asked)) as batches:
        if request.tools is None or request.tool_choice == "none" or made:
            async for batch in batches:
                for chunk in batch:
                    _count_in(chunk, carried)
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
        thought, end, rest_of_it = raw.partition("</think>")
        if end and prompt.rstrip().endswith("<think>"):
            last.reasoning, raw = thought.strip() or None, rest_of_it.lstrip()
        shown, read = calls_of(raw, request)
        last.content, last.tool_calls = shown or None, read or None
    if last.tool_calls:
        last.finish_reason, last.stop_sequence = "tool_calls", None
    _count_in(last, carried)
    yield [last]


def _of_template(body: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "reasoning_effort")
    return {"messages": messages, **{name: body[name] for name in names if name in body}}


def _begun(messages: list[dict[str, Any]], content: str, reasoning: str) -> list[dict[str, Any]]:
    """The conversation with what was sent as the beginning of the reply."""
    begun = as_sent(Message(role="assistant", content=content, reasoning=reasoning or None))
    last = messages[-1]
    if last["role"] == "assistant" and isinstance(last.get("content"), str):  # the reply continues it
        # llama.cpp's reply to such a conversation repeats what it continues.
        kept = content if content.startswith(last["content"]) else last["content"] + content
        return [*messages[:-1], {**last, "content": kept}]
    return [*messages, begun]


def _count_in(chunk: LLMChunk, spent: int) -> None:
    """The tokens that had been sent belong to the reply, not to the prompt."""
    usage = chunk.usage
    if usage is not None and spent:
        usage.prompt_tokens -= spent
        usage.completion_tokens += spent


def _rest_of_call(raw: str, begun: str) -> str | None:
    """What is missing of arguments that had begun, if the text has them whole."""
    start = raw.find(begun) if begun else -1
    if start < 0:
        return None
    try:
        value, end = json.JSONDecoder(strict=True).raw_decode(raw, start)
    except (ValueError, RecursionError):
        return None
    return raw[start + len(begun) : end] if isinstance(value, dict) else None
