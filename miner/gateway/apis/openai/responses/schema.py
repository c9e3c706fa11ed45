"""The body of OpenAI's `/v1/responses`, and the conversation that its items are."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.images import image_part
from miner.gateway.apis.openai.allowed_tools import allow_tools
from miner.gateway.apis.openai.common import StreamOptions
from miner.gateway.body_limits import MAX_SCHEMA, bounded, check_arguments, check_length

__all__ = ["ResponseBody", "conversation", "service_arguments", "without_effect"]


class TextConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The form of the text."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How much the model thinks first."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ResponseBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a request for a response."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None

    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    keep_alive: float | str | None = None
    timeout: float | None = None
    unsupported: str | None = None

    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    client_metadata: Any = None
    service_tier: str | None = None
    store: bool | None = None
    truncation: str | None = None
    max_tool_calls: int | None = None

    access_programs: Any = None
    background: bool | None = None
    background_options: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    moderation: Any = None
    previous_response_id: str | None = None
    prompt: Any = None


_LACKING = {
    "access_programs": "Leave it out.",
    "background": "Ask with stream: true, or wait for the answer.",
    "background_options": "Leave it out.",
    "context_management": "Send what the model is to read.",
    "conversation": "Nothing is stored here: send the whole conversation as input.",
    "image": "Replies are text.",
    "moderation": "Leave it out.",
    "previous_response_id": "Nothing is stored here: send the whole conversation as input.",
    "prompt": "Nothing is stored here: send the prompt as input.",
    "store": "Nothing is stored here: send store: false or leave it out.",
}
_PLAIN = (
    "model", "temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed",
    "keep_alive", "timeout", "unsupported",
)  # fmt: skip
_LOGPROBS = "message.output_text.logprobs"
_INCLUDES = (
    _LOGPROBS, "reasoning.encrypted_content", "file_search_call.results", "web_search_call.results",
    "web_search_call.action.sources", "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)  # fmt: skip
"""What OpenAI's clients may ask for besides; nothing but log probabilities is ever there to include."""


def without_effect(asked: ResponseBody) -> list[str]:
    """Refuse by name what we do not have; return what changes nothing here."""
    for name, instead in _LACKING.items():
        if getattr(asked, name):
            raise UnsupportedFeatureError(f"{name} is not supported.", param=name, hint=instead)
    if asked.truncation not in (None, "disabled"):
        raise UnsupportedFeatureError(
            f"truncation {asked.truncation!r} is not supported: nothing is cut silently.", param="truncation",
            hint='Leave it out or send "disabled".',
        )  # fmt: skip
    if asked.service_tier not in (None, "auto", "default"):
        raise UnsupportedFeatureError(
            f"There is no service_tier {asked.service_tier!r} here.", param="service_tier", hint="Leave it out."
        )
    ignored = [n for n in ("prompt_cache_retention", "prompt_cache_options", "max_tool_calls") if getattr(asked, n)]
    for place, name in enumerate(asked.include or ()):
        if name not in _INCLUDES:
            allowed = ", ".join(_INCLUDES)
            raise InvalidRequestError(f"include[{place}] must be one of {allowed}.", param=f"include[{place}]")
        if name != _LOGPROBS:
            ignored.append(f"include.{name}")
    if asked.text is not None and asked.text.verbosity is not None:
        ignored.append("text.verbosity")
    reasoning = asked.reasoning
    if reasoning is not None:
        names = ("summary", "generate_summary", "context", "mode")
        ignored += [f"reasoning.{name}" for name in names if getattr(reasoning, name)]
    return ignored


def service_arguments(
    asked: ResponseBody, ignored: list[str], remote: list[str], names: dict[str, str]
) -> dict[str, Any]:
    """The arguments of the service."""
    arguments: dict[str, Any] = {}
    for name in _PLAIN:
        value = getattr(asked, name)
        if value is not None:
            arguments[name] = value
    if asked.max_output_tokens is not None:
        arguments["max_tokens"] = asked.max_output_tokens
    if asked.stop:
        arguments["stop"] = asked.stop
    if asked.top_k is not None:
        arguments["top_k"] = 0 if asked.top_k == -1 else asked.top_k
    if asked.include is not None and _LOGPROBS in asked.include:
        arguments["logprobs"] = asked.top_logprobs or 0
    elif asked.top_logprobs:
        raise InvalidRequestError(f"top_logprobs needs include: [{_LOGPROBS!r}].", param="top_logprobs")
    if asked.text is not None and asked.text.format is not None:
        arguments["response_format"] = _format(asked.text.format)
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        effort = asked.reasoning.effort
        arguments["reasoning"] = False if effort == "none" else effort
    if asked.tools:
        arguments["tools"] = [_tool(tool, place) for place, tool in enumerate(asked.tools)]
        if asked.tool_choice is not None:
            arguments["tool_choice"] = bounded(asked.tool_choice, "tool_choice")
            allow_tools(arguments, names)
        if asked.parallel_tool_calls is not None:
            arguments["parallel_tool_calls"] = asked.parallel_tool_calls
    elif asked.tool_choice not in (None, "none", "auto"):
        raise InvalidRequestError("tool_choice needs tools.", param="tool_choice")
    arguments["messages"] = conversation(asked, ignored, remote, names)
    return arguments


def _format(given: dict[str, Any]) -> dict[str, Any]:
    bounded(given, "text.format", MAX_SCHEMA)
    if given.get("type") != "json_schema":
        return given
    return {"type": "json_schema", "json_schema": {name: given[name] for name in given if name != "type"}}


def _tool(tool: dict[str, Any], place: int) -> dict[str, Any]:
    bounded(tool, f"tools[{place}]")
    if tool.get("type") != "function":
        raise UnsupportedFeatureError(
            f"tools[{place}].type {tool.get('type')!r} is not supported.", param=f"tools[{place}].type",
            hint="Only function is.",
        )  # fmt: skip
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def conversation(
    asked: ResponseBody, ignored: list[str], remote: list[str], names: dict[str, str]
) -> list[dict[str, Any]]:
    """The items of the input as turns: calls and thoughts go with the assistant's turn that they belong to.

    Args:
        names: gets the place in the body of each turn and call.
    """
    turns: list[dict[str, Any]] = []
    if asked.instructions:
        names["messages[0]"] = names["messages[0].content"] = "instructions"
        turns.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        names[f"messages[{len(turns)}]"] = names[f"messages[{len(turns)}].content"] = "input"
        return [*turns, {"role": "user", "content": asked.input}]
    if not asked.input:
        raise InvalidRequestError("input must be a text or a list of at least one item.", param="input")
    check_length(asked.input, "input")
    calls = (item.get("arguments") for item in asked.input)
    check_arguments((text for text in calls if isinstance(text, str)), "input")
    thoughts: str | None = None
    for place, item in enumerate(asked.input):
        where = f"input[{place}]"
        kind = item.get("type", "message")
        if kind == "message":
            turn = _message(item, where, remote)
        elif kind == "function_call":
            turn = {"role": "assistant", "content": None, "tool_calls": [_call(item)]}
        elif kind == "function_call_output":
            turn = {
                "role": "tool",
                "tool_call_id": item.get("call_id"),
                "content": _output(item.get("output"), where, remote),
            }
        elif kind == "reasoning":
            thoughts = _thoughts(item, ignored)
            continue
        else:
            raise UnsupportedFeatureError(f"{where}.type {kind!r} is not supported.", param=f"{where}.type")
        if turn["role"] == "assistant":
            if thoughts is not None:
                turn["reasoning"] = thoughts
            if turns and turns[-1]["role"] == "assistant" and "tool_calls" in turn:
                last = turns[-1]
                last["tool_calls"] = [*last.get("tool_calls", ()), *turn["tool_calls"]]
                _name_call(names, len(turns) - 1, len(last["tool_calls"]) - 1, where)
                continue
        thoughts = None
        names[f"messages[{len(turns)}]"] = where
        if "tool_calls" in turn:
            _name_call(names, len(turns), 0, where)
        elif turn["role"] == "tool":
            names[f"messages[{len(turns)}].tool_call_id"] = f"{where}.call_id"
            names[f"messages[{len(turns)}].content"] = f"{where}.output"
        turns.append(turn)
    return turns


def _name_call(names: dict[str, str], turn: int, number: int, where: str) -> None:
    call = f"messages[{turn}].tool_calls[{number}]"
    names.update({call: where, f"{call}.function": where, f"{call}.id": f"{where}.call_id"})


def _message(item: dict[str, Any], where: str, remote: list[str]) -> dict[str, Any]:
    role = item.get("role")
    content = item.get("content")
    if isinstance(content, list):
        parts = [_part(part, f"{where}.content[{number}]", remote) for number, part in enumerate(content)]
        texts_only = all(part["type"] == "text" for part in parts)
        content = "".join(part["text"] for part in parts) if texts_only else parts
    return {"role": "system" if role == "developer" else role, "content": content}


def _part(part: Any, where: str, remote: list[str]) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text", "refusal"):
        name = "refusal" if kind == "refusal" else "text"
        if not isinstance(part.get(name, ""), str):
            raise InvalidRequestError(f"{where}.{name} must be a text.", param=f"{where}.{name}")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text", "")}
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal", "")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return image_part(part["image_url"], f"{where}.image_url", remote)
    raise UnsupportedFeatureError(
        f"{where}.type {kind!r} is not supported.", param=f"{where}.type",
        hint="input_text is, and input_image with image_url.",
    )  # fmt: skip


def _call(item: dict[str, Any]) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _output(output: Any, where: str, remote: list[str]) -> Any:
    if output is not None and not isinstance(output, (str, list)):
        raise InvalidRequestError(f"{where}.output must be a text or a list of parts.", param=f"{where}.output")
    if not isinstance(output, list):
        return output
    parts = [_part(part, f"{where}.output[{number}]", remote) for number, part in enumerate(output)]
    if any(part["type"] != "text" for part in parts):
        raise UnsupportedFeatureError(f"{where}.output must be text.", param=f"{where}.output")
    return "".join(part["text"] for part in parts)


def _thoughts(item: dict[str, Any], ignored: list[str]) -> str | None:
    """The text of a reasoning item; what OpenAI encrypted only OpenAI can read."""
    if item.get("encrypted_content") and "input.encrypted_content" not in ignored:
        ignored.append("input.encrypted_content")
    content = item.get("content")
    if not isinstance(content, list):
        return None
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str)) or None
