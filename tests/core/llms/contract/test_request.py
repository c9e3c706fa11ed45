"""Parameters: the same checks for every backend and every verb, before anything is sent."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.core.llms.contract.capabilities import may_ignore
from miner.core.llms.contract.request import build_request, seconds_of
from miner.core.wire import OPTIONS, ChatRequest, Timeout
from miner.errors import InvalidRequestError
from tests.core.services import ENGINES, MESSAGES, WEATHER, read, service_at

GOOD = {"prompt": "hi", "max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "options": {}}

WRONG: list[tuple[str, Any, str]] = [
    ("prompt", "", "prompt must be a non-empty string, not ''"),
    ("prompt", " \n", "prompt must be a non-empty string"),
    ("prompt", 7, "prompt must be a non-empty string, not 7"),
    ("prompt", b"hi", "prompt must be a non-empty string"),
    ("model", "", "model must be a model name, or None for the default, not ''"),
    ("model", 3, "model must be a model name"),
    ("temperature", -1, "temperature must be a number from 0 to 2, not -1"),
    ("temperature", 9, "temperature must be a number from 0 to 2, not 9"),
    ("temperature", "hot", "temperature must be a number from 0 to 2, not 'hot'"),
    ("temperature", math.nan, "temperature must be a number from 0 to 2, not nan"),
    ("temperature", math.inf, "temperature must be a number from 0 to 2, not inf"),
    ("temperature", True, "temperature must be a number from 0 to 2, not True"),
    ("temperature", [0.5], "temperature must be a number from 0 to 2"),
    ("top_p", 2, "top_p must be a number from 0 to 1, not 2"),
    ("top_p", -0.1, "top_p must be a number from 0 to 1, not -0.1"),
    ("top_p", math.nan, "top_p must be a number from 0 to 1, not nan"),
    ("max_tokens", 0, "max_tokens must be an integer of at least 1, not 0"),
    ("max_tokens", -2, "max_tokens must be an integer of at least 1, not -2. -1 generates until the context ends"),
    ("max_tokens", -1.5, "max_tokens must be an integer of at least 1, not -1.5"),
    ("max_tokens", -5, "max_tokens must be an integer of at least 1, not -5"),
    ("max_tokens", 1.5, "max_tokens must be an integer of at least 1, not 1.5"),
    ("max_tokens", True, "max_tokens must be an integer of at least 1, not True"),
    ("max_tokens", "9", "max_tokens must be an integer of at least 1, not '9'"),
    ("max_tokens", 2**31, "max_tokens must be an integer from 1 to 2147483647, not 2147483648"),
    ("max_tokens", 10**400, "max_tokens must be an integer from 1 to 2147483647, not 1000"),
    ("max_tokens", 10**5000, "max_tokens must be an integer from 1 to 2147483647, not a number of 16610 bits"),
]
WRONG_OPTIONS: list[tuple[str, Any, str]] = [
    ("seed", 1.5, "seed must be a 64-bit integer, or -1 for a random seed, not 1.5"),
    ("seed", True, "seed must be a 64-bit integer"),
    ("seed", 2**63, "seed must be a 64-bit integer"),
    ("seed", -(2**63) - 1, "seed must be a 64-bit integer"),
    ("seed", math.inf, "seed must be a 64-bit integer"),
    ("seed", math.nan, "seed must be a 64-bit integer"),
    ("seed", 10**400, "seed must be a 64-bit integer, or -1 for a random seed, not 1000"),
    ("top_k", -1, "top_k must be an integer of at least 0, not -1"),
    ("top_k", True, "top_k must be an integer"),
    ("min_p", 1.1, "min_p must be a number from 0 to 1, not 1.1"),
    ("repeat_penalty", 0, "repeat_penalty must be a number above 0 and at most 10, not 0"),
    ("presence_penalty", -2.1, "presence_penalty must be a number from -2 to 2"),
    ("frequency_penalty", "1", "frequency_penalty must be a number from -2 to 2, not '1'"),
    ("stop", "", "stop must be a string or a list of strings, none of them empty"),
    ("stop", ["a", ""], "stop must be a string or a list of strings, none of them empty, not ['a', '']"),
    ("stop", 5, "stop must be a string or a list of strings"),
    ("stop", {"a": 1}, "stop must be a string or a list of strings"),
    ("logprobs", 21, "logprobs must be an integer from 0 to 20, not 21"),
    ("logprobs", "yes", "logprobs must be an integer from 0 to 20, not 'yes'"),
    ("logit_bias", [1], "logit_bias must be a mapping of token ids to numbers from -100 to 100, not [1]"),
    ("logit_bias", {"cat": 1}, "logit_bias must be a mapping with token ids as keys, not 'cat'"),
    ("logit_bias", {5: 101}, "logit_bias[5] must be a number from -100 to 100, not 101"),
    ("response_format", "xml", "response_format must be a JSON Schema"),
    ("reasoning", "hard", "reasoning must be True, False or one of minimal, low, medium, high, xhigh, max, not 'hard'"),
    ("reasoning", 1, "reasoning must be True, False or one of"),
    ("reasoning", [], "reasoning must be True, False or one of"),
    ("timeout", 0, "timeout must be a number above 0"),
    ("timeout", "5", "timeout must be a number above 0"),
    ("timeout", {"frist": 1}, "timeout must be seconds, or a mapping with first, between and total, not 'frist'"),
    ("timeout", {"first": -1}, "timeout.first must be a number above 0"),
    ("timeout", {"total": math.inf}, "timeout.total must be a number above 0"),
    ("keep_alive", "", "keep_alive must be seconds, or a string such as '10m'"),
    ("keep_alive", [1], "keep_alive must be seconds"),
    ("keep_alive", "300", "keep_alive must be seconds, or a string such as '10m' or '1h30m', not '300'"),
    ("keep_alive", "soon", "keep_alive must be seconds, or a string such as '10m' or '1h30m', not 'soon'"),
    ("raw", "yes", "raw must be True or False, not 'yes'"),
    ("progress", 1, "progress must be True or False, not 1"),
    ("parallel_tool_calls", 0, "parallel_tool_calls must be True or False, not 0"),
    ("extra", [1], "extra must be a mapping of the engine's field names to values"),
    ("extra", {1: 2}, "extra must be a mapping of the engine's field names to values"),
]  # fmt: skip


def shown(value: Any) -> str:
    return "huge" if isinstance(value, int) and value > 2**64 else repr(value)[:30]


@pytest.mark.parametrize(("name", "value", "words"), WRONG, ids=shown)
def test_a_wrong_value_is_named_with_the_field_the_value_and_what_is_allowed(name: str, value: Any, words: str):
    with pytest.raises(InvalidRequestError) as caught:
        build_request(**{**GOOD, name: value})
    assert words in str(caught.value)
    assert caught.value.param == name
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("name", "value", "words"), WRONG_OPTIONS, ids=shown)
def test_a_wrong_option_is_named_with_the_field_the_value_and_what_is_allowed(name: str, value: Any, words: str):
    with pytest.raises(InvalidRequestError) as caught:
        build_request(**{**GOOD, "options": {name: value}})
    assert words in str(caught.value)
    assert (caught.value.param or "").startswith((name, "timeout"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("temprature", "temperature"), ("max_token", "max_tokens"), ("stops", "stop"), ("topk", "top_k"),
        ("repetition_penalty", "repeat_penalty"), ("time_out", "timeout"), ("tool", "tools"), ("modell", "model"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_exist_gets_the_nearest_name(typed: str, meant: str):
    with pytest.raises(InvalidRequestError, match=f"Unknown parameter: '{typed}'. Did you mean {meant}\\?"):
        build_request(**{**GOOD, "options": {typed: 1}})


def test_an_option_like_no_other_is_sent_to_extra():
    with pytest.raises(
        InvalidRequestError, match=r"parameter: 'xyzzy'\. Pass a field of the engine's own in extra=\{\.\.\.\}"
    ):
        build_request(**{**GOOD, "options": {"xyzzy": None}})


def test_a_prompt_or_messages_never_both_and_never_none():
    for prompt, messages in ((None, None), ("hi", MESSAGES)):
        with pytest.raises(InvalidRequestError, match="either prompt or messages"):
            build_request(**{**GOOD, "prompt": prompt, "messages": messages})


def test_raw_is_for_prompts_and_without_tools():
    with pytest.raises(InvalidRequestError, match=r"raw=True .* requires prompt, not messages"):
        build_request(**{**GOOD, "prompt": None, "messages": MESSAGES, "options": {"raw": True}})
    with pytest.raises(InvalidRequestError, match=r"raw=True .* tools"):
        build_request(**GOOD | {"options": {"raw": True}}, tools=[WEATHER])


def test_every_option_at_its_place():
    request = build_request(
        **GOOD
        | {
            "options": {
                "stop": "END", "seed": 0, "top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "presence_penalty": 1,
                "frequency_penalty": -1, "logit_bias": {7: 5, "8": -5.5}, "logprobs": True, "reasoning": "low",
                "response_format": {"type": "json_object"}, "timeout": {"first": 1, "total": None}, "keep_alive": "10m",
                "raw": False, "progress": True, "parallel_tool_calls": False, "extra": {"x": [1]},
            }
        }
    )  # fmt: skip
    assert request.stop == ["END"]
    assert (request.seed, request.top_k, request.min_p, request.repeat_penalty) == (0, 5, 0.1, 1.1)
    assert (request.presence_penalty, request.frequency_penalty) == (1, -1)
    assert request.logit_bias == {"7": 5, "8": -5.5}
    assert request.logprobs == 0
    assert (request.reasoning, request.keep_alive, request.extra) == ("low", "10m", {"x": [1]})
    assert request.response_format is not None
    assert request.timeout == Timeout(first=1)
    assert (request.raw, request.progress, request.parallel_tool_calls) == (False, True, False)


def test_there_is_no_option_that_build_request_forgets():
    """Each word of OPTIONS reaches the request: a value that is not its default is found there."""
    values: dict[str, Any] = {
        "stop": "x", "logit_bias": {1: 1}, "response_format": {"type": "object"}, "reasoning": True, "timeout": 1,
        "keep_alive": 60, "raw": True, "progress": True, "parallel_tool_calls": True, "extra": {"a": 1},
        "suffix": "a", "context": [1], "continuous_usage": True, "echo": True,
    }  # fmt: skip
    plain = build_request(**GOOD)
    for name in OPTIONS:
        beside = {"raw": True} if name == "echo" else {}
        request = build_request(**GOOD | {"options": {name: values.get(name, 1), **beside}})
        assert getattr(request, name) != getattr(plain, name), name


@pytest.mark.parametrize(
    ("given", "taken"),
    [(0, 0), (7, 7), (4.0, 4), (2**32 - 2, 2**32 - 2), (2**32 - 1, 0), (-1, None),
     (2**63 - 1, (2**63 - 1) % (2**32 - 1)), (-(2**63), -(2**63) % (2**32 - 1)), (-2, 2**32 - 3), (None, None)],
)  # fmt: skip
def test_any_seed_of_64_bits_is_one_of_the_engines(given: float | None, taken: int | None):
    assert build_request(**GOOD | {"options": {"seed": given}}).seed == taken


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("-0", 0), ("10m", 600), ("1h30m", 5400), ("-1m", -60), ("+5s", 5), ("500ms", 0.5), ("1.5h", 5400),
     (".5s", 0.5), ("5.s", 5), ("3us", 3e-6), ("3µs", 3e-6), ("3μs", 3e-6), ("9ns", 9e-9), (300, 300), (-1, -1)],
)  # fmt: skip
def test_a_duration_as_go_reads_it(text: float | str, seconds: float):
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "300", "-1", "5", "m", "5 m", "1h 30m", "5M", "1d", "--5m", "5m-", "٣m", ".s", "1e3s", "soon",
             "99999999999h", True, None],
)  # fmt: skip
def test_what_go_refuses_is_no_duration(text: Any):
    with pytest.raises(InvalidRequestError, match="keep_alive must be seconds, or a string such as '10m'"):
        seconds_of(text)


@pytest.mark.parametrize("value", [0, 60, -1, 12.5, "10m", "1h30m", "-1m", "0", "500ms", "1.5h"])
def test_keep_alive_as_ollama_takes_it(value: float | str):
    assert build_request(**GOOD | {"options": {"keep_alive": value}}).keep_alive == value


def test_a_number_alone_bounds_the_whole_call():
    assert build_request(**GOOD | {"options": {"timeout": 2.5}}).timeout == Timeout(total=2.5)


@given(st.integers(1, 2**31 - 1), st.floats(0, 2), st.floats(0, 1, exclude_min=True))
def test_all_values_in_range_pass_unchanged(max_tokens: int, temperature: float, top_p: float):
    request = build_request(prompt="x", max_tokens=max_tokens, temperature=temperature, top_p=top_p, options={})
    assert (request.max_tokens, request.temperature, request.top_p) == (max_tokens, temperature, top_p)
    assert isinstance(request, ChatRequest)


@given(st.sampled_from(["max_tokens", "temperature", "top_p"]), st.one_of(st.none(), st.text(), st.binary(),
       st.floats(), st.integers(), st.booleans(), st.lists(st.integers()), st.complex_numbers()))  # fmt: skip
def test_any_value_at_all_passes_or_is_refused_by_name(name: str, value: Any):
    refusal = None
    try:
        request = build_request(**GOOD | {name: value})
    except InvalidRequestError as error:
        refusal = error
    read = 1e-6 if name == "top_p" and value == 0 else value
    assert refusal.param == name if refusal is not None else getattr(request, name) == read


CASES = [
    ({"prompt": ""}, "prompt"), ({"temperature": -1}, "temperature"), ({"temperature": 9}, "temperature"),
    ({"temperature": "hot"}, "temperature"), ({"max_tokens": 0}, "max_tokens"), ({"top_p": 2}, "top_p"),
    ({"top_p": math.nan}, "top_p"), ({"temperature": True}, "temperature"), ({"stop": ""}, "stop"),
    ({"temprature": 1}, "temprature"), ({"unsupported": "drop"}, "unsupported"), ({"model": ""}, "model"),
    ({"response_format": 5}, "response_format"), ({"seed": 0.5}, "seed"),
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("wrong", "param"), CASES)
async def test_all_verbs_of_all_backends_refuse_alike_without_a_word_to_the_engine(
    engine: str, wrong: dict[str, Any], param: str
):
    # Nobody listens there: a request that went out would be a BackendUnavailableError.
    async with service_at(engine, "http://127.0.0.1:9") as service:
        given = {"prompt": "hi", **wrong}
        prompt = given.pop("prompt")
        messages = [{"role": "user", "content": prompt}]
        errors = []
        with pytest.raises(InvalidRequestError) as caught:
            await service.generate(prompt, **given)
        errors.append(str(caught.value))
        with pytest.raises(InvalidRequestError) as caught:
            await read(service.stream(prompt, **given))
        errors.append(str(caught.value))
        assert caught.value.param == param
        if prompt:
            with pytest.raises(InvalidRequestError) as caught:
                await service.chat_completion(messages, **given)
            errors.append(str(caught.value))
        assert len(set(errors)) == 1
        assert param in errors[0]


async def test_a_stream_refuses_when_it_is_asked_for_not_when_it_is_read():
    async with service_at("vllm", "http://127.0.0.1:9") as service:
        with pytest.raises(InvalidRequestError):
            service.stream("hi", temperature=9)


async def test_defaults_come_from_the_settings():
    async with service_at("vllm", "http://127.0.0.1:9", default_max_tokens=9, default_temperature=0.1) as service:
        request = service._request({}, prompt="x", model=None, max_tokens=None, temperature=None, top_p=None)
        assert (request.max_tokens, request.temperature, request.top_p) == (9, 0.1, 0.95)


def test_a_nucleus_of_nothing_is_the_likeliest_token_alone():
    assert 0 < build_request(**{**GOOD, "top_p": 0}).top_p < 0.001


def test_only_the_named_options_may_be_ignored():
    request = build_request(prompt="Hi", max_tokens=5, temperature=0, top_p=1, options={}, unsupported=["reasoning"])
    assert may_ignore(request, "reasoning")
    assert not may_ignore(request, "seed")
    with pytest.raises(InvalidRequestError, match="names 'model', which is no option"):
        build_request(prompt="Hi", max_tokens=5, temperature=0, top_p=1, options={}, unsupported=["model"])
    with pytest.raises(InvalidRequestError, match="unsupported must be"):
        build_request(prompt="Hi", max_tokens=5, temperature=0, top_p=1, options={}, unsupported={"reasoning": 1})
