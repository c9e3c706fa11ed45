"""The parameters of OpenAI's `/v1/responses` as the service takes them."""

from __future__ import annotations

from typing import Any

from miner.errors import InvalidRequestError
from miner.gateway.apis.fields import check_metadata, refuse_unsupported
from miner.gateway.apis.openai.convert import common_arguments
from miner.gateway.apis.openai.responses.schema import ResponseRequest
from miner.gateway.apis.openai.responses.tools import Tools, tool_choice_arguments
from miner.gateway.body_structure import MAX_SCHEMA, bounded
from miner.gateway.dialect import Call

_UNSUPPORTED = {
    "access_programs": "Remove it.",
    "conversation": "Use previous_response_id, or send the entire conversation as input.",
    "image": "Only text is generated.",
    "prompt": "No prompts are stored here: send it as instructions and input.",
}
"""What the model would read or do otherwise: it cannot be left out."""
_ADDITIONS = {
    "context_management": "No input is cut or compacted silently: send what the model is to read.",
    "moderation": "Nothing is moderated here.",
    "background_options": "Remove it.",
    "personality": "Describe it in instructions.",
}
"""Left out, and listed."""
_LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"
_INCLUDES = (
    _LOGPROBS, ENCRYPTED, "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
)  # fmt: skip
"""Values of `include`: log probabilities, reasoning to send back, and what only OpenAI's tools have."""


def skip_fields(request: ResponseRequest, call: Call) -> None:
    """Skip the fields that change nothing here.

    Raises:
        RequestError: names a field or value that is not supported.
    """
    refuse_unsupported(request, _UNSUPPORTED)
    for name, hint in _ADDITIONS.items():
        if getattr(request, name):
            call.skip(name, hint=hint)
    if request.truncation not in (None, "disabled"):
        call.skip(
            "truncation", f"Unsupported value: 'truncation' does not support {request.truncation!r}. No input is cut "
            f"silently: what is too long is an error.", hint="Remove it or send 'disabled'.",
        )  # fmt: skip
    if request.service_tier not in (None, "auto", "default"):
        call.skip(
            "service_tier", f"Unsupported value: 'service_tier' does not support {request.service_tier!r}.",
            hint="Remove it.",
        )  # fmt: skip
    for name in ("prompt_cache_retention", "prompt_cache_options", "max_tool_calls"):
        if getattr(request, name):
            call.ignored.append(name)
    for place, name in enumerate(request.include or ()):
        if name not in _INCLUDES:
            allowed = ", ".join(_INCLUDES)
            raise InvalidRequestError(f"include[{place}] must be one of {allowed}.", param=f"include[{place}]")
        if name not in (_LOGPROBS, ENCRYPTED):
            call.ignored.append(f"include.{name}")
    if request.text is not None and request.text.verbosity is not None:
        call.ignored.append("text.verbosity")
    if request.reasoning is not None:
        call.ignored += [f"reasoning.{name}" for name in ("context", "mode") if getattr(request.reasoning, name)]


def service_arguments(request: ResponseRequest, tools: Tools, call: Call) -> dict[str, Any]:
    """The service's arguments, without the messages."""
    check_metadata(request.metadata)
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
    return arguments | tool_choice_arguments(request, tools, call)


def _response_format(text_format: dict[str, Any]) -> dict[str, Any]:
    bounded(text_format, "text.format", MAX_SCHEMA)
    if text_format.get("type") != "json_schema":
        return text_format
    return {"type": "json_schema", "json_schema": {name: text_format[name] for name in text_format if name != "type"}}
