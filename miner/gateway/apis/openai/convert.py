"""OpenAI's parameters, messages and tools as the service takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from miner.core.llms.contract.request import folded_seed
from miner.errors import InvalidRequestError
from miner.gateway.apis.fields import set_fields
from miner.gateway.apis.images import check_parts
from miner.gateway.apis.openai.guided import response_format
from miner.gateway.apis.openai.legacy_functions import FunctionHistory
from miner.gateway.apis.openai.options import ChoiceOptions
from miner.gateway.apis.openai.schema import CommonParams, SamplingParams, StreamOptions
from miner.gateway.body_structure import bounded, check_arguments, check_length
from miner.gateway.dialect import Call
from miner.gateway.field_names import FieldNames

MAX_CHOICES = 16
"""Choices (`n`, times the prompts) of one request at most."""
_SAME = (
    "model", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "min_p", "repeat_penalty",
    "keep_alive", "timeout", "unsupported",
)  # fmt: skip
"""Parameters that the service has under the same name."""


_MESSAGE_FIELDS = {
    "role", "content", "reasoning", "reasoning_content", "tool_calls", "tool_call_id", "name", "refusal",
}  # fmt: skip
_PART_TYPES = ("text", "image_url", "refusal")


def common_arguments(body: CommonParams) -> dict[str, Any]:
    """The service's arguments that completions and responses share."""
    arguments = set_fields(body, _SAME)
    if body.stop:
        arguments["stop"] = body.stop
    if body.top_k is not None:
        arguments["top_k"] = 0 if body.top_k == -1 else body.top_k
    return arguments


def sampling_arguments(body: SamplingParams) -> dict[str, Any]:
    """The service's arguments that both kinds of completions share."""
    arguments = {**common_arguments(body), **set_fields(body, ("max_tokens", "logit_bias"))}
    _refuse_different(body, "repeat_penalty", "repetition_penalty")
    _refuse_different(body, "max_tokens", "n_predict")
    if body.repetition_penalty is not None:
        arguments["repeat_penalty"] = body.repetition_penalty
    if body.stream_options is not None:
        if not body.stream:
            raise InvalidRequestError("stream_options requires stream: true.", param="stream_options")
        if body.stream_options.continuous_usage_stats:
            arguments["continuous_usage"] = True
    if body.n_predict is not None:
        arguments["max_tokens"] = body.n_predict
    if arguments.get("max_tokens") == 0:
        arguments["max_tokens"] = 1  # the least that engines generate; it is not delivered
    if body.n_probs:
        arguments["logprobs"] = body.n_probs
    if body.return_progress and body.stream:
        arguments["progress"] = True
    if body.logit_bias is not None:
        bounded(body.logit_bias, "logit_bias")
    if (wanted := response_format(body)) is not None:
        arguments["response_format"] = wanted[0]
    return arguments


def _refuse_different(body: SamplingParams, name: str, other: str) -> None:
    """Refuse two names of one parameter with different values: one of them would be dropped silently."""
    one, two = getattr(body, name), getattr(body, other)
    if None not in (one, two) and one != two:
        raise InvalidRequestError(f"{name} {one} and {other} {two} differ.", param=name, hint="Send only one of them.")


def choice_options(body: SamplingParams, prompts: int = 1) -> ChoiceOptions:
    """How the choices are written."""
    asked = body.stream_options or StreamOptions()
    continuous = bool(asked.continuous_usage_stats)
    timings = bool(body.timings_per_token or body.return_progress)
    limits = (getattr(body, "max_completion_tokens", None), body.max_tokens, body.n_predict)
    return ChoiceOptions(
        bool(asked.include_usage) or continuous, prompts, continuous_usage=continuous, timings=timings,
        prompt_only=next((limit for limit in limits if limit is not None), None) == 0,
    )  # fmt: skip


def sampling_names(body: SamplingParams) -> dict[str, str]:
    """The client's fields for the service's parameters, where they differ."""
    names = {"continuous_usage": "stream_options.continuous_usage_stats", "progress": "return_progress"}
    if body.max_tokens is None and body.n_predict is not None:
        names["max_tokens"] = "n_predict"
    if body.repeat_penalty is None:
        names["repeat_penalty"] = "repetition_penalty"
    if (wanted := response_format(body)) is not None and (name := wanted[1]) != "response_format":
        names |= {"response_format": name, "response_format.json_schema.schema": name}
    return names


def choice_arguments(n: int | None, seed: int | None, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of `n` calls. With a seed, each has its own: equal seeds would give equal choices."""
    if n is None or n == 1:
        return [arguments]
    if not 1 <= n <= MAX_CHOICES:
        raise InvalidRequestError(f"n must be from 1 to {MAX_CHOICES}, not {n}.", param="n")
    if seed is None:
        return [dict(arguments) for _ in range(n)]
    first = folded_seed(seed)
    return [{**arguments, "seed": -1 if first is None else first + index} for index in range(n)]


def convert_messages(messages: list[dict[str, Any]], call: Call) -> list[dict[str, Any]]:
    """The messages as the service takes them: in OpenAI's form, without deprecated fields. Fields that no chat template
    uses are listed as ignored.
    """
    check_length(messages, "messages")
    check_arguments(_call_arguments(messages), "messages")
    functions = FunctionHistory()
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        functions.convert(message, place)
        if message.pop("audio", None):
            call.skip(f"{where}.audio", hint="Send its transcript as content.")
        ignored = [name for name in ("annotations", "cache_control") if message.pop(name, None)]
        if isinstance(message.get("content"), list):
            message["content"] = _known_parts(message["content"], f"{where}.content", call)
        content = message.get("content")
        parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        for number, part in enumerate(parts):
            if part.get("type") == "image_url" and isinstance(part.get("image_url"), str):
                part["image_url"] = {"url": part["image_url"]}  # as other servers take it
            if part.pop("cache_control", None) is not None and "content.cache_control" not in ignored:
                ignored.append("content.cache_control")  # engines cache prompts by themselves
            if part.get("type") in _PART_TYPES:
                for name in part.keys() - {"type", part["type"]}:
                    call.foreign[f"{where}.content[{number}].{name}"] = part.pop(name)
        if message.get("role") == "tool":
            if (tool_name := message.pop("tool_name", None)) is not None:
                message.setdefault("name", tool_name)  # Ollama's field
        elif message.pop("name", None) is not None:
            ignored.append("name")  # no engine's template shows it to the model
        for name in message.keys() - _MESSAGE_FIELDS:
            call.foreign[f"{where}.{name}"] = message.pop(name)
        call.ignored += [f"messages.{name}" for name in ignored if f"messages.{name}" not in call.ignored]
        check_parts(message, where, call.remote_images)
    return messages


def _known_parts(content: list[Any], where: str, call: Call) -> list[Any]:
    """The parts of a content without audio, files and others that no model here reads."""
    kept = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in _PART_TYPES:
            path = f"{where}[{number}].type"
            call.skip(
                path, f"Unsupported value: '{path}' does not support {kind[:40]!r}.",
                hint="Supported are text and image_url: send the text of a file or of speech.", changes=True,
            )  # fmt: skip
        else:
            kept.append(part)
    return kept


def _call_arguments(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        tool_calls = message.get("tool_calls")
        for tool_call in tool_calls if isinstance(tool_calls, list) else ():
            function = tool_call.get("function") if isinstance(tool_call, dict) else None
            text = function.get("arguments") if isinstance(function, dict) else None
            if isinstance(text, str):
                yield text


def tool_arguments(
    tools: list[Any] | None, tool_choice: Any, parallel_tool_calls: bool | None, names: FieldNames
) -> dict[str, Any]:
    """The service's arguments for tools and the choice among them.

    Args:
        tools: in the form of chat completions.
        names: gets the client's field of each tool that `allowed_tools` leaves.

    Raises:
        InvalidRequestError: names the invalid part of the choice.
    """
    if not tools:
        if tool_choice not in (None, "none", "auto"):
            raise InvalidRequestError("tool_choice requires tools.", param="tool_choice")
        return {}
    arguments: dict[str, Any] = {"tools": tools}
    if tool_choice is not None:
        arguments["tool_choice"] = bounded(tool_choice, "tool_choice")
        if isinstance(tool_choice, dict) and tool_choice.get("type") == "allowed_tools":
            arguments.update(_allowed_tools(tools, tool_choice, names))
    if parallel_tool_calls is not None:
        arguments["parallel_tool_calls"] = parallel_tool_calls
    return arguments


def _allowed_tools(tools: list[Any], choice: dict[str, Any], names: FieldNames) -> dict[str, Any]:
    """The tools that the choice allows, and its mode."""
    nested = "allowed_tools" in choice  # as in chat completions; in responses they stand beside `type`
    where = "tool_choice.allowed_tools" if nested else "tool_choice"
    allowed = choice["allowed_tools"] if nested else choice
    if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list) or not allowed["tools"]:
        raise InvalidRequestError(f"{where}.tools must be a list of at least one tool.", param=f"{where}.tools")
    mode = allowed.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise InvalidRequestError(f"{where}.mode must be 'auto' or 'required'.", param=f"{where}.mode")
    known = [_tool_name(tool) for tool in tools]
    wanted = [_tool_name(tool) for tool in allowed["tools"]]
    for place, name in enumerate(wanted):
        if name is None or name not in known:
            path = f"{where}.tools[{place}]"
            available = ", ".join(one for one in known if one is not None)
            raise InvalidRequestError(f"{path} must name one of the tools ({available}).", param=path)
    places = [place for place, name in enumerate(known) if name in wanted]
    for index, place in enumerate(places):
        if index != place:
            function = names.of(f"tools[{place}].function")
            names.add({f"tools[{index}].function": function, f"tools[{index}]": f"tools[{place}]"})
    return {"tools": [tools[place] for place in places], "tool_choice": mode}


def _tool_name(tool: Any) -> str | None:
    function = tool.get("function", tool.get("custom", tool)) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
