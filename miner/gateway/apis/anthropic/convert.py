"""Anthropic's parameters, messages and tools as the service takes them."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.errors import InvalidRequestError
from miner.gateway.apis.anthropic.blocks import readable
from miner.gateway.apis.anthropic.schema import (
    AnthropicCountTokensRequest,
    AnthropicMessage,
    AnthropicMessagesRequest,
    Base64Source,
    Block,
    DocumentBlock,
    ForeignBlock,
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
_ADDITIONS = ("tool_addition", "tool_removal", "mcp_tool_listing")
"""Blocks of which only Anthropic's own tools know."""
_SHOWN = 64
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
    output_format = request.output_config.format if request.output_config is not None else None
    output_format = output_format or request.output_format
    if output_format:
        arguments["response_format"] = _response_format(output_format)
    reasoning = reasoning_argument(request, call)
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


def reasoning_argument(request: AnthropicCountTokensRequest, call: Call) -> bool | str | None:
    """The service's `reasoning` for `thinking` and `effort`; None (no `thinking`, `adaptive` or `between_tools`): the
    model decides.
    """
    thinking = request.thinking
    effort = request.output_config.effort if request.output_config is not None else None
    if thinking is not None:
        if thinking.budget_tokens is not None:
            call.skip("thinking.budget_tokens")  # no engine here limits reasoning alone
        if thinking.type == "disabled":
            if effort is not None:
                call.skip("output_config.effort")
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
            if one["role"] != "assistant" and isinstance(one["content"], list):
                image = _first_image(message, where)
                call.names.add({f"messages[{len(converted) - 1}].content": image})
    return converted


def _first_image(message: AnthropicMessage, where: str) -> str:
    """The place of a message's first image."""
    for place, block in enumerate(message.content or ()):
        if isinstance(block, ImageBlock):
            return f"{where}.content[{place}].image"
        if isinstance(block, ToolResultBlock) and isinstance(block.content, list):
            for inner, part in enumerate(block.content):
                if isinstance(part, ImageBlock):
                    return f"{where}.content[{place}].content[{inner}].image"
    return f"{where}.content"


def _convert_message(message: AnthropicMessage, where: str, call: Call) -> list[dict[str, Any]]:
    """One message, or several: each tool result is a message of its own."""
    if message.content is None:
        if message.role == "system":
            return []
        raise InvalidRequestError(f"Missing required parameter: {where!r}.", param=where)
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return _Assistant(message.content, where, call).messages
    converted: list[dict[str, Any]] = []
    parts: list[Part] = []
    for place, block in enumerate(message.content):
        at = f"{where}[{place}]"
        if isinstance(block, ToolResultBlock) and message.role == "user":
            if parts:
                converted.append({"role": "user", "content": _joined(parts)})
                parts = []
            converted.append(_tool_result(block, at, call))
        elif isinstance(block, TextBlock | ImageBlock | DocumentBlock | ForeignBlock):
            parts += _parts(block, at, call)
        else:
            raise _misplaced(block, message.role, at)
    if parts or not converted:
        converted.append({"role": message.role, "content": _joined(parts)})
    return converted


class _Assistant:
    """An assistant message, cut behind the calls that Anthropic's own servers have answered in the middle of it."""

    def __init__(self, blocks: list[Block], where: str, call: Call) -> None:
        self.messages: list[dict[str, Any]] = []
        self._begin()
        foreign = [block.block for block in blocks if isinstance(block, ForeignBlock)]
        answered = {str(block.get("tool_use_id")) for block in foreign}
        for place, block in enumerate(blocks):
            at = f"{where}[{place}]"
            match block:
                case TextBlock():
                    self._texts.append(block.text)
                case ThinkingBlock():
                    self._reasoning.append(block.thinking or carried_thinking(block.signature))
                case RedactedBlock():
                    call.skip(f"{at}.redacted_thinking")
                case ToolUseBlock():
                    self._tool_call(block.id, block.name, block.input, at)
                case ForeignBlock():
                    self._foreign(block.block, answered, at, call)
                case _:
                    raise _misplaced(block, "assistant", at)
        if self._texts or self._reasoning or self._tool_calls or not self.messages:
            self._flush()

    def _begin(self) -> None:
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[dict[str, Any]] = []

    def _flush(self) -> None:
        content = "".join(self._texts) or (None if self._tool_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if any(self._reasoning):
            message["reasoning"] = "\n".join(filter(None, self._reasoning))
        if self._tool_calls:
            message["tool_calls"] = self._tool_calls
        self.messages.append(message)
        self._begin()

    def _tool_call(self, call_id: str, name: str, arguments: dict[str, Any], where: str) -> None:
        text = msgspec.json.encode(bounded(arguments, f"{where}.input")).decode()
        self._tool_calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": text}})

    def _foreign(self, block: dict[str, Any], answered: set[Any], where: str, call: Call) -> None:
        kind, call_id, answers = _kind(block), block.get("id"), block.get("tool_use_id")
        if kind in ("server_tool_use", "mcp_tool_use") and isinstance(call_id, str) and call_id in answered:
            arguments = block.get("input")
            name = str(block.get("name") or kind)
            self._tool_call(call_id, name, arguments if isinstance(arguments, dict) else {}, where)
        elif isinstance(answers, str) and any(one["id"] == answers for one in self._tool_calls):
            if any(one["id"] != answers for one in self._tool_calls):
                # Calls that are answered by other blocks, or by the client, stay behind this result.
                ours = [one for one in self._tool_calls if one["id"] == answers]
                rest = [one for one in self._tool_calls if one["id"] != answers]
                self._tool_calls = ours
                self._flush()
                self._tool_calls = rest
            else:
                self._flush()
            self.messages.append({"role": "tool", "tool_call_id": answers, "content": readable(block.get("content"))})
        elif kind == "compaction":
            self._texts.append(readable(block.get("content")))
        else:
            call.skip(f"{where}.{kind[:_SHOWN]}", _unsupported(block, where))


def _misplaced(block: Block, role: str, where: str) -> InvalidRequestError:
    kind = type(block).__struct_config__.tag
    return InvalidRequestError(f"{where}: `{kind}` blocks are not allowed in messages of role `{role}`.", param=where)


def _tool_result(block: ToolResultBlock, where: str, call: Call) -> dict[str, Any]:
    parts = [{"type": "text", "text": block.content}] if isinstance(block.content, str) else []
    if isinstance(block.content, list):
        for place, part in enumerate(block.content):
            parts += _parts(part, f"{where}.content[{place}]", call)
    if block.is_error:
        # No engine's template has a flag for it: the model reads it as text.
        parts.insert(0, {"type": "text", "text": "The tool failed:"})
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": _joined(parts)}


def _parts(block: TextBlock | ImageBlock | DocumentBlock | ForeignBlock, where: str, call: Call) -> list[Part]:
    """The parts of a block; none where it is left out."""
    if isinstance(block, TextBlock):
        return [{"type": "text", "text": block.text}]
    if isinstance(block, ForeignBlock):
        return _foreign_parts(block.block, where, call)
    if isinstance(block, DocumentBlock):
        if not isinstance(block.source, TextSource):
            message = "Only plain text documents are supported."
            call.skip(f"{where}.document", message, hint="Send its text.", changes=True)
            return []
        headers = [header for header in (block.title, block.context) if header]
        return [{"type": "text", "text": "\n".join([*headers, block.source.data])}]
    source = block.source
    if isinstance(source, Base64Source):
        if source.media_type not in _IMAGES:
            raise InvalidRequestError(
                f"{where}.source.media_type must be one of {', '.join(_IMAGES)}, not {source.media_type!r}.",
                param=f"{where}.source.media_type",
            )
        url = f"data:{source.media_type};base64,{source.data}"
        return [image_part(url, f"{where}.source.data", call.remote_images)]
    return [image_part(source.url, f"{where}.source.url", call.remote_images)]


def _foreign_parts(block: dict[str, Any], where: str, call: Call) -> list[Part]:
    """What a model can read of a block in a user or system message, or in a tool's result."""
    kind, source = _kind(block), block.get("source")
    if kind == "tool_reference" and isinstance(block.get("tool_name"), str):
        return [{"type": "text", "text": f"The tool {block['tool_name']} is available."}]
    if kind == "document" and isinstance(source, dict) and source.get("type") == "content":
        inner = source.get("content")
        items = inner if isinstance(inner, list) else [{"type": "text", "text": inner}]
        headers = [block[name] for name in ("title", "context") if isinstance(block.get(name), str)]
        parts: list[Part] = [{"type": "text", "text": "\n".join(headers)}] if any(headers) else []
        for place, item in enumerate(items):
            at = f"{where}.source.content[{place}]"
            try:
                parts += _parts(msgspec.convert(item, TextBlock | ImageBlock), at, call)
            except msgspec.ValidationError as error:
                raise InvalidRequestError(f"Invalid value for '{at}': {error}.", param=at) from None
        return parts
    if kind == "search_result" or kind.endswith("_tool_result"):
        return [{"type": "text", "text": readable(block)}]
    call.skip(f"{where}.{kind[:_SHOWN]}", _unsupported(block, where), changes=kind not in _ADDITIONS)
    return []


def _kind(block: dict[str, Any]) -> str:
    return str(block.get("type"))


def _unsupported(block: dict[str, Any], where: str) -> str:
    kind, source = _kind(block)[:_SHOWN], block.get("source")
    if isinstance(source, dict) and isinstance(source.get("type"), str):
        return f"{where}: `{kind}` blocks with a source of type `{source['type'][:_SHOWN]}` are not supported."
    return f"{where}: `{kind}` blocks are not supported."


def _parts_of(content: str | list[Part]) -> list[Part]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _joined(parts: list[Part]) -> str | list[Part]:
    """One string where there is nothing but text: engines join parts with different separators."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts
