"""Text in, text out; usage, finish reasons and the defaults."""

from __future__ import annotations

import asyncio

import pytest

from miner.conformance.contract import Contract
from miner.conformance.refusals import counted, not_checked
from miner.core.wire import LLMResponse
from miner.errors import MinerError

PROMPT = "What is the capital of France? Answer in one sentence."

pytestmark = pytest.mark.miner_capability("chat")


def test_generate_gives_text(contract: Contract) -> None:
    """`generate` returns text that is not empty."""
    text = contract.run(contract.service.generate(PROMPT, model=contract.model, max_tokens=16, temperature=0))
    assert isinstance(text, str)
    assert text.strip()


def test_generate_takes_positional_arguments(contract: Contract) -> None:
    """`generate(prompt, model, max_tokens, temperature, top_p)`, in this order."""
    text = contract.run(contract.service.generate(PROMPT, contract.model, 8, 0.0, 1.0))
    assert isinstance(text, str)


def test_generate_has_defaults(contract: Contract) -> None:
    """Everything but the prompt may be left out; max_tokens only keeps the test short."""
    text = contract.run(contract.service.generate("Say hello.", model=contract.model, max_tokens=8))
    assert isinstance(text, str)


def test_chat_gives_a_response(contract: Contract) -> None:
    """`chat_completion` returns an LLMResponse whose text is its content."""
    response = contract.ask(PROMPT)
    assert isinstance(response, LLMResponse)
    assert str(response) == response.content != ""


def test_generate_and_chat_say_the_same(contract: Contract) -> None:
    """A prompt is one user turn: it goes through the same chat template."""
    text = contract.run(contract.service.generate(PROMPT, contract.model, max_tokens=16, temperature=0, top_p=1))
    assert text == contract.ask(PROMPT).content


def test_response_says_who_answered(contract: Contract) -> None:
    """`backend` and `model` are filled in."""
    response = contract.ask(PROMPT, max_tokens=4)
    assert response.backend == contract.service.name
    if contract.model is not None:
        assert response.model


def test_usage_adds_up(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Total = prompt + completion; zeros are no counts: where nothing was counted, usage is None. Streamed as well."""
    for response in (contract.ask(PROMPT), contract.join(contract.streamed(PROMPT))):
        usage = counted(request, response)
        assert usage is None or usage.completion_tokens <= 16


def test_usage_grows_with_the_prompt(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Longer prompts count more tokens."""
    short = counted(request, contract.ask("Hello.", max_tokens=2))
    long = counted(request, contract.ask("Hello. " * 40, max_tokens=2))
    if short is not None and long is not None:
        assert long.prompt_tokens > short.prompt_tokens + 30


def test_max_tokens_is_kept(contract: Contract, request: pytest.FixtureRequest) -> None:
    """A reply that is cut says `length` and counts exactly max_tokens."""
    response = contract.ask("Count from one to one hundred in words.", max_tokens=5)
    usage = counted(request, response)
    if usage is not None:
        assert usage.completion_tokens <= 5
        if response.finish_reason == "length":
            assert usage.completion_tokens == 5
    assert len(response.content.split()) <= 8


def test_a_larger_max_tokens_gives_more(contract: Contract, request: pytest.FixtureRequest) -> None:
    """max_tokens is passed on, not fixed."""
    prompt = "Count from one to one hundred in words: one, two, three, four, five, six, seven, eight, nine, ten,"
    short = contract.ask(prompt, max_tokens=3)
    long = contract.ask(prompt, max_tokens=24)
    if short.finish_reason == "length":
        assert len(long.content) > len(short.content)
        assert long.content.startswith(short.content[: len(short.content) // 2])
    else:
        not_checked(request, "no reply says that max_tokens cut it")


def test_temperature_zero_repeats_itself(contract: Contract) -> None:
    """Greedy decoding gives the same text twice."""
    assert contract.ask(PROMPT, max_tokens=8).content == contract.ask(PROMPT, max_tokens=8).content


def test_system_turns_count(contract: Contract, request: pytest.FixtureRequest) -> None:
    """A conversation of several turns is read whole."""
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    response = contract.run(contract.service.chat_completion(messages, contract.model, max_tokens=8, temperature=0))
    alone = contract.ask("What is the capital of France?", max_tokens=8)
    assert response.content
    usage, least = counted(request, response), counted(request, alone)
    if usage is not None and least is not None:
        assert usage.prompt_tokens > least.prompt_tokens


def test_text_parts_are_joined(contract: Contract) -> None:
    """Content may come in parts."""
    parts = [{"type": "text", "text": "What is the capital of France?"}, {"type": "text", "text": " Answer shortly."}]
    whole = "What is the capital of France? Answer shortly."
    say = [contract.run(contract.service.chat_completion([{"role": "user", "content": content}], contract.model,
           max_tokens=8, temperature=0, top_p=1)).content for content in (parts, whole)]  # fmt: skip
    assert say[0]
    if contract.ask(whole, max_tokens=1).usage is None:  # not a tokenising engine: must be the same text
        assert say[0] == say[1]


def test_unicode_survives(contract: Contract) -> None:
    """Characters of several bytes arrive whole, streamed or not."""
    prompt = "Repeat exactly: café 你好 🌍"
    whole = contract.ask(prompt, max_tokens=24)
    assert "\ufffd" not in whole.content[:-2]
    whole.content.encode()


def test_requests_run_at_once(contract: Contract) -> None:
    """Several requests on one service do not spoil each other."""

    async def four() -> list[LLMResponse]:
        return list(await asyncio.gather(*(contract.asking(PROMPT, max_tokens=8) for _ in range(4))))

    texts = [response.content for response in contract.run(four())]
    assert len(texts) == 4
    assert all(text for text in texts)


def test_many_prompts(contract: Contract) -> None:
    """`generate_many` gives each prompt's text once; one bad prompt does not spoil the rest."""

    async def many() -> dict[int, str | Exception]:
        prompts = ["Hello.", "", "What is rain?", "What is wind?"]
        stream = contract.service.generate_many(
            prompts, concurrency=2, model=contract.model, max_tokens=4, temperature=0
        )
        return {index: result async for index, result in stream}

    results = contract.run(many())
    assert sorted(results) == [0, 1, 2, 3]
    assert isinstance(results[1], MinerError)
    assert all(isinstance(results[index], str) for index in (0, 2, 3))
