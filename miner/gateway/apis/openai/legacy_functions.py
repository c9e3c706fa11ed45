"""OpenAI's deprecated `functions` and `function_call`, as tools and back."""

from __future__ import annotations

from typing import Any

from miner.core.wire import ToolCall
from miner.errors import InvalidRequestError
from miner.gateway.apis.openai.schema import ChatCompletionRequest
from miner.gateway.field_names import FieldNames


class FunctionHistory:
    """Rewrites the messages of a conversation with functions, whose calls have no ids."""

    def __init__(self) -> None:
        self._ids: dict[Any, str] = {}
        """Function -> the id of its last call."""

    def convert(self, message: dict[str, Any], place: int) -> None:
        """Make a tool call of `function_call`, and a tool message of the role `function`."""
        called = message.pop("function_call", None)
        if isinstance(called, dict) and not message.get("tool_calls"):
            name = called.get("name")
            call_id = self._ids[name if isinstance(name, str) else None] = f"call_{place}"
            message["tool_calls"] = [{"id": call_id, "type": "function", "function": called}]
        elif called:
            raise InvalidRequestError(
                f"messages[{place}].function_call must be an object, without tool_calls beside it.",
                param=f"messages[{place}].function_call",
            )
        if message.get("role") == "function":
            name = message.get("name")
            message["role"] = "tool"
            message["tool_call_id"] = self._ids.get(name if isinstance(name, str) else None, f"call_{place}")


def function_tools(request: ChatCompletionRequest, names: FieldNames) -> tuple[list[Any] | None, Any]:
    """The tools and the choice among them that the request's functions mean.

    Raises:
        InvalidRequestError: the older and the newer fields are mixed, or one is malformed.
    """
    functions, choice = request.functions, request.function_call
    for old, new in (("functions", "tools"), ("function_call", "tool_choice")):
        if getattr(request, old) and getattr(request, new) is not None:
            raise InvalidRequestError(f"{old} and {new} cannot both be set.", param=old, hint=f"Send {new} alone.")
    if functions is not None and not isinstance(functions, list):
        raise InvalidRequestError("functions must be an array.", param="functions")
    names.add({"tools": "functions", "tools[*].function": "functions[*]", "tool_choice": "function_call"})
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice not in (None, "auto", "none"):
        raise InvalidRequestError(
            f"function_call must be 'auto', 'none' or an object with a name, not {str(choice)[:80]!r}.",
            param="function_call",
        )
    return [{"type": "function", "function": function} for function in functions or ()] or None, choice


def function_call(tool_calls: list[ToolCall]) -> dict[str, Any]:
    """`function_call` of a message or of a delta: the first call."""
    function: dict[str, Any] = tool_calls[0]["function"]
    return function
