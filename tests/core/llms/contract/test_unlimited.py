"""`max_tokens=-1`: a response that only the model, a stop string or the end of the context ends, on every backend."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import InvalidRequestError, OutputValidationError
from tests.core.services import MESSAGES, PlainService, read, settings, speaking_to
from tests.servers.llama_runner import LlamaRunner, RunnerConfig, demo_model
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer

CUT = [
    {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": "length"}]},
    {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}},
]


async def test_vllm_generates_what_fits_its_context_on_both_routes():
    async with StubServer(reply=CUT) as server, speaking_to("vllm", server) as service:
        response = await service.stream("hi", max_tokens=-1).collect()
        await service.chat_completion(MESSAGES, max_tokens=-1)
        await service.generate("hi", raw=True, max_tokens=-1)
        assert [body["max_tokens"] for body in server.bodies] == [server.max_model_len] * 3
        assert [request.path for request in server.generations][-1] == "/v1/completions"
        assert (response.finish_reason, response.context_exhausted) == ("length", True)
        with pytest.raises(OutputValidationError, match=r"the context was full .*\. Shorten the prompt"):
            await service.chat_completion(MESSAGES, max_tokens=-1, response_format={"type": "json_object"})


async def test_a_server_of_unknown_context_decides_by_itself_where_its_default_is_the_context():
    models = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "somebody"}]}
    async with (
        StubServer(reply="Hello.", side={"/v1/models": models}) as server,
        PlainService(settings(vllm_api_base=f"{server.url}/v1", default_max_tokens=77)) as service,
    ):
        chat = await service.chat_completion(MESSAGES, max_tokens=-1)
        raw = service.stream("hi", raw=True, max_tokens=-1)
        await read(raw)
    assert "max_tokens" not in server.bodies[0]
    assert chat.ignored == []
    assert server.bodies[1]["max_tokens"] == 77  # the route's own default is 16
    assert raw.response.ignored == ["max_tokens"]


async def test_ollama_generates_until_the_context_ends_and_never_shifts_it():
    async with ReplayServer("ollama") as server, speaking_to("ollama", server, default_model="smollm2") as service:
        server.respond_with("context_exhausted_shift_false")
        response = await service.chat_completion(MESSAGES, max_tokens=-1)
        [sent] = [request.json for request in server.requests if request.path == "/api/chat"]
    assert sent["options"]["num_predict"] == -1
    assert (sent["shift"], sent["truncate"]) == (False, False)
    assert (response.finish_reason, response.context_exhausted) == ("length", True)


@pytest.mark.parametrize("value", [-2, -1.5, 0, "-1", True])
async def test_other_numbers_below_one_are_refused_and_the_way_out_is_named(value: Any):
    async with StubServer() as server, speaking_to("vllm", server) as service:
        with pytest.raises(InvalidRequestError, match=r"an integer of at least 1.*\n?.*-1 generates"):
            await service.chat_completion(MESSAGES, max_tokens=value)
    assert server.bodies == []


ENDLESS: dict[str, Any] = {"temperature": 0, "extra": {"ignore_eos": True}, "max_tokens": -1}


@pytest.mark.engine
@pytest.mark.parametrize("raw", [False, True], ids=["chat", "raw"])
async def test_a_model_that_never_ends_is_ended_by_the_context(raw: bool):
    async with LlamaCppService(settings(llamacpp_ctx_size=256, llamacpp_parallel=1)) as service:
        response = await service.stream("Once upon a time", raw=raw, **ENDLESS).collect()
        counted = await service.count_tokens("Once upon a time", raw=raw)
    assert (response.finish_reason, response.context_exhausted) == ("length", True)
    assert counted < response.usage.total_tokens <= 256
    assert response.usage.total_tokens > 200


@pytest.mark.engine
async def test_a_foreign_server_that_shifts_its_context_is_bounded_too():
    runner = await LlamaRunner.start(RunnerConfig(path=str(demo_model()), num_ctx=256, shift=True))
    try:
        address = str(runner._session._base_url).rstrip("/")
        async with LlamaCppService(settings(llamacpp_api_base=address)) as service:
            response = await service.stream("Once upon a time", **ENDLESS).collect()
    finally:
        await runner.stop()
    assert (response.finish_reason, response.usage.completion_tokens) == ("length", 256)
