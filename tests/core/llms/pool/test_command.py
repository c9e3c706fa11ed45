"""Backends of miner.toml whose server we run, through the pool, with a small server as the command."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from miner.config.config import MinerConfig
from miner.config.file.read import parse_config
from miner.core.llms import get_backend
from miner.errors import ConfigError, EngineCrashedError, EngineStartError, MinerError, ModelNotFoundError
from tests.core.engine.children import DEMO, PATIENCE, alive, eventually
from tests.paths import ROOT
from tests.servers.ports import closed_port

pytestmark = pytest.mark.engine

STUB = Path(__file__).parents[2] / "engine" / "stub_command.py"


def command(*options: str) -> str:
    return json.dumps([sys.executable, str(STUB), "--port", "${PORT}", *options])


@pytest.fixture
def serve(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    opened = []

    def make(text, **settings):
        path = tmp_path / "miner.toml"
        path.write_text(text)
        opened.append(get_backend("pool", MinerConfig(config=str(path), **settings)))
        return opened[-1]

    return make


def engine_of(health, name):
    return next((engine for engine in health.engines if engine.model == name), None)


async def first_words(stream, count=3):
    async for chunk in stream:
        count -= bool(chunk.content)
        if not count:
            return


@pytest.mark.parametrize(("name", "served"), [(None, True), ('name = "other"', False)])
async def test_a_command_may_call_its_only_model_as_it_likes(serve, name, served):
    async with serve(f"""
        [backends.gpu]
        kind = "openai"
        command = {command("--name", "inner")}
        [models.outer]
        {name or ""}
        """) as pool:
        if served:
            response = await pool.chat_completion([{"role": "user", "content": "Hi"}], model="outer", max_tokens=2)
            assert (response.content, response.model) == ("inner inner ", "outer")
        else:
            with pytest.raises(ModelNotFoundError, match="The model 'outer' is sent to its server under") as caught:
                await pool.chat_completion([{"role": "user", "content": "Hi"}], model="outer", max_tokens=2)
            assert caught.value.operator_hint == "The server lists: inner. Correct models.outer.name."


@pytest.mark.parametrize("kind", ["openai", "vllm", "llamacpp"])
async def test_every_kind_is_started_by_its_first_request(serve, kind):
    flags = ["--name", "inner"]
    async with serve(f"""
        [backends.gpu]
        kind = "{kind}"
        command = {command(*flags)}
        [models.outer]
        backend = "gpu"
        name = "inner"
        """) as pool:
        assert [model.id for model in await pool.list_models()] == ["outer"]
        health = await pool.health()
        assert health
        assert engine_of(health, "gpu") is None, "nothing was started"
        if kind == "llamacpp":
            with pytest.raises(MinerError):  # the stub has no /props
                await pool.chat_completion([{"role": "user", "content": "Hi"}], model="outer", max_tokens=2)
        else:
            response = await pool.chat_completion([{"role": "user", "content": "Hi"}], model="outer", max_tokens=2)
            assert (response.content, response.model) == ("inner inner ", "outer")
        engine = engine_of(await pool.health(), "gpu")
        assert engine is not None
        assert engine.state == "ready"
        pid = engine.pid
    assert not alive(pid)


async def test_load_unload_and_reset(serve):
    async with serve(f"""
        [backends.gpu]
        kind = "openai"
        command = {command()}
        [models.stub]
        backend = "gpu"
        """) as pool:
        assert not await pool.unload_model("stub")
        assert (await pool.load_model("stub")).id == "stub"
        pid = engine_of(await pool.health(), "gpu").pid
        assert alive(pid)
        assert [(each.info.id, (each.memory or 0) > 10_000_000) for each in await pool.running_models()] == [
            ("stub", True)
        ]
        assert await pool.unload_model("stub")
        assert not alive(pid)
        pool.reset_model("stub")
        await pool.load_model("stub", keep_alive=0)
        async with asyncio.timeout(PATIENCE):
            while engine_of(await pool.health(), "gpu").state != "stopped":  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_killed_command_beside_a_llama_cpp_model(serve):
    """Its streams get the crash, the other's go on, and the next request finds a new one."""
    async with serve(f"""
        [backends.gpu]
        kind = "openai"
        command = {command()}
        [models.stub]
        backend = "gpu"
        [models.small]
        backend = "llamacpp"
        file = "{DEMO}"
        context = 512
        slots = 2
        """) as pool:
        # The stub is quick, and must not be done before the other model is loaded.
        streams = [pool.stream("Count.", model=name, max_tokens=n) for name, n in (("stub", 100_000), ("small", 200))]
        stub, small = map(aiter, streams)
        await first_words(stub)
        await first_words(small)
        engine = engine_of(await pool.health(), "gpu")
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineCrashedError) as caught:
            await first_words(stub, 200_000)
        assert caught.value.backend == "gpu"
        assert "The command of backend 'gpu' (python" in caught.value.message
        assert caught.value.exit_status == -9
        await first_words(small, 50)
        await streams[1].aclose()
        assert "stub" in await pool.generate("Again.", model="stub", max_tokens=2)
        again = engine_of(await pool.health(), "gpu")
        assert (again.restarts, again.state) == (1, "ready")


async def test_a_command_that_cannot_start(serve, tmp_path):
    async with serve(f"""
        [backends.gpu]
        kind = "openai"
        command = ["/no/such/program", "${{PORT}}"]
        [backends.bad]
        kind = "openai"
        command = {command("--way", "fails")}
        [models.a]
        backend = "gpu"
        [models.b]
        backend = "bad"
        """) as pool:
        health = await pool.health()
        assert health.state == "ready"
        assert "/no/such/program does not exist" in health.reason
        with pytest.raises(EngineStartError, match="the program /no/such/program does not exist"):
            await pool.generate("x", model="a")
        with pytest.raises(EngineStartError, match="not enough free GPU memory"):
            await pool.generate("x", model="b")


async def test_nothing_is_evicted_for_a_program_that_is_not_there(serve):
    async with serve(f"""
        [backends.good]
        kind = "openai"
        command = {command()}
        [backends.gone]
        kind = "openai"
        command = ["/no/such/program", "${{PORT}}"]
        [models.a]
        backend = "good"
        name = "stub"
        [models.b]
        backend = "gone"
        """) as pool:
        await pool.generate("x", model="a", max_tokens=2)
        pid = engine_of(await pool.health(), "good").pid
        with pytest.raises(EngineStartError, match="the program /no/such/program does not exist"):
            await pool.generate("x", model="b")
        assert engine_of(await pool.health(), "good").pid == pid
        assert alive(pid)


async def test_what_it_took_is_remembered_and_booked(serve, tmp_path):
    text = f"""
        [limits]
        memory = "600MiB"
        [backends.big]
        kind = "openai"
        command = {command("--memory", str(300 << 20))}
        [backends.other]
        kind = "openai"
        command = {command("--memory", str(310 << 20))}
        [models.a]
        backend = "big"
        name = "stub"
        [models.b]
        backend = "other"
        name = "stub"
        """
    for _ in range(2):
        async with serve(text) as pool:
            for name in ("a", "b", "a"):
                assert await pool.generate("x", model=name, max_tokens=1)
                states = {engine.model: engine.state for engine in (await pool.health()).engines}
                assert list(states.values()).count("ready") == 1, "both together take more than 600 MiB"
    records = json.loads((tmp_path / "state" / "miner" / "commands.json").read_text())
    assert sorted(record["memory"] // (300 << 20) for record in records.values()) == [1, 1]


async def test_two_that_sleep_by_turns(serve):
    """Nothing is started again, and what sleeps is neither woken up by lists nor unready."""
    both = "".join(
        f"""
        [backends.{name}]
        kind = "vllm"
        command = {command("--enable-sleep-mode", "--name", name)}
        sleep = 1
        [models.{name}]
        backend = "{name}"
        """
        for name in ("a", "b")
    )
    async with serve(f'{both}[groups.gpu]\nmodels = ["a", "b"]\nmax_loaded = 1\n') as pool:
        pids = set()
        for name, other in (("a", None), ("b", "a"), ("a", "b"), ("b", "a")):
            assert await pool.generate("x", model=name, max_tokens=1) == f"{name} "
            await pool.list_models()
            health = await pool.health()
            assert health
            assert engine_of(health, name).state == "ready"
            if other is not None:
                assert engine_of(health, other).state == "sleeping"
                assert {each.name: each.state for each in await pool.model_states()} == {
                    name: "ready",
                    other: "sleeping",
                }
            pids |= {engine.pid for engine in health.engines}
        assert len(pids) == 2
    assert not any(map(alive, pids))


async def test_a_changed_command_replaces_the_old_one_when_its_requests_are_done(serve):
    text = """
        [backends.gpu]
        kind = "openai"
        command = COMMAND
        [models.stub]
        backend = "gpu"
        """
    async with serve(text.replace("COMMAND", command("--load", "0"))) as pool:
        opened = pool.stream("Count.", model="stub", max_tokens=200)
        stream = aiter(opened)
        await first_words(stream)
        old = engine_of(await pool.health(), "gpu").pid
        changed = text.replace("COMMAND", command("--load", "0.1"))
        pool.apply(parse_config(changed, pool.config_path))
        assert await pool.generate("x", model="stub", max_tokens=1) == "stub "
        assert alive(old)
        await first_words(stream, 30)
        await opened.aclose()
        await asyncio.to_thread(eventually, lambda: not alive(old), "the old one is gone")


async def test_a_changed_command_waits_for_the_port_of_the_old_one(serve):
    port = closed_port()
    text = f"""
        [backends.gpu]
        kind = "openai"
        command = COMMAND
        port = {port}
        [models.stub]
        backend = "gpu"
        """
    async with serve(text.replace("COMMAND", command("--load", "0"))) as pool:
        old = asyncio.create_task(pool.generate("Count.", model="stub", max_tokens=3))
        await old
        stream = pool.stream("Count.", model="stub", max_tokens=50)
        words = aiter(stream)
        await first_words(words, 2)
        pool.apply(parse_config(text.replace("COMMAND", command("--load", "0.1")), pool.config_path))
        new = asyncio.create_task(pool.generate("x", model="stub", max_tokens=1))
        await first_words(words, 1000)
        assert await asyncio.wait_for(new, PATIENCE) == "stub "


LLAMA = """
import signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), 1024, 2
params.model_alias = {"inner"}
server = xllamacpp.Server(params)
signal.pause()
"""


async def test_a_llama_cpp_server_as_a_command(serve):
    async with serve(f"""
        [backends.own]
        kind = "llamacpp"
        command = {json.dumps([sys.executable, "-c", LLAMA, str(DEMO), "${PORT}"])}
        [models.outer]
        backend = "own"
        name = "inner"
        """) as pool:
        for name in ("outer", None):
            response = await pool.chat_completion(
                [{"role": "user", "content": "What is the capital of France?"}],
                model=name,
                max_tokens=12,
                temperature=0,
            )
            assert response.content
            assert response.model == "outer"
        assert (await pool.resolve_model("outer")).context_length == 512
        (state,) = await pool.model_states()
        assert (state.slots, engine_of(await pool.health(), "own").slots) == (2, 2)
        assert await pool.unload_model("outer")


async def test_an_ollama_as_a_command(serve):
    """A front of the tests that speaks Ollama's API over the demo model."""
    words = [
        sys.executable,
        "-m",
        "tests.servers.ollama_front",
        "--port",
        "${PORT}",
        "--num-ctx",
        "512",
        "--parallel",
        "1",
    ]
    async with serve(f"""
        [backends.den]
        kind = "ollama"
        command = {json.dumps(words)}
        directory = "{ROOT}"
        [models.outer]
        backend = "den"
        name = "smollm2"
        """) as pool:
        response = await pool.chat_completion(
            [{"role": "user", "content": "What is the capital of France?"}], max_tokens=12, temperature=0
        )
        assert "Paris" in (response.content or "")
        assert response.model == "outer"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('command = ["vllm", "serve"]', r"backends\.gpu\.command.*has no \$\{PORT\}"),
        ('command = ["vllm", "${PORT}"]\nurl = "http://x:1"', r"backends\.gpu\.(url|command)"),
        (
            'command = ["vllm", "${PORT}"]\nsleep = 1',
            r"backends\.gpu\.sleep = 1: the command has no --enable-sleep-mode",
        ),
    ],
)
def test_a_table_that_cannot_work(serve, line, says):
    with pytest.raises(ConfigError, match=says):
        serve(f'[backends.gpu]\nkind = "vllm"\n{line}\n[models.m]\nbackend = "gpu"\n')
