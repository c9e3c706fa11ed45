"""The response object of OpenAI's `/v1/responses`, and what of its request is needed to write it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from miner.core.wire import TokenUsage
from miner.gateway.apis.openai.responses.convert import ENCRYPTED
from miner.gateway.apis.openai.responses.items import incomplete_reason
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.apis.openai.responses.tools import Tools
from miner.gateway.dialect import Call, Head
from miner.gateway.errors import Failure

STREAM_ERRORS = frozenset({"context_length_exceeded"})
"""Errors that OpenAI's API sends as events: Codex shortens the conversation after one, and not after a status 400."""


@dataclass(slots=True)
class ResponseOptions:
    """What `Call.options` holds."""

    request: ResponseRequest
    tools: Tools = field(default_factory=Tools)
    temperature: float = 1.0
    """The one in force where the request names none."""
    top_p: float = 1.0
    """The same."""
    stored: bool = False
    """Whether the response is stored."""
    background: bool = False
    final: dict[str, Any] | None = None
    """The response object at its end, once it is known."""

    @property
    def encrypted(self) -> bool:
        """Whether reasoning items have `encrypted_content`."""
        return ENCRYPTED in (self.request.include or ())


def response_object(call: Call, head: Head, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    """The response object in some state, with the parameters of its request."""
    options: ResponseOptions = call.options
    request = options.request
    text, reasoning = request.text, request.reasoning
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created,
        "status": status,
        "error": None,
        "background": options.background,
        "completed_at": int(time.time()) if status == "completed" else None,
        "conversation": None,
        "frequency_penalty": request.frequency_penalty or 0.0,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": head.model,
        "moderation": None,
        "output": output,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "presence_penalty": request.presence_penalty or 0.0,
        "previous_response_id": request.previous_response_id,
        "prompt": None,
        "prompt_cache_key": request.prompt_cache_key,
        "prompt_cache_retention": None,
        "reasoning": {
            "effort": reasoning.effort if reasoning is not None else None,
            "summary": (reasoning.summary or reasoning.generate_summary) if reasoning is not None else None,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": options.stored,
        "temperature": options.temperature if request.temperature is None else request.temperature,
        "text": {
            "format": text.format if text is not None and text.format is not None else {"type": "text"},
            "verbosity": "medium",
        },
        "tool_choice": request.tool_choice if request.tool_choice is not None else "auto",
        "tools": [_tool_object(tool) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": options.top_p if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
    }


def _tool_object(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def final_response(
    call: Call, head: Head, output: list[dict[str, Any]], finish_reason: str | None, usage: TokenUsage | None
) -> dict[str, Any]:
    """The response object at the end, completed or incomplete."""
    reason = incomplete_reason(finish_reason)
    response = response_object(call, head, "completed" if reason is None else "incomplete", output)
    if reason is not None:
        response["incomplete_details"] = {"reason": reason}
    if usage is not None:
        response["usage"] = usage_object(usage)
    return response


def usage_object(usage: TokenUsage) -> dict[str, Any]:
    """`usage` of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total_tokens,
    }


def failed_response(call: Call, head: Head, failure: Failure, output: list[dict[str, Any]]) -> dict[str, Any]:
    """The response object of one that failed."""
    response = response_object(call, head, "failed", output)
    if failure.code in STREAM_ERRORS:
        code = failure.code
    elif failure.status == 429:
        code = "rate_limit_exceeded"
    else:
        code = "invalid_prompt" if failure.status < 500 else "server_error"
    response["error"] = {"code": code, "message": failure.message}
    return response
