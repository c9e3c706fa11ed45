"""Anthropic's parameters, messages and tools as the service takes them."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.anthropic.schema import (
    AnthropicCountTokensRequest,
    AnthropicMessage,
    AnthropicMessagesRequest,
    AnthropicTool,
    Base64Source,
    Block,
    DocumentBlock,
    ImageBlock,
    RedactedBlock,
    TextBlock,
    TextSource,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from miner.gateway.apis.anthropic.signature import carried_thinking
from miner.gateway.apis.fields import set_fields
from miner.gateway.apis.images import image_part
from miner.gateway.body_structure import MAX_SCHEMA, bounded, check_length
from miner.gateway.dialect import Call

_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
Part = dict[str, Any]


def sampling_arguments(request: AnthropicMessagesRequest, call: Call) -> dict[str, Any]:
    """The service's arguments, without messages and tools."""
    if request.max_tokens < 1:  # the service's own error would offer -1, which this API does not have
        raise InvalidRequestError(
            f"max_tokens must be an integer of at least 1, not {request.max_tokens}.", param="max_tokens"
        )
    arguments: dict[str, Any] = set_fields(request, ("model", "max_tokens", "temperature", "top_p"))
    if request.top_k:
        arguments["top_k"] = request.top_k
    if request.stop_sequences:
        arguments["stop"] = request.stop_sequences
    if request.output_config is not None and request.output_config.format is not None:
        arguments["response_format"] = _response_format(request.output_config.format)
    reasoning = _reasoning(request, call)
    if reasoning is not None:
        arguments["reasoning"] = reasoning
    return arguments


def _response_format(output_format: dict[str, Any]) -> dict[str, Any]:
    if output_format.get("type") != "json_schema" or not isinstance(output_format.get("schema"), dict):
        raise InvalidRequestError(
            'output_config.format must be {"type": "json_schema", "schema": {...}}.', param="output_config.format"
        )
    schema = bounded(output_format["schema"], "output_config.format.schema", MAX_SCHEMA)
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _reasoning(request: AnthropicMessagesRequest, call: Call) -> bool | str | None:
    """The service's `reasoning` for `thinking` and `effort`; None (no `thinking`, or `adaptive`): the model decides."""
    thinking = request.thinking
    effort = request.output_config.effort if request.output_config is not None else None
    if thinking is not None:
        if thinking.budget_tokens is not None:
            call.ignored.append("thinking.budget_tokens")  # no engine here limits reasoning alone
        if thinking.type == "disabled":
            if effort is not None:
                call.ignored.append("output_config.effort")
            return False
    if effort is not None:
        return effort
    return True if thinking is not None and thinking.type == "enabled" else None


def convert_messages(request: AnthropicCountTokensRequest, call: Call) -> list[dict[str, Any]]:
    """The messages, the system message first. Consecutive user messages are merged, as by Anthropic: many templates
    require alternating roles. `call.names` gets the place of each message in the body.
    """
    if not request.messages:
        raise InvalidRequestError("messages: at least one message is required.", param="messages")
    check_length(request.messages, "messages")
    system = request.system
    if isinstance(system, list):
        system = "\n".join(block.text for block in system)
    converted: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    if converted:
        call.names.add({"messages[0]": "system", "messages[0].content": "system"})
    for place, message in enumerate(request.messages):
        where = f"messages[{place}]"
        for one in _convert_message(message, f"{where}.content", call):
            last = converted[-1] if converted else None
            if last is not None and last["role"] == one["role"] == "user":
                last["content"] = _joined([*_parts_of(last["content"]), *_parts_of(one["content"])])
            else:
                name = f"messages[{len(converted)}]"
                call.names.add({name: where, f"{name}.tool_calls": f"{where}.content"})
                converted.append(one)
    return converted


def _convert_message(message: AnthropicMessage, where: str, call: Call) -> list[dict[str, Any]]:
    """One message, or several: each tool result is a message of its own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_assistant(message.content, where, call)]
    converted: list[dict[str, Any]] = []
    parts: list[Part] = []
    for place, block in enumerate(message.content):
        at = f"{where}[{place}]"
        if isinstance(block, ToolResultBlock) and message.role == "user":
            if parts:
                converted.append({"role": "user", "content": _joined(parts)})
                parts = []
            converted.append(_tool_result(block, at, call))
        elif isinstance(block, TextBlock | ImageBlock | DocumentBlock):
            parts.append(_part(block, at, call))
        else:
            raise _misplaced(block, message.role, at)
    if parts or not converted:
        converted.append({"role": message.role, "content": _joined(parts)})
    return converted


def _assistant(blocks: list[Block], where: str, call: Call) -> dict[str, Any]:
    texts, reasoning, tool_calls = [], [], []
    for place, block in enumerate(blocks):
        match block:
            case TextBlock():
                texts.append(block.text)
            case ThinkingBlock():
                reasoning.append(block.thinking or carried_thinking(block.signature))
            case RedactedBlock():
                if "redacted_thinking" not in call.ignored:
                    call.ignored.append("redacted_thinking")
            case ToolUseBlock():
                arguments = msgspec.json.encode(bounded(block.input, f"{where}[{place}].input")).decode()
                function = {"name": block.name, "arguments": arguments}
                tool_calls.append({"id": block.id, "type": "function", "function": function})
            case _:
                raise _misplaced(block, "assistant", f"{where}[{place}]")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or (None if tool_calls else "")}
    if any(reasoning):
        message["reasoning"] = "\n".join(filter(None, reasoning))
    if tool_calls:
        message["tool_calls"] = tool_calls
    return message


def _misplaced(block: Block, role: str, where: str) -> InvalidRequestError:
    kind = type(block).__struct_config__.tag
    return InvalidRequestError(f"{where}: `{kind}` blocks are not allowed in messages of role `{role}`.", param=where)


def _tool_result(block: ToolResultBlock, where: str, call: Call) -> dict[str, Any]:
    parts = [{"type": "text", "text": block.content}] if isinstance(block.content, str) else []
    if isinstance(block.content, list):
        parts = [_part(part, f"{where}.content[{place}]", call) for place, part in enumerate(block.content)]
    if block.is_error:
        # No engine's template has a flag for it: the model reads it as text.
        parts.insert(0, {"type": "text", "text": "The tool failed:"})
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": _joined(parts)}


def _part(block: TextBlock | ImageBlock | DocumentBlock, where: str, call: Call) -> Part:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, DocumentBlock):
        if not isinstance(block.source, TextSource):
            raise UnsupportedFeatureError(
                f"{where}: only plain text documents are supported.", param=where, hint="Send its text."
            )
        headers = [header for header in (block.title, block.context) if header]
        return {"type": "text", "text": "\n".join([*headers, block.source.data])}
    source = block.source
    if isinstance(source, Base64Source):
        if source.media_type not in _IMAGES:
            raise InvalidRequestError(
                f"{where}.source.media_type must be one of {', '.join(_IMAGES)}, not {source.media_type!r}.",
                param=f"{where}.source.media_type",
            )
        url = f"data:{source.media_type};base64,{source.data}"
        return image_part(url, f"{where}.source.data", call.remote_images)
    return image_part(source.url, f"{where}.source.url", call.remote_images)


def _parts_of(content: str | list[Part]) -> list[Part]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _joined(parts: list[Part]) -> str | list[Part]:
    """One string where there is nothing but text: engines join parts with different separators."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def tool_arguments(request: AnthropicCountTokensRequest, call: Call) -> dict[str, Any]:
    """The service's arguments for tools and the choice among them."""
    choice = request.tool_choice
    if not request.tools:
        if choice is not None and choice.type in ("any", "tool"):
            raise InvalidRequestError("tool_choice requires tools.", param="tool_choice")
        return {}
    tools = [_tool(tool, f"tools[{place}]", call) for place, tool in enumerate(request.tools)]
    arguments: dict[str, Any] = {"tools": tools}
    if choice is None:
        return arguments
    if choice.type == "tool":
        if not choice.name:
            raise InvalidRequestError("Missing required parameter: 'tool_choice.name'.", param="tool_choice.name")
        names = [tool["function"]["name"] for tool in tools]
        if choice.name not in names:
            raise InvalidRequestError(
                f"tool_choice.name must be the name of a tool ({', '.join(names)}), not {choice.name!r}.",
                param="tool_choice.name",
            )
        arguments["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        arguments["tool_choice"] = _TOOL_CHOICES[choice.type]
    if choice.disable_parallel_tool_use:
        arguments["parallel_tool_calls"] = False
    return arguments


def _tool(body: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
    kind = body.get("type")
    if kind not in (None, "custom"):
        raise UnsupportedFeatureError(
            f"Unsupported value: '{where}.type' does not support {str(kind)[:80]!r}.", param=f"{where}.type",
            hint="Only custom tools are supported, with name, description and input_schema.",
        )  # fmt: skip
    try:
        tool = msgspec.convert(body, AnthropicTool)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"Invalid value for '{where}': {error}.", param=where) from None
    if tool.input_schema is None:
        path = f"{where}.input_schema"
        raise InvalidRequestError(f"Missing required parameter: {path!r}.", param=path)
    for name in ("allowed_callers", "defer_loading", "input_examples"):
        if getattr(tool, name) and f"tools.{name}" not in call.ignored:
            call.ignored.append(f"tools.{name}")
    function: dict[str, Any] = {"name": tool.name, "parameters": bounded(tool.input_schema, f"{where}.input_schema")}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
