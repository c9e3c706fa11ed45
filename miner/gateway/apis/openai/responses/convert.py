"""The parameters and input items of OpenAI's `/v1/responses` as the service takes them."""

from __future__ import annotations

from typing import Any

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.fields import refuse_service_tier, refuse_unsupported
from miner.gateway.apis.images import image_part
from miner.gateway.apis.openai.convert import common_arguments, tool_arguments
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.body_structure import MAX_SCHEMA, bounded, check_arguments, check_length
from miner.gateway.dialect import Call

_UNSUPPORTED = {
    "access_programs": "Remove it.",
    "background": "Send stream: true, or wait for the response.",
    "background_options": "Remove it.",
    "context_management": "Send what the model is to read.",
    "conversation": "Nothing is stored: send the entire conversation as input.",
    "image": "Only text is generated.",
    "moderation": "Remove it.",
    "previous_response_id": "Nothing is stored: send the entire conversation as input.",
    "prompt": "Nothing is stored: send the prompt as input.",
    "store": "Nothing is stored: send store: false or remove it.",
}
_LOGPROBS = "message.output_text.logprobs"
_INCLUDES = (
    _LOGPROBS, "reasoning.encrypted_content", "file_search_call.results", "web_search_call.results",
    "web_search_call.action.sources", "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)  # fmt: skip
"""Values of `include`; only log probabilities exist here."""


def ignored_fields(request: ResponseRequest) -> list[str]:
    """The fields that change nothing here.

    Raises:
        RequestError: names a field or value that is not supported.
    """
    refuse_unsupported(request, _UNSUPPORTED)
    if request.truncation not in (None, "disabled"):
        raise UnsupportedFeatureError(
            f"Unsupported value: 'truncation' does not support {request.truncation!r}. No input is cut silently.",
            param="truncation", hint="Remove it or send 'disabled'.",
        )  # fmt: skip
    refuse_service_tier(request.service_tier, ("auto", "default"))
    ignored = [n for n in ("prompt_cache_retention", "prompt_cache_options", "max_tool_calls") if getattr(request, n)]
    for place, name in enumerate(request.include or ()):
        if name not in _INCLUDES:
            allowed = ", ".join(_INCLUDES)
            raise InvalidRequestError(f"include[{place}] must be one of {allowed}.", param=f"include[{place}]")
        if name != _LOGPROBS:
            ignored.append(f"include.{name}")
    if request.text is not None and request.text.verbosity is not None:
        ignored.append("text.verbosity")
    if request.reasoning is not None:
        names = ("summary", "generate_summary", "context", "mode")
        ignored += [f"reasoning.{name}" for name in names if getattr(request.reasoning, name)]
    return ignored


def service_arguments(request: ResponseRequest, call: Call) -> dict[str, Any]:
    """The service's arguments, without the messages."""
    arguments = common_arguments(request)
    if request.max_output_tokens is not None:
        arguments["max_tokens"] = request.max_output_tokens
    if request.include is not None and _LOGPROBS in request.include:
        arguments["logprobs"] = request.top_logprobs or 0
    elif request.top_logprobs:
        raise InvalidRequestError(f"top_logprobs requires include: [{_LOGPROBS!r}].", param="top_logprobs")
    if request.text is not None and request.text.format is not None:
        arguments["response_format"] = _response_format(request.text.format)
    if request.reasoning is not None and request.reasoning.effort is not None:
        effort = request.reasoning.effort
        arguments["reasoning"] = False if effort == "none" else effort
    tools = [_tool(tool, place) for place, tool in enumerate(request.tools or ())]
    return arguments | tool_arguments(tools, request.tool_choice, request.parallel_tool_calls, call.names)


def _response_format(text_format: dict[str, Any]) -> dict[str, Any]:
    bounded(text_format, "text.format", MAX_SCHEMA)
    if text_format.get("type") != "json_schema":
        return text_format
    return {"type": "json_schema", "json_schema": {name: text_format[name] for name in text_format if name != "type"}}


def _tool(tool: dict[str, Any], place: int) -> dict[str, Any]:
    bounded(tool, f"tools[{place}]")
    if tool.get("type") != "function":
        raise UnsupportedFeatureError(
            f"Unsupported value: 'tools[{place}].type' does not support {tool.get('type')!r}.",
            param=f"tools[{place}].type", hint="Only 'function' is supported.",
        )  # fmt: skip
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def convert_input(request: ResponseRequest, call: Call) -> list[dict[str, Any]]:
    """The items of the input as messages: function calls and reasoning are merged into their assistant message.
    `call.names` gets the item of each message and call.
    """
    messages: list[dict[str, Any]] = []
    if request.instructions:
        call.names.add({"messages[0]": "instructions", "messages[0].content": "instructions"})
        messages.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        where = f"messages[{len(messages)}]"
        call.names.add({where: "input", f"{where}.content": "input"})
        return [*messages, {"role": "user", "content": request.input}]
    if not request.input:
        raise InvalidRequestError("input must be a string or an array of at least one item.", param="input")
    check_length(request.input, "input")
    texts = (item.get("arguments") for item in request.input)
    check_arguments((text for text in texts if isinstance(text, str)), "input")
    reasoning: str | None = None
    for place, item in enumerate(request.input):
        where = f"input[{place}]"
        if item.get("type") == "reasoning":
            reasoning = _reasoning_text(item, call)
            continue
        message = _message(item, where, call)
        if message["role"] == "assistant":
            if reasoning is not None:
                message["reasoning"] = reasoning
            if messages and messages[-1]["role"] == "assistant" and "tool_calls" in message:
                last = messages[-1]
                last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
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
    return messages


def _name_call(call: Call, message: int, number: int, where: str) -> None:
    tool_call = f"messages[{message}].tool_calls[{number}]"
    call.names.add({tool_call: where, f"{tool_call}.function": where, f"{tool_call}.id": f"{where}.call_id"})


def _message(item: dict[str, Any], where: str, call: Call) -> dict[str, Any]:
    match item.get("type", "message"):
        case "message":
            role = item.get("role")
            content = item.get("content")
            if isinstance(content, list):
                content = _joined_text(_parts(content, f"{where}.content", call))
            return {"role": "system" if role == "developer" else role, "content": content}
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            tool_call = {"id": item.get("call_id"), "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [tool_call]}
        case "function_call_output":
            output = _output(item.get("output"), f"{where}.output", call)
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}
        case kind:
            raise _unsupported_type(f"{where}.type", kind)


def _unsupported_type(where: str, kind: Any, hint: str | None = None) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(f"Unsupported value: '{where}' does not support {kind!r}.", param=where, hint=hint)


def _parts(content: list[Any], where: str, call: Call) -> list[dict[str, Any]]:
    return [_part(part, f"{where}[{number}]", call) for number, part in enumerate(content)]


def _joined_text(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    return "".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts


def _part(part: Any, where: str, call: Call) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text", "refusal"):
        name = "refusal" if kind == "refusal" else "text"
        text = part.get(name, "")
        if not isinstance(text, str):
            raise InvalidRequestError(f"{where}.{name} must be a string.", param=f"{where}.{name}")
        return {"type": "text", "text": text}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return image_part(part["image_url"], f"{where}.image_url", call.remote_images)
    raise _unsupported_type(f"{where}.type", kind, "Supported are input_text, and input_image with image_url.")


def _output(output: Any, where: str, call: Call) -> Any:
    if output is not None and not isinstance(output, (str, list)):
        raise InvalidRequestError(f"{where} must be a string or an array of parts.", param=where)
    if not isinstance(output, list):
        return output
    text = _joined_text(_parts(output, where, call))
    if not isinstance(text, str):
        raise UnsupportedFeatureError(f"{where} must be text.", param=where)
    return text


def _reasoning_text(item: dict[str, Any], call: Call) -> str | None:
    """The text of a reasoning item; only OpenAI can read what it encrypted."""
    if item.get("encrypted_content") and "input.encrypted_content" not in call.ignored:
        call.ignored.append("input.encrypted_content")
    content = item.get("content")
    if not isinstance(content, list):
        return None
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str)) or None
