"""The attributes of the two spans of a request, as the conventions name them. Prompts and replies are not in them."""

from __future__ import annotations

from typing import Any

from miner.core.wire import UNLIMITED
from miner.gateway.context import RequestContext
from miner.gateway.telemetry import conventions as names
from miner.gateway.telemetry.labels import operation_of

Attributes = dict[str, Any]

_MAX_TEXT = 200
_MAX_STOPS = 16
_NUMBERS = {
    "temperature": names.REQUEST_TEMPERATURE, "top_p": names.REQUEST_TOP_P,
    "frequency_penalty": names.REQUEST_FREQUENCY_PENALTY, "presence_penalty": names.REQUEST_PRESENCE_PENALTY,
}  # fmt: skip
"""Parameter -> attribute, where that is a floating-point number."""
_COUNTS = {"max_tokens": names.REQUEST_MAX_TOKENS, "top_k": names.REQUEST_TOP_K, "seed": names.REQUEST_SEED}
"""Parameter -> attribute, where that is an integer."""
_INT64 = 2**63


def http_attributes(context: RequestContext) -> Attributes:
    """What is known of an HTTP request when its headers are read."""
    request = context.request
    host, port = _host_and_port(request.host)
    attributes: Attributes = {
        names.HTTP_METHOD: context.route.method, names.HTTP_ROUTE: context.route.path,
        names.URL_PATH: request.path[:_MAX_TEXT], names.URL_SCHEME: request.scheme,
        names.CLIENT_ADDRESS: context.peer, names.SERVER_ADDRESS: host,
        "miner.request.id": context.id, "miner.key": context.caller.name,
    }  # fmt: skip
    if port is not None:
        attributes[names.SERVER_PORT] = port
    return attributes


def _host_and_port(host: str) -> tuple[str, int | None]:
    """Split a Host header, whose port may be missing and whose address may be in brackets."""
    name, _, port = host.rpartition(":")
    if not name or not port.isdecimal():
        return host.strip("[]")[:_MAX_TEXT], None
    return name.strip("[]")[:_MAX_TEXT], int(port[:5])


def http_result(context: RequestContext) -> Attributes:
    """What is known of it at its end."""
    return {names.HTTP_STATUS: context.status} if context.status != 499 else {}  # that one was never sent


def call_attributes(context: RequestContext) -> Attributes:
    """What is known of a call before it is made: samplers decide by it."""
    call, service = context.call, context.gateway.service
    name = context.served or (call.model if call is not None else None)
    backend = service.backend_of(name)
    attributes: Attributes = {
        names.OPERATION: operation_of(context), names.PROVIDER: backend.name, "miner.request.id": context.id,
        "miner.key": context.caller.name,
    }  # fmt: skip
    # Engines that run here are part of this node: it is the server then.
    address, port = backend.server_address or _host_and_port(context.request.host)
    attributes[names.SERVER_ADDRESS] = address
    if port is not None:
        attributes[names.SERVER_PORT] = port
    if call is None:
        return attributes
    if call.model:
        attributes[names.REQUEST_MODEL] = call.model[:_MAX_TEXT]
    if call.stream:
        attributes[names.REQUEST_STREAM] = True
    if len(call.arguments) > 1:
        attributes[names.REQUEST_CHOICES] = len(call.arguments)
    if call.previous_response is not None:
        attributes[names.REQUEST_PREVIOUS] = call.previous_response[:_MAX_TEXT]
    for option, value in (call.arguments[0] if call.arguments else {}).items():
        attributes.update(_option(option, value))
    return attributes


def _option(option: str, value: Any) -> Attributes:
    """The attribute of a parameter, if it has one."""
    if option in _NUMBERS and isinstance(value, int | float):
        return {_NUMBERS[option]: float(value)}
    if option in _COUNTS and isinstance(value, int) and -_INT64 <= value < _INT64:
        return {} if option == "max_tokens" and value == UNLIMITED else {_COUNTS[option]: value}
    if option == "stop" and value:
        stops = [value] if isinstance(value, str) else value
        return {names.REQUEST_STOP: [str(stop)[:_MAX_TEXT] for stop in stops[:_MAX_STOPS]]}
    if option == "reasoning" and isinstance(value, str):
        return {names.REQUEST_REASONING: value[:_MAX_TEXT]}
    if option == "response_format" and value is not None:
        return {names.OUTPUT_TYPE: names.TEXT_OUTPUT if _is_text(value) else names.JSON_OUTPUT}
    return {}


def _is_text(response_format: Any) -> bool:
    """Whether an output format in OpenAI's form is another one than JSON."""
    return isinstance(response_format, dict) and response_format.get("type") in ("text", "regex", "grammar", "choice")


def call_result(context: RequestContext, seconds_to_first_chunk: float | None) -> Attributes:
    """What is known of a call at its end."""
    usage, call = context.reported_usage, context.call
    attributes: Attributes = {}
    if context.response_id is not None:
        attributes[names.RESPONSE_ID] = context.response_id
    if context.response_model:
        attributes[names.RESPONSE_MODEL] = context.response_model[:_MAX_TEXT]
    reasons = _finish_reasons(context, len(call.arguments) if call is not None else 0)
    if reasons:
        attributes[names.RESPONSE_FINISH_REASONS] = reasons
    if context.streamed and seconds_to_first_chunk is not None:
        attributes[names.RESPONSE_FIRST_CHUNK] = seconds_to_first_chunk
    if usage is not None:
        attributes[names.USAGE_INPUT] = usage.prompt_tokens
        if call is not None and call.arguments:  # what is no generation has no output
            attributes[names.USAGE_OUTPUT] = usage.completion_tokens
        if usage.cached_tokens is not None:
            attributes[names.USAGE_CACHE_READ] = usage.cached_tokens
        if usage.reasoning_tokens is not None:
            attributes[names.USAGE_REASONING] = usage.reasoning_tokens
    if context.queue_seconds is not None:
        attributes["miner.queue.seconds"] = context.queue_seconds
    if context.cost is not None:
        attributes["miner.cost"] = context.cost
    return attributes


def _finish_reasons(context: RequestContext, choices: int) -> list[str]:
    """Why each choice ended, in their order; empty where nothing was generated."""
    ended = context.finish_reasons
    if not ended and context.first_token_at is None:
        return []
    return [ended.get(index, names.FINISHED_BY_ERROR) for index in range(max(choices, 1))]
