"""A generate-only backend: a class with `generate` and nothing else, through every verb; and wrappers of built-ins."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from miner.core.llms import get_backend
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk, LLMResponse, ModelInfo
from miner.errors import (
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedFeatureError,
)
from tests.core.services import MESSAGES, WEATHER, read, settings, text_of
from tests.servers.openai_stub import StubServer


class Smallest(LLMService):
    """As issue 3 has it: no call of our __init__, five parameters, `_get_model`."""

    def __init__(self, config: Any) -> None:
        self.calls: list[dict[str, Any]] = []

    async def generate(self, prompt, model, max_tokens, temperature, top_p):  # type: ignore[override,no-untyped-def]
        self.calls.append(
            {"prompt": prompt, "model": model, "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        )
        return f"You said: {prompt}"

    async def _get_model(self, model_name: str) -> Any:
        if model_name == "nobody":
            raise ModelNotFoundError("There is no 'nobody'.", model=model_name)


DEFAULTS = {"prompt": "hi", "model": None, "max_tokens": 512, "temperature": 0.7, "top_p": 0.95}


async def test_every_verb_and_every_default():
    service = Smallest(settings())
    assert await service.generate("hi") == "You said: hi"
    response = await service.chat_completion(MESSAGES)
    assert (response.content, response.finish_reason, response.backend) == ("You said: hi", "stop", "smallest")
    assert response.usage is None
    chunks = await read(service.stream("hi"))
    assert [(chunk.content, chunk.finish_reason) for chunk in chunks] == [("You said: hi", "stop")]
    assert text_of(await read(service.stream(messages=MESSAGES))) == "You said: hi"
    assert service.calls == [DEFAULTS] * 4


async def test_its_arguments_may_be_given_in_order_and_the_settings_fill_the_rest():
    service = Smallest(settings(default_max_tokens=9, default_model="d"))
    await service.generate("hi", "m", 5, 0, 1)
    await service.generate("hi", temperature=0.5)
    await service.chat_completion(MESSAGES, "m", 5, 0, 1)
    assert service.calls[0] == service.calls[2] == {
        "prompt": "hi", "model": "m", "max_tokens": 5, "temperature": 0, "top_p": 1,
    }  # fmt: skip
    assert service.calls[1] == DEFAULTS | {"model": "d", "max_tokens": 9, "temperature": 0.5}


async def test_prompts_are_made_of_messages():
    service = Smallest(settings())
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Really?"},
    ]
    await service.chat_completion(turns[1:2])
    await service.chat_completion(turns)
    await read(service.stream(messages=turns))
    assert [call["prompt"] for call in service.calls] == [
        "Why?",
        *["system: Be brief.\nuser: Why?\nassistant: So.\nuser: Really?\nassistant:"] * 2,
    ]


async def test_wrong_arguments_are_refused_as_everywhere():
    service = Smallest(settings())
    for wrong in ({"temperature": 9}, {"max_tokens": 0}, {"top_p": float("nan")}, {"sed": 1}):
        with pytest.raises(InvalidRequestError):
            await service.generate("hi", **wrong)
        with pytest.raises(InvalidRequestError):
            await service.chat_completion(MESSAGES, **wrong)
        with pytest.raises(InvalidRequestError):
            service.stream("hi", **wrong)
    with pytest.raises(InvalidRequestError):
        await service.generate("")
    assert service.calls == []


@pytest.mark.parametrize(
    ("option", "param"),
    [
        ({"seed": 1}, "seed"),
        ({"stop": "x"}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"raw": True}, "raw"),
        ({"progress": True}, "progress"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"keep_alive": 0}, "keep_alive"),
        ({"extra": {"a": 1}}, "extra"),
    ],
)
async def test_what_it_cannot_be_told_is_refused_by_name_or_listed(option: dict[str, Any], param: str):
    service = Smallest(settings())
    for ask in (lambda: service.generate("hi", **option), lambda: read(service.stream("hi", **option))):
        with pytest.raises(UnsupportedFeatureError, match=f"smallest does not support {param}") as caught:
            await ask()
        assert caught.value.param == param
    assert service.calls == []
    if param != "raw":
        response = await service.chat_completion(MESSAGES, unsupported="ignore", **option)
        assert response.ignored == [param]
        assert service.calls == [DEFAULTS]
    assert await service.generate("hi", unsupported="ignore", **option) == "You said: hi"


async def test_tools_pictures_vectors_and_counts_are_refused_by_name():
    service = Smallest(settings())
    with pytest.raises(UnsupportedFeatureError, match="does not support tools"):
        await service.chat_completion(MESSAGES, tools=[WEATHER])
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    with pytest.raises(UnsupportedFeatureError, match="does not support images"):
        await service.chat_completion([{"role": "user", "content": [picture]}])
    with pytest.raises(UnsupportedFeatureError, match="does not support embeddings"):
        await service.embed("hi")
    with pytest.raises(UnsupportedFeatureError, match="cannot count tokens"):
        await service.count_tokens("hi")
    assert service.capabilities == {"chat", "timeout"}


async def test_models_and_health():
    service = Smallest(settings())
    for ask in (lambda: service.generate("hi", model="nobody"), lambda: read(service.stream("hi", model="nobody"))):
        with pytest.raises(ModelNotFoundError):
            await ask()
    assert service.calls == []
    assert await service.health_check()
    assert await service.list_models() == []
    sick = Smallest(settings(default_model="nobody"))
    assert not await sick.health_check()
    assert "There is no 'nobody'." in str((await sick.health()).reason)
    assert await Smallest(settings(default_model="d")).list_models() == [ModelInfo(id="d")]


async def test_it_keeps_the_contract_without_calling_our_constructor():
    config = settings()
    service = Smallest(config)
    assert service.config is config
    assert service.models == {}
    assert service.retries == 0
    await service.generate("hi", model="m")
    assert set(service.models) == {"m"}
    async with service as entered:
        assert entered is service
    await service.aclose()


class Declaring(LLMService):
    """Takes some options by name."""

    async def generate(self, prompt, model=None, max_tokens=1, temperature=0.0, top_p=1.0, *, seed=None, stop=None):  # type: ignore[override,no-untyped-def]
        return f"{seed} {stop}"


async def test_options_that_it_declares_are_passed():
    service = Declaring(settings())
    assert await service.generate("hi") == "None None"
    assert await service.generate("hi", seed=0, stop="x") == "0 ['x']"
    assert (await service.chat_completion(MESSAGES, seed=7)).content == "7 None"
    assert text_of(await read(service.stream("hi", stop=["a"]))) == "None ['a']"
    with pytest.raises(UnsupportedFeatureError, match="top_k"):
        await service.generate("hi", top_k=1)
    assert service.capabilities == {"chat", "timeout", "seed", "stop"}


class Few(LLMService):
    """Declares less than the contract."""

    async def generate(self, prompt):  # type: ignore[override,no-untyped-def]
        return prompt


async def test_what_it_does_not_declare_is_never_passed():
    service = Few(settings())
    assert await service.generate("hi", max_tokens=512) == "hi"  # what the settings say: nothing was asked for
    with pytest.raises(UnsupportedFeatureError, match="few does not support max_tokens"):
        await service.generate("hi", max_tokens=3)
    with pytest.raises(UnsupportedFeatureError, match="few does not support temperature"):
        await service.chat_completion(MESSAGES, temperature=0)


async def test_unlimited_is_the_settings_number_for_a_backend_that_counts():
    service = Smallest(settings(default_max_tokens=33))
    await service.generate("hi", max_tokens=-1)
    await service.chat_completion(MESSAGES, max_tokens=-1)
    await read(service.stream("hi", max_tokens=-1))
    assert [call["max_tokens"] for call in service.calls] == [33, 33, 33]
    assert await Few(settings()).generate("hi", max_tokens=-1) == "hi"


class Open(LLMService):
    """Takes anything."""

    async def generate(self, text, **anything):  # type: ignore[override,no-untyped-def]
        return f"{text} {sorted(anything)}"


async def test_keywords_of_any_name_get_the_contracts_own_and_no_options():
    """Another name for the prompt is the author's affair: it comes first."""
    service = Open(settings())
    assert await service.generate("hi") == "hi ['max_tokens', 'model', 'temperature', 'top_p']"
    with pytest.raises(UnsupportedFeatureError, match="seed"):
        await service.generate("hi", seed=1)


class Slow(LLMService):
    """Takes its time."""

    cancelled = 0

    async def generate(self, prompt, model, max_tokens, temperature, top_p):  # type: ignore[override,no-untyped-def]
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            type(self).cancelled += 1
            raise


async def test_the_callers_bounds_hold_for_every_verb():
    service = Slow(settings())
    before = Slow.cancelled
    for limit in (0.05, {"first": 0.05}, {"total": 0.05}):
        for ask in (
            lambda limit=limit: service.generate("hi", timeout=limit),
            lambda limit=limit: service.chat_completion(MESSAGES, timeout=limit),
            lambda limit=limit: read(service.stream("hi", timeout=limit)),
        ):
            with pytest.raises(BackendTimeoutError, match=r"slow exceeded timeout\.(total|first) \(0\.05 s\)"):
                await ask()
    assert Slow.cancelled == before + 9


class Flaky(LLMService):
    """Fails twice."""

    left = 2

    async def generate(self, prompt, model, max_tokens, temperature, top_p):  # type: ignore[override,no-untyped-def]
        if self.left:
            self.left -= 1
            raise BackendUnavailableError("Not yet.", backend="flaky")
        return "there"


async def test_every_verb_is_sent_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miner.core.llms.contract.retry._FIRST_PAUSE", 0.001)
    for ask in (
        lambda service: service.generate("hi"),
        lambda service: service.chat_completion(MESSAGES),
        lambda service: service.stream("hi").collect(),
    ):
        service = Flaky(settings(max_retries=2))
        assert str(await ask(service)) == "there"
        assert service.retries == 2


class Wrong(LLMService):
    """Returns no text."""

    async def generate(self, prompt, model, max_tokens, temperature, top_p):  # type: ignore[override,no-untyped-def]
        return {"text": prompt}


async def test_what_is_no_text_is_an_error_that_says_whose():
    service = Wrong(settings())
    for ask in (lambda: service.generate("hi"), lambda: service.chat_completion(MESSAGES)):
        with pytest.raises(BackendProtocolError, match=r"Wrong\.generate returned dict, not text"):
            await ask()


class Loud(Smallest):
    """Builds on another small one, by super()."""

    async def generate(self, prompt, model, max_tokens, temperature, top_p):  # type: ignore[override,no-untyped-def]
        said = await super().generate(prompt, model, max_tokens, temperature, top_p)
        return said.upper()


async def test_a_small_backend_on_top_of_a_small_backend():
    service = Loud(settings())
    assert await service.generate("hi", temperature=0.5) == "YOU SAID: HI"
    assert (await service.chat_completion(MESSAGES)).content == "YOU SAID: HI"
    assert text_of(await read(service.stream("hi"))) == "YOU SAID: HI"
    assert service.calls == [DEFAULTS | {"temperature": 0.5}, DEFAULTS, DEFAULTS]
    assert service.name == "smallest"


def wrapping(kind: type[LLMService]) -> type[LLMService]:
    class Counting(kind):  # type: ignore[valid-type,misc]
        """Wraps the public verbs of a built-in backend."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.asked: list[str] = []

        async def generate(self, prompt: str, *args: Any, **options: Any) -> str:
            self.asked.append("generate")
            return (await super().generate(prompt, *args, **options)).upper()

        async def chat_completion(self, messages: Any, *args: Any, **options: Any) -> Any:
            self.asked.append("chat")
            return await super().chat_completion(messages, *args, **options)

        def stream(self, *args: Any, **options: Any) -> Any:
            self.asked.append("stream")
            return super().stream(*args, **options)

    return Counting


@pytest.mark.parametrize("kind", [VLLMService, OllamaService])
async def test_a_subclass_of_a_built_in_that_wraps_public_verbs(kind: type[LLMService]):
    """Recognised by `_chat` being there, not by `generate` being overridden."""
    async with StubServer(reply="Hello there.") as server:
        config = settings(vllm_api_base=server.v1, ollama_base_url=server.url)
        async with wrapping(kind)(config) as service:
            assert await service.generate("hi", seed=1, top_k=3) == "HELLO THERE."
            assert (await service.chat_completion(MESSAGES, tools=[WEATHER])).content == "Hello there."
            assert text_of(await read(service.stream("hi"))) == "Hello there."
            assert service.asked == ["generate", "chat", "stream"]
            assert service.name == kind.name
            assert "seed" in service.capabilities
            assert len(server.bodies) == 3


async def test_many_prompts_at_once_and_many_tasks_on_one_service():
    service = Smallest(settings())
    results = dict([pair async for pair in service.generate_many(["a", "", "c"], concurrency=2)])
    assert (results[0], results[2]) == ("You said: a", "You said: c")
    assert isinstance(results[1], InvalidRequestError)
    await asyncio.gather(*(service.generate(str(number)) for number in range(50)))
    assert len(service.calls) == 52


async def test_any_object_will_do_as_settings():
    class Foreign:
        default_model = "mine"
        default_temperature = 0.1

    service = Smallest(Foreign())
    await service.generate("hi")
    assert service.calls == [DEFAULTS | {"model": "mine", "temperature": 0.1}]
    assert isinstance(service.config, Foreign)
    assert isinstance(get_backend("ollama", Foreign()).config, Foreign)


class Broken(LLMService):
    """Raises what no contract foresees."""

    async def generate(self, prompt, model, max_tokens, temperature, top_p):  # type: ignore[override,no-untyped-def]
        return prompt

    async def _get_model(self, model_name: str) -> Any:
        raise KeyError(model_name)


async def test_health_never_raises():
    service = Broken(settings(default_model="m"))
    assert await service.health_check() is False
    health = await service.health()
    assert (health.state, health.reason) == ("failed", "KeyError: 'm'")


class Nothing(LLMService):
    """Overrides nothing at all."""


class ChatOnly(LLMService):
    """Overrides `chat_completion` alone, with what it declares."""

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self.calls: list[dict[str, Any]] = []

    async def chat_completion(self, messages, model=None, max_tokens=9, tools=None, seed=None):  # type: ignore[no-untyped-def,override]
        self.calls.append(
            {"messages": messages, "model": model, "max_tokens": max_tokens, "tools": tools, "seed": seed}
        )
        return LLMResponse(content=messages[-1]["content"].upper(), finish_reason="stop")


class Generates:
    """Not a service itself."""

    async def generate(self, prompt, model):  # type: ignore[no-untyped-def]
        return f"{model}: {prompt}"


class Mixed(Generates, LLMService):
    """Has its `generate` from elsewhere."""


async def test_a_class_that_overrides_nothing_is_an_error():
    service = Nothing(settings())
    for ask in (
        lambda: service.generate("hi"),
        lambda: service.chat_completion(MESSAGES),
        lambda: read(service.stream("hi")),
    ):
        with pytest.raises(NotImplementedError, match="Nothing must override generate, chat_completion"):
            await ask()
    assert await service.health_check() is True


async def test_a_class_with_chat_completion_alone_works_in_all_verbs():
    service = ChatOnly(settings())
    assert await service.generate("hi") == "HI"
    assert (await service.chat_completion([{"role": "user", "content": "there"}], seed=3)).content == "THERE"
    assert text_of(await read(service.stream("hi"))) == "HI"
    assert text_of(await read(service.stream(messages=[{"role": "user", "content": "x"}], tools=[WEATHER]))) == "X"
    results = {index: text async for index, text in service.generate_many(["a", "b"])}
    assert results == {0: "A", 1: "B"}
    assert [call["max_tokens"] for call in service.calls] == [512] * 6
    assert [call["seed"] for call in service.calls] == [None, 3, None, None, None, None]
    assert [bool(call["tools"]) for call in service.calls] == [False, False, False, True, False, False]
    assert {"chat", "tools", "seed"} <= service.capabilities
    for option, value in (("temperature", 0.1), ("top_k", 3), ("stop", ["x"])):
        with pytest.raises(UnsupportedFeatureError) as caught:
            await service.generate("hi", **{option: value})
        assert caught.value.param == option


async def test_a_verb_may_come_from_a_mixin():
    service = Mixed(settings())
    assert await service.generate("hi", model="m") == "m: hi"
    assert (await service.chat_completion(MESSAGES, model="m")).content.startswith("m: ")


async def test_the_class_stays_as_its_author_wrote_it():
    written = Smallest.__dict__["generate"]
    service = Smallest(settings())
    assert Smallest.generate is written
    assert await Smallest.generate(service, "hi", None, 1, 0.0, 1.0) == "You said: hi"
    assert service.calls == [{"prompt": "hi", "model": None, "max_tokens": 1, "temperature": 0.0, "top_p": 1.0}]
    assert await service.generate("hi") == "You said: hi"


async def test_the_arguments_may_follow_the_class_while_it_is_patched(monkeypatch: pytest.MonkeyPatch):
    """A test may replace the method of a class: instances see it at once, as everywhere in Python."""

    async def generate(self: Any, prompt: str) -> str:
        return prompt[::-1]

    service = Smallest(settings())
    monkeypatch.setattr(Smallest, "generate", generate)
    assert await service.generate("hi") == "ih"


async def test_a_helper_of_any_plain_name_is_the_authors_own():
    class Helpful(LLMService):
        def _run(self, prompt):
            return f"ran {prompt}"

        async def _aclose(self):
            raise AssertionError("nobody calls this but its author")

        async def generate(self, prompt, model, max_tokens, temperature, top_p):
            return self._run(prompt)

    async with Helpful(None) as service:
        assert await service.generate("hi") == "ran hi"
        assert (await service.chat_completion([{"role": "user", "content": "hi"}])).content == "ran hi"


async def test_a_copy_calls_itself_and_not_its_original():
    class Named(LLMService):
        async def generate(self, prompt, model, max_tokens, temperature, top_p):
            return self.label

    first = Named(None)
    first.label = "first"
    second = copy.copy(first)
    second.label = "second"
    assert (await first.generate("x"), await second.generate("x")) == ("first", "second")


async def test_the_wait_for_tokens_begins_again_when_a_request_is_sent_again():
    class Flaky(LLMService):
        attempts = 0

        async def _stream(self, request):
            self.attempts += 1
            if self.attempts == 1:
                yield [LLMChunk(content="a")]
                raise BackendUnavailableError("busy", backend="flaky")
            await asyncio.sleep(0.4)
            yield [LLMChunk(content="b", finish_reason="stop")]

    service = Flaky(None)
    assert await service.generate("x", timeout={"first": 60, "between": 0.2}) == "b"
    assert service.attempts == 2


async def test_the_wait_for_the_first_token_includes_finding_the_model():
    class Slow(LLMService):
        async def _get_model(self, model_name):
            await asyncio.sleep(0.4)

        async def _stream(self, request):
            await asyncio.sleep(0.4)
            yield [LLMChunk(content="a", finish_reason="stop")]

    service = Slow(None)
    arguments = {"model": "m", "timeout": {"first": 0.6}}
    with pytest.raises(BackendTimeoutError):
        await service.generate("x", **arguments)
    with pytest.raises(BackendTimeoutError):
        await read(service.stream("x", **arguments))
