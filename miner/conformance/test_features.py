"""Tools, structured output, logprobs, reasoning, embeddings, token counts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from miner.conformance.contract import Contract, counted, finished, not_checked, supported_or_refused
from miner.core.llms.contract.join import join
from miner.core.wire import LLMResponse
from miner.errors import OutputValidationError

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CITY_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "size": {"enum": ["small", "large"]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


@dataclass
class City:
    """A schema as a type."""

    name: Literal["Rome", "Oslo"]
    capital: bool


@pytest.mark.miner_capability("tools")
def test_tools_are_offered_or_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """With tools the response is text or valid calls, with the matching finish reason."""
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]

    def send() -> Any:
        return contract.run(
            contract.service.chat_completion(messages, contract.model, max_tokens=96, temperature=0, tools=[WEATHER])
        )

    if not supported_or_refused(contract, request, "tools", send, param="tools"):
        return
    response = send()
    assert (response.finish_reason == "tool_calls") == bool(response.tool_calls)
    assert "<tool_call>" not in response.content
    if not response.tool_calls:
        not_checked(request, "the model called no tool")
    for call in response.tool_calls or ():
        assert call["function"]["name"] == "get_weather"
        assert isinstance(json.loads(call["function"]["arguments"]), dict)


@pytest.mark.miner_capability("tool_choice")
@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_required_tools_are_called(contract: Contract, request: pytest.FixtureRequest, choice: str) -> None:
    """A call is returned, streamed or not; its arguments match the schema, and its result can be sent back."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Paris?"}]
    options: dict[str, Any] = {
        "tools": [WEATHER], "tool_choice": choice, "max_tokens": 96, "temperature": 0, "model": contract.model,
    }  # fmt: skip

    def send() -> Any:
        return contract.run(contract.service.chat_completion(messages, **options))

    if not supported_or_refused(contract, request, "tool_choice", send):
        return
    response = send()
    assert response.finish_reason == "tool_calls"
    call = response.tool_calls[0]
    assert call["type"] == "function"
    assert call["id"]
    assert call["function"]["name"] == "get_weather"
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)

    async def read() -> list[Any]:
        return [chunk async for chunk in contract.service.stream(messages=messages, **options)]

    streamed = finished(join([contract.run(read())]))
    assert streamed.finish_reason == "tool_calls"
    assert streamed.tool_calls is not None
    assert streamed.tool_calls[0]["function"] == call["function"]
    messages += [
        {"role": "assistant", "content": response.content or None, "tool_calls": response.tool_calls},
        {"role": "tool", "tool_call_id": call["id"], "content": "18 degrees, sunny"},
    ]
    assert not contract.chat_messages(messages, tools=[WEATHER], tool_choice="none").tool_calls


@pytest.mark.miner_capability("chat")
def test_tool_choice_none_calls_nothing(contract: Contract) -> None:
    """Needs no capability."""
    response = contract.chat("Hello.", max_tokens=8, tools=[WEATHER], tool_choice="none")
    assert response.tool_calls is None


@pytest.mark.miner_capability("json_object")
def test_json_object(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The response is a JSON object, also in `parsed`."""

    def send(max_tokens: int = 80) -> Any:
        prompt = "Describe Paris as a JSON object with the keys name and country. Only JSON."
        return contract.chat(prompt, response_format={"type": "json_object"}, max_tokens=max_tokens)

    if supported_or_refused(contract, request, "json_object", send, param="response_format"):
        try:
            response = send()
        except OutputValidationError as error:
            response = error.response
            if response.finish_reason == "length":  # a small model may go on until it is cut
                not_checked(request, "the response was cut by max_tokens")
                return
            raise
        assert json.loads(response.content) == response.parsed
        assert isinstance(response.parsed, dict)


@pytest.mark.miner_capability("json_schema")
def test_json_schema(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The response matches the schema, streamed or not, given as a schema, in OpenAI's form and as a type."""

    def send(form: Any = CITY_SCHEMA) -> Any:
        return contract.chat("Name a city as JSON.", response_format=form, max_tokens=64)

    if not supported_or_refused(contract, request, "json_schema", send, param="response_format"):
        return
    wrapped = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA}}
    for form in (CITY_SCHEMA, wrapped):
        value = send(form).parsed
        assert set(value) == {"name", "size"}
        assert value["size"] in ("small", "large")
    streamed = contract.stream_joined("Name a city as JSON.", response_format=CITY_SCHEMA, max_tokens=64)
    assert json.loads(streamed.content) == json.loads(send().content)
    city = send(City).parsed
    assert isinstance(city, City)
    assert city.name in ("Rome", "Oslo")


@pytest.mark.miner_capability("json_schema")
def test_json_that_is_cut_is_an_error(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Truncated JSON is an error."""

    def send() -> Any:
        return contract.chat("Name a city as JSON.", response_format=CITY_SCHEMA, max_tokens=2)

    if supported_or_refused(contract, request, "json_schema", send):
        with pytest.raises(OutputValidationError) as caught:
            send()
        assert "max_tokens" in str(caught.value)


@pytest.mark.parametrize(("kind", "value"), [("regex", "(yes|no)"), ("grammar", 'root ::= "yes" | "no"')])
def test_regex_and_grammar(contract: Contract, request: pytest.FixtureRequest, kind: str, value: str) -> None:
    """The response matches the pattern or the grammar."""
    request.applymarker(pytest.mark.miner_capability(kind))

    def send() -> Any:
        return contract.chat("Is the sky blue?", response_format={"type": kind, kind: value}, max_tokens=8)

    if supported_or_refused(contract, request, kind, send, param="response_format"):
        assert send().content in ("yes", "no")


@pytest.mark.miner_capability("logprobs")
def test_logprobs(contract: Contract, request: pytest.FixtureRequest) -> None:
    """One entry per token, whose texts join to the content, with the requested number of alternatives."""

    def send(count: Any = 3) -> Any:
        return contract.chat("What is the capital of France?", logprobs=count, max_tokens=6)

    if not supported_or_refused(contract, request, "logprobs", send, param="logprobs"):
        return
    response = send()
    entries = response.logprobs
    assert response.content
    assert response.content in "".join(entry.token for entry in entries)
    usage = counted(request, response)
    if usage is not None:
        assert abs(len(entries) - usage.completion_tokens) <= 1  # the end-of-sequence token may have one or not
    for entry in entries:
        assert entry.logprob <= 0
        assert math.isfinite(entry.logprob)
        assert len(entry.alternatives) == 3
    streamed = contract.stream_joined("What is the capital of France?", logprobs=3, max_tokens=6)
    assert streamed.logprobs is not None
    assert [entry.token for entry in streamed.logprobs] == [entry.token for entry in entries]
    only_chosen = send(True).logprobs
    assert [entry.token for entry in only_chosen] == [entry.token for entry in entries]
    assert not any(entry.alternatives for entry in only_chosen)


@pytest.mark.miner_capability("reasoning")
def test_reasoning_stays_out_of_the_content(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Reasoning is in `reasoning`, streamed or not, and absent if switched off."""

    def send(on: bool) -> Any:
        return contract.chat("What is 2 + 2?", reasoning=on, max_tokens=24)

    if supported_or_refused(contract, request, "reasoning", lambda: send(True), param="reasoning"):
        response = send(True)
        streamed = contract.stream_joined("What is 2 + 2?", reasoning=True, max_tokens=24)
        assert "<think>" not in response.content + streamed.content
        assert (streamed.content, streamed.reasoning) == (response.content, response.reasoning)
        if not response.reasoning:
            not_checked(request, "the model wrote no reasoning")
    plain = send(False)
    assert "<think>" not in plain.content
    assert not plain.reasoning


@pytest.mark.miner_capability("embeddings")
def test_embeddings(contract: Contract, request: pytest.FixtureRequest) -> None:
    """One vector per text, of equal length; equal texts have equal vectors, similar texts are closer."""
    texts = ["The cat sits on the mat.", "A cat is sitting on a mat.", "Stock prices fell sharply."]

    def send(inputs: Any = texts) -> Any:
        return contract.run(contract.service.embed(inputs, contract.model))

    if not supported_or_refused(contract, request, "embeddings", send):
        return
    response = send()
    vectors = response.embeddings
    assert len(vectors) == 3
    assert {len(vector) for vector in vectors} == {response.dimensions}
    counted(request, response)
    assert send(texts[0]).embeddings[0] == pytest.approx(vectors[0], abs=2e-2)

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2])


@pytest.mark.miner_capability("count_tokens")
def test_token_counts(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The count equals the usage of the request, and grows with the prompt."""
    prompt = "What is the capital of France?"

    def count(content: str = prompt) -> int:
        messages = [{"role": "user", "content": content}]
        return contract.run(contract.service.count_tokens(messages=messages, model=contract.model))

    if supported_or_refused(contract, request, "count_tokens", count):
        assert 0 < count() < count(prompt * 10)
        usage = counted(request, contract.chat(prompt, max_tokens=2))
        if usage is not None:
            assert count() == usage.prompt_tokens


@pytest.mark.miner_capability("progress")
def test_progress(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Prefill progress of a long prompt is in chunks and never decreases; the response follows."""
    prompt = "The sea is wide. " * 100

    def send() -> Any:
        return contract.stream_chunks(prompt, progress=True, max_tokens=4)

    if supported_or_refused(contract, request, "progress", send, param="progress"):
        chunks = send()
        assert finished(join([chunks])).content
        steps = [chunk.progress for chunk in chunks if chunk.progress is not None and chunk.progress.stage == "prefill"]
        assert steps
        assert all(0 <= step.done <= step.total for step in steps)
        assert steps[-1].total > 0
        assert [step.done for step in steps] == sorted(step.done for step in steps)


@pytest.mark.miner_capability("images")
def test_images_are_read_or_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Images are not dropped: they add prompt tokens."""
    pixel = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
        "AABJRU5ErkJggg=="
    )
    text = {"type": "text", "text": "What is this?"}
    image = {"type": "image_url", "image_url": {"url": pixel}}

    def send(*content: Any) -> LLMResponse:
        return contract.chat_messages([{"role": "user", "content": list(content)}], max_tokens=8)

    if supported_or_refused(contract, request, "images", lambda: send(text, image)):
        response = send(text, image)
        assert response.content
        usage, without = counted(request, response), counted(request, send(text))
        if usage is not None and without is not None:
            assert usage.prompt_tokens > without.prompt_tokens, "the image adds no prompt tokens: was it dropped?"
