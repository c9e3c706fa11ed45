"""Text in, text out: usage, finish reasons and the defaults."""

from __future__ import annotations

import asyncio

import pytest

from miner.conformance.contract import Contract, counted, not_checked
from miner.core.wire import LLMResponse
from miner.errors import MinerError

PROMPT = "What is the capital of France? Answer in one sentence."

pytestmark = pytest.mark.miner_capability("chat")


def test_generate_gives_text(contract: Contract) -> None:
    """`generate` returns non-empty text."""
    text = contract.run(contract.service.generate(PROMPT, model=contract.model, max_tokens=16, temperature=0))
    assert isinstance(text, str)
    assert text.strip()


def test_generate_takes_positional_arguments(contract: Contract) -> None:
    """`generate(prompt, model, max_tokens, temperature, top_p)`, in this order."""
    text = contract.run(contract.service.generate(PROMPT, contract.model, 8, 0.0, 1.0))
    assert text == contract.chat(PROMPT, max_tokens=8).content


def test_generate_has_defaults(contract: Contract) -> None:
    """Everything but the prompt may be left out; max_tokens only keeps the test short."""
    text = contract.run(contract.service.generate("Say hello.", model=contract.model, max_tokens=8))
    assert isinstance(text, str)
    assert text.strip()


def test_chat_gives_a_response(contract: Contract) -> None:
    """`chat_completion` returns an LLMResponse whose text is its content."""
    response = contract.chat(PROMPT)
    assert isinstance(response, LLMResponse)
    assert str(response) == response.content != ""


def test_generate_and_chat_say_the_same(contract: Contract) -> None:
    """A prompt is one user message, with the same chat template."""
    text = contract.run(contract.service.generate(PROMPT, contract.model, max_tokens=16, temperature=0, top_p=1))
    assert text == contract.chat(PROMPT).content


def test_response_names_backend_and_model(contract: Contract, request: pytest.FixtureRequest) -> None:
    """`backend` and `model` are filled in; the model is the requested one or a listed one."""
    response = contract.chat(PROMPT, max_tokens=4)
    assert response.backend in contract.service.backend_names
    names = {contract.model} | {name for info in contract.models() for name in (info.id, *info.aliases)}
    if contract.model is None and response.model is None:
        not_checked(request, "responses do not name the default model")
    else:
        assert response.model in names


def test_usage_adds_up(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Total = prompt + completion, streamed or not; without counts usage is None, not zeros."""
    for response in (contract.chat(PROMPT), contract.stream_joined(PROMPT)):
        usage = counted(request, response)
        assert usage is None or usage.completion_tokens <= 16


def test_usage_grows_with_the_prompt(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Longer prompts count more tokens."""
    short = counted(request, contract.chat("Hello.", max_tokens=2))
    long = counted(request, contract.chat("Hello. " * 40, max_tokens=2))
    if short is not None and long is not None:
        assert long.prompt_tokens > short.prompt_tokens + 30


def test_max_tokens_is_kept(contract: Contract, request: pytest.FixtureRequest) -> None:
    """A truncated response has the finish reason `length` and exactly max_tokens tokens."""
    response = contract.chat("Count from one to one hundred in words.", max_tokens=5)
    usage = counted(request, response)
    if usage is not None:
        assert usage.completion_tokens <= 5
        if response.finish_reason == "length":
            assert usage.completion_tokens == 5
    assert len(response.content.split()) <= 8


def test_a_larger_max_tokens_gives_more(contract: Contract, request: pytest.FixtureRequest) -> None:
    """max_tokens is passed to the engine."""
    prompt = "Count from one to one hundred in words: one, two, three, four, five, six, seven, eight, nine, ten,"
    short = contract.chat(prompt, max_tokens=3)
    long = contract.chat(prompt, max_tokens=24)
    if short.finish_reason == "length":
        assert len(long.content) > len(short.content)
        assert long.content.startswith(short.content[: len(short.content) // 2])
    else:
        not_checked(request, "no response has the finish reason `length`")


def test_temperature_zero_repeats_itself(contract: Contract) -> None:
    """Greedy decoding gives the same text twice."""
    first = contract.chat(PROMPT, max_tokens=8).content
    assert first
    assert contract.chat(PROMPT, max_tokens=8).content == first


def test_earlier_messages_are_read(contract: Contract, request: pytest.FixtureRequest) -> None:
    """All messages of a conversation reach the model."""
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    response = contract.chat_messages(messages, max_tokens=8)
    alone = contract.chat("What is the capital of France?", max_tokens=8)
    assert response.content
    usage, least = counted(request, response), counted(request, alone)
    if usage is not None and least is not None:
        assert usage.prompt_tokens > least.prompt_tokens


def test_text_parts_are_joined(contract: Contract) -> None:
    """All text parts of a message are used."""
    first, second = "What is the capital of France?", " Answer shortly."
    parts = [{"type": "text", "text": text} for text in (first, second)]
    response = contract.chat_messages([{"role": "user", "content": parts}], max_tokens=8)
    assert response.content
    alone = contract.chat(first, max_tokens=1).usage
    if response.usage is not None and alone is not None:
        assert response.usage.prompt_tokens > alone.prompt_tokens
    else:  # not an engine that counts tokens: it must be the same text
        assert response.content == contract.chat(first + second, max_tokens=8).content


def test_unicode_survives(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Multi-byte characters are not split, streamed or not, except the last one by max_tokens."""
    prompt = "Repeat exactly: café 你好 🌍 café 你好 🌍"
    response = contract.chat(prompt, max_tokens=24)
    chunks = contract.stream_chunks(prompt, max_tokens=24)
    assert "\ufffd" not in response.content[:-2]
    texts = [chunk.content for chunk in chunks if chunk.content]
    assert not any("\ufffd" in text for text in texts[:-1]), "a character was split between two chunks"
    assert "".join(texts) == response.content
    response.content.encode()  # no lone surrogates
    if response.content.isascii():
        not_checked(request, "the response has no multi-byte character")


def test_requests_run_at_once(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Each of several requests on one service gets the response to its own prompt."""
    prompts = ["Hello. " * count for count in (1, 20, 40, 60)]

    async def gathered() -> list[LLMResponse]:
        return list(await asyncio.gather(*(contract.chat_call(prompt, max_tokens=8) for prompt in prompts)))

    responses = contract.run(gathered())
    assert all(response.content for response in responses)
    for prompt, response in zip(prompts, responses, strict=True):
        usage = counted(request, response)
        alone = contract.chat(prompt, max_tokens=8)
        if usage is None or alone.usage is None:  # not an engine that computes in batches: it must be the same text
            assert response.content == alone.content
        else:
            assert usage.prompt_tokens == alone.usage.prompt_tokens


def test_many_prompts(contract: Contract) -> None:
    """`generate_many` yields each prompt's text once; an invalid prompt does not affect the others."""

    async def many() -> dict[int, str | Exception]:
        prompts = ["Hello.", "", "What is rain?", "What is wind?"]
        stream = contract.service.generate_many(
            prompts, concurrency=2, model=contract.model, max_tokens=4, temperature=0
        )
        return {index: result async for index, result in stream}

    results = contract.run(many())
    assert sorted(results) == [0, 1, 2, 3]
    assert isinstance(results[1], MinerError)
    assert all(isinstance(results[index], str) and results[index] for index in (0, 2, 3))
