"""LlamaCppService on the real engine and the demo model."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from contextlib import asynccontextmanager

import pytest

from miner.config.config import MinerConfig
from miner.core.llms import get_backend
from miner.core.llms.contract.join import join
from miner.core.wire import ModelInfo
from miner.errors import (
    BackendOverloadedError,
    ContextLengthError,
    EngineCrashedError,
    EngineStartError,
    InvalidRequestError,
    ModelNotFoundError,
    ServiceClosedError,
    UnsupportedFeatureError,
)
from tests.servers.llama_runner import demo_model

pytestmark = pytest.mark.engine

FRANCE = "What is the capital of France? Answer in one sentence."
LONG = "Tell me a very long story about a lighthouse and the sea."
ENDLESS = {"max_tokens": 900, "extra": {"ignore_eos": True}}
"""As long as the context: many seconds, so that whatever is done to a response meanwhile comes in time."""


@asynccontextmanager
async def llamacpp(**settings):
    # One thread: on a busy machine two of them wait for each other.
    config = MinerConfig(**{"llamacpp_threads": 1, "llamacpp_parallel": 2, "llamacpp_ctx_size": 1024, **settings})
    async with get_backend("llamacpp", config) as service:
        yield service


async def engine_of(service):
    """The status of the one engine that runs."""
    return (await service.health()).engines[0]


async def slots(service):
    """Busy slots by the engine's own account."""
    (running,) = service._engines._servers.values()
    reply = await running.http.request("GET", "/slots", total=10, root=True)
    return reply.body.count(b'"is_processing":true')


async def until(condition, seconds=120.0):
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  (the engine is polled: it has no event to wait for)
            await asyncio.sleep(0.05)


async def test_an_answer_and_its_count():
    async with llamacpp() as service:
        reply = await service.chat_completion([{"role": "user", "content": FRANCE}], temperature=0, max_tokens=30)
        assert "Paris" in reply.content
        assert reply.finish_reason == "stop"
        assert reply.usage.prompt_tokens == await service.count_tokens(FRANCE)
        assert reply.usage.completion_tokens > 3
        assert reply.timings.decode > 0
        assert reply.timings.time_to_first_token > 0
        assert reply.model == "demo"


async def test_a_stream_joins_to_the_response():
    async with llamacpp() as service:
        whole = await service.chat_completion([{"role": "user", "content": LONG}], temperature=0, max_tokens=20)
        chunks = [chunk async for chunk in service.stream(LONG, temperature=0, max_tokens=20, progress=True)]
        streamed = join([chunks])
        assert streamed.content == whole.content
        assert streamed.finish_reason == whole.finish_reason == "length"
        assert not streamed.context_exhausted
        assert streamed.usage.completion_tokens == whole.usage.completion_tokens == 20
        stages = [chunk.progress.stage for chunk in chunks if chunk.progress]
        assert stages[-1] == "prefill"


async def test_a_second_message_prefills_only_the_new_tokens():
    async with llamacpp() as service:
        turns = [{"role": "user", "content": LONG * 10}]
        first = await service.chat_completion(turns, temperature=0, max_tokens=8)
        turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": "Go on."}]
        second = await service.chat_completion(turns, temperature=0, max_tokens=2)
        assert second.usage.cached_tokens >= first.usage.prompt_tokens


async def test_a_full_context_is_reported():
    async with llamacpp(llamacpp_ctx_size=256) as service:
        reply = await service.chat_completion(
            [{"role": "user", "content": LONG}], temperature=0.9, max_tokens=2000, seed=1
        )
        assert reply.finish_reason == "length"
        assert reply.context_exhausted


async def test_a_long_prompt_is_refused_with_both_numbers():
    async with llamacpp(llamacpp_ctx_size=256) as service:
        for ask in (service.generate("hello " * 400), service.stream("hello " * 400).collect()):
            with pytest.raises(ContextLengthError) as caught:
                await ask
            assert caught.value.prompt_tokens > 400
            assert caught.value.context_length == 256
            assert "LLAMACPP_CTX_SIZE" in str(caught.value)


async def test_tools_are_emulated_for_templates_without_tools():
    parameters = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": parameters}}
    question = [{"role": "user", "content": "What is the weather in Rome?"}]
    async with llamacpp() as service:
        assert {"tools", "emulated"} <= (await service.load_model()).capabilities
        plain = await service.count_tokens(messages=question)
        assert await service.count_tokens(messages=question, tools=[tool]) > plain + 40  # the model is told of them
        reply = await service.chat_completion(question, tools=[tool], tool_choice="required", temperature=0)
        (call,) = reply.tool_calls
        assert call["function"]["name"] == "weather"
        assert reply.finish_reason == "tool_calls"
        result = {"role": "tool", "tool_call_id": call["id"], "content": "Rain, 9 degrees."}
        history = [*question, {"role": "assistant", "content": None, "tool_calls": [call]}, result]
        whole = await service.chat_completion(history, tools=[tool], temperature=0, max_tokens=8)
        assert whole.content or whole.tool_calls


async def test_embeddings_do_not_depend_on_their_neighbours():
    """Texts of different lengths, alone, in one request, and in requests at once: the same vectors."""
    texts = ["The cat sits on the mat.", "A cat is sitting on a mat, and it purrs.", "Prices fell."]
    async with llamacpp(llamacpp_pooling="mean", llamacpp_parallel=4) as service:
        together = (await service.embed(texts)).embeddings
        alone = [(await service.embed(text)).embeddings[0] for text in texts]
        at_once = [r.embeddings[0] for r in await asyncio.gather(*(service.embed(text) for text in texts))]
        for one, two, three in zip(together, alone, at_once, strict=True):
            assert math.dist(one, two) < 0.01
            assert math.dist(one, three) < 0.01
        assert "Paris" in await service.generate(FRANCE, temperature=0, max_tokens=30)


async def test_embeddings_are_refused_without_pooling():
    async with llamacpp() as service:
        with pytest.raises(UnsupportedFeatureError):
            await service.embed("text")


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_is_stopped_in_decode_stops(streamed):
    """By the engine's own slots; another request is decoding all the while."""
    async with llamacpp() as service:
        await service.generate("Hi", max_tokens=1)
        other = asyncio.create_task(service.generate(LONG, **ENDLESS))
        if streamed:
            async for chunk in service.stream(LONG, **ENDLESS):
                if chunk.content:
                    assert await slots(service) >= 1
                    break
        else:
            task = asyncio.create_task(service.generate(LONG, **ENDLESS))

            async def both_run():
                return await slots(service) == 2

            await until(both_run)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        async def one_is_free():
            return await slots(service) <= 1

        await until(one_is_free)
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


async def test_what_is_stopped_in_prefill_stops():
    async with llamacpp(llamacpp_ctx_size=4096, llamacpp_parallel=1, llamacpp_batch_size=128) as service:
        async for chunk in service.stream("hello " * 3500, max_tokens=4, progress=True):
            if chunk.progress and chunk.progress.stage == "prefill" and 0 < chunk.progress.done < chunk.progress.total:
                break
        assert await service.generate("Hi", max_tokens=2, timeout=60)

        async def free():
            return await slots(service) == 0

        await until(free)


async def test_what_exceeds_the_slots_waits_here_in_order():
    async with llamacpp(llamacpp_parallel=1) as service:
        order = []

        async def ask(number):
            await service.generate(FRANCE, max_tokens=12, temperature=0)
            order.append(number)

        tasks = [asyncio.create_task(ask(number)) for number in range(5)]
        await tasks[0]
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 3, 4]


async def test_a_full_queue_is_reported_at_once():
    async with llamacpp(llamacpp_parallel=1, max_queue=1) as service:
        await service.generate("Hi", max_tokens=1)
        running = [asyncio.create_task(service.generate(LONG, **ENDLESS)) for _ in range(2)]

        async def full():
            return (await engine_of(service)).queued == 1

        await until(full)
        with pytest.raises(BackendOverloadedError) as caught:
            await service.generate("Hi", max_tokens=1)
        assert caught.value.retry_after >= 1
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_an_engine_that_is_killed_is_a_typed_error_and_starts_again():
    async with llamacpp() as service:
        arrived = ""
        with pytest.raises(EngineCrashedError) as caught:  # noqa: PT012
            async for chunk in service.stream(LONG, **ENDLESS):
                arrived += chunk.content or ""
                if len(arrived) > 20:
                    os.kill((await engine_of(service)).pid, signal.SIGKILL)
        assert caught.value.exit_status == -signal.SIGKILL
        assert caught.value.partial.content
        assert arrived.startswith(caught.value.partial.content[:20])
        task = asyncio.create_task(service.generate(LONG, **ENDLESS))

        async def serves():
            return (await engine_of(service)).state == "ready" and (await engine_of(service)).slots_busy

        await until(serves)
        os.kill((await engine_of(service)).pid, signal.SIGKILL)
        with pytest.raises(EngineCrashedError):
            await task
        assert "Paris" in await service.generate(FRANCE, temperature=0, max_tokens=30)
        assert (await engine_of(service)).restarts >= 1


async def test_closing_ends_who_runs_who_waits_and_who_loads():
    async with llamacpp(llamacpp_parallel=1) as service:
        for loaded in (False, True):
            if loaded:
                await service.generate("Hi", max_tokens=1)
            tasks = [
                asyncio.create_task(service.generate(LONG, **ENDLESS)),
                asyncio.create_task(service.stream(LONG, **ENDLESS).collect()),
                asyncio.create_task(service.count_tokens(LONG)),
            ]
            await asyncio.sleep(0.5)
            async with asyncio.timeout(30):
                await service.aclose()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ends] == [ServiceClosedError] * 3
            assert (await service.health()).engines == []
        assert "Paris" in await service.generate(FRANCE, temperature=0, max_tokens=30)


@pytest.mark.parametrize("begun", [False, True], ids=["in the prompt", "in the reply"])
async def test_a_stream_that_another_task_closes_frees_its_slot(begun: bool):
    prompt = LONG if begun else LONG * 50
    async with llamacpp(llamacpp_parallel=1, llamacpp_batch_size=32) as service:
        await service.generate("Hi", max_tokens=1)
        stream, arrived, started = service.stream(prompt, **ENDLESS), [], asyncio.Event()

        async def reading():
            async for batch in stream.batches():
                arrived.extend(batch)
                started.set()
                await asyncio.sleep(0)

        task = asyncio.create_task(reading())
        if begun:
            await started.wait()
        else:

            async def works():
                return await slots(service) == 1

            await until(works)
        await stream.aclose()
        async with asyncio.timeout(60):
            await task
            assert "Paris" in await service.generate(FRANCE, temperature=0, max_tokens=30)
        assert arrived[-1].finish_reason == "cancelled"


async def test_closing_leaves_no_process():
    async with llamacpp() as service:
        await service.generate("Hi", max_tokens=1)
        pid = (await engine_of(service)).pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await service.aclose()
    assert await service.generate("Hi", max_tokens=1) is not None
    await service.aclose()


async def test_names_of_the_one_model(tmp_path):
    file = tmp_path / "My-Model.gguf"
    file.symlink_to(demo_model())
    async with llamacpp(model_path=str(file), default_model="mine") as service:
        for name in (None, str(file), "My-Model", "My-Model.gguf", "Smollm2 135M 8k Lc100K Mix1 Ep2", "mine"):
            info = await service.resolve_model(name)
            assert isinstance(info, ModelInfo)
            assert info.context_length == 1024


async def test_other_names_than_that_of_the_one_model(tmp_path, caplog):
    """The published example's name on a node whose owner has said which file serves: served, and said once."""
    file = tmp_path / "My-Model.gguf"
    file.symlink_to(demo_model())
    async with llamacpp(model_path=str(file)) as service:
        caplog.clear()
        for name in ("mistralai/Mistral-7B-v0.1", "gpt-4"):
            reply = await service.chat_completion([{"role": "user", "content": "Hi"}], model=name, max_tokens=1)
            assert reply.model == "My-Model"
        [warning] = [record.getMessage() for record in caplog.records if record.name == "miner.llamacpp"]
        assert "'mistralai/Mistral-7B-v0.1'" in warning
        assert "MINER_ANY_MODEL_NAME" in warning
    async with llamacpp(model_path=str(file), any_model_name=False) as service:
        with pytest.raises(ModelNotFoundError) as caught:
            await service.generate("Hi", model="mistralai/Mistral-7B-v0.1")
        assert "My-Model" in str(caught.value)
    async with llamacpp(models_dir=str(tmp_path)) as service:
        # One file that happens to lie in the directory is no such word of the owner's.
        with pytest.raises(ModelNotFoundError):
            await service.generate("Hi", model="mistralai/Mistral-7B-v0.1")
        assert (await service.resolve_model(None)).id == "My-Model"


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"\x00" * 4096, "GGUF"), (None, "")])
async def test_a_broken_file_is_a_start_error(tmp_path, content, reason):
    file = tmp_path / "broken.gguf"
    if content is None:
        content = demo_model().read_bytes()[: 10 * 1024 * 1024]
    file.write_bytes(content)
    async with llamacpp(model_path=str(file)) as service:
        with pytest.raises(EngineStartError) as caught:
            await service.generate("Hi")
        assert "broken.gguf" in str(caught.value)
        assert reason in str(caught.value)
        assert not await service.health_check()


async def test_health_loads_nothing():
    async with llamacpp() as service:
        assert await service.health_check()
        assert (await service.health()).engines == []
        assert (await service.list_models())[0].id == "demo"


async def test_raw_prompts_go_past_the_template():
    async with llamacpp() as service:
        text = await service.generate("The capital of France is", raw=True, max_tokens=6, temperature=0)
        assert "Paris" in text
        assert await service.count_tokens("The capital of France is", raw=True) < 10


async def test_keep_alive_unloads_and_wrong_ones_are_refused():
    async with llamacpp() as service:
        await service.generate("Hi", max_tokens=1, keep_alive=0)

        async def gone():
            return (await engine_of(service)).state == "stopped"

        await until(gone)
        await service.generate("Hi", max_tokens=1, keep_alive="5m")
        with pytest.raises(InvalidRequestError):
            await service.generate("Hi", max_tokens=1, keep_alive="soon")


async def test_sixteen_at_once():
    async with llamacpp(llamacpp_parallel=8) as service:
        texts = await asyncio.gather(*(service.generate(FRANCE, temperature=0, max_tokens=12) for _ in range(16)))
        assert len(texts) == 16
        assert all("Paris" in text for text in texts)
        assert (await engine_of(service)).slots == 8


async def test_a_server_that_runs_already(tmp_path):
    """LLAMACPP_API_BASE: its models, its slots, its errors; nothing is started."""
    from tests.servers.llama_runner import LlamaRunner, RunnerConfig

    runner = await LlamaRunner.start(RunnerConfig(path=str(demo_model()), num_ctx=512, parallel=2))
    try:
        async with llamacpp(llamacpp_api_base=str(runner._session._base_url).rstrip("/")) as service:
            assert await service.health_check()
            assert "Paris" in await service.generate(FRANCE, temperature=0, max_tokens=30)
            with pytest.raises(ModelNotFoundError):
                await service.generate("Hi", model="no-such-model")
            with pytest.raises(ContextLengthError):
                await service.generate("hello " * 700)
            texts = await asyncio.gather(*(service.generate(FRANCE, temperature=0, max_tokens=8) for _ in range(5)))
            assert len(texts) == 5
            assert (await service.health()).engines == []
    finally:
        await runner.stop()


async def test_a_load_that_does_not_fit_is_refused_with_numbers():
    async with llamacpp(llamacpp_ctx_size=8192, llamacpp_parallel=16, llamacpp_memory_budget=700 * 2**20) as service:
        with pytest.raises(EngineStartError) as caught:
            await service.generate("Hi")
        assert "MiB" in str(caught.value)
        assert "LLAMACPP_CTX_SIZE" in str(caught.value)
        assert (await service.health()).engines == []


async def test_a_service_that_is_dropped_takes_its_engine_with_it():
    import gc

    service = get_backend("llamacpp", MinerConfig(llamacpp_threads=1, llamacpp_parallel=1, llamacpp_ctx_size=256))
    await service.generate("Hi", max_tokens=1)
    pid = (await engine_of(service)).pid
    del service
    gc.collect()

    async def gone():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    await until(gone)


async def test_greedy_decoding_is_the_same_without_the_cap():
    async with llamacpp() as service:
        whole = [
            await service.chat_completion(
                [{"role": "user", "content": LONG}], temperature=0, max_tokens=24, logprobs=3, **more
            )
            for more in ({}, {"top_k": 0})
        ]
        assert whole[0].content == whole[1].content
        assert [len(token.alternatives) for token in whole[0].logprobs] == [3] * len(whole[0].logprobs)
        assert [t.logprob for t in whole[0].logprobs] == pytest.approx([t.logprob for t in whole[1].logprobs], abs=1e-3)


async def test_an_invalid_prompt_is_named_prompt():
    async with llamacpp() as service:
        with pytest.raises(InvalidRequestError, match="token ids") as caught:
            await service.stream(prompt=[999_999], raw=True, max_tokens=1).collect()
        assert caught.value.param == "prompt"
        with pytest.raises(ContextLengthError) as long:
            await service.stream(prompt="word " * 20_000, raw=True, max_tokens=1).collect()
        assert long.value.param == "prompt"
