"""Loading, unloading, pinning, resetting and pulling models, on each backend; llama.cpp on a real engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from miner.core.llms import get_backend
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.LLMService import LLMService
from miner.core.wire import ModelInfo
from miner.errors import (
    BackendOverloadedError,
    BackendUnavailableError,
    ConfigError,
    ContextLengthError,
    EngineStartError,
    InvalidRequestError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)
from tests.blocking import blocking_calls_fail
from tests.core.engine.children import Clock
from tests.core.models.conftest import make_gguf
from tests.core.models.hub_server import FakeHub, start
from tests.core.services import settings, speaking_to
from tests.servers.llama_runner import demo_model
from tests.servers.ollama_front import OllamaFront
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer

WAIT = 60.0


@asynccontextmanager
async def llamacpp(**given):
    # One thread: on a busy machine two of them wait for each other.
    own = {"llamacpp_threads": 1, "llamacpp_parallel": 1, "llamacpp_ctx_size": 256}
    async with LlamaCppService(settings(**{**own, **given})) as service:
        yield service


async def states(service):
    """State by model of every engine that was asked for."""
    return {engine.model: engine.state for engine in (await service.health()).engines}


async def until(condition):
    async with asyncio.timeout(WAIT):
        while not await condition():  # noqa: ASYNC110  (the engine is polled: it has no event to wait for)
            await asyncio.sleep(0.05)


@pytest.fixture
def two_models(tmp_path):
    """A directory with the demo model under two names."""
    for name in ("one", "two"):
        shutil.copy(demo_model(), tmp_path / f"{name}.gguf")
    return str(tmp_path)


# llama.cpp


@pytest.mark.engine
async def test_a_model_is_loaded_without_a_token_and_let_go():
    async with llamacpp() as service:
        assert not await service.unload_model("demo")
        info = await service.load_model()
        assert isinstance(info, ModelInfo)
        assert (info.id, info.loaded) == ("demo", True)
        [engine] = (await service.health()).engines
        assert (engine.state, engine.slots_busy) == ("ready", 0)
        pid = engine.pid
        assert (await service.load_model("demo")).loaded  # again: the same engine
        assert (await service.health()).engines[0].pid == pid
        assert await service.unload_model("demo")
        assert await states(service) == {"demo": "stopped"}
        assert not await service.unload_model("demo")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.engine
async def test_how_long_a_loaded_model_stays():
    async with llamacpp() as service:
        await service.load_model(keep_alive=0.5)
        await until(lambda: is_state(service, "demo", "stopped"))
        for wrong, words in ((0, "unload_model"), ("soon", "keep_alive"), (True, "keep_alive")):
            with pytest.raises(InvalidRequestError, match=words):
                await service.load_model(keep_alive=wrong)
        with pytest.raises(ModelNotFoundError):
            await service.load_model("no-such-model")
        assert await states(service) == {"demo": "stopped"}


async def is_state(service, model, state):
    return (await states(service)).get(model) == state


@pytest.mark.engine
async def test_a_load_that_is_cancelled_leaves_no_request_behind():
    async with llamacpp() as service:
        loading = asyncio.create_task(service.load_model())
        await until(lambda: is_state(service, "demo", "starting"))
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        [engine] = (await service.health()).engines
        assert (engine.queued, engine.slots_busy) == (0, 0)
        assert (await service.load_model()).loaded


@pytest.mark.engine
async def test_a_model_that_is_busy_goes_when_its_requests_are_done():
    async with llamacpp() as service:
        asking = asyncio.create_task(service.generate("Tell me a story.", max_tokens=40, temperature=0))
        await until(lambda: is_state(service, "demo", "ready"))
        assert await service.unload_model("demo")
        assert asking.done()
        assert await asking


async def pid_of(service):
    """Of the one engine that is ready."""
    [pid] = [engine.pid for engine in (await service.health()).engines if engine.state == "ready"]
    return pid


def replace(target, content):
    """Put another file in its place at once, as a careful copy does."""
    draft = target.with_suffix(".draft")
    draft.write_bytes(content)
    os.replace(draft, target)


@pytest.mark.engine
async def test_a_model_file_that_was_replaced_is_loaded_again(tmp_path):
    file = tmp_path / "mine.gguf"
    shutil.copy(demo_model(), file)
    async with llamacpp(models_dir=str(tmp_path), llamacpp_parallel=2) as service:
        await service.load_model("mine")
        service.pin_model("mine")
        digest, old = (await service.resolve_model("mine")).digest, await pid_of(service)
        running = service.stream("Tell me a long story.", model="mine", max_tokens=60, temperature=0)
        first = await anext(running)
        replace(file, demo_model().read_bytes())
        assert not (await service.resolve_model("mine")).loaded
        # The next request is served by the new file's engine, the one that runs ends on its own.
        await service.generate("Hi", model="mine", max_tokens=1)
        assert (await service.resolve_model("mine")).digest != digest
        rest = [chunk async for chunk in running]
        assert rest[-1].usage.completion_tokens == 60
        assert first is not None

        async def old_is_gone():
            return len((await service.health()).engines) == 1

        await until(old_is_gone)
        assert await pid_of(service) != old
        with pytest.raises(ProcessLookupError):
            os.kill(old, 0)
        new = await pid_of(service)
        await service.generate("Hi", model="MINE:latest", max_tokens=1)
        assert await pid_of(service) == new  # no other change, no other engine


@pytest.mark.engine
async def test_a_bad_file_in_its_place_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "mine.gguf"
    shutil.copy(demo_model(), file)
    kept = tmp_path / "kept"
    async with llamacpp(models_dir=str(tmp_path)) as service:
        await service.load_model("mine")
        pid = await pid_of(service)
        os.rename(file, kept)
        file.write_bytes(demo_model().read_bytes()[:10_000_000])
        for _ in range(2):
            with pytest.raises(EngineStartError) as caught:
                await service.generate("Hi", model="mine", max_tokens=1)
            assert "mine.gguf" in str(caught.value)
            assert "truncated" in str(caught.value)
        os.replace(kept, file)  # as it was: so is its engine
        await service.generate("Hi", model="mine", max_tokens=1)
        assert await pid_of(service) == pid
        file.unlink()
        with pytest.raises(ModelNotFoundError):
            await service.generate("Hi", model="mine", max_tokens=1)

        async def gone():
            return not (await service.health()).engines

        await until(gone)  # nobody can ask for it any more


@pytest.mark.engine
async def test_a_chat_template_that_changed_counts_from_the_next_request(tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0].content }}")
    async with llamacpp(llamacpp_chat_template=str(template)) as service:
        short = await service.count_tokens("Hi there")
        template.write_text("One two three four five six seven. {{ messages[0].content }}")
        assert await service.count_tokens("Hi there") > short + 5
        template.unlink()
        with pytest.raises(ConfigError, match="LLAMACPP_CHAT_TEMPLATE"):
            await service.count_tokens("Hi there")


@pytest.mark.engine
async def test_a_projector_that_llama_cpp_cannot_load_never_stops_the_text(tmp_path, caplog):
    shutil.copy(demo_model(), tmp_path / "mine.gguf")
    clip = {"general.architecture": "clip", "clip.has_vision_encoder": True}
    (tmp_path / "mmproj-F16.gguf").write_bytes(make_gguf(clip))
    (tmp_path / "mmproj-F32.gguf").write_bytes(make_gguf(clip))
    async with llamacpp(models_dir=str(tmp_path)) as service:
        assert "images" in (await service.resolve_model("mine")).capabilities
        assert await service.generate("Hi", model="mine", max_tokens=2) is not None
        assert "images" not in (await service.resolve_model("mine")).capabilities
        told = [record.getMessage() for record in caplog.records if "projector" in record.getMessage()]
        assert [("F16" in line, "F32" in line) for line in told] == [(True, False), (False, True)]


@pytest.mark.engine
async def test_no_file_is_touched_on_the_event_loop(two_models):
    async with llamacpp(models_dir=two_models) as service:
        await service.load_model("one")
        with blocking_calls_fail():
            for _ in range(2):
                await service.generate("Hi", model="one", max_tokens=1)
                assert len(await service.list_models()) == 3
                assert await service.count_tokens("Hi", model="ONE:latest") > 0
                with pytest.raises(ModelNotFoundError, match="several"):
                    await service.generate("Hi", max_tokens=1)


@pytest.mark.parametrize("name", ["on", "one.", "tw", "o", "one/two", "demo2", "one:q4"])
async def test_an_invalid_name_is_not_found(two_models, name):
    async with llamacpp(models_dir=two_models) as service:
        calls = [
            service.generate("Hi", model=name, max_tokens=1),
            service.stream("Hi", model=name, max_tokens=1).collect(),
            service.chat_completion([{"role": "user", "content": "Hi"}], model=name, max_tokens=1),
            service.count_tokens("Hi", model=name),
            service.embed("Hi", name),
            service.rerank("Hi", ["Ho"], name),
            service.load_model(name),
        ]
        for call in calls:
            with pytest.raises(ModelNotFoundError) as caught:
                await call
            assert caught.value.http_status == 404
            assert set(caught.value.available) == {"one", "two", "demo"}
        assert (await service.health()).engines == []


@pytest.mark.engine
async def test_a_pinned_model_is_not_evicted_for_another_one(two_models):
    async with llamacpp(models_dir=two_models, llamacpp_max_loaded=1, llamacpp_fairness_wait=0.1) as service:
        await service.load_model("one")
        await service.load_model("two")
        assert await states(service) == {"one": "stopped", "two": "ready"}
        service.pin_model("two")
        with pytest.raises(BackendOverloadedError, match="pinned"):
            await service.load_model("one")
        assert await states(service) == {"one": "stopped", "two": "ready"}
        service.unpin_model("two")
        await service.load_model("one")
        assert await states(service) == {"one": "ready", "two": "stopped"}


@pytest.mark.engine
async def test_a_pin_holds_before_the_load_and_beyond_idleness(two_models):
    async with llamacpp(models_dir=two_models, llamacpp_idle_timeout=0.3) as service:
        service.pin_model("one")
        await service.load_model("one")
        await service.load_model("two")
        await until(lambda: is_state(service, "two", "stopped"))
        assert await is_state(service, "one", "ready")
        with pytest.raises(ModelNotFoundError):
            service.pin_model("three")
        service.unpin_model("one")
        await until(lambda: is_state(service, "one", "stopped"))


@pytest.mark.engine
async def test_a_model_that_failed_is_tried_again_after_a_reset(tmp_path, two_models):
    broken = tmp_path / "one.gguf"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    async with llamacpp(models_dir=two_models, default_model="one") as service:
        with pytest.raises(EngineStartError):
            await service.load_model("one")
        broken.write_bytes(whole)
        service.reset_model("one")
        assert (await service.load_model("one")).loaded
        [engine] = (await service.health()).engines
        os.kill(engine.pid, signal.SIGKILL)
        await until(lambda: is_failed_or_gone(service))
        service.reset_model("one")
        assert (await service.health()).engines[0].reason is None
        assert (await service.load_model("one")).loaded
        with pytest.raises(ModelNotFoundError):
            service.reset_model("three")


async def is_failed_or_gone(service):
    return (await service.health()).engines[0].state in ("failed", "stopped")


@pytest.mark.engine
async def test_a_model_whose_file_is_gone_can_still_be_let_go(tmp_path, two_models):
    async with llamacpp(models_dir=two_models) as service:
        await service.load_model("one")
        (tmp_path / "one.gguf").unlink()
        service.reset_model("one")
        assert await service.unload_model("one")
        with pytest.raises(ModelNotFoundError):
            await service.load_model("one")


async def test_a_server_of_somebody_else_is_not_ours_to_change():
    async with StubServer() as server, llamacpp(llamacpp_api_base=server.url) as service:
        assert (await service.load_model("m")).id == "m"
        with pytest.raises(ModelNotFoundError):
            await service.load_model("n")
        for use in (service.load_model("m", keep_alive=5), service.generate("hi", keep_alive=5)):
            with pytest.raises(UnsupportedFeatureError) as caught:
                await use
            assert caught.value.param == "keep_alive"
        for use in (service.reset_model, service.pin_model, service.unpin_model, service.pull_model):
            with pytest.raises(UnsupportedFeatureError, match="LLAMACPP_API_BASE"):
                use("m")
        with pytest.raises(UnsupportedFeatureError):
            await service.unload_model("m")
        assert server.generations == []


# Ollama


SENT = {"model": "m:latest", "truncate": False, "stream": False, "shift": False}


async def test_ollama_is_asked_for_nothing_but_the_load():
    answer = {"model": "m", "response": "", "done": True, "done_reason": "load"}
    async with StubServer(reply=answer) as server, speaking_to("ollama", server, ollama_num_ctx=1024) as service:
        info = await service.load_model(keep_alive="10m")
        assert (info.id, info.loaded) == ("m:latest", True)
        await service.load_model("m", keep_alive=-1)
        options = {"options": {"num_ctx": 1024}}  # another number would make Ollama load it again
        assert server.bodies == [
            SENT | options | {"keep_alive": "10m"},
            SENT | options | {"model": "m", "keep_alive": -1},
        ]
        assert {request.path for request in server.generations} == {"/api/generate"}
        with pytest.raises(ModelNotFoundError):
            await service.load_model("nobody")
        assert len(server.bodies) == 2


@pytest.mark.parametrize(("running", "was"), [("m:latest", True), ("other:latest", False)])
async def test_ollama_lets_go_and_tells_whether_there_was_something(running, was):
    loaded = {"models": [{"name": running, "model": running}]}
    answer = {"model": "m", "response": "", "done": True, "done_reason": "unload"}
    async with StubServer(reply=answer, side={"/api/ps": loaded}) as server, speaking_to("ollama", server) as service:
        assert await service.unload_model("m") is was
        assert server.bodies == [{"model": "m", "keep_alive": 0, "stream": False}]
        with pytest.raises(UnsupportedFeatureError, match="no engines of its own"):
            service.reset_model("m")


async def test_ollama_as_it_was_recorded():
    async with ReplayServer("ollama") as server, speaking_to("ollama", server) as service:
        server.respond_with("load")
        assert (await service.load_model("smollm2")).loaded
        server.respond_with("unload")
        assert await service.unload_model("smollm2")
        server.respond_with("fault_model_truncated")
        with pytest.raises(BackendUnavailableError):
            await service.load_model("smollm2")


@pytest.mark.engine
async def test_ollama_in_front_of_a_real_engine():
    """Also a model that only embeds, which cannot be loaded as the others are."""
    async with OllamaFront(num_ctx=256, parallel=1) as front, speaking_to("ollama", front) as service:
        for name in ("smollm2", "smollm2-embed"):
            assert (await service.load_model(name)).loaded
        assert {body["model"] for path, body in front.bodies if path != "/api/show"} == {"smollm2", "smollm2-embed"}
        assert "smollm2:latest" in [model["name"] for model in front.models.loaded()]
        assert await service.unload_model("smollm2")
        assert "smollm2:latest" not in [model["name"] for model in front.models.loaded()]
        assert not await service.unload_model("smollm2")


async def test_ollamas_own_pull_is_passed_on():
    async with ReplayServer("ollama") as server, speaking_to("ollama", server) as service:
        server.respond_with("pull_stream")
        events = [event async for event in service.pull_model("localhost:5000/library/smollm2", insecure=True)]
        assert server.sent("/api/pull")[0].json == {
            "model": "localhost:5000/library/smollm2", "stream": True, "insecure": True,
        }  # fmt: skip
        assert (events[0], events[-1]) == ({"status": "pulling manifest"}, {"status": "success"})
        assert all(event["completed"] <= event["total"] for event in events if "completed" in event)
        server.respond_with("pull_missing")
        with pytest.raises(ModelNotFoundError):
            [event async for event in service.pull_model("no-such-model")]
        server.respond_with("pull_unknown")
        with pytest.raises(BackendUnavailableError, match="cannot pull"):
            [event async for event in service.pull_model("no-such-model")]
        server.respond_with("pull_stream", pieces=3)
        with pytest.raises(StreamInterruptedError):
            [event async for event in service.pull_model("smollm2")]


# vLLM, and those that know no loading


async def test_vllm_is_only_asked_what_it_serves():
    async with StubServer() as server, speaking_to("vllm", server) as service:
        assert (await service.load_model()).id == "m"
        with pytest.raises(ModelNotFoundError):
            await service.load_model("n")
        with pytest.raises(UnsupportedFeatureError, match="stay loaded") as caught:
            await service.load_model("m", keep_alive=60)
        assert caught.value.param == "keep_alive"
        for refused in (service.unload_model("m"), as_async(service.reset_model), as_async(service.pull_model)):
            with pytest.raises(UnsupportedFeatureError, match="vllm"):
                await refused
        assert server.bodies == []


async def as_async(use):
    use("m")


class Small(LLMService):
    async def generate(self, prompt, model=None):
        raise AssertionError("nothing is generated to load a model")

    async def _get_model(self, model_name):
        if model_name == "none":
            raise ModelNotFoundError("There is none.", model="none")


async def test_a_generate_only_backend_loads_by_checking_the_name():
    service = Small(settings())
    assert (await service.load_model("x")).id == "x"
    assert (await service.load_model()).id == "small"
    with pytest.raises(ModelNotFoundError):
        await service.load_model("none")
    with pytest.raises(UnsupportedFeatureError, match="small does not unload models"):
        await service.unload_model("x")


# A hub


@pytest.fixture
def hub():
    fake = FakeHub({"owner/model-GGUF": {"m-Q4_K_M.gguf": make_gguf(data=b"\1" * 4096)}})
    server = start(fake)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "name", ["hf:owner/model-GGUF", "owner/model-GGUF:latest", "hf.co/owner/model-GGUF:Q4_K_M"]
)  # the last two as Ollama's clients write it
async def test_a_pull_from_the_hub_is_told_in_ollamas_words(name, hub, tmp_path):
    async with llamacpp(models_dir=str(tmp_path), hf_endpoint=hub.endpoint) as service:
        events = [event async for event in service.pull_model(name)]
        assert (events[0], events[-1]) == ({"status": "pulling manifest"}, {"status": "success"})
        told = [event for event in events if "digest" in event]
        size = (tmp_path / "owner/model-GGUF/m-Q4_K_M.gguf").stat().st_size
        assert told[-1]["completed"] == told[-1]["total"] == size
        assert len({event["digest"] for event in told}) == 1
        for known in (name, "owner/model-GGUF/m-Q4_K_M"):
            assert (await service.resolve_model(known)).id == "owner/model-GGUF/m-Q4_K_M"


async def test_pulls_that_cannot_be(hub, tmp_path):
    async with llamacpp(models_dir=str(tmp_path), hf_endpoint=hub.endpoint) as service:
        assert [event async for event in service.pull_model("demo:latest")] == [{"status": "success"}]
        for name, kind in (("owner/nothing-GGUF", ModelNotFoundError), ("llama3", InvalidRequestError)):
            with pytest.raises(kind):
                [event async for event in service.pull_model(name)]


async def test_a_pull_that_is_left_stops():
    ran = asyncio.Event()
    loop = asyncio.get_running_loop()
    stopped: list[BaseException] = []

    def slow(ref, directory, *, hub, on_progress):
        from miner.core.models.hub.download import PullProgress

        try:
            for done in range(100_000):
                on_progress(PullProgress("downloading", "m.gguf", 1, 1, done, 100_000))
                loop.call_soon_threadsafe(ran.set)
        except BaseException as error:
            stopped.append(error)
            raise

    patch = pytest.MonkeyPatch()
    patch.setattr("miner.core.llms.llamacpp.pull.pull", slow)
    try:
        async with llamacpp() as service:
            events = service.pull_model("owner/model-GGUF")
            async for event in events:
                if "total" in event:
                    break
            await events.aclose()
            async with asyncio.timeout(WAIT):
                while not stopped:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert "was stopped" in str(stopped[0])
    finally:
        patch.undo()


# Several backends in a row


def chained(first, second, **given):
    config = settings(
        llm_backend="vllm", llm_fallbacks="ollama", vllm_api_base=f"{first}/v1", ollama_base_url=second, **given
    )
    return get_backend(None, config)


async def test_behind_each_other_the_first_that_can_and_is_there_does_it():
    loaded = {"model": "m", "response": "", "done": True, "done_reason": "load"}
    async with StubServer(["m"]) as first, StubServer(["m", "n"], reply=loaded) as second:
        async with chained(first.url, second.url) as service:
            assert (await service.load_model("m")).id == "m"
            assert second.generations == []  # the first is there
            with pytest.raises(ModelNotFoundError):
                await service.load_model("n")  # wrong on the first: not passed on
            await service.load_model("m", keep_alive=60)  # vLLM cannot
            assert second.bodies[-1]["keep_alive"] == 60
            await service.unload_model("n")
            assert second.bodies[-1] == {"model": "n", "keep_alive": 0, "stream": False}
            with pytest.raises(UnsupportedFeatureError, match="vllm has no engines"):
                service.reset_model("m")
        async with chained("http://127.0.0.1:9", second.url) as service:
            assert (await service.load_model("n")).loaded


async def test_concurrency_is_that_of_the_current_backend(monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    monkeypatch.setattr("miner.core.llms.contract.failover.time", SimpleNamespace(monotonic=clock))

    class Narrow(LLMService):
        name = "ollama"  # the name decides which is in cooldown

        async def generate(self, prompt, model=None):
            return "narrow"

        @property
        def concurrency(self):
            return 3

    async with chained("http://127.0.0.1:9", "http://127.0.0.1:9", fallback_cooldown=1000.0) as service:
        service._all()[1] = Narrow(service.config)
        assert (service.concurrency, service.known_concurrency) == (8, None)
        assert await service.generate("hi") == "narrow"
        assert (service.concurrency, service.current.name) == (3, "ollama")
        clock.ahead += 1000.0
        assert (service.concurrency, service.known_concurrency) == (8, None)


@pytest.mark.engine
async def test_a_text_that_is_too_long_stays_an_error_of_its_own():
    async with llamacpp() as service:
        await service.load_model()
        with pytest.raises(ContextLengthError):
            await service.generate("word " * 600)
