"""OpenAI's replies as engines really write them: calls, thoughts, probabilities and what goes missing."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.contract.join import join
from miner.core.llms.contract.resolution import resolve
from miner.core.llms.LLMService import LLMService
from miner.core.wire import TokenLogprob
from miner.errors import (
    BackendProtocolError,
    OutputValidationError,
)
from tests.core.llms.contract.test_failures import MODES
from tests.core.services import MESSAGES, WEATHER, ask, read, speaking_to
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_chunk, openai_reply, usage, usage_chunk


def vllm(server: Any, **given: Any) -> Any:
    return speaking_to("vllm", server, **given)


LEGACY = {
    "text_offset": [0, 4], "tokens": ["Hel", "lo"], "token_logprobs": [-0.1, None],
    "top_logprobs": [{"Hel": -0.1, "Ho": -2.5}, None],
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
async def test_the_logprobs_of_a_raw_prompt_have_another_shape(mode: str):
    """Protocol notes, 1.2: completions answer with the legacy arrays."""

    def reply(body: dict[str, Any]) -> Any:
        assert body["logprobs"] == 1
        choice = {"index": 0, "text": "Hello", "logprobs": LEGACY, "finish_reason": "stop"}
        return [openai_chunk([choice]), usage_chunk()] if body.get("stream") else openai_chunk([choice], usage=usage())

    async with StubServer(reply=reply) as server, vllm(server) as service:
        request = service._request({"raw": True, "logprobs": 1}, prompt="x", model="m")
        request = await resolve(service, request)
        reply_ = await service._chat(request) if mode == "call" else join([b async for b in service._stream(request)])
    assert reply_.logprobs == [
        TokenLogprob("Hel", -0.1, alternatives=[TokenLogprob("Hel", -0.1)]),
        TokenLogprob("lo", 0.0, alternatives=[]),
    ]


async def test_only_the_first_choice_counts_when_extra_asks_for_several():
    """Never take choices[0] blindly; streams interleave their choices by index."""

    def piece(index: int, text: str, reason: str | None = None) -> dict[str, Any]:
        return openai_chunk([{"index": index, "delta": {"content": text}, "finish_reason": reason}])

    def reply(body: dict[str, Any]) -> Any:
        if body.get("stream"):
            return [piece(1, "X"), piece(0, "a"), piece(1, "Y", "length"), piece(0, "b", "stop"), usage_chunk(3, 8)]
        both = [{"index": 1, "message": {"content": "XY"}, "finish_reason": "length"},
                {"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]  # fmt: skip
        return openai_chunk(both, usage=usage(3, 8))

    async with StubServer(reply=reply) as server, vllm(server) as service:
        one = await service.stream("hi", extra={"n": 2}).collect()
        other = await service.chat_completion(MESSAGES, extra={"n": 2})
    assert (one.content, one.finish_reason) == (other.content, other.finish_reason) == ("ab", "stop")


async def test_events_that_say_nothing_are_no_chunks():
    """Chunks with `choices: []` or `content: null`; comments between them."""
    events = [
        delta(role="assistant", content=""), b": keep-alive\n\n", delta(content=None), openai_chunk([]),
        delta(content="a"), delta(tool_calls=[]), b'data:{"choices":[{"index":0,"delta":{"content":"b"}}]}\n\n',
        finish(), usage_chunk(3, 2),
    ]  # fmt: skip
    async with StubServer(reply=lambda _: list(events)) as server, vllm(server) as service:
        chunks = await read(service.stream("hi"))
    assert [(chunk.content, chunk.finish_reason, chunk.usage is not None) for chunk in chunks] == [
        ("a", None, False), ("b", None, False), (None, "stop", False), (None, None, True),
    ]  # fmt: skip


def call(arguments: str, name: str | None = "get_weather", index: int = 0) -> dict[str, Any]:
    piece: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if name:
        piece |= {"id": f"c{index}", "type": "function"}
        piece["function"]["name"] = name
    return piece


async def tooled(service: LLMService, mode: str, **options: Any) -> Any:
    given = {"tools": [WEATHER], **options}
    if mode == "call":
        return await service.chat_completion(MESSAGES, **given)
    return await service.stream(messages=MESSAGES, **given).collect()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("said", ["stop", "length", "tool_calls"])
async def test_complete_calls_are_calls_whatever_the_finish_reason_says(said: str, mode: str):
    """Finish reason "stop" after a call by name (vLLM), "length" with complete calls."""
    events = [delta(tool_calls=[call('{"city":')]), delta(tool_calls=[call(' "Rome"}', None)]), finish(said),
              usage_chunk(3, 9)]  # fmt: skip
    async with StubServer(reply=events) as server, vllm(server) as service:
        response = await tooled(service, mode, tool_choice="get_weather", max_tokens=9)
    assert response.finish_reason == "tool_calls"
    assert response.tool_calls == [
        {"id": "c0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    ]
    assert not response.context_exhausted


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([delta(tool_calls=[call('{"city": "Ro')]), finish("length")], "not a JSON object. It was cut short"),
        ([delta(tool_calls=[call('"\\"rome\\""')]), finish("tool_calls")], "'get_weather' are not a JSON object"),
        ([delta(tool_calls=[call("{}", "get_time")]), finish("tool_calls")], "'get_time' that is not in tools"),
        ([delta(content="I will."), finish("stop")], "A tool call was required, but the model made none"),
        (
            [delta(content='<tool_call>\n{"'), finish("length")],
            "none. It was cut short: raise max_tokens",
        ),
    ],
)
async def test_calls_that_are_none_are_no_success(events: list[Any], words: str, mode: str):
    """Arguments are validated always."""
    async with StubServer(reply=[*events, usage_chunk(3, 5)]) as server, vllm(server) as service:
        with pytest.raises(OutputValidationError) as caught:
            await tooled(service, mode, tool_choice="required")
        assert words in str(caught.value)
        assert caught.value.response.usage.completion_tokens == 5


@pytest.mark.parametrize("mode", MODES)
async def test_a_tool_call_that_is_announced_and_does_not_come_is_an_error(mode: str):
    """Finish reason "tool_calls" with none (a reasoning parser that took all the text)."""
    events = [delta(content=""), finish("tool_calls"), usage_chunk(3, 9)]
    async with StubServer(reply=events) as server, vllm(server) as service:
        with pytest.raises(BackendProtocolError, match="finish_reason is tool_calls and there is no tool call"):
            await tooled(service, mode)


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_without_arguments_has_an_empty_object(mode: str):
    events = [delta(tool_calls=[call("")]), finish("tool_calls")]
    async with StubServer(reply=events) as server, vllm(server) as service:
        response = await tooled(service, mode)
    assert response.tool_calls[0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize("mode", MODES)
async def test_calls_beyond_the_first_are_dropped_when_one_was_asked_for(mode: str):
    events = [delta(tool_calls=[call("{}"), call("{}", index=1)]), finish("tool_calls")]
    async with StubServer(reply=events) as server, vllm(server) as service:
        assert len((await tooled(service, mode)).tool_calls) == 2
        assert len((await tooled(service, mode, parallel_tool_calls=False)).tool_calls) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_tokens_counted_and_nothing_delivered_is_no_empty_success(mode: str):
    """The engine counts tokens and delivers none."""

    def reply(body: dict[str, Any]) -> Any:
        return [delta(content=""), finish(), usage_chunk(3, 20)] if body.get("stream") else (
            openai_reply("") | {"usage": usage(3, 20)})  # fmt: skip

    async with StubServer(reply=reply) as server, vllm(server) as service:
        with pytest.raises(BackendProtocolError, match="it counted 20 tokens and delivered none"):
            await ask(service, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
async def test_thoughts_never_come_as_content_whatever_they_are_called(name: str, mode: str):
    def reply(body: dict[str, Any]) -> Any:
        if body.get("stream"):
            return [delta(**{name: "hm"}), delta(**{name: "m"}), delta(content="Yes."), finish(), usage_chunk(3, 9)]
        return openai_reply("Yes.", **{name: "hmm"})

    async with StubServer(reply=reply) as server, vllm(server) as service:
        service._reasoning_parser["m"] = True  # the server has a parser of thoughts
        response = await (service.chat_completion(MESSAGES, reasoning=True) if mode == "call"
                          else service.stream("hi", reasoning=True).collect())  # fmt: skip
        assert (response.reasoning, response.content) == ("hmm", "Yes.")
        again = [*MESSAGES, {"role": "assistant", "content": "Yes.", "reasoning": "hmm"}, *MESSAGES]
        await service.chat_completion(again)
        assert server.bodies[-1]["messages"][1] == {"role": "assistant", "content": "Yes.", "reasoning": "hmm"}


async def test_a_reply_that_is_still_thinking_has_no_content():
    """Protocol notes, 1.4: `content` is null when max_tokens came before the end of the thoughts."""
    whole = openai_reply("", finish_reason="length", reasoning="hmm")
    whole["choices"][0]["message"]["content"] = None
    async with StubServer(reply=whole) as server, vllm(server) as service:
        service._reasoning_parser["m"] = True  # the server has a parser of thoughts
        response = await service.chat_completion(MESSAGES, reasoning=True)
    assert (response.content, response.reasoning, response.finish_reason) == ("", "hmm", "length")
