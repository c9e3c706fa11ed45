"""Backends of other packages behind a table: their settings, their errors, their queue and the time of the caller."""

from __future__ import annotations

import asyncio

import pytest

from miner.core.llms import get_backend
from miner.errors import BackendTimeoutError, BackendUnavailableError, CallTimeoutError, ConfigError
from tests.core.llms.conftest import Install
from tests.core.llms.pool.files import pool_of, until, write
from tests.core.services import settings

SETTINGS = """
    from miner.core.llms import LLMService

    class Service(LLMService):
        async def generate(self, prompt, model, max_tokens, temperature, top_p):
            config = self.config
            return repr((config.url, config.key, config.timeout, getattr(config, "tone", None)))
"""
SLOW = """
    import asyncio
    from miner.core.llms import LLMService
    from miner.errors import BackendUnavailableError

    class Service(LLMService):
        running, most, calls = 0, 0, []

        async def generate(self, prompt, model, max_tokens, temperature, top_p):
            cls = type(self)
            cls.calls.append(prompt)
            cls.running += 1
            cls.most = max(cls.most, cls.running)
            try:
                await asyncio.sleep(60 if prompt == "slow" else 0)
            finally:
                cls.running -= 1
            if prompt == "down":
                raise BackendUnavailableError("It is down.", backend=self.name)
            return prompt
"""
ONE_AT_A_TIME = """
    [backends.a]
    kind = "slow"
    concurrency = 1
    [models.m]
    backend = "a"
"""


async def test_the_keys_of_a_backend_and_of_its_models_are_attributes_of_its_config(install: Install, tmp_path):
    install("plugin", SETTINGS)
    (tmp_path / "key").write_text("from-a-file\n")
    text = """
    [backends.a]
    kind = "plugin"
    url = "http://h:1"
    key_file = "key"
    timeout = 5
    options = { tone = "dry" }
    [backends.b]
    kind = "plugin"
    plain_key = "in-the-open"
    [models.one]
    backend = "a"
    [models.patient]
    backend = "a"
    timeout = 60
    [models.two]
    backend = "b"
    """
    async with pool_of(tmp_path, text) as service:
        assert await service.generate("x", model="one") == repr(("http://h:1", "from-a-file", 5.0, "dry"))
        assert await service.generate("x", model="patient") == repr(("http://h:1", "from-a-file", 60.0, "dry"))
        assert await service.generate("x", model="two") == repr((None, "in-the-open", None, None))


RAISES = """
    from miner.core.llms import LLMService

    class Service(LLMService):
        def __init__(self, config):
            {raises}
        async def generate(self, prompt, model, max_tokens, temperature, top_p): ...
"""


@pytest.mark.parametrize(
    ("raises", "said"), [("raise RuntimeError('no licence')", "no licence"), ("raise SystemExit(3)", "SystemExit")]
)
async def test_one_that_cannot_be_created_is_an_error_of_the_file(install: Install, tmp_path, raises, said):
    install("plugin", RAISES.format(raises=raises))
    install("fine")
    text = """
    [backends.a]
    kind = "{}"
    [models.m]
    backend = "a"
    """
    path = write(tmp_path, text.format("plugin"))
    with pytest.raises(ConfigError, match=rf"miner\.toml: backends\.a\.kind = 'plugin': .* be created: .*{said}"):
        get_backend("pool", settings(config=str(path)))
    async with pool_of(tmp_path, text.format("fine")) as service:
        write(tmp_path, text.format("plugin"))
        with pytest.raises(ConfigError, match=said):
            await service.reload()
        assert said in service.config_state.error
        assert await service.generate("still here", model="m") == "STILL HERE"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_time_of_a_call_runs_while_it_waits(install: Install, tmp_path, stream):
    install("slow", SLOW)
    async with pool_of(tmp_path, ONE_AT_A_TIME) as service:
        first = asyncio.create_task(service.generate("slow", model="m"))
        calls = service.served("m").holder.service.calls
        await until(lambda: calls)

        async def call(**timeout):
            if stream:
                return await service.stream("hi", model="m", **timeout).collect()
            return await service.generate("hi", model="m", **timeout)

        async with asyncio.timeout(60):
            with pytest.raises(CallTimeoutError, match=r"^a exceeded timeout\.total \(0\.05 s\)"):
                await call(timeout=0.05)
            with pytest.raises(BackendTimeoutError, match=r"^a exceeded timeout\.first \(0\.05 s\)"):
                await call(timeout={"first": 0.05})
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert calls == ["slow"]
        await call(timeout=60)  # its slot is free


@pytest.mark.parametrize("stream", [False, True])
async def test_the_time_of_a_call_is_that_of_all_models_that_are_tried(install: Install, tmp_path, stream):
    install("slow", SLOW)
    install("other", SLOW)
    text = """
    [backends.a]
    kind = "slow"
    [backends.b]
    kind = "other"
    [models.m]
    backend = "a"
    fallbacks = ["n"]
    [models.n]
    backend = "b"
    """

    async def call(prompt, **options):
        if stream:
            return (await service.stream(prompt, model="m", **options).collect()).content
        return await service.generate(prompt, model="m", **options)

    async with pool_of(tmp_path, text) as service:
        other = service.served("n").holder.service
        with pytest.raises(CallTimeoutError, match=r"^a exceeded"):
            await call("slow", timeout=0.05)
        assert other.calls == []  # nobody waits for its answer any more
        assert await call("hi") == "hi"
        assert other.calls == []  # a caller without patience is no sign that it is down
        with pytest.raises(BackendUnavailableError):
            await call("down")
        assert other.calls == ["down"]


async def test_a_call_that_is_cancelled_frees_its_place(install: Install, tmp_path):
    install("slow", SLOW)
    async with pool_of(tmp_path, ONE_AT_A_TIME) as service:
        backend = service.served("m").holder.service
        for call in (lambda: service.generate("slow", model="m"), lambda: service.stream("slow", model="m").collect()):
            task = asyncio.create_task(call())
            await until(lambda: backend.running == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert backend.running == 0
        assert await asyncio.gather(*(service.generate(f"{n}", model="m") for n in range(9))) == list("012345678")
        assert backend.most == 1
