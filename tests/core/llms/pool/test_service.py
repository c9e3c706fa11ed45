"""The pool over servers on the wire: which server gets a request, under which name, with which parameters."""

from __future__ import annotations

import asyncio

import pytest

from miner.config.config import MinerConfig
from miner.config.file.kinds import ENGINE_KEYS
from miner.core.llms import get_backend
from miner.core.llms.llm_pool import PoolService
from miner.core.llms.pool.hints import with_keys
from miner.errors import BackendUnavailableError, ConfigError, ModelNotFoundError, OutputValidationError
from tests.core.llms.pool.files import pool_of, write
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port


def vectors(*values):
    data = [{"index": at, "embedding": list(value), "object": "embedding"} for at, value in enumerate(values)]
    return {"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}


async def test_each_name_goes_to_its_own_server_under_the_name_there(tmp_path):
    async with StubServer(["big-8b"], reply="From A.") as a, StubServer(["small-1b"], reply="From B.") as b:
        text = f"""
        [backends.a]
        kind = "openai"
        url = "{a.url}"
        [backends.b]
        kind = "vllm"
        url = "{b.url}/v1"
        [models.big]
        backend = "a"
        name = "big-8b"
        aliases = ["claude-*", "gpt-4o"]
        [models.small-1b]
        backend = "b"
        """
        async with pool_of(tmp_path, text) as service:
            for name, text, model, backend in [
                ("big", "From A.", "big", "a"), ("claude-opus-4", "From A.", "big", "a"),
                ("gpt-4o:latest", "From A.", "big", "a"), ("SMALL-1B", "From B.", "small-1b", "b"),
            ]:  # fmt: skip
                whole = await service.chat_completion([{"role": "user", "content": "hi"}], model=name)
                stream = service.stream("hi", model=name)
                streamed = await stream.collect()
                assert whole.content == streamed.content == text
                assert (whole.model, whole.backend) == (streamed.model, streamed.backend) == (model, backend)
            with pytest.raises(ModelNotFoundError, match=r"no model 'nope'\. Available: big, small-1b") as caught:
                await service.generate("hi", model="nope")
            assert caught.value.available == ["big", "small-1b"]
        assert {body["model"] for body in a.bodies} == {"big-8b"}
        assert {body["model"] for body in b.bodies} == {"small-1b"}


async def test_the_response_in_an_error_has_the_name_of_the_table(tmp_path):
    async with StubServer(["inner"], reply="No JSON.") as server:
        text = f"""
        [backends.a]
        kind = "openai"
        url = "{server.url}"
        [models.outer]
        name = "inner"
        """
        async with pool_of(tmp_path, text) as service:
            with pytest.raises(OutputValidationError) as caught:
                await service.chat_completion(
                    [{"role": "user", "content": "hi"}], model="outer", response_format={"type": "json_object"}
                )
            assert (caught.value.response.model, caught.value.response.content) == ("outer", "No JSON.")


async def test_what_the_file_says_of_a_model_applies_where_the_request_says_nothing(tmp_path):
    async with StubServer(["m"]) as server:
        text = f"""
        [backends.a]
        kind = "openai"
        url = "{server.url}"
        [defaults]
        sampling = {{ temperature = 0.1, seed = 7 }}
        [models.m]
        sampling = {{ temperature = 0.3, stop = ["END"], max_tokens = 9 }}
        system = "Be brief."
        """
        async with pool_of(tmp_path, text) as service:
            await service.chat_completion([{"role": "user", "content": "hi"}])
            await service.chat_completion(
                [{"role": "system", "content": "Own."}, {"role": "user", "content": "hi"}],
                temperature=1.0, seed=1, stop=["X"], max_tokens=3,
            )  # fmt: skip
    first, second = server.bodies
    assert (first["temperature"], first["seed"], first["stop"], first["max_tokens"]) == (0.3, 7, ["END"], 9)
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (second["temperature"], second["seed"], second["stop"], second["max_tokens"]) == (1.0, 1, ["X"], 3)
    assert [message["content"] for message in second["messages"]] == ["Own.", "hi"]


async def test_fallbacks_take_over_generations_and_never_embeddings(tmp_path):
    gone = closed_port()
    async with StubServer(["m"], reply=lambda body: vectors([1.0]) if "input" in body else "Still here.") as server:
        text = f"""
        [backends.gone]
        kind = "openai"
        url = "http://127.0.0.1:{gone}"
        [backends.here]
        kind = "openai"
        url = "{server.url}"
        [models.first]
        backend = "gone"
        fallbacks = ["second"]
        [models.second]
        backend = "here"
        name = "m"
        """
        async with pool_of(tmp_path, text) as service:
            whole = await service.chat_completion([{"role": "user", "content": "hi"}], model="first")
            streamed = await service.stream("hi", model="first").collect()
            assert (whole.content, whole.model, whole.backend) == ("Still here.", "second", "here")
            assert (streamed.content, streamed.model, streamed.backend) == ("Still here.", "second", "here")
            with pytest.raises(BackendUnavailableError, match="gone"):
                await service.embed("hi", model="first")
            assert (await service.embed("hi", model="second")).model == "second"
            health = await service.health()
            assert health.state == "ready"
            assert "gone" in health.reason


async def test_errors_name_the_keys_of_the_file(tmp_path):
    text = f"""
    [backends.den]
    kind = "vllm"
    url = "http://127.0.0.1:{closed_port()}"
    [models.m]
    """
    async with pool_of(tmp_path, text) as service:
        with pytest.raises(BackendUnavailableError) as caught:
            await service.generate("hi")
    assert "den" in str(caught.value)
    assert "VLLM_API_BASE" not in str(caught.value)
    assert "backends.den.url" in str(caught.value)


async def test_a_backend_that_exposes_serves_all_its_models(tmp_path):
    async with StubServer(["llama", "qwen"], reply="Yes.") as server:
        text = f"""
        [backends.den]
        kind = "openai"
        url = "{server.url}"
        expose = true
        [models.mine]
        backend = "den"
        name = "qwen"
        """
        async with pool_of(tmp_path, text) as service:
            assert [info.id for info in await service.list_models()] == ["mine", "llama", "qwen"]
            response = await service.chat_completion([{"role": "user", "content": "hi"}], model="llama")
            assert (response.model, response.backend) == ("llama", "den")
            with pytest.raises(ModelNotFoundError):
                await service.generate("hi", model="neither")


async def test_requests_beyond_the_concurrency_of_a_backend_wait(tmp_path):
    running, most, release, full = 0, 0, asyncio.Event(), asyncio.Event()

    async def reply(body):
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            full.set()
        await release.wait()
        running -= 1
        return "Done."

    async with StubServer(["m"], reply=reply) as server:
        text = f"""
        [limits]
        max_queue = 2
        [backends.a]
        kind = "openai"
        url = "{server.url}"
        concurrency = 2
        [models.m]
        """
        async with pool_of(tmp_path, text) as service:
            calls = [asyncio.create_task(service.generate("hi")) for _ in range(5)]
            async with asyncio.timeout(30):
                done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = done
            assert "overloaded" in str(refused.exception())
            async with asyncio.timeout(30):
                await full.wait()
            release.set()
            async with asyncio.timeout(30):
                results = await asyncio.gather(*calls, return_exceptions=True)
            assert results.count("Done.") == 4
    assert most == 2


def test_without_a_file_there_is_no_pool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"miner\.toml"):
        get_backend("pool", MinerConfig(_env_file=None))


def test_the_pool_is_chosen_where_there_is_a_file_and_no_backend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert not isinstance(get_backend(None, MinerConfig(_env_file=None)), PoolService)
    (tmp_path / "config" / "miner").mkdir(parents=True)
    text = '[backends.a]\nkind = "openai"\nurl = "http://127.0.0.1:9"\n[models.m]\n'
    user = write(tmp_path / "config" / "miner", text)
    service = get_backend(None, MinerConfig(_env_file=None))
    assert isinstance(service, PoolService)
    assert service.config_path == user
    here = write(tmp_path, text)
    assert get_backend(None, MinerConfig(_env_file=None)).config_path == here
    named = tmp_path / "other.toml"
    named.write_text(text)
    assert get_backend(None, MinerConfig(_env_file=None, config=str(named))).config_path == named
    assert not isinstance(get_backend(None, MinerConfig(_env_file=None, llm_backend="vllm")), PoolService)
    assert not isinstance(get_backend("vllm", MinerConfig(_env_file=None)), PoolService)
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        get_backend(None, MinerConfig(_env_file=None, config=str(tmp_path / "missing.toml")))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_that_cannot_serve_the_request_does_not_answer_for_the_model(tmp_path, stream):
    """While the model is down its own error is the answer, and once it is back, itself, cooldown or not."""
    port = closed_port()
    long = "word " * 4000
    async with StubServer(["n"], max_model_len=16) as small:
        text = f"""
        [backends.a]
        kind = "vllm"
        url = "http://127.0.0.1:{port}"
        [backends.b]
        kind = "vllm"
        url = "{small.url}"
        [models.m]
        backend = "a"
        fallbacks = ["n"]
        [models.n]
        backend = "b"
        """
        async with pool_of(tmp_path, text) as service:

            async def ask():
                if stream:
                    return await service.stream(long, model="m").collect()
                return await service.chat_completion([{"role": "user", "content": long}], model="m")

            for _ in range(2):
                with pytest.raises(BackendUnavailableError, match=r"^a at "):
                    await ask()
            async with StubServer(["m"], max_model_len=99_999) as large:
                write(tmp_path, text.replace(f"http://127.0.0.1:{port}", large.url))
                await service.reload()
                assert (await ask()).model == "m"
            assert small.generations == []


def test_variables_in_errors_become_keys_as_the_file_writes_them():
    text = "Raise LLAMACPP_CTX_SIZE, LLAMACPP_SPEC_DRAFT_N_MAX, VLLM_TIMEOUT, LLAMACPP_CORES or LLAMACPP_FAIRNESS_WAIT."
    assert with_keys(text, "small", "gpu") == (
        "Raise models.small.context, models.small.speculation.n_max, backends.gpu.timeout, limits.cores or "
        "LLAMACPP_FAIRNESS_WAIT."
    )
    assert with_keys("LLAMACPP_CTX_SIZE", "org/Qwen3:q4", "gpu") == 'models."org/Qwen3:q4".context'


@pytest.mark.parametrize("key", [key for key in ENGINE_KEYS if key != "speculation"])
def test_each_key_of_an_engine_has_its_variable(key):
    variable = {"context": "LLAMACPP_CTX_SIZE", "slots": "LLAMACPP_PARALLEL"}.get(key, f"LLAMACPP_{key.upper()}")
    assert with_keys(f"{variable}=1", "m", "b") == f"models.m.{key}=1"
