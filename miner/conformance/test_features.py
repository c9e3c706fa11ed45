"""Tools, structured output, logprobs, reasoning, embeddings, token counts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest

from miner.conformance.contract import Contract
from miner.conformance.refusals import counted, not_checked, supported_or_refused

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
    """The same as a type."""

    name: str
    capital: bool


@pytest.mark.miner_capability("tools")
def test_tools_are_offered_or_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """With tools offered the reply is text or calls that parse; the finish reason says which."""
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]

    def ask() -> Any:
        return contract.run(
            contract.service.chat_completion(messages, contract.model, max_tokens=96, temperature=0, tools=[WEATHER])
        )

    if not supported_or_refused(contract, request, "tools", ask, param="tools"):
        return
    response = ask()
    assert (response.finish_reason == "tool_calls") == bool(response.tool_calls)
    for call in response.tool_calls or ():
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
        assert "<tool_call>" not in response.content


@pytest.mark.miner_capability("tool_choice")
@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_required_tools_are_called(contract: Contract, request: pytest.FixtureRequest, choice: str) -> None:
    """A call comes, its arguments obey the schema, streamed it is the same, and its result can be sent back."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Paris?"}]
    options: dict[str, Any] = {
        "tools": [WEATHER], "tool_choice": choice, "max_tokens": 96, "temperature": 0, "model": contract.model,
    }  # fmt: skip

    def ask() -> Any:
        return contract.run(contract.service.chat_completion(messages, **options))

    if not supported_or_refused(contract, request, "tool_choice", ask):
        return
    response = ask()
    assert response.finish_reason == "tool_calls"
    call = response.tool_calls[0]
    assert call["type"] == "function"
    assert call["id"]
    assert call["function"]["name"] == "get_weather"
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)

    async def read() -> list[Any]:
        return [chunk async for chunk in contract.service.stream(messages=messages, **options)]

    streamed = contract.join(contract.run(read()))
    assert streamed.finish_reason == "tool_calls"
    assert streamed.tool_calls is not None
    assert streamed.tool_calls[0]["function"] == call["function"]
    messages += [
        {"role": "assistant", "content": response.content or None, "tool_calls": response.tool_calls},
        {"role": "tool", "tool_call_id": call["id"], "content": "18 degrees, sunny"},
    ]
    second = contract.run(
        contract.service.chat_completion(
            messages, contract.model, max_tokens=16, temperature=0, tools=[WEATHER], tool_choice="none"
        )
    )
    assert not second.tool_calls


@pytest.mark.miner_capability("chat")
def test_tool_choice_none_calls_nothing(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Tools may be there without being used; that needs no ability."""
    messages = [{"role": "user", "content": "Hello."}]
    response = contract.run(
        contract.service.chat_completion(
            messages, contract.model, max_tokens=8, temperature=0, tools=[WEATHER], tool_choice="none"
        )
    )
    assert response.tool_calls is None


@pytest.mark.miner_capability("json_object")
def test_json_object(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The reply is a JSON object, and `parsed` is it."""

    def ask(max_tokens: int = 80) -> Any:
        prompt = "Describe Paris as a JSON object with the keys name and country. Only JSON."
        return contract.ask(prompt, response_format={"type": "json_object"}, max_tokens=max_tokens)

    if supported_or_refused(contract, request, "json_object", ask, param="response_format"):
        from miner.errors import OutputValidationError

        try:
            response = ask()
        except OutputValidationError as error:
            response = error.response
            if response.finish_reason == "length":  # a small model may go on until it is cut: then it must be said so
                not_checked(request, "the reply was cut by max_tokens")
                return
            raise
        assert json.loads(response.content) == response.parsed


@pytest.mark.miner_capability("json_schema")
def test_json_schema(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The reply obeys the schema, whole and streamed, from a schema, OpenAI's form and a type."""

    def ask(form: Any = CITY_SCHEMA) -> Any:
        return contract.ask("Name a city as JSON.", response_format=form, max_tokens=64)

    if not supported_or_refused(contract, request, "json_schema", ask, param="response_format"):
        return
    wrapped = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA}}
    for form in (CITY_SCHEMA, wrapped):
        value = ask(form).parsed
        assert set(value) == {"name", "size"}
        assert value["size"] in ("small", "large")
    streamed = contract.join(contract.streamed("Name a city as JSON.", response_format=CITY_SCHEMA, max_tokens=64))
    assert json.loads(streamed.content) == json.loads(ask().content)
    bounded = {"type": "object", "properties": {"capital": {"type": "boolean"}, "name": {"enum": ["Rome", "Oslo"]}},
               "required": ["name", "capital"], "additionalProperties": False}  # fmt: skip
    assert isinstance(ask(bounded).parsed, dict)


@pytest.mark.miner_capability("json_schema")
def test_json_that_is_cut_is_an_error(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Half a JSON text is no success."""
    from miner.errors import OutputValidationError

    def ask() -> Any:
        return contract.ask("Name a city as JSON.", response_format=CITY_SCHEMA, max_tokens=2)

    if supported_or_refused(contract, request, "json_schema", ask):
        with pytest.raises(OutputValidationError) as caught:
            ask()
        assert "max_tokens" in str(caught.value)


@pytest.mark.miner_capability("regex")
def test_regex(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The reply matches the whole pattern."""
    form = {"type": "regex", "regex": "(yes|no)"}

    def ask() -> Any:
        return contract.ask("Is the sky blue?", response_format=form, max_tokens=8)

    if supported_or_refused(contract, request, "regex", ask, param="response_format"):
        assert ask().content in ("yes", "no")


@pytest.mark.miner_capability("grammar")
def test_grammar(contract: Contract, request: pytest.FixtureRequest) -> None:
    """The reply is a sentence of the grammar."""
    form = {"type": "grammar", "grammar": 'root ::= "yes" | "no"'}

    def ask() -> Any:
        return contract.ask("Is the sky blue?", response_format=form, max_tokens=8)

    if supported_or_refused(contract, request, "grammar", ask, param="response_format"):
        assert ask().content in ("yes", "no")


@pytest.mark.miner_capability("logprobs")
def test_logprobs(contract: Contract, request: pytest.FixtureRequest) -> None:
    """One entry for each token, whose texts join to the content; alternatives as many as asked; streamed likewise."""

    def ask(count: Any = 3) -> Any:
        return contract.ask("What is the capital of France?", logprobs=count, max_tokens=6)

    if not supported_or_refused(contract, request, "logprobs", ask, param="logprobs"):
        return
    response = ask()
    entries = response.logprobs
    assert response.content in "".join(entry.token for entry in entries)
    usage = counted(request, response)
    if usage is not None:
        assert abs(len(entries) - usage.completion_tokens) <= 1  # the end mark may or may not be told
    for entry in entries:
        assert entry.logprob <= 0
        assert math.isfinite(entry.logprob)
        assert len(entry.alternatives) == 3
    streamed = contract.join(contract.streamed("What is the capital of France?", logprobs=3, max_tokens=6))
    assert streamed.logprobs is not None
    assert [entry.token for entry in streamed.logprobs] == [entry.token for entry in entries]
    only_chosen = ask(True).logprobs
    assert [entry.token for entry in only_chosen] == [entry.token for entry in entries]
    assert not any(entry.alternatives for entry in only_chosen)


@pytest.mark.miner_capability("reasoning")
def test_reasoning_stays_out_of_the_content(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Thoughts come in `reasoning`; without them the reply is plain."""

    def ask(on: bool) -> Any:
        return contract.ask("What is 2 + 2?", reasoning=on, max_tokens=24)

    if supported_or_refused(contract, request, "reasoning", lambda: ask(True), param="reasoning"):
        assert "<think>" not in ask(True).content
    assert "<think>" not in ask(False).content


@pytest.mark.miner_capability("embeddings")
def test_embeddings(contract: Contract, request: pytest.FixtureRequest) -> None:
    """One vector for each text, of equal length; the same text gives the same vector; alike texts are nearer."""
    texts = ["The cat sits on the mat.", "A cat is sitting on a mat.", "Stock prices fell sharply."]

    def ask(given: Any = texts) -> Any:
        return contract.run(contract.service.embed(given, contract.model))

    if not supported_or_refused(contract, request, "embeddings", ask):
        return
    response = ask()
    vectors = response.embeddings
    assert len(vectors) == 3
    assert {len(vector) for vector in vectors} == {response.dimensions}
    counted(request, response)
    assert ask(texts[0]).embeddings[0] == pytest.approx(vectors[0], abs=2e-2)

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2])


@pytest.mark.miner_capability("count_tokens")
def test_token_counts(contract: Contract, request: pytest.FixtureRequest) -> None:
    """What is counted beforehand is what usage says afterwards."""
    prompt = "What is the capital of France?"

    def count() -> int:
        messages = [{"role": "user", "content": prompt}]
        return contract.run(contract.service.count_tokens(messages=messages, model=contract.model))

    if supported_or_refused(contract, request, "count_tokens", count):
        usage = counted(request, contract.ask(prompt, max_tokens=2))
        assert count() == usage.prompt_tokens if usage is not None else count() > 0


@pytest.mark.miner_capability("progress")
def test_progress(contract: Contract, request: pytest.FixtureRequest) -> None:
    """How far a long prompt is read comes in chunks of its own, and does no harm to the reply."""
    prompt = "The sea is wide. " * 100

    def ask() -> Any:
        return contract.streamed(prompt, progress=True, max_tokens=4)

    if supported_or_refused(contract, request, "progress", ask, param="progress"):
        told = [chunk.progress for chunk in ask() if chunk.progress is not None]
        assert told
        assert all(0 <= step.done <= step.total for step in told)


@pytest.mark.miner_capability("images")
def test_images_are_seen_or_refused(contract: Contract, request: pytest.FixtureRequest) -> None:
    """Content is never dropped."""
    pixel = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
        "AABJRU5ErkJggg=="
    )
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": pixel}}]

    def ask() -> Any:
        return contract.run(
            contract.service.chat_completion([{"role": "user", "content": content}], contract.model, max_tokens=8)
        )

    if supported_or_refused(contract, request, "images", ask):
        assert ask().content
