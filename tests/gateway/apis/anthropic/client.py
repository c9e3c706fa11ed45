"""The official `anthropic` package as a client, and what the tests send."""

from __future__ import annotations

from anthropic import AsyncAnthropic

from tests.servers.payloads import delta, finish, usage_chunk

KEY = "a-key-of-sixteen-characters"
USER = [{"role": "user", "content": "Why is the sky blue?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather of a city.", "input_schema": SCHEMA}


def client(served, **options):
    return AsyncAnthropic(base_url=served.url, api_key=KEY, max_retries=0, **options)


def call_piece(index, arguments, **named):
    function = {"arguments": arguments, **({"name": named["name"]} if named else {})}
    begins = {"id": named["id"], "type": "function"} if named else {}
    return delta(tool_calls=[{"index": index, **begins, "function": function}])


CALLS = [
    delta(role="assistant", content="Let me look."),
    call_piece(0, "", id="call_a", name="weather"),
    call_piece(0, '{"city": '),
    call_piece(0, '"Rome"}'),
    call_piece(1, '{"city":"Oslo"}', id="call_b", name="weather"),
    finish("tool_calls"),
    usage_chunk(),
]
