"""The items of a response's input as messages, and as they are stored."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.images import image_part
from miner.gateway.apis.openai.responses.tools import custom_arguments, function_name
from miner.gateway.body_structure import check_arguments, check_length
from miner.gateway.dialect import Call

_SEALED = b"miner-reasoning-1:"
"""What the `encrypted_content` of our reasoning items begins with."""
_SUMMARY = b"miner-compaction-1:"
"""The same of our compaction items."""
_SERVER_CALLS = (
    "web_search_call", "file_search_call", "code_interpreter_call", "computer_call", "computer_call_output",
    "image_generation_call", "mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response",
    "tool_search_call", "program", "program_output", "compaction_trigger",
)  # fmt: skip
"""Items about tools that only OpenAI's servers have, or that hold no text of the conversation."""
_TOOL_LISTS = ("additional_tools", "tool_search_output")
_PREFIXES = {
    "message": "msg", "function_call": "fc", "function_call_output": "fco", "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco", "reasoning": "rs", "compaction": "cmp",
}  # fmt: skip


def sealed(text: str, mark: bytes = _SEALED) -> str:
    """Reasoning as the `encrypted_content` of its item. It is encoded, not encrypted: the client has the text anyway.
    It restores the reasoning of a client that sends back nothing else of the item.
    """
    return base64.b64encode(mark + text.encode(errors="replace")).decode()


def sealed_summary(text: str) -> str:
    """The summary of a conversation as the `encrypted_content` of a compaction item."""
    return sealed(text, _SUMMARY)


def _unsealed(content: Any, mark: bytes = _SEALED) -> str | None:
    """The text of `encrypted_content`; None: another server has encrypted it."""
    if not isinstance(content, str):
        return None
    try:
        raw = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw[len(mark) :].decode(errors="replace") if raw.startswith(mark) else None


def convert_input(
    items: str | Sequence[dict[str, Any]], call: Call, *, instructions: str | None = None, earlier: int = 0
) -> list[dict[str, Any]]:
    """The items as messages: function calls and reasoning are merged into their assistant message.

    Args:
        items: the client's, behind those of earlier responses.
        call: `names` gets the item of each message and call.
        instructions: the system message.
        earlier: how many of the items are of earlier responses.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        call.names.add({"messages[0]": "instructions", "messages[0].content": "instructions"})
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        where = f"messages[{len(messages)}]"
        call.names.add({where: "input", f"{where}.content": "input"})
        return [*messages, {"role": "user", "content": items}]
    check_length(items, "input")
    texts = (item.get("arguments") for item in items)
    check_arguments((text for text in texts if isinstance(text, str)), "input")
    reasoning: str | None = None
    for place, item in enumerate(items):
        where = "previous_response_id" if place < earlier else f"input[{place - earlier}]"
        if item.get("type") == "reasoning":
            reasoning = _reasoning_text(item, call)
            continue
        message = _message(item, where, call)
        if message is None:
            continue
        if message["role"] == "assistant":
            if reasoning is not None:
                message["reasoning"] = reasoning
            if messages and messages[-1]["role"] == "assistant" and "tool_calls" in message:
                last = messages[-1]
                last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
                if reasoning is not None:
                    last.setdefault("reasoning", reasoning)
                reasoning = None
                _name_call(call, len(messages) - 1, len(last["tool_calls"]) - 1, where)
                continue
        reasoning = None
        call.names.add({f"messages[{len(messages)}]": where})
        if "tool_calls" in message:
            _name_call(call, len(messages), 0, where)
        elif message["role"] == "tool":
            tool = f"messages[{len(messages)}]"
            call.names.add({f"{tool}.tool_call_id": f"{where}.call_id", f"{tool}.content": f"{where}.output"})
        messages.append(message)
    if not call.skipped and (not messages or not items):  # what was skipped may be an error of its own
        raise InvalidRequestError("input must be a string or an array of at least one item.", param="input")
    return messages


def _name_call(call: Call, message: int, number: int, where: str) -> None:
    tool_call = f"messages[{message}].tool_calls[{number}]"
    call.names.add({tool_call: where, f"{tool_call}.function": where, f"{tool_call}.id": f"{where}.call_id"})


def _message(item: dict[str, Any], where: str, call: Call) -> dict[str, Any] | None:
    kind = item.get("type", "message")
    convert = _ITEMS.get(kind) if isinstance(kind, str) else None
    if convert is not None:
        return convert(item, where, call)
    if kind in _TOOL_LISTS:
        return None  # their tools are the model's
    if kind in _SERVER_CALLS:
        call.skip(f"{where}.{kind}", f"Unsupported value: '{where}.type' does not support {kind!r}.")
        return None
    call.skip(
        f"{where}.type", f"Unsupported value: '{where}.type' does not support {kind!r}.",
        hint="Send what the model is to read as a message.", changes=True,
    )  # fmt: skip
    return None


def _text_message(item: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if isinstance(content, list):
        content = _joined_text(_parts(content, f"{where}.content", call))
    return {"role": "system" if role == "developer" else role, "content": content}


def _called(name: Any, arguments: Any, call_id: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    tool_call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [tool_call]}


def _function_call(item: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
    return _called(function_name(item.get("name"), item.get("namespace")), item.get("arguments"), item.get("call_id"))


def _custom_tool_call(item: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
    name = function_name(item.get("name"), item.get("namespace"))
    return _called(name, custom_arguments(item.get("input")), item.get("call_id"))


def _acted(name: str, field: str) -> Callable[[dict[str, Any], str, Call], dict[str, Any]]:
    """A call of one of OpenAI's client-side tools: what it does is an object."""

    def convert(item: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
        action = item.get(field)
        arguments = msgspec.json.encode(action if isinstance(action, dict) else {}).decode()
        return _called(name, arguments, item.get("call_id") or item.get("id"))

    return convert


def _output(item: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
    output, where = item.get("output"), f"{where}.output"
    if output is not None and not isinstance(output, (str, list)):
        raise InvalidRequestError(f"{where} must be a string or an array of parts.", param=where)
    if isinstance(output, list):
        output = _joined_text(_parts(output, where, call))
    return {"role": "tool", "tool_call_id": item.get("call_id") or item.get("id"), "content": output}


def _shell_output(item: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
    output = item.get("output")
    text = output if isinstance(output, str) else msgspec.json.encode(output).decode()
    return {"role": "tool", "tool_call_id": item.get("call_id") or item.get("id"), "content": text}


def _compaction(item: dict[str, Any], where: str, call: Call) -> dict[str, Any] | None:
    text = _unsealed(item.get("encrypted_content"), _SUMMARY)
    if text is None:
        call.skip(
            f"{where}.encrypted_content", f"{where}.encrypted_content was encrypted by another server.",
            hint="Send the conversation itself.", changes=True,
        )  # fmt: skip
        return None
    return {"role": "user", "content": f"Summary of the conversation so far:\n{text}"}


_ITEMS: dict[str, Callable[[dict[str, Any], str, Call], dict[str, Any] | None]] = {
    "message": _text_message,
    "function_call": _function_call,
    "function_call_output": _output,
    "custom_tool_call": _custom_tool_call,
    "custom_tool_call_output": _output,
    "local_shell_call": _acted("local_shell", "action"),
    "local_shell_call_output": _output,
    "shell_call": _acted("shell", "action"),
    "shell_call_output": _shell_output,
    "apply_patch_call": _acted("apply_patch", "operation"),
    "apply_patch_call_output": _output,
    "compaction": _compaction,
    "compaction_summary": _compaction,
    "context_compaction": _compaction,
}


def _unsupported_type(where: str, kind: Any, hint: str | None = None) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(f"Unsupported value: '{where}' does not support {kind!r}.", param=where, hint=hint)


def _parts(content: list[Any], where: str, call: Call) -> list[dict[str, Any]]:
    return [_part(part, f"{where}[{number}]", call) for number, part in enumerate(content)]


def _joined_text(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    return "".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts


def _part(part: Any, where: str, call: Call) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"):
        name = "refusal" if kind == "refusal" else "text"
        text = part.get(name, "")
        if not isinstance(text, str):
            raise InvalidRequestError(f"{where}.{name} must be a string.", param=f"{where}.{name}")
        return {"type": "text", "text": text}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return image_part(part["image_url"], f"{where}.image_url", call.remote_images)
    raise _unsupported_type(f"{where}.type", kind, "Supported are input_text, and input_image with image_url.")


def _reasoning_text(item: dict[str, Any], call: Call) -> str | None:
    """The text of a reasoning item: its content, else what we sealed, else its summary. Only OpenAI can read what it
    encrypted.
    """
    text = _texts(item.get("content"))
    if text is not None:
        return text
    encrypted = item.get("encrypted_content")
    text = _unsealed(encrypted)
    if text is None and encrypted and "input.encrypted_content" not in call.ignored:
        call.ignored.append("input.encrypted_content")
    return text if text is not None else _texts(item.get("summary"))


def _texts(parts: Any) -> str | None:
    if not isinstance(parts, list):
        return None
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str)) or None


def stored_items(items: str | Sequence[dict[str, Any]] | None, response: str) -> list[dict[str, Any]]:
    """The input as it is stored and listed: each item with an id, and its content as parts.

    Args:
        response: the id of its response, without the prefix.
    """
    if items is None:
        return []
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    return [_stored(item, f"{response}{0x8000 + place:04x}") for place, item in enumerate(items)]


def _stored(item: dict[str, Any], name: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    prefix = _PREFIXES.get(kind, "item") if isinstance(kind, str) else "item"
    stored = {"id": f"{prefix}_{name}", "type": kind, **item}
    if not isinstance(stored["id"], str) or not stored["id"]:
        stored["id"] = f"{prefix}_{name}"
    if kind == "message":
        content = item.get("content")
        if isinstance(content, str):
            assistant = item.get("role") == "assistant"
            part: dict[str, Any] = {"type": "output_text" if assistant else "input_text", "text": content}
            stored["content"] = [part | {"annotations": []} if assistant else part]
        elif isinstance(content, list):
            stored["content"] = [_stored_part(part) for part in content]
    if kind != "reasoning":
        stored.setdefault("status", "completed")
    return stored


def _stored_part(part: Any) -> Any:
    defaults: dict[str, dict[str, Any]] = {"input_image": {"detail": "auto"}, "output_text": {"annotations": []}}
    kind = part.get("type") if isinstance(part, dict) else None
    return {**defaults[kind], **part} if isinstance(kind, str) and kind in defaults else part
