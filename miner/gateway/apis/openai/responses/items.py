"""The items of a response's output."""

from __future__ import annotations

from typing import Any

from miner.core.wire import LLMResponse, TokenLogprob, ToolCall
from miner.gateway.apis.openai.response import logprob_entry
from miner.gateway.apis.openai.responses.input import sealed
from miner.gateway.apis.openai.responses.tools import ToolName, Tools, custom_input

_INCOMPLETE = {
    "length": "max_output_tokens", "content_filter": "content_filter", "repetition": "repetition", "unknown": "unknown",
}  # fmt: skip


def incomplete_reason(finish_reason: str | None) -> str | None:
    """Why a response is incomplete, in one of OpenAI's two reasons or of ours; None: it is complete."""
    return _INCOMPLETE.get(finish_reason or "")


def item_id(prefix: str, response: str, index: int) -> str:
    """The id of an item: its response's id and its place, so that a reference to it can be followed."""
    return f"{prefix}_{response}{index:04x}"


def output_items(response: LLMResponse, name: str, tools: Tools, *, encrypted: bool) -> list[dict[str, Any]]:
    """The output of a response that was not streamed.

    Args:
        name: the id of the response, without its prefix.
        tools: that the calls are of.
        encrypted: whether reasoning items have `encrypted_content`.
    """
    output: list[dict[str, Any]] = []
    status = "completed" if incomplete_reason(response.finish_reason) is None else "incomplete"
    calls = response.tool_calls or []
    if response.reasoning:
        output.append(reasoning_item(item_id("rs", name, 0), response.reasoning, encrypted=encrypted))
    if response.content or not calls:
        message_status = "completed" if calls else status
        output.append(
            message_item(item_id("msg", name, len(output)), response.content, response.logprobs, message_status)
        )
    for number, call in enumerate(calls):
        tool = tools.of(call["function"].get("name", ""))
        last = number == len(calls) - 1
        output.append(
            call_item(item_id(call_prefix(tool), name, len(output)), call, tool, status if last else "completed")
        )
    return output


def reasoning_item(name: str, text: str, status: str = "completed", *, encrypted: bool = False) -> dict[str, Any]:
    """A reasoning item. Clients read the text in one place or the other: as content, or as the summary."""
    item: dict[str, Any] = {
        "id": name,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}] if text else [],
        "content": [{"type": "reasoning_text", "text": text}] if text else [],
        "status": status,
    }
    if encrypted and text:
        item["encrypted_content"] = sealed(text)
    return item


def message_item(
    name: str, text: str, logprobs: list[TokenLogprob] | None = None, status: str = "completed"
) -> dict[str, Any]:
    """A message item."""
    content = [] if status == "in_progress" else [text_part(text, logprobs)]
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: list[TokenLogprob] | None = None) -> dict[str, Any]:
    """An `output_text` part."""
    entries = [logprob_entry(one) for one in logprobs or ()]
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": entries}


def call_prefix(tool: ToolName) -> str:
    """What the id of a call of this tool begins with."""
    return "ctc" if tool.kind == "custom" else "fc"


def call_item(name: str, call: ToolCall, tool: ToolName, status: str = "completed") -> dict[str, Any]:
    """The item of a call: of a function, or of a custom tool with its input."""
    arguments = call["function"].get("arguments", "")
    item: dict[str, Any] = {"id": name, "status": status, "call_id": call.get("id") or name, "name": tool.name}
    if tool.kind == "custom":
        item |= {"type": "custom_tool_call", "input": custom_input(arguments) if arguments else ""}
    else:
        item |= {"type": "function_call", "arguments": arguments}
    if tool.namespace is not None:
        item["namespace"] = tool.namespace
    return item
