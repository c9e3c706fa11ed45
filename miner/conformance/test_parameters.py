"""Parameters: each is applied or refused by name; invalid values are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from miner.conformance.contract import Contract, counted, finished, not_checked, supported_or_refused
from miner.core.llms.contract.join import join
from miner.core.wire import OPTIONS, LLMChunk
from miner.errors import BackendTimeoutError, InvalidRequestError, RequestError, UnsupportedFeatureError

PROMPT = "Count: one, two, three, four, five, six, seven,"

WRONG: list[tuple[str, Any]] = [
    ("temperature", -1), ("temperature", 9), ("temperature", "hot"), ("temperature", math.nan), ("max_tokens", 0),
    ("max_tokens", 1.5), ("top_p", 2), ("top_p", -0.1), ("top_p", math.nan), ("stop", [""]), ("seed", "x"),
    ("timeout", -1),
]  # fmt: skip


@pytest.mark.miner_capability("validation")
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_values_are_refused(contract: Contract, name: str, value: object) -> None:
    """Streamed or not; the error names the parameter."""
    for send in (contract.chat, contract.stream_chunks):
        with pytest.raises((InvalidRequestError, UnsupportedFeatureError)) as caught:
            send("Hello", **{name: value})
        assert name in str(caught.value)


@pytest.mark.miner_capability("validation")
@pytest.mark.parametrize("prompt", ["", "   ", None, 7])
def test_wrong_prompts_are_refused(contract: Contract, prompt: object) -> None:
    """Empty prompts, and prompts that are not text."""
    with pytest.raises(InvalidRequestError):
        contract.run(contract.service.generate(prompt, model=contract.model))  # type: ignore[arg-type]


@pytest.mark.miner_capability("validation")
@pytest.mark.parametrize(
    "messages", [[], "Hello", [{"role": "wizard", "content": "x"}], [{"content": "x"}], [{"role": "user"}]]
)
def test_wrong_messages_are_refused(contract: Contract, messages: Any) -> None:
    """Roles are checked by the backend: engines drop or pass on unknown ones."""
    with pytest.raises(InvalidRequestError):
        contract.run(contract.service.chat_completion(messages, model=contract.model))


@pytest.mark.miner_capability("validation")
def test_unknown_options_are_refused(contract: Contract) -> None:
    """The error suggests the nearest name."""
    with pytest.raises(InvalidRequestError) as caught:
        contract.chat("Hello", frequency_penatly=1)
    assert "frequency_penalty" in str(caught.value)


@pytest.mark.miner_capability("validation")
@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "another"), ("stream", True), ("messages", []), ("prompt", "x"), ("max_tokens", 99999), ("Model", "x")],
)
def test_extra_overrides_nothing(contract: Contract, name: str, value: object) -> None:
    """Checked fields (model, prompt, limits) cannot be replaced; the error names the field."""
    for send in (contract.chat, contract.stream_chunks):
        with pytest.raises(RequestError) as caught:
            send("Hello", extra={name: value})
        assert "extra" in str(caught.value)


VALUES: dict[str, Any] = {
    "stop": ["zzzz"], "seed": 3, "top_k": 5, "min_p": 0.05, "repeat_penalty": 1.1, "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "logit_bias": {"0": -1}, "logprobs": 2, "keep_alive": 60, "progress": True,
    "continuous_usage": True, "extra": {"user": "conformance"},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in OPTIONS if name in VALUES])
def test_each_option_is_accepted_or_refused_by_name(
    contract: Contract, request: pytest.FixtureRequest, name: str
) -> None:
    """Declared options are accepted, streamed or not; others are refused, or ignored on request."""
    request.applymarker(pytest.mark.miner_capability(name))
    options: dict[str, Any] = {name: VALUES[name], "max_tokens": 4}
    if not supported_or_refused(contract, request, name, lambda: contract.chat(PROMPT, **options), param=name):
        assert name in contract.chat(PROMPT, **options, unsupported="ignore").ignored
        return
    if name == "extra":
        not_checked(request, "the fields that the engine accepts in `extra` are not known")
        options["extra"] = {}
    response = contract.chat(PROMPT, **options)
    assert response.content
    assert name not in response.ignored
    assert contract.stream_joined(PROMPT, **options).content


@pytest.mark.miner_capability("raw")
def test_raw_prompts(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The prompt is sent verbatim: fewer tokens than with the chat template, streamed or not."""
    options: dict[str, Any] = {"model": contract.model, "max_tokens": 4, "temperature": 0, "top_p": 1, "raw": True}

    def send() -> str:
        return contract.run(contract.service.generate("Once upon", **options))

    if not supported_or_refused(contract, request, "raw", send, param="raw"):
        return
    assert send()

    async def read() -> list[LLMChunk]:
        return [chunk async for chunk in contract.service.stream("Once upon", **options)]

    streamed = finished(join([contract.run(read())]))
    assert streamed.content == send()
    raw, templated = counted(request, streamed), counted(request, contract.chat("Once upon", max_tokens=1))
    if raw is not None and templated is not None:
        assert raw.prompt_tokens <= templated.prompt_tokens
        if raw.prompt_tokens == templated.prompt_tokens:
            not_checked(request, "the chat template adds no tokens")


@pytest.mark.miner_capability("stop")
def test_stop_stops(contract: Contract, request: pytest.FixtureRequest) -> None:
    """A stop string, one or several, ends the response and is not part of it."""
    if not supported_or_refused(contract, request, "stop", lambda: contract.chat(PROMPT, stop="x")):
        return
    for others in ([], ["qqqq"]):
        for _ in range(3):  # of two equally likely tokens, the engine's cache decides
            free = contract.chat(PROMPT, max_tokens=24).content
            word = next(word for word in free.split()[1:] if len(word) > 1)
            stop = [*others, word] if others else word
            stopped = contract.chat(PROMPT, max_tokens=24, stop=stop)
            streamed = contract.stream_joined(PROMPT, max_tokens=24, stop=stop)
            if free.startswith(stopped.content) and streamed.content == stopped.content:
                break
        assert word not in stopped.content
        assert len(stopped.content) < len(free)
        assert stopped.finish_reason == "stop"
        assert (streamed.content, streamed.finish_reason) == (stopped.content, "stop")
        assert stopped.stop_sequence in (word, None)
        assert streamed.stop_sequence == stopped.stop_sequence
        if stopped.stop_sequence is None:
            not_checked(request, "responses do not name the stop string")


@pytest.mark.miner_capability("stop")
def test_partial_stop_string_is_not_lost(contract: Contract, request: pytest.FixtureRequest) -> None:
    """max_tokens ends the response in the middle of a possible stop string."""
    if not supported_or_refused(contract, request, "stop", lambda: contract.chat(PROMPT, stop="x")):
        return
    contract.chat(PROMPT, max_tokens=6)
    free = contract.chat(PROMPT, max_tokens=6)
    if free.finish_reason != "length":
        not_checked(request, "the response ends before max_tokens")
        return
    stop = free.content[-4:] + "qqqq"
    cut = contract.chat(PROMPT, max_tokens=6, stop=stop)
    assert (cut.content, cut.finish_reason, cut.stop_sequence) == (free.content, "length", None)
    assert contract.stream_joined(PROMPT, max_tokens=6, stop=stop).content == free.content


@pytest.mark.miner_capability("seed")
def test_same_seed_same_text(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Equal seeds give equal text, different ones different text."""
    hot = {"temperature": 1.5, "max_tokens": 12}
    if not supported_or_refused(contract, request, "seed", lambda: contract.chat(PROMPT, seed=1, **hot)):
        return
    contract.chat(PROMPT, seed=1, **hot)  # so that both find the prompt in the cache
    texts = [contract.chat(PROMPT, seed=1, **hot).content for _ in range(2)]
    assert texts[0] == texts[1]
    others = {contract.chat(PROMPT, seed=seed, **hot).content for seed in range(2, 8)}
    assert len(others | {texts[0]}) > 1, "seven seeds gave one text at temperature 1.5"


@pytest.mark.parametrize(("name", "value"), [("top_k", 1), ("min_p", 1.0)])
def test_narrow_sampling_is_greedy(contract: Contract, request: pytest.FixtureRequest, name: str, value: float) -> None:
    """top_k=1 and min_p=1 are greedy at any temperature, so a dropped option shows."""
    request.applymarker(pytest.mark.miner_capability(name))
    options: dict[str, Any] = {name: value, "temperature": 2.0, "max_tokens": 8}
    if not supported_or_refused(contract, request, name, lambda: contract.chat(PROMPT, **options), param=name):
        return
    assert contract.chat(PROMPT, **options).content == contract.chat(PROMPT, max_tokens=8).content


@pytest.mark.parametrize(
    ("name", "value"), [("repeat_penalty", 2.0), ("presence_penalty", 2.0), ("frequency_penalty", 2.0)]
)
def test_penalties_change_the_reply(
    contract: Contract, request: pytest.FixtureRequest, name: str, value: float
) -> None:
    """A response without repetition may stay the same: that is not checked."""
    request.applymarker(pytest.mark.miner_capability(name))

    def send(**options: Any) -> str:
        return contract.chat(PROMPT, max_tokens=32, **options).content

    if supported_or_refused(contract, request, name, lambda: send(**{name: value}), param=name):
        changed = send(**{name: value}) != send()
        if not changed:
            not_checked(request, f"the response is the same without {name}")


@pytest.mark.miner_capability("top_p")
def test_narrow_top_p_is_greedy(contract: Contract, request: pytest.FixtureRequest) -> None:
    """top_p near 0 is greedy; checked if the backend reports usage, as a real engine does."""
    greedy = contract.chat(PROMPT, max_tokens=8)
    if counted(request, greedy) is not None:
        assert contract.chat(PROMPT, max_tokens=8, temperature=2.0, top_p=1e-6).content == greedy.content


@pytest.mark.miner_capability("temperature")
def test_temperature_is_applied(contract: Contract, request: pytest.FixtureRequest) -> None:
    """At a high temperature responses differ; checked if the backend reports usage, as a real engine does."""
    if counted(request, contract.chat(PROMPT, max_tokens=2)) is not None:
        texts = {contract.chat("Tell me a story.", temperature=2.0, max_tokens=8).content for _ in range(5)}
        assert len(texts) > 1


@pytest.mark.miner_capability("logit_bias")
def test_logit_bias_forbids(contract: Contract, request: pytest.FixtureRequest) -> None:
    """A strong negative bias changes the greedy response. Token ids are unknown here, so a wide range is used."""
    bias = {str(token): -100 for token in range(3, 300)}
    if supported_or_refused(contract, request, "logit_bias", lambda: contract.chat(PROMPT, logit_bias=bias)):
        assert (
            contract.chat(PROMPT, logit_bias=bias, max_tokens=12).content
            != contract.chat(PROMPT, max_tokens=12).content
        )


@pytest.mark.miner_capability("timeout")
def test_timeouts_are_kept(contract: Contract, request: pytest.FixtureRequest) -> None:
    """A tiny timeout is a BackendTimeoutError, streamed or not; a long one has no effect."""
    assert contract.chat("Hello.", max_tokens=2, timeout=100).finish_reason
    assert contract.chat("Hello.", max_tokens=2, timeout={"first": 100, "between": 100, "total": 100}).finish_reason
    if counted(request, contract.chat("Hello.", max_tokens=2)) is not None:
        for send in (contract.chat, contract.stream_chunks):
            with pytest.raises(BackendTimeoutError):
                send("Tell me a very long story.", max_tokens=2000, timeout=0.05)
