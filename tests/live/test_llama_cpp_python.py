"""The engine of the extra `llama-cpp-python`, asked through the public class; CI installs that extra alone for it."""

from __future__ import annotations

import asyncio
import json

import pytest

from miner.config.config import MinerConfig
from miner.core.llms import get_backend
from miner.errors import ContextLengthError, EngineStartError, UnsupportedFeatureError

pytestmark = pytest.mark.llama_cpp_python

WAIT = 120
QUESTION = "What is the capital of France? Answer in one sentence."
LONG_PROMPT = "word " * 3500
"""Tens of seconds of prefill on two cores."""


def service_of(**settings):
    return get_backend("llamacpp", MinerConfig(_env_file=None, default_model="demo", **settings))


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def service(runner):
    """One engine for all of these tests."""
    service = service_of()
    yield service
    runner.run(service.aclose())


@pytest.fixture
def run(runner):
    def bounded(work):
        async def within():
            async with asyncio.timeout(WAIT):
                return await work

        return runner.run(within())

    return bounded


def test_it_answers_and_counts(service, run):
    whole = run(service.chat_completion([{"role": "user", "content": QUESTION}], max_tokens=30, temperature=0))
    assert "Paris" in whole.content
    assert whole.finish_reason == "stop"
    assert whole.usage.prompt_tokens == run(service.count_tokens(QUESTION))
    assert 0 < whole.usage.completion_tokens <= 30
    cut = run(service.chat_completion([{"role": "user", "content": QUESTION}], max_tokens=3, temperature=0))
    assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", 3)


def test_it_says_what_it_can(service, run):
    assert service.concurrency == 1
    listed = run(service.list_models())[0].capabilities
    assert {"chat", "json_schema", "grammar", "seed", "logit_bias", "count_tokens"} <= listed & service.capabilities
    for option in ({"logprobs": 2}, {"reasoning": True}, {"tools": [{"type": "function", "function": {"name": "f"}}]}):
        with pytest.raises(UnsupportedFeatureError) as caught:
            run(service.chat_completion([{"role": "user", "content": "Hi"}], **option))
        assert caught.value.param == next(iter(option))
    with pytest.raises(UnsupportedFeatureError):
        run(service.embed("text"))


def test_a_schema_is_obeyed(service, run):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "big": {"type": "boolean"}},
              "required": ["city", "big"], "additionalProperties": False}  # fmt: skip
    reply = run(service.chat_completion([{"role": "user", "content": QUESTION}], response_format=schema, temperature=0))
    assert set(json.loads(reply.content)) == {"city", "big"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(service, run, stream):
    async def ask():
        if stream:
            return await service.stream("word " * 9000, max_tokens=2).collect()
        return await service.generate("word " * 9000, max_tokens=2)

    with pytest.raises(ContextLengthError) as caught:
        run(ask())
    assert caught.value.prompt_tokens > caught.value.context_length > 0


@pytest.mark.parametrize("prompt", [LONG_PROMPT, "Tell a very long story."])
def test_who_leaves_frees_the_slot(service, run, prompt):
    """In the middle of a prompt as of an answer: the reading of the long prompt alone takes far longer than this."""
    loop_time = []

    async def leave_and_ask():
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(service.generate(prompt, max_tokens=400))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        began = loop.time()
        text = await service.generate("Hello.", max_tokens=1)
        loop_time.append(loop.time() - began)
        return text

    async def alone():
        loop = asyncio.get_running_loop()
        began = loop.time()
        await service.generate(LONG_PROMPT + str(began), max_tokens=1)
        return loop.time() - began

    run(leave_and_ask())
    assert loop_time[0] < max(2.0, 0.5 * run(alone()))


def test_it_serves_on_after_what_it_refuses(service, run):
    with pytest.raises(UnsupportedFeatureError):
        run(service.chat_completion([{"role": "user", "content": "Hi"}], tool_choice="required",
                                    tools=[{"type": "function", "function": {"name": "f"}}]))  # fmt: skip
    assert run(service.generate(QUESTION, max_tokens=20, temperature=0))


def test_more_slots_than_it_has_are_refused_by_name(run):
    service = service_of(llamacpp_parallel=4)
    with pytest.raises(EngineStartError, match=r"LLAMACPP_PARALLEL=4"):
        run(service.generate("Hello", max_tokens=1))
    run(service.aclose())


def test_a_broken_file_is_reported(run, tmp_path):
    from miner.core.models.resolve import resolve

    demo = resolve("demo", model_path=None, models_dir=tmp_path, default_model=None).path
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo.read_bytes()[:30_000_000])
    service = service_of(model_path=str(broken))
    with pytest.raises(EngineStartError, match=r"broken\.gguf|truncated|damaged"):
        run(service.generate("Hello", max_tokens=1))
    run(service.aclose())
