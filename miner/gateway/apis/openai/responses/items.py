"""The response object of OpenAI's `/v1/responses` and the items of its output."""

from __future__ import annotations

from typing import Any

from miner.core.wire import TokenLogprob, TokenUsage, ToolCall
from miner.gateway.apis.openai.response import logprob_entry
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.dialect import Call, Head

_INCOMPLETE = {
    "length": "max_output_tokens", "content_filter": "content_filter", "repetition": "repetition", "unknown": "unknown",
}  # fmt: skip


def response_object(call: Call, head: Head, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    """The response object in some state, with the parameters of its request."""
    request: ResponseRequest = call.options
    text = request.text.format if request.text is not None and request.text.format is not None else {"type": "text"}
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "model": head.model,
        "output": output,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": request.reasoning.effort if request.reasoning is not None else None, "summary": None},
        "store": False,
        "temperature": request.temperature,
        "text": {"format": text},
        "tool_choice": request.tool_choice if request.tool_choice is not None else "auto",
        "tools": [{"strict": None, "parameters": None, **tool} for tool in request.tools or ()],
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    }


def incomplete_reason(finish_reason: str | None) -> str | None:
    """Why a response is incomplete, in one of OpenAI's two reasons or of ours; None: it is complete."""
    return _INCOMPLETE.get(finish_reason or "")


def final_response(
    call: Call, head: Head, output: list[dict[str, Any]], finish_reason: str | None, usage: TokenUsage | None
) -> dict[str, Any]:
    """The response object at the end, completed or incomplete."""
    reason = incomplete_reason(finish_reason)
    response = response_object(call, head, "completed" if reason is None else "incomplete", output)
    if reason is not None:
        response["incomplete_details"] = {"reason": reason}
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


def reasoning_item(item_id: str, text: str, status: str = "completed") -> dict[str, Any]:
    """A reasoning item."""
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}] if text else [],
        "status": status,
    }


def message_item(
    item_id: str, text: str, logprobs: list[TokenLogprob] | None = None, status: str = "completed"
) -> dict[str, Any]:
    """A message item."""
    content = [] if status == "in_progress" else [text_part(text, logprobs)]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: list[TokenLogprob] | None = None) -> dict[str, Any]:
    """An `output_text` part."""
    entries = [logprob_entry(one) for one in logprobs or ()]
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": entries}


def call_item(item_id: str, call: ToolCall, status: str = "completed") -> dict[str, Any]:
    """A function call item."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call.get("id") or item_id,
        "name": call["function"].get("name", ""),
        "arguments": call["function"].get("arguments", ""),
    }
