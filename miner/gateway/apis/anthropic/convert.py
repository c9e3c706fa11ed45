"""Conversations and tools in Anthropic's form, as the service takes them."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.anthropic.schema import (
    AnthropicCountBody,
    AnthropicMessage,
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
from miner.gateway.apis.images import image_part
from miner.gateway.body_limits import bounded, check_length

__all__ = ["tool_arguments", "turns"]

_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
Part = dict[str, Any]


def turns(
    asked: AnthropicCountBody, ignored: list[str], remote: list[str], names: dict[str, str]
) -> list[dict[str, Any]]:
    """The turns, the system's first. Turns of one role that follow each other become one, as at Anthropic: templates
    often take nothing but user and assistant in turns.

    Args:
        names: gets the place in the body of each turn.
    """
    if not asked.messages:
        raise InvalidRequestError("messages: at least one message is needed.", param="messages")
    check_length(asked.messages, "messages")
    system = asked.system
    if isinstance(system, list):
        system = "\n".join(block.text for block in system)
    made: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    if made:
        names["messages[0]"] = names["messages[0].content"] = "system"
    for place, message in enumerate(asked.messages):
        for turn in _turns(message, f"messages[{place}].content", ignored, remote):
            last = made[-1] if made else None
            if last is not None and last["role"] == turn["role"] == "user":
                last["content"] = _joined([*_parts_of(last["content"]), *_parts_of(turn["content"])])
            else:
                names[f"messages[{len(made)}]"] = f"messages[{place}]"
                names[f"messages[{len(made)}].tool_calls"] = f"messages[{place}].content"
                made.append(turn)
    return made


def _turns(message: AnthropicMessage, where: str, ignored: list[str], remote: list[str]) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_assistant(message.content, where, ignored)]
    made: list[dict[str, Any]] = []
    parts: list[Part] = []
    for place, block in enumerate(message.content):
        at = f"{where}[{place}]"
        if isinstance(block, ToolResultBlock) and message.role == "user":
            if parts:
                made.append({"role": "user", "content": _joined(parts)})
                parts = []
            made.append(_result(block, at, remote))
        elif isinstance(block, TextBlock | ImageBlock | DocumentBlock):
            parts.append(_part(block, at, remote))
        else:
            raise _misplaced(block, message.role, at)
    if parts or not made:
        made.append({"role": message.role, "content": _joined(parts)})
    return made


def _assistant(blocks: list[Block], where: str, ignored: list[str]) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for place, block in enumerate(blocks):
        match block:
            case TextBlock():
                texts.append(block.text)
            case ThinkingBlock():
                thoughts.append(block.thinking)
            case RedactedBlock():
                if "redacted_thinking" not in ignored:
                    ignored.append("redacted_thinking")
            case ToolUseBlock():
                arguments = msgspec.json.encode(bounded(block.input, f"{where}[{place}].input")).decode()
                function = {"name": block.name, "arguments": arguments}
                calls.append({"id": block.id, "type": "function", "function": function})
            case _:
                raise _misplaced(block, "assistant", f"{where}[{place}]")
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    if thoughts and any(thoughts):
        turn["reasoning"] = "\n".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return turn


def _misplaced(block: Block, role: str, where: str) -> InvalidRequestError:
    kind = type(block).__struct_config__.tag
    return InvalidRequestError(f"{where}: a block of type {kind!r} is not taken in a turn of role {role}.", param=where)


def _result(block: ToolResultBlock, where: str, remote: list[str]) -> dict[str, Any]:
    parts = [{"type": "text", "text": block.content}] if isinstance(block.content, str) else []
    if isinstance(block.content, list):
        parts = [_part(part, f"{where}.content[{place}]", remote) for place, part in enumerate(block.content)]
    if block.is_error:
        # No engine's form has a mark for it: the model reads it as text.
        parts.insert(0, {"type": "text", "text": "The tool failed:"})
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": _joined(parts)}


def _part(block: TextBlock | ImageBlock | DocumentBlock, where: str, remote: list[str]) -> Part:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, DocumentBlock):
        text = block.source
        if not isinstance(text, TextSource):
            raise UnsupportedFeatureError(
                f"{where}: only documents of plain text are read.", param=where, hint="Send its text."
            )
        heads = [head for head in (block.title, block.context) if head]
        return {"type": "text", "text": "\n".join([*heads, text.data])}
    source = block.source
    if isinstance(source, Base64Source):
        if source.media_type not in _IMAGES:
            raise InvalidRequestError(
                f"{where}.source.media_type must be one of {', '.join(_IMAGES)}, not {source.media_type!r}.",
                param=f"{where}.source.media_type",
            )
        return image_part(f"data:{source.media_type};base64,{source.data}", f"{where}.source.data", remote)
    return image_part(source.url, f"{where}.source.url", remote)


def _parts_of(content: str | list[Part]) -> list[Part]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _joined(parts: list[Part]) -> str | list[Part]:
    """One text where there is nothing but text: engines put different things between parts."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def tool_arguments(asked: AnthropicCountBody, ignored: list[str]) -> dict[str, Any]:
    """The service's arguments for tools and their choice."""
    choice = asked.tool_choice
    if not asked.tools:
        if choice is not None and choice.type in ("any", "tool"):
            raise InvalidRequestError("tool_choice needs tools.", param="tool_choice")
        return {}
    made: dict[str, Any] = {
        "tools": [_tool(tool, f"tools[{place}]", ignored) for place, tool in enumerate(asked.tools)]
    }
    if choice is None:
        return made
    if choice.type == "tool":
        if not choice.name:
            raise InvalidRequestError("tool_choice.name is missing.", param="tool_choice.name")
        names = [tool["function"]["name"] for tool in made["tools"]]
        if choice.name not in names:
            raise InvalidRequestError(
                f"tool_choice.name must be the name of a tool ({', '.join(names)}), not {choice.name!r}.",
                param="tool_choice.name",
            )
        made["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        made["tool_choice"] = _CHOICES[choice.type]
    if choice.disable_parallel_tool_use:
        made["parallel_tool_calls"] = False
    return made


def _tool(given: dict[str, Any], where: str, ignored: list[str]) -> dict[str, Any]:
    kind = given.get("type")
    if kind not in (None, "custom"):
        raise UnsupportedFeatureError(
            f"{where}: there is no tool of type {str(kind)[:80]!r} here.", param=f"{where}.type",
            hint="Only tools of your own are taken, with name, description and input_schema.",
        )  # fmt: skip
    try:
        tool = msgspec.convert(given, AnthropicTool)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{where} is not valid: {error}.", param=where) from None
    if tool.input_schema is None:
        raise InvalidRequestError(f"{where}.input_schema is missing.", param=f"{where}.input_schema")
    for name in ("allowed_callers", "defer_loading", "input_examples"):
        if getattr(tool, name) and f"tools.{name}" not in ignored:
            ignored.append(f"tools.{name}")
    function: dict[str, Any] = {"name": tool.name, "parameters": bounded(tool.input_schema, f"{where}.input_schema")}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
