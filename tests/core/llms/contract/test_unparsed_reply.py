"""Calls that are read out of text that an engine could not parse."""

from __future__ import annotations

import json

import pytest

from miner.core.llms.contract.unparsed_reply import malformed_reply_error, parse_tool_calls
from miner.core.wire import ChatRequest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
PARIS = '{"city": "Paris"}'


def read(raw, tools=(WEATHER, ADD), **options):
    request = ChatRequest(max_tokens=8, temperature=0, top_p=1, tools=list(tools), **options)
    content, calls = parse_tool_calls(raw, request)
    return content, [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        ('<tool_call>{"name": "get_weather", "arguments": ' + PARIS + "}</tool_call>", ""),
        ('Let me see.\n<tool_call>\n{"name": "get_weather", "parameters": ' + PARIS + "}", "Let me see."),
        ('{"name": "get_weather", "arguments": ' + PARIS, ""),  # the last bracket is missing
        ('{"name": "get_weather", "arguments": ' + PARIS + "}}", ""),  # one too many
        ('{"type": "function", "function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}', ""),
        ('{"tool_call": {"name": "get_weather", "arguments": ' + PARIS + "}}", ""),
        ('functools[{"name": "get_weather", "arguments": ' + PARIS + "}]", ""),
        ("[TOOL_CALLS]get_weather[ARGS]" + PARIS, ""),
        ("<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>" + PARIS + "<|tool_call_end|>", ""),
        ("Well.<|channel|>commentary to=functions.get_weather <|message|>" + PARIS, "Well.<|channel|>commentary"),
        (">>>get_weather\n" + PARIS, ""),
        ("<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>", ""),
        ('<invoke name="get_weather"><parameter name="city">Paris</parameter></invoke>', ""),
        (
            'Sure: <|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": ' + PARIS + "}]",
            "Sure:",
        ),
    ],
)
def test_a_call_is_read_in_whatever_form_it_is_written(raw, content):
    assert read(raw) == (content, [("get_weather", {"city": "Paris"})])


def test_several_calls_are_read_in_their_order():
    raw = (
        '<tool_call>{"name": "get_weather", "arguments": '
        + PARIS
        + '}</tool_call>{"name": "add", "arguments": {"a": 1}}'
    )
    assert read(raw) == ("", [("get_weather", {"city": "Paris"}), ("add", {"a": 1})])
    assert read(raw, parallel_tool_calls=False)[1] == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize(
    "raw",
    [
        "No call.",
        '{"name": "remove", "arguments": {"city": "Paris"}}',
        '{"name": "get_weather", "arguments": {"town": "Paris"}}',
        '{"name": "get_weather", "arguments": "Paris"}',
        '{"name": "get_weather", "arguments": {"city": "Par',
        '{"city": "Paris"}',  # of which function?
        "the_get_weather_of {",
        "{" * 500,
        "",
    ],
)
def test_what_is_no_call_of_a_tool_that_was_offered_is_text(raw):
    assert read(raw) == (raw, [])


def test_the_arguments_alone_are_a_call_of_the_only_tool():
    assert read('{"city": "a\nb"} and so on', tools=[WEATHER])[1] == [("get_weather", {"city": "a\nb"})]
    assert read(PARIS, tools=[WEATHER], tool_choice="none") == (PARIS, [])


def test_the_raw_text_is_in_ollamas_message():
    said = "error parsing tool call: raw='{\"city\": it's Paris}', err=invalid character 'i' looking for a value"
    assert malformed_reply_error(said, "ollama", {}).raw == '{"city": it\'s Paris}'
    assert malformed_reply_error("out of memory", "ollama", {}) is None
    assert (
        malformed_reply_error("Unexpected empty grammar stack after accepting piece: >>> (36991)", "x", {}) is not None
    )
    assert (
        malformed_reply_error(
            "The model produced output that does not match the expected peg-native format", "x", {}
        ).raw
        is None
    )
