"""Stop strings: which one ended the reply is known, and no text that was held back for one is lost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from miner.core.llms.contract.join import join
from miner.core.llms.contract.stop_strings import StopWatcher
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.wire import ChatRequest, LLMChunk, LLMResponse, TokenLogprob, TokenUsage
from tests.core.llms.contract.test_failures import MODES
from tests.core.services import MESSAGES, WEATHER, PlainService, service_at, settings, speaking_to
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk

CASES = [
    ("one two three", ["two"], "one ", "two"),
    ("one two three", ["four"], "one two three", None),
    ("one two thr", ["three"], "one two thr", None),  # held back to the very end
    ("aaab", ["aab"], "a", "aab"),
    ("abab", ["abac"], "abab", None),
    ("abcabd", ["abd"], "abc", "abd"),
    ("abc", ["b", "abc"], "a", "b"),  # complete first
    ("xabc", ["c", "abc", "bc"], "x", "abc"),  # complete together: the longest
    ("stop", ["stop"], "", "stop"),
    ("Grüße 🌍 ende", ["🌍 e"], "Grüße ", "🌍 e"),
    ("\n\nUser:", ["\n\nHuman:", "\n\nUser:"], "", "\n\nUser:"),
    ("end", [], "end", None),
]


def watched(pieces: list[LLMChunk], stops: list[str]) -> tuple[LLMResponse, str | None]:
    watcher = StopWatcher(stops)
    out: list[LLMChunk] = []
    if not any(watcher.feed(piece, out) for piece in pieces):
        watcher.flush(out)
    return join([out]), watcher.matched


@pytest.mark.parametrize(("text", "stops", "kept", "matched"), CASES)
def test_however_the_text_comes_it_ends_in_the_same_place(text: str, stops: list[str], kept: str, matched: str | None):
    chosen = random.Random(7)
    for size in (1, 2, 3, len(text)):
        pieces = [LLMChunk(text[at : at + size]) for at in range(0, len(text), size)]
        response, found = watched(pieces, stops)
        assert (response.content, found) == (kept, matched)
    for _ in range(20):
        cuts = sorted(chosen.sample(range(len(text) + 1), 2))
        pieces = [LLMChunk(part) for part in (text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]) if part]
        response, found = watched(pieces, stops)
        assert (response.content, found) == (kept, matched)


def test_random_texts_end_where_a_plain_search_says():
    chosen = random.Random(11)
    for _ in range(500):
        text = "".join(chosen.choices("abc", k=chosen.randint(1, 30)))
        stops = ["".join(chosen.choices("abc", k=chosen.randint(1, 5))) for _ in range(chosen.randint(1, 3))]
        ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
        end, _, first = min(ends) if ends else (len(text), 0, "")
        response, found = watched([LLMChunk(letter) for letter in text], stops)
        assert (response.content, found) == (text[: end - len(first)], first or None), (text, stops)


def test_only_what_may_become_a_stop_string_waits():
    watcher, out = StopWatcher(["END"]), list[LLMChunk]()
    for piece, sent in [("Hello", "Hello"), (" E", " "), ("N", ""), ("X", "ENX"), ("E", "")]:
        out.clear()
        assert not watcher.feed(LLMChunk(piece), out)
        assert join([out]).content == sent
    out.clear()
    watcher.flush(out)
    assert join([out]).content == "E"


def test_log_probabilities_stay_with_their_tokens():
    def token(text: str) -> LLMChunk:
        return LLMChunk(text, logprobs=[TokenLogprob(token=text, logprob=-1.0)])

    def tokens(texts: list[str], stop: str) -> list[str]:
        return [entry.token for entry in watched([token(text) for text in texts], [stop])[0].logprobs or ()]

    assert tokens(["a", "b", "c"], "bx") == ["a", "b", "c"]
    assert tokens(["a", "b", "c", "d"], "bc") == ["a"]
    assert tokens(["a b", "c", "d"], "bc") == ["a b"]  # half of its text is kept


def test_text_does_not_go_on_behind_something_else():
    chunks = [LLMChunk("a EN"), LLMChunk(reasoning="D"), LLMChunk("D"), LLMChunk(finish_reason="stop")]
    watcher, out = StopWatcher(["END"]), list[LLMChunk]()
    for chunk in chunks:
        assert not watcher.feed(chunk, out)
    assert [(c.content, c.reasoning, c.finish_reason) for c in out] == [
        ("a ", None, None), ("EN", None, None), (None, "D", None), ("D", None, None), (None, None, "stop")
    ]  # fmt: skip


# On the wire


class Watching(PlainService):
    """A server that is not told of stop strings, as llama.cpp's."""

    def _watched_stops(self, request: ChatRequest) -> list[str]:
        return request.stop


async def respond(service: Any, mode: str, **options: Any) -> LLMResponse:
    if mode == "call":
        return await service.chat_completion(MESSAGES, **options)
    return await service.stream(messages=MESSAGES, **options).collect()


@pytest.mark.parametrize("mode", MODES)
async def test_vllm_says_itself_which_one_it_was(mode: str):
    end = finish()
    end["choices"][0]["stop_reason"] = "END"
    async with (
        StubServer(reply=[delta(content="Hello"), end, usage_chunk()]) as server,
        speaking_to("vllm", server) as service,
    ):
        response = await respond(service, mode, stop=["x", "END"])
        assert (response.content, response.finish_reason, response.stop_sequence) == ("Hello", "stop", "END")
        assert server.bodies[0]["stop"] == ["x", "END"]
        end["choices"][0]["stop_reason"] = 2  # the id of a stop token
        response = await respond(service, mode, stop=["x", "END"])
        assert (response.finish_reason, response.stop_sequence) == ("stop", None)


@pytest.mark.parametrize("mode", MODES)
async def test_ollama_is_left_at_a_stop_string(mode: str):
    """Its runner is llama.cpp, which loses text; and it does not say which string it was."""
    async with StubServer(reply="Hello there and more of it") as server, speaking_to("ollama", server) as service:
        response = await respond(service, mode, stop=["and m", "never"])
        assert (response.content, response.finish_reason, response.stop_sequence) == ("Hello there ", "stop", "and m")
        assert response.usage is None  # it counts at its own end alone
        response = await respond(service, mode, stop=["of it all"])
        assert (response.content, response.stop_sequence) == ("Hello there and more of it", None)
        assert response.usage == TokenUsage(21, 8, 29)
        assert all("stop" not in body["options"] for body in server.bodies)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ["plain", "ollama"])
async def test_after_calls_it_is_the_calls_that_count(engine: str, mode: str):
    arguments = {"city": "Rome"}
    said = {"model": "m", "done": False}
    lines = [
        {
            **said,
            "message": {"content": "", "tool_calls": [{"function": {"name": "get_weather", "arguments": arguments}}]},
        },
        {**said, "message": {"content": "Done END and more"}},
    ]
    piece = {"index": 0, "id": "c", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    events = [delta(tool_calls=[piece]), delta(content="Done END and more")]
    async with StubServer(reply=lines if engine == "ollama" else events) as server:
        service = Watching(settings(vllm_api_base=server.v1)) if engine == "plain" else service_at(engine, server.url)
        async with service:
            response = await respond(service, mode, stop=["END"], tools=[WEATHER])
    assert (response.content, response.finish_reason, response.stop_sequence) == ("Done ", "tool_calls", None)
    assert len(response.tool_calls) == 1


# On the real engine

COUNTING = "The numbers in order: one two three four one two three four one two"


@pytest.fixture(scope="module")
def counted() -> dict[str, Any]:
    return {"raw": True, "max_tokens": 7, "temperature": 0, "seed": 1}


@pytest.mark.engine
async def test_llama_cpp_loses_nothing_and_says_which_one_it_was(counted: dict[str, Any]):
    async with LlamaCppService(settings()) as service:
        plain = await service.stream(COUNTING, **counted).collect()
        assert (plain.finish_reason, plain.stop_sequence) == ("length", None)
        words = plain.content.split()
        held = words[-1] + " and more"  # begins as the reply ends
        for mode in MODES:
            if mode == "call":
                assert await service.generate(COUNTING, stop=[held], **counted) == plain.content
            else:
                response = await service.stream(COUNTING, stop=[held], **counted).collect()
                assert (response.content, response.finish_reason) == (plain.content, "length")
                assert response.usage.total_tokens == plain.usage.total_tokens

        stop = plain.content[9:14]
        kept = plain.content[: plain.content.index(stop)]
        response = await service.stream(COUNTING, stop=["never", stop], logprobs=1, **counted).collect()
        assert (response.content, response.finish_reason, response.stop_sequence) == (kept, "stop", stop)
        assert response.usage.prompt_tokens == plain.usage.prompt_tokens
        assert 0 < response.usage.completion_tokens <= 7
        assert "".join(entry.token for entry in response.logprobs).startswith(kept)
        whole = await service.chat_completion([{"role": "user", "content": "Hello."}], stop=["e"], max_tokens=40)
        assert "e" not in whole.content
        assert whole.usage.completion_tokens == 40 if whole.finish_reason == "length" else whole.stop_sequence == "e"


@pytest.mark.engine
async def test_what_a_stop_string_ended_frees_its_slot():
    async with LlamaCppService(settings(llamacpp_parallel=1, llamacpp_ctx_size=2048)) as service:
        async with service.stream("Count to a thousand.", max_tokens=1500, temperature=0, stop=["1"]) as stream:
            chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None or chunks[-1].finish_reason == "stop"
        # The engine has one slot: this waits until it is free.
        await service.generate("Hello.", max_tokens=1, timeout=20)


@pytest.mark.engine
async def test_a_forced_call_is_no_text_to_look_at(tools_template: str):
    async with LlamaCppService(settings(llamacpp_chat_template=tools_template)) as service:
        response = await service.chat_completion(
            [{"role": "user", "content": "The weather in Paris?"}], tools=[WEATHER], tool_choice="required",
            stop=["name", "{"], max_tokens=80, temperature=0,
        )  # fmt: skip
        assert response.tool_calls[0]["function"]["name"] == "get_weather"


@pytest.fixture
def tools_template() -> str:
    from tests.servers.captures import DATA

    return str(DATA / "templates" / "tools.jinja")
