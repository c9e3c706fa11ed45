"""The JSON bodies of Ollama's native chat, generate and load requests.

Facts are those of Ollama's source of 2026-08-21 and of responses recorded from it.
"""

from __future__ import annotations

from typing import Any

from miner.core.llms.contract.capabilities import nearest_level
from miner.core.llms.contract.extra import merge_extra
from miner.core.llms.contract.images import base64_of
from miner.core.llms.contract.sampling import top_k_of
from miner.core.llms.contract.tools import arguments_object
from miner.core.llms.schema.support import format_schema
from miner.core.wire import ChatRequest, Message, ToolCall
from miner.errors import UnsupportedFeatureError

_THINK_LEVELS = ("low", "medium", "high")
_OPTION_NAMES = ("seed", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty")


def request_body(request: ChatRequest, *, num_ctx: int | None, reasons: bool) -> tuple[str, dict[str, Any]]:
    """Return path and JSON body of a request to `/api/chat` or, verbatim, `/api/generate`.

    Args:
        num_ctx: context length, the same in every request: another one makes Ollama reload the model.
        reasons: whether the model can reason; for others `think` is an error.
    """
    options: dict[str, Any] = {
        "num_predict": request.max_tokens,  # -1 ends with the context, because `shift` is off
        "temperature": request.temperature,
        "top_p": request.top_p,
        # Always sent, because defaults differ by engine and model file; these values disable each.
        "top_k": top_k_of(request), "min_p": 0.0, "repeat_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0,
    }  # fmt: skip
    for name in _OPTION_NAMES:
        value = getattr(request, name)
        if value is not None:
            options[name] = value
    # Stop strings are not sent but watched for here (stop_strings.py).
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    body: dict[str, Any] = {
        "model": request.model,
        "stream": True,
        "options": options,
        # Without these two Ollama truncates the prompt and shifts the context silently.
        "truncate": False,
        "shift": False,
    }
    if reasons:
        level = nearest_level(request, _THINK_LEVELS)
        body["think"] = True if level is None else level
    if request.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = max(1, request.logprobs)  # with 0 Ollama sends none; the alternatives are dropped later
    if request.keep_alive is not None:
        body["keep_alive"] = request.keep_alive
    if (output := request.response_format) is not None:
        body["format"] = "json" if output.schema is None else format_schema(request, bounds=False).schema
    if request.suffix is not None:  # Ollama ignores it where `raw` is set: the model's template has the gap's tokens
        body |= {"prompt": request.prompt, "suffix": request.suffix}
        path = "/api/generate"
    elif request.raw:
        body["prompt"] = request.prompt
        body["raw"] = True
        path = "/api/generate"
    elif request.context is not None and (turn := _turn(request)) is not None:
        body |= turn
        path = "/api/generate"
    else:
        body["messages"] = _messages(request.as_messages())
        if request.tools is not None and request.tool_choice != "none":
            body["tools"] = request.tools
        path = "/api/chat"
    merge_extra(body, request.extra)
    return path, body


def _turn(request: ChatRequest) -> dict[str, Any] | None:
    """The fields of `/api/generate`, which alone knows a context; None: this is a longer conversation."""
    messages = _messages(request.as_messages())
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["system", "user"]) or request.tools is not None:
        return None
    turn = {"prompt": messages[-1]["content"]}
    if len(messages) == 2:
        turn["system"] = messages[0]["content"]
    if "images" in messages[-1]:
        turn["images"] = messages[-1]["images"]
    return turn | ({"context": request.context} if request.context else {})


def _messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Map messages: content is text only, images are separate, arguments are objects, tool messages name their tool."""
    if messages[-1].role == "assistant":
        raise UnsupportedFeatureError(
            "ollama cannot continue an assistant message reliably: that depends on the model's template.",
            param=f"messages[{len(messages) - 1}].role",
            hint="End with a user or tool message.",
        )
    names: dict[str, str] = {}
    mapped = []
    for index, message in enumerate(messages):
        item: dict[str, Any] = {"role": message.role, "content": message.text()}
        images = []
        for part in message.images():
            data = base64_of(part.image_url.url)
            if data is None:
                raise UnsupportedFeatureError(
                    "ollama accepts images as data: URLs only.", param=f"messages[{index}].content"
                )
            images.append(data)
        if images:
            item["images"] = images
        if message.reasoning is not None:
            item["thinking"] = message.reasoning
        if message.tool_calls:
            item["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
            names.update({call["id"]: call["function"]["name"] for call in message.tool_calls if call.get("id")})
        if message.role == "tool":
            item["tool_call_id"] = message.tool_call_id
            name = message.name or names.get(message.tool_call_id or "")
            if name:
                item["tool_name"] = name
        mapped.append(item)
    return mapped


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = call["function"]
    mapped: dict[str, Any] = {"function": {"name": function["name"], "arguments": arguments_object(call)}}
    if call.get("id"):
        mapped["id"] = call["id"]
    return mapped


def load_request(
    model: str, *, generates: bool, num_ctx: int | None, keep_alive: float | str | None
) -> tuple[str, dict[str, Any]]:
    """Return path and JSON body of a request that only loads the model.

    Args:
        generates: whether the model generates text; one that only embeds cannot be loaded by `/api/generate`.
        num_ctx: as in `request_body`; another `shift` than there would make Ollama reload the model too.
    """
    body: dict[str, Any] = {"model": model, "truncate": False}
    if generates:
        body |= {"stream": False, "shift": False}
        if num_ctx is not None:
            body["options"] = {"num_ctx": num_ctx}
    else:
        body["input"] = []
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return "/api/generate" if generates else "/api/embed", body
