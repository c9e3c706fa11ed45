"""Conversations: what is taken, what is refused and how, and the prompt that the generate-only backend gets."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.contract.messages import as_prompt, checked_messages
from miner.core.wire import ImagePart, ImageURL, Message, TextPart
from miner.errors import InvalidRequestError
from tests.core.services import ENGINES, read, service_at

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def call(**function: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}]}


WRONG: list[tuple[Any, str, str]] = [
    ([], "messages must be a list of at least one message", "messages"),
    ("hi", "messages must be a list of at least one message", "messages"),
    (USER, "messages must be a list of at least one message", "messages"),
    (7, "messages must be a list of at least one message", "messages"),
    ([USER, "hi"], "messages[1] must be a mapping with role and content", "messages"),
    ([{"role": "robot", "content": "x"}],
     "messages[0].role must be one of system, user, assistant, tool, developer, not 'robot'",
     "messages[0].role"),
    ([{"content": "x"}],
     "messages[0].role must be one of system, user, assistant, tool, developer, not None", "messages[0].role"),
    ([{"role": ["user"], "content": "x"}], "messages[0].role must be one of", "messages[0].role"),
    ([{"role": "user"}], "messages[0].content is missing", "messages[0].content"),
    ([{"role": "user", "content": None}], "messages[0].content is missing", "messages[0].content"),
    ([{"role": "assistant"}], "messages[0].content is missing", "messages[0].content"),
    ([{"role": "user", "content": 5}], "messages[0].content is not valid: expected", "messages[0].content"),
    ([USER, {"role": "user", "content": [{"type": "video", "url": "x"}]}], "messages[1].content[0].type is not",
     "messages[1].content[0].type"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text is missing",
     "messages[0].content[0].text"),
    ([{"role": "user", "content": ["hi"]}], "messages[0].content[0] is not valid", "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
     "messages[0].content[0].image_url is not valid", "messages[0].content[0].image_url"),
    ([{**USER, "colour": "red"}], "Unknown field: messages[0].colour", "messages[0].colour"),
    ([{"role": "tool", "content": "18"}], "messages[0].tool_call_id is missing", "messages[0].tool_call_id"),
    ([{**USER, "tool_calls": [CALL]}], "messages[0].tool_calls is allowed in assistant messages only",
     "messages[0].tool_calls"),
    ([call(arguments="{}")], "messages[0].tool_calls[0].function.name is missing", "messages[0].tool_calls[0]"),
    ([call(name="f", arguments=[1])], "function.arguments must be JSON text", "messages[0].tool_calls[0]"),
    ([{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f"}}]}],
     'messages[0].tool_calls[0] must be {"type": "function"', "messages[0].tool_calls[0]"),
    # Structs of our own are no way around the checks.
    ([Message(role="robot", content="x")], "messages[0].role must be one of", "messages[0].role"),  # type: ignore[arg-type]
    ([Message(role="user")], "messages[0].content is missing", "messages[0].content"),
    ([Message(role="tool", content="x")], "messages[0].tool_call_id is missing", "messages[0].tool_call_id"),
    ([Message(role="user", content=5)], "messages[0].content is not valid: ", "messages[0].content"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("messages", "words", "param"), WRONG)
def test_a_wrong_conversation_is_refused_by_place_and_value(messages: Any, words: str, param: str):
    with pytest.raises(InvalidRequestError) as caught:
        checked_messages(messages)
    assert words in str(caught.value)
    assert caught.value.param == param


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("messages", "words", "param"), WRONG[4:10])
async def test_all_backends_refuse_it_before_they_send_anything(engine: str, messages: Any, words: str, param: str):
    """Ollama drops a turn of an unknown role silently; vLLM does not look at roles."""
    async with service_at(engine, "http://127.0.0.1:9") as service:
        with pytest.raises(InvalidRequestError) as caught:
            await service.chat_completion(messages)
        assert caught.value.param == param
        with pytest.raises(InvalidRequestError):
            await read(service.stream(messages=messages))


def test_what_a_client_sends_back_of_a_reply_is_taken():
    """Nulls, as OpenAI's clients leave them, and thoughts under either engine's name."""
    taken = checked_messages(
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": None},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
            {"role": "tool", "content": "18", "tool_call_id": "c1", "name": "f"},
            {"role": "assistant", "content": "", "reasoning": "x", "reasoning_content": "y", "tool_calls": None},
            Message(role="user", content=[TextPart("c"), ImagePart(ImageURL("data:image/png;base64,aGk="))]),
        ]
    )
    assert [message.text() for message in taken] == ["be brief", "ab", "", "18", "", "c"]
    assert [message.reasoning for message in taken] == [None, None, "hm", None, "x", None]
    assert taken[2].tool_calls == [CALL]
    assert len(taken[5].images()) == 1


OPENAI_REPLY = {
    "role": "assistant", "content": "Hi.", "refusal": None, "annotations": [], "audio": None, "function_call": None,
    "tool_calls": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (OPENAI_REPLY, Message(role="assistant", content="Hi.")),
        ({**OPENAI_REPLY, "tool_calls": []}, Message(role="assistant", content="Hi.")),
        ({**OPENAI_REPLY, "content": None}, Message(role="assistant", content="")),
        ({**OPENAI_REPLY, "content": None, "refusal": "No."}, Message(role="assistant", content="No.")),
        ({"role": "assistant", "content": []}, Message(role="assistant", content="")),
        ({"role": "developer", "content": "Be brief."}, Message(role="system", content="Be brief.")),
        ({"role": "tool", "tool_call_id": "c1", "content": None}, Message(role="tool", content="", tool_call_id="c1")),
        ({"role": "assistant", "content": [{"type": "text", "text": ""}, {"type": "refusal", "refusal": "No."}]},
         Message(role="assistant", content=[TextPart(""), TextPart("No.")])),
        ({"role": "user", "content": "x", "provider_specific_fields": {}}, Message(role="user", content="x")),
    ],
)  # fmt: skip
def test_what_clients_really_write_is_taken(sent: dict[str, Any], taken: Message):
    assert checked_messages([sent]) == [taken]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ({"id": "c1", "function": {"name": "f", "arguments": "{}"}}, "{}"),
        ({"id": "c1", "type": None, "function": {"name": "f", "arguments": ""}}, "{}"),
        ({"id": "c1", "type": "function", "function": {"name": "f"}}, "{}"),
        ({"id": "c1", "type": "function", "function": {"name": "f", "arguments": None}}, "{}"),
        ({"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": [1]}}}, '{"a":[1]}'),
        ({"id": "c1", "function": {"name": "f", "arguments": '{"a": '}}, '{"a": '),
        ({"id": "c1", "function": {"name": "f", "arguments": "[1]"}}, "[1]"),
        ({"id": "c1", "function": {"name": "f", "arguments": "Paris"}}, "Paris"),
        ({"id": "c1", "function": {"name": "f", "arguments": '{"a":' * 100_000}}, '{"a":' * 100_000),
        ({"id": "c1", "index": 0, "function": {"name": "f", "arguments": "{}", "parsed": None}}, "{}"),
    ],
)
def test_a_call_of_the_history_as_clients_really_write_it(sent: dict[str, Any], taken: str):
    (message,) = checked_messages([{"role": "assistant", "content": "", "tool_calls": [sent]}])
    assert message.tool_calls == [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": taken}}]


def test_a_call_without_an_id_gets_one():
    messages = checked_messages([USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}] * 2}])
    assert [one["id"] for one in messages[1].tool_calls or ()] == ["call_1_0", "call_1_1"]


def test_the_callers_messages_are_left_as_they_are():
    given = [{"role": "assistant", "content": "x", "reasoning_content": "hm"}]
    checked_messages(given)
    assert given == [{"role": "assistant", "content": "x", "reasoning_content": "hm"}]


def test_the_prompt_of_a_generate_only_backend():
    def prompt(*turns: tuple[str, str]) -> str:
        return as_prompt(checked_messages([{"role": role, "content": text} for role, text in turns]))

    assert prompt(("user", "Why?\n ")) == "Why?\n "
    assert prompt(("system", "Be brief."), ("user", "Why?")) == "system: Be brief.\nuser: Why?\nassistant:"
    assert prompt(("user", "a"), ("assistant", "b"), ("user", "c")) == "user: a\nassistant: b\nuser: c\nassistant:"
    assert prompt(("system", "only")) == "system: only\nassistant:"
