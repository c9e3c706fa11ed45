"""Conversations: validated before they are sent, so that no engine drops a message silently."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from miner.core.wire import Message, ToolCall
from miner.errors import InvalidRequestError

ROLES = ("system", "user", "assistant", "tool")


def checked_messages(messages: Any) -> list[Message]:
    """Return Messages, from mappings as in OpenAI's API.

    Raises:
        InvalidRequestError: names the message and field.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise InvalidRequestError(
            "messages must be a list of at least one message, such as "
            '[{"role": "user", "content": "Hello"}].', param="messages"
        )  # fmt: skip
    return [_checked_message(message, place) for place, message in enumerate(messages)]


def _checked_message(message: Any, place: int) -> Message:
    where = f"messages[{place}]"
    if isinstance(message, Message):
        message = msgspec.to_builtins(message)  # msgspec does not validate in constructors
    if not isinstance(message, Mapping):
        raise InvalidRequestError(f"{where} must be a mapping with role and content.", param="messages")
    role = message.get("role")
    if role == "developer":
        role = "system"  # OpenAI's newer name of it
    if role not in ROLES:
        raise InvalidRequestError(
            f"{where}.role must be one of {', '.join(ROLES)}, developer, not {reprlib.repr(role)}.",
            param=f"{where}.role",
        )
    fields = _set_fields(message, where)
    fields["role"] = role
    try:
        checked = msgspec.convert(fields, Message)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error), where) from None
    if checked.content is None and "content" in message and role in ("assistant", "tool") and not checked.tool_calls:
        checked.content = ""  # clients send null for an empty response and an empty tool result
    if checked.content is None and not (role == "assistant" and (checked.tool_calls or checked.reasoning)):
        raise InvalidRequestError(f"{where}.content is missing.", param=f"{where}.content")
    if role == "tool" and not checked.tool_call_id:
        raise InvalidRequestError(
            f"{where}.tool_call_id is missing: a tool message must name the call that it is the result of.",
            param=f"{where}.tool_call_id",
        )
    if checked.tool_calls and role != "assistant":
        raise InvalidRequestError(
            f"{where}.tool_calls is allowed in assistant messages only.", param=f"{where}.tool_calls"
        )
    checked.tool_calls = [
        _checked_call(call, f"{where}.tool_calls[{number}]", f"call_{place}_{number}")
        for number, call in enumerate(checked.tool_calls or ())
    ] or None
    return checked


_PLACE = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*?)`", re.DOTALL)


def _wrong_type(text: str, where: str) -> InvalidRequestError:
    """The decoder's error, with the field in front."""
    found = _PLACE.fullmatch(text)
    reason, place = (found.group(1), where + (found.group(2) or "")) if found is not None else (text, where)
    field = _FIELD.match(reason)
    if field is None:
        return InvalidRequestError(f"{place} is not valid: {reason[:1].lower()}{reason[1:]}.", param=place)
    place = f"{place}.{field.group(2)}"
    if field.group(1) == "missing required":
        return InvalidRequestError(f"{place} is missing.", param=place)
    return InvalidRequestError(f"Unknown field: {place}.", param=place, hint="Leave it out.")


def _set_fields(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields that are not empty. Clients send responses back as they got them, with empty fields (OpenAI's
    have `refusal: null`, `annotations: []`, `audio: null`, `function_call: null`).
    """
    fields = {name: value for name, value in message.items() if value is not None and value != [] and value != {}}
    if "content" not in fields and message.get("content") == []:
        fields["content"] = ""
    if "reasoning_content" in fields:
        fields.setdefault("reasoning", fields["reasoning_content"])
        del fields["reasoning_content"]
    refusal = fields.pop("refusal", None)
    if isinstance(refusal, str):
        fields.setdefault("content", refusal)
    elif refusal is not None:
        raise InvalidRequestError(f"{where}.refusal must be a string.", param=f"{where}.refusal")
    if isinstance(fields.get("content"), (list, tuple)):
        fields["content"] = [_part(part) for part in fields["content"]]
    return fields


def _part(part: Any) -> Any:
    """A content part; a refusal is text that the model wrote."""
    if isinstance(part, Mapping) and part.get("type") == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    return part


def _checked_call(call: Any, where: str, call_id: str) -> ToolCall:
    """A complete tool call of an earlier message.

    Args:
        call_id: the id of a call that has none.
    """
    if not isinstance(call, Mapping) or call.get("type", "function") not in ("function", None):
        raise InvalidRequestError(f'{where} must be {{"type": "function", "function": {{...}}}}.', param=where)
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRequestError(f"{where}.function.name is missing.", param=where)
    own_id = call.get("id")
    if own_id is not None and not isinstance(own_id, str):
        raise InvalidRequestError(f"{where}.id must be a string.", param=f"{where}.id")
    arguments = _checked_arguments(function.get("arguments"), where)
    return {
        "id": own_id or call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments},
    }  # fmt: skip


def _checked_arguments(arguments: Any, where: str) -> str:
    """Arguments as text: unchanged, or encoded from an object; `{}` if there are none. What a model wrote wrongly need
    not be JSON: it is to read that when it corrects it.
    """
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return "{}"
    if isinstance(arguments, Mapping):
        try:
            return msgspec.json.encode(arguments).decode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{where}.function.arguments is not JSON: {error}.", param=where) from None
    if not isinstance(arguments, str):
        raise InvalidRequestError(f"{where}.function.arguments must be JSON text or an object.", param=where)
    return arguments


def as_prompt(messages: Sequence[Message]) -> str:
    """Return one prompt for a backend that supports only prompts: the text of a single user message, else `role: text`
    lines that end in `assistant:`.
    """
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].text()
    return "\n".join([*(f"{message.role}: {message.text()}" for message in messages), "assistant:"])
