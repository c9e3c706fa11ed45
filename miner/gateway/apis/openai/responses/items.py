"""What a response of OpenAI's `/v1/responses` is made of."""

from __future__ import annotations

from typing import Any

from miner.core.wire import TokenLogprob, TokenUsage, ToolCall
from miner.gateway.apis.base import Call, Head
from miner.gateway.apis.openai.common import logprob_entry
from miner.gateway.apis.openai.responses.schema import ResponseBody

__all__ = ["call_item", "cut_reason", "finished", "message_item", "reasoning_item", "response_object", "text_part"]

_CUTS = {
    "length": "max_output_tokens", "content_filter": "content_filter", "repetition": "repetition", "unknown": "unknown",
}  # fmt: skip


def response_object(call: Call, head: Head, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    """A response in some state, with what was asked for."""
    asked: ResponseBody = call.options
    text = asked.text.format if asked.text is not None and asked.text.format is not None else {"type": "text"}
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "model": head.model,
        "output": output,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": asked.reasoning.effort if asked.reasoning is not None else None, "summary": None},
        "store": False,
        "temperature": asked.temperature,
        "text": {"format": text},
        "tool_choice": asked.tool_choice if asked.tool_choice is not None else "auto",
        "tools": [{"strict": None, "parameters": None, **tool} for tool in asked.tools or ()],
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user,
        "metadata": asked.metadata or {},
    }


def cut_reason(finish_reason: str | None) -> str | None:
    """Why a response is incomplete, in OpenAI's two words or one of ours; None: it is complete."""
    return _CUTS.get(finish_reason or "")


def finished(
    call: Call, head: Head, output: list[dict[str, Any]], finish_reason: str | None, usage: TokenUsage | None
) -> dict[str, Any]:
    """A response that has ended, completed or cut."""
    cut = cut_reason(finish_reason)
    response = response_object(call, head, "completed" if cut is None else "incomplete", output)
    if cut is not None:
        response["incomplete_details"] = {"reason": cut}
    response["usage"] = (
        None
        if usage is None
        else {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
            "total_tokens": usage.total_tokens,
        }
    )
    return response


def reasoning_item(item_id: str, text: str) -> dict[str, Any]:
    """The model's thoughts."""
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}] if text else [],
        "status": "completed",
    }


def message_item(
    item_id: str, text: str, logprobs: list[TokenLogprob] | None = None, status: str = "completed"
) -> dict[str, Any]:
    """The model's words."""
    content = [] if status == "in_progress" else [text_part(text, logprobs)]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: list[TokenLogprob] | None = None) -> dict[str, Any]:
    """The text of a message."""
    told = [logprob_entry(one) for one in logprobs or ()]
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": told}


def call_item(item_id: str, call: ToolCall, status: str = "completed") -> dict[str, Any]:
    """A call of a tool."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call.get("id") or item_id,
        "name": call["function"].get("name", ""),
        "arguments": call["function"].get("arguments", ""),
    }
